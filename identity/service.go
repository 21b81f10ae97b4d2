package identity

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"time"
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
	// Peer is where it comes from.
	Peer Peer
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
