package identity_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

type scopes = []identity.Scope

// operator is a caller without a device, as the shared secret makes it.
func operator(held ...identity.Scope) identity.Caller {
	return identity.Caller{Role: identity.RoleOperator, Scopes: held, Principal: "conn:1", ConnID: "1"}
}

// asDevice is a caller that a paired device is.
func asDevice(dev string, held ...identity.Scope) identity.Caller {
	c := operator(held...)
	c.DeviceID, c.Paired = id(dev), true
	return c
}

// ask leaves a request of a device that is elsewhere, and returns its id.
func (w *world) ask(dev string, role identity.Role, wanted ...identity.Scope) string {
	w.tb.Helper()
	a := w.attempt(dev, wanted...)
	a.Peer.Local, a.Role = false, role
	_, err := w.admit(a)
	e, ok := errs.As(err)
	if !ok || !errors.Is(e, identity.ErrPairingRequired) || e.Field("requestId") == "" {
		w.tb.Fatalf("%s asks: %v", dev, err)
	}
	return e.Field("requestId")
}

func (w *world) approve(c identity.Caller, request string) error {
	_, err := w.svc.Approve(context.Background(), c, identity.ApproveIn{RequestID: request})
	return err
}

func (w *world) device(dev string) identity.Device {
	w.tb.Helper()
	d, _, err := w.store.Device(id(dev))
	if err != nil {
		w.tb.Fatal(err)
	}
	return d
}

// said is an error in short.
func said(err error) string {
	if err == nil {
		return "ok"
	}
	e, ok := errs.As(err)
	if !ok {
		return err.Error()
	}
	return strings.TrimSpace(strings.TrimPrefix(e.Code, "identity.") + " " + e.Field("scope"))
}

// kinds are the rows of the audit log, with who did it.
func (w *world) kinds() string {
	w.tb.Helper()
	rows, err := w.store.Audit(0, 1000)
	if err != nil {
		w.tb.Fatal(err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, r.Kind+" by "+strings.NewReplacer(id("d"), "d", id("e"), "e").Replace(r.Subject))
	}
	return strings.Join(out, ", ")
}

// Nobody lets in more than he is (CVE-2026-33579, CVE-2026-33577).
func TestApproveBounds(t *testing.T) {
	for _, c := range []struct {
		role   identity.Role
		wanted scopes
		caller identity.Caller
		want   string
	}{
		{"operator", scopes{"operator.read"}, operator("operator.pairing"), "beyond_caller operator.read"},
		{"operator", scopes{"operator.read"}, operator("operator.pairing", "operator.read"), "ok"},
		{"operator", scopes{"operator.read"}, operator("operator.pairing", "operator.write"), "ok"},
		{"operator", scopes{"operator.write"}, operator("operator.pairing", "operator.read"), "beyond_caller operator.write"},
		{"operator", scopes{"operator.pairing", "operator.admin"}, operator("operator.pairing"), "beyond_caller operator.admin"},
		{"operator", scopes{"operator.talk.secrets"}, operator("operator.pairing", "operator.write"), "beyond_caller operator.talk.secrets"},
		{"operator", scopes{"anything"}, operator("operator.pairing"), "beyond_caller anything"},
		{"operator", scopes{"operator.admin"}, operator("operator.admin"), "ok"},
		{"operator", scopes{"anything"}, operator("operator.admin"), "ok"},
		{"operator", nil, operator("operator.pairing"), "ok"},
		{"node", nil, operator("operator.pairing", "operator.write", "operator.approvals", "operator.read"), "beyond_caller operator.admin"},
		{"node", nil, operator("operator.admin"), "ok"},
		{"operator", nil, identity.Caller{Role: identity.RoleNode, Scopes: scopes{"operator.admin"}}, "beyond_caller operator.admin"},
		{"operator", nil, identity.Caller{}, "beyond_caller operator.admin"},
	} {
		w := newWorld(t, identity.AuthNone)
		request := w.ask("d", c.role, c.wanted...)
		got := said(w.approve(c.caller, request))
		if got != c.want {
			t.Errorf("%s with %v by %v: %s, want %s", c.role, c.wanted, c.caller.Scopes, got, c.want)
		}
		_, paired, _ := w.store.Device(id("d"))
		list, err := w.svc.List(context.Background(), operator("operator.pairing"))
		if err != nil || paired != (c.want == "ok") || (len(list.Pending) == 0) != paired {
			t.Errorf("%s with %v: paired %v, %d pending, %v", c.role, c.wanted, paired, len(list.Pending), err)
		}
	}
}

// A request without scopes gets those of the token before: nobody gives them back who does not hold them.
func TestApproveBoundsOldScopes(t *testing.T) {
	w := newWorld(t, identity.AuthNone)
	w.pair("d", identity.RoleOperator, "operator.admin")
	w.revoke("d", identity.RoleOperator)
	request := w.ask("d", identity.RoleOperator)
	if got := said(w.approve(operator("operator.pairing"), request)); got != "beyond_caller operator.admin" {
		t.Error(got)
	}
}

// What a revocation took away does not come back because somebody approves, or rotates to, less.
func TestRevokedGrantsStayAway(t *testing.T) {
	for name, again := range map[string]func(*world) error{
		"approval": func(w *world) error {
			return w.approve(operator("operator.pairing", "operator.read"), w.ask("d", identity.RoleOperator, "operator.read"))
		},
		"rotation": func(w *world) error {
			_, err := w.svc.RotateToken(context.Background(), operator("operator.pairing", "operator.read"),
				identity.RotateIn{DeviceID: id("d"), Role: identity.RoleOperator, Scopes: scopes{"operator.read"}})
			return err
		},
	} {
		w := newWorld(t, identity.AuthNone)
		w.pair("d", identity.RoleOperator, "operator.admin")
		w.pair("d", identity.RoleOperator, "operator.admin", "operator.read")
		w.revoke("d", identity.RoleOperator)
		if err := again(w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for want, verdictWant := range map[identity.Scope]string{"operator.read": "in paired token", "operator.admin": "pairing_required scope-upgrade"} {
			a := w.attempt("d", want)
			a.Peer.Local = false
			if got := verdict(w.admit(a)); got != verdictWant {
				t.Errorf("%s: connecting with %s: %s", name, want, got)
			}
		}
		if d := w.device("d"); !slices.Equal(d.ApprovedScopes, scopes{"operator.read"}) {
			t.Errorf("%s: approved are %v", name, d.ApprovedScopes)
		}
	}
}

// The role that was not revoked keeps what it has.
func TestRevokeOneRole(t *testing.T) {
	w := newWorld(t, identity.AuthNone)
	w.pair("d", identity.RoleOperator, "operator.write")
	if err := w.approve(identity.Internal(), w.ask("d", identity.RoleNode)); err != nil {
		t.Fatal(err)
	}
	w.revoke("d", identity.RoleNode)
	a := w.attempt("d", "operator.write")
	if got := verdict(w.admit(a)); got != "in paired token" {
		t.Errorf("as operator: %s", got)
	}
	a.Role, a.Scopes = identity.RoleNode, nil
	if got := verdict(w.admit(a)); got != "pairing_required role-upgrade" {
		t.Errorf("as node: %s", got)
	}
	if err := w.approve(identity.Internal(), w.ask("d", identity.RoleNode)); err != nil {
		t.Fatal(err)
	}
	if got := verdict(w.admit(a)); got != "in paired token" {
		t.Errorf("as node, repaired: %s", got)
	}
	// Nor do a smaller token and another end of the other role take anything away.
	if _, err := w.svc.RotateToken(context.Background(), identity.Internal(), identity.RotateIn{DeviceID: id("d"), Role: "operator", Scopes: scopes{}}); err != nil {
		t.Fatal(err)
	}
	w.revoke("d", identity.RoleNode)
	if err := w.approve(identity.Internal(), w.ask("d", identity.RoleNode)); err != nil {
		t.Fatal(err)
	}
	if d := w.device("d"); !identity.ScopesAllow(identity.RoleOperator, scopes{"operator.write"}, d.ApprovedScopes) {
		t.Errorf("the operator lost %v", d.ApprovedScopes)
	}
}

// What is approved for a node is not found again when it comes as an operator.
func TestNodeScopesAreNoOperatorScopes(t *testing.T) {
	w := newWorld(t, identity.AuthNone)
	if err := w.approve(operator("operator.admin"), w.ask("d", identity.RoleNode, "operator.admin", "mine")); err != nil {
		t.Fatal(err)
	}
	if d := w.device("d"); !slices.Equal(d.ApprovedScopes, scopes{"mine"}) || !slices.Equal(d.Tokens["node"].Scopes, scopes{"mine"}) {
		t.Errorf("%v %v", d.ApprovedScopes, d.Tokens["node"].Scopes)
	}
	if err := w.approve(operator("operator.pairing"), w.ask("d", identity.RoleOperator)); err == nil {
		t.Error("its scopes of old are given away by who does not hold them")
	}
	if err := w.approve(operator("operator.pairing", "mine"), w.ask("d", identity.RoleOperator)); err != nil {
		t.Fatal(err)
	}
	a := w.attempt("d", "operator.admin")
	a.Peer.Local = false
	if got := verdict(w.admit(a)); got != "pairing_required scope-upgrade" {
		t.Error(got)
	}
	_, err := w.svc.RotateToken(context.Background(), identity.Internal(), identity.RotateIn{DeviceID: id("d"), Role: "node", Scopes: scopes{"operator.admin"}})
	if got := said(err); got != "unknown_token" {
		t.Errorf("rotating to them: %s", got)
	}
}

// A revoked device does not come back by what lets others in without asking.
func TestRevokedStaysRevoked(t *testing.T) {
	for _, c := range []struct {
		name string
		role identity.Role
		edit func(*identity.Attempt)
	}{
		{"on this machine", identity.RoleOperator, func(*identity.Attempt) {}},
		{"with more scopes", identity.RoleOperator, func(a *identity.Attempt) { a.Scopes = scopes{"operator.admin"} }},
		{"as the Control UI", identity.RoleOperator, func(a *identity.Attempt) { a.ControlUI, a.Peer.HasOrigin = true, true }},
		{"as a backend", identity.RoleOperator, func(a *identity.Attempt) { a.ClientID, a.ClientMode = "gateway-client", "backend" }},
		{"as a node with the secret", identity.RoleNode, func(*identity.Attempt) {}},
		{"from elsewhere", identity.RoleOperator, func(a *identity.Attempt) { a.Peer.Local = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, identity.AuthNone)
			w.pair("d", c.role, "operator.read")
			w.revoke("d", c.role)
			w.auth = identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}
			w.open() // a restart does not help either
			a := w.attempt("d", "operator.read")
			a.Role = c.role
			c.edit(&a)
			for range 2 {
				if got := verdict(w.admit(a)); got != "pairing_required role-upgrade" {
					t.Errorf("%s", got)
				}
			}
			list, err := w.svc.List(context.Background(), identity.Internal())
			if err != nil || len(list.Pending) != 1 || !list.Pending[0].Repair {
				t.Fatalf("%+v %v", list.Pending, err)
			}
			if err := w.approve(identity.Internal(), list.Pending[0].RequestID); err != nil {
				t.Fatal(err)
			}
			if got := verdict(w.admit(a)); got != "in paired token" {
				t.Errorf("repaired: %s", got)
			}
		})
	}
}

// Rotation stays within what was approved and what the caller holds (CVE-2026-32922).
func TestRotateBounds(t *testing.T) {
	admin := operator("operator.admin")
	for _, c := range []struct {
		name   string
		caller identity.Caller
		in     identity.RotateIn
		want   string
	}{
		{"as it is", admin, identity.RotateIn{Role: "operator"}, "ok"},
		{"less", admin, identity.RotateIn{Role: "operator", Scopes: scopes{"operator.read"}}, "ok"},
		{"none", admin, identity.RotateIn{Role: "operator", Scopes: scopes{}}, "ok"},
		{"implied", admin, identity.RotateIn{Role: "operator", Scopes: scopes{"operator.write", "operator.read", "operator.write"}}, "ok"},
		{"more than was approved", admin, identity.RotateIn{Role: "operator", Scopes: scopes{"operator.admin"}}, "unknown_token"},
		{"something else", admin, identity.RotateIn{Role: "operator", Scopes: scopes{"operator.read", "x"}}, "unknown_token"},
		{"a role it has not", admin, identity.RotateIn{Role: "node"}, "unknown_token"},
		{"no role", admin, identity.RotateIn{}, "unknown_token"},
		{"another device", admin, identity.RotateIn{DeviceID: id("x"), Role: "operator"}, "unknown_token"},
		{"no device", admin, identity.RotateIn{DeviceID: "missing", Role: "operator"}, "unknown_token"},
		{"by less", operator("operator.pairing"), identity.RotateIn{Role: "operator"}, "beyond_caller operator.write"},
		{"by less, to less", operator("operator.pairing", "operator.read"), identity.RotateIn{Role: "operator", Scopes: scopes{"operator.read"}}, "ok"},
		{"by less, to more", operator("operator.pairing", "operator.read"), identity.RotateIn{Role: "operator", Scopes: scopes{"operator.write"}}, "beyond_caller operator.write"},
		{"by itself", asDevice("d", "operator.pairing", "operator.write"), identity.RotateIn{Role: "operator"}, "ok"},
		{"by itself with less", asDevice("d", "operator.pairing"), identity.RotateIn{Role: "operator", Scopes: scopes{"operator.write"}}, "beyond_caller operator.write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, identity.AuthToken)
			old := w.pair("d", identity.RoleOperator, "operator.write", "operator.pairing")
			if c.in.DeviceID == "" {
				c.in.DeviceID = id("d")
			}
			before := w.device("d")
			out, err := w.svc.RotateToken(context.Background(), c.caller, c.in)
			if got := said(err); got != c.want {
				t.Fatalf("%s, want %s", got, c.want)
			}
			oldCaller, oldErr := w.svc.Bearer(context.Background(), old, identity.Peer{})
			if err != nil {
				if oldErr != nil || w.device("d").Tokens["operator"].Token != before.Tokens["operator"].Token {
					t.Errorf("a refused rotation changed something: %+v %v", oldCaller, oldErr)
				}
				return
			}
			got, err := w.svc.Bearer(context.Background(), out.Token, identity.Peer{})
			if err != nil || oldErr == nil || !slices.Equal(got.Scopes, out.Scopes) || len(out.Token) != 43 {
				t.Errorf("new %+v %v, old %v", got, err, oldErr)
			}
		})
	}
}

// A node token is an admin's to rotate, or its device's own.
func TestRotateNodeToken(t *testing.T) {
	for _, c := range []struct {
		caller identity.Caller
		want   string
	}{
		{operator("operator.admin"), "ok"},
		{operator("operator.pairing", "operator.write"), "beyond_caller operator.admin"},
		{asDevice("e", "operator.pairing"), "beyond_caller operator.admin"},
		{asDevice("d", "operator.pairing"), "ok"},
	} {
		w := newWorld(t, identity.AuthNone)
		w.pair("d", identity.RoleNode)
		w.pair("e", identity.RoleOperator, "operator.pairing")
		_, err := w.svc.RotateToken(context.Background(), c.caller, identity.RotateIn{DeviceID: id("d"), Role: "node"})
		if got := said(err); got != c.want {
			t.Errorf("by %v of %s: %s, want %s", c.caller.Scopes, c.caller.DeviceID, got, c.want)
		}
	}
}

// A device that is no admin ends what it does not exceed, and itself (GHSA-xrq9-jm7v-g9h7).
func TestEndBounds(t *testing.T) {
	for _, c := range []struct {
		name   string
		role   identity.Role
		held   scopes
		caller identity.Caller
		want   string
	}{
		{"an equal", "operator", scopes{"operator.read"}, asDevice("e", "operator.pairing", "operator.read"), "ok"},
		{"one that holds more", "operator", scopes{"operator.admin"}, asDevice("e", "operator.pairing"), "beyond_caller operator.admin"},
		{"a node", "node", nil, asDevice("e", "operator.pairing"), "beyond_caller operator.admin"},
		{"itself", "operator", scopes{"operator.write", "operator.pairing"}, asDevice("d", "operator.pairing"), "ok"},
		{"by an admin device", "operator", scopes{"operator.admin"}, asDevice("e", "operator.admin"), "ok"},
		{"by who has the secret", "operator", scopes{"operator.admin"}, operator("operator.pairing"), "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, op := range []string{"revoke", "remove"} {
				w := newWorld(t, identity.AuthNone)
				w.pair("d", c.role, c.held...)
				w.pair("e", identity.RoleOperator, c.caller.Scopes...)
				var err error
				if op == "revoke" {
					_, err = w.svc.RevokeToken(context.Background(), c.caller, identity.RevokeIn{DeviceID: id("d"), Role: c.role})
				} else {
					_, err = w.svc.Remove(context.Background(), c.caller, identity.RemoveIn{DeviceID: id("d")})
				}
				if got := said(err); got != c.want {
					t.Errorf("%s: %s, want %s", op, got, c.want)
				}
				d, exists, _ := w.store.Device(id("d"))
				ended := !exists || !d.Tokens[c.role].RevokedAt.IsZero()
				if ended != (c.want == "ok") {
					t.Errorf("%s: ended %v", op, ended)
				}
			}
		})
	}
}

// Who was removed or revoked changes nothing more, even by a call that is under way.
func TestEndedCallersChangeNothing(t *testing.T) {
	for name, end := range map[string]func(*world){
		"removed": func(w *world) {
			if _, err := w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id("e")}); err != nil {
				t.Fatal(err)
			}
		},
		"revoked": func(w *world) { w.revoke("e", identity.RoleOperator) },
	} {
		w := newWorld(t, identity.AuthToken)
		w.pair("e", identity.RoleOperator, "operator.admin")
		w.pair("v", identity.RoleOperator, "operator.read")
		request := w.ask("d", identity.RoleOperator, "operator.read")
		c := asDevice("e", "operator.admin")
		end(w)
		ctx := context.Background()
		for op, do := range map[string]func() error{
			"approve": func() error { return w.approve(c, request) },
			"reject":  func() error { return second(w.svc.Reject(ctx, c, identity.RejectIn{RequestID: request})) },
			"remove":  func() error { return second(w.svc.Remove(ctx, c, identity.RemoveIn{DeviceID: id("v")})) },
			"revoke": func() error {
				return second(w.svc.RevokeToken(ctx, c, identity.RevokeIn{DeviceID: id("v"), Role: "operator"}))
			},
			"rotate": func() error {
				return second(w.svc.RotateToken(ctx, c, identity.RotateIn{DeviceID: id("v"), Role: "operator"}))
			},
			"invite": func() error { return second(w.svc.CreateInvite(ctx, c, identity.InviteIn{Role: "node"})) },
		} {
			if got := said(do()); got != "ended" {
				t.Errorf("%s, %s: %s", name, op, got)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Unknown things are said to be unknown, and nothing happens.
func TestUnknown(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.pair("d", identity.RoleOperator, "operator.read")
	ctx, c := context.Background(), identity.Internal()
	n := len(w.events)
	for _, bad := range []string{"", "missing", strings.Repeat("x", 5000), "\xff", strings.ToUpper(id("d"))} {
		for want, err := range map[string]error{
			"unknown_request": w.approve(c, bad),
			"unknown_device":  second(w.svc.Remove(ctx, c, identity.RemoveIn{DeviceID: bad})),
			"unknown_token":   second(w.svc.RevokeToken(ctx, c, identity.RevokeIn{DeviceID: bad, Role: "operator"})),
		} {
			if got := said(err); got != want {
				t.Errorf("%q: %s, want %s", bad, got, want)
			}
		}
		if got := said(second(w.svc.Reject(ctx, c, identity.RejectIn{RequestID: bad}))); got != "unknown_request" {
			t.Errorf("reject %q: %s", bad, got)
		}
	}
	if len(w.events) != n || w.kinds() != "device.pair by device:d" {
		t.Errorf("%v %s", w.events[n:], w.kinds())
	}
}

// A request is decided once, whoever is first, and is gone after its time.
func TestRequestLife(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	request := w.ask("d", identity.RoleOperator, "operator.read")
	if _, err := w.svc.Reject(context.Background(), operator("operator.pairing"), identity.RejectIn{RequestID: request}); err != nil {
		t.Fatal(err)
	}
	if got := said(w.approve(identity.Internal(), request)); got != "unknown_request" {
		t.Errorf("approved after it was rejected: %s", got)
	}
	request = w.ask("d", identity.RoleOperator, "operator.read")
	w.clock = w.clock.Add(identity.PendingTTL + time.Millisecond)
	if got := said(w.approve(identity.Internal(), request)); got != "unknown_request" {
		t.Errorf("approved after its time: %s", got)
	}
	request = w.ask("d", identity.RoleOperator, "operator.read")
	w.clock = w.clock.Add(-24 * time.Hour) // a clock that is set back does not make it stand for longer
	if got := said(w.approve(identity.Internal(), request)); got != "unknown_request" {
		t.Errorf("approved after the clock was set back: %s", got)
	}
	request = w.ask("d", identity.RoleOperator, "operator.read")
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := map[string]int{}
	for i := range 20 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				err = w.approve(identity.Internal(), request)
			} else {
				_, err = w.svc.Reject(context.Background(), identity.Internal(), identity.RejectIn{RequestID: request})
			}
			mu.Lock()
			defer mu.Unlock()
			done[said(err)]++
		})
	}
	wg.Wait()
	if done["ok"] != 1 || done["unknown_request"] != 19 {
		t.Errorf("%v", done)
	}
}

// Open requests outlast a restart, with their time; what is over does not come back.
func TestRequestsAreKept(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	request := w.ask("d", identity.RoleOperator, "operator.read")
	old := w.ask("e", identity.RoleOperator, "operator.read")
	w.clock = w.clock.Add(4 * time.Minute)
	again := w.attempt("d", "operator.read")
	again.Peer.Local, again.DisplayName = false, "another name"
	_, _ = w.admit(again) // renews it, and costs no write
	w.open()
	list, err := w.svc.List(context.Background(), identity.Internal())
	if err != nil || len(list.Pending) != 2 || list.Pending[0].DisplayName != "" {
		t.Fatalf("%+v %v", list.Pending, err)
	}
	if got := w.ask("d", identity.RoleOperator, "operator.read"); got != request {
		t.Error("after the restart it is another request")
	}
	w.clock = w.clock.Add(2 * time.Minute)
	w.open()
	if got := said(w.approve(identity.Internal(), old)); got != "unknown_request" {
		t.Errorf("an old request after a restart: %s", got)
	}
	w.ask("f", identity.RoleOperator)
	rows, err := w.store.Requests()
	if err != nil || len(rows) != 1 {
		t.Errorf("%d records are left: %v", len(rows), err)
	}
}

// Each decision leaves one row, a refusal none, and each change is announced after it is on disk.
func TestAuditAndEvents(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	ctx := context.Background()
	by := asDevice("e", "operator.admin")
	w.pair("e", identity.RoleOperator, "operator.admin")
	w.events = nil
	_ = w.approve(operator("operator.pairing"), w.ask("d", identity.RoleOperator, "operator.admin"))
	if _, err := w.svc.Reject(ctx, by, identity.RejectIn{RequestID: w.ask("d", identity.RoleOperator, "operator.admin")}); err != nil {
		t.Fatal(err)
	}
	if err := w.approve(by, w.ask("d", identity.RoleOperator, "operator.read")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.svc.RotateToken(ctx, by, identity.RotateIn{DeviceID: id("d"), Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.svc.RevokeToken(ctx, by, identity.RevokeIn{DeviceID: id("d"), Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.svc.Remove(ctx, by, identity.RemoveIn{DeviceID: id("d")}); err != nil {
		t.Fatal(err)
	}
	if got, want := w.kinds(), "device.pair by device:e, device.reject by device:e, device.approve by device:e, "+
		"device.rotate by device:e, device.revoke by device:e, device.remove by device:e"; got != want {
		t.Errorf("audit\n%s, want\n%s", got, want)
	}
	rows, _ := w.store.Audit(2, 1)
	if len(rows) != 1 || rows[0].DeviceID != id("d") || rows[0].Role != "operator" || !slices.Equal(rows[0].Scopes, scopes{"operator.read"}) || rows[0].RequestID == "" || !rows[0].At.Equal(w.clock) {
		t.Errorf("%+v", rows)
	}
	if got, want := strings.Join(w.events, ", "), "device.pair.requested, device.pair.resolved rejected, device.pair.requested, "+
		"device.pair.resolved approved, device.ended, device.ended, device.ended"; got != want {
		t.Errorf("events\n%s, want\n%s", got, want)
	}
}

// Nobody is shown a token by listing or approving.
func TestTokensAreNotShown(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	token := w.pair("d", identity.RoleOperator, "operator.read")
	out, err := w.svc.Approve(context.Background(), identity.Internal(), identity.ApproveIn{RequestID: w.ask("e", identity.RoleOperator, "operator.read")})
	list, err2 := w.svc.List(context.Background(), identity.Internal())
	if err != nil || err2 != nil || len(list.Devices) != 2 {
		t.Fatalf("%v %v", err, err2)
	}
	text := fmt.Sprintf("%+v %+v", out, list)
	if strings.Contains(text, token) || strings.Contains(text, w.device("e").Tokens["operator"].Token) {
		t.Error("a token is shown")
	}
}

// The lookups follow removal and rotation, however many devices come and go.
func TestLookupsAreEmptied(t *testing.T) {
	w := newWorld(t, identity.AuthNone)
	for i := range 20 {
		dev := fmt.Sprint("n", i)
		w.pair(dev, identity.RoleNode)
		if _, err := w.svc.RotateToken(context.Background(), identity.Internal(), identity.RotateIn{DeviceID: id(dev), Role: "node"}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id(dev)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.svc.PairedNodes()); n != 0 || identity.Indexed(w.svc) != 0 {
		t.Errorf("%d nodes and %d tokens are left", n, identity.Indexed(w.svc))
	}
}

// A connection that is just being let in while its device ends is refused by Confirm, whatever it ended by.
func TestConfirm(t *testing.T) {
	for name, end := range map[string]func(*world, string) error{
		"removed": func(w *world, _ string) error {
			return second(w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id("d")}))
		},
		"revoked": func(w *world, _ string) error {
			return second(w.svc.RevokeToken(context.Background(), identity.Internal(), identity.RevokeIn{DeviceID: id("d"), Role: "operator"}))
		},
		"rotated": func(w *world, _ string) error {
			return second(w.svc.RotateToken(context.Background(), identity.Internal(), identity.RotateIn{DeviceID: id("d"), Role: "operator"}))
		},
	} {
		for _, byToken := range []bool{true, false} {
			w := newWorld(t, identity.AuthToken)
			token := w.pair("d", identity.RoleOperator, "operator.read")
			w.pair("e", identity.RoleOperator, "operator.read")
			a := w.attempt("d", "operator.read")
			if byToken {
				a.Token, a.DeviceToken = "", token
			}
			adm, err := w.admit(a)
			if err != nil {
				t.Fatal(err)
			}
			other, err := w.admit(w.attempt("e", "operator.read"))
			if err != nil {
				t.Fatal(err)
			}
			c := operator("operator.read")
			c.DeviceID, c.Paired, c.TokenID = adm.DeviceID, adm.Paired, adm.TokenID
			if err := w.svc.Confirm(c, adm); err != nil {
				t.Errorf("before it ended: %v", err)
			}
			if err := end(w, token); err != nil {
				t.Fatal(err)
			}
			// A rotation ends what the token let in, not what the secret did.
			want := "ended"
			if name == "rotated" && !byToken {
				want = "ok"
			}
			if got := said(w.svc.Confirm(c, adm)); got != want {
				t.Errorf("%s, by token %v: %s, want %s", name, byToken, got, want)
			}
			o := operator("operator.read")
			o.DeviceID, o.Paired = other.DeviceID, other.Paired
			if err := w.svc.Confirm(o, other); err != nil {
				t.Errorf("%s: another device: %v", name, err)
			}
		}
	}
}

// What ends whom.
func TestEndedCovers(t *testing.T) {
	c := identity.Caller{DeviceID: "d", Role: "operator", TokenID: "t", ConnID: "1"}
	for name, x := range map[string]struct {
		e    identity.Ended
		want bool
	}{
		"removed":                {identity.Ended{DeviceID: "d"}, true},
		"another":                {identity.Ended{DeviceID: "e"}, false},
		"nobody":                 {identity.Ended{}, false},
		"revoked":                {identity.Ended{DeviceID: "d", Role: "operator"}, true},
		"another role":           {identity.Ended{DeviceID: "d", Role: "node"}, false},
		"rotated":                {identity.Ended{DeviceID: "d", Role: "operator", TokenID: "t"}, true},
		"another token":          {identity.Ended{DeviceID: "d", Role: "operator", TokenID: "u"}, false},
		"rotated by itself":      {identity.Ended{DeviceID: "d", Role: "operator", TokenID: "t", By: "1"}, false},
		"rotated by another one": {identity.Ended{DeviceID: "d", Role: "operator", TokenID: "t", By: "2"}, true},
		"removed by itself":      {identity.Ended{DeviceID: "d", By: "1"}, true},
	} {
		if got := x.e.Covers(c); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (identity.Ended{}).Covers(identity.Caller{}) {
		t.Error("callers without a device are covered")
	}
}

// doors stands for a door: it holds what it let in and ends what Ended covers, as they come.
type doors struct {
	mu   sync.Mutex
	live map[*identity.Caller]bool
}

func (d *doors) Publish(_ string, payload any) {
	e, ok := payload.(identity.Ended)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.live {
		if e.Covers(*c) {
			delete(d.live, c)
		}
	}
}

// However connects and removals fall together, nothing of a removed device is live once both are done.
func TestConnectAgainstRemove(t *testing.T) {
	st := storetest.Open(t)
	d := &doors{live: map[*identity.Caller]bool{}}
	svc, err := identity.New(st, identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}, d, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{tb: t, store: st, svc: svc, clock: time.Now()}
	for round := range 30 {
		dev := fmt.Sprint("d", round)
		token := w.pair(dev, identity.RoleOperator, "operator.read")
		a := w.attempt(dev, "operator.read")
		a.Token, a.DeviceToken, a.Peer.Local = "", token, false
		a = w.sign(a)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				adm, err := svc.Admit(context.Background(), a)
				if err != nil {
					return
				}
				time.Sleep(time.Duration(round*10) * time.Microsecond) // between being let in and being known to the door
				c := &identity.Caller{Role: a.Role, DeviceID: adm.DeviceID, Paired: adm.Paired, TokenID: adm.TokenID}
				d.mu.Lock()
				d.live[c] = true
				d.mu.Unlock()
				if svc.Confirm(*c, adm) != nil {
					d.mu.Lock()
					delete(d.live, c)
					d.mu.Unlock()
				}
			})
		}
		wg.Go(func() {
			var err error
			if round%2 == 0 {
				_, err = svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id(dev)})
			} else {
				_, err = svc.RevokeToken(context.Background(), identity.Internal(), identity.RevokeIn{DeviceID: id(dev), Role: "operator"})
			}
			if err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if len(d.live) != 0 {
			t.Fatalf("round %d: %d connections survived", round, len(d.live))
		}
	}
}

// What a connect gets past its pairing stays with the connection.
func TestSecretGrantsNoDeviceScopes(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.pair("d", identity.RoleOperator, "operator.read")
	a := w.attempt("d", "operator.admin")
	a.ClientID, a.ClientMode = "gateway-client", "backend"
	adm, err := w.admit(a)
	if err != nil || !slices.Equal(adm.Scopes, scopes{"operator.admin"}) || !slices.Equal(adm.Issued.Scopes, scopes{"operator.read"}) {
		t.Fatalf("%+v %+v %v", adm, adm.Issued, err)
	}
	if d := w.device("d"); !slices.Equal(d.Scopes, scopes{"operator.read"}) || !slices.Equal(d.ApprovedScopes, scopes{"operator.read"}) {
		t.Errorf("%+v", d)
	}
	a = w.attempt("d", "operator.admin")
	a.Peer.Local = false
	if got := verdict(w.admit(a)); got != "pairing_required scope-upgrade" {
		t.Errorf("afterwards from elsewhere: %s", got)
	}
}

// What a device may ask for and call itself is bounded, and does not add up.
func TestDeviceBounds(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	many := func(n, from int) (out scopes) {
		for i := range n {
			out = append(out, identity.Scope(fmt.Sprint("operator.x", from+i)))
		}
		return out
	}
	for name, c := range map[string]struct {
		edit func(*identity.Attempt)
		want string
	}{
		"as many as may be": {func(a *identity.Attempt) { a.Scopes = many(32, 0) }, "pairing_required not-paired"},
		"too many":          {func(a *identity.Attempt) { a.Scopes = many(33, 0) }, "too_many_scopes"},
		"a long one":        {func(a *identity.Attempt) { a.Scopes = scopes{identity.Scope(strings.Repeat("x", 129))} }, "too_many_scopes"},
		"a long name":       {func(a *identity.Attempt) { a.DisplayName = strings.Repeat("x", 257) }, "text_too_long"},
		"a long platform":   {func(a *identity.Attempt) { a.Platform = strings.Repeat("x", 257) }, "text_too_long"},
		"a long family":     {func(a *identity.Attempt) { a.DeviceFamily = strings.Repeat("x", 257) }, "text_too_long"},
	} {
		a := w.attempt("bounds "+name, "operator.read")
		a.Peer.Local = false
		c.edit(&a)
		if got := verdict(w.admit(a)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	// Bit by bit: into a request, and into the record of one that may have them all.
	a := w.attempt("grows", many(20, 0)...)
	a.Peer.Local = false
	_, _ = w.admit(a)
	a.Scopes = many(20, 20)
	if got := verdict(w.admit(a)); got != "too_many_scopes" {
		t.Errorf("a request that grows: %s", got)
	}
	w.pair("rich", identity.RoleOperator, "operator.admin")
	for i := range 5 {
		if got := verdict(w.admit(w.attempt("rich", many(20, 20*i)...))); got != "in paired token" {
			t.Errorf("an admin with scopes of its own: %s", got)
		}
	}
	if d := w.device("rich"); len(d.Scopes) > 32 {
		t.Errorf("the record holds %d scopes", len(d.Scopes))
	}
}

// The paired devices are bounded; those that are there go on, and removing one makes room for one.
func TestTooManyDevices(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.pair("d", identity.RoleOperator, "operator.read")
	secret := w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	request := w.ask("asked", identity.RoleOperator)
	identity.SetCount(w.svc, identity.MaxDevices)
	for name, err := range map[string]error{
		"silently": second(w.admit(w.attempt("e", "operator.read"))),
		"approved": w.approve(identity.Internal(), request),
		"enrolled": second(w.enroll(secret, enrolment("e", secret))),
	} {
		if !errors.Is(err, identity.ErrTooManyDevices) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := verdict(w.admit(w.attempt("d", "operator.write"))); got != "in paired token" {
		t.Errorf("one that is paired: %s", got)
	}
	if _, err := w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id("d")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.enroll(secret, enrolment("e", secret)); err != nil {
		t.Errorf("the invite that found no room: %v", err)
	}
	if got := verdict(w.admit(w.attempt("f", "operator.read"))); got != "too_many_devices" {
		t.Errorf("full again: %s", got)
	}
}

// failing is a store that cannot write.
type failing struct {
	*store.Store
	err error
}

func (f *failing) ChangeDevices(ctx context.Context, do func(identity.Tx) error) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.ChangeDevices(ctx, do)
}

// What is not on disk did not happen: nobody hears of it, and it can be tried again.
func TestNothingIsAnnouncedThatIsNotKept(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	f := &failing{Store: w.store}
	svc, err := identity.New(f, w.auth, w, func() time.Time { return w.clock })
	if err != nil {
		t.Fatal(err)
	}
	w.svc = svc
	w.pair("d", identity.RoleOperator, "operator.read")
	request := w.ask("e", identity.RoleOperator, "operator.read")
	w.events = nil
	f.err = errors.New("no space left")
	a := w.attempt("f", "operator.read")
	a.Peer.Local = false
	for range 2 {
		if _, err := w.admit(a); !errors.Is(err, f.err) {
			t.Errorf("a request that was not kept: %v", err)
		}
	}
	ctx, c := context.Background(), identity.Internal()
	for op, err := range map[string]error{
		"silent pairing": second(w.admit(w.attempt("g", "operator.read"))),
		"approve":        w.approve(c, request),
		"reject":         second(w.svc.Reject(ctx, c, identity.RejectIn{RequestID: request})),
		"remove":         second(w.svc.Remove(ctx, c, identity.RemoveIn{DeviceID: id("d")})),
		"revoke":         second(w.svc.RevokeToken(ctx, c, identity.RevokeIn{DeviceID: id("d"), Role: "operator"})),
		"rotate":         second(w.svc.RotateToken(ctx, c, identity.RotateIn{DeviceID: id("d"), Role: "operator"})),
		"invite":         second(w.svc.CreateInvite(ctx, c, identity.InviteIn{Role: "node"})),
	} {
		if !errors.Is(err, f.err) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if len(w.events) != 0 {
		t.Errorf("announced: %v", w.events)
	}
	f.err = nil
	if err := w.approve(c, request); err != nil {
		t.Errorf("once the disk is well: %v", err)
	}
	if _, err := w.svc.Remove(ctx, c, identity.RemoveIn{DeviceID: id("d")}); err != nil {
		t.Error(err)
	}
}

// A token outlives everything that a client changes by itself in an upgrade or a downgrade, and one
// that was lost comes back with the next connect by the shared secret (promises.md R12). A new name of
// the system has to be approved, once, and takes nothing away meanwhile.
func TestTokenOutlivesUpgrades(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	token := w.pair("d", identity.RoleOperator, "operator.read", "operator.write")
	by := func(edit func(*identity.Attempt)) (identity.Admission, error) {
		a := w.attempt("d", "operator.read")
		a.Token, a.DeviceToken, a.Peer.Local = "", token, false
		edit(&a)
		return w.admit(a)
	}
	for name, edit := range map[string]func(*identity.Attempt){
		"another client":           func(a *identity.Attempt) { a.ClientID = "cli" },
		"another mode":             func(a *identity.Attempt) { a.ClientMode = "probe" },
		"another name":             func(a *identity.Attempt) { a.DisplayName = "new" },
		"no name":                  func(a *identity.Attempt) { a.DisplayName = "" },
		"fewer scopes":             func(a *identity.Attempt) { a.Scopes = nil },
		"more of what it has":      func(a *identity.Attempt) { a.Scopes = scopes{"operator.write"} },
		"another case":             func(a *identity.Attempt) { a.Platform = "MACOS 15.3" },
		"the token in both fields": func(a *identity.Attempt) { a.Token = token },
	} {
		adm, err := by(edit)
		if err != nil || adm.Issued == nil || adm.Issued.Token != token {
			t.Errorf("%s: %s", name, verdict(adm, err))
		}
	}
	lost, err := w.admit(w.attempt("d", "operator.read"))
	if err != nil || lost.Issued.Token != token {
		t.Errorf("lost: %+v %v", lost.Issued, err)
	}
	upgrade := func(a *identity.Attempt) { a.Platform = "macOS 15.4" }
	for range 3 {
		if got := verdict(by(upgrade)); got != "pairing_required metadata-upgrade" {
			t.Errorf("a new system: %s", got)
		}
	}
	if adm, err := by(func(*identity.Attempt) {}); err != nil || adm.Issued.Token != token {
		t.Errorf("back to the old system: %s", verdict(adm, err))
	}
	list, err := w.svc.List(context.Background(), identity.Internal())
	if err != nil || len(list.Pending) != 1 || !list.Pending[0].Repair {
		t.Fatalf("%+v %v", list.Pending, err)
	}
	if err := w.approve(identity.Internal(), list.Pending[0].RequestID); err != nil {
		t.Fatal(err)
	}
	// By the token that it had: a device that was never given the shared secret has no other.
	if adm, err := by(upgrade); err != nil || adm.Issued.Token != token {
		t.Errorf("approved once: %s", verdict(adm, err))
	}
}

// A device that is let in again has all that it had: who does not hold that, does not let it in.
func TestApproveBoundsTheWholeDevice(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.pair("d", identity.RoleOperator, "operator.admin")
	a := w.attempt("d", "operator.read")
	a.Platform = "linux"
	_, err := w.admit(a)
	e, _ := errs.As(err)
	if got := said(w.approve(operator("operator.pairing", "operator.read"), e.Field("requestId"))); got != "beyond_caller operator.admin" {
		t.Error(got)
	}
	if err := w.approve(operator("operator.admin"), e.Field("requestId")); err != nil {
		t.Error(err)
	}
}
