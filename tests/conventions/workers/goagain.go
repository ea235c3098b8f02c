package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"syscall"
)

// One listener, GOAGAIN_FD. Once it serves it sends GOAGAIN_SIGNAL, or QUIT, to
// GOAGAIN_PID where that is set, else to GOAGAIN_PPID; older versions insist
// that this is their parent.
func goagain([]string) {
	var fd, parent, number int
	if _, err := fmt.Sscan(os.Getenv("GOAGAIN_FD"), &fd); err != nil {
		log.Fatalf("GOAGAIN_FD: %v", err)
	}
	listener, err := inherited(fd)
	if err != nil {
		log.Fatal(err)
	}
	stop := signals(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR2)
	say("is called %s", os.Getenv("GOAGAIN_NAME"))
	server := serve(listener)
	if _, set := os.LookupEnv("GOAGAIN_PID"); set {
		log.Fatal("GOAGAIN_PID is the child of a parent")
	}
	if _, err := fmt.Sscan(os.Getenv("GOAGAIN_PPID"), &parent); err != nil || parent != os.Getppid() {
		log.Fatalf("GOAGAIN_PPID is %d but parent is %d", parent, os.Getppid())
	}
	if _, err := fmt.Sscan(os.Getenv("GOAGAIN_SIGNAL"), &number); err != nil {
		number = int(syscall.SIGQUIT)
	}
	ack(func() {
		if err := syscall.Kill(parent, syscall.Signal(number)); err != nil {
			log.Fatal(err)
		}
	})
	<-stop
	server.Shutdown(context.Background())
}
