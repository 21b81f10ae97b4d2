//go:build unix

package interop

import (
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// What the published client reads of sessions and their cost.
func TestCLISessions(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	for _, tc := range []struct {
		method, text string
		args         []string
	}{
		{"usage.cost", "0", []string{"gateway", "usage-cost"}},
		{"sessions.list", `"sessions"`, []string{"gateway", "call", "sessions.list"}},
		{"chat.history", `"messages"`, []string{"gateway", "call", "chat.history", "--params", `{"sessionKey":"main"}`}},
	} {
		t.Run(tc.method, func(t *testing.T) {
			t.Parallel()
			u.call(t, tc.args...).demand(t, 0, tc.text)
		})
	}
}
