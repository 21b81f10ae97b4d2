package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	// MaxInviteTTL is how long an invite holds: long enough to walk to the other machine.
	MaxInviteTTL = 10 * time.Minute
	// minInviteTTL keeps an invite from being over before it is shown.
	minInviteTTL = time.Second
	// maxInvites bounds the open invites, maxInvitesEach those of one device: others want to invite too.
	maxInvites     = 32
	maxInvitesEach = 8
	// invitePrefix marks the secret of an invite, so that one that was used is told from any other
	// wrong token.
	invitePrefix = "hzi_"
	// enrollVersion begins the text that a device signs when it enrols.
	enrollVersion = "hanzod-enroll-v1"
)

// Invite lets one device in, once, within its time. The secret itself is not kept.
type Invite struct {
	// ID is the SHA-256 of the secret, in hex.
	ID     string
	Role   Role
	Scopes []Scope
	// Tenant is that of who made it, and becomes that of the device.
	Tenant string
	// CreatedBy is the subject of who made it.
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
}

// over reports whether the time of an invite has passed. A clock that was set back must not make it
// hold for longer.
func (i Invite) over(now time.Time) bool {
	return !now.Before(i.ExpiresAt) || now.Before(i.CreatedAt.Add(-MaxInviteTTL))
}

func inviteID(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// InviteIn and InviteOut are the arguments and the result of CreateInvite.
type (
	InviteIn struct {
		Role Role
		// Scopes are what an operator gets; a node has none.
		Scopes []Scope
		// TTL is MaxInviteTTL when zero.
		TTL time.Duration
	}
	InviteOut struct {
		// Secret is not shown again.
		Secret    string
		ExpiresAt time.Time
	}
)

// CreateInvite makes a secret that enrols one device. What it gives is bounded by what the caller
// holds itself, and it ends when the caller's device does.
func (s *Service) CreateInvite(ctx context.Context, c Caller, in InviteIn) (InviteOut, error) {
	if err := in.check(); err != nil {
		return InviteOut{}, err
	}
	if err := beyond(c.lacks(in.Role, in.Scopes)); err != nil {
		return InviteOut{}, err
	}
	secret, err := newToken()
	if err != nil {
		return InviteOut{}, err
	}
	secret = invitePrefix + secret
	now := s.now()
	ttl := in.TTL
	if ttl == 0 {
		ttl = MaxInviteTTL
	}
	i := Invite{
		ID: inviteID(secret), Role: in.Role, Scopes: SortedScopes(in.Scopes), Tenant: c.Tenant, CreatedBy: c.Subject(),
		CreatedAt: now, ExpiresAt: now.Add(ttl),
	}
	over, err := s.keepInvite(i)
	if err != nil {
		return InviteOut{}, err
	}
	err = s.change(ctx, c, func(tx Tx) error {
		if err := deleteInvites(tx, over); err != nil {
			return err
		}
		if err := tx.PutInvite(i); err != nil {
			return err
		}
		return tx.Audit(Audit{At: now, Kind: "device.invite", Subject: c.Subject(), Role: i.Role, Scopes: i.Scopes, RequestID: i.ID})
	})
	if err != nil {
		s.forgetInvites([]string{i.ID})
		return InviteOut{}, err
	}
	return InviteOut{Secret: secret, ExpiresAt: i.ExpiresAt}, nil
}

func (in InviteIn) check() error {
	switch in.Role {
	case RoleOperator:
		known := append(slices.Clone(AllOperatorScopes), ScopeTalkSecrets)
		if len(in.Scopes) == 0 || !subset(in.Scopes, known) {
			return ErrInviteScopes
		}
	case RoleNode:
		if len(in.Scopes) > 0 {
			return ErrInviteScopes
		}
	default:
		return ErrInviteRole
	}
	if in.TTL != 0 && (in.TTL < minInviteTTL || in.TTL > MaxInviteTTL) {
		return ErrInviteTTL
	}
	return nil
}

// keepInvite makes room for an invite and returns those whose time has passed. It cannot be used
// before its record is written.
func (s *Service) keepInvite(i Invite) (over []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.invites {
		if old.over(i.CreatedAt) {
			over = append(over, id)
			delete(s.invites, id)
		}
	}
	each := 0
	for _, old := range s.invites {
		if old.CreatedBy == i.CreatedBy && strings.HasPrefix(i.CreatedBy, "device:") {
			each++
		}
	}
	if len(s.invites) >= maxInvites || each >= maxInvitesEach {
		return nil, ErrTooManyInvites
	}
	s.invites[i.ID] = i
	return over, nil
}

// invitesBy are the invites that somebody made.
func (s *Service) invitesBy(subject string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for id, i := range s.invites {
		if i.CreatedBy == subject {
			out = append(out, id)
		}
	}
	return out
}

func (s *Service) forgetInvites(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.invites, id)
	}
}

func deleteInvites(tx Tx, ids []string) error {
	for _, id := range ids {
		if err := tx.DeleteInvite(id); err != nil {
			return err
		}
	}
	return nil
}

// invite finds an open invite.
func (s *Service) invite(id string) (Invite, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.invites[id]
	if !ok || i.over(s.now()) {
		return Invite{}, ErrInvite
	}
	return i, nil
}

// invited is the caller that presents the secret of an invite.
func (s *Service) invited(secret, remoteIP string) (Caller, error) {
	i, err := s.invite(inviteID(secret))
	if err != nil {
		return Caller{}, err
	}
	return Caller{Role: RoleInvited, InviteID: i.ID, Principal: "invite:" + i.ID[:12], RemoteIP: remoteIP}, nil
}

// EnrollIn and EnrollOut are the arguments and the result of Enroll.
type (
	EnrollIn struct {
		// PublicKey is the raw Ed25519 key in base64url.
		PublicKey string
		// Signature is over EnrollText, in base64url.
		Signature    string
		DisplayName  string
		Platform     string
		DeviceFamily string
	}
	EnrollOut struct {
		DeviceID string
		Role     Role
		Scopes   []Scope
		// Token is the device token. It is not shown again.
		Token string
	}
)

// EnrollText is what a device signs to enrol with the secret of an invite: it shows that it has the
// key, and that nobody gave it another name on the way.
func EnrollText(secret, deviceID, platform, family string) string {
	return enrollText(inviteID(secret), deviceID, platform, family)
}

func enrollText(invite, deviceID, platform, family string) string {
	return strings.Join([]string{enrollVersion, invite, deviceID, platform, family}, "\n")
}

// Enroll pairs the device that presents an invite, and uses the invite up.
func (s *Service) Enroll(ctx context.Context, c Caller, in EnrollIn) (EnrollOut, error) {
	i, err := s.invite(c.InviteID)
	if err != nil {
		return EnrollOut{}, err
	}
	p, err := in.pairing(i, c, s.now())
	if err != nil {
		return EnrollOut{}, err
	}
	d, err := s.grant(ctx, p, true, func(tx Tx, _ Device) (Audit, error) {
		if !tx.HasInvite(i.ID) || i.over(s.now()) { // used in the meantime
			return Audit{}, ErrInvite
		}
		// One that was being made while its maker was revoked is still here.
		if maker, ok := strings.CutPrefix(i.CreatedBy, "device:"); ok {
			d, exists, err := tx.Device(maker)
			if err != nil {
				return Audit{}, err
			}
			if !exists || d.revoked(RoleOperator) || d.Tenant != i.Tenant && d.Tenant != "" {
				return Audit{}, ErrInvite
			}
		}
		row := Audit{Kind: "device.enroll", Subject: i.CreatedBy, RequestID: i.ID}
		return row, tx.DeleteInvite(i.ID)
	})
	if err != nil {
		return EnrollOut{}, err
	}
	s.forgetInvites([]string{i.ID})
	s.resolved(p, "approved")
	t := d.Tokens[i.Role]
	return EnrollOut{DeviceID: d.ID, Role: t.Role, Scopes: t.Scopes, Token: t.Token}, nil
}

// pairing checks who enrols.
func (in EnrollIn) pairing(i Invite, c Caller, now time.Time) (Pairing, error) {
	key, ok := ParseKey(in.PublicKey)
	if !ok {
		return Pairing{}, ErrPublicKey
	}
	for _, text := range []string{in.DisplayName, in.Platform, in.DeviceFamily} {
		if len(text) > maxText || !utf8.ValidString(text) {
			return Pairing{}, ErrTextTooLong
		}
	}
	id := DeviceID(key)
	sig, ok := decodeBase64(in.Signature)
	if !ok || len(sig) != ed25519.SignatureSize || strings.ContainsRune(in.Platform+in.DeviceFamily, '\n') ||
		!ed25519.Verify(key, []byte(enrollText(i.ID, id, in.Platform, in.DeviceFamily)), sig) {
		return Pairing{}, ErrSignature
	}
	return Pairing{
		RequestID: uuid.NewString(), DeviceID: id, PublicKey: EncodeKey(key), DisplayName: in.DisplayName,
		Platform: in.Platform, DeviceFamily: in.DeviceFamily, ClientID: c.ClientID, ClientMode: c.ClientMode,
		Role: i.Role, Roles: []Role{i.Role}, Scopes: i.Scopes, Tenant: i.Tenant, RemoteIP: c.RemoteIP, At: now,
	}, nil
}
