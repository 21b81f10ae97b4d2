// Command desktop is an example of a desktop app: a terminal program that shows the daemon of this
// machine, answers approvals, and is a node that shows notifications.
//
//	go run ./examples/desktop
//
// It is an operator and a node at once, on two connections. What it does with the daemon is in daemon.go,
// what it shows in model.go and approval.go; the rest of a real app is its own affair.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	tea "charm.land/bubbletea/v2"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/show"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "desktop: "+show.Text(err.Error()))
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	host, _ := os.Hostname() // without one, the name says less
	socket := flag.String("socket", "", "socket of the daemon (default: found as hanzoctl finds it)")
	name := flag.String("name", host+" desktop", "what the node of this app is called; two apps of one user need two names")
	flag.Parse()

	// The socket needs no token: the daemon sees that its own user asks. When nothing answers, the
	// installed service is started.
	operator, err := client.EnsureRunning(ctx, client.EnsureOptions{
		Options: client.Options{Socket: *socket, ClientName: "desktop-example"},
		OnStart: func(string) { fmt.Fprintln(os.Stderr, "starting hanzod …") },
	})
	if err != nil {
		return err
	}
	defer operator.Close()
	node, err := client.Dial(ctx, client.Options{Socket: operator.Socket(), ClientName: "desktop-example", AsNode: true})
	if err != nil {
		return err
	}
	defer node.Close()

	d := &daemon{operator: operator, node: node, name: *name}
	// Signals are ours alone: one way to end, which leaves the terminal as it was.
	program := tea.NewProgram(newModel(d, operator.Target(), *name), tea.WithoutSignalHandler())
	defer context.AfterFunc(ctx, program.Quit)()
	following, cancel := context.WithCancel(ctx)
	defer d.wait() // after cancel: deferred calls run in the opposite order
	defer cancel()
	d.follow(following, func(msg any) { program.Send(msg) })
	_, err = program.Run()
	return err
}
