package identity_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
)

func (w *world) invite(c identity.Caller, in identity.InviteIn) string {
	w.tb.Helper()
	out, err := w.svc.CreateInvite(context.Background(), c, in)
	if err != nil {
		w.tb.Fatal(err)
	}
	return out.Secret
}

// enrolment is what a device sends to enrol with a secret.
func enrolment(dev, secret string) identity.EnrollIn {
	k := key(dev)
	in := identity.EnrollIn{
		PublicKey: identity.EncodeKey(k.Public().(ed25519.PublicKey)), DisplayName: "name of " + dev, Platform: "linux", DeviceFamily: "Linux",
	}
	text := identity.EnrollText(secret, id(dev), in.Platform, in.DeviceFamily)
	in.Signature = base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, []byte(text)))
	return in
}

// enroll does what a door does: it looks who presents the secret, and calls in his name.
func (w *world) enroll(secret string, in identity.EnrollIn) (identity.EnrollOut, error) {
	c, err := w.svc.Bearer(context.Background(), secret, identity.Peer{})
	if err != nil {
		return identity.EnrollOut{}, err
	}
	if c.Role != identity.RoleInvited || len(c.Scopes) != 0 || c.DeviceID != "" || c.Local {
		w.tb.Fatalf("the secret of an invite makes %+v", c)
	}
	return w.svc.Enroll(context.Background(), c, in)
}

func TestInvite(t *testing.T) {
	for _, c := range []struct {
		role   identity.Role
		scopes scopes
	}{{"operator", scopes{"operator.write", "operator.read"}}, {"node", nil}} {
		w := newWorld(t, identity.AuthToken)
		secret := w.invite(operator("operator.admin"), identity.InviteIn{Role: c.role, Scopes: c.scopes})
		w.open() // it outlasts a restart
		out, err := w.enroll(secret, enrolment("d", secret))
		if err != nil || out.DeviceID != id("d") || out.Role != c.role || !slices.Equal(out.Scopes, identity.SortedScopes(c.scopes)) {
			t.Fatalf("%+v %v", out, err)
		}
		got, err := w.svc.Bearer(context.Background(), out.Token, identity.Peer{})
		if err != nil || got.DeviceID != id("d") || got.Role != c.role || !slices.Equal(got.Scopes, out.Scopes) {
			t.Errorf("%+v %v", got, err)
		}
		// The device connects like any other that is paired, as the machine that it said it is.
		a := w.attempt("d", c.scopes...)
		a.Role, a.Platform, a.DeviceFamily, a.Token, a.DeviceToken, a.Peer.Local = c.role, "linux", "Linux", "", out.Token, false
		if v := verdict(w.admit(a)); v != "in paired token" {
			t.Errorf("connecting: %s", v)
		}
		a.Platform = "windows"
		if v := verdict(w.admit(a)); v != "pairing_required metadata-upgrade" {
			t.Errorf("as another machine: %s", v)
		}
		// It works once, and a restart does not bring it back.
		for range 2 {
			if _, err := w.enroll(secret, enrolment("e", secret)); !errors.Is(err, identity.ErrInvite) {
				t.Errorf("again: %v", err)
			}
			w.open()
		}
		if got := w.kinds(); got != "device.invite by conn:1, device.enroll by conn:1" {
			t.Error(got)
		}
	}
}

// together holds writes back until all who come are there.
type together struct {
	*store.Store
	coming sync.WaitGroup
}

func (s *together) ChangeDevices(ctx context.Context, f func(identity.Tx) error) error {
	s.coming.Done()
	s.coming.Wait()
	return s.Store.ChangeDevices(ctx, f)
}

// Of many who come with the same invite at the same moment one gets in.
func TestInviteOnce(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	secret := w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	st := &together{Store: w.store}
	st.coming.Add(20)
	svc, err := identity.New(st, w.auth, w, func() time.Time { return w.clock })
	if err != nil {
		t.Fatal(err)
	}
	w.svc = svc
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for i := range 20 {
		wg.Go(func() {
			_, err := w.enroll(secret, enrolment(string(rune('a'+i)), secret))
			mu.Lock()
			defer mu.Unlock()
			got[said(err)]++
		})
	}
	wg.Wait()
	if got["ok"] != 1 || got["invite"] != 19 || len(w.svc.PairedNodes()) != 1 {
		t.Errorf("%v, %d nodes", got, len(w.svc.PairedNodes()))
	}
}

// An invite gives what the inviter holds, for ten minutes at the most.
func TestInviteBounds(t *testing.T) {
	for name, c := range map[string]struct {
		caller identity.Caller
		in     identity.InviteIn
		want   string
	}{
		"less than one holds": {operator("operator.pairing", "operator.write"), identity.InviteIn{Role: "operator", Scopes: scopes{"operator.read"}}, "ok"},
		"more":                {operator("operator.pairing"), identity.InviteIn{Role: "operator", Scopes: scopes{"operator.read"}}, "beyond_caller operator.read"},
		"a node by no admin":  {operator("operator.pairing", "operator.write"), identity.InviteIn{Role: "node"}, "beyond_caller operator.admin"},
		"no scopes":           {operator("operator.admin"), identity.InviteIn{Role: "operator"}, "invite_scopes"},
		"an unknown scope":    {operator("operator.admin"), identity.InviteIn{Role: "operator", Scopes: scopes{"operator.x"}}, "invite_scopes"},
		"two in one":          {operator("operator.admin"), identity.InviteIn{Role: "operator", Scopes: scopes{"operator.read,operator.admin"}}, "invite_scopes"},
		"a node with scopes":  {operator("operator.admin"), identity.InviteIn{Role: "node", Scopes: scopes{"operator.read"}}, "invite_scopes"},
		"no role":             {operator("operator.admin"), identity.InviteIn{}, "invite_role"},
		"another role":        {operator("operator.admin"), identity.InviteIn{Role: "invited"}, "invite_role"},
		"eleven minutes":      {operator("operator.admin"), identity.InviteIn{Role: "node", TTL: 11 * time.Minute}, "invite_ttl"},
		"backwards":           {operator("operator.admin"), identity.InviteIn{Role: "node", TTL: -time.Minute}, "invite_ttl"},
		"no time":             {operator("operator.admin"), identity.InviteIn{Role: "node", TTL: time.Millisecond}, "invite_ttl"},
		"a second":            {operator("operator.admin"), identity.InviteIn{Role: "node", TTL: time.Second}, "ok"},
	} {
		w := newWorld(t, identity.AuthToken)
		_, err := w.svc.CreateInvite(context.Background(), c.caller, c.in)
		if got := said(err); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestInviteTime(t *testing.T) {
	for name, c := range map[string]struct {
		ttl, later time.Duration
		want       string
	}{
		"in time":              {0, 10*time.Minute - time.Millisecond, "ok"},
		"too late":             {0, 10 * time.Minute, "invite"},
		"its own time":         {time.Minute, time.Minute, "invite"},
		"a clock set back":     {time.Minute, -24 * time.Hour, "invite"},
		"a clock put right":    {time.Minute, -time.Minute, "ok"},
		"a clock that went on": {time.Minute, 24 * time.Hour, "invite"},
	} {
		w := newWorld(t, identity.AuthToken)
		secret := w.invite(identity.Internal(), identity.InviteIn{Role: "node", TTL: c.ttl})
		w.clock = w.clock.Add(c.later)
		if _, err := w.enroll(secret, enrolment("d", secret)); said(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The signature is of this invite, this key and this machine; nothing else uses the invite up.
func TestEnrollRefuses(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	secret := w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	other := w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	for name, c := range map[string]struct {
		edit func(*identity.EnrollIn)
		want string
	}{
		"no key":            {func(in *identity.EnrollIn) { in.PublicKey = "" }, "public_key"},
		"no Ed25519 key":    {func(in *identity.EnrollIn) { in.PublicKey = "AAAA" }, "public_key"},
		"another key":       {func(in *identity.EnrollIn) { in.PublicKey = enrolment("e", secret).PublicKey }, "signature"},
		"no signature":      {func(in *identity.EnrollIn) { in.Signature = "" }, "signature"},
		"another invite":    {func(in *identity.EnrollIn) { in.Signature = enrolment("d", other).Signature }, "signature"},
		"another platform":  {func(in *identity.EnrollIn) { in.Platform = "windows" }, "signature"},
		"a look-alike":      {func(in *identity.EnrollIn) { in.Platform = "lіnux" }, "signature"},
		"moved line":        {func(in *identity.EnrollIn) { in.Platform, in.DeviceFamily = "linux\nLinux", "" }, "signature"},
		"a long name":       {func(in *identity.EnrollIn) { in.DisplayName = strings.Repeat("x", 257) }, "text_too_long"},
		"a name of no text": {func(in *identity.EnrollIn) { in.DisplayName = "\xff" }, "text_too_long"},
	} {
		in := enrolment("d", secret)
		c.edit(&in)
		if _, err := w.enroll(secret, in); said(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{secret + "x", secret[:len(secret)-1], "hzi_", "hzi_x"} {
		if _, err := w.svc.Bearer(context.Background(), bad, identity.Peer{}); !errors.Is(err, identity.ErrInvite) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := w.svc.Enroll(context.Background(), identity.Internal(), enrolment("d", secret)); !errors.Is(err, identity.ErrInvite) {
		t.Errorf("without an invite: %v", err)
	}
	if _, err := w.enroll(secret, enrolment("d", secret)); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// The secret of an invite is on no disk and opens nothing but Enroll.
func TestInviteSecret(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	secret := w.invite(identity.Internal(), identity.InviteIn{Role: "operator", Scopes: scopes{"operator.admin"}})
	rows, err := w.store.Invites()
	if err != nil || len(rows) != 1 || strings.Contains(rows[0].ID, secret) || len(rows[0].ID) != 64 {
		t.Fatalf("%+v %v", rows, err)
	}
	for _, a := range []identity.Attempt{w.attempt("d", "operator.read"), w.attempt("", "operator.read")} {
		a.Token = secret
		if v := verdict(w.admit(a)); v != "auth token_mismatch" {
			t.Errorf("as the token of a connection: %s", v)
		}
	}
}

// The invites of a device end with it.
func TestInvitesEndWithTheirMaker(t *testing.T) {
	for name, end := range map[string]func(*world) error{
		"removed": func(w *world) error {
			return second(w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id("e")}))
		},
		"revoked": func(w *world) error {
			return second(w.svc.RevokeToken(context.Background(), identity.Internal(), identity.RevokeIn{DeviceID: id("e"), Role: "operator"}))
		},
	} {
		w := newWorld(t, identity.AuthToken)
		w.pair("e", identity.RoleOperator, "operator.admin")
		secret := w.invite(asDevice("e", "operator.admin"), identity.InviteIn{Role: "node"})
		others := w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
		if err := end(w); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := w.enroll(secret, enrolment("d", secret)); !errors.Is(err, identity.ErrInvite) {
				t.Errorf("%s: %v", name, err)
			}
			w.open()
		}
		if _, err := w.enroll(others, enrolment("d", others)); err != nil {
			t.Errorf("%s: that of another: %v", name, err)
		}
	}
}

func TestTooManyInvites(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	var last string
	for range 32 {
		last = w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	}
	if _, err := w.svc.CreateInvite(context.Background(), identity.Internal(), identity.InviteIn{Role: "node"}); !errors.Is(err, identity.ErrTooManyInvites) {
		t.Errorf("%v", err)
	}
	if _, err := w.enroll(last, enrolment("d", last)); err != nil {
		t.Fatal(err)
	}
	w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	w.clock = w.clock.Add(identity.MaxInviteTTL)
	w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	rows, err := w.store.Invites()
	if err != nil || len(rows) != 1 {
		t.Errorf("%d records are left: %v", len(rows), err)
	}
}

// Enrolling a device that is known gives it the role of the invite, and no more than that.
func TestEnrollAgain(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.pair("d", identity.RoleOperator, "operator.read")
	w.revoke("d", identity.RoleOperator)
	secret := w.invite(identity.Internal(), identity.InviteIn{Role: "node"})
	out, err := w.enroll(secret, enrolment("d", secret))
	if err != nil || len(out.Scopes) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	a := w.attempt("d", "operator.read")
	a.Platform, a.DeviceFamily = "linux", "Linux"
	if v := verdict(w.admit(a)); v != "pairing_required role-upgrade" {
		t.Errorf("the revoked role: %s", v)
	}
	secret = w.invite(identity.Internal(), identity.InviteIn{Role: "operator", Scopes: scopes{"operator.write"}})
	if out, err = w.enroll(secret, enrolment("d", secret)); err != nil || !slices.Equal(out.Scopes, scopes{"operator.write"}) {
		t.Fatalf("%+v %v", out, err)
	}
	if d := w.device("d"); !slices.Equal(d.ApprovedScopes, scopes{"operator.write"}) {
		t.Errorf("approved %v", d.ApprovedScopes)
	}
}
