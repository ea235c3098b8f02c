package main

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"log"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// How often an overseer program looks whether its parent lives; the library
// takes two seconds.
const glance = 50 * time.Millisecond

// A program under overseer. TERM is not handled and cuts what is under way; its
// restart signal, USR2, makes it close its listeners, send USR1 to its parent
// and drain. Without its parent it exits with status 1.
func overseer([]string) {
	if os.Getenv("OVERSEER_IS_SLAVE") != "1" {
		log.Print("overseer is disabled")
		panic("no listener")
	}
	parent, err := os.FindProcess(os.Getppid())
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			if parent.Signal(syscall.Signal(0)) != nil {
				say("parent cannot be seen")
				os.Exit(1)
			}
			time.Sleep(glance)
		}
	}()
	count, err := strconv.Atoi(os.Getenv("OVERSEER_NUM_FDS"))
	if err != nil {
		log.Fatal("invalid OVERSEER_NUM_FDS integer")
	}
	restart := signals(syscall.SIGUSR2)
	signals(syscall.SIGUSR1)
	var servers []*http.Server
	for i := 0; i < count; i++ {
		listener, err := inherited(3 + i)
		if err != nil {
			log.Fatalf("failed to inherit file descriptor: %d", i)
		}
		servers = append(servers, serve(listener))
	}
	say("is number %s of binary %v", os.Getenv("OVERSEER_SLAVE_ID"), sameBinary())
	<-restart
	drained := make(chan struct{}, len(servers))
	for _, server := range servers {
		go func(server *http.Server) {
			server.Shutdown(context.Background())
			drained <- struct{}{}
		}(server)
	}
	parent.Signal(syscall.SIGUSR1)
	for range servers {
		<-drained
	}
}

// Whether OVERSEER_BIN_ID is the hash of the file at OVERSEER_BIN_PATH, and that
// file is what runs.
func sameBinary() bool {
	path := os.Getenv("OVERSEER_BIN_PATH")
	bytes, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	hash := sha1.Sum(bytes)
	ours, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	theirs, err := os.Stat(path)
	return err == nil && os.SameFile(ours, theirs) && os.Getenv("OVERSEER_BIN_ID") == hex.EncodeToString(hash[:])
}
