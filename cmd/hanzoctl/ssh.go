package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/hanzoai/hanzod/client/ssh"
)

func sshAddress(s string) (string, error) {
	address, err := ssh.ParseAddress(s)
	return address.String(), err
}

// overSSH reaches a daemon as "ssh host" would reach its machine.
func (a *app) overSSH(ctx context.Context, t *target) (hostWay, error) {
	o := ssh.Options{Address: t.Address, Socket: t.socketThere, StateDir: t.stateDirThere, Getenv: a.getenv,
		Progress: func(step ssh.Step, text string) { a.steps.step("SSH, " + string(step) + ": " + text) }}
	if p := a.person(); p != nil {
		p.close()
		o.Prompt = &a.asker
	}
	h, err := ssh.Connect(ctx, o)
	if err != nil {
		return nil, err // not h: an interface of a nil pointer is none
	}
	return h, nil
}

// asker asks the person at the terminal what SSH wants to know. A link that is built again may ask again, so
// it looks each time who is there.
type asker struct {
	a *app
	// away says that the terminal belongs to a command.
	away atomic.Bool
}

// Ask implements ssh.Prompter.
func (k *asker) Ask(ctx context.Context, text string, echo bool) (string, error) {
	if k.away.Load() {
		return "", errors.New("the terminal belongs to the command")
	}
	p := k.a.person()
	if p == nil {
		return "", errors.New("there is no terminal")
	}
	defer p.close()
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		p.say(Lines(text[:i]))
		text = text[i+1:]
	}
	return p.read(ctx, Text(text), echo)
}
