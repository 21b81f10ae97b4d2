package identity_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// service knows tokens "jwt.<person>"; persons that begin with "root" are admins.
type service struct{ down bool }

func (s *service) Verify(_ context.Context, token string) (identity.Person, error) {
	if s.down {
		return identity.Person{}, errs.New(errs.Unavailable, "down")
	}
	name, ok := strings.CutPrefix(token, "jwt.")
	if !ok {
		return identity.Person{}, errs.New(errs.Unauthenticated, "no")
	}
	return identity.Person{ID: name, Admin: strings.HasPrefix(name, "root")}, nil
}

// net64 is a tailnet in which 100.64.0.1 is Ann's.
type net64 struct{}

func (net64) Login(_ context.Context, a netip.Addr) (string, error) {
	if a.String() == "100.64.0.1" {
		return "Ann@example.com", nil
	}
	return "", errors.New("nobody's")
}

var (
	local   = identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.1"), Local: true}
	far     = identity.Peer{Direct: addr("198.51.100.1"), Client: addr("198.51.100.1")}
	behind  = identity.Peer{Direct: addr("10.0.0.1"), Client: addr("203.0.113.7"), Trusted: true, Forwarded: true}
	foreign = identity.Peer{Direct: addr("10.0.0.1"), Client: addr("10.0.0.1"), Forwarded: true}
	page    = identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.1"), Local: true, HasOrigin: true}
)

func with(p identity.Peer, header ...string) identity.Peer {
	p.Headers = map[string]string{}
	for i := 0; i+1 < len(header); i += 2 {
		p.Headers[header[i]] = header[i+1]
	}
	return p
}

// modeWorld is a service of a mode.
func modeWorld(t *testing.T, auth identity.Auth) *world {
	w := newWorld(t, identity.AuthNone)
	w.auth = auth
	w.open()
	return w
}

func iamAuth() identity.Auth {
	return identity.Auth{Mode: identity.AuthIAM, Issuer: &service{}, Secret: secret("tok")}
}

func proxyAuth() identity.Auth {
	return identity.Auth{Mode: identity.AuthTrustedProxy, Proxy: &identity.ProxyAuth{
		UserHeader: "X-User", RequiredHeaders: []string{"X-Verified"}, AllowUsers: []string{"ann", "Bob"},
	}}
}

// Who gets in without a device, by mode (protocol.md §4.2, §4.6), and with which scopes: wanted are
// admin, approvals and pairing, as the Control UI asks.
func TestModesWithoutDevice(t *testing.T) {
	user := with(behind, "x-user", "ann", "x-verified", "1")
	wanted := []identity.Scope{identity.ScopeAdmin, identity.ScopeApprovals, identity.ScopePairing}
	all := "[operator.admin operator.approvals operator.pairing]"
	op := func(a identity.Attempt) identity.Attempt { a.Role, a.Scopes = identity.RoleOperator, wanted; return a }
	ui := func(a identity.Attempt) identity.Attempt { a = op(a); a.ControlUI = true; return a }
	node := func(a identity.Attempt) identity.Attempt { a.Role = identity.RoleNode; return a }
	free, insecure := identity.Auth{Mode: identity.AuthToken, Secret: secret("tok"), DeviceFreeUI: true}, identity.Auth{Mode: identity.AuthToken, Secret: secret("tok"), InsecureUI: true}
	noneFree := identity.Auth{Mode: identity.AuthNone, DeviceFreeUI: true, InsecureUI: true}
	ts := identity.Auth{Mode: identity.AuthToken, Secret: secret("tok"), Tailnet: net64{}}
	tsPeer := with(identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.1"), Forwarded: true, Claimed: addr("100.64.0.1")},
		"tailscale-user-login", "ann@example.com", "x-forwarded-proto", "https", "x-forwarded-host", "box.tail1.ts.net")
	for _, c := range []struct {
		name string
		auth identity.Auth
		a    identity.Attempt
		want string
	}{
		// none: a device is needed all the same.
		{"none", identity.Auth{Mode: identity.AuthNone}, op(identity.Attempt{Peer: local}), "device_required"},
		{"none, with a token", identity.Auth{Mode: identity.AuthNone}, op(identity.Attempt{Peer: local, Token: "x"}), "device_required"},
		{"none, node", identity.Auth{Mode: identity.AuthNone}, node(identity.Attempt{Peer: local}), "device_required"},
		{"none, control ui", identity.Auth{Mode: identity.AuthNone}, ui(identity.Attempt{Peer: local}), "control_ui_device"},
		{"none, control ui, all flags", noneFree, ui(identity.Attempt{Peer: local}), "device_required"},
		// trusted-proxy.
		{"proxy", proxyAuth(), op(identity.Attempt{Peer: user}), "in " + all + " proxy:ann"},
		{"proxy, control ui", proxyAuth(), ui(identity.Attempt{Peer: user}), "in " + all + " proxy:ann"},
		{"proxy, node", proxyAuth(), node(identity.Attempt{Peer: user}), "in [] proxy:ann"},
		{"proxy, not trusted", proxyAuth(), op(identity.Attempt{Peer: with(foreign, "x-user", "ann", "x-verified", "1"), Token: "x"}), "auth trusted_proxy_untrusted_source"},
		{"proxy, direct", proxyAuth(), op(identity.Attempt{Peer: with(local, "x-user", "ann", "x-verified", "1"), Token: "x"}), "auth trusted_proxy_untrusted_source"},
		{"proxy, nothing offered", proxyAuth(), op(identity.Attempt{Peer: with(behind, "x-user", "eve", "x-verified", "1")}), "device_required"},
		{"proxy, no required header", proxyAuth(), op(identity.Attempt{Peer: with(behind, "x-user", "ann"), Token: "x"}), "auth trusted_proxy_missing_header_X-Verified"},
		{"proxy, no user", proxyAuth(), op(identity.Attempt{Peer: with(behind, "x-verified", "1"), Token: "x"}), "auth trusted_proxy_user_missing"},
		{"proxy, another user", proxyAuth(), op(identity.Attempt{Peer: with(behind, "x-user", "eve", "x-verified", "1"), Token: "x"}), "auth trusted_proxy_user_not_allowed"},
		{"proxy, user in another case", proxyAuth(), op(identity.Attempt{Peer: with(behind, "x-user", "bob", "x-verified", "1"), Token: "x"}), "auth trusted_proxy_user_not_allowed"},
		{"proxy, not configured", identity.Auth{Mode: identity.AuthTrustedProxy}, op(identity.Attempt{Peer: user, Token: "x"}), "auth trusted_proxy_config_missing"},
		{"proxy, control ui, not trusted", proxyAuth(), ui(identity.Attempt{Peer: foreign}), "control_ui_device"},
		// iam.
		{"iam, admin", iamAuth(), op(identity.Attempt{Peer: far, Token: "jwt.root"}), "in " + all + " iam:root"},
		{"iam", iamAuth(), op(identity.Attempt{Peer: far, Token: "jwt.ann"}), "in [operator.read operator.write] iam:ann"},
		{"iam, asks for less", iamAuth(), func() identity.Attempt {
			a := op(identity.Attempt{Peer: far, Token: "jwt.ann"})
			a.Scopes = []identity.Scope{identity.ScopeRead, identity.ScopePairing, identity.ScopeTalkSecrets}
			return a
		}(), "in [operator.read] iam:ann"},
		{"iam, node of an admin", iamAuth(), node(identity.Attempt{Peer: far, Token: "jwt.root"}), "in [] iam:root"},
		{"iam, node of somebody", iamAuth(), node(identity.Attempt{Peer: far, Token: "jwt.ann"}), "device_required"},
		{"iam, control ui", iamAuth(), ui(identity.Attempt{Peer: local, Token: "jwt.root"}), "control_ui_device"},
		{"iam, gateway token", iamAuth(), op(identity.Attempt{Peer: far, Token: "tok"}), "in " + all},
		{"iam, wrong", iamAuth(), op(identity.Attempt{Peer: far, Token: "x"}), "auth iam_validation_failed"},
		{"iam, nothing", iamAuth(), op(identity.Attempt{Peer: far}), "device_required"},
		{"iam, only a password", iamAuth(), op(identity.Attempt{Peer: far, Password: "tok"}), "auth iam_token_missing"},
		{"iam, no gateway token, empty", identity.Auth{Mode: identity.AuthIAM, Issuer: &service{}}, op(identity.Attempt{Peer: far, Token: "x"}), "auth iam_validation_failed"},
		{"iam is down", identity.Auth{Mode: identity.AuthIAM, Issuer: &service{down: true}, Secret: secret("tok")}, op(identity.Attempt{Peer: far, Token: "jwt.root"}), "auth iam_validation_failed"},
		{"iam is down, gateway token", identity.Auth{Mode: identity.AuthIAM, Issuer: &service{down: true}, Secret: secret("tok")}, op(identity.Attempt{Peer: far, Token: "tok"}), "in " + all},
		// Tailscale: somebody, but not who holds the secret.
		{"tailscale", ts, op(identity.Attempt{Peer: tsPeer}), "device_required"},
		{"tailscale, wrong token", ts, op(identity.Attempt{Peer: tsPeer, Token: "x"}), "device_required"},
		// The Control UI's ways without a device: with the secret only.
		{"free ui", free, ui(identity.Attempt{Peer: far, Token: "tok"}), "in " + all},
		{"free ui, wrong", free, ui(identity.Attempt{Peer: far, Token: "x"}), "auth token_mismatch"},
		{"free ui, nothing", free, ui(identity.Attempt{Peer: far}), "device_required"},
		{"free is for the ui only", free, op(identity.Attempt{Peer: far}), "device_required"},
		{"insecure ui, near", insecure, ui(identity.Attempt{Peer: page, Token: "tok"}), "in " + all},
		{"insecure ui, far", insecure, ui(identity.Attempt{Peer: far, Token: "tok"}), "control_ui_device"},
		{"insecure ui, behind a proxy", insecure, ui(identity.Attempt{Peer: behind, Token: "tok"}), "control_ui_device"},
		{"insecure ui, wrong", insecure, ui(identity.Attempt{Peer: page, Token: "x"}), "auth token_mismatch"},
		{"insecure ui, nothing", insecure, ui(identity.Attempt{Peer: page}), "device_required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := modeWorld(t, c.auth)
			adm, err := w.svc.Admit(t.Context(), c.a)
			got := verdict(adm, err)
			if err == nil {
				got = strings.TrimSpace(fmt.Sprint("in ", adm.Scopes, " ", adm.Principal))
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Tailscale lets a device in where the headers, the way they came and the tailnet agree; it still has
// to be paired.
func TestTailscale(t *testing.T) {
	good := with(identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.1"), Forwarded: true, Claimed: addr("100.64.0.1")},
		"tailscale-user-login", "ann@EXAMPLE.com", "x-forwarded-proto", "https", "x-forwarded-host", "box.tail1.ts.net")
	for name, c := range map[string]struct {
		change func(*identity.Peer)
		want   string
	}{
		"as it is":           {func(*identity.Peer) {}, "pairing_required not-paired"},
		"from afar":          {func(p *identity.Peer) { p.Direct = addr("192.0.2.1") }, "auth token_missing"},
		"direct":             {func(p *identity.Peer) { p.Local = true }, "auth token_missing"},
		"no address":         {func(p *identity.Peer) { p.Claimed = netip.Addr{} }, "auth token_missing"},
		"somebody else's":    {func(p *identity.Peer) { p.Claimed = addr("100.64.0.2") }, "auth token_missing"},
		"another login":      {func(p *identity.Peer) { p.Headers["tailscale-user-login"] = "eve@example.com" }, "auth token_missing"},
		"looks like Ann":     {func(p *identity.Peer) { p.Headers["tailscale-user-login"] = "\u0430nn@example.com" }, "auth token_missing"},
		"no login":           {func(p *identity.Peer) { delete(p.Headers, "tailscale-user-login") }, "auth token_missing"},
		"no forwarded proto": {func(p *identity.Peer) { delete(p.Headers, "x-forwarded-proto") }, "auth token_missing"},
		"no forwarded host":  {func(p *identity.Peer) { delete(p.Headers, "x-forwarded-host") }, "auth token_missing"},
	} {
		t.Run(name, func(t *testing.T) {
			w := modeWorld(t, identity.Auth{Mode: identity.AuthToken, Secret: secret("tok"), Tailnet: net64{}})
			a := w.attempt("d", identity.ScopeRead)
			a.Token, a.Peer = "", good
			a.Peer.Headers = maps.Clone(good.Headers)
			c.change(&a.Peer)
			if got := verdict(w.admit(a)); got != c.want {
				t.Errorf("%s", got)
			}
			// The headers never count for a request.
			if _, err := w.svc.Bearer(t.Context(), "x", a.Peer); !errors.Is(err, identity.ErrBearerNotAccepted) {
				t.Errorf("bearer: %v", err)
			}
		})
	}
}

// What somebody of the identity service may not do with a device either: pair silently with more
// than it may have, or be a node unasked.
func TestPersonsDevices(t *testing.T) {
	for _, c := range []struct {
		token  string
		role   identity.Role
		scopes []identity.Scope
		peer   identity.Peer
		want   string
	}{
		{"jwt.ann", identity.RoleOperator, []identity.Scope{identity.ScopeRead, identity.ScopeWrite}, local, "in paired token"},
		{"jwt.ann", identity.RoleOperator, []identity.Scope{identity.ScopeAdmin}, local, "pairing_required not-paired"},
		{"jwt.ann", identity.RoleOperator, []identity.Scope{identity.ScopeRead}, far, "pairing_required not-paired"},
		{"jwt.ann", identity.RoleNode, nil, local, "pairing_required not-paired"},
		{"jwt.root", identity.RoleOperator, []identity.Scope{identity.ScopeAdmin}, local, "in paired token"},
		{"jwt.root", identity.RoleNode, nil, far, "in"},
	} {
		w := modeWorld(t, iamAuth())
		a := w.attempt("d", c.scopes...)
		a.Role, a.Token, a.Peer = c.role, c.token, c.peer
		if got := verdict(w.admit(a)); got != c.want {
			t.Errorf("%s as %s with %v: %s", c.token, c.role, c.scopes, got)
		}
	}
}

// A secret that is presented is looked at, not only that it is there (CVE-2026-28472).
func TestPresenceIsNotProof(t *testing.T) {
	for _, auth := range []identity.Auth{
		{Mode: identity.AuthToken, Secret: secret("tok")}, {Mode: identity.AuthPassword, Secret: secret("tok")}, {Mode: identity.AuthNone},
		{Mode: identity.AuthToken}, {Mode: identity.AuthPassword}, iamAuth(), proxyAuth(), {Mode: identity.AuthToken, Secret: secret("tok"), InsecureUI: true, DeviceFreeUI: true},
	} {
		w := modeWorld(t, auth)
		for _, wrong := range []string{"x", "undefined", "null", "true", "tok2", " ", "tok\x00", "TOK"} {
			for _, ui := range []bool{false, true} {
				a := identity.Attempt{
					Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, ClientID: "cli", ClientMode: "cli",
					Token: wrong, DeviceToken: wrong, Password: wrong, Peer: local, ControlUI: ui, Nonce: nonce,
				}
				if adm, err := w.svc.Admit(t.Context(), a); err == nil {
					t.Errorf("%s with %q: let in with %v", auth.Mode, wrong, adm.Scopes)
				}
				// Nor does a device that proves nothing, with a secret beside it.
				a.Device = &identity.Proof{ID: "x", PublicKey: "x", Signature: "x", Nonce: nonce}
				if adm, err := w.svc.Admit(t.Context(), a); err == nil {
					t.Errorf("%s with %q and a false device: let in with %v", auth.Mode, wrong, adm.Scopes)
				}
			}
			if c, err := w.svc.Bearer(t.Context(), wrong, local); err == nil {
				t.Errorf("%s: the bearer %q is %v", auth.Mode, wrong, c.Principal)
			}
		}
	}
}

// Scopes that a client declares count only on the word of somebody who may give them
// (GHSA-rqpp-rjj8-7wv8).
func TestSelfDeclaredScopes(t *testing.T) {
	all := slices.Clone(identity.AllOperatorScopes)
	for name, c := range map[string]struct {
		auth   identity.Auth
		change func(*identity.Attempt)
		want   string
	}{
		"mode none":                          {identity.Auth{Mode: identity.AuthNone}, func(*identity.Attempt) {}, "device_required"},
		"mode none, all flags":               {identity.Auth{Mode: identity.AuthNone, InsecureUI: true, DeviceFreeUI: true}, func(a *identity.Attempt) { a.ControlUI = true }, "device_required"},
		"somebody of the service":            {iamAuth(), func(a *identity.Attempt) { a.Token = "jwt.ann" }, "in"},
		"a device token with less":           {identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}, nil, "auth token_mismatch"},
		"an explicit device token with less": {identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}, nil, "auth device_token_mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			w := modeWorld(t, c.auth)
			a := identity.Attempt{Role: identity.RoleOperator, Scopes: all, ClientID: "cli", ClientMode: "cli", Peer: local, Nonce: nonce}
			if c.change == nil {
				token := w.pair("d", identity.RoleOperator, identity.ScopeRead)
				a = w.attempt("d", all...)
				a.Peer, a.Token = far, token
				if strings.HasPrefix(name, "an explicit") {
					a.Token, a.DeviceToken = "", token
				}
			} else {
				c.change(&a)
			}
			adm, err := w.admit(a)
			if got := verdict(adm, err); got != c.want {
				t.Errorf("%s", got)
			}
			if err == nil && !slices.Equal(adm.Scopes, identity.PersonScopes) {
				t.Errorf("has %v", adm.Scopes)
			}
		})
	}
}

// Bearer by mode.
func TestBearerModes(t *testing.T) {
	user := with(behind, "x-user", "ann", "x-verified", "1")
	for _, c := range []struct {
		name  string
		auth  identity.Auth
		token string
		peer  identity.Peer
		want  string
	}{
		{"none", identity.Auth{Mode: identity.AuthNone}, "x", local, "bearer"},
		{"none, nothing", identity.Auth{Mode: identity.AuthNone}, "", local, "bearer_required"},
		{"token", identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}, "tok", far, "shared-secret all"},
		{"token, nothing", identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}, "", far, "bearer_required"},
		{"password", identity.Auth{Mode: identity.AuthPassword, Secret: secret("tok")}, "tok", far, "shared-secret all"},
		{"password, wrong", identity.Auth{Mode: identity.AuthPassword, Secret: secret("tok")}, "x", far, "bearer"},
		{"token that is not configured", identity.Auth{Mode: identity.AuthToken}, "x", far, "bearer"},
		{"proxy", proxyAuth(), "", user, "proxy:ann all"},
		{"proxy, with a token of the proxy's own", proxyAuth(), "other", user, "proxy:ann all"},
		{"proxy, not trusted", proxyAuth(), "", with(foreign, "x-user", "ann", "x-verified", "1"), "bearer_required"},
		{"proxy, not trusted, token", proxyAuth(), "x", with(local, "x-user", "ann", "x-verified", "1"), "bearer"},
		{"proxy, another user", proxyAuth(), "", with(behind, "x-user", "eve", "x-verified", "1"), "bearer_required"},
		{"iam", iamAuth(), "jwt.ann", far, "iam:ann [operator.read operator.write]"},
		{"iam, admin", iamAuth(), "jwt.root", far, "iam:root all"},
		{"iam, gateway token", iamAuth(), "tok", far, "shared-secret all"},
		{"iam, wrong", iamAuth(), "x", far, "bearer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := modeWorld(t, c.auth)
			got, err := w.svc.Bearer(t.Context(), c.token, c.peer)
			s := verdict(identity.Admission{}, err)
			if err == nil {
				s = fmt.Sprint(got.Principal, " ", got.Scopes)
				if slices.Equal(got.Scopes, identity.AllOperatorScopes) {
					s = got.Principal + " all"
				}
				if got.Role != identity.RoleOperator || got.Local || got.RemoteIP != c.peer.Client.String() {
					t.Errorf("%+v", got)
				}
			}
			if s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
		})
	}
}

func limited(mode identity.AuthMode, exempt bool) identity.Auth {
	return identity.Auth{Mode: mode, Secret: secret("tok"), Limit: &identity.AuthLimit{Rate: rate, ExemptLoopback: exempt}}
}

// try is an attempt without a device; it returns the reason, "in" when let in.
func (w *world) try(p identity.Peer, token string) string {
	_, err := w.svc.Admit(context.Background(), identity.Attempt{Role: identity.RoleOperator, Token: token, Password: token, Peer: p})
	if err == nil {
		return "in"
	}
	if e, ok := errs.As(err); ok && e.Field("reason") != "" {
		return e.Field("reason")
	}
	return verdict(identity.Admission{}, err)
}

func (w *world) tries(p identity.Peer, token string, n int) string {
	last := ""
	for range n {
		last = w.try(p, token)
	}
	return last
}

// Lock-out where it is configured: of the address behind the proxy, in all doors, for the right
// secret too, and only for who failed.
func TestLockOut(t *testing.T) {
	for _, mode := range []identity.AuthMode{identity.AuthToken, identity.AuthPassword} {
		w := modeWorld(t, limited(mode, true))
		if got := w.tries(behind, "x", 3); got != string(mode)+"_mismatch" {
			t.Errorf("%s: the third is %s", mode, got)
		}
		if got := w.try(behind, "x") + " " + w.try(behind, "tok") + " " + w.try(behind, ""); got != "rate_limited rate_limited device_required" {
			t.Errorf("%s: locked: %s", mode, got)
		}
		_, err := w.svc.Bearer(t.Context(), "tok", behind)
		if e, ok := errs.As(err); !ok || !errors.Is(err, identity.ErrRateLimited) || e.Fields["retryAfterMs"] != int64(300_000) {
			t.Errorf("%s: bearer: %v", mode, err)
		}
		other := behind
		other.Client = addr("203.0.113.8")
		if got := w.try(other, "tok") + " " + w.try(far, "tok") + " " + w.try(local, "tok"); got != "in in in" {
			t.Errorf("%s: others: %s", mode, got)
		}
		w.clock = w.clock.Add(5 * time.Minute)
		if got := w.try(behind, "tok"); got != "in" {
			t.Errorf("%s: afterwards: %s", mode, got)
		}
	}
}

// Wrong bearer tokens and wrong connects count together; what is missing does not count.
func TestWhatCounts(t *testing.T) {
	w := modeWorld(t, limited(identity.AuthToken, true))
	w.try(far, "x")
	for range 5 {
		w.try(far, "")
		if _, err := w.svc.Bearer(t.Context(), "", far); !errors.Is(err, identity.ErrBearerRequired) {
			t.Error(err)
		}
	}
	for range 2 {
		if _, err := w.svc.Bearer(t.Context(), "x", far); !errors.Is(err, identity.ErrBearerNotAccepted) {
			t.Error(err)
		}
	}
	if got := w.try(far, "tok"); got != "rate_limited" {
		t.Errorf("two bearers and a connect: %s", got)
	}

	w = modeWorld(t, limited(identity.AuthToken, true))
	w.tries(far, "x", 2)
	if got := w.try(far, "tok") + " " + w.tries(far, "x", 2) + " " + w.try(far, "tok"); got != "in token_mismatch in" {
		t.Errorf("a success starts the count anew: %s", got)
	}

	w = modeWorld(t, func() identity.Auth { a := iamAuth(); a.Limit = &identity.AuthLimit{Rate: rate}; return a }())
	w.tries(far, "x", 3)
	if got := w.try(far, "jwt.root"); got != "rate_limited" {
		t.Errorf("iam: %s", got)
	}
	w = modeWorld(t, identity.Auth{Mode: identity.AuthIAM, Issuer: &service{down: true}, Limit: &identity.AuthLimit{Rate: rate}})
	if got := w.tries(far, "jwt.root", 10); got != "iam_validation_failed" {
		t.Errorf("a service that is down locks out: %s", got)
	}
}

// Loopback is exempt for who comes directly, and for nobody else: not behind a proxy on this machine,
// trusted or not, not for web pages, and not when the configuration says so.
func TestLoopbackIsExemptOnlyDirectly(t *testing.T) {
	nearProxy := identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.1"), Forwarded: true}
	otherHost := identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.1")}
	elsewhere := identity.Peer{Direct: addr("127.0.0.1"), Client: addr("127.0.0.9"), Forwarded: true}
	for name, c := range map[string]struct {
		auth identity.Auth
		peer identity.Peer
		want string
	}{
		"direct":                   {limited(identity.AuthToken, true), local, "in"},
		"direct, not exempt":       {limited(identity.AuthToken, false), local, "rate_limited"},
		"forwarded":                {limited(identity.AuthToken, true), nearProxy, "rate_limited"},
		"another host":             {limited(identity.AuthToken, true), otherHost, "rate_limited"},
		"web page":                 {limited(identity.AuthToken, true), page, "rate_limited"},
		"proxy that does not tell": {limited(identity.AuthToken, true), identity.Peer{Direct: addr("127.0.0.1"), Trusted: true}, "rate_limited"},
	} {
		t.Run(name, func(t *testing.T) {
			w := modeWorld(t, c.auth)
			w.tries(c.peer, "x", 3)
			if got := w.try(c.peer, "tok"); got != c.want {
				t.Errorf("%s", got)
			}
		})
	}
	// All addresses of loopback are one source, and those behind a proxy do not lock out who is direct.
	w := modeWorld(t, limited(identity.AuthToken, true))
	w.tries(nearProxy, "x", 3)
	if got := w.try(elsewhere, "tok") + " " + w.try(local, "tok"); got != "rate_limited in" {
		t.Errorf("%s", got)
	}
}

// Web pages are always locked out after ten failures; those of this machine together, and no
// program with them.
func TestWebPagesAreAlwaysLimited(t *testing.T) {
	w := modeWorld(t, identity.Auth{Mode: identity.AuthPassword, Secret: secret("tok")})
	if got := w.tries(page, "x", 10); got != "password_mismatch" {
		t.Errorf("the tenth: %s", got)
	}
	other := page
	other.Direct, other.Client = addr("::1"), addr("::1")
	if got := w.try(page, "tok") + " " + w.try(other, "tok") + " " + w.try(local, "tok"); got != "rate_limited rate_limited in" {
		t.Errorf("%s", got)
	}
}

// A program of this machine that guesses is slowed down, by all doors and with all addresses of
// loopback together; it locks out neither itself nor others for long, and devices not at all.
func TestLoopbackBruteForce(t *testing.T) {
	w := modeWorld(t, identity.Auth{Mode: identity.AuthPassword, Secret: secret("tok")})
	token := w.pairWith("d", "tok", identity.ScopeRead)
	guesses := 0
	for i := range 5000 {
		p := local
		p.Client = netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)})
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the clock stands still: waiting for one's turn is of no use
		_, err := w.svc.Admit(ctx, identity.Attempt{Role: identity.RoleOperator, Password: "x", Peer: p})
		if e, ok := errs.As(err); !ok || e.Field("reason") == "password_mismatch" {
			guesses++
		}
		if _, err := w.svc.Bearer(ctx, "x", p); errors.Is(err, identity.ErrBearerNotAccepted) {
			guesses++
		}
		w.clock = w.clock.Add(2 * time.Millisecond) // 500 attempts a second by each door
	}
	if guesses > 100+10*10+1 {
		t.Errorf("%d guesses in ten seconds", guesses)
	}
	a := w.attempt("d", identity.ScopeRead)
	a.Token, a.DeviceToken = "", token
	if got := verdict(w.admit(a)); got != "in paired token" {
		t.Errorf("a paired device: %s", got)
	}
	if _, err := w.svc.Bearer(t.Context(), token, local); err != nil {
		t.Errorf("a paired device's bearer: %v", err)
	}
	w.clock = w.clock.Add(200 * time.Millisecond)
	if got := w.try(local, "tok"); got != "in" {
		t.Errorf("the owner, a moment later: %s", got)
	}
	if got := w.try(far, "tok"); got != "in" {
		t.Errorf("others: %s", got)
	}
}

// pairWith pairs a device with the password.
func (w *world) pairWith(dev, password string, scopes ...identity.Scope) string {
	w.tb.Helper()
	a := w.attempt(dev, scopes...)
	a.Token, a.Password = "", password
	adm, err := w.admit(a)
	if err != nil || adm.Issued == nil {
		w.tb.Fatalf("%+v, %v", adm, err)
	}
	return adm.Issued.Token
}

// Who waits for its turn is answered, not refused: one guess after the other goes on, slowly.
func TestSlowedDownIsAnswered(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	began := time.Now()
	real, err := identity.New(w.store, identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}, w, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w.svc = real
	if got := w.tries(local, "x", 103); got != "token_mismatch" {
		t.Errorf("%s", got)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("103 guesses took %s", took)
	}
	if got := w.try(local, "tok"); got != "in" {
		t.Errorf("the right one: %s", got)
	}
}

// Guesses at the secret that hide behind a device are guesses: with a fresh device each, or with a
// device token of one's own beside them.
func TestGuessesBehindADevice(t *testing.T) {
	w := modeWorld(t, limited(identity.AuthToken, true))
	for i := range 3 {
		a := w.attempt(fmt.Sprint("fresh", i), identity.ScopeRead)
		a.Token, a.Peer = "x", far
		if got := verdict(w.admit(a)); got != "auth token_mismatch" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	a := w.attempt("another", identity.ScopeRead)
	a.Peer = far
	if got := verdict(w.admit(a)); got != "auth rate_limited" {
		t.Errorf("the right secret with another device: %s", got)
	}
	if got := w.try(far, "tok"); got != "in" {
		t.Errorf("the right secret without a device, which failed at nothing: %s", got)
	}

	w = modeWorld(t, limited(identity.AuthToken, true))
	w.tries(far, "x", 3)
	a = w.attempt("one", identity.ScopeRead)
	a.Peer = far
	if got := verdict(w.admit(a)); got != "auth rate_limited" {
		t.Errorf("the right secret with a device, after wrong ones without: %s", got)
	}

	w = modeWorld(t, limited(identity.AuthToken, true))
	token := w.pair("own", identity.RoleOperator, identity.ScopeRead)
	guess := func(secret string, dev string) string {
		a := w.attempt(dev, identity.ScopeRead)
		a.Role, a.Token, a.DeviceToken, a.Peer = identity.RoleOperator, secret, token, far
		return verdict(w.admit(a))
	}
	for i := range 3 {
		if got := guess("x", "own"); got != "in paired token" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	// It goes on working, as the device that it is; the secret is not looked at any more.
	node := w.attempt("own")
	node.Role, node.DeviceToken, node.Peer = identity.RoleNode, token, far
	if got := verdict(w.admit(node)); got != "auth rate_limited" {
		t.Errorf("the right secret after three wrong ones: %s", got)
	}
	if got := guess("x", "own"); got != "in paired token" {
		t.Errorf("the device: %s", got)
	}

	// A device that presents its token as others present the secret does not guess.
	w = modeWorld(t, limited(identity.AuthToken, true))
	token = w.pair("own", identity.RoleOperator, identity.ScopeRead)
	for range 10 {
		a := w.attempt("own", identity.ScopeRead)
		a.Token, a.DeviceToken, a.Peer = token, token, far
		if got := verdict(w.admit(a)); got != "in paired token" {
			t.Fatal(got)
		}
	}
	if got := w.try(far, "tok"); got != "in" {
		t.Errorf("%s", got)
	}
	// Device tokens that are wrong count in a scope of their own.
	for range 3 {
		a := w.attempt("own", identity.ScopeRead)
		a.Token, a.DeviceToken, a.Peer = "", "x", far
		if got := verdict(w.admit(a)); got != "auth device_token_mismatch" {
			t.Fatal(got)
		}
	}
	a = w.attempt("own", identity.ScopeRead)
	a.Token, a.DeviceToken, a.Peer = "", "x", far
	if got := verdict(w.admit(a)) + " " + w.try(far, "tok"); got != "auth rate_limited in" {
		t.Errorf("%s", got)
	}
	a.DeviceToken = token
	if got := verdict(w.admit(a)); got != "in paired token" {
		t.Errorf("the right device token: %s", got)
	}
}
