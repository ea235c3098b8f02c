package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// Several servers in one process. Each of them tells its parent TERM, before
// BeforeBegin and before it accepts, and ignores stop signals until it runs.
//
// ENDLESS_SOCKET_ORDER is compared with the program's own spelling of its
// addresses; one that is not in it silently gets the first socket. Any error
// ends the program with status 0, as those who call ListenAndServe ignore it.
func endless(addresses []string) {
	log.SetFlags(0)
	child := os.Getenv("ENDLESS_CONTINUE") != ""
	offsets := map[string]int{}
	if order := os.Getenv("ENDLESS_SOCKET_ORDER"); order != "" {
		for i, address := range strings.Split(order, ",") {
			offsets[address] = i
		}
	} else {
		for i, address := range addresses {
			offsets[address] = i
		}
	}
	say("continues=%v order=%q", child, os.Getenv("ENDLESS_SOCKET_ORDER"))
	var servers sync.WaitGroup
	for i, address := range addresses {
		servers.Add(1)
		last := i == len(addresses)-1
		go func(address string) {
			defer servers.Done()
			endlessServer(child, last, address, offsets[address])
		}(address)
	}
	servers.Wait()
}

func endlessListener(child bool, address string, offset int) (net.Listener, error) {
	if child {
		return inherited(3 + offset)
	}
	return net.Listen("tcp", address)
}

func endlessServer(child, last bool, address string, offset int) {
	// Unbuffered, so that of several signals at once only one arrives.
	heard := make(chan os.Signal)
	signal.Notify(heard, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2, syscall.SIGHUP)
	if last && *gate != "" {
		say("waits at the gate")
		pass(*gate)
	}
	// From now on it is seen to wait for connections: each server opens its own, when it starts.
	listener, err := endlessListener(child, address, offset)
	if err != nil {
		log.Print(err)
		os.Exit(0)
	}
	if child {
		// Whom the parent is, is asked now; whether it can be told, never.
		ack(func() { syscall.Kill(os.Getppid(), syscall.SIGTERM) })
	}
	server := &http.Server{Handler: handler(address)}
	served := make(chan struct{})
	go func() {
		server.Serve(listener)
		close(served)
	}()
	say("serves %s", address)
	for sig := range heard {
		say("got %s", names[sig])
		if sig == syscall.SIGTERM || sig == syscall.SIGINT {
			break
		}
	}
	patience, cancel := context.WithTimeout(context.Background(), *hammer)
	defer cancel()
	go func() {
		for sig := range heard {
			if say("got %s", names[sig]); sig == syscall.SIGUSR2 {
				cancel()
			}
		}
	}()
	if server.Shutdown(patience) != nil {
		say("hammers")
	}
	<-served
}
