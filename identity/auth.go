package identity

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// AuthMode is how clients without a device token prove that they may connect.
type AuthMode string

// The modes (protocol.md §4.1).
const (
	AuthNone         AuthMode = "none"
	AuthToken        AuthMode = "token"
	AuthPassword     AuthMode = "password"
	AuthTrustedProxy AuthMode = "trusted-proxy"
	AuthIAM          AuthMode = "iam"
)

// Methods of clients that are no modes. The owner is the daemon's own user, whom a door has verified.
const (
	authTailscale AuthMode = "tailscale"
	authOwner     AuthMode = "owner"
	authMember    AuthMode = "tailnet"
)

// PersonScopes is what a person whom the identity service vouches for may have without a device,
// unless it is one of gateway.auth.iam.superAdmins: to look and to talk, not to decide on approvals
// and devices or to administer.
var PersonScopes = []Scope{ScopeRead, ScopeWrite}

// Secret is a shared secret that can be compared but not read.
type Secret interface {
	// Equal compares in constant time.
	Equal(candidate string) bool
}

// Auth is the configured authentication.
type Auth struct {
	Mode AuthMode
	// Secret is the token or the password; in mode iam the token that works beside the identity
	// service. It is nil when none is configured.
	Secret Secret
	// Proxy is for mode trusted-proxy.
	Proxy *ProxyAuth
	// Issuer is for mode iam.
	Issuer Issuer
	// Tailnet accepts identities of the tailnet when it is not nil.
	Tailnet Tailnet
	// Members is who comes over the tailnet; nil where nobody does.
	Members Members
	// Limit locks sources out; nil leaves it at slowing them down.
	Limit *AuthLimit
	// InsecureUI lets the Control UI on this machine in without a device, DeviceFreeUI the Control UI
	// from anywhere; both with the shared secret only (protocol.md §4.6).
	InsecureUI, DeviceFreeUI bool
}

// AuthLimit is gateway.auth.rateLimit.
type AuthLimit struct {
	Rate
	// ExemptLoopback leaves clients that come directly from this machine at slowing them down.
	ExemptLoopback bool
}

// ProxyAuth is gateway.auth.trustedProxy: which headers of a trusted proxy name the user.
type ProxyAuth struct {
	UserHeader string
	// RequiredHeaders must be there and not empty.
	RequiredHeaders []string
	// AllowUsers are the users that may connect; empty allows all.
	AllowUsers []string
}

// Issuer is an identity service whose tokens are accepted.
type Issuer interface {
	// Verify returns whom a token was issued to. Its error has the class Unavailable when the token
	// could not be judged.
	Verify(ctx context.Context, token string) (Person, error)
}

// Person is somebody whom an identity service vouches for.
type Person struct {
	ID string
	// Admin is one of gateway.auth.iam.superAdmins.
	Admin bool
	// Org is the organisation that the person acts for, empty for none: the first of its groups, else its
	// owner (tunnel.md §2.5).
	Org string
	// Expires is when the token ends.
	Expires time.Time
}

// Tailnet is the private network of this machine.
type Tailnet interface {
	// Login returns the login name of the user whose machine has the address.
	Login(ctx context.Context, addr netip.Addr) (string, error)
}

// credentials are what a client presents besides its device.
type credentials struct {
	token, password string
	from            Peer
	// scope is where a wrong secret counts.
	scope LimitScope
	// known says that token is a device token that was verified: it is no guess at the secret.
	known bool
	// owner is Attempt.Owner.
	owner bool
	// http is a request: identities of the tailnet do not count there.
	http bool
}

func (c credentials) offered() bool {
	return c.token != "" || c.password != ""
}

// shared is the outcome of the shared part of authentication.
type shared struct {
	ok     bool     // the mode lets the client in
	method AuthMode // by which means
	reason string   // why not
	// counted says that the failure was counted.
	counted    bool
	retryAfter time.Duration // with reason rate_limited
	// principal is whom a proxy or an identity service vouches for, "" for others.
	principal string
	// person is set with method iam, member with method tailnet.
	person Person
	member *Member
}

// vouches is sharedAuthOk of protocol.md §4.2 for a role: somebody who holds the secret of the
// gateway, or whom the configured proxy or identity service names. Being somebody in the identity
// service is not enough to be a machine that runs commands.
func (sh shared) vouches(role Role) bool {
	if !sh.ok {
		return false
	}
	switch sh.method {
	case AuthToken, AuthPassword, AuthTrustedProxy, authOwner:
		return true
	case AuthIAM:
		return role == RoleOperator || sh.person.Admin
	case authMember:
		return sh.member.May(role)
	default:
		return false
	}
}

// bounds cuts the wanted scopes to what may be had on the word of the shared part alone.
func (sh shared) bounds(wanted []Scope) []Scope {
	if sh.method != AuthIAM || sh.person.Admin {
		return wanted
	}
	var out []Scope
	for _, s := range PersonScopes {
		if ScopesAllow(RoleOperator, []Scope{s}, wanted) {
			out = append(out, s)
		}
	}
	return out
}

// tenant is whose nodes an operator sees: all of them for who administers the gateway.
func (sh shared) tenant() string {
	if !sh.ok || sh.method != AuthIAM || sh.person.Admin {
		return ""
	}
	return sh.person.Org
}

// pairsSilently reports whether a device on this machine may be approved unasked: not one that wants
// more than the person that uses it may have.
func (sh shared) pairsSilently(a Attempt) bool {
	return sh.method != AuthIAM || sh.person.Admin ||
		a.Role == RoleOperator && ScopesAllow(RoleOperator, a.Scopes, PersonScopes)
}

// reasonLimited is the reason of who failed too often.
const reasonLimited = "rate_limited"

// evaluate is protocol.md §4.2. The order of its steps is that of the table there.
func (s *Service) evaluate(ctx context.Context, c credentials) shared {
	if c.owner {
		return shared{ok: true, method: authOwner}
	}
	if m := c.from.Member; m != nil && c.from.MemberCounts {
		return shared{ok: true, method: authMember, principal: m.Principal(), member: m}
	}
	switch s.auth.Mode {
	case AuthTrustedProxy:
		return s.auth.Proxy.evaluate(c.from)
	case AuthNone:
		return shared{ok: true, method: AuthNone}
	}
	lim := s.limit(c.from)
	if wait, ok := s.patient(ctx, c.scope, lim); !ok {
		return shared{reason: reasonLimited, retryAfter: wait}
	}
	if login, ok := s.tailscale(ctx, c); ok {
		return shared{ok: true, method: authTailscale, principal: "tailscale:" + login}
	}
	switch s.auth.Mode {
	case AuthIAM:
		return s.evaluateIAM(ctx, c, lim)
	case AuthPassword:
		return s.match(c, c.password, AuthPassword, lim)
	default:
		return s.match(c, c.token, AuthToken, lim)
	}
}

func (s *Service) evaluateIAM(ctx context.Context, c credentials, lim sourceLimit) shared {
	if c.token == "" {
		return shared{reason: "iam_token_missing"}
	}
	judged := !c.known
	if s.auth.Issuer != nil && !c.known {
		person, err := s.auth.Issuer.Verify(ctx, c.token)
		if err == nil {
			return shared{ok: true, method: AuthIAM, person: person, principal: "iam:" + person.ID}
		}
		judged = errs.ClassOf(err) != errs.Unavailable
	}
	if s.auth.Secret == nil {
		if judged {
			lim.Fail(c.scope, lim.from)
		}
		return shared{reason: "iam_validation_failed", counted: judged}
	}
	sh := s.match(c, c.token, AuthToken, lim)
	if !sh.ok && sh.reason != reasonLimited {
		sh.reason = "iam_validation_failed"
	}
	return sh
}

// match compares a candidate with the shared secret.
func (s *Service) match(c credentials, candidate string, kind AuthMode, lim sourceLimit) shared {
	switch {
	case s.auth.Secret == nil:
		return shared{reason: string(kind) + "_missing_config"}
	case candidate == "":
		return shared{reason: string(kind) + "_missing"}
	case c.known && kind == AuthToken:
		return shared{reason: string(kind) + "_mismatch"}
	}
	ok, wait := lim.Try(c.scope, lim.from, func() bool { return s.auth.Secret.Equal(candidate) })
	if wait == 0 && ok && c.scope != LimitSecret {
		// Who is locked out of guessing the secret is not let in by the side either.
		wait, _ = lim.Allow(LimitSecret, lim.from)
	}
	switch {
	case wait > 0:
		return shared{reason: reasonLimited, retryAfter: wait}
	case !ok:
		return shared{reason: string(kind) + "_mismatch", counted: true}
	}
	if lim.locks {
		lim.Succeed(LimitSecret, lim.from)
	}
	return shared{ok: true, method: kind}
}

// evaluate is mode trusted-proxy.
func (p *ProxyAuth) evaluate(from Peer) shared {
	no := func(reason string) shared { return shared{reason: "trusted_proxy_" + reason} }
	if p == nil {
		return no("config_missing")
	}
	if !from.Trusted {
		return no("untrusted_source")
	}
	for _, h := range p.RequiredHeaders {
		if from.Headers[strings.ToLower(h)] == "" {
			return no("missing_header_" + h)
		}
	}
	user := from.Headers[strings.ToLower(p.UserHeader)]
	switch {
	case user == "":
		return no("user_missing")
	case len(p.AllowUsers) > 0 && !slices.Contains(p.AllowUsers, user):
		return no("user_not_allowed")
	}
	return shared{ok: true, method: AuthTrustedProxy, principal: "proxy:" + user}
}

// The headers of the tailnet's proxy on this machine.
const (
	headerTailscaleLogin = "tailscale-user-login"
	headerForwardedProto = "x-forwarded-proto"
	headerForwardedHost  = "x-forwarded-host"
)

// AuthHeaders are the headers that the doors keep for the mode.
func (a Auth) AuthHeaders() []string {
	var out []string
	if a.Proxy != nil {
		out = append([]string{a.Proxy.UserHeader}, a.Proxy.RequiredHeaders...)
	}
	if a.Tailnet != nil {
		out = append(out, headerTailscaleLogin, headerForwardedProto, headerForwardedHost)
	}
	return out
}

// tailscale is whether the tailnet's proxy on this machine speaks for a user, and the tailnet itself
// says that the address is that user's. Headers alone prove nothing: any program here can send them.
func (s *Service) tailscale(ctx context.Context, c credentials) (login string, ok bool) {
	h := c.from.Headers
	login = h[headerTailscaleLogin]
	if s.auth.Tailnet == nil || c.http || c.from.Local || !c.from.Direct.IsLoopback() || !c.from.Claimed.IsValid() ||
		login == "" || h[headerForwardedProto] == "" || h[headerForwardedHost] == "" {
		return "", false
	}
	owner, err := s.auth.Tailnet.Login(ctx, c.from.Claimed)
	return login, err == nil && owner != "" && NormalMetadata(owner) == NormalMetadata(login)
}

// browserLoopback is what web pages of this machine count as together (protocol.md §4.4): they are
// not exempt as programs are.
var browserLoopback = netip.MustParseAddr("198.18.0.1")

// sourceLimit is the limiter that holds for a peer, and what the peer counts as there.
type sourceLimit struct {
	*Limiter
	from netip.Addr
	// locks says that the limiter locks out, and that a success starts its count anew.
	locks bool
}

// limit chooses the limiter (protocol.md §4.4). Web pages are always locked out; others where it is
// configured, except for programs of this machine that come directly, if those are exempt. Whoever
// is not locked out is slowed down: a local program that guesses too.
func (s *Service) limit(p Peer) sourceLimit {
	from := p.Client
	if from.IsLoopback() {
		from = netip.IPv6Loopback() // all of them together: a program here has 16 million addresses
	}
	if p.HasOrigin {
		if from.IsLoopback() {
			from = browserLoopback
		}
		return sourceLimit{s.browser, from, true}
	}
	if s.general != nil && (!p.Local || !s.auth.Limit.ExemptLoopback) {
		return sourceLimit{s.general, from, true}
	}
	return sourceLimit{s.throttle, from, false}
}

const (
	// maxPatience is how long an attempt of a source that is being slowed down waits for its turn, and
	// maxWaiting how many wait at a time; more are refused.
	maxPatience = time.Second
	maxWaiting  = 64
)

// patient is Allow, which waits where waiting is enough: whoever guesses one by one is answered as
// ever, only later.
func (s *Service) patient(ctx context.Context, scope LimitScope, lim sourceLimit) (time.Duration, bool) {
	wait, ok := lim.Allow(scope, lim.from)
	if ok || lim.locks || wait > maxPatience {
		return wait, ok
	}
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return wait, false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return lim.Allow(scope, lim.from)
	case <-ctx.Done():
		return wait, false
	}
}

func (s *Service) makeLimits() {
	s.waiting = make(chan struct{}, maxWaiting)
	rate := DefaultRate
	if s.auth.Limit != nil {
		rate = s.auth.Limit.Rate
	}
	s.browser = NewLimiter(rate, s.now)
	if s.auth.Limit != nil {
		s.general = s.browser // one count, with and without an Origin
	}
	s.throttle = NewLimiter(ThrottleRate, s.now)
}

// admitWithoutDevice is protocol.md §4.6.
func (s *Service) admitWithoutDevice(a Attempt, sh shared, c credentials) (Admission, error) {
	deviceFree := a.ControlUI && s.auth.DeviceFreeUI
	in := Admission{Scopes: sh.bounds(a.Scopes), Platform: a.Platform, DeviceFamily: a.DeviceFamily, Principal: sh.principal, Tenant: sh.tenant(), Expires: sh.person.Expires}
	switch {
	case a.ControlUI && a.Role == RoleOperator && sh.ok && sh.method == AuthTrustedProxy:
		return in, nil
	case a.ControlUI && !deviceFree && (!s.auth.InsecureUI || !a.Peer.Local):
		return Admission{}, ErrControlUIDevice
	case sh.vouches(a.Role):
		return in, nil
	case !sh.ok && c.offered():
		return Admission{}, ErrAuth.With("reason", sh.reason)
	default:
		return Admission{}, ErrDeviceRequired
	}
}

// skipsPairing is the first paragraph of protocol.md §4.7.
func (s *Service) skipsPairing(a Attempt, sh shared) bool {
	switch {
	case !sh.vouches(a.Role):
		return false
	case a.Role == RoleNode:
		return true
	case sh.method == AuthTrustedProxy && a.ControlUI:
		return true
	}
	return (sh.method == AuthToken || sh.method == AuthPassword) &&
		a.ClientID == "gateway-client" && a.ClientMode == "backend" && a.Peer.Local && !a.Peer.HasOrigin
}

// Bearer returns the caller that presents a token and nothing else: a device token makes the device
// in the token's role, the secret of an invite somebody who may enrol, the shared secret an operator
// with every scope, a token of the identity service that person; in mode trusted-proxy the proxy's
// word is enough, without a token. In mode none only devices and invites are let in: there is no
// handshake in which another could show who it is. The door fills in which door it is.
//
// Failures count as in a connect. A device token is let in from a locked source too: nobody guesses
// one, and who shares the address of a guesser is not to suffer for it.
//
// Who comes over the tailnet needs no token where the tailnet's word counts, and may nothing beyond its
// mapping with one.
func (s *Service) Bearer(ctx context.Context, token string, from Peer) (Caller, error) {
	m := from.Member
	if m == nil {
		return s.bearer(ctx, token, from)
	}
	if token == "" && from.MemberCounts {
		c, err := m.Caller(RoleOperator)
		c.RemoteIP = from.IP()
		return c, err
	}
	if !m.May(RoleOperator) && !m.May(RoleNode) {
		return Caller{}, m.Refusal(RoleOperator)
	}
	from.MemberCounts = false // the token decides
	c, err := s.bearer(ctx, token, from)
	switch {
	case err != nil || c.Role == RoleInvited:
		return c, err
	case !m.May(c.Role):
		return Caller{}, m.Refusal(c.Role)
	}
	c.Scopes = m.bound(c.Scopes)
	return c, nil
}

func (s *Service) bearer(ctx context.Context, token string, from Peer) (Caller, error) {
	if strings.HasPrefix(token, invitePrefix) {
		return s.invited(token, from.IP())
	}
	c, ok, err := s.deviceBearer(token)
	if err != nil {
		return Caller{}, err
	}
	if ok {
		c.RemoteIP = from.IP()
		return c, nil
	}
	if token == "" && s.auth.Mode != AuthTrustedProxy {
		return Caller{}, ErrBearerRequired
	}
	sh := s.evaluate(ctx, credentials{token: token, password: token, from: from, scope: LimitSecret, http: true})
	switch {
	case sh.vouches(RoleOperator):
		c = Caller{Role: RoleOperator, Scopes: sh.bounds(AllOperatorScopes), Principal: sh.principal, Tenant: sh.tenant(), RemoteIP: from.IP(), Expires: sh.person.Expires}
		if c.Principal == "" {
			c.Principal = "shared-secret"
		}
		return c, nil
	case sh.reason == reasonLimited:
		return Caller{}, ErrRateLimited.With("retryAfterMs", max(sh.retryAfter.Milliseconds(), 1))
	case token == "":
		return Caller{}, ErrBearerRequired
	default:
		return Caller{}, ErrBearerNotAccepted
	}
}

// deviceBearer finds the device that a token belongs to.
func (s *Service) deviceBearer(token string) (Caller, bool, error) {
	if token == "" {
		return Caller{}, false, nil
	}
	s.mu.Lock()
	ref, ok := s.tokens[sha256.Sum256([]byte(token))]
	s.mu.Unlock()
	if !ok {
		return Caller{}, false, nil
	}
	dev, exists, err := s.store.Device(ref.device)
	if err != nil {
		return Caller{}, false, err
	}
	t := dev.Tokens[ref.role]
	if !exists || !t.RevokedAt.IsZero() || !equalSecrets(token, t.Token) {
		return Caller{}, false, nil
	}
	c := Caller{
		Role: ref.role, Scopes: t.Scopes, DeviceID: dev.ID, Paired: true, TokenID: tokenID(token), Principal: "device:" + dev.ID, Tenant: dev.Tenant,
		ClientID: dev.ClientID, ClientMode: dev.ClientMode, DisplayName: dev.DisplayName,
	}
	if ref.role == RoleNode {
		c.NodeID = QualifiedNode(dev.Tenant, dev.ID)
	}
	return c, true, nil
}
