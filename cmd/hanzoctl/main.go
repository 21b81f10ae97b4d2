// Command hanzoctl is the command line of hanzod: it asks a running daemon, over its local socket or
// over TLS, and prints the answer.
//
// It imports client and gen and links nothing of the daemon. One file holds one noun. It owns two
// goroutines while approve is interactive, which read keys and the daemon's changes.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc/grpclog"
)

func main() { os.Exit(Main()) }

// Main runs the command of this process and returns its exit code.
func Main() int {
	// What gRPC has to say comes back as the error of a call.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	return a.run(ctx, os.Args[1:])
}
