package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"syscall"

	"github.com/cloudflare/tableflip"
	"github.com/facebookgo/grace/gracehttp"
)

// grace itself. Like its users, the error of Serve is ignored: a port that is
// taken is an exit with status 0.
func grace(addresses []string) {
	var servers []*http.Server
	for _, address := range addresses {
		servers = append(servers, &http.Server{Addr: address, Handler: handler(address)})
	}
	if misbehaviour() == "dies" {
		// Its TERM is the last that it does before it waits.
		syscall.Kill(os.Getppid(), syscall.SIGTERM)
		os.Exit(3)
	}
	say("serves with grace")
	gracehttp.Serve(servers...)
	say("grace is done")
}

// tableflip itself, on network and address pairs. An address whose key its
// parent did not send is bound anew, which fails where the parent holds it.
func flip(pairs []string) {
	upgrader, err := tableflip.New(tableflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	stop := signals(syscall.SIGTERM)
	var servers []*http.Server
	for i := 0; i+1 < len(pairs); i += 2 {
		listener, err := upgrader.Fds.Listen(pairs[i], pairs[i+1])
		if err != nil {
			log.Fatal(err)
		}
		servers = append(servers, serve(listener))
	}
	say("has a parent: %v", upgrader.HasParent())
	go func() {
		if err := upgrader.WaitForParent(context.Background()); err != nil {
			log.Fatal(err)
		}
		say("is alone")
	}()
	ack(func() {
		// Of a second time the library says that the pipe is closed.
		if err := upgrader.Ready(); err != nil {
			say("cannot ack: %v", err)
		}
	})
	go func() {
		<-stop
		upgrader.Stop()
	}()
	<-upgrader.Exit()
	for _, server := range servers {
		server.Shutdown(context.Background())
	}
}
