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
	// maxUpdates and maxKeys bound what waits to be drawn; the readers wait when they are full.
	maxUpdates = 64
	maxKeys    = 16
)

// change is what a source tells the screen.
type change struct {
	approval *approvalsv1.Approval
	list     []*approvalsv1.Approval // when isList: this is what is pending
	isList   bool
	err      error  // the source is away for a while
	id       string // of a detail that was fetched
	detail   detail
}

// source is where the questions on the screen come from.
type source interface {
	// list is what is pending; watch sends the changes until ctx ends.
	list(ctx context.Context) ([]*approvalsv1.Approval, error)
	watch(ctx context.Context, out chan<- change)
	// decide answers. When somebody was quicker, it returns how they decided and ok is false.
	decide(ctx context.Context, act action) (p *approvalsv1.Approval, ok bool, err error)
	// detail fetches what a list leaves out.
	detail(ctx context.Context, id string) (detail, error)
}

// interactive shows the pending approvals of a daemon on the terminal until the user quits.
func (a *app) interactive(ctx context.Context, c *client.Client) error {
	return a.board(ctx, daemonSource{c}, &board{color: a.color(), now: time.Now, daemon: a.elsewhere()})
}

// board runs a board on the terminal. It waits for its goroutines before it returns.
func (a *app) board(ctx context.Context, from source, b *board) error {
	// A daemon that does not answer is told before the screen is taken.
	out, err := from.list(ctx)
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
	wg.Go(func() { from.watch(ctx, changes) })
	wg.Go(func() { readKeys(ctx, a.stdin, keys) })

	b.replace(out)
	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	resized, stop := resizes()
	defer stop()
	for {
		if id := b.wants(); id != "" {
			b.fetching(id)
			wg.Go(func() {
				d, err := from.detail(ctx, id)
				if err == nil {
					send(ctx, changes, change{id: id, detail: d})
				}
			})
		}
		b.w, b.h = screenSize(a.stdout)
		if _, err := io.WriteString(a.stdout, b.render()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			b.tick()
		case <-resized:
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
				b.refresh(ctx, from)
			case actDecide:
				b.decide(ctx, from, act)
			}
		}
	}
}

func (b *board) take(ch change) {
	switch {
	case ch.err != nil:
		b.note = Text(ch.err.Error()) + "; trying again"
	case ch.isList:
		b.note = ""
		b.replace(ch.list)
	case ch.id != "":
		b.fetched(ch.id, ch.detail)
	default:
		b.update(ch.approval)
	}
}

func (b *board) refresh(ctx context.Context, from source) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := from.list(ctx)
	if err != nil {
		b.note = Text(err.Error())
		return
	}
	b.note, b.details = "", nil
	b.replace(out)
}

func (b *board) decide(ctx context.Context, from source, act action) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, ok, err := from.decide(ctx, act)
	switch {
	case err != nil:
		b.note = "not decided: " + Text(err.Error())
		return
	case !ok:
		b.note = "too late: " + beaten(p)
	case p.GetState() == approvalsv1.State_STATE_PENDING:
		b.note = fmt.Sprintf("counted: %d of %d have allowed it: %s", allowing(p), p.GetQuorum(), whatRuns(p)) + b.place(p)
	default:
		b.note = act.done(p) + ": " + whatRuns(p) + b.place(p)
		if act.grant != nil && !act.grant.onlyAlways() {
			b.note = "allowed, and " + act.grant.String() + ": " + whatRuns(p) + b.place(p)
		}
	}
	b.mine = p.GetId()
	b.update(p)
}

// beaten says how an approval ended that somebody else was quicker with.
func beaten(p *approvalsv1.Approval) string {
	switch {
	case p.GetResolvedBy() != "":
		return decided[p.GetDecision()] + " by " + Text(p.GetResolvedBy())
	case p.GetState() == approvalsv1.State_STATE_EXPIRED:
		return "it expired"
	default:
		return "it is over"
	}
}

func send(ctx context.Context, out chan<- change, ch change) bool {
	select {
	case out <- ch:
		return true
	case <-ctx.Done():
		return false
	}
}

// daemonSource is a daemon.
type daemonSource struct{ c *client.Client }

func (d daemonSource) list(ctx context.Context) ([]*approvalsv1.Approval, error) {
	out, err := d.c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
	return out.GetApprovals(), err
}

func (d daemonSource) decide(ctx context.Context, act action) (*approvalsv1.Approval, bool, error) {
	out, err := d.c.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: act.id, Decision: act.decision, Grant: act.grant.request()})
	if e, ok := errors.AsType[*client.Error](err); ok && e.Class == client.NotFound {
		return overBy(ctx, d.c, act.id), false, nil
	}
	return out.GetApproval(), true, err
}

// overBy is an approval that is not pending any more, as far as that can still be told.
func overBy(ctx context.Context, c *client.Client, id string) *approvalsv1.Approval {
	if out, err := c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id}); err == nil && out.GetApproval().GetState() != approvalsv1.State_STATE_PENDING {
		return out.GetApproval()
	}
	return &approvalsv1.Approval{Id: id, State: approvalsv1.State_STATE_EXPIRED}
}

func (d daemonSource) detail(ctx context.Context, id string) (detail, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	whole, err := d.c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
	if err != nil {
		return detail{}, err
	}
	// A daemon that keeps no earlier ones is no reason to show none of this one.
	like, err := d.c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{Like: &id})
	if err != nil {
		like = nil
	}
	return detail{whole.GetApproval(), earlierOf(whole.GetApproval(), like.GetApprovals())}, nil
}

func (d daemonSource) watch(ctx context.Context, out chan<- change) {
	err := d.c.WatchApprovals(ctx, func(w client.ApprovalsChange) error {
		ch := change{approval: w.Approval, err: w.Away}
		if w.Began {
			ch = change{list: w.Pending, isList: true}
		}
		if !send(ctx, out, ch) {
			return ctx.Err()
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		send(ctx, out, change{err: err})
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
