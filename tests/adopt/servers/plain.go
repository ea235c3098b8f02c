// net/http as it comes: no signal is handled, and TERM cuts what is in flight.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	body := fmt.Sprintf("generation %s supervisor %s\n", os.Getenv("GRACEFUL_RUN_GENERATION"), os.Getenv("GRACEFUL_RUN_PID"))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(30 * time.Millisecond)
		fmt.Fprint(w, body)
	})
	// HOST:PORT, or the path of a unix socket.
	network := "tcp"
	if strings.Contains(os.Args[1], "/") {
		network = "unix"
	}
	listener, err := net.Listen(network, os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, nil))
}
