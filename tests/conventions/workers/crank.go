package main

import (
	"context"
	"log"
	"net"
	"os"
	"strconv"
	"syscall"
)

// One socket, descriptor 3, where LISTEN_FDS is 1, whatever LISTEN_PID says; a
// datagram READY=1 to the socket NOTIFY_FD, with the newline that echo adds.
func crank([]string) {
	if os.Getenv("LISTEN_FDS") != "1" {
		log.Fatalf("LISTEN_FDS is %q", os.Getenv("LISTEN_FDS"))
	}
	listener, err := inherited(3)
	if err != nil {
		log.Fatal(err)
	}
	stop := signals(syscall.SIGTERM)
	server := serve(listener)
	say("is called %q", os.Getenv("CRANK_NAME"))
	fd, err := strconv.Atoi(os.Getenv("NOTIFY_FD"))
	if err != nil {
		log.Fatalf("NOTIFY_FD: %v", err)
	}
	// Not a pipe: net wants to know a socket's addresses.
	notify, err := net.FileConn(os.NewFile(uintptr(fd), "notify"))
	if err != nil {
		log.Fatal(err)
	}
	ack(func() {
		if _, err := notify.Write([]byte("READY=1\n")); err != nil {
			log.Fatal(err)
		}
	})
	<-stop
	server.Shutdown(context.Background())
}
