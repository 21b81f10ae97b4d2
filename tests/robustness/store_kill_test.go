// Package robustness kills the daemon's parts at the worst moments and looks at what is left. It
// may import everything and is nothing but tests.
package robustness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

const (
	// killDir and killRound make TestStoreKillWriter the process that is killed.
	killDir   = "HANZOD_STORE_KILL_DIR"
	killRound = "HANZOD_STORE_KILL_ROUND"
	// roundsEnv is how many times to kill, for the long form.
	roundsEnv     = "ROBUST_ROUNDS"
	defaultRounds = 25

	killWriters = 8
	// maxAcks is how many acknowledgements a round may see before the kill.
	maxAcks = 600
	// freshEvery makes a new directory from time to time, so that the first moments of a database
	// are hit too, and a check stays quick.
	freshEvery = 50
)

// The steps in the life of an approval, as the writer does them and as its lines name them.
var steps = []string{"create", "decide", "use"}

// stateAfter is the state that an approval is in after so many steps. One in three is denied, and
// has no third.
func stateAfter(id string, n int) approvals.State {
	switch {
	case n == 1:
		return approvals.Pending
	case n == 2 && denied(id):
		return approvals.Denied
	case n == 2:
		return approvals.Allowed
	}
	return approvals.Consumed
}

func denied(id string) bool { return id[len(id)-1]%3 == 0 }

// TestStoreKillWriter is no test: it writes until it is killed. Each line goes out with one write
// call: "try <step> <id>" before a write begins, "ack <step> <id>" after it was acknowledged.
func TestStoreKillWriter(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("the process that TestStoreKill kills")
	}
	ctx := t.Context()
	s, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		fmt.Println("fail", err)
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range killWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv(killRound), w, i)
				for _, step := range steps {
					if step == "use" && denied(id) {
						break
					}
					fmt.Printf("try %s %s\n", step, id)
					if err := do(ctx, s, step, id); err != nil {
						fmt.Printf("fail %s %s %v\n", step, id, err)
						return
					}
					fmt.Printf("ack %s %s\n", step, id)
				}
			}
		})
	}
	wg.Wait()
}

func do(ctx context.Context, s *store.Store, step, id string) error {
	row := approvals.Audit{At: time.Now(), Kind: step, ApprovalID: id}
	if step == "create" {
		now := time.Now()
		return s.CreateApproval(ctx, approvals.Approval{
			ID: id, State: approvals.Pending, Command: strings.Repeat(id, 20), CreatedAt: now,
			ExpiresAt: now.Add(time.Hour),
		}, row)
	}
	_, err := s.UpdateApproval(ctx, id, func(a *approvals.Approval) (approvals.Audit, error) {
		switch {
		case step == "decide" && a.State == approvals.Pending:
			a.State = stateAfter(id, 2)
		case step == "use" && a.State == approvals.Allowed:
			a.State = approvals.Consumed
			a.Uses++
		default:
			return approvals.Audit{}, fmt.Errorf("%s of an approval that is %s", step, a.State)
		}
		return row, nil
	})
	return err
}

// history is what the writers of a directory said.
type history struct {
	tried, acked map[string]int // steps per approval
}

// TestStoreKill kills writers with SIGKILL at random moments. What was acknowledged is there
// afterwards, what was not is there whole or not at all, and the database is in order.
func TestStoreKill(t *testing.T) {
	rounds := defaultRounds
	if v := os.Getenv(roundsEnv); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("%s=%q is no number of rounds", roundsEnv, v)
		}
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var dir string
	var h history
	acks, inFlight := 0, 0
	for round := range rounds {
		if round%freshEvery == 0 {
			dir = t.TempDir()
			h = history{tried: map[string]int{}, acked: map[string]int{}}
		}
		// Some are killed before they say anything.
		n := r.IntN(maxAcks)
		if round%10 == 9 {
			n = 0
		}
		before := len(h.acked)
		runAndKill(t, dir, round, n, time.Duration(r.IntN(3000))*time.Microsecond, &h)
		acks += len(h.acked) - before
		inFlight += look(t, dir, &h)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("%d rounds, %d approvals made, %d writes in flight at a kill", rounds, acks, inFlight)
}

// runAndKill starts writers in a second process and kills it some time after so many
// acknowledgements.
func runAndKill(t *testing.T, dir string, round, after int, later time.Duration, h *history) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestStoreKillWriter$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), killDir+"="+dir, killRound+"="+fmt.Sprintf("r%d", round))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	})
	defer kill() // when the test gives up
	var timer *time.Timer
	if after == 0 {
		timer = time.AfterFunc(10*later, kill)
	}
	acked := 0
	for in := bufio.NewScanner(out); in.Scan(); {
		w := strings.Fields(in.Text())
		if len(w) < 2 || (w[0] != "try" && w[0] != "ack" && w[0] != "fail") {
			continue // the testing package
		}
		if w[0] == "fail" || len(w) != 3 {
			t.Errorf("the writer says %q", in.Text())
			continue
		}
		count := h.tried
		if w[0] == "ack" {
			count = h.acked
			acked++
		}
		if steps[count[w[2]]] != w[1] {
			t.Fatalf("%q after %d steps", in.Text(), count[w[2]])
		}
		count[w[2]]++
		if acked == after && timer == nil {
			timer = time.AfterFunc(later, kill)
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the writer ended by itself")
	}
	if timer != nil {
		timer.Stop()
	}
}

// look compares the store with what its writers said, and returns how many writes were in flight.
func look(t *testing.T, dir string, h *history) int {
	t.Helper()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatalf("opening after the kill: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	storetest.VerifyAudit(t, s)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	rows, err := s.Audit(0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	logged := map[string]int{}
	for i, row := range rows {
		if row.Seq != uint64(i)+1 {
			t.Errorf("audit row %d has the number %d", i+1, row.Seq)
		}
		if steps[logged[row.ApprovalID]] != row.Kind {
			t.Errorf("audit row %d: %s of %s after %d steps", row.Seq, row.Kind, row.ApprovalID, logged[row.ApprovalID])
		}
		logged[row.ApprovalID]++
	}
	inFlight, there, alive := 0, 0, 0
	for id, tried := range h.tried {
		acked, got := h.acked[id], logged[id]
		if got < acked || got > tried {
			t.Errorf("%s: %d steps tried, %d acknowledged, %d on disk", id, tried, acked, got)
		}
		if acked < tried {
			inFlight++
			// Its writer is gone: from now on what is on disk is what happened.
			h.tried[id], h.acked[id] = got, got
		}
		a, err := s.Approval(id)
		switch {
		case got == 0:
			if !errors.Is(err, approvals.ErrUnknown) {
				t.Errorf("%s has no audit row, and yet: %v, %v", id, a.State, err)
			}
			delete(h.tried, id)
			delete(h.acked, id)
			continue
		case err != nil:
			t.Errorf("%s: %v", id, err)
			continue
		case a.State != stateAfter(id, got) || a.Command != strings.Repeat(id, 20):
			t.Errorf("%s is %s after %d steps (%q)", id, a.State, got, a.Command)
		}
		there++
		if a.State == approvals.Pending || a.State == approvals.Allowed {
			alive++
		}
	}
	if len(logged) != there {
		t.Errorf("the audit log knows %d approvals, the writers made %d", len(logged), there)
	}
	if all, err := s.RecentApprovals(1 << 30); len(all) != there || err != nil {
		t.Errorf("%d approvals, %v; the writers made %d", len(all), err, there)
	}
	if all, err := s.LiveApprovals(); len(all) != alive || err != nil {
		t.Errorf("%d live approvals, %v; want %d", len(all), err, alive)
	}
	return inFlight
}
