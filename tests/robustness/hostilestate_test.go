//go:build unix

package robustness

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// outside is what no client may see of the machine through the state directory.
const outside = "a secret outside of the state directory"

// traps are what may stand where the daemon expects a file or a directory of its own.
var traps = map[string]func(t *testing.T, path string){
	"pipe": func(t *testing.T, path string) {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	},
	"directory": func(t *testing.T, path string) {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	},
	"link to nowhere": func(t *testing.T, path string) {
		if err := os.Symlink(filepath.Join(proc.Dir(t), "none", "none"), path); err != nil {
			t.Fatal(err)
		}
	},
	"link outside": func(t *testing.T, path string) {
		target := filepath.Join(proc.Dir(t), "outside")
		if err := os.WriteFile(target, []byte(outside+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	},
	"huge file": func(t *testing.T, path string) {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(1 << 40); err != nil { // it takes no space
			t.Skip(err)
		}
	},
	"text": func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte("\x00\xff nonsense {"), 0o400); err != nil {
			t.Fatal(err)
		}
	},
}

// TestHostileStateAtStart: whatever stands in the place of a file, the daemon starts soon and works, or ends soon and
// says what is in its way. It never hangs, and nothing panics.
func TestHostileStateAtStart(t *testing.T) {
	for _, name := range []string{
		"config.json", "config.last-good.json", "policy.json", "exec-approvals.json", "hanzod.db", "hanzod.lock", "audit.head",
		"logs", "logs/hanzod.log", "agents", "agents/main", "agents/main/sessions", "agents/main/sessions/sessions.json", "workspace", "canvas", "a2ui",
	} {
		for trap, set := range traps {
			if !long() && (trap != "pipe" || strings.Count(name, "/") > 1) {
				continue // a pipe is what makes a daemon hang
			}
			t.Run(strings.ReplaceAll(name, "/", "-")+"/"+trap, func(t *testing.T) {
				t.Parallel()
				d := proc.New(t, proc.Options{Form: proc.Shipped})
				path := filepath.Join(d.State, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				_ = os.RemoveAll(path) // the configuration
				set(t, path)
				d.Spawn()
				began := time.Now()
				for !d.Ended() {
					if h := d.Ctl("health", "--timeout", "5s"); h.Wait(t, proc.Patience).Code == 0 {
						break
					}
					if time.Since(began) > proc.Patience {
						t.Fatalf("after %s it neither serves nor ends: %s", proc.Patience, d.Stderr)
					}
				}
				if faults := proc.Faults(d.Stderr.String()); len(faults) > 0 {
					t.Errorf("%v", faults)
				}
				if d.Ended() {
					text := d.Stderr.String()
					if !strings.Contains(text, filepath.Base(name)) && !strings.Contains(text, filepath.Base(filepath.Dir(path))) {
						t.Errorf("it ended with %d and does not say what is in its way: %s", d.Code, text)
					}
					return
				}
				if strings.Contains(d.Stderr.String(), outside) {
					t.Error("it shows what is outside")
				}
				d.End(syscall.SIGTERM)
			})
		}
	}
}

// TestHostileTranscripts: what stands in the place of a transcript of a running daemon is told as an error or as
// nothing, is never read beyond the state directory, and holds up nobody.
func TestHostileTranscripts(t *testing.T) {
	for trap, set := range traps {
		t.Run(trap, func(t *testing.T) {
			t.Parallel()
			d := proc.Start(t, proc.Options{Form: proc.Shipped})
			c := proc.Connect(t, d.Operator(nil))
			var made struct{ Entry struct{ SessionID string } }
			if err := json.Unmarshal(proc.Call(t, c, "sessions.patch", map[string]any{"key": "main", "label": "x"}), &made); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.State, "agents", "main", "sessions", made.Entry.SessionID+".jsonl")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			_ = os.RemoveAll(path)
			set(t, path)
			for method, params := range map[string]any{
				"chat.history": map[string]any{"sessionKey": "main"}, "sessions.get": map[string]any{"key": "main"},
				"sessions.preview": map[string]any{"keys": []string{"main"}}, "sessions.usage": map[string]any{}, "usage.cost": map[string]any{},
				"sessions.usage.logs": map[string]any{"key": "main"}, "chat.inject": map[string]any{"sessionKey": "main", "message": "hello"},
				"sessions.list": map[string]any{"includeDerivedTitles": true, "includeLastMessage": true}, "sessions.compact": map[string]any{"key": "main"},
			} {
				began := time.Now()
				out, err := callWithin(t, c, method, params)
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("%s took %v", method, took)
				}
				if strings.Contains(string(out), outside) || err != nil && strings.Contains(err.Error(), outside) {
					t.Errorf("%s shows what is outside: %s, %v", method, out, err)
				}
			}
			if h := d.Ctl("health").Wait(t, proc.Patience); h.Code != 0 {
				t.Errorf("health: %s", h.Stderr)
			}
			if faults := proc.Faults(d.Stderr.String()); len(faults) > 0 {
				t.Errorf("%v", faults)
			}
		})
	}
}

func callWithin(t *testing.T, c *dial.Conn, method string, params any) (json.RawMessage, error) {
	t.Helper()
	out, err := c.Call(t.Context(), method, params)
	if err != nil && proc.Refusal(err) == nil {
		t.Fatalf("%s: %v", method, err)
	}
	return out, err
}
