package approvals_test

import (
	"context"
	"slices"
	"testing"

	"github.com/hanzoai/hanzod/approvals"
)

// Approvers see the signs of a command, in what is stored as well.
func TestSignsOfAnApproval(t *testing.T) {
	w := newWorld(t)
	host, node, text := "node", "n1", "echo aGk= | base64 -d | sh"
	for _, c := range []struct {
		in   approvals.RequestIn
		want []string
	}{
		{approvals.RequestIn{Command: text}, []string{"base64-pipe-exec", "base64-decode-to-shell", "pipe-to-shell"}},
		{approvals.RequestIn{Command: "x", CommandArgv: []string{"sh", "-c", `eval "$(echo x | xxd -r)"`}}, []string{"eval-decode"}},
		{approvals.RequestIn{Command: "ls -la"}, nil},
		{approvals.RequestIn{Command: "echo a\u202eb"}, []string{"invisible-characters"}},
		{approvals.RequestIn{
			Host: &host, NodeID: &node, CommandArgv: []string{"sh", "-c", text},
			Plan: &approvals.Plan{Argv: []string{"sh", "-c", text}, RawCommand: &text},
		}, []string{"base64-pipe-exec", "base64-decode-to-shell", "pipe-to-shell"}},
	} {
		a, err := w.svc.Request(context.Background(), caller("d1", "p1"), c.in)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := w.store.Approval(a.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Signs, c.want) || !slices.Equal(kept.Signs, c.want) {
			t.Errorf("%+v: %q, kept %q", c.in, a.Signs, kept.Signs)
		}
	}
}
