package identity_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// heldBy is a caller whom a door let in with a device and its token.
func heldBy(door identity.Door, dev string, scopes ...identity.Scope) identity.Caller {
	return identity.Caller{Door: door, Role: identity.RoleOperator, Scopes: scopes, DeviceID: id(dev), Paired: true, Principal: "device:" + id(dev)}
}

// The new token is told to who rotates. One that is within the scopes of the caller would still make it
// another device, with that device's approvals and its other roles (CVE-2026-32922,
// GHSA-4jpw-hj22-2xmc).
func TestRotateIsNotToBecomeAnother(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, identity.AuthNone)
	w.pair("small", identity.RoleOperator, identity.ScopePairing, identity.ScopeWrite)
	w.pair("equal", identity.RoleOperator, identity.ScopeWrite)
	w.pair("admin", identity.RoleOperator, identity.ScopeAdmin)
	small := heldBy(identity.DoorLegacy, "small", identity.ScopePairing, identity.ScopeWrite)
	in := identity.RotateIn{DeviceID: id("admin"), Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}}
	if out, err := w.svc.RotateToken(ctx, small, in); !errors.Is(err, identity.ErrBeyondCaller) {
		t.Errorf("a small device has the token of an admin's: %v, %v", out.Scopes, err)
	}
	in.DeviceID = id("equal")
	if _, err := w.svc.RotateToken(ctx, small, in); err != nil {
		t.Errorf("a device that holds no more: %v", err)
	}
}

// A token is for its role. Who has that of an operator and not the key of the device does not get
// the one of its node for it.
func TestTokenOfAnotherRole(t *testing.T) {
	ctx := context.Background()
	for door, want := range map[identity.Door]error{
		identity.DoorLegacy: nil, identity.DoorREST: identity.ErrBeyondCaller, identity.DoorGRPC: identity.ErrBeyondCaller,
	} {
		w := newWorld(t, identity.AuthNone)
		w.pair("phone", identity.RoleNode)
		_, err := w.svc.RotateToken(ctx, heldBy(door, "phone", identity.ScopePairing), identity.RotateIn{DeviceID: id("phone"), Role: identity.RoleNode})
		if !errors.Is(err, want) {
			t.Errorf("by %s: %v", door, err)
		}
	}
}

// What was revoked does not come back by way of what is written on the token of a node.
func TestNodeTokenKeepsNoScopes(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, identity.AuthNone)
	w.pair("phone", identity.RoleOperator, identity.ScopeAdmin)
	node := w.attempt("phone")
	node.Role = identity.RoleNode
	w.approveNext(node)
	if _, err := w.svc.RevokeToken(ctx, identity.Internal(), identity.RevokeIn{DeviceID: id("phone"), Role: identity.RoleOperator}); err != nil {
		t.Fatal(err)
	}
	w.approveNext(w.attempt("phone", identity.ScopeRead))
	d, _, err := w.store.Device(id("phone"))
	if err != nil || slices.Contains(d.Scopes, identity.ScopeAdmin) || slices.Contains(d.ApprovedScopes, identity.ScopeAdmin) {
		t.Errorf("read was approved, and now it has %v and %v (%v)", d.Scopes, d.ApprovedScopes, err)
	}
}

// approveNext connects, which leaves a request, and approves that.
func (w *world) approveNext(a identity.Attempt) {
	w.tb.Helper()
	if adm, err := w.admit(a); !errors.Is(err, identity.ErrPairingRequired) {
		w.tb.Fatalf("%+v, %v", adm, err)
	}
	list, err := w.svc.List(context.Background(), identity.Internal())
	if err != nil || len(list.Pending) != 1 {
		w.tb.Fatalf("%+v, %v", list, err)
	}
	if _, err := w.svc.Approve(context.Background(), identity.Internal(), identity.ApproveIn{RequestID: list.Pending[0].RequestID}); err != nil {
		w.tb.Fatal(err)
	}
}

// What a node may offer goes by platform and family. One that was approved without a family has none
// when it names one later (CVE-2026-32014).
func TestFamilyIsNotAddedLater(t *testing.T) {
	w := newWorld(t, identity.AuthNone)
	a := w.attempt("d")
	a.Role, a.Platform, a.DeviceFamily = identity.RoleNode, "web", ""
	if _, err := w.admit(a); err != nil {
		t.Fatal(err)
	}
	a.DeviceFamily = "Linux"
	adm, err := w.admit(a)
	if err == nil && adm.DeviceFamily != "" || adm.Platform != "web" {
		t.Errorf("approved as web, it is %s %s: %v", adm.Platform, adm.DeviceFamily, err)
	}
}

// An invite that is made while its maker is being revoked lets nobody in.
func TestInviteOfARevokedMaker(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"revoked", "removed"} {
		w := newWorld(t, identity.AuthToken)
		w.pair("e", identity.RoleOperator, identity.ScopeAdmin)
		out, err := w.svc.CreateInvite(ctx, heldBy(identity.DoorLegacy, "e", identity.ScopeAdmin), identity.InviteIn{Role: identity.RoleNode})
		if err != nil {
			t.Fatal(err)
		}
		// The store as a revocation leaves it that did not know of the invite yet.
		err = w.store.ChangeDevices(ctx, func(tx identity.Tx) error {
			d, _, err := tx.Device(id("e"))
			if err != nil {
				return err
			}
			if name == "removed" {
				return tx.DeleteDevice(d.ID)
			}
			token := d.Tokens[identity.RoleOperator]
			token.RevokedAt = w.clock
			d.Tokens[identity.RoleOperator] = token
			return tx.PutDevice(d)
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := w.svc.Bearer(ctx, out.Secret, identity.Peer{})
		if err == nil {
			_, err = w.svc.Enroll(ctx, c, enrolling("d", out.Secret))
		}
		if !errors.Is(err, identity.ErrInvite) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func enrolling(dev, secret string) identity.EnrollIn {
	k := key(dev)
	pub := k.Public().(ed25519.PublicKey)
	text := identity.EnrollText(secret, identity.DeviceID(pub), "linux", "")
	return identity.EnrollIn{
		PublicKey: identity.EncodeKey(pub), Platform: "linux",
		Signature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, []byte(text))),
	}
}

// One device does not use up the invites of all.
func TestInvitesOfOneDevice(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, identity.AuthToken)
	w.pair("e", identity.RoleOperator, identity.ScopeAdmin)
	made := 0
	for range 40 {
		if _, err := w.svc.CreateInvite(ctx, heldBy(identity.DoorLegacy, "e", identity.ScopeAdmin), identity.InviteIn{Role: identity.RoleNode}); err == nil {
			made++
		}
	}
	if made != 8 {
		t.Errorf("it made %d", made)
	}
	if _, err := w.svc.CreateInvite(ctx, identity.Internal(), identity.InviteIn{Role: identity.RoleNode}); err != nil {
		t.Errorf("and another: %v", err)
	}
}

// A signature counts once: for the connection whose nonce it names, at the time it names, for the fields
// it covers, and neither for a connect when it was made to enrol nor the other way round.
func TestSignatureForOneThing(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, identity.AuthNone)
	good := w.sign(w.attempt("d", identity.ScopeRead))
	if _, err := w.svc.Admit(ctx, good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*identity.Attempt){
		"another connection": func(a *identity.Attempt) { a.Nonce = "another" },
		"another connection, claimed": func(a *identity.Attempt) {
			a.Nonce = "another"
			a.Device.Nonce = "another"
		},
		"more scopes":       func(a *identity.Attempt) { a.Scopes = []identity.Scope{identity.ScopeAdmin} },
		"scopes run into":   func(a *identity.Attempt) { a.Scopes = []identity.Scope{"operator.read,operator.admin"} },
		"another role":      func(a *identity.Attempt) { a.Role = identity.RoleNode },
		"another client":    func(a *identity.Attempt) { a.ClientID = "cli" },
		"another mode":      func(a *identity.Attempt) { a.ClientMode = "backend" },
		"another token":     func(a *identity.Attempt) { a.Token = "tok2" },
		"another platform":  func(a *identity.Attempt) { a.Platform = "linux" },
		"another family":    func(a *identity.Attempt) { a.DeviceFamily = "Linux" },
		"another time":      func(a *identity.Attempt) { a.Device.SignedAt++ },
		"a field moved":     func(a *identity.Attempt) { a.Platform, a.DeviceFamily = a.Platform+"|"+a.DeviceFamily, "" },
		"a family moved in": func(a *identity.Attempt) { a.Platform, a.DeviceFamily = "macos 15.3|mac", "" },
		"another device's id": func(a *identity.Attempt) {
			a.Device.ID = id("e")
		},
		"made to enrol": func(a *identity.Attempt) {
			a.Device.Signature = enrolling("d", "s").Signature
		},
		"an old one": func(*identity.Attempt) { w.clock = w.clock.Add(2*time.Minute + time.Millisecond) },
		"from later": func(*identity.Attempt) { w.clock = w.clock.Add(-2*time.Minute - time.Millisecond) },
	} {
		a := good
		p := *good.Device
		a.Device = &p
		clock := w.clock
		change(&a)
		if adm, err := w.svc.Admit(ctx, a); err == nil {
			t.Errorf("%s: let in as %+v", name, adm)
		}
		w.clock = clock
	}
	out, err := w.svc.CreateInvite(ctx, identity.Internal(), identity.InviteIn{Role: identity.RoleNode})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.svc.Bearer(ctx, out.Secret, identity.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]identity.EnrollIn{
		"a connect's":      {PublicKey: good.Device.PublicKey, Platform: good.Platform, DeviceFamily: good.DeviceFamily, Signature: good.Device.Signature},
		"another invite's": enrolling("d", "another"),
		"another key's":    {PublicKey: good.Device.PublicKey, Platform: "linux", Signature: enrolling("e", out.Secret).Signature},
	} {
		if _, err := w.svc.Enroll(ctx, c, in); !errors.Is(err, identity.ErrSignature) {
			t.Errorf("enrolling with %s: %v", name, err)
		}
	}
	if _, err := w.svc.Enroll(ctx, c, enrolling("d", out.Secret)); err != nil {
		t.Errorf("enrolling: %v", err)
	}
	if _, err := w.svc.Enroll(ctx, c, enrolling("d", out.Secret)); !errors.Is(err, identity.ErrInvite) {
		t.Errorf("enrolling twice: %v", err)
	}
}
