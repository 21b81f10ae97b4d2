//go:build !windows

package host_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
)

type outputPiece struct {
	InvokeID, RunID, Stream string
	Offset                  int64
	Data                    []byte
}

// running is a command that runs, and what it has sent so far.
type running struct {
	mu     sync.Mutex
	pieces []outputPiece
	other  []string
	late   bool
	ended  bool
	answer chan answer
}

func run(t *testing.T, h *host.Host, id, params string, slow time.Duration) *running {
	r := &running{answer: make(chan answer, 1)}
	go func() {
		res := h.Handle(context.Background(), host.Request{ID: id, Command: "system.run", ParamsJSON: &params, Emit: func(event, payload string) {
			r.mu.Lock()
			r.late = r.late || r.ended
			if event == "exec.output" {
				var p outputPiece
				if err := json.Unmarshal([]byte(payload), &p); err != nil {
					t.Error(err)
				}
				r.pieces = append(r.pieces, p)
			} else {
				r.other = append(r.other, event)
			}
			r.mu.Unlock()
			time.Sleep(slow)
		}})
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		var a answer
		if res.PayloadJSON != nil {
			if err := json.Unmarshal([]byte(*res.PayloadJSON), &a); err != nil {
				t.Error(err)
			}
		}
		r.answer <- a
	}()
	return r
}

// sent joins what was sent of a stream, and counts what was left out.
func (r *running) sent(stream string) (text string, missing int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var at int64
	for _, p := range r.pieces {
		if p.Stream != stream {
			continue
		}
		missing += p.Offset - at
		at = p.Offset + int64(len(p.Data))
		text += string(p.Data)
	}
	return text, missing
}

func TestStream(t *testing.T) {
	h, _ := newHost(t, full)
	r := run(t, h, "i1", `{"command":["/bin/sh","-c","echo one; sleep 0.1; echo two >&2; printf three"],"runId":"r1","streamOutput":true}`, 0)
	a := <-r.answer
	if out, missing := r.sent("stdout"); out != "one\nthree" || missing != 0 || a.Stdout != out {
		t.Errorf("stdout %q, %d missing; the result says %q", out, missing, a.Stdout)
	}
	if out, _ := r.sent("stderr"); out != "two\n" {
		t.Errorf("stderr %q", out)
	}
	if p := r.pieces[0]; p.InvokeID != "i1" || p.RunID != "r1" {
		t.Errorf("%+v", p)
	}
	if r.late || len(r.other) != 1 || r.other[0] != "exec.finished" {
		t.Errorf("late %v, events %v", r.late, r.other)
	}
	// Who does not ask gets none.
	r = run(t, h, "i2", `{"command":["/bin/echo","x"]}`, 0)
	if <-r.answer; len(r.pieces) != 0 {
		t.Errorf("%+v", r.pieces)
	}
}

// A gateway that takes output slowly does not slow the command, and is told what it misses; the result has
// its beginning all the same.
func TestStreamIsNotWaitedFor(t *testing.T) {
	h, _ := newHost(t, full)
	start := time.Now()
	r := run(t, h, "i", `{"command":["/bin/sh","-c","head -c 20000000 /dev/zero; echo end >&2; touch `+t.TempDir()+`/done"],"streamOutput":true}`, 20*time.Millisecond)
	a := <-r.answer
	out, missing := r.sent("stdout")
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pieces {
		if len(p.Data) > 16<<10 {
			t.Fatalf("a piece of %d bytes", len(p.Data))
		}
	}
	if missing == 0 || len(out) < 200_000 || len(a.Stdout) < 200_000 || len(a.Stdout) > 200_100 || time.Since(start) > 15*time.Second {
		t.Errorf("%d sent, %d missing, %d in the result, after %v", len(out), missing, len(a.Stdout), time.Since(start))
	}
}

func TestKill(t *testing.T) {
	h, _ := newHost(t, full)
	r := run(t, h, "i1", `{"command":["/bin/sh","-c","echo up; sleep 600; echo no"],"streamOutput":true}`, 0)
	other := run(t, h, "i2", `{"command":["/bin/sh","-c","sleep 0.5; echo fine"]}`, 0)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if out, _ := r.sent("stdout"); out == "up\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	if a := ask(t, h, "system.run.kill", map[string]any{"invokeId": "i3", "by": "me"}); !a.refused || !strings.Contains(a.Message, "no such command") {
		t.Errorf("%+v", a)
	}
	if a := ask(t, h, "system.run.kill", map[string]any{"invokeId": "i1", "by": "me"}); a.refused {
		t.Errorf("%+v", a)
	}
	a := <-r.answer
	if a.ExitCode != nil || a.Error == nil || *a.Error != "killed by me" || a.Stdout != "up\n" || a.Success || a.TimedOut {
		t.Errorf("%+v", a)
	}
	if a := <-other.answer; a.Stdout != "fine\n" || a.Error != nil {
		t.Errorf("the other one: %+v", a)
	}
	if a := ask(t, h, "system.run.kill", map[string]any{"invokeId": "i1"}); !a.refused {
		t.Errorf("a second time: %+v", a)
	}
}
