package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

const (
	// redrawEvery keeps the clock on the screen going and follows a new window size.
	redrawEvery = time.Second
	// rewatchAfter is the pause before the daemon is asked again after it went away.
	rewatchAfter = time.Second
	// maxUpdates and maxKeys bound what waits to be drawn; the readers wait when they are full.
	maxUpdates = 64
	maxKeys    = 16
)

// change is what the watching goroutine tells the screen.
type change struct {
	approval *approvalsv1.Approval
	list     *approvalsv1.ListApprovalsResponse // a new stream begins: this is what is pending
	err      error                              // the stream ended
}

// interactive shows the pending approvals on the terminal until the user quits. It waits for its
// goroutines before it returns.
func (a *app) interactive(ctx context.Context, c *client.Client) error {
	// A daemon that does not answer is told before the screen is taken.
	out, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
	if err != nil {
		return err
	}
	old, err := term.MakeRaw(int(a.stdin.Fd()))
	if err != nil {
		return fmt.Errorf("set up the terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(a.stdin.Fd()), old) }()
	io.WriteString(a.stdout, "\x1b[?1049h\x1b[?25l") // alternate screen, no cursor
	defer io.WriteString(a.stdout, "\x1b[?25h\x1b[?1049l")

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	changes, keys := make(chan change, maxUpdates), make(chan string, maxKeys)
	wg.Go(func() { watchChanges(ctx, c, changes) })
	wg.Go(func() { readKeys(ctx, a.stdin, keys) })

	b := &board{color: a.color(), now: time.Now}
	b.replace(out.GetApprovals())
	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	for {
		b.w, b.h = screenSize(a.stdout)
		if _, err := io.WriteString(a.stdout, b.render()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			b.tick()
		case ch := <-changes:
			b.take(ch)
		case k, ok := <-keys:
			if !ok {
				return nil // the terminal is gone
			}
			switch act := b.key(k); act.kind {
			case actQuit:
				if k == "ctrl-c" {
					return &codeError{code: exitInt}
				}
				return nil
			case actRefresh:
				b.refresh(ctx, c)
			case actDecide:
				b.decide(ctx, c, act)
			}
		}
	}
}

func (b *board) take(ch change) {
	switch {
	case ch.err != nil:
		b.note = Text(ch.err.Error()) + "; trying again"
	case ch.list != nil:
		b.note = ""
		b.replace(ch.list.GetApprovals())
	default:
		b.update(ch.approval)
	}
}

func (b *board) refresh(ctx context.Context, c *client.Client) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
	if err != nil {
		b.note = Text(err.Error())
		return
	}
	b.note = ""
	b.replace(out.GetApprovals())
}

func (b *board) decide(ctx context.Context, c *client.Client, act action) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := c.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: act.id, Decision: act.decision})
	if e, ok := errors.AsType[*client.Error](err); ok && e.Class == client.NotFound {
		b.note = "somebody else decided, or it expired"
		b.update(&approvalsv1.Approval{Id: act.id, State: approvalsv1.State_STATE_EXPIRED})
		return
	}
	if err != nil {
		b.note = "not decided: " + Text(err.Error())
		return
	}
	p := out.GetApproval()
	b.note = decided[p.GetDecision()] + ": " + whatRuns(p)
	b.update(p)
}

// watchChanges keeps a watch on the approvals and begins a new one after the daemon was away.
func watchChanges(ctx context.Context, c *client.Client, out chan<- change) {
	send := func(ch change) bool {
		select {
		case out <- ch:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		s, err := c.Approvals.WatchApprovals(ctx, &approvalsv1.WatchApprovalsRequest{})
		if err == nil {
			// The stream says nothing of what was decided before it began.
			var list *approvalsv1.ListApprovalsResponse
			if list, err = c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{}); err == nil && !send(change{list: list}) {
				return
			}
		}
		for err == nil {
			var m *approvalsv1.WatchApprovalsResponse
			if m, err = s.Recv(); err == nil && !send(change{approval: m.GetApproval()}) {
				return
			}
		}
		if !send(change{err: err}) {
			return
		}
		timer := time.NewTimer(rewatchAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// readKeys reads the terminal until the context ends. It closes keys when the terminal is gone.
func readKeys(ctx context.Context, f *os.File, keys chan<- string) {
	defer close(keys)
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		ready, err := waitInput(f)
		if err != nil {
			return
		}
		if !ready {
			continue
		}
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for _, k := range parseKeys(buf[:n]) {
			select {
			case keys <- k:
			case <-ctx.Done():
				return
			}
		}
	}
}

// screenSize is the size of the terminal, 80 by 24 where it does not say.
func screenSize(f *os.File) (w, h int) {
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil || w < 1 || h < 1 {
		return 80, 24
	}
	return w, h
}
