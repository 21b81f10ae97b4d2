package identity_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// orgs is an identity service whose tokens name a person and an organisation: jwt.PERSON@ORG.
type orgs struct{}

func (orgs) Verify(_ context.Context, token string) (identity.Person, error) {
	rest, ok := strings.CutPrefix(token, "jwt.")
	if !ok {
		return identity.Person{}, errs.New(errs.Unauthenticated, "no")
	}
	name, org, _ := strings.Cut(rest, "@")
	return identity.Person{ID: name, Org: org, Admin: name == "root"}, nil
}

// linked words an admission.
func (w *world) linked(from identity.Peer, token string) string {
	adm, err := w.svc.AdmitLink(context.Background(), identity.LinkAttempt{Token: token, Peer: from})
	if err != nil {
		e, _ := errs.As(err)
		return e.Code
	}
	return adm.Credential + "|" + adm.Tenant
}

func TestAdmitLink(t *testing.T) {
	iam := identity.Auth{Mode: identity.AuthIAM, Issuer: orgs{}, Secret: secret("tok")}
	token := identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}
	for _, c := range []struct {
		name  string
		auth  identity.Auth
		from  identity.Peer
		token string
		want  string
	}{
		{"the shared token", token, far, "tok", "shared-secret|"},
		{"with blanks", token, far, " tok ", "shared-secret|"},
		{"a wrong one", token, far, "tik", "identity.link_refused"},
		{"a key that is none", token, far, "hk-x", "identity.link_refused"},
		{"nothing", token, local, "", "identity.link_token"},
		{"the password", identity.Auth{Mode: identity.AuthPassword, Secret: secret("tok")}, far, "tok", "shared-secret|"},
		{"a person", iam, far, "jwt.ann@acme", "iam:ann|acme"},
		{"a person of nothing", iam, far, "jwt.ann", "identity.link_tenant"},
		{"an administrator's machine is of its organisation too", iam, far, "jwt.root@acme", "iam:root|acme"},
		{"the token beside the identity service", iam, far, "tok", "shared-secret|"},
		{"a bad one", iam, far, "a.b.c", "identity.link_refused"},
		{"no authentication, this machine", identity.Auth{Mode: identity.AuthNone}, local, "", "local|"},
		{"no authentication, elsewhere", identity.Auth{Mode: identity.AuthNone}, far, "x", "identity.link_token"},
		{"no authentication, a web page", identity.Auth{Mode: identity.AuthNone}, page, "", "identity.link_token"},
		{"a proxy", identity.Auth{Mode: identity.AuthTrustedProxy, Proxy: &identity.ProxyAuth{UserHeader: "x-user"}}, with(behind, "x-user", "ann"), "", "proxy:ann|"},
		{"a proxy without a user", identity.Auth{Mode: identity.AuthTrustedProxy, Proxy: &identity.ProxyAuth{UserHeader: "x-user"}}, behind, "x", "identity.link_refused"},
	} {
		if got := modeWorld(t, c.auth).linked(c.from, c.token); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// Link keys let in until they are revoked, also from an address that was locked out, and are kept without their
// secrets.
func TestLinkKeys(t *testing.T) {
	rate := identity.Rate{Attempts: 2, Window: identity.DefaultRate.Window, Lockout: identity.DefaultRate.Lockout}
	w := modeWorld(t, identity.Auth{Mode: identity.AuthToken, Secret: secret("tok"), Limit: &identity.AuthLimit{Rate: rate}})
	ctx, boss := context.Background(), identity.Internal()
	out, err := w.svc.CreateLinkKey(ctx, boss, identity.LinkKeyIn{Name: " cloud ", Tenant: "acme"})
	if err != nil || !strings.HasPrefix(out.Secret, "hk-") || out.Key.Name != "cloud" || out.Key.Hash != "" {
		t.Fatalf("%+v, %v", out, err)
	}
	for range 3 {
		w.linked(far, "wrong")
	}
	if got := w.linked(far, "tok"); got != "identity.rate_limited" {
		t.Errorf("a locked address: %s", got)
	}
	w.open() // a restart
	want := "link-key:" + out.Key.ID + "|acme"
	if got := w.linked(far, out.Secret); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	keys, err := w.store.LinkKeys()
	if err != nil || len(keys) != 1 || strings.Contains(keys[0].Hash, out.Secret) || keys[0].Hash == "" {
		t.Errorf("%+v, %v", keys, err)
	}
	acme, other := boss, boss
	acme.Tenant, other.Tenant = "acme", "other"
	for name, c := range map[string]struct {
		caller identity.Caller
		in     identity.LinkKeyIn
		want   error
	}{
		"the same name":         {boss, identity.LinkKeyIn{Name: "cloud", Tenant: "acme"}, identity.ErrLinkKeyName},
		"no name":               {boss, identity.LinkKeyIn{Name: " "}, identity.ErrLinkKeyName},
		"a name with a line":    {boss, identity.LinkKeyIn{Name: "a\nb"}, identity.ErrLinkKeyName},
		"a tenant with a space": {boss, identity.LinkKeyIn{Name: "x", Tenant: "a b"}, identity.ErrTenantName},
		"another's tenant":      {other, identity.LinkKeyIn{Name: "x", Tenant: "acme"}, identity.ErrLinkKeyOther},
	} {
		if _, err := w.svc.CreateLinkKey(ctx, c.caller, c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if own, err := w.svc.CreateLinkKey(ctx, other, identity.LinkKeyIn{Name: "cloud"}); err != nil || own.Key.Tenant != "other" {
		t.Errorf("%+v, %v", own, err)
	}
	if list, _ := w.svc.LinkKeys(ctx, acme); len(list.Keys) != 1 || list.Keys[0].Tenant != "acme" || list.Keys[0].Hash != "" {
		t.Errorf("%+v", list)
	}
	if list, _ := w.svc.LinkKeys(ctx, boss); len(list.Keys) != 2 {
		t.Errorf("%+v", list)
	}
	// What it let in ends with it.
	adm, err := w.svc.AdmitLink(ctx, identity.LinkAttempt{Token: out.Secret, Peer: far})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.svc.RevokeLinkKey(ctx, other, identity.RevokeLinkKeyIn{ID: out.Key.ID}); !errors.Is(err, identity.ErrNoLinkKey) {
		t.Errorf("another tenant revokes: %v", err)
	}
	if _, err := w.svc.RevokeLinkKey(ctx, acme, identity.RevokeLinkKeyIn{ID: out.Key.ID}); err != nil {
		t.Fatal(err)
	}
	if err := w.svc.ConfirmLink(adm.Caller(), adm); !errors.Is(err, identity.ErrEnded) {
		t.Errorf("a link that was being let in: %v", err)
	}
	ended := identity.Ended{LinkKey: out.Key.ID}
	if !ended.Covers(adm.Caller()) || ended.Covers(identity.Caller{Role: identity.RoleNode, Principal: "link-key:other"}) || ended.Covers(identity.Caller{Role: identity.RoleOperator, Principal: adm.Credential}) {
		t.Error("the wrong links end")
	}
	if got := w.linked(far, out.Secret); got == want {
		t.Error("a revoked key lets in")
	}
	rows, err := w.store.Audit(0, 20)
	if err != nil || len(rows) != 3 || rows[0].Kind != "link.key.create" || rows[0].Detail != "cloud of acme" || rows[2].Kind != "link.key.revoke" {
		t.Errorf("%+v, %v", rows, err)
	}
}

// Operators of the identity service are of their organisation, but for those who administer the gateway.
func TestTenantOfOperators(t *testing.T) {
	w := modeWorld(t, identity.Auth{Mode: identity.AuthIAM, Issuer: orgs{}, Secret: secret("tok")})
	for token, want := range map[string]string{"jwt.ann@acme": "acme", "jwt.root@acme": "", "tok": ""} {
		c, err := w.svc.Bearer(context.Background(), token, far)
		if err != nil || c.Tenant != want {
			t.Errorf("%s: %q, %v", token, c.Tenant, err)
		}
		adm, err := w.svc.Admit(context.Background(), identity.Attempt{Role: identity.RoleOperator, Token: token, Peer: far})
		if err != nil || adm.Tenant != want {
			t.Errorf("%s connects: %q, %v", token, adm.Tenant, err)
		}
	}
}
