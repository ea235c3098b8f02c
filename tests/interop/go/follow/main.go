// A server on facebookgo/grace, which starts its own successor at USR2. It says
// which process answers.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/facebookgo/grace/gracehttp"
)

func main() {
	body := fmt.Sprintf("pid %d\n", os.Getpid())
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, body)
	})
	if err := gracehttp.Serve(&http.Server{Addr: os.Args[1], Handler: handler}); err != nil {
		log.Fatal(err)
	}
}
