// Three servers of facebookgo/grace on the sockets in LISTEN_FDS. It sends TERM to
// the process that started it once it has taken them, and shuts down on TERM.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/facebookgo/grace/gracehttp"
)

func handler() http.Handler {
	body := fmt.Sprintf("generation %s supervisor %s\n",
		os.Getenv("GRACEFUL_RUN_GENERATION"), os.Getenv("GRACEFUL_RUN_PID"))
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	mux.HandleFunc("/sleep/", func(w http.ResponseWriter, r *http.Request) {
		duration, err := time.ParseDuration(r.FormValue("duration"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(duration)
		fmt.Fprint(w, body)
	})
	return mux
}

func main() {
	var servers []*http.Server
	for _, address := range os.Args[1:] {
		servers = append(servers, &http.Server{Addr: address, Handler: handler()})
	}
	if err := gracehttp.Serve(servers...); err != nil {
		log.Fatal(err)
	}
}
