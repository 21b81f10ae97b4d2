package host_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
)

// away is a gateway that is not there, or that refuses.
type away struct{ absent bool }

func (a away) Connect(context.Context, host.Offer, func(host.Link, host.Request)) (host.Link, error) {
	return nil, errors.New("no")
}
func (a away) Explain(*slog.Logger, error) {}
func (a away) Absent(error) bool           { return a.absent }

// TestPauses: a gateway that is not there is tried every few seconds, and one that refuses less and less often.
func TestPauses(t *testing.T) {
	for absent, want := range map[bool][]time.Duration{
		true:  {1 * time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second},
		false: {1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var got []time.Duration
		_ = host.Serve(ctx, host.ServeOptions{Host: host.New(host.Config{Policy: policy.Open(filepath.Join(t.TempDir(), "p.json"), policy.Options{})}), Connector: away{absent}, Rand: func() float64 { return 0 }, Wait: func(_ context.Context, d time.Duration) {
			if got = append(got, d); len(got) == len(want) {
				cancel()
			}
		}})
		for i, d := range want {
			if got[i] != d {
				t.Errorf("absent %v: %v", absent, got)
				break
			}
		}
		cancel()
	}
}

// early is a gateway that asks before Connect has returned.
type early struct {
	done    chan struct{}
	results chan host.Result
}

func (e early) Connect(_ context.Context, _ host.Offer, invoke func(host.Link, host.Request)) (host.Link, error) {
	invoke(e, host.Request{ID: "1", Command: "early"})
	time.Sleep(20 * time.Millisecond) // a reader that had served it by then would be too quick
	return e, nil
}
func (early) Explain(*slog.Logger, error) {}
func (early) Absent(error) bool           { return false }
func (e early) Answer(_ host.Request, r host.Result) error {
	e.results <- r
	return nil
}
func (early) Emit(string, string) error { return nil }
func (early) Info() host.Info           { return host.Info{} }
func (e early) Done() <-chan struct{}   { return e.done }
func (early) Err() error                { return nil }
func (early) Close() error              { return nil }

// follower serves a command that needs the link.
type follower struct{ linked atomic.Bool }

func (*follower) Commands() []string                                          { return []string{"early"} }
func (*follower) Caps() []string                                              { return nil }
func (f *follower) Linked(func(event, payload string) error, <-chan struct{}) { f.linked.Store(true) }
func (f *follower) Handle(context.Context, host.Request) host.Result {
	return host.Result{OK: f.linked.Load()}
}

// TestModulesKnowTheLinkFirst: no command is served before the modules know where its events go.
func TestModulesKnowTheLinkFirst(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := early{make(chan struct{}), make(chan host.Result, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = host.Serve(ctx, host.ServeOptions{Connector: e, Host: host.New(host.Config{
			Policy: policy.Open(filepath.Join(t.TempDir(), "p.json"), policy.Options{}), Modules: []host.Module{&follower{}},
		})})
	}()
	if r := <-e.results; !r.OK {
		t.Error("a command was served before the module knew the link")
	}
	cancel()
	<-ended
}
