package iam

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const client = "gateway-client-id"

// signer is a key of the issuer.
type signer struct {
	kid string
	alg jose.SignatureAlgorithm
	key crypto.Signer
}

var (
	rsaKey   = must(rsa.GenerateKey(rand.Reader, 2048))
	rsaOther = must(rsa.GenerateKey(rand.Reader, 2048))
	ecKey    = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey = mustEd()
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func mustEd() (ed25519.PublicKey, ed25519.PrivateKey) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return pub, key
}

func (s signer) public(use string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Algorithm: string(s.alg), Use: use}
}

// issuer is a small identity service on loopback.
type issuer struct {
	*httptest.Server
	tb      testing.TB
	clock   atomic.Pointer[time.Time]
	fetches atomic.Int64 // of keys

	mu     sync.Mutex
	issuer string
	keys   any
	broken bool
}

func newIssuer(tb testing.TB, keys ...jose.JSONWebKey) *issuer {
	is := &issuer{tb: tb, keys: jose.JSONWebKeySet{Keys: keys}}
	is.set(time.UnixMilli(1_700_000_000_000))
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		is.answer(w, map[string]any{
			"issuer": is.issuer, "jwks_uri": is.URL + "/keys",
			// What a service says it can is not what is believed.
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		is.fetches.Add(1)
		is.answer(w, is.keys)
	})
	is.Server = httptest.NewServer(mux)
	is.issuer = is.URL
	tb.Cleanup(is.Close)
	return is
}

func (is *issuer) answer(w http.ResponseWriter, v any) {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.broken {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

func (is *issuer) change(f func()) {
	is.mu.Lock()
	defer is.mu.Unlock()
	f()
}

func (is *issuer) set(t time.Time)      { is.clock.Store(&t) }
func (is *issuer) now() time.Time       { return *is.clock.Load() }
func (is *issuer) step(d time.Duration) { is.set(is.now().Add(d)) }

func (is *issuer) verifier(change func(*Config)) *Verifier {
	is.tb.Helper()
	cfg := Config{ServerURL: is.URL, ClientID: client, Now: is.now, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	v, err := New(cfg)
	if err != nil {
		is.tb.Fatal(err)
	}
	return v
}

// claim is what a good token says, with changes; nil takes a claim away.
func (is *issuer) claim(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": is.URL, "aud": client, "sub": "u-1", "exp": is.now().Add(time.Hour).Unix(), "iat": is.now().Unix(),
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func (s signer) sign(tb testing.TB, claims any, header ...map[jose.HeaderKey]any) string {
	tb.Helper()
	opts := &jose.SignerOptions{}
	if s.kid != "" {
		opts = opts.WithHeader("kid", s.kid)
	}
	for _, h := range header {
		for k, v := range h {
			opts = opts.WithHeader(k, v)
		}
	}
	j, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: s.key}, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return compactOf(tb, j, claims)
}

func compactOf(tb testing.TB, j jose.Signer, claims any) string {
	tb.Helper()
	jws, err := j.Sign(must(json.Marshal(claims)))
	if err != nil {
		tb.Fatal(err)
	}
	return must(jws.CompactSerialize())
}

// byHand makes a token with any header and signature.
func byHand(header, claims any, signature []byte) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc(must(json.Marshal(header))) + "." + enc(must(json.Marshal(claims))) + "." + enc(signature)
}

func verdict(p identity.Person, err error) string {
	switch {
	case err == nil && p.Admin:
		return p.ID + " admin"
	case err == nil:
		return p.ID
	case errs.ClassOf(err) == errs.Unavailable:
		return "unavailable"
	case errors.Is(err, errToken):
		return "no"
	}
	return err.Error()
}

func TestAlgorithms(t *testing.T) {
	signers := []signer{{"rs", jose.RS256, rsaKey}, {"ps", jose.PS512, rsaKey}, {"es", jose.ES256, ecKey}, {"ed", jose.EdDSA, edKey}}
	var keys []jose.JSONWebKey
	for _, s := range signers {
		keys = append(keys, s.public("sig"))
	}
	is := newIssuer(t, keys...)
	v := is.verifier(nil)
	for _, s := range signers {
		if got := verdict(v.Verify(t.Context(), s.sign(t, is.claim(nil)))); got != "u-1" {
			t.Errorf("%s: %s", s.alg, got)
		}
		s.kid = ""
		if got := verdict(v.Verify(t.Context(), s.sign(t, is.claim(nil)))); got != "u-1" {
			t.Errorf("%s without a key id: %s", s.alg, got)
		}
	}
	if n := is.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestClaims(t *testing.T) {
	s := signer{"k", jose.RS256, rsaKey}
	is := newIssuer(t, s.public(""))
	v := is.verifier(nil)
	now := is.now()
	for _, c := range []struct {
		name   string
		change map[string]any
		want   string
	}{
		{"as it is", nil, "u-1"},
		{"audience in a list", map[string]any{"aud": []string{"other", client}}, "u-1"},
		{"owner and name", map[string]any{"sub": nil, "owner": "acme", "name": "ann"}, "acme/ann"},
		{"subject wins", map[string]any{"owner": "acme", "name": "ann"}, "u-1"},
		{"slash at the issuer", map[string]any{"iss": is.URL + "/"}, "u-1"},
		{"expires now", map[string]any{"exp": now.Unix()}, "u-1"},
		{"expired", map[string]any{"exp": now.Add(-time.Second).Unix()}, "no"},
		{"no expiry", map[string]any{"exp": nil}, "no"},
		{"expiry as text", map[string]any{"exp": "9999999999"}, "u-1"},
		{"expired as text", map[string]any{"exp": "1600000000"}, "no"},
		{"not yet", map[string]any{"nbf": now.Add(time.Hour).Unix()}, "no"},
		{"no audience", map[string]any{"aud": nil}, "no"},
		// The original takes the token's own audience on retry, which is any audience.
		{"another audience", map[string]any{"aud": "other-client"}, "no"},
		{"longer audience", map[string]any{"aud": client + "2"}, "no"},
		{"authorized party is no audience", map[string]any{"aud": "other", "azp": client}, "no"},
		{"another issuer", map[string]any{"iss": "https://evil.example"}, "no"},
		{"issuer beneath", map[string]any{"iss": is.URL + "/realms/other"}, "no"},
		{"no issuer", map[string]any{"iss": nil}, "no"},
		{"nobody", map[string]any{"sub": nil}, "no"},
		{"empty subject, no owner", map[string]any{"sub": "", "name": "ann"}, "no"},
		{"name with a slash", map[string]any{"sub": nil, "owner": "acme", "name": "x/admin"}, "no"},
		{"subject with a line break", map[string]any{"sub": "a\nb"}, "no"},
		{"long subject", map[string]any{"sub": strings.Repeat("a", maxID+1)}, "no"},
		{"refresh token", map[string]any{"tokenType": "refresh-token"}, "no"},
		{"refresh token by type", map[string]any{"typ": "Refresh"}, "no"},
		{"access token", map[string]any{"tokenType": "access-token"}, "u-1"},
	} {
		if got := verdict(v.Verify(t.Context(), s.sign(t, is.claim(c.change)))); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

// The ways to make a token that the service did not sign.
func TestForgeries(t *testing.T) {
	s, other := signer{"k", jose.RS256, rsaKey}, signer{"k", jose.RS256, rsaOther}
	es := signer{"e", jose.ES256, ecKey}
	is := newIssuer(t, s.public("sig"), es.public("sig"))
	v := is.verifier(nil)
	good := s.sign(t, is.claim(nil))
	if got := verdict(v.Verify(t.Context(), good)); got != "u-1" {
		t.Fatal(got)
	}
	parts := strings.Split(good, ".")
	der := must(x509.MarshalPKIXPublicKey(rsaKey.Public()))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	hs := func(secret []byte) string {
		j := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithHeader("kid", "k")))
		return compactOf(t, j, is.claim(nil))
	}
	for name, token := range map[string]string{
		"nothing":                   "",
		"dots":                      "..",
		"rubbish":                   "a.b.c",
		"no signature":              parts[0] + "." + parts[1] + ".",
		"cut signature":             good[:len(good)-8],
		"two tokens":                good + "." + good,
		"another key":               other.sign(t, is.claim(nil)),
		"another key, no key id":    signer{"", jose.RS256, rsaOther}.sign(t, is.claim(nil)),
		"unknown key id":            signer{"x", jose.RS256, rsaKey}.sign(t, is.claim(nil)),
		"key of another algorithm":  signer{"k", jose.PS256, rsaKey}.sign(t, is.claim(nil)),
		"key id of the other key":   signer{"e", jose.RS256, rsaKey}.sign(t, is.claim(nil)),
		"alg none":                  byHand(map[string]any{"alg": "none", "kid": "k"}, is.claim(nil), nil),
		"alg None":                  byHand(map[string]any{"alg": "None"}, is.claim(nil), nil),
		"no alg":                    byHand(map[string]any{"kid": "k"}, is.claim(nil), []byte("x")),
		"HS256 with the public PEM": hs(public),
		"HS256 with the public DER": hs(der),
		"HS256 with the modulus":    hs(rsaKey.N.Bytes()),
		"other claims":              parts[0] + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(is.claim(map[string]any{"sub": "root"})))) + "." + parts[2],
		"its own key":               other.sign(t, is.claim(nil), map[jose.HeaderKey]any{"jwk": other.public("")}),
		"its own key set":           other.sign(t, is.claim(nil), map[jose.HeaderKey]any{"jku": "https://evil.example/keys"}),
		"critical header":           s.sign(t, is.claim(nil), map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}),
		"no object":                 s.sign(t, []int{1}),
		"JSON serialization":        `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"too long":                  s.sign(t, is.claim(map[string]any{"pad": strings.Repeat("a", maxToken)})),
	} {
		if got := verdict(v.Verify(t.Context(), token)); got != "no" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Keys that may not sign: too short, for encryption, secret, private; and those nobody understands
// do no harm.
func TestKeysOfTheService(t *testing.T) {
	short := signer{"short", jose.RS256, must(rsa.GenerateKey(rand.Reader, 1024))}
	enc := signer{"enc", jose.RS256, rsaKey}
	good := signer{"good", jose.ES256, ecKey}
	is := newIssuer(t)
	secret := []byte("0123456789abcdef0123456789abcdef")
	raw := func(k jose.JSONWebKey) json.RawMessage { return must(json.Marshal(k)) }
	is.keys = map[string]any{"keys": []any{
		raw(short.public("sig")), raw(enc.public("enc")), raw(good.public("sig")),
		raw(jose.JSONWebKey{Key: secret, KeyID: "oct", Algorithm: "HS256"}),
		raw(jose.JSONWebKey{Key: edKey, KeyID: "private", Algorithm: "EdDSA"}),
		map[string]any{"kty": "OKP", "crv": "Ed448", "kid": "odd", "x": "AA"},
		map[string]any{"kty": "quantum"}, 7, nil,
	}}
	v := is.verifier(nil)
	if got := verdict(v.Verify(t.Context(), good.sign(t, is.claim(nil)))); got != "u-1" {
		t.Fatal(got)
	}
	hs := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithHeader("kid", "oct")))
	for name, token := range map[string]string{
		"short": short.sign(t, is.claim(nil)), "encryption": enc.sign(t, is.claim(nil)),
		"secret":  compactOf(t, hs, is.claim(nil)),
		"private": signer{"private", jose.EdDSA, edKey}.sign(t, is.claim(nil)),
	} {
		if got := verdict(v.Verify(t.Context(), token)); got != "no" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// New keys are found within seconds, withdrawn ones are not believed for long, and a flood of
// unknown ones does not become a flood of requests to the service.
func TestRotation(t *testing.T) {
	before, after := signer{"1", jose.RS256, rsaKey}, signer{"2", jose.ES256, ecKey}
	is := newIssuer(t, before.public("sig"))
	v := is.verifier(nil)
	ask := func(s signer) string { return verdict(v.Verify(t.Context(), s.sign(t, is.claim(nil)))) }
	if got := ask(before); got != "u-1" {
		t.Fatal(got)
	}
	is.change(func() {
		is.keys = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{before.public("sig"), after.public("sig")}}
	})
	if got := ask(after); got != "no" {
		t.Errorf("a second fetch at once: %s", got)
	}
	is.step(fetchEvery)
	if got := ask(after) + ask(before); got != "u-1u-1" {
		t.Errorf("after the new key came up: %s", got)
	}
	is.change(func() { is.keys = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{after.public("sig")}} })
	is.step(keyLife)
	if got := ask(before) + ask(after); got != "nou-1" {
		t.Errorf("after the old key was withdrawn: %s", got)
	}
	n := is.fetches.Load()
	for i := range 500 {
		ask(signer{fmt.Sprint("unknown", i), jose.ES256, ecKey})
		is.step(fetchEvery / 100)
	}
	if got := is.fetches.Load() - n; got > 6 {
		t.Errorf("500 unknown keys made %d requests", got)
	}
}

// While the service does not answer, keys that are known go on working for a day; without any,
// nobody is let in, and it is asked again soon.
func TestServiceIsDown(t *testing.T) {
	s := signer{"1", jose.RS256, rsaKey}
	is := newIssuer(t, s.public("sig"))
	v := is.verifier(nil)
	ask := func() string { return verdict(v.Verify(t.Context(), s.sign(t, is.claim(nil)))) }
	is.change(func() { is.broken = true })
	if got := ask() + " " + ask(); got != "unavailable unavailable" {
		t.Errorf("without keys: %s", got)
	}
	is.change(func() { is.broken = false })
	if got := ask(); got != "unavailable" {
		t.Errorf("asked again at once: %s", got)
	}
	is.step(fetchEvery)
	if got := ask(); got != "u-1" {
		t.Errorf("after it came up: %s", got)
	}
	is.change(func() { is.broken = true })
	is.step(staleLife - time.Second)
	if got := ask(); got != "u-1" {
		t.Errorf("with keys of yesterday: %s", got)
	}
	is.step(time.Second)
	if got := ask(); got != "unavailable" {
		t.Errorf("with older keys: %s", got)
	}
	is.change(func() { is.broken = false })
	is.step(-48 * time.Hour) // the clock was wrong
	if got := ask(); got != "u-1" {
		t.Errorf("after the clock went back: %s", got)
	}
}

// A service that keeps the connection open delays nobody whose key is known.
func TestSlowService(t *testing.T) {
	s := signer{"1", jose.RS256, rsaKey}
	is := newIssuer(t, s.public("sig"))
	v := is.verifier(nil)
	good := s.sign(t, is.claim(map[string]any{"exp": is.now().Add(24 * time.Hour).Unix()}))
	if got := verdict(v.Verify(t.Context(), good)); got != "u-1" {
		t.Fatal(got)
	}
	is.step(keyLife)
	is.mu.Lock() // the service answers nothing until it is unlocked
	unknown := signer{"2", jose.RS256, rsaKey}.sign(t, is.claim(nil))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if got := verdict(v.Verify(ctx, unknown)); got == "2" {
				t.Error("let in")
			}
		})
	}
	for len(v.fetching) == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	if got := verdict(v.Verify(t.Context(), good)); got != "u-1" || time.Since(began) > 200*time.Millisecond {
		t.Errorf("%s after %s", got, time.Since(began))
	}
	wg.Wait()
	is.mu.Unlock()
}

func TestAdmins(t *testing.T) {
	s := signer{"1", jose.RS256, rsaKey}
	is := newIssuer(t, s.public("sig"))
	v := is.verifier(func(c *Config) {
		c.OrgName, c.SuperAdmins = "acme", []string{"u-root", " acme/boss ", "Ann@Example.com", "", "other/chief"}
	})
	for _, c := range []struct {
		change map[string]any
		want   string
	}{
		{map[string]any{"owner": "acme"}, "u-1"},
		{map[string]any{"owner": "other"}, "no"},
		{nil, "no"}, // names no organisation
		{map[string]any{"sub": "u-root"}, "u-root admin"},
		{map[string]any{"sub": "U-ROOT", "owner": "acme"}, "U-ROOT"},
		{map[string]any{"owner": "acme", "name": "boss"}, "u-1 admin"},
		{map[string]any{"owner": "other", "name": "chief"}, "u-1 admin"},
		{map[string]any{"owner": "acme", "name": "Boss"}, "u-1"},
		{map[string]any{"owner": "acme/boss", "name": ""}, "no"},
		{map[string]any{"owner": "acme", "sub": "acme/boss"}, "acme/boss"},
		{map[string]any{"owner": "acme", "email": "ann@example.com", "email_verified": true}, "u-1 admin"},
		{map[string]any{"owner": "acme", "email": "ann@example.com", "email_verified": "true"}, "u-1 admin"},
		{map[string]any{"owner": "acme", "email": "ann@example.com", "email_verified": false}, "u-1"},
		{map[string]any{"owner": "acme", "email": "ann@example.com"}, "u-1"},
		{map[string]any{"owner": "acme", "email": "ann@examp\u0142e.com", "email_verified": true}, "u-1"},
		{map[string]any{"owner": "acme", "email": "", "email_verified": true}, "u-1"},
	} {
		got := verdict(v.Verify(t.Context(), s.sign(t, is.claim(c.change))))
		if c.change["sub"] == "acme/boss" {
			c.want = "acme/boss admin" // a subject is a subject, whatever it looks like
		}
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.change, got, c.want)
		}
	}
}

// Where the keys may come from.
func TestAddresses(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://iam.example": true, "https://iam.example/realms/a/": true, "http://127.0.0.1:1": true, "http://[::1]:1": true, "http://localhost": true,
		"http://iam.example": false, "http://localhost.evil.example": false, "ftp://iam.example": false, "iam.example": false, "": false,
		"https://user:pw@iam.example": false, "https://": false,
	} {
		_, err := New(Config{ServerURL: url, ClientID: client})
		if (err == nil) != ok {
			t.Errorf("%s: %v", url, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	if _, err := New(Config{ServerURL: "https://iam.example", ClientID: client, JWKSURL: "http://127.0.0.1/keys"}); err == nil {
		t.Error("keys without TLS for a server with TLS")
	}
	if _, err := New(Config{ServerURL: "https://iam.example"}); err == nil {
		t.Error("no client id is taken")
	}

	s := signer{"1", jose.RS256, rsaKey}
	is := newIssuer(t, s.public("sig"))
	direct := is.verifier(func(c *Config) { c.JWKSURL = is.URL + "/keys" })
	is.change(func() { is.issuer = "https://evil.example" })
	if got := verdict(direct.Verify(t.Context(), s.sign(t, is.claim(nil)))); got != "u-1" {
		t.Errorf("with jwksUrl: %s", got)
	}
	if got := verdict(is.verifier(nil).Verify(t.Context(), s.sign(t, is.claim(nil)))); got != "unavailable" {
		t.Errorf("a server that calls itself otherwise: %s", got)
	}

	// Redirects: followed on this machine, not to elsewhere without TLS, not for ever.
	var target atomic.Value
	hop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.Load().(string), http.StatusFound)
	}))
	defer hop.Close()
	for to, want := range map[string]string{
		is.URL + "/keys": "u-1", "http://keys.invalid/": "unavailable", hop.URL + "/again": "unavailable",
		"file:///etc/passwd": "unavailable",
	} {
		target.Store(to)
		v := is.verifier(func(c *Config) { c.JWKSURL = hop.URL })
		if got := verdict(v.Verify(t.Context(), s.sign(t, is.claim(nil)))); got != want {
			t.Errorf("redirected to %s: %s", to, got)
		}
	}
}

// A service that answers rubbish, or without end, costs a bounded amount.
func TestRubbish(t *testing.T) {
	s := signer{"1", jose.RS256, rsaKey}
	for name, answer := range map[string]string{
		"nothing": "", "no JSON": "<html>", "no keys": "{}", "empty": `{"keys":[]}`, "list": "[]",
		"endless": `{"keys":[` + strings.Repeat(" ", maxDocument) + `]}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		is := newIssuer(t, s.public("sig"))
		v := is.verifier(func(c *Config) { c.JWKSURL = srv.URL })
		if got := verdict(v.Verify(t.Context(), s.sign(t, is.claim(nil)))); got != "unavailable" {
			t.Errorf("%s: %s", name, got)
		}
		srv.Close()
	}
	many := make([]jose.JSONWebKey, 10*maxKeys)
	for i := range many {
		many[i] = signer{fmt.Sprint(i), jose.RS256, rsaKey}.public("sig")
	}
	is := newIssuer(t, many...)
	v := is.verifier(nil)
	if got := verdict(v.Verify(t.Context(), signer{"0", jose.RS256, rsaKey}.sign(t, is.claim(nil)))); got != "u-1" || len(v.keys) != maxKeys {
		t.Errorf("%s, %d keys", got, len(v.keys))
	}
}

// FuzzToken: whatever the bytes, nothing panics and nobody is let in but by the token that was signed.
func FuzzToken(f *testing.F) {
	s := signer{"k", jose.ES256, ecKey}
	is := newIssuer(f, s.public("sig"))
	v := is.verifier(nil)
	good := s.sign(f, is.claim(nil))
	if _, err := v.Verify(f.Context(), good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good + "=")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(byHand(map[string]any{"alg": "none"}, is.claim(nil), nil))
	f.Add(byHand(map[string]any{"alg": "HS256", "kid": "k"}, is.claim(nil), []byte("x")))
	f.Add(byHand(map[string]any{"alg": "ES256", "kid": 7, "crit": []string{"b64"}, "b64": false}, is.claim(nil), []byte("x")))
	f.Add("{}.{}.{}")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := v.Verify(context.Background(), token)
		if err == nil && (strings.Split(token, ".")[1] != strings.Split(good, ".")[1] || p.ID != "u-1" || p.Admin) {
			t.Errorf("%q is taken for %+v", token, p)
		}
	})
}
