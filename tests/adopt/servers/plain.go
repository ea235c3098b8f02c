// net/http as it comes: no signal is handled, and TERM cuts what is in flight.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	body := fmt.Sprintf("generation %s supervisor %s\n", os.Getenv("GRACEFUL_RUN_GENERATION"), os.Getenv("GRACEFUL_RUN_PID"))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(30 * time.Millisecond)
		fmt.Fprint(w, body)
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
