package identity_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

func tenantWorld(t *testing.T) *world {
	return modeWorld(t, identity.Auth{Mode: identity.AuthIAM, Issuer: orgs{}, Secret: secret("tok")})
}

// of is an attempt of a device on this machine with a credential.
func (w *world) of(dev, token string, scopes ...identity.Scope) identity.Attempt {
	a := w.attempt(dev, scopes...)
	a.Token = token
	return a
}

func member(tenant string, held ...identity.Scope) identity.Caller {
	c := operator(held...)
	c.Tenant, c.Principal = tenant, "iam:boss@"+tenant
	return c
}

// A device that came with a person's token stays in that person's organisation, whatever it comes with.
func TestDevicesKeepTheirTenant(t *testing.T) {
	w := tenantWorld(t)
	adm, err := w.admit(w.of("d", "jwt.ann@acme", identity.ScopeRead))
	if err != nil || adm.Tenant != "acme" || adm.Issued == nil || w.device("d").Tenant != "acme" {
		t.Fatalf("%+v, %v", adm, err)
	}
	token := adm.Issued.Token
	w.open() // as after a restart
	byToken := w.of("d", "", identity.ScopeRead)
	byToken.DeviceToken = token
	for name, a := range map[string]identity.Attempt{
		"its token": byToken, "the shared token": w.of("d", "tok", identity.ScopeRead), "its person": w.of("d", "jwt.ann@acme", identity.ScopeRead),
		"a colleague": w.of("d", "jwt.joe@acme", identity.ScopeRead), "an administrator": w.of("d", "jwt.root@acme", identity.ScopeRead),
	} {
		if adm, err := w.admit(a); err != nil || adm.Tenant != "acme" {
			t.Errorf("%s: %+v, %v", name, adm, err)
		}
	}
	owner := w.of("d", "", identity.ScopeRead)
	owner.Owner = true
	if adm, err := w.admit(owner); err != nil || adm.Tenant != "acme" {
		t.Errorf("by the local socket: %+v, %v", adm, err)
	}
	before := w.device("d")
	if _, err := w.admit(w.of("d", "jwt.bea@beta", identity.ScopeRead)); !errors.Is(err, identity.ErrDeviceTenant) || errs.ClassOf(err) != errs.Denied {
		t.Errorf("a person of another organisation: %v", err)
	}
	if fmt.Sprint(w.device("d")) != fmt.Sprint(before) {
		t.Error("who was refused left something")
	}
	c, err := w.svc.Bearer(context.Background(), token, far)
	if err != nil || c.Tenant != "acme" {
		t.Errorf("its token alone: %+v, %v", c, err)
	}
	if err := w.svc.Standing(c); err != nil {
		t.Error(err)
	}
	// Removed, it is nobody's again.
	if _, err := w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id("d")}); err != nil {
		t.Fatal(err)
	}
	if adm, err := w.admit(w.of("d", "jwt.bea@beta", identity.ScopeRead)); err != nil || adm.Tenant != "beta" {
		t.Errorf("%+v, %v", adm, err)
	}
}

// An older device, of which nothing was written, becomes its person's with the first token of one; what it had open
// ends, since that saw more.
func TestOlderDevicesAreNarrowed(t *testing.T) {
	w := tenantWorld(t)
	adm, err := w.admit(w.of("d", "tok", identity.ScopeRead, identity.ScopeAdmin))
	if err != nil || adm.Tenant != "" {
		t.Fatal(adm, err)
	}
	old, err := w.svc.Bearer(context.Background(), adm.Issued.Token, far)
	if err != nil || old.Tenant != "" {
		t.Fatal(old, err)
	}
	w.events = nil
	if adm, err = w.admit(w.of("d", "jwt.ann@acme", identity.ScopeRead)); err != nil || adm.Tenant != "acme" || w.device("d").Tenant != "acme" {
		t.Fatal(adm, err)
	}
	if !slices.Contains(w.events, "device.ended") {
		t.Errorf("%v", w.events)
	}
	if err := w.svc.Standing(old); !errors.Is(err, identity.ErrEnded) {
		t.Errorf("what it had open stands: %v", err)
	}
	if err := w.svc.Stands(old); err != nil {
		t.Errorf("what it decided does not: %v", err)
	}
	if _, err := w.svc.CreateInvite(context.Background(), old, identity.InviteIn{Role: identity.RoleNode}); !errors.Is(err, identity.ErrEnded) {
		t.Errorf("it invites for the owner: %v", err)
	}
	now := old
	now.Tenant = "acme"
	if err := w.svc.Confirm(now, adm); err != nil {
		t.Error(err)
	}
}

// A request is of the organisation whose person's token the device came with, is there for that one and the owner, and
// pairs for it.
func TestRequestsOfTenants(t *testing.T) {
	for _, approver := range []identity.Caller{identity.Internal(), member("acme", identity.ScopeAdmin)} {
		w := tenantWorld(t)
		ctx := context.Background()
		a := w.of("d", "jwt.ann@acme", identity.ScopeAdmin)
		_, err := w.admit(a)
		e, _ := errs.As(err)
		request := e.Field("requestId")
		if request == "" {
			t.Fatal(err)
		}
		w.open()
		beta := member("beta", identity.ScopeAdmin)
		if out, err := w.svc.List(ctx, beta); err != nil || len(out.Pending) != 0 {
			t.Errorf("%+v, %v", out, err)
		}
		if err := w.approve(beta, request); !errors.Is(err, identity.ErrUnknownRequest) {
			t.Errorf("beta approves: %v", err)
		}
		if _, err := w.svc.Reject(ctx, beta, identity.RejectIn{RequestID: request}); !errors.Is(err, identity.ErrUnknownRequest) {
			t.Errorf("beta rejects: %v", err)
		}
		if out, err := w.svc.List(ctx, approver); err != nil || len(out.Pending) != 1 || out.Pending[0].Tenant != "acme" {
			t.Errorf("%+v, %v", out, err)
		}
		if err := w.approve(approver, request); err != nil {
			t.Fatal(err)
		}
		if w.device("d").Tenant != "acme" {
			t.Errorf("%+v", w.device("d"))
		}
	}
	// What the owner's credential asks for is the owner's to decide.
	w := tenantWorld(t)
	request := w.ask("d", identity.RoleOperator, identity.ScopeRead)
	if err := w.approve(member("acme", identity.ScopeAdmin), request); !errors.Is(err, identity.ErrUnknownRequest) {
		t.Error(err)
	}
	// With a person's token in between, it is another request, and narrower.
	a := w.of("d", "jwt.ann@acme", identity.ScopeRead)
	a.Peer.Local = false
	if _, err := w.admit(a); !errors.Is(err, identity.ErrPairingRequired) {
		t.Fatal(err)
	}
	if err := w.approve(identity.Internal(), request); !errors.Is(err, identity.ErrUnknownRequest) {
		t.Errorf("the older request: %v", err)
	}
	again := w.ask("d", identity.RoleOperator, identity.ScopeRead)
	if err := w.approve(identity.Internal(), again); err != nil || w.device("d").Tenant != "acme" {
		t.Errorf("%v %+v", err, w.device("d"))
	}
}

// Who has a tenant finds and ends its own devices alone, in the words for what is not there.
func TestDevicesOfTenants(t *testing.T) {
	w := tenantWorld(t)
	ctx := context.Background()
	for dev, token := range map[string]string{"a": "jwt.ann@acme", "b": "jwt.bea@beta", "o": "tok"} {
		if _, err := w.admit(w.of(dev, token, identity.ScopeRead)); err != nil {
			t.Fatal(err)
		}
	}
	acme := member("acme", identity.ScopeAdmin)
	out, err := w.svc.List(ctx, acme)
	if err != nil || len(out.Devices) != 1 || out.Devices[0].ID != id("a") {
		t.Errorf("%+v, %v", out, err)
	}
	if out, _ := w.svc.List(ctx, identity.Internal()); len(out.Devices) != 3 {
		t.Errorf("the owner: %+v", out)
	}
	for _, dev := range []string{"b", "o"} {
		if _, err := w.svc.RotateToken(ctx, acme, identity.RotateIn{DeviceID: id(dev), Role: identity.RoleOperator}); !errors.Is(err, identity.ErrUnknownToken) {
			t.Errorf("rotate %s: %v", dev, err)
		}
		if _, err := w.svc.RevokeToken(ctx, acme, identity.RevokeIn{DeviceID: id(dev), Role: identity.RoleOperator}); !errors.Is(err, identity.ErrUnknownToken) {
			t.Errorf("revoke %s: %v", dev, err)
		}
		if _, err := w.svc.Remove(ctx, acme, identity.RemoveIn{DeviceID: id(dev)}); !errors.Is(err, identity.ErrUnknownDevice) {
			t.Errorf("remove %s: %v", dev, err)
		}
	}
	if _, err := w.svc.RotateToken(ctx, acme, identity.RotateIn{DeviceID: id("a"), Role: identity.RoleOperator}); err != nil {
		t.Error(err)
	}
	if w.device("a").Tenant != "acme" {
		t.Error("rotated out of its tenant")
	}
	if _, err := w.svc.Remove(ctx, acme, identity.RemoveIn{DeviceID: id("a")}); err != nil {
		t.Error(err)
	}
}

// What somebody invites is of his organisation, and a device of another is not let in with it.
func TestInvitesOfTenants(t *testing.T) {
	w := tenantWorld(t)
	acme, beta := member("acme", identity.ScopeAdmin), member("beta", identity.ScopeAdmin)
	secret := w.invite(acme, identity.InviteIn{Role: identity.RoleNode})
	w.open()
	out, err := w.enroll(secret, enrolment("n", secret))
	if err != nil || w.device("n").Tenant != "acme" {
		t.Fatal(out, err)
	}
	c, err := w.svc.Bearer(context.Background(), out.Token, far)
	if err != nil || c.Tenant != "acme" || c.NodeID != "acme/"+id("n") {
		t.Errorf("%+v, %v", c, err)
	}
	if got := w.linked(far, out.Token); got != "device:"+id("n")+"|acme" {
		t.Errorf("as a link: %s", got)
	}
	secret = w.invite(beta, identity.InviteIn{Role: identity.RoleNode})
	if _, err := w.enroll(secret, enrolment("n", secret)); !errors.Is(err, identity.ErrDeviceTenant) {
		t.Errorf("with the invite of another: %v", err)
	}
	secret = w.invite(operator(identity.ScopeAdmin), identity.InviteIn{Role: identity.RoleNode})
	if _, err := w.enroll(secret, enrolment("n", secret)); err != nil || w.device("n").Tenant != "acme" {
		t.Errorf("the owner's invite widens: %v", err)
	}
}

func TestPairingEventsOfTenants(t *testing.T) {
	ours := identity.PairingRequested{Pairing: identity.Pairing{Tenant: "acme"}}
	for _, c := range []struct {
		tenant  string
		payload any
		sees    bool
	}{
		{"acme", ours, true}, {"beta", ours, false}, {"", ours, true},
		{"beta", identity.PairingResolved{Tenant: "acme"}, false}, {"acme", identity.PairingResolved{}, false}, {"", identity.PairingResolved{}, true},
	} {
		if got := events.Concerns(member(c.tenant, identity.ScopeAdmin), c.payload); got != c.sees {
			t.Errorf("%q, %+v: %v", c.tenant, c.payload, got)
		}
	}
}
