//go:build unix

package interop

import (
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestCLILater lists what users of the client will miss, and demands that they are told so: each
// command needs a method that hanzod does not serve yet. Once it does, its row belongs to a test of what
// the command does.
func TestCLILater(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	for _, tc := range []struct {
		method string
		code   int
		args   []string
	}{
		{"usage.cost", 1, []string{"gateway", "usage-cost"}},
		{"sessions.list", 1, []string{"gateway", "call", "sessions.list"}},
		{"chat.history", 1, []string{"gateway", "call", "chat.history", "--params", `{"sessionKey":"main"}`}},
	} {
		t.Run(tc.method, func(t *testing.T) {
			t.Parallel()
			u.call(t, tc.args...).demand(t, tc.code, tc.method+" is not served by this version of hanzod yet")
		})
	}
}
