package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The server that takes LISTENER: its address has to be the very string that the
// program uses. INT and QUIT drain for five seconds; TERM kills it.
func listenerJSON(addresses []string) {
	var given struct {
		Addr     string `json:"addr"`
		FD       int    `json:"fd"`
		Filename string `json:"filename"`
	}
	text := os.Getenv("LISTENER")
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		log.Fatalf("LISTENER=%s: %v", text, err)
	}
	if given.Addr != addresses[0] {
		log.Fatalf("unable to find listener for %s in %s", addresses[0], text)
	}
	listener, err := inherited(given.FD)
	if err != nil {
		log.Fatal(err)
	}
	stop := signals(syscall.SIGINT, syscall.SIGQUIT)
	server := serve(listener)
	<-stop
	within, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server.Shutdown(within)
}

// The servers that take a flag, -graceful or -upgrade, and then descriptor 3. A
// second TERM kills them at once.
func flagged(arguments []string) {
	if len(arguments) != 1 || (arguments[0] != "-graceful" && arguments[0] != "-upgrade") {
		log.Fatal("want -graceful or -upgrade")
	}
	listener, err := inherited(3)
	if err != nil {
		log.Fatal(err)
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM, syscall.SIGINT)
	server := serve(listener)
	say("got %s", names[<-terminated])
	signal.Stop(terminated)
	server.Shutdown(context.Background())
}

// The server that knows nothing of sockets from outside: when it cannot bind it
// lives on, deaf, until an INT.
func shutdown(addresses []string) {
	server := &http.Server{Addr: addresses[0], Handler: handler(addresses[0])}
	go func() {
		if _, taken := server.ListenAndServe().(*net.OpError); taken {
			say("is deaf")
		}
	}()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT)
	say("got %s", names[<-interrupted])
	within, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	server.Shutdown(within)
}
