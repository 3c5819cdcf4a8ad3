// Command worker makes Databricks base connections at Adobe Experience Platform's Flow Service on
// request: one request makes at most one connection and exactly one final outcome.
//
// This package holds the commands. Signals, the environment, the standard streams and exit codes are
// touched in this file and nowhere else.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/flow-worker/flow-worker/cmd/worker/internal/environ"
)

func main() {
	log.SetOutput(io.Discard) // net/http prints there what a server sends unasked, which may echo a secret
	ctx, stop := stopOnSignal()
	defer stop()
	os.Exit(run(ctx, os.Args[1:], environ.All, os.Stdin, os.Stdout, os.Stderr))
}

// stopOnSignal returns a context that the first SIGINT or SIGTERM ends. The second one ends the
// process at once, with the exit code that shells expect.
func stopOnSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		if <-signals == syscall.SIGTERM {
			os.Exit(128 + int(syscall.SIGTERM))
		}
		os.Exit(128 + int(syscall.SIGINT))
	}()
	return ctx, cancel
}
