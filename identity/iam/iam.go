// Package iam accepts the tokens of an OpenID Connect identity service: it finds the service's keys
// by discovery, keeps them for a while, and judges tokens with them (protocol.md §4.2, mode iam).
//
// It imports identity, errs and the OpenID Connect library and owns no goroutine: whoever verifies a
// token that needs newer keys fetches them. A Verifier is safe for concurrent use.
package iam

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// maxToken is the largest token in bytes that is looked at; it has to fit into a header anyway.
	maxToken = 16 << 10
	// maxDocument bounds what is read of the service's answers, maxKeys how many keys are kept.
	maxDocument = 1 << 20
	maxKeys     = 64
	// minRSABits is the smallest RSA key that is believed.
	minRSABits = 2048
	// maxID is the longest name of a person in bytes.
	maxID = 256
	// fetchTimeout bounds one request to the service. A connect has ten seconds in all.
	fetchTimeout = 4 * time.Second
	// maxRedirects is how often a request is sent on.
	maxRedirects = 3
	// keyLife is how long keys are used before they are fetched again: a key that the service withdrew
	// is not believed for longer.
	keyLife = 15 * time.Minute
	// staleLife is how long keys are used when the service does not answer.
	staleLife = 24 * time.Hour
	// fetchEvery is how often keys are fetched at most: anybody can name a key that nobody knows.
	fetchEvery = 10 * time.Second
	// logEvery is how often at most the log says that the service does not answer.
	logEvery = time.Minute
)

// algorithms are the signatures that are believed: with a public key only. Neither "none" nor a
// secret that both sides share is among them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

var (
	errToken       = errs.Define(errs.Unauthenticated, "iam.token", "the token of the identity service is not valid")
	errUnavailable = errs.Define(errs.Unavailable, "iam.unavailable", "the identity service cannot be asked for its keys")
)

// Config is gateway.auth.iam.
type Config struct {
	// ServerURL is the issuer. Tokens of others are refused; a slash at its end makes no difference.
	ServerURL string
	// ClientID must be in the audience of a token.
	ClientID string
	// OrgName is the owner that tokens must name; "" asks for none. Super admins need not belong to it.
	OrgName string
	// JWKSURL is where the keys are; "" finds it by discovery.
	JWKSURL string
	// SuperAdmins are the persons with every scope, by subject, by "owner/name", or by verified e-mail
	// address.
	SuperAdmins []string
	Now         func() time.Time
	Log         *slog.Logger
}

// Verifier judges tokens.
type Verifier struct {
	cfg    Config
	server *url.URL
	http   *http.Client

	mu      sync.RWMutex
	keys    []jose.JSONWebKey
	fetched time.Time // of the keys

	// fetching lets one caller ask the service at a time; it holds what follows.
	fetching chan struct{}
	tried    time.Time
	failure  error // of the last try
	logged   time.Time
}

// New returns a verifier. It does not ask the service yet, which may come up later than the daemon.
// It fails for addresses that are not safe: without TLS whoever is on the way makes the keys.
func New(cfg Config) (*Verifier, error) {
	cfg.ServerURL = strings.TrimSuffix(strings.TrimSpace(cfg.ServerURL), "/")
	v := &Verifier{cfg: cfg, fetching: make(chan struct{}, 1)}
	var err error
	if v.server, err = url.Parse(cfg.ServerURL); err == nil {
		err = safe(v.server, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("gateway.auth.iam.serverUrl: %w", err)
	}
	if cfg.JWKSURL != "" {
		if err := v.checkURL(cfg.JWKSURL); err != nil {
			return nil, fmt.Errorf("gateway.auth.iam.jwksUrl: %w", err)
		}
	}
	if cfg.ClientID == "" {
		return nil, errors.New("gateway.auth.iam.clientId is missing")
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: fetchTimeout}).DialContext,
		DisableKeepAlives:      true, // minutes lie between two requests
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	v.http = &http.Client{Transport: transport, Timeout: fetchTimeout, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		return safe(req.URL, v.server)
	}}
	return v, nil
}

func (v *Verifier) checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	return safe(u, v.server)
}

// safe refuses addresses without TLS but on this machine, and from a server with TLS all without.
func safe(u, server *url.URL) error {
	switch {
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q is not the address of a server (https://host)", u.Redacted())
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()) && (server == nil || server.Scheme == "http"):
		return nil
	default:
		return fmt.Errorf("%q must begin with https://: the keys that it answers decide who gets in", u.Redacted())
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// Verify implements identity.Issuer.
func (v *Verifier) Verify(ctx context.Context, token string) (identity.Person, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return identity.Person{}, errToken
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return identity.Person{}, errToken.Wrap(err)
	}
	keys, err := v.keysFor(ctx, jws.Signatures[0].Header.KeyID)
	if err != nil {
		return identity.Person{}, errUnavailable.Wrap(err)
	}
	algs := make([]string, len(algorithms))
	for i, a := range algorithms {
		algs[i] = string(a)
	}
	verifier := oidc.NewVerifier(v.cfg.ServerURL, keySet(keys), &oidc.Config{
		ClientID: v.cfg.ClientID, SupportedSigningAlgs: algs, Now: v.cfg.Now,
		SkipIssuerCheck: true, // checked below: a slash at the end makes no difference
	})
	id, err := verifier.Verify(ctx, token)
	if err != nil {
		return identity.Person{}, errToken.Wrap(err)
	}
	if strings.TrimSuffix(id.Issuer, "/") != v.cfg.ServerURL {
		return identity.Person{}, errToken
	}
	var c claims
	if err := id.Claims(&c); err != nil {
		return identity.Person{}, errToken.Wrap(err)
	}
	p, err := v.person(c)
	p.Expires = id.Expiry
	return p, err
}

// claims are what is read of a token beyond what the library checks.
type claims struct {
	Subject string `json:"sub"`
	Owner   string `json:"owner"`
	// Groups are organisations beside the owner; others may name them so with another meaning.
	Groups        any    `json:"groups"`
	Name          string `json:"name"`
	Email         string `json:"email"`
	EmailVerified any    `json:"email_verified"`
	// Kind and Typ tell tokens apart that are not for showing to others.
	Kind string `json:"tokenType"`
	Typ  string `json:"typ"`
}

func (v *Verifier) person(c claims) (identity.Person, error) {
	qualified := ""
	if c.Owner != "" && c.Name != "" && !strings.Contains(c.Owner+c.Name, "/") {
		qualified = c.Owner + "/" + c.Name
	}
	p := identity.Person{ID: c.Subject}
	if p.ID == "" {
		p.ID = qualified
	}
	for _, kind := range []string{c.Kind, c.Typ} {
		if strings.Contains(strings.ToLower(kind), "refresh") {
			return identity.Person{}, errToken
		}
	}
	if p.ID == "" || len(p.ID) > maxID || strings.ContainsFunc(p.ID, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return identity.Person{}, errToken
	}
	email := ""
	if c.EmailVerified == true || c.EmailVerified == "true" {
		email = identity.NormalMetadata(c.Email)
	}
	p.Admin = slices.ContainsFunc(v.cfg.SuperAdmins, func(s string) bool {
		s = strings.TrimSpace(s)
		return s != "" && (s == c.Subject || s == qualified || email != "" && identity.NormalMetadata(s) == email)
	})
	if v.cfg.OrgName != "" && c.Owner != v.cfg.OrgName && !p.Admin {
		return identity.Person{}, errToken
	}
	p.Org = organisation(c)
	return p, nil
}

// organisation is the first of the groups that can be one, else the owner (tunnel.md §2.5). A name with anything
// but printable characters, or too long, is none.
func organisation(c claims) string {
	groups, _ := c.Groups.([]any)
	for _, g := range append(groups, c.Owner) {
		name, _ := g.(string)
		if name = strings.TrimSpace(name); name != "" && len(name) <= maxID && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
			return name
		}
	}
	return ""
}

// keySet is the keys of one moment.
type keySet []jose.JSONWebKey

// VerifySignature implements oidc.KeySet.
func (ks keySet) VerifySignature(_ context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, err
	}
	h := jws.Signatures[0].Header
	for i := range ks {
		k := &ks[i]
		if h.KeyID != "" && k.KeyID != h.KeyID || k.Algorithm != "" && k.Algorithm != h.Algorithm {
			continue
		}
		if payload, err := jws.Verify(k); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("no key of the identity service has signed the token")
}

func (ks keySet) has(kid string) bool {
	return slices.ContainsFunc(ks, func(k jose.JSONWebKey) bool { return kid == "" || k.KeyID == kid })
}

// keysFor returns the keys of the service. It asks for newer ones when they are old or the wanted
// one is not among them, but not often, and only who needs them waits.
func (v *Verifier) keysFor(ctx context.Context, kid string) ([]jose.JSONWebKey, error) {
	keys, fresh := v.known()
	if fresh && keySet(keys).has(kid) {
		return keys, nil
	}
	if keySet(keys).has(kid) {
		select {
		case v.fetching <- struct{}{}:
		default:
			return keys, nil // old ones will do rather than waiting for another caller
		}
	} else {
		select {
		case v.fetching <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-v.fetching }()
	keys, fresh = v.known() // another caller may have fetched meanwhile
	if fresh && keySet(keys).has(kid) {
		return keys, nil
	}
	now := v.cfg.Now()
	if since := now.Sub(v.tried); v.tried.IsZero() || since >= fetchEvery || since < 0 {
		v.tried = now
		if v.failure = v.fetch(ctx); v.failure != nil && now.Sub(v.logged) >= logEvery {
			v.logged = now
			v.cfg.Log.Warn("the identity service does not answer; see gateway.auth.iam", "server", v.server.Redacted(), "error", v.failure)
		}
		keys, _ = v.known()
	}
	if keys == nil {
		return nil, v.failure
	}
	return keys, nil
}

// known returns the keys, nil when there are none that may still be used.
func (v *Verifier) known() (keys []jose.JSONWebKey, fresh bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	age := v.cfg.Now().Sub(v.fetched)
	if v.keys == nil || age >= staleLife {
		return nil, false
	}
	return v.keys, age < keyLife
}

// fetch asks the service where its keys are, and for them.
func (v *Verifier) fetch(ctx context.Context) error {
	at := v.cfg.JWKSURL
	if at == "" {
		var doc struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := v.get(ctx, v.cfg.ServerURL+"/.well-known/openid-configuration", &doc); err != nil {
			return err
		}
		if strings.TrimSuffix(doc.Issuer, "/") != v.cfg.ServerURL {
			return fmt.Errorf("the server calls itself %q; set gateway.auth.iam.serverUrl to that if it is right", doc.Issuer)
		}
		if err := v.checkURL(doc.JWKS); err != nil {
			return fmt.Errorf("the server's jwks_uri: %w", err)
		}
		at = doc.JWKS
	}
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := v.get(ctx, at, &doc); err != nil {
		return err
	}
	var keys []jose.JSONWebKey
	for _, text := range doc.Keys {
		var k jose.JSONWebKey
		// What we do not understand is for others (RFC 7517 §5).
		if json.Unmarshal(text, &k) == nil && usable(k) && len(keys) < maxKeys {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return fmt.Errorf("%s answers no key that can be used", at)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys, v.fetched = keys, v.cfg.Now()
	return nil
}

// usable reports whether a key may sign tokens: a public one, for signing, of a safe size.
func usable(k jose.JSONWebKey) bool {
	if !k.Valid() || !k.IsPublic() || k.Use != "" && k.Use != "sig" {
		return false
	}
	key, isRSA := k.Key.(*rsa.PublicKey)
	return !isRSA || key.N.BitLen() >= minRSABits
}

func (v *Verifier) get(ctx context.Context, at string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := v.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", at, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(body) > maxDocument {
		return fmt.Errorf("%s answers more than %d bytes", at, maxDocument)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s answers no JSON of this kind: %w", at, err)
	}
	return nil
}
