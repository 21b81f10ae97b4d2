//go:build unix

package promises

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/dial"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// The promise R15: a reader of a kilobyte a second harms nobody and misses nothing silently. It reads
	// so for slowFor, while more than may wait for it comes: questions of questionBytes each.
	slowRate      = 1 << 10
	slowFor       = 15 * time.Second
	questions     = 130
	questionBytes = 250 << 10
	// asked is how long health is asked for in each phase, by so many clients; their p99 may differ by
	// askNoise on a machine that does other things as well.
	asked    = 2 * time.Second
	askers   = 4
	askNoise = 10 * time.Millisecond
)

// p99Of asks for health from all clients for a while.
func p99Of(t *testing.T, conns []*dial.Conn) time.Duration {
	t.Helper()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	end := time.Now().Add(asked)
	for _, c := range conns {
		wg.Go(func() {
			for time.Now().Before(end) {
				began := time.Now()
				if _, err := c.Call(context.Background(), "health", map[string]any{}); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(all) == 0 {
		t.Fatal("nobody got an answer")
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// TestR15SlowReader: a legacy client that reads a kilobyte a second stays connected while far more comes
// than may wait for it. The numbers of its events tell exactly what it missed, the missed questions can
// be asked for, and the others do not notice. A stream that nobody reads tells of its losses too.
func TestR15SlowReader(t *testing.T) {
	d := proc.Start(t, proc.Options{})
	o := d.Operator(nil)
	o.Scopes = []identity.Scope{identity.ScopeRead} // these hear of no question
	var asking []*dial.Conn
	for range askers {
		asking = append(asking, proc.Connect(t, o))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	raw, err := d.DialRaw(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.Hello("operator.admin"); err != nil {
		t.Fatal(err)
	}
	stream, err := d.Client(t).System.WatchEvents(ctx, &systemv1.WatchEventsRequest{Names: []string{"exec.approval.requested"}})
	if err == nil {
		_, err = stream.Header()
	}
	if err != nil {
		t.Fatal(err)
	}

	before := p99Of(t, asking)
	var got []byte // what the slow reader has read so far
	trickle := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		buf := make([]byte, slowRate)
		for end := time.Now().Add(slowFor); time.Now().Before(end); <-tick.C {
			n, err := raw.R.Read(buf)
			if got = append(got, buf[:n]...); err != nil {
				trickle <- err
				return
			}
		}
		trickle <- nil
	}()
	source := proc.Connect(t, d.Operator(nil))
	text := strings.Repeat("x", questionBytes)
	ask := func(id, text string) {
		accepted := make(chan struct{})
		go func() {
			_, _ = source.CallTwoPhase(ctx, "exec.approval.request", map[string]any{
				"id": id, "command": text, "timeoutMs": 60_000, "twoPhase": true,
			}, func(json.RawMessage) { close(accepted) })
		}()
		select {
		case <-accepted:
		case <-source.Done():
			t.Fatal(source.Err())
		}
	}
	for i := range questions {
		ask(fmt.Sprint("q", i), text)
	}
	during := p99Of(t, asking)
	if err := <-trickle; err != nil {
		t.Fatalf("after %d bytes the slow reader has %v", len(got), err)
	}
	t.Logf("p99 of health %v, and %v with a slow reader, which read %d bytes in %v", before, during, len(got), slowFor)
	if during > 2*before+askNoise {
		t.Errorf("p99 of health grew from %v to %v", before, during)
	}

	// It reads on at full speed and catches up.
	raw.R = bufio.NewReader(io.MultiReader(strings.NewReader(string(got)), raw.R))
	var seq, missing uint64
	seen := map[string]bool{}
	for caught := false; !seen["last"]; {
		f, err := raw.Next()
		if err != nil {
			t.Fatalf("after event %d: %v", seq, err)
		}
		if f.Seq == nil {
			continue
		}
		if *f.Seq <= seq {
			t.Fatalf("event %d after %d", *f.Seq, seq)
		}
		missing += *f.Seq - seq - 1
		seq = *f.Seq
		if f.Event != "exec.approval.requested" {
			continue
		}
		var p struct{ ID string }
		if err := json.Unmarshal(f.Payload, &p); err != nil {
			t.Fatal(err)
		}
		seen[p.ID] = true
		if !caught && len(seen) > questions/4 {
			caught = true
			ask("last", "x")
		}
	}
	if missing == 0 || int(missing)+len(seen) != questions+1 {
		t.Errorf("of %d questions %d came and %d numbers are missing", questions+1, len(seen), missing)
	}
	t.Logf("%d questions came, %d were left out", len(seen), missing)
	for i := range questions {
		if id := fmt.Sprint("q", i); !seen[id] {
			if _, err := d.Client(t).Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id}); err != nil {
				t.Errorf("question %s, which was left out, is not there: %v", id, err)
			}
		}
	}

	// The stream has the same to tell.
	var events, dropped, next uint64
	for events+dropped < questions+1 {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		dropped += e.GetDropped()
		if e.GetName() != "" {
			events++
		}
		if e.GetSeq() < next {
			t.Fatalf("seq %d after %d", e.GetSeq(), next)
		}
		next = e.GetSeq()
	}
	if events+dropped != questions+1 {
		t.Errorf("the stream had %d events and told of %d lost; %d were sent", events, dropped, questions+1)
	}
}
