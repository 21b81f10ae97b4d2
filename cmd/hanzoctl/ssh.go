package main

import (
	"context"

	"github.com/hanzoai/hanzod/client"
)

func sshAddress(s string) (string, error) { return s, nil }

func (a *app) overSSH(ctx context.Context, t *target) (client.Way, error) {
	return nil, usagef("not yet")
}

func tailnetAddress(s string) (string, error) { return "tailnet://" + s, nil }

func (a *app) overTailnet(ctx context.Context, t *target) (client.Way, error) {
	return nil, usagef("not yet")
}
