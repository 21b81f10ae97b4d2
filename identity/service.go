package identity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// PendingTTL is how long a pairing request waits for an answer (protocol.md §0).
	PendingTTL = 5 * time.Minute
	// maxPending bounds the requests that wait: a stranger can make them.
	maxPending = 200
	// maxDevices bounds the paired devices; local programs pair without being asked.
	maxDevices = 100_000
	// maxScopes and maxScope bound the scopes of a device and the length of one, and maxText what it
	// says of itself, in bytes: all of it is kept.
	maxScopes = 32
	maxScope  = 128
	maxText   = 256
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
	// general is nil where sources are not locked out (protocol.md §4.4).
	general, browser, throttle *Limiter
	// waiting holds a place for each attempt that waits for its turn.
	waiting chan struct{}

	// endings counts what was revoked, rotated or removed.
	endings atomic.Uint64
	// count is how many devices are paired.
	count atomic.Int64

	mu sync.Mutex
	// pending holds the open requests by device id, expired the ids of those whose records are still
	// there.
	pending map[string]*question
	expired []string
	// invites holds the open invites by id.
	invites map[string]Invite
	// linkKeys finds a link key by the hash of its secret.
	linkKeys map[string]LinkKey
	// tokens finds a device by the hash of one of its tokens, for callers that present nothing
	// else.
	tokens map[[sha256.Size]byte]tokenRef
	// nodes are the paired devices with the role node.
	nodes map[string]Device

	once *onceSet
}

type tokenRef struct {
	device string
	role   Role
}

// New reads what is stored and returns the service.
func New(store Store, auth Auth, pub Publisher, now func() time.Time) (*Service, error) {
	s := &Service{
		store: store, auth: auth, pub: pub, now: now,
		pending: map[string]*question{},
		invites: map[string]Invite{}, linkKeys: map[string]LinkKey{},
		tokens: map[[sha256.Size]byte]tokenRef{},
		nodes:  map[string]Device{},
		once:   newOnceSet(now()),
	}
	s.makeLimits()
	devices, err := store.Devices()
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		s.add(d)
	}
	s.count.Store(int64(len(devices)))
	requests, err := store.Requests()
	if err != nil {
		return nil, err
	}
	for _, p := range requests {
		q := &question{Pairing: p, stored: make(chan struct{})}
		close(q.stored)
		if other := s.pending[p.DeviceID]; other != nil {
			if other.At.After(p.At) {
				q, other = other, q
			}
			s.expired = append(s.expired, other.RequestID)
		}
		s.pending[p.DeviceID] = q
	}
	s.expire(now())
	invites, err := store.Invites()
	for _, i := range invites {
		s.invites[i.ID] = i
	}
	if err != nil {
		return nil, err
	}
	keys, err := store.LinkKeys()
	for _, k := range keys {
		s.linkKeys[k.Hash] = k
	}
	return s, err
}

// reindex brings the lookups up to date after a commit. It reads the store with the lock held: of two
// commits the later one shows, whichever comes here first. Old is the device as the commit found it.
func (s *Service) reindex(id string, old Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range old.Tokens {
		delete(s.tokens, sha256.Sum256([]byte(t.Token)))
	}
	delete(s.nodes, id)
	// A device that cannot be read is nobody: whoever presents its token is asked to pair.
	if d, exists, err := s.store.Device(id); err == nil && exists {
		s.add(d)
	}
}

// add makes a device known to the lookups. The caller holds mu, or is New.
func (s *Service) add(d Device) {
	for role, t := range d.Tokens {
		if t.RevokedAt.IsZero() {
			s.tokens[sha256.Sum256([]byte(t.Token))] = tokenRef{device: d.ID, role: role}
		}
	}
	if slices.Contains(d.Roles, RoleNode) {
		s.nodes[d.ID] = d
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
	// Unchallenged says that the client is of a kind that may sign without it.
	Unchallenged bool
	// Peer is where it comes from.
	Peer Peer
	// Owner says that the door has verified the daemon's own user, which could read the shared secret
	// and so counts as one that presented it. It is never set for what came over a network.
	Owner bool
	// ControlUI and Webchat are the browser clients.
	ControlUI bool
	Webchat   bool
	// tenant is what the device belongs to once it is let in.
	tenant string
}

// bound cuts the scopes to what may be had over the tailnet, if it came that way. A signature is over
// those that were asked for.
func (a *Attempt) bound() {
	if m := a.Peer.Member; m != nil {
		a.Scopes = m.bound(a.Scopes)
	}
}

// Admission is a client that is let in.
type Admission struct {
	Scopes   []Scope
	DeviceID string
	// Platform and DeviceFamily are what the session goes by: the paired ones, once paired.
	Platform     string
	DeviceFamily string
	// Principal is whom a proxy or an identity service vouches for, "" for others.
	Principal string
	// Issued is the device token, nil for clients that are not paired.
	Issued *Issued
	Paired bool
	// TokenID names the device token that let the client in, empty when something else did.
	TokenID string
	// Tenant is the organisation of the device, or of the person whom an identity service vouches for; empty
	// for others.
	Tenant string
	// Expires is when the token ends that alone let the client in; zero for devices that are paired, and for
	// credentials without an end.
	Expires time.Time
	// seen is what had ended when the client was looked at.
	seen uint64
}

// Issued is a device token handed to its device.
type Issued struct {
	Token  string
	Role   Role
	Scopes []Scope
	At     time.Time
}

// check refuses what would not be kept whole.
func (a Attempt) check() error {
	if len(a.Scopes) > maxScopes || slices.ContainsFunc(a.Scopes, func(s Scope) bool { return len(s) > maxScope }) {
		return ErrTooManyScopes
	}
	if len(a.DisplayName) > maxText || len(a.Platform) > maxText || len(a.DeviceFamily) > maxText {
		return ErrTextTooLong
	}
	return nil
}

// Admit decides whether a client gets in, and as what. The order of the checks is that of
// protocol.md §3.1 and §4. A door that admits a client asks Confirm once it can end the connection.
func (s *Service) Admit(ctx context.Context, a Attempt) (Admission, error) {
	seen := s.endings.Load()
	adm, err := s.admit(ctx, a)
	adm.seen = seen
	return adm, err
}

func (s *Service) admit(ctx context.Context, a Attempt) (Admission, error) {
	m := a.Peer.Member
	if m != nil {
		if err := m.admit(&a); err != nil {
			return Admission{}, err
		}
	}
	c := credentials{
		token: strings.TrimSpace(a.Token), password: strings.TrimSpace(a.Password), from: a.Peer, scope: LimitSecret, owner: a.Owner,
	}
	if a.ControlUI && s.auth.DeviceFreeUI {
		a.Device = nil
	}
	if a.Device == nil {
		a.bound()
		return s.admitWithoutDevice(a, s.evaluate(ctx, c), c)
	}
	token := a.Token
	if token == "" {
		token = a.DeviceToken
	}
	key, err := s.verify(a, Signed{
		ClientID: a.ClientID, ClientMode: a.ClientMode, Role: a.Role, Scopes: a.Scopes,
		Token: token, Platform: a.Platform, DeviceFamily: a.DeviceFamily,
	})
	if err != nil {
		return Admission{}, err
	}
	a.bound()
	if m != nil && a.Peer.MemberCounts && a.Role == RoleOperator {
		return s.admitWithoutDevice(a, s.evaluate(ctx, c), c)
	}
	a.Scopes = scopesFor(a.Role, a.Scopes)
	dev, exists, err := s.store.Device(a.Device.ID)
	if err != nil {
		return Admission{}, err
	}
	a.tenant = dev.Tenant
	paired := exists && dev.PublicKey == EncodeKey(key)
	byToken := s.verifyDeviceToken(a, dev, paired) == ""
	candidate := strings.TrimSpace(a.DeviceToken)
	if candidate == "" {
		candidate = c.token
	}
	if candidate != "" {
		c.scope, c.known = LimitDevice, byToken && c.token == candidate
	}
	sh := s.evaluate(ctx, c)
	if byToken = byToken && !sh.ok; !sh.ok && !byToken {
		return Admission{}, s.notShared(a, sh, candidate)
	}
	if err := a.check(); err != nil {
		return Admission{}, err
	}
	if a.tenant, err = joined(dev.Tenant, sh.tenant()); err != nil {
		return Admission{}, err
	}
	if s.skipsPairing(a, sh) && !dev.revoked(a.Role) {
		adm, err := s.admitDevice(ctx, a, dev, paired && slices.Contains(dev.Roles, a.Role), byToken)
		if !adm.Paired {
			adm.Expires = sh.person.Expires
		}
		return adm, err
	}
	if reason := pairingReason(a, dev, paired); reason != "" {
		if !sh.pairsSilently(a) {
			a.Peer.Local = false // somebody has to say yes
		}
		if dev, err = s.pair(ctx, a, key, exists, reason); err != nil {
			return Admission{}, err
		}
	}
	return s.admitDevice(ctx, a, dev, true, byToken)
}

// notShared is the refusal of a device that neither the mode nor a token of its own lets in.
func (s *Service) notShared(a Attempt, sh shared, candidate string) error {
	if lim := s.limit(a.Peer); candidate != "" && !sh.counted && sh.reason != reasonLimited {
		if _, ok := lim.Allow(LimitDevice, lim.from); !ok {
			sh.reason = reasonLimited
		}
		lim.Fail(LimitDevice, lim.from)
	}
	if strings.TrimSpace(a.DeviceToken) != "" && sh.reason != reasonLimited {
		sh.reason = "device_token_mismatch"
	}
	return ErrAuth.With("reason", sh.reason)
}

// admitDevice lets a device in and, when it is paired, brings its record up to date and hands out
// its token (protocol.md §4.8, ensure).
func (s *Service) admitDevice(ctx context.Context, a Attempt, dev Device, paired, byToken bool) (Admission, error) {
	adm := Admission{
		Scopes: a.Scopes, DeviceID: a.Device.ID, Paired: paired,
		Platform: a.Platform, DeviceFamily: a.DeviceFamily, Tenant: a.tenant,
	}
	if !paired {
		return adm, nil
	}
	now := s.now()
	if byToken {
		adm.TokenID = tokenID(dev.Tokens[a.Role].Token)
	}
	if _, stale, err := refreshed(dev, a, byToken, "", now); err != nil {
		return Admission{}, err
	} else if stale {
		if dev, err = s.refresh(ctx, a, byToken, now); err != nil {
			return Admission{}, err
		}
	}
	adm.Tenant = dev.Tenant
	adm.Platform, adm.DeviceFamily = orStored(dev.Platform, a.Platform), orStored(dev.DeviceFamily, a.DeviceFamily)
	if a.Role == RoleNode && dev.Platform+dev.DeviceFamily != "" {
		// What a node may offer goes by them: one that was approved without a family gets none by
		// naming it later.
		adm.Platform, adm.DeviceFamily = dev.Platform, dev.DeviceFamily
	}
	if t := dev.Tokens[a.Role]; t.Token != "" {
		adm.Issued = &Issued{Token: t.Token, Role: t.Role, Scopes: t.Scopes, At: t.CreatedAt}
		if !t.RotatedAt.IsZero() {
			adm.Issued.At = t.RotatedAt
		}
	}
	return adm, nil
}

// refresh writes what a connection changes of the record of its device.
func (s *Service) refresh(ctx context.Context, a Attempt, byToken bool, now time.Time) (d Device, err error) {
	token, err := newToken()
	if err != nil {
		return Device{}, err
	}
	var old Device
	err = s.store.ChangeDevices(ctx, func(tx Tx) error {
		var exists bool
		if old, exists, err = tx.Device(a.Device.ID); err != nil {
			return err
		}
		// It may have been removed or revoked since it was looked at.
		if !exists || old.revoked(a.Role) {
			return ErrEnded
		}
		if d, _, err = refreshed(old, a, byToken, token, now); err != nil {
			return err
		}
		return tx.PutDevice(d)
	})
	if err != nil {
		return Device{}, err
	}
	s.reindex(d.ID, old)
	s.narrowed(old, d)
	return d, nil
}

// joined is the tenant of a device whose credential is of a tenant. What has one keeps it.
func joined(device, credential string) (string, error) {
	if device != "" && credential != "" && device != credential {
		return "", ErrDeviceTenant
	}
	return cmp.Or(device, credential), nil
}

// narrowed ends what a device of the gateway's owner had open, once it is one of a tenant. It is called after
// the commit.
func (s *Service) narrowed(old, d Device) {
	if old.PublicKey != "" && old.Tenant == "" && d.Tenant != "" {
		s.end(Ended{DeviceID: d.ID, Reason: "the device belongs to an organisation now"})
	}
}
