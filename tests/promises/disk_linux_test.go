package promises

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// smallDisk holds a fresh database and some questions, in KiB.
	smallDisk = 1500
	// fullAfter ends a filling whose disk never gets full; the daemon takes no more open questions.
	fullAfter = 900
)

// smallState is a state directory on a small file system of its own, and what makes that larger.
func smallState(t *testing.T) (dir string, grow func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir = proc.Dir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", smallDisk)); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func() {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}
}

// question is the text of a question that takes space.
func question(i int) (id, command string) {
	return fmt.Sprintf("full-%04d", i), strings.Repeat("x", 4000)
}

// errGone says that the daemon ended while it was asked.
var errGone = errors.New("the daemon has gone")

// doors are the ways to ask. Each returns nil when the question was taken, and the text of a
// refusal otherwise.
var doors = map[string]func(t *testing.T, d *proc.Daemon) func(i int) error{
	"legacy": func(t *testing.T, d *proc.Daemon) func(int) error {
		c := proc.Connect(t, d.Operator(nil))
		return func(i int) error {
			id, command := question(i)
			accepted, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				_, err := c.CallTwoPhase(context.Background(), "exec.approval.request",
					map[string]any{"id": id, "command": command, "timeoutMs": 3_600_000, "twoPhase": true}, func(json.RawMessage) { close(accepted) })
				ended <- err
			}()
			select {
			case <-accepted:
				return nil
			case err := <-ended:
				if _, ok := errors.AsType[*dial.CallError](err); !ok {
					return errors.Join(errGone, err)
				}
				return err
			}
		}
	},
	"grpc": func(t *testing.T, d *proc.Daemon) func(int) error {
		c := d.Client(t)
		return func(i int) error {
			id, command := question(i)
			_, err := c.Approvals.RequestApproval(t.Context(), &approvalsv1.RequestApprovalRequest{Id: id, Command: command})
			if e, ok := errors.AsType[*client.Error](err); err != nil && (!ok || e.Code == client.CodeLost) {
				return errors.Join(errGone, err)
			}
			return err
		}
	},
	"rest": func(t *testing.T, d *proc.Daemon) func(int) error {
		return func(i int) error {
			id, command := question(i)
			body, err := json.Marshal(map[string]string{"id": id, "command": command, "timeout": "3600s"})
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.URL()+"/v1/approvals", strings.NewReader(string(body)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+proc.Token)
			req.Header.Set("Content-Type", "application/json")
			res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				return errors.Join(errGone, err)
			}
			defer res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			var problem struct {
				Detail string `json:"detail"`
			}
			if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
				return err
			}
			return errors.New(problem.Detail)
		}
	},
}

// TestP1FullDisk: when the disk is full a question is refused with a text that says so, by every
// door; the daemon stops, because it could keep nothing any more; and with more space everything
// that was taken is there.
func TestP1FullDisk(t *testing.T) {
	for name, door := range doors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, grow := smallState(t)
			d := proc.Start(t, proc.Options{Form: proc.Tested, State: dir})
			ask := door(t, d)
			taken := 0
			var refusal error
			for refusal == nil && taken < fullAfter {
				if refusal = ask(taken); refusal == nil {
					taken++
				}
			}
			t.Logf("%d questions were taken, then: %v", taken, refusal)
			if refusal == nil || taken < 5 {
				t.Fatalf("%d questions were taken, then: %v", taken, refusal)
			}
			if errors.Is(refusal, errGone) || !strings.Contains(refusal.Error(), "disk") {
				t.Errorf("the refusal does not say what is wrong: %v", refusal)
			}
			d.Wait(t, proc.Patience)
			if text := d.Stderr.String(); d.Code != 1 || !strings.Contains(text, "no space left") {
				t.Errorf("the daemon ended with %d: %s", d.Code, text)
			}
			grow()
			s, err := store.Open(t.Context(), dir, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(t.Context()); err != nil {
				t.Error(err)
			}
			for i := range taken {
				id, command := question(i)
				if a, err := s.Approval(id); err != nil || a.Command != command || a.State != approvals.Pending {
					t.Errorf("%s was taken, and now: %s, %v", id, a.State, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			d.Start()
			if err := door(t, d)(taken + 1); err != nil {
				t.Errorf("with more space: %v", err)
			}
			d.End(syscall.SIGTERM)
		})
	}
}
