// Workers of tests/conventions: each speaks one Go library's convention to the
// process that started it, and misbehaves as that library does.
//
// conventions [-wrong GENERATION:KIND]... [-gate FIFO] [-hammer DURATION] WORKER [ARGUMENT]...
//
// grace and tableflip are the libraries themselves; the others are written from
// what their libraries read, send and do about signals. A worker answers every
// request with its generation and its supervisor's pid, and tells what happens
// to it in lines to the fifo `log` of its directory. KIND is `exit` (status 0
// before the ack, as after a failed bind), `mute` (no ack, no service), `dies`
// (right after the ack) or `twice` (acks again).
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

var (
	wrong  wrongs
	gate   = flag.String("gate", "", "a fifo: the last ack waits for a byte from it")
	hammer = flag.Duration("hammer", time.Minute, "what endless waits for before it cuts requests")
)

// The generations that misbehave, and how.
type wrongs map[string]string

func (w *wrongs) String() string { return "" }

func (w *wrongs) Set(value string) error {
	generation, kind, found := strings.Cut(value, ":")
	if !found {
		return fmt.Errorf("want GENERATION:KIND")
	}
	if *w == nil {
		*w = wrongs{}
	}
	(*w)[generation] = kind
	return nil
}

func main() {
	workers := map[string]func([]string){
		"crank":     crank,
		"endless":   endless,
		"flag":      flagged,
		"goagain":   goagain,
		"grace":     grace,
		"listener":  listenerJSON,
		"overseer":  overseer,
		"shutdown":  shutdown,
		"tableflip": flip,
	}
	flag.Var(&wrong, "wrong", "GENERATION:KIND")
	flag.Parse()
	worker, known := workers[flag.Arg(0)]
	if !known {
		log.Fatalf("unknown worker %q", flag.Arg(0))
	}
	// An orphan of a failed test ends by itself.
	time.AfterFunc(10*time.Minute, func() { os.Exit(99) })
	switch misbehaviour() {
	case "exit":
		os.Exit(0)
	case "mute":
		say("mute")
		stop := signals(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR2)
		<-stop
		os.Exit(0)
	}
	worker(flag.Args()[1:])
}

func misbehaviour() string { return wrong[os.Getenv("GRACEFUL_RUN_GENERATION")] }

// Acks as `send` does, and does it wrong where that was asked for.
func ack(send func()) {
	say("acks")
	send()
	switch misbehaviour() {
	case "twice":
		send()
	case "dies":
		os.Exit(3)
	}
}

// A line of less than PIPE_BUF to the fifo that the test reads.
func say(format string, values ...any) {
	text := fmt.Sprintf(format, values...)
	line := fmt.Sprintf("g%s %s pid=%d\n", os.Getenv("GRACEFUL_RUN_GENERATION"), text, os.Getpid())
	if file, err := os.OpenFile("log", os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
		io.WriteString(file, line)
		file.Close()
	}
}

// Waits until the test lets it through.
func pass(gate string) {
	file, err := os.Open(gate)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Read(make([]byte, 1)); err != nil {
		log.Fatal(err)
	}
}

// These signals, each told as it comes.
func signals(which ...os.Signal) <-chan os.Signal {
	raw := make(chan os.Signal, 8)
	told := make(chan os.Signal, 8)
	signal.Notify(raw, which...)
	go func() {
		for sig := range raw {
			say("got %s", names[sig])
			told <- sig
		}
	}()
	return told
}

var names = map[os.Signal]string{
	syscall.SIGHUP:  "HUP",
	syscall.SIGINT:  "INT",
	syscall.SIGQUIT: "QUIT",
	syscall.SIGTERM: "TERM",
	syscall.SIGUSR1: "USR1",
	syscall.SIGUSR2: "USR2",
}

// The listener that was inherited as `fd`.
func inherited(fd int) (net.Listener, error) {
	file := os.NewFile(uintptr(fd), "listener")
	if file == nil {
		return nil, fmt.Errorf("no descriptor %d", fd)
	}
	defer file.Close()
	return net.FileListener(file)
}

// `which` tells the listeners of a worker apart; /hold is never answered.
func handler(which string) http.Handler {
	answers := http.NewServeMux()
	answers.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "generation %s supervisor %s\n", os.Getenv("GRACEFUL_RUN_GENERATION"),
			os.Getenv("GRACEFUL_RUN_PID"))
	})
	answers.HandleFunc("/which", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, which) })
	answers.HandleFunc("/hold", func(http.ResponseWriter, *http.Request) {
		say("holds")
		select {}
	})
	return answers
}

// A server that says when it stops for another reason than Shutdown.
func serve(listener net.Listener) *http.Server {
	server := &http.Server{Handler: handler(listener.Addr().String())}
	if misbehaviour() == "dies" {
		// What it had accepted would die with it, which is nobody's fault but its own.
		return server
	}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	say("serves %s", listener.Addr())
	return server
}
