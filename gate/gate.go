// Package gate decides whether a caller may ask for an operation, and how often. Every door calls Admit
// before any handler; there is no other authorisation.
//
// It imports errs, identity and ops, and owns no goroutine.
package gate

import (
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
)

// The refusals. Field "role" or "scope" says which; of ErrRate, "method" says
// what was asked and "retryAfterMs" when to ask again.
var (
	ErrRole  = errs.Define(errs.Denied, "gate.role", "this operation is not for the caller's role")
	ErrScope = errs.Define(errs.Denied, "gate.scope", "the caller lacks a scope")
	ErrRate  = errs.Define(errs.Exhausted, "gate.rate", "the configuration was written too often; wait and try again")
)

// The limit of ops.RateControlPlane, which all its operations share (protocol.md §5).
const (
	controlPlaneCalls  = 3
	controlPlaneWindow = time.Minute
	// maxWindows is how many callers are counted at once. Only admins are, so more of them means that
	// somebody makes up callers; the oldest is forgotten then.
	maxWindows = 1024
)

// Gate admits calls. It is safe for concurrent use.
type Gate struct {
	mu      sync.Mutex
	windows map[string]window
}

// window counts the calls of one caller since began.
type window struct {
	began time.Time
	calls int
}

// New returns the gate.
func New() *Gate { return &Gate{windows: map[string]window{}} }

// Admit returns nil when the caller may ask for the operation. A nil operation is one that does
// not exist: it is treated as one for admins, so that nobody else learns which names exist
// (protocol.md §2.4: authorisation precedes lookup). A call that is let in counts against the limit of
// its operation, whatever comes of it.
func (g *Gate) Admit(c identity.Caller, op *ops.Operation) error {
	role, scope := identity.RoleOperator, identity.ScopeAdmin
	if op != nil {
		role, scope = op.Role, op.Scope
	}
	if c.Role != identity.RoleOperator && c.Role != identity.RoleNode && role != identity.RoleInvited {
		return ErrRole.With("role", string(c.Role))
	}
	if role == ops.AnyRole || op != nil && op.OrNode && c.Role == identity.RoleNode {
		return nil
	}
	if c.Role != role {
		return ErrRole.With("role", string(c.Role)).
			WithText("this operation is not for the role " + string(c.Role))
	}
	if scope != "" && !c.Has(scope) && (op == nil || op.OrScope == "" || !c.Has(op.OrScope)) {
		return ErrScope.With("scope", string(scope)).
			WithText("the caller lacks the scope " + string(scope))
	}
	if op != nil && op.Rate == ops.RateControlPlane {
		if wait := g.count(c); wait > 0 {
			return ErrRate.With("method", op.Name(), "retryAfterMs", (wait + time.Millisecond - 1).Milliseconds())
		}
	}
	return nil
}

// count lets a caller in controlPlaneCalls times in each window. It returns how long to wait for the next
// one, 0 for a caller that is let in.
func (g *Gate) count(c identity.Caller) time.Duration {
	now, key := time.Now(), who(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	w, ok := g.windows[key]
	// The second test is for a clock that was set back.
	if age := now.Sub(w.began); !ok || age >= controlPlaneWindow || age < 0 {
		if !ok {
			g.makeRoom(now)
		}
		w = window{began: now}
	}
	if w.calls >= controlPlaneCalls {
		return w.began.Add(controlPlaneWindow).Sub(now) // not yet over
	}
	w.calls++
	g.windows[key] = w
	return 0
}

// makeRoom forgets the windows that are over and, if all places are still taken, the oldest.
func (g *Gate) makeRoom(now time.Time) {
	if len(g.windows) < maxWindows {
		return
	}
	oldest := ""
	for k, w := range g.windows {
		if now.Sub(w.began) >= controlPlaneWindow {
			delete(g.windows, k)
		} else if oldest == "" || w.began.Before(g.windows[oldest].began) {
			oldest = k
		}
	}
	if len(g.windows) >= maxWindows {
		delete(g.windows, oldest)
	}
}

// who is what a caller's calls are counted by: its device and address, or its connection when neither
// is known.
func who(c identity.Caller) string {
	address := c.RemoteIP
	if address == "" && c.Local {
		address = "local"
	}
	if c.DeviceID == "" && address == "" {
		return "conn:" + c.ConnID
	}
	return c.DeviceID + "|" + address
}
