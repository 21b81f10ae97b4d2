package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/clienttest"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// What was decided while the daemon was not heard is told before what waits now, with who decided.
func TestWatchApprovals(t *testing.T) {
	d := clienttest.New(t)
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, id := range []string{"a", "b"} {
		if _, err := d.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Id: id, Command: "true"}); err != nil {
			t.Fatal(err)
		}
	}
	told := make(chan client.ApprovalsChange)
	enough := errors.New("enough")
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.WatchApprovals(ctx, func(ch client.ApprovalsChange) error {
			select {
			case told <- ch:
				return nil
			case <-stop:
				return enough
			}
		})
	}()
	next := func(want string) client.ApprovalsChange {
		t.Helper()
		for {
			select {
			case ch := <-told:
				got := "change"
				switch {
				case ch.Began:
					got = fmt.Sprintf("began %d", len(ch.Pending))
				case ch.Away != nil:
					got = "away"
				case ch.Approval.GetState() == approvalsv1.State_STATE_PENDING:
					continue // the stream repeats what waits
				case ch.Approval.GetState() == approvalsv1.State_STATE_DENIED:
					got = "denied " + ch.Approval.GetId() + " by " + ch.Approval.GetResolvedBy()
				}
				if got != want {
					t.Fatalf("told %q, want %q", got, want)
				}
				return ch
			case err := <-done:
				t.Fatalf("ended with %v, want %q", err, want)
			case <-ctx.Done():
				t.Fatalf("nothing, want %q", want)
			}
		}
	}
	next("began 2")
	d.Stop()
	next("away")
	if _, err := d.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: "a", Decision: approvalsv1.Decision_DECISION_DENY}); err != nil {
		t.Fatal(err)
	}
	d.Start(t)
	next("denied a by local user")
	next("began 1")
	if _, err := d.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: "b", Decision: approvalsv1.Decision_DECISION_DENY}); err != nil {
		t.Fatal(err)
	}
	next("denied b by local user")
	close(stop)
	if _, err := d.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Id: "c", Command: "true"}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, enough) {
		t.Errorf("ended with %v", err)
	}
	// The end of the caller is the end of the watch.
	short, end := context.WithCancel(ctx)
	end()
	if err := c.WatchApprovals(short, func(client.ApprovalsChange) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// A desktop app shows what waits, and answers.
func ExampleClient_WatchApprovals() {
	c, err := client.Dial(context.Background(), client.Options{})
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.WatchApprovals(context.Background(), func(ch client.ApprovalsChange) error {
		switch {
		case ch.Began:
			fmt.Println(len(ch.Pending), "wait")
		case ch.Away != nil:
			fmt.Println("the daemon is away:", ch.Away)
		case ch.Approval.GetState() == approvalsv1.State_STATE_PENDING:
			_, err := c.Approvals.ResolveApproval(context.Background(), &approvalsv1.ResolveApprovalRequest{
				Id: ch.Approval.GetId(), Decision: approvalsv1.Decision_DECISION_DENY,
			})
			return err
		default:
			fmt.Println(ch.Approval.GetId(), "was answered by", ch.Approval.GetResolvedBy())
		}
		return nil
	})
}
