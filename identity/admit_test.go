package identity_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nonce = "nonce-of-this-connection"

type secret string

func (s secret) Equal(c string) bool { return string(s) == c }

// world is a service with a real store and a clock that stands still.
type world struct {
	tb     testing.TB
	store  *store.Store
	svc    *identity.Service
	auth   identity.Auth
	clock  time.Time
	mu     sync.Mutex
	events []string
}

func (w *world) Publish(name string, payload any) {
	if p, ok := payload.(identity.PairingResolved); ok {
		name += " " + p.Decision
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, name)
}

func newWorld(tb testing.TB, mode identity.AuthMode) *world {
	tb.Helper()
	return worldOf(tb, storetest.Open(tb), mode)
}

// worldOf is a world with a store that is there already.
func worldOf(tb testing.TB, st *store.Store, mode identity.AuthMode) *world {
	tb.Helper()
	w := &world{tb: tb, store: st, clock: time.UnixMilli(1700000000000)}
	w.auth = identity.Auth{Mode: mode}
	if mode != identity.AuthNone {
		w.auth.Secret = secret("tok")
	}
	w.open()
	return w
}

// open makes the service anew, as a restart does.
func (w *world) open() {
	w.tb.Helper()
	svc, err := identity.New(w.store, w.auth, w, func() time.Time { return w.clock })
	if err != nil {
		w.tb.Fatal(err)
	}
	w.svc = svc
}

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// attempt is an operator of a device on this machine that has the shared token.
func (w *world) attempt(dev string, scopes ...identity.Scope) identity.Attempt {
	a := identity.Attempt{
		Role: identity.RoleOperator, Scopes: scopes, ClientID: "openclaw-macos", ClientMode: "ui", Platform: "macOS 15.3",
		DeviceFamily: "Mac", Token: "tok", Nonce: nonce, Peer: identity.Peer{Local: true},
	}
	if dev != "" {
		a.Device = &identity.Proof{ID: dev}
	}
	return a
}

// sign fills in the proof of the device that the attempt names.
func (w *world) sign(a identity.Attempt) identity.Attempt {
	if a.Device == nil {
		return a
	}
	k := key(a.Device.ID)
	pub := k.Public().(ed25519.PublicKey)
	token := a.Token
	if token == "" {
		token = a.DeviceToken
	}
	p := identity.Proof{ID: identity.DeviceID(pub), PublicKey: identity.EncodeKey(pub), SignedAt: w.clock.UnixMilli(), Nonce: a.Nonce}
	text := identity.Signed{
		DeviceID: p.ID, ClientID: a.ClientID, ClientMode: a.ClientMode, Role: a.Role, Scopes: a.Scopes, SignedAt: p.SignedAt,
		Token: token, Nonce: p.Nonce, Platform: a.Platform, DeviceFamily: a.DeviceFamily,
	}.Payload("v3")
	p.Signature = base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, []byte(text)))
	a.Device = &p
	return a
}

func (w *world) admit(a identity.Attempt) (identity.Admission, error) {
	return w.svc.Admit(context.Background(), w.sign(a))
}

// pair lets a local device in and returns its token.
func (w *world) pair(dev string, role identity.Role, scopes ...identity.Scope) string {
	w.tb.Helper()
	a := w.attempt(dev, scopes...)
	a.Role = role
	adm, err := w.admit(a)
	if err != nil || adm.Issued == nil {
		w.tb.Fatalf("%+v, %v", adm, err)
	}
	return adm.Issued.Token
}

func id(dev string) string { return identity.DeviceID(key(dev).Public().(ed25519.PublicKey)) }

// verdict is an outcome in short.
func verdict(adm identity.Admission, err error) string {
	if err == nil {
		out := "in"
		if adm.Paired {
			out += " paired"
		}
		if adm.Issued != nil {
			out += " token"
		}
		return out
	}
	e, ok := errs.As(err)
	if !ok {
		return err.Error()
	}
	return strings.TrimSpace(strings.TrimPrefix(e.Code, "identity.") + " " + e.Field("reason"))
}

// The vector of protocol.md §4.5.
func TestSignatureVector(t *testing.T) {
	seed := make([]byte, 32)
	for i := range seed {
		seed[i] = byte(i)
	}
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	f := identity.Signed{
		DeviceID: "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c", ClientID: "openclaw-macos", ClientMode: "ui",
		Role: "operator", Scopes: []identity.Scope{"operator.admin", "operator.read"}, SignedAt: 1700000000000, Token: "tok",
		Nonce: "nonce-1", Platform: " macOS 15.3 ", DeviceFamily: "Mac",
	}
	if got := identity.DeviceID(pub); got != f.DeviceID {
		t.Errorf("id %s", got)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{
		"A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg", base64.StdEncoding.EncodeToString(pub),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}
	now := time.UnixMilli(f.SignedAt)
	for version, c := range map[string]struct{ text, sig string }{
		"v3": {"v3|" + f.DeviceID + "|openclaw-macos|ui|operator|operator.admin,operator.read|1700000000000|tok|nonce-1|macos 15.3|mac",
			"H9P_Qc9aNUtY7XrBmaODGfKCtThUpjpm-chiegHCp00-1v_96l851xagewpWkC6BnFaINPWV_vG01FjLSncpBg"},
		"v2": {"v2|" + f.DeviceID + "|openclaw-macos|ui|operator|operator.admin,operator.read|1700000000000|tok|nonce-1",
			"oXb5HorQvMB5v7g86e-new53YBCuQaOO5EvLkRmGJHCkKdBhaDqMM_qFsdPfW0EU8_f1ZMMHybwXvmDvzfyHCA"},
	} {
		if got := f.Payload(version); got != c.text {
			t.Errorf("%s: %s", version, got)
		}
		for _, k := range keys {
			for _, sig := range []string{c.sig, strings.NewReplacer("-", "+", "_", "/").Replace(c.sig) + "=="} {
				p := identity.Proof{ID: f.DeviceID, PublicKey: k, Signature: sig, SignedAt: f.SignedAt, Nonce: " nonce-1 "}
				if _, err := p.Verify(f, "nonce-1", now); err != nil {
					t.Errorf("%s with the key %.20s: %v", version, k, err)
				}
			}
		}
	}
}

// Each field is signed, the checks stand in their order, and no other version of the text counts.
func TestVerifyRefuses(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	base := w.attempt("d", "operator.read")
	for _, c := range []struct {
		name  string
		proof func(*identity.Proof)
		field func(*identity.Signed)
		at    time.Duration
		want  *errs.Error
	}{
		{"as it is", nil, nil, 0, nil},
		{"at the limit", nil, nil, identity.SignatureSkew, nil},
		{"at the other limit", nil, nil, -identity.SignatureSkew, nil},
		{"stale", nil, nil, identity.SignatureSkew + time.Millisecond, identity.ErrSignatureStale},
		{"from the future", nil, nil, -identity.SignatureSkew - time.Millisecond, identity.ErrSignatureStale},
		{"other id", func(p *identity.Proof) { p.ID = id("e") }, nil, 0, identity.ErrDeviceID},
		{"upper-case id", func(p *identity.Proof) { p.ID = strings.ToUpper(p.ID) }, nil, 0, identity.ErrDeviceID},
		{"no key", func(p *identity.Proof) { p.PublicKey = "!" }, nil, 0, identity.ErrDeviceID},
		{"id before age", func(p *identity.Proof) { p.ID = "x" }, nil, time.Hour, identity.ErrDeviceID},
		{"age before nonce", func(p *identity.Proof) { p.Nonce = "" }, nil, time.Hour, identity.ErrSignatureStale},
		{"blank nonce", func(p *identity.Proof) { p.Nonce = " \t" }, nil, 0, identity.ErrNonceMissing},
		{"other nonce", func(p *identity.Proof) { p.Nonce = "other" }, nil, 0, identity.ErrNonceMismatch},
		{"nonce before signature", func(p *identity.Proof) { p.Nonce, p.Signature = "other", "x" }, nil, 0, identity.ErrNonceMismatch},
		{"no base64", func(p *identity.Proof) { p.Signature = "*" }, nil, 0, identity.ErrSignature},
		{"short", func(p *identity.Proof) { p.Signature = p.Signature[:40] }, nil, 0, identity.ErrSignature},
		{"client id", nil, func(f *identity.Signed) { f.ClientID = "cli" }, 0, identity.ErrSignature},
		{"client mode", nil, func(f *identity.Signed) { f.ClientMode = "cli" }, 0, identity.ErrSignature},
		{"role", nil, func(f *identity.Signed) { f.Role = "node" }, 0, identity.ErrSignature},
		{"more scopes", nil, func(f *identity.Signed) { f.Scopes = append(f.Scopes, "operator.admin") }, 0, identity.ErrSignature},
		{"token", nil, func(f *identity.Signed) { f.Token = "other" }, 0, identity.ErrSignature},
		{"platform", nil, func(f *identity.Signed) { f.Platform = "linux" }, 0, identity.ErrSignature},
		{"family", nil, func(f *identity.Signed) { f.DeviceFamily = "iPhone" }, 0, identity.ErrSignature},
		{"platform in another case", nil, func(f *identity.Signed) { f.Platform = " MACOS 15.3" }, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.sign(base)
			f := identity.Signed{
				ClientID: a.ClientID, ClientMode: a.ClientMode, Role: a.Role, Scopes: slices.Clone(a.Scopes), Token: a.Token,
				Platform: a.Platform, DeviceFamily: a.DeviceFamily,
			}
			p := *a.Device
			if c.proof != nil {
				c.proof(&p)
			}
			if c.field != nil {
				c.field(&f)
			}
			_, err := p.Verify(f, nonce, w.clock.Add(c.at))
			if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("v1", func(t *testing.T) {
		a := w.sign(base)
		p := *a.Device
		text := strings.Join([]string{"v1", p.ID, a.ClientID, a.ClientMode, "operator", "operator.read", fmt.Sprint(p.SignedAt), "tok"}, "|")
		p.Signature = base64.RawURLEncoding.EncodeToString(ed25519.Sign(key("d"), []byte(text)))
		a.Device = &p
		if _, err := w.svc.Admit(context.Background(), a); !errors.Is(err, identity.ErrSignature) {
			t.Errorf("got %v", err)
		}
	})
}

// Two attempts that would sign alike are not both let in: the fields may not hold the separators.
func TestSeparators(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*identity.Attempt)
	}{
		{"comma in a scope", func(a *identity.Attempt) { a.Scopes = []identity.Scope{"operator.read,operator.admin"} }},
		{"bar in a scope", func(a *identity.Attempt) { a.Scopes = []identity.Scope{"operator.read|1"} }},
		{"bar in the client", func(a *identity.Attempt) { a.ClientID = "a|b" }},
		{"bar in the mode", func(a *identity.Attempt) { a.ClientMode = "a|b" }},
		{"bar in the platform", func(a *identity.Attempt) { a.Platform = "a|b" }},
		{"bar in the family", func(a *identity.Attempt) { a.DeviceFamily = "a|b" }},
	} {
		w := newWorld(t, identity.AuthToken)
		a := w.attempt("d")
		c.edit(&a)
		if got := verdict(w.admit(a)); got != "signature" {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

// Without a device (protocol.md §4.2, §4.6).
func TestWithoutDevice(t *testing.T) {
	type attempt = identity.Attempt
	for _, c := range []struct {
		mode identity.AuthMode
		a    attempt
		want string
	}{
		{identity.AuthToken, attempt{Role: "operator", Token: "tok"}, "in"},
		{identity.AuthToken, attempt{Role: "operator", Token: " tok "}, "in"},
		{identity.AuthToken, attempt{Role: "node", Token: "tok"}, "in"},
		{identity.AuthToken, attempt{Role: "operator", Token: "no"}, "auth token_mismatch"},
		{identity.AuthToken, attempt{Role: "node", Token: "no"}, "auth token_mismatch"},
		{identity.AuthToken, attempt{Role: "operator", Password: "tok"}, "auth token_missing"},
		{identity.AuthToken, attempt{Role: "operator"}, "device_required"},
		{identity.AuthToken, attempt{Role: "operator", Token: "  "}, "device_required"},
		{identity.AuthToken, attempt{Role: "operator", DeviceToken: "tok"}, "device_required"},
		{identity.AuthToken, attempt{Role: "operator", Token: "tok", ControlUI: true, Peer: identity.Peer{Local: true}}, "control_ui_device"},
		{identity.AuthToken, attempt{Role: "operator", Token: "no", ControlUI: true}, "control_ui_device"},
		{identity.AuthPassword, attempt{Role: "operator", Password: "tok"}, "in"},
		{identity.AuthPassword, attempt{Role: "operator", Password: "no"}, "auth password_mismatch"},
		{identity.AuthPassword, attempt{Role: "operator", Token: "tok"}, "auth password_missing"},
		{identity.AuthNone, attempt{Role: "operator", Token: "tok"}, "device_required"},
		{identity.AuthNone, attempt{Role: "node"}, "device_required"},
	} {
		w := newWorld(t, c.mode)
		if got := verdict(w.svc.Admit(context.Background(), c.a)); got != c.want {
			t.Errorf("%s %+v: %s, want %s", c.mode, c.a, got, c.want)
		}
	}
}

// Without a secret in the configuration nobody gets in by it.
func TestNoSecretConfigured(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.auth.Secret = nil
	w.open()
	for _, token := range []string{"", "tok"} {
		if _, err := w.svc.Bearer(context.Background(), token, identity.Peer{}); err == nil {
			t.Errorf("%q is let in", token)
		}
	}
	if got := verdict(w.svc.Admit(context.Background(), identity.Attempt{Role: "operator", Token: "tok"})); got != "auth token_missing_config" {
		t.Error(got)
	}
}

// Who is paired silently, who waits and who needs no pairing (protocol.md §4.7).
func TestPairing(t *testing.T) {
	type edit = func(*identity.Attempt)
	remote := func(a *identity.Attempt) { a.Peer = identity.Peer{Client: netip.MustParseAddr("192.0.2.7")} }
	origin := func(a *identity.Attempt) { a.Peer.HasOrigin = true }
	asNode := func(a *identity.Attempt) { a.Role, a.Scopes = "node", nil }
	backend := func(a *identity.Attempt) { a.ClientID, a.ClientMode = "gateway-client", "backend" }
	noSecret := func(a *identity.Attempt) { a.Token = "" }
	wrong := func(a *identity.Attempt) { a.Token = "wrong" }
	for _, c := range []struct {
		name   string
		mode   identity.AuthMode
		edits  []edit
		want   string
		events string
	}{
		{"local", "token", nil, "in paired token", "device.pair.resolved approved"},
		{"local, mode none", "none", []edit{noSecret}, "in paired token", "device.pair.resolved approved"},
		{"remote", "token", []edit{remote}, "pairing_required not-paired", "device.pair.requested"},
		{"local page", "token", []edit{origin}, "pairing_required not-paired", "device.pair.requested"},
		{"local Control UI", "token", []edit{origin, func(a *identity.Attempt) { a.ControlUI = true }}, "in paired token", "device.pair.resolved approved"},
		{"local webchat", "token", []edit{origin, func(a *identity.Attempt) { a.Webchat = true }}, "in paired token", "device.pair.resolved approved"},
		{"remote Control UI", "token", []edit{remote, origin, func(a *identity.Attempt) { a.ControlUI = true }}, "pairing_required not-paired", "device.pair.requested"},
		{"node with the secret", "token", []edit{remote, asNode}, "in", ""},
		{"node, mode none", "none", []edit{asNode, noSecret}, "in paired token", "device.pair.resolved approved"},
		{"remote node, mode none", "none", []edit{asNode, noSecret, remote}, "pairing_required not-paired", "device.pair.requested"},
		{"backend", "token", []edit{backend}, "in", ""},
		{"remote backend", "token", []edit{backend, remote}, "pairing_required not-paired", "device.pair.requested"},
		{"backend with origin", "token", []edit{backend, origin}, "pairing_required not-paired", "device.pair.requested"},
		{"backend, mode none", "none", []edit{backend, noSecret}, "in paired token", "device.pair.resolved approved"},
		{"no secret", "token", []edit{noSecret}, "auth token_missing", ""},
		{"wrong secret", "token", []edit{wrong}, "auth token_mismatch", ""},
		{"a device token of nobody", "token", []edit{noSecret, func(a *identity.Attempt) { a.DeviceToken = "x" }}, "auth device_token_mismatch", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.mode)
			a := w.attempt("d", "operator.read")
			for _, e := range c.edits {
				e(&a)
			}
			if got := verdict(w.admit(a)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := strings.Join(w.events, ","); got != c.events {
				t.Errorf("events %q, want %q", got, c.events)
			}
		})
	}
}

// A request that waits is merged with the next of its device: one question, and no silent way past
// it until it is old. One that wants more is another question, because somebody may be about to
// answer the first.
func TestPairingMerge(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	ask := func(edits ...func(*identity.Attempt)) string {
		a := w.attempt("d", "operator.read")
		a.Peer.Local = false
		for _, e := range edits {
			e(&a)
		}
		_, err := w.admit(a)
		e, ok := errs.As(err)
		if !ok || !errors.Is(e, identity.ErrPairingRequired) || e.Field("requestId") == "" {
			t.Fatalf("%v", err)
		}
		return e.Field("requestId")
	}
	first := ask()
	for name, e := range map[string]func(*identity.Attempt){
		"again":        func(*identity.Attempt) {},
		"another name": func(a *identity.Attempt) { a.DisplayName = "x" },
		"less":         func(a *identity.Attempt) { a.Scopes = nil },
		"the same":     func(a *identity.Attempt) { a.Platform = " MACOS 15.3" },
	} {
		if got := ask(e); got != first {
			t.Errorf("%s: another request", name)
		}
	}
	if got := strings.Join(w.events, ","); got != "device.pair.requested" {
		t.Errorf("events %v", got)
	}
	last := first
	for name, e := range map[string]func(*identity.Attempt){
		"wider":            func(a *identity.Attempt) { a.Scopes = []identity.Scope{"operator.write"} },
		"another role":     func(a *identity.Attempt) { a.Role, a.Token = "node", ""; w.auth.Mode = identity.AuthNone; w.open() },
		"another platform": func(a *identity.Attempt) { a.Platform = "linux" },
	} {
		w.events = nil
		w.auth.Mode = identity.AuthToken
		w.open()
		got := ask(e)
		if got == last {
			t.Errorf("%s: the same request", name)
		}
		if _, err := w.svc.Approve(context.Background(), identity.Internal(), identity.ApproveIn{RequestID: last}); !errors.Is(err, identity.ErrUnknownRequest) {
			t.Errorf("%s: approving what was shown before: %v", name, err)
		}
		if ev := strings.Join(w.events, ","); ev != "device.pair.resolved rejected,device.pair.requested" {
			t.Errorf("%s: events %v", name, ev)
		}
		last = got
	}
	if got := verdict(w.admit(w.attempt("d", "operator.read"))); got != "pairing_required not-paired" {
		t.Errorf("silent past an open question: %s", got)
	}
	w.clock = w.clock.Add(identity.PendingTTL + time.Millisecond)
	if got := verdict(w.admit(w.attempt("d", "operator.read"))); got != "in paired token" {
		t.Errorf("after its time: %s", got)
	}
	// What the old question had asked for is not granted with the new one.
	if d, _, _ := w.store.Device(id("d")); !slices.Equal(d.ApprovedScopes, []identity.Scope{"operator.read"}) {
		t.Errorf("approved %v", d.ApprovedScopes)
	}
}

// What a paired device may change by itself (protocol.md §4.7, the table).
func TestPairedDevice(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*identity.Attempt)
		want string
	}{
		{"the same", func(*identity.Attempt) {}, "in paired token"},
		{"fewer scopes", func(a *identity.Attempt) { a.Scopes = nil }, "in paired token"},
		{"read under write", func(a *identity.Attempt) { a.Scopes = []identity.Scope{"operator.read"} }, "in paired token"},
		{"another case of the platform", func(a *identity.Attempt) { a.Platform = " MACOS 15.3 " }, "in paired token"},
		{"another platform", func(a *identity.Attempt) { a.Platform = "linux" }, "pairing_required metadata-upgrade"},
		{"another family", func(a *identity.Attempt) { a.DeviceFamily = "iPhone" }, "pairing_required metadata-upgrade"},
		{"no family", func(a *identity.Attempt) { a.DeviceFamily = "" }, "pairing_required metadata-upgrade"},
		{"more scopes, local", func(a *identity.Attempt) { a.Scopes = []identity.Scope{"operator.admin"} }, "in paired token"},
		{"more scopes, remote", func(a *identity.Attempt) { a.Scopes, a.Peer.Local = []identity.Scope{"operator.admin"}, false }, "pairing_required scope-upgrade"},
		{"platform before scope", func(a *identity.Attempt) { a.Scopes, a.Platform = []identity.Scope{"operator.admin"}, "x" }, "pairing_required metadata-upgrade"},
		{"another role", func(a *identity.Attempt) { a.Role, a.Scopes, a.Token = "node", nil, "" }, "pairing_required role-upgrade"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, identity.AuthNone)
			w.pair("d", identity.RoleOperator, "operator.write")
			a := w.attempt("d", "operator.write")
			c.edit(&a)
			if got := verdict(w.admit(a)); got != c.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

// The stored platform wins over the claimed one, so that a claim cannot widen what a node may offer.
func TestStoredMetadataWins(t *testing.T) {
	w := newWorld(t, identity.AuthNone)
	w.pair("d", identity.RoleOperator)
	a := w.attempt("d")
	a.Platform = "MACOS 15.3"
	adm, err := w.admit(a)
	if err != nil || adm.Platform != "macOS 15.3" || adm.DeviceFamily != "Mac" {
		t.Errorf("%+v %v", adm, err)
	}
}

// Device tokens: reuse, minting, roles, revocation, restart (protocol.md §4.8).
func TestDeviceToken(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	token := w.pair("d", identity.RoleOperator, "operator.write")
	if len(token) != 43 {
		t.Errorf("the token has %d characters", len(token))
	}
	by := func(scopes ...identity.Scope) identity.Attempt {
		a := w.attempt("d", scopes...)
		a.Token, a.DeviceToken, a.Peer.Local = "", token, false
		return a
	}
	check := func(name string, a identity.Attempt, want string) identity.Admission {
		t.Helper()
		adm, err := w.admit(a)
		if got := verdict(adm, err); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		return adm
	}
	adm := check("again", by("operator.read"), "in paired token")
	if adm.Issued != nil && adm.Issued.Token != token {
		t.Error("a token that still does was replaced")
	}
	w.open()
	check("after a restart", by("operator.write"), "in paired token")
	inToken := by()
	inToken.Token, inToken.DeviceToken = token, ""
	check("in the place of the shared token", inToken, "in paired token")
	check("more than its scopes", by("operator.admin"), "auth device_token_mismatch")
	bad := by()
	bad.DeviceToken = token[:42] + "x"
	check("one letter off", bad, "auth device_token_mismatch")
	other := by()
	other.Device = &identity.Proof{ID: "other"}
	check("another device", other, "auth device_token_mismatch")
	node := by()
	node.Role = "node"
	check("another role", node, "auth device_token_mismatch")
	both := by("operator.read")
	both.Token = "wrong"
	check("an explicit device token beside a wrong one", both, "in paired token")

	// More scopes by the shared secret mint a new token; the old one is dead.
	wide := check("wider", w.attempt("d", "operator.write", "operator.approvals"), "in paired token")
	if wide.Issued.Token == token || !slices.Equal(wide.Issued.Scopes, []identity.Scope{"operator.approvals", "operator.write"}) {
		t.Errorf("%+v", wide.Issued)
	}
	check("the old token", by(), "auth device_token_mismatch")
	if _, err := w.svc.Bearer(context.Background(), token, identity.Peer{}); err == nil {
		t.Error("the old token still is a bearer")
	}

	token = wide.Issued.Token
	w.revoke("d", identity.RoleOperator)
	check("revoked", by(), "auth device_token_mismatch")
	if _, err := w.svc.Bearer(context.Background(), token, identity.Peer{}); !errors.Is(err, identity.ErrBearerNotAccepted) {
		t.Errorf("a revoked token as bearer: %v", err)
	}
	// Nor is another one minted by other means: the device waits for an approval, and that is enough.
	check("by other means", w.attempt("d", "operator.read"), "pairing_required role-upgrade")
	list, err := w.svc.List(context.Background(), identity.Internal())
	if err != nil || len(list.Pending) != 1 || !list.Pending[0].Repair {
		t.Fatalf("%+v %v", list, err)
	}
	if _, err := w.svc.Approve(context.Background(), identity.Internal(), identity.ApproveIn{RequestID: list.Pending[0].RequestID}); err != nil {
		t.Fatal(err)
	}
	again := check("repaired", w.attempt("d", "operator.read"), "in paired token")
	if again.Issued.Token == token || !again.Issued.At.Equal(w.clock) {
		t.Errorf("%+v", again.Issued)
	}
}

func (w *world) revoke(dev string, role identity.Role) {
	w.tb.Helper()
	_, err := w.svc.RevokeToken(context.Background(), identity.Internal(), identity.RevokeIn{DeviceID: id(dev), Role: role})
	if err != nil {
		w.tb.Fatal(err)
	}
}

// A token handed out with few scopes is not widened by connecting without any.
func TestEmptyRequestKeepsScopes(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.pair("d", identity.RoleOperator, "operator.read")
	adm, err := w.admit(w.attempt("d"))
	if err != nil || len(adm.Scopes) != 0 || !slices.Equal(adm.Issued.Scopes, []identity.Scope{"operator.read"}) {
		t.Errorf("%+v %+v %v", adm, adm.Issued, err)
	}
}

func TestBearer(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	opToken := w.pair("op", identity.RoleOperator, "operator.read")
	w.auth.Mode = identity.AuthNone
	w.auth.Secret = nil
	w.open()
	nodeToken := w.pair("node", identity.RoleNode)
	w.auth = identity.Auth{Mode: identity.AuthToken, Secret: secret("tok")}
	w.open()
	for _, c := range []struct {
		token string
		want  identity.Caller
		err   error
	}{
		{"tok", identity.Caller{Role: "operator", Scopes: identity.AllOperatorScopes, Principal: "shared-secret"}, nil},
		{opToken, identity.Caller{Role: "operator", Scopes: []identity.Scope{"operator.read"}, DeviceID: id("op"), Principal: "device:" + id("op")}, nil},
		{nodeToken, identity.Caller{Role: "node", DeviceID: id("node"), NodeID: id("node"), Principal: "device:" + id("node")}, nil},
		{"", identity.Caller{}, identity.ErrBearerRequired},
		{"tok ", identity.Caller{}, identity.ErrBearerNotAccepted},
		{opToken + "x", identity.Caller{}, identity.ErrBearerNotAccepted},
	} {
		got, err := w.svc.Bearer(context.Background(), c.token, identity.Peer{Client: netip.MustParseAddr("192.0.2.1")})
		if !errors.Is(err, c.err) {
			t.Errorf("%q: %v", c.token, err)
			continue
		}
		if err != nil {
			continue
		}
		if got.Role != c.want.Role || !slices.Equal(got.Scopes, c.want.Scopes) || got.DeviceID != c.want.DeviceID ||
			got.NodeID != c.want.NodeID || got.Principal != c.want.Principal || got.RemoteIP != "192.0.2.1" || got.Local || got.Door != 0 {
			t.Errorf("%q: %+v", c.token, got)
		}
	}
	if len(w.svc.PairedNodes()) != 1 || !w.svc.IsPairedNode(id("node")) || w.svc.IsPairedNode(id("op")) {
		t.Errorf("paired nodes: %v", w.svc.PairedNodes())
	}
	// A device that was removed is nobody.
	if _, err := w.svc.Remove(context.Background(), identity.Internal(), identity.RemoveIn{DeviceID: id("op")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.svc.Bearer(context.Background(), opToken, identity.Peer{}); !errors.Is(err, identity.ErrBearerNotAccepted) {
		t.Errorf("a removed device: %v", err)
	}
}

// Strangers cannot make the list of open requests grow without bound.
func TestTooManyPending(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	got := map[string]int{}
	for i := range 250 {
		a := w.attempt(fmt.Sprint("d", i))
		a.Peer.Local = false
		got[verdict(w.admit(a))]++
	}
	if got["pairing_required not-paired"] != 200 || got["too_many_pending"] != 50 {
		t.Errorf("%v", got)
	}
	a := w.attempt("d0")
	a.Peer.Local = false
	if v := verdict(w.admit(a)); v != "pairing_required not-paired" {
		t.Errorf("one that waits already: %s", v)
	}
	w.clock = w.clock.Add(identity.PendingTTL + time.Second)
	if v := verdict(w.admit(w.attempt("new"))); v != "in paired token" {
		t.Errorf("after their time: %s", v)
	}
}

// Scope containment (protocol.md §4.7).
func TestScopesAllow(t *testing.T) {
	s := func(t string) (out []identity.Scope) {
		for x := range strings.FieldsSeq(t) {
			out = append(out, identity.Scope(x))
		}
		return out
	}
	for _, c := range []struct {
		role         identity.Role
		wanted, held string
		want         bool
	}{
		{"operator", "", "", true},
		{"operator", "operator.read", "", false},
		{"operator", "operator.read", "operator.write", true},
		{"operator", "operator.write", "operator.read", false},
		{"operator", "operator.anything", "operator.admin", true},
		{"operator", "other", "operator.admin", false},
		{"operator", "operator.admin", "operator.read operator.write operator.approvals operator.pairing", false},
		{"operator", "operator.approvals", "operator.write", false},
		{"node", "x", "x y", true},
		{"node", "operator.read", "operator.admin", false},
		{"node", "operator.read", "operator.write", false},
	} {
		if got := identity.ScopesAllow(c.role, s(c.wanted), s(c.held)); got != c.want {
			t.Errorf("%s: %q in %q: %v", c.role, c.wanted, c.held, got)
		}
	}
}
