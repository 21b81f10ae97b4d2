package client

import (
	"context"
	"errors"
	"time"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// ApprovalsChange is what WatchApprovals tells.
type ApprovalsChange struct {
	// Began says that the daemon is heard, for the first time or again: Pending is everything that waits
	// for an answer now, oldest first.
	Began   bool
	Pending []*approvalsv1.Approval
	// Approval is one that is new or has changed: it was asked, got a vote, was put to others, decided
	// (ResolvedBy says by whom) or expired.
	Approval *approvalsv1.Approval
	// Away says why the daemon is not heard. It is tried again until the caller ends the watch.
	Away error
}

// WatchApprovals follows the approvals of the daemon until ctx ends or tell returns an error, which it
// returns then. tell is called in this goroutine; while it runs, changes wait in the daemon.
//
// It outlives restarts of the daemon and of the network, and misses nothing: what was decided or expired
// meanwhile is told first, as it stands then, and Began follows. The same change may come twice. An error
// that no retry mends, such as a missing scope, ends it.
//
// It is what a desktop app needs to show what waits:
//
//	err := c.WatchApprovals(ctx, func(ch client.ApprovalsChange) error {
//		switch {
//		case ch.Began:
//			window.Show(ch.Pending)
//		case ch.Away != nil:
//			window.Say("the daemon is away")
//		case ch.Approval.GetState() == approvalsv1.State_STATE_PENDING:
//			window.Add(ch.Approval)
//		default:
//			window.Remove(ch.Approval.GetId(), ch.Approval.GetResolvedBy())
//		}
//		return nil
//	})
//
// Answer with Approvals.ResolveApproval. The first valid answer wins: NotFound says that somebody was
// quicker, and GetApproval who it was.
func (c *Client) WatchApprovals(ctx context.Context, tell func(ApprovalsChange) error) error {
	w := approvalsWatch{c: c, tell: tell, known: map[string]bool{}}
	pause, away := redialFirst, false
	for {
		err := w.follow(ctx, func() { pause, away = redialFirst, false })
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case w.ended != nil:
			return w.ended
		case !Passing(err):
			return err
		}
		if !away {
			away = true
			if err := tell(ApprovalsChange{Away: err}); err != nil {
				return err
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, redialMax)
	}
}

// Passing reports whether trying again later may help after an error of this package: the daemon is away,
// or has no room, and does not refuse.
func Passing(err error) bool {
	if isNotRunning(err) {
		return true
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return true
	}
	switch e.Class {
	case Invalid, Denied, Unauthenticated, NotFound:
		return false
	default:
		return true
	}
}

type approvalsWatch struct {
	c     *Client
	tell  func(ApprovalsChange) error
	known map[string]bool // what was told as pending; the daemon bounds how many there are
	ended error           // what tell returned
}

// follow watches over one connection, and returns why it ended.
func (w *approvalsWatch) follow(ctx context.Context, heard func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := w.c.Approvals.WatchApprovals(ctx, &approvalsv1.WatchApprovalsRequest{})
	if err != nil {
		return err
	}
	// With the header the stream stands: what changes after it is on it, and what changed before is in
	// the list.
	if _, err := s.Header(); err != nil {
		return err
	}
	out, err := w.c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
	if err != nil {
		return err
	}
	heard()
	gone := w.known
	w.known = map[string]bool{}
	for _, a := range out.GetApprovals() {
		w.known[a.GetId()] = true
		delete(gone, a.GetId())
	}
	for id := range gone {
		if err := w.tellEnd(ctx, id); err != nil {
			for id := range gone {
				w.known[id] = true // told when the daemon is back
			}
			return err
		}
		delete(gone, id)
	}
	if w.ended = w.tell(ApprovalsChange{Began: true, Pending: out.GetApprovals()}); w.ended != nil {
		return w.ended
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		a := m.GetApproval()
		if a.GetState() == approvalsv1.State_STATE_PENDING {
			w.known[a.GetId()] = true
		} else {
			delete(w.known, a.GetId())
		}
		if w.ended = w.tell(ApprovalsChange{Approval: a}); w.ended != nil {
			return w.ended
		}
	}
}

// tellEnd tells how one ended that is pending no more.
func (w *approvalsWatch) tellEnd(ctx context.Context, id string) error {
	a := &approvalsv1.Approval{Id: id, State: approvalsv1.State_STATE_EXPIRED}
	out, err := w.c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
	switch {
	case err == nil:
		a = out.GetApproval()
	case classOf(err) != NotFound: // a record that is gone is as good as expired
		return err
	}
	w.ended = w.tell(ApprovalsChange{Approval: a})
	return w.ended
}
