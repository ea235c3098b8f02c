import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** The JDK's HttpServer as it comes: TERM cuts what is in flight. */
public class Plain {
    public static void main(String[] arguments) throws Exception {
        byte[] body = String.format("generation %s supervisor %s%n",
            System.getenv("GRACEFUL_RUN_GENERATION"), System.getenv("GRACEFUL_RUN_PID")).getBytes();
        String[] address = arguments[0].split(":");
        HttpServer server = HttpServer.create(new InetSocketAddress(address[0], Integer.parseInt(address[1])), 0);
        server.createContext("/", exchange -> {
            try {
                Thread.sleep(30);
            } catch (InterruptedException e) {
                return;
            }
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
