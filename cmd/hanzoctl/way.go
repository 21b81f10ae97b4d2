package main

import (
	"context"
	"net"
	"path/filepath"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/tailnet"
)

// hostWay is a way to a daemon on another machine, over SSH or the tailnet.
type hostWay interface {
	client.Way
	// DialPort connects to a TCP port there: over SSH on the loopback address, over the tailnet on that of
	// the machine.
	DialPort(ctx context.Context, port int) (net.Conn, error)
	// Route says for people how it is reached.
	Route() string
}

// way reaches a daemon over SSH or the tailnet as far as the machine.
func (a *app) way(ctx context.Context, t *target) (hostWay, error) {
	if t.Kind == kindSSH {
		return a.overSSH(ctx, t)
	}
	return a.overTailnet(ctx, t)
}

func tailnetAddress(s string) (string, error) {
	host, port, err := tailnet.ParseAddress(s)
	if err != nil {
		return "", usage(err)
	}
	if port == tailnet.DefaultPort {
		return kindTailnet + "://" + bracketed(host), nil
	}
	return kindTailnet + "://" + hostPort(host, int(port)), nil
}

// overTailnet reaches a daemon through the Tailscale service of this machine, or in builds with the tag as a
// machine of its own.
func (a *app) overTailnet(ctx context.Context, t *target) (hostWay, error) {
	o := tailnet.Options{Address: t.Address, Progress: a.steps.step}
	if dir, err := a.settingsDir(); err == nil {
		o.Own = tailnet.MachineOptions{StateDir: filepath.Join(dir, "tailnet"), Login: a.login}
	}
	h, err := tailnet.Connect(ctx, o)
	if err != nil {
		return nil, err // not h: an interface of a nil pointer is none
	}
	return h, nil
}
