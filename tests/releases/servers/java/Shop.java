import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** The JDK's HttpServer, which answers with its release and the number of the request. */
public class Shop {
    /** Takes seconds to load, before anything listens. */
    private static final Release RELEASE = new Release();

    public static void main(String[] arguments) throws Exception {
        String[] address = arguments[0].split(":");
        HttpServer server = HttpServer.create(new InetSocketAddress(address[0], Integer.parseInt(address[1])), 0);
        server.createContext("/", exchange -> {
            String number = exchange.getRequestURI().getPath().substring(1);
            RELEASE.begin(number);
            // What the answer takes.
            Release.pause(30);
            byte[] body = ("release " + RELEASE.name + " request " + number + "\n").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
