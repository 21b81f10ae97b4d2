package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// PendingTTL is how long a pairing request waits for an answer (protocol.md §0).
	PendingTTL = 5 * time.Minute
	// maxPending bounds the requests that wait: a stranger can make them.
	maxPending = 200
	// maxDevices bounds the paired devices; local programs pair without being asked.
	maxDevices = 100_000
	// lastUsedEvery is how stale the time of last use of a token may be, so that a reconnect is
	// not a write.
	lastUsedEvery = time.Minute
	// tokenBytes is the entropy of a device token (protocol.md §4.8).
	tokenBytes = 32
)

// AuthMode is how clients without a device token prove that they may connect.
type AuthMode string

// The modes this version serves.
const (
	AuthNone     AuthMode = "none"
	AuthToken    AuthMode = "token"
	AuthPassword AuthMode = "password"
)

// Secret is a shared secret that can be compared but not read.
type Secret interface {
	// Equal compares in constant time.
	Equal(candidate string) bool
}

// Auth is the configured authentication.
type Auth struct {
	Mode AuthMode
	// Secret is the token or the password; nil when none is configured.
	Secret Secret
}

// Publisher announces what happened after it is on disk.
type Publisher interface {
	Publish(name string, payload any)
}

// Service decides who gets in. Its methods are safe for concurrent use.
type Service struct {
	store Store
	auth  Auth
	pub   Publisher
	now   func() time.Time

	mu sync.Mutex
	// pending holds the open requests by device id.
	pending map[string]*Pairing
	// tokens finds a device by the hash of one of its tokens, for callers that present nothing
	// else.
	tokens map[[sha256.Size]byte]tokenRef
	// nodes are the paired devices with the role node.
	nodes map[string]Device
	count int
}

type tokenRef struct {
	device string
	role   Role
}

// Pairing is a device's open request.
type Pairing struct {
	RequestID    string
	DeviceID     string
	PublicKey    string
	DisplayName  string
	Platform     string
	DeviceFamily string
	ClientID     string
	ClientMode   string
	Role         Role
	Roles        []Role
	Scopes       []Scope
	RemoteIP     string
	Silent       bool
	Repair       bool
	At           time.Time
}

// The payloads of the events device.pair.requested and device.pair.resolved.
type (
	PairingRequested struct{ Pairing Pairing }
	PairingResolved  struct {
		RequestID string
		DeviceID  string
		Decision  string // approved or rejected
		At        time.Time
	}
)

// New reads the paired devices and returns the service.
func New(store Store, auth Auth, pub Publisher, now func() time.Time) (*Service, error) {
	s := &Service{
		store: store, auth: auth, pub: pub, now: now,
		pending: map[string]*Pairing{},
		tokens:  map[[sha256.Size]byte]tokenRef{},
		nodes:   map[string]Device{},
	}
	devices, err := store.Devices()
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		s.index(Device{}, d)
	}
	s.count = len(devices)
	return s, nil
}

// index replaces what the lookups know of a device. The caller holds mu, or is New.
func (s *Service) index(old, d Device) {
	for _, t := range old.Tokens {
		delete(s.tokens, sha256.Sum256([]byte(t.Token)))
	}
	for role, t := range d.Tokens {
		if t.RevokedAt.IsZero() {
			s.tokens[sha256.Sum256([]byte(t.Token))] = tokenRef{device: d.ID, role: role}
		}
	}
	if slices.Contains(d.Roles, RoleNode) {
		s.nodes[d.ID] = d
	} else {
		delete(s.nodes, d.ID)
	}
}

// Mode returns the configured mode.
func (s *Service) Mode() AuthMode { return s.auth.Mode }

// PairedNodes returns the paired devices with the role node.
func (s *Service) PairedNodes() []Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Device, 0, len(s.nodes))
	for _, d := range s.nodes {
		out = append(out, d)
	}
	return out
}

// IsPairedNode reports whether the device is paired with the role node.
func (s *Service) IsPairedNode(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.nodes[id]
	return ok
}

// Attempt is a client that wants to connect.
type Attempt struct {
	Role         Role
	Scopes       []Scope
	ClientID     string
	ClientMode   string
	DisplayName  string
	Platform     string
	DeviceFamily string
	// Token, DeviceToken and Password are as sent.
	Token       string
	DeviceToken string
	Password    string
	// Device is nil without a device.
	Device *Proof
	// Nonce is the challenge of this connection.
	Nonce string
	// Local is a client on this machine that came directly.
	Local     bool
	RemoteIP  string
	HasOrigin bool
	// ControlUI and Webchat are the browser clients.
	ControlUI bool
	Webchat   bool
}

// Admission is a client that is let in.
type Admission struct {
	Scopes   []Scope
	DeviceID string
	// Platform and DeviceFamily are what the session goes by: the paired ones, once paired.
	Platform     string
	DeviceFamily string
	// Issued is the device token, nil for clients that are not paired.
	Issued *Issued
	Paired bool
}

// Issued is a device token handed to its device.
type Issued struct {
	Token  string
	Role   Role
	Scopes []Scope
	At     time.Time
}

// shared is the outcome of the shared part of authentication.
type shared struct {
	ok     bool   // the mode lets the client in
	secret bool   // a shared secret was presented and matched
	reason string // why not
}

// evaluate is protocol.md §4.2.
func (s *Service) evaluate(a Attempt) shared {
	switch s.auth.Mode {
	case AuthNone:
		return shared{ok: true}
	case AuthPassword:
		return s.match(strings.TrimSpace(a.Password), "password")
	default:
		return s.match(strings.TrimSpace(a.Token), "token")
	}
}

func (s *Service) match(candidate, kind string) shared {
	switch {
	case s.auth.Secret == nil:
		return shared{reason: kind + "_missing_config"}
	case candidate == "":
		return shared{reason: kind + "_missing"}
	case !s.auth.Secret.Equal(candidate):
		return shared{reason: kind + "_mismatch"}
	default:
		return shared{ok: true, secret: true}
	}
}

// Admit decides whether a client gets in, and as what. The order of the checks is that of
// protocol.md §3.1 and §4.
func (s *Service) Admit(ctx context.Context, a Attempt) (Admission, error) {
	sh := s.evaluate(a)
	if a.Device == nil {
		return s.admitWithoutDevice(a, sh)
	}
	token := a.Token
	if token == "" {
		token = a.DeviceToken
	}
	key, err := a.Device.Verify(Signed{
		ClientID: a.ClientID, ClientMode: a.ClientMode, Role: a.Role, Scopes: a.Scopes,
		Token: token, Platform: a.Platform, DeviceFamily: a.DeviceFamily,
	}, a.Nonce, s.now())
	if err != nil {
		return Admission{}, err
	}
	dev, exists, err := s.store.Device(a.Device.ID)
	if err != nil {
		return Admission{}, err
	}
	paired := exists && dev.PublicKey == EncodeKey(key)
	byToken := false
	if !sh.ok {
		if reason := s.verifyDeviceToken(a, dev, paired); reason == "" {
			byToken = true
		} else {
			if strings.TrimSpace(a.DeviceToken) != "" {
				sh.reason = "device_token_mismatch"
			}
			return Admission{}, ErrAuth.With("reason", sh.reason)
		}
	}
	if s.skipsPairing(a, sh) {
		return s.admitDevice(ctx, a, key, paired && slices.Contains(dev.Roles, a.Role), byToken)
	}
	if reason := pairingReason(a, dev, paired); reason != "" {
		if err := s.pair(ctx, a, key, dev, exists, reason); err != nil {
			return Admission{}, err
		}
	}
	return s.admitDevice(ctx, a, key, true, byToken)
}

// admitWithoutDevice is protocol.md §4.6.
func (s *Service) admitWithoutDevice(a Attempt, sh shared) (Admission, error) {
	switch {
	case a.ControlUI:
		return Admission{}, ErrControlUIDevice
	case sh.secret:
		return Admission{Scopes: a.Scopes, Platform: a.Platform, DeviceFamily: a.DeviceFamily}, nil
	case !sh.ok && (strings.TrimSpace(a.Token) != "" || strings.TrimSpace(a.Password) != ""):
		return Admission{}, ErrAuth.With("reason", sh.reason)
	default:
		return Admission{}, ErrDeviceRequired
	}
}

// verifyDeviceToken returns "" when the attempt carries the device's token for its role.
func (s *Service) verifyDeviceToken(a Attempt, dev Device, paired bool) string {
	candidate := strings.TrimSpace(a.DeviceToken)
	if candidate == "" {
		candidate = strings.TrimSpace(a.Token)
	}
	t, has := dev.Tokens[a.Role]
	switch {
	case candidate == "":
		return "token-missing"
	case !paired:
		return "device-not-paired"
	case !has:
		return "role-missing"
	case !t.RevokedAt.IsZero():
		return "token-revoked"
	case !equalSecrets(candidate, t.Token):
		return "token-mismatch"
	case !ScopesAllow(a.Role, a.Scopes, t.Scopes):
		return "scope-mismatch"
	default:
		return ""
	}
}

func equalSecrets(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// skipsPairing is the first paragraph of protocol.md §4.7.
func (s *Service) skipsPairing(a Attempt, sh shared) bool {
	if !sh.secret {
		return false
	}
	return a.Role == RoleNode ||
		(a.ClientID == "gateway-client" && a.ClientMode == "backend" && a.Local && !a.HasOrigin)
}

// pairingReason says why a device has to be (re-)approved, "" when it has not.
func pairingReason(a Attempt, dev Device, paired bool) string {
	switch {
	case !paired:
		return "not-paired"
	case differs(dev.Platform, a.Platform) || differs(dev.DeviceFamily, a.DeviceFamily):
		return "metadata-upgrade"
	case !slices.Contains(dev.Roles, a.Role):
		return "role-upgrade"
	case !ScopesAllow(a.Role, a.Scopes, dev.Scopes):
		return "scope-upgrade"
	default:
		return ""
	}
}

func differs(stored, claimed string) bool {
	return stored != "" && NormalMetadata(stored) != NormalMetadata(claimed)
}

// pair approves a local device silently, or leaves a request and says that it waits.
func (s *Service) pair(ctx context.Context, a Attempt, key []byte, dev Device, exists bool, reason string) error {
	silent := a.Local && (!a.HasOrigin || a.ControlUI || a.Webchat) &&
		(reason == "not-paired" || reason == "scope-upgrade")
	p, created, err := s.request(a, key, exists, silent)
	if err != nil {
		return err
	}
	if !p.Silent {
		if created {
			s.pub.Publish("device.pair.requested", PairingRequested{Pairing: p})
		}
		return ErrPairingRequired.With("requestId", p.RequestID, "reason", reason)
	}
	if err := s.approve(ctx, p, dev); err != nil {
		return err
	}
	s.pub.Publish("device.pair.resolved", PairingResolved{
		RequestID: p.RequestID, DeviceID: p.DeviceID, Decision: "approved", At: s.now(),
	})
	return nil
}

// request makes or merges the open request of a device (protocol.md §4.7, merge).
func (s *Service) request(a Attempt, key []byte, exists, silent bool) (p Pairing, created bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for id, old := range s.pending {
		if now.Sub(old.At) > PendingTTL {
			delete(s.pending, id)
		}
	}
	open, ok := s.pending[a.Device.ID]
	if !ok {
		if len(s.pending) >= maxPending {
			return Pairing{}, false, ErrTooManyPending
		}
		open = &Pairing{
			RequestID: uuid.NewString(), DeviceID: a.Device.ID, PublicKey: EncodeKey(key),
			Role: a.Role, Silent: silent, Repair: exists,
		}
		s.pending[a.Device.ID] = open
	}
	open.DisplayName, open.Platform, open.DeviceFamily = a.DisplayName, a.Platform, a.DeviceFamily
	open.ClientID, open.ClientMode, open.RemoteIP = a.ClientID, a.ClientMode, a.RemoteIP
	open.Roles = Union(open.Roles, []Role{a.Role})
	open.Scopes = Union(open.Scopes, a.Scopes)
	open.Silent = open.Silent && silent
	open.At = now
	return *open, !ok, nil
}

// approve records the device of a request as paired and gives it a token (protocol.md §4.7,
// approval).
func (s *Service) approve(ctx context.Context, p Pairing, old Device) error {
	token, err := newToken()
	if err != nil {
		return err
	}
	now := s.now()
	isNew := false
	dev, err := s.store.UpdateDevice(ctx, p.DeviceID, func(d *Device, exists bool) error {
		isNew = !exists
		if !exists {
			s.mu.Lock()
			full := s.count >= maxDevices
			s.mu.Unlock()
			if full {
				return ErrTooManyDevices
			}
			d.CreatedAt = now
		}
		prev, had := d.Tokens[p.Role]
		d.ID, d.PublicKey = p.DeviceID, p.PublicKey
		d.DisplayName, d.Platform, d.DeviceFamily = p.DisplayName, p.Platform, p.DeviceFamily
		d.ClientID, d.ClientMode, d.RemoteIP = p.ClientID, p.ClientMode, p.RemoteIP
		d.Role = p.Role
		d.Roles = Union(d.Roles, p.Roles)
		d.ApprovedScopes = Union(d.ApprovedScopes, p.Scopes)
		d.Scopes = slices.Clone(d.ApprovedScopes)
		d.ApprovedAt = now
		scopes := p.Scopes
		if len(scopes) == 0 {
			scopes = d.ApprovedScopes
			if had {
				scopes = prev.Scopes
			}
		}
		t := DeviceToken{Token: token, Role: p.Role, Scopes: SortedScopes(scopes), CreatedAt: now}
		if had {
			t.CreatedAt, t.RotatedAt, t.LastUsedAt = prev.CreatedAt, now, prev.LastUsedAt
		}
		setToken(d, t)
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, p.DeviceID)
	if isNew {
		s.count++
	}
	s.index(old, dev)
	return nil
}

func setToken(d *Device, t DeviceToken) {
	tokens := make(map[Role]DeviceToken, len(d.Tokens)+1)
	maps.Copy(tokens, d.Tokens)
	tokens[t.Role] = t
	d.Tokens = tokens
}

// admitDevice lets a device in and, when it is paired, brings its record up to date and hands out
// its token (protocol.md §4.8, ensure).
func (s *Service) admitDevice(ctx context.Context, a Attempt, key []byte, paired, byToken bool) (Admission, error) {
	adm := Admission{
		Scopes: a.Scopes, DeviceID: a.Device.ID, Paired: paired,
		Platform: a.Platform, DeviceFamily: a.DeviceFamily,
	}
	if !paired {
		return adm, nil
	}
	dev, exists, err := s.store.Device(a.Device.ID)
	if err != nil {
		return Admission{}, err
	}
	if !exists || dev.PublicKey != EncodeKey(key) {
		// Removed since the check: it is not paired any more.
		return Admission{}, ErrPairingRequired.With("reason", "not-paired", "requestId", "")
	}
	now := s.now()
	if _, stale := refreshed(dev, a, byToken, now); stale {
		old := dev
		token, err := newToken()
		if err != nil {
			return Admission{}, err
		}
		dev, err = s.store.UpdateDevice(ctx, dev.ID, func(d *Device, exists bool) error {
			if !exists {
				return ErrPairingRequired.With("reason", "not-paired", "requestId", "")
			}
			*d, _ = refreshed(*d, a, byToken, now)
			if t := d.Tokens[a.Role]; t.Token == "" || !t.RevokedAt.IsZero() || !ScopesAllow(a.Role, a.Scopes, t.Scopes) {
				fresh := DeviceToken{
					Token: token, Role: a.Role, Scopes: SortedScopes(a.Scopes),
					CreatedAt: now, LastUsedAt: t.LastUsedAt,
				}
				if t.Token != "" {
					fresh.CreatedAt, fresh.RotatedAt = t.CreatedAt, now
				}
				setToken(d, fresh)
			}
			return nil
		})
		if err != nil {
			return Admission{}, err
		}
		s.mu.Lock()
		s.index(old, dev)
		s.mu.Unlock()
	}
	t := dev.Tokens[a.Role]
	adm.Platform, adm.DeviceFamily = orStored(dev.Platform, a.Platform), orStored(dev.DeviceFamily, a.DeviceFamily)
	adm.Issued = &Issued{Token: t.Token, Role: t.Role, Scopes: t.Scopes, At: t.CreatedAt}
	if !t.RotatedAt.IsZero() {
		adm.Issued.At = t.RotatedAt
	}
	return adm, nil
}

func orStored(stored, claimed string) string {
	if stored != "" {
		return stored
	}
	return claimed
}

// refreshed returns the record as a connection of this kind leaves it, and whether it differs
// enough to be written.
func refreshed(d Device, a Attempt, byToken bool, now time.Time) (Device, bool) {
	n := d
	n.DisplayName, n.ClientID, n.ClientMode = a.DisplayName, a.ClientID, a.ClientMode
	n.Role, n.RemoteIP = a.Role, a.RemoteIP
	n.Roles = Union(d.Roles, []Role{a.Role})
	n.Scopes = Union(d.Scopes, a.Scopes)
	t := d.Tokens[a.Role]
	stale := n.DisplayName != d.DisplayName || n.ClientID != d.ClientID || n.ClientMode != d.ClientMode ||
		n.Role != d.Role || n.RemoteIP != d.RemoteIP ||
		len(n.Roles) != len(d.Roles) || len(n.Scopes) != len(d.Scopes) ||
		t.Token == "" || !t.RevokedAt.IsZero() || !ScopesAllow(a.Role, a.Scopes, t.Scopes)
	if byToken && now.Sub(t.LastUsedAt) > lastUsedEvery {
		t.LastUsedAt = now
		setToken(&n, t)
		stale = true
	}
	return n, stale
}

func newToken() (string, error) {
	var b [tokenBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", errs.Wrap(errs.Internal, "make a token", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// Bearer returns the caller that presents a token and nothing else: the shared secret makes an
// operator with every scope, a device token the device in the token's role. The door fills in
// where it came from.
func (s *Service) Bearer(_ context.Context, token, remoteIP string) (Caller, error) {
	if token == "" {
		return Caller{}, ErrBearerRequired
	}
	if s.auth.Secret != nil && s.auth.Mode != AuthNone && s.auth.Secret.Equal(token) {
		return Caller{
			Role: RoleOperator, Scopes: AllOperatorScopes, Principal: "shared-secret", RemoteIP: remoteIP,
		}, nil
	}
	s.mu.Lock()
	ref, ok := s.tokens[sha256.Sum256([]byte(token))]
	s.mu.Unlock()
	if !ok {
		return Caller{}, ErrBearerNotAccepted
	}
	dev, exists, err := s.store.Device(ref.device)
	if err != nil {
		return Caller{}, err
	}
	t := dev.Tokens[ref.role]
	if !exists || !t.RevokedAt.IsZero() || !equalSecrets(token, t.Token) {
		return Caller{}, ErrBearerNotAccepted
	}
	c := Caller{
		Role: ref.role, Scopes: t.Scopes, DeviceID: dev.ID, Principal: "device:" + dev.ID,
		ClientID: dev.ClientID, ClientMode: dev.ClientMode, DisplayName: dev.DisplayName, RemoteIP: remoteIP,
	}
	if ref.role == RoleNode {
		c.NodeID = dev.ID
	}
	return c, nil
}
