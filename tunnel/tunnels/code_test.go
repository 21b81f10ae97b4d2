package tunnels

import (
	"errors"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// TestBindCode checks the words of BIND_ERR: what may still be approved has a word of its own for peers of ours alone.
func TestBindCode(t *testing.T) {
	approval := errs.New(errs.Denied, "that takes an approval")
	approval.Code = callRequired
	for _, c := range []struct {
		name          string
		err           error
		ours, another string
	}{
		{"approval", approval, wire.ApprovalRequired, wire.InvalidHost},
		{"another refusal", errs.New(errs.Denied, "no"), wire.InvalidHost, wire.InvalidHost},
		{"reach", ErrReach, wire.InvalidHost, wire.InvalidHost},
		{"target", ErrTarget, wire.InvalidHost, wire.InvalidHost},
		{"scope", ErrScope, wire.InvalidHost, wire.InvalidHost},
		{"grants", ErrGrants, wire.BindCapExceeded, wire.BindCapExceeded},
		{"cap", bindings.ErrBindCap, wire.BindCapExceeded, wire.BindCapExceeded},
		{"kind", bindings.ErrInvalidKind, wire.InvalidKind, wire.InvalidKind},
		{"bound", bindings.ErrAlreadyBound, wire.AlreadyBound, wire.AlreadyBound},
		{"reserved", bindings.ErrReservedPort, wire.ReservedPort, wire.ReservedPort},
		{"unlinked", ErrNoNode, wire.Internal, wire.Internal},
		{"not ours", errors.New("disk"), wire.Internal, wire.Internal},
	} {
		if got := bindCode(c.err, true); got != c.ours {
			t.Errorf("%s: %s with hanzod.1, want %s", c.name, got, c.ours)
		}
		if got := bindCode(c.err, false); got != c.another {
			t.Errorf("%s: %s without hanzod.1, want %s", c.name, got, c.another)
		}
	}
}
