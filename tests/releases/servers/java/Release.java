import java.io.UncheckedIOException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.CountDownLatch;

/**
 * What this release does, good or bad: the second word of the file RELEASE.
 *
 * The link to it may lead elsewhere by the time of a restart, so the directory is looked up
 * once. A bad release that serves writes each request that it begins to handle to the
 * ledger, and its own end: what its clients lose then is its own doing.
 */
class Release {
    final String name;
    private final String kind;
    private final Path ledger;

    /** Boots: what classes and caches take in an application that has grown. */
    Release() {
        try {
            Path classes = Path.of(Release.class.getProtectionDomain().getCodeSource().getLocation().toURI());
            Path directory = classes.toRealPath();
            ledger = directory.resolveSibling("ledger");
            String[] words = Files.readString(directory.resolve("RELEASE")).trim().split(" ");
            name = words[0];
            kind = words[1];
            pause(1500);
            if (kind.equals("hangs")) {
                new CountDownLatch(1).await();
            }
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
        if (kind.equals("exits")) {
            throw new IllegalStateException("the settings of this release are wrong");
        }
        if (kind.equals("dies")) {
            new Thread(() -> {
                pause(3000);
                die();
            }).start();
        }
        // At TERM: what it holds is written away, and it accepts meanwhile.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> pause(1500)));
    }

    static void pause(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Before anything else is done about a request. */
    void begin(String number) {
        if (kind.equals("dies") || kind.equals("crashes")) {
            write("begins " + number);
        }
        if (kind.equals("crashes")) {
            die();
        }
    }

    private void die() {
        write("dies " + ProcessHandle.current().pid() + " " + System.currentTimeMillis());
        Runtime.getRuntime().halt(1);
    }

    /** In one write, as others write there as well. */
    private void write(String what) {
        byte[] line = (name + " " + what + "\n").getBytes();
        try {
            Files.write(ledger, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
