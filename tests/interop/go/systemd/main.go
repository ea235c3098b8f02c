// Go's net/http on a socket that systemd's protocol handed over: READY=1 once it
// serves, Shutdown on TERM.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/activation"
	"github.com/coreos/go-systemd/daemon"
)

func main() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	listeners, err := activation.Listeners()
	if err != nil || len(listeners) != 1 {
		log.Fatalf("want one listener, got %d: %v", len(listeners), err)
	}
	body := fmt.Sprintf("generation %s supervisor %s\n",
		os.Getenv("GRACEFUL_RUN_GENERATION"), os.Getenv("GRACEFUL_RUN_PID"))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, body)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listeners[0]) }()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Fatal(err)
	}
	select {
	case err := <-ended:
		log.Fatal(err)
	case <-terminated:
	}
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}
