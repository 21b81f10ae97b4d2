package robustness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
)

const (
	// sessionsDir and sessionsRound make TestSessionsKillWriter the process that is killed.
	sessionsDir   = "HANZOD_SESSIONS_KILL_DIR"
	sessionsRound = "HANZOD_SESSIONS_KILL_ROUND"
	talkers       = 6
)

type anyModel struct{}

func (anyModel) Default(string) sessions.Model { return sessions.Model{Provider: "p", Name: "m"} }
func (anyModel) Choose(_, text string) (sessions.Model, error) {
	return sessions.Model{Provider: "p", Name: text}, nil
}
func (anyModel) ContextTokens() int64 { return 1 }

func sessionsOf(tb testing.TB, s *store.Store) *sessions.Service {
	tb.Helper()
	cfg := &config.Config{StateDir: s.Dir()}
	svc, err := sessions.New(sessions.Settings{
		Store: s, Transcripts: s.Transcripts(), Models: anyModel{}, Config: func() *config.Config { return cfg }, Bus: events.New(time.Now), Now: time.Now,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return svc
}

func talkerKey(w int) string { return fmt.Sprintf("agent:main:talker-%d", w) }

// talkStep is what a talker does in its nth step.
func talkStep(n int) string {
	switch {
	case n == 0, n%31 == 0:
		return "patch"
	case n%31 == 30:
		return "delete"
	case n%11 == 10:
		return "reset"
	case n%7 == 6:
		return "compact"
	}
	return "inject"
}

// TestSessionsKillWriter is no test: it talks until it is killed. Each line goes out with one write call: "try
// <talker> <step> <number>" before, "ack <talker> <step> <session id, or - for none>" after.
func TestSessionsKillWriter(t *testing.T) {
	dir := os.Getenv(sessionsDir)
	if dir == "" {
		t.Skip("the process that TestSessionsKill kills")
	}
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		fmt.Println("fail", err)
		t.Fatal(err)
	}
	svc := sessionsOf(t, s)
	var wg sync.WaitGroup
	for w := range talkers {
		wg.Go(func() {
			for n := 0; ; n++ {
				step := talkStep(n)
				fmt.Printf("try %d %s %s-%d-%d\n", w, step, os.Getenv(sessionsRound), w, n)
				id, err := takeStep(t.Context(), svc, talkerKey(w), step, fmt.Sprintf("mark %s-%d-%d.", os.Getenv(sessionsRound), w, n))
				if err != nil {
					fmt.Printf("fail %d %s %v\n", w, step, err)
					return
				}
				fmt.Printf("ack %d %s %s\n", w, step, id)
			}
		})
	}
	wg.Wait()
}

// takeStep does one step, and returns the id that the session has then.
func takeStep(ctx context.Context, s *sessions.Service, key, step, text string) (string, error) {
	switch c := identity.Internal(); step {
	case "patch":
		out, err := s.Patch(ctx, c, sessions.PatchIn{Key: key, VerboseLevel: sessions.SetTo("on")})
		return out.Entry.SessionID, err
	case "reset":
		out, err := s.Reset(ctx, c, sessions.ResetIn{Key: key})
		return out.Entry.SessionID, err
	case "delete":
		out, err := s.Delete(ctx, c, sessions.DeleteIn{Key: key})
		for _, p := range out.Archived {
			if _, serr := os.Stat(p); serr != nil {
				err = errors.Join(err, serr)
			}
		}
		return "-", err
	case "compact":
		if _, err := s.Compact(ctx, c, sessions.CompactIn{Key: key, MaxLines: 3}); err != nil {
			return "", err
		}
	default:
		if _, err := s.Inject(ctx, c, sessions.InjectIn{Key: key, Text: text}); err != nil {
			return "", err
		}
	}
	_, e, ok := s.Lookup(key)
	if !ok {
		return "", errors.New("the session is gone")
	}
	return e.SessionID, nil
}

// talker is what one of them said.
type talker struct {
	id     string // of the session after its last step, "-" for none, "" when it did nothing yet
	flying string // the step that was not acknowledged, "" for none
	mark   string // of it
	acked  []string
}

// TestSessionsKill kills a process that injects into, resets, compacts and deletes sessions. Afterwards every line
// that was acknowledged is there, and index and transcripts agree (R16).
func TestSessionsKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var dir string
	var all [talkers]talker
	n, lines := rounds(t, 12), 0
	for round := range n {
		if round%20 == 0 {
			dir, all = t.TempDir(), [talkers]talker{}
		}
		after := r.IntN(500)
		if round%6 == 5 {
			after = 0
		}
		talkAndKill(t, dir, round, after, time.Duration(r.IntN(3000))*time.Microsecond, &all)
		lines += lookAtSessions(t, dir, &all)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("%d rounds, %d acknowledged lines looked for", n, lines)
}

func talkAndKill(t *testing.T, dir string, round, after int, later time.Duration, all *[talkers]talker) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestSessionsKillWriter$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), sessionsDir+"="+dir, sessionsRound+"="+fmt.Sprintf("r%d", round))
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
		timer = time.AfterFunc(20*later, kill)
	}
	acked := 0
	for in := bufio.NewScanner(out); in.Scan(); {
		w := strings.Fields(in.Text())
		if len(w) < 2 || (w[0] != "try" && w[0] != "ack" && w[0] != "fail") {
			continue // the testing package
		}
		var who int
		if _, err := fmt.Sscan(w[1], &who); err != nil || w[0] == "fail" || len(w) != 4 {
			t.Errorf("the writer says %q", in.Text())
			continue
		}
		x := &all[who]
		if w[0] == "try" {
			x.flying, x.mark = w[2], w[3]
			continue
		}
		if w[2] == "inject" {
			x.acked = append(x.acked, x.mark)
		}
		x.flying, x.id = "", w[3]
		if acked++; acked == after && timer == nil {
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

// lookAtSessions compares a state with what its talkers said.
func lookAtSessions(t *testing.T, dir string, all *[talkers]talker) int {
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
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	svc := sessionsOf(t, s)
	ids := map[string]bool{}
	for w := range all {
		x := &all[w]
		_, e, ok := svc.Lookup(talkerKey(w))
		switch {
		case x.flying == "reset" && ok, x.flying == "patch" && ok, x.flying == "delete" && !ok:
			// It may have happened or not.
		case x.id == "" && ok, x.id == "-" && ok, x.id != "" && x.id != "-" && !ok, ok && e.SessionID != x.id:
			t.Errorf("talker %d: session %v %q, acknowledged %q, in flight %q", w, ok, e.SessionID, x.id, x.flying)
		}
		x.id = "-"
		if ok {
			x.id = e.SessionID
			ids[e.SessionID+".jsonl"] = true
			// The next line finds the transcript in order.
			if _, err := svc.Inject(t.Context(), identity.Internal(), sessions.InjectIn{Key: talkerKey(w), Text: "after the kill"}); err != nil {
				t.Errorf("talker %d: %v", w, err)
			}
		}
	}
	var text strings.Builder
	in := filepath.Join(dir, "agents", "main", "sessions")
	files, err := os.ReadDir(in)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(in, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		current := strings.HasSuffix(f.Name(), ".jsonl")
		if current != ids[f.Name()] {
			t.Errorf("%s: its session is there: %v", f.Name(), ids[f.Name()])
		}
		if !current && !strings.Contains(f.Name(), ".reset.") && !strings.Contains(f.Name(), ".deleted.") && !strings.Contains(f.Name(), ".bak.") {
			t.Errorf("%s is left over", f.Name())
		}
		for line := range strings.Lines(string(b)) {
			if !strings.HasSuffix(line, "\n") || !json.Valid([]byte(line)) {
				t.Errorf("%s holds %.80q", f.Name(), line)
			}
		}
		text.Write(b)
	}
	n := 0
	for w, x := range all {
		for _, mark := range x.acked {
			n++
			if !strings.Contains(text.String(), "mark "+mark+".") {
				t.Errorf("talker %d: %s was acknowledged and is gone", w, mark)
			}
		}
	}
	return n
}
