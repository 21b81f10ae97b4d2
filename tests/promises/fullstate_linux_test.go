package promises

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// ballast fills the disk of a directory to its last byte, until it is removed.
func ballast(t *testing.T, dir string) (remove func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// filler writes one kind of state until the disk is full. ask does the i-th write and returns nil when it is
// acknowledged; kept says what of the first n is there no more. stops says that the daemon stops on a full disk,
// because its database could keep nothing.
type filler struct {
	stops bool
	ask   func(c *dial.Conn, i int) error
	kept  func(t *testing.T, c *dial.Conn, n int)
}

func called(c *dial.Conn, t *testing.T, method string, params any) error {
	_, err := c.Call(t.Context(), method, params)
	if _, refused := errors.AsType[*dial.CallError](err); err != nil && !refused {
		return errors.Join(errGone, err)
	}
	return err
}

func fillersOf(t *testing.T) map[string]filler {
	session := func(i int) string { return fmt.Sprintf("agent:main:direct:%d", i) }
	text := func(i, size int) string { return fmt.Sprintf("%d ", i) + strings.Repeat("x", size) }
	decoded := func(t *testing.T, c *dial.Conn, method string, params, into any) {
		t.Helper()
		if err := json.Unmarshal(proc.Call(t, c, method, params), into); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]filler{
		"jobs": {
			stops: true,
			ask: func(c *dial.Conn, i int) error {
				return called(c, t, "cron.add", map[string]any{
					"name": fmt.Sprint("job ", i), "schedule": map[string]any{"kind": "every", "everyMs": 36_000_000}, "sessionTarget": "main",
					"wakeMode": "next-heartbeat", "payload": map[string]any{"kind": "systemEvent", "text": text(i, 4000)},
				})
			},
			kept: func(t *testing.T, c *dial.Conn, n int) {
				var out struct{ Total int }
				decoded(t, c, "cron.list", map[string]any{"limit": 1}, &out)
				if out.Total < n {
					t.Errorf("%d jobs were taken, and %d are there", n, out.Total)
				}
			},
		},
		"sessions": {
			stops: true,
			ask: func(c *dial.Conn, i int) error {
				return called(c, t, "sessions.patch", map[string]any{"key": session(i), "label": fmt.Sprint("label ", i)})
			},
			kept: func(t *testing.T, c *dial.Conn, n int) {
				var out struct {
					Sessions []struct{ Key string }
				}
				decoded(t, c, "sessions.list", map[string]any{"limit": 100_000}, &out)
				if len(out.Sessions) < n {
					t.Errorf("%d sessions were taken, and %d are there", n, len(out.Sessions))
				}
			},
		},
		"transcripts": {
			ask: func(c *dial.Conn, i int) error {
				if i == 0 {
					if err := called(c, t, "sessions.patch", map[string]any{"key": "main", "thinkingLevel": "low"}); err != nil {
						return err
					}
				}
				return called(c, t, "chat.inject", map[string]any{"sessionKey": "main", "message": text(i, 8000)})
			},
			kept: func(t *testing.T, c *dial.Conn, n int) {
				var out struct{ Messages []json.RawMessage }
				decoded(t, c, "chat.history", map[string]any{"sessionKey": "main", "limit": 1000}, &out)
				if len(out.Messages) < min(n, 1000) {
					t.Errorf("%d messages were taken, and %d are there", n, len(out.Messages))
				}
			},
		},
		"files": {
			ask: func(c *dial.Conn, i int) error {
				return called(c, t, "agents.files.set", map[string]any{"agentId": "main", "name": "USER.md", "content": text(i, 20_000*(i+1))})
			},
			kept: func(t *testing.T, c *dial.Conn, n int) {
				var out struct{ File struct{ Content string } }
				decoded(t, c, "agents.files.get", map[string]any{"agentId": "main", "name": "USER.md"}, &out)
				if want := text(n-1, 20_000*n); out.File.Content != want {
					t.Errorf("%d bytes were taken last, and %d are there", len(want), len(out.File.Content))
				}
			},
		},
		"configuration": {
			ask: func(c *dial.Conn, i int) error {
				var now struct{ Hash string }
				if err := json.Unmarshal(proc.Call(t, c, "config.get", map[string]any{}), &now); err != nil {
					return err
				}
				raw, err := json.Marshal(map[string]any{
					"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": proc.Token}},
					"agents":  map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}},
					"ui":      map[string]any{"assistant": map[string]any{"name": fmt.Sprint("name ", i)}},
					"logging": map[string]any{"redactPatterns": []string{text(i, 20_000*(i+1))}},
				})
				if err != nil {
					return err
				}
				return called(c, t, "config.set", map[string]any{"raw": string(raw), "baseHash": now.Hash})
			},
			kept: func(t *testing.T, c *dial.Conn, n int) {
				var out struct {
					Valid  bool
					Config struct {
						UI struct{ Assistant struct{ Name string } }
					}
				}
				decoded(t, c, "config.get", map[string]any{}, &out)
				if want := fmt.Sprint("name ", n-1); !out.Valid || out.Config.UI.Assistant.Name != want {
					t.Errorf("taken last was %q, and %q is there, valid %v", want, out.Config.UI.Assistant.Name, out.Valid)
				}
			},
		},
	}
}

// TestP1FullDiskOfEverything: whatever is written when the disk is full is refused with a text that says so, or
// the daemon stops because it could keep nothing any more; what was taken is there afterwards, and with more space
// the daemon takes more.
func TestP1FullDiskOfEverything(t *testing.T) {
	for name, f := range fillersOf(t) {
		t.Run(name, func(t *testing.T) {
			dir, grow := smallState(t)
			d := proc.Start(t, proc.Options{Form: proc.Tested, State: dir})
			c := proc.Connect(t, d.Operator(nil))
			taken := 0
			for ; taken < 3; taken++ { // what is made once is there before it gets tight
				if err := f.ask(c, taken); err != nil {
					t.Fatalf("write %d: %v", taken, err)
				}
			}
			remove := ballast(t, dir)
			var refusal error
			for refusal == nil && taken < 3000 {
				if refusal = f.ask(c, taken); refusal == nil {
					taken++
				}
			}
			t.Logf("%d writes were taken, then: %.300v", taken, refusal)
			if refusal == nil {
				t.Fatal("the disk never got full")
			}
			if errors.Is(refusal, errGone) || !strings.Contains(refusal.Error(), "no space") && !strings.Contains(refusal.Error(), "disk") {
				t.Errorf("the refusal does not say what is wrong: %v", refusal)
			}
			if f.stops {
				d.Wait(t, proc.Patience)
				if text := d.Stderr.String(); d.Code != 1 || !strings.Contains(text, "no space left") {
					t.Errorf("the daemon ended with %d: %s", d.Code, text)
				}
			} else if h := d.Ctl("health").Wait(t, proc.Patience); h.Code != 0 {
				t.Errorf("health on a full disk: %s", h.Stderr)
			}
			remove()
			grow()
			if !f.stops {
				f.kept(t, c, taken)
				d.Kill()
			}
			d.Start()
			c = proc.Connect(t, d.Operator(nil))
			f.kept(t, c, taken)
			if err := f.ask(c, taken); err != nil {
				t.Errorf("with more space: %v", err)
			}
			d.End(syscall.SIGTERM)
		})
	}
}
