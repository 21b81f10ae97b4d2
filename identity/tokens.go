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
	"time"

	"github.com/hanzoai/hanzod/errs"
)

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

func setToken(d *Device, t DeviceToken) {
	tokens := make(map[Role]DeviceToken, len(d.Tokens)+1)
	maps.Copy(tokens, d.Tokens)
	tokens[t.Role] = t
	d.Tokens = tokens
}

func orStored(stored, claimed string) string {
	if stored != "" {
		return stored
	}
	return claimed
}

// refreshed returns the record as a connection of this kind leaves it, and whether it differs enough
// to be written. A token that does not do any more is replaced by the given one. A connection that
// was let in past its pairing, by the shared secret, gets no more scopes into the record than were
// granted.
func refreshed(d Device, a Attempt, byToken bool, token string, now time.Time) (n Device, stale bool, err error) {
	n = d
	if n.Tenant, err = joined(d.Tenant, a.tenant); err != nil {
		return d, false, err
	}
	n.DisplayName, n.ClientID, n.ClientMode = a.DisplayName, a.ClientID, a.ClientMode
	n.Role, n.RemoteIP = a.Role, a.Peer.ReportedIP()
	n.Roles = Union(d.Roles, []Role{a.Role})
	stale = n.Tenant != d.Tenant || n.DisplayName != d.DisplayName || n.ClientID != d.ClientID || n.ClientMode != d.ClientMode ||
		n.Role != d.Role || n.RemoteIP != d.RemoteIP || len(n.Roles) != len(d.Roles)
	if !ScopesAllow(a.Role, a.Scopes, d.Scopes) {
		return n, stale, nil
	}
	if all := Union(d.Scopes, a.Scopes); len(all) > len(d.Scopes) && len(all) <= maxScopes {
		n.Scopes, stale = all, true
	}
	t := d.Tokens[a.Role]
	switch {
	case t.Token == "" || !ScopesAllow(a.Role, a.Scopes, t.Scopes):
		fresh := DeviceToken{
			Token: token, Role: a.Role, Scopes: SortedScopes(a.Scopes), CreatedAt: now, LastUsedAt: t.LastUsedAt,
		}
		if t.Token != "" {
			fresh.CreatedAt, fresh.RotatedAt = t.CreatedAt, now
		}
		setToken(&n, fresh)
		stale = true
	case byToken && now.Sub(t.LastUsedAt) > lastUsedEvery:
		t.LastUsedAt = now
		setToken(&n, t)
		stale = true
	}
	return n, stale, nil
}

func newToken() (string, error) {
	var b [tokenBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", errs.Wrap(errs.Internal, "make a token", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// RotateIn and RotateOut are the arguments and the result of RotateToken.
type (
	RotateIn struct {
		DeviceID string
		Role     Role
		// Scopes are those of the new token, as before when nil.
		Scopes []Scope
	}
	RotateOut struct {
		DeviceID string
		Role     Role
		// Token is the new secret.
		Token     string
		Scopes    []Scope
		RotatedAt time.Time
	}
)

// RotateToken replaces the token of a device for a role. The scopes of the new one are bounded by
// what was approved for the device and by what the caller holds itself. It lifts a revocation.
func (s *Service) RotateToken(ctx context.Context, c Caller, in RotateIn) (RotateOut, error) {
	token, err := newToken()
	if err != nil {
		return RotateOut{}, err
	}
	now := s.now()
	var old Device
	var t DeviceToken
	err = s.change(ctx, c, func(tx Tx) error {
		var exists bool
		if old, exists, err = tx.Device(in.DeviceID); err != nil {
			return err
		}
		if !exists || !c.Decides(old.Tenant) || !slices.Contains(old.Roles, in.Role) {
			return ErrUnknownToken
		}
		prev := old.Tokens[in.Role]
		t = DeviceToken{
			Token: token, Role: in.Role, CreatedAt: prev.CreatedAt, RotatedAt: now, LastUsedAt: prev.LastUsedAt,
		}
		if prev.Token == "" {
			t.CreatedAt = now
		}
		switch {
		case in.Scopes != nil:
			t.Scopes = SortedScopes(in.Scopes)
		case prev.Token != "":
			t.Scopes = prev.Scopes
		default:
			t.Scopes = SortedScopes(scopesFor(in.Role, old.ApprovedScopes))
		}
		if len(scopesFor(in.Role, in.Scopes)) < len(in.Scopes) || !subset(implied(t.Scopes), implied(old.ApprovedScopes)) {
			return ErrUnknownToken
		}
		if err := c.mayMint(old, in.Role, t.Scopes); err != nil {
			return err
		}
		// The secret is told to the caller, which can be the device with it.
		if err := c.mayEnd(old); err != nil {
			return err
		}
		d := old
		if in.Role == RoleOperator && old.revoked(in.Role) {
			// What was revoked does not come back with a token that may do less.
			d.ApprovedScopes = Union(old.others(in.Role), t.Scopes)
			d.Scopes = slices.Clone(d.ApprovedScopes)
		}
		setToken(&d, t)
		if err := tx.PutDevice(d); err != nil {
			return err
		}
		return tx.Audit(Audit{At: now, Kind: "device.rotate", Subject: c.Subject(), DeviceID: d.ID, Role: in.Role, Scopes: t.Scopes})
	})
	if err != nil {
		return RotateOut{}, err
	}
	s.reindex(old.ID, old)
	if prev := old.Tokens[in.Role].Token; prev != "" {
		s.end(Ended{DeviceID: old.ID, Role: in.Role, TokenID: tokenID(prev), By: c.ConnID, Reason: "device token rotated"})
	}
	return RotateOut{DeviceID: old.ID, Role: in.Role, Token: token, Scopes: t.Scopes, RotatedAt: now}, nil
}

// mayMint bounds the token of a device by what the caller holds. The roles of its own device are its
// own, where it has shown the key: at the doors that take a token alone, who has the token of one role
// is not the device in another.
func (c Caller) mayMint(d Device, role Role, scopes []Scope) error {
	if c.DeviceID == d.ID && c.Door != DoorREST && c.Door != DoorGRPC {
		role = RoleOperator
	}
	return beyond(c.lacks(role, scopes))
}

func beyond(scope Scope) error {
	if scope == "" {
		return nil
	}
	return ErrBeyondCaller.With("scope", string(scope)).
		WithText("this is more than the caller holds itself: it lacks the scope " + string(scope))
}

// implied adds the scopes that others stand for (protocol.md §4.8).
func implied(scopes []Scope) []Scope {
	out := scopes
	if slices.Contains(scopes, ScopeAdmin) {
		out = Union(out, AllOperatorScopes)
	}
	if slices.Contains(scopes, ScopeWrite) {
		out = Union(out, []Scope{ScopeRead})
	}
	return out
}

func subset(a, b []Scope) bool {
	return !slices.ContainsFunc(a, func(s Scope) bool { return !slices.Contains(b, s) })
}

// RevokeIn and RevokeOut are the arguments and the result of RevokeToken.
type (
	RevokeIn struct {
		DeviceID string
		Role     Role
	}
	RevokeOut struct {
		DeviceID  string
		Role      Role
		RevokedAt time.Time
	}
)

// RevokeToken ends the role of a device: its token, its connections in that role, and its invites. The
// device waits for an approval before it gets in again.
func (s *Service) RevokeToken(ctx context.Context, c Caller, in RevokeIn) (RevokeOut, error) {
	now := s.now()
	invites := s.invitesBy("device:" + in.DeviceID)
	var old Device
	err := s.change(ctx, c, func(tx Tx) error {
		d, exists, err := tx.Device(in.DeviceID)
		if err != nil {
			return err
		}
		old = d
		t, has := d.Tokens[in.Role]
		if !exists || !has || !c.Decides(d.Tenant) {
			return ErrUnknownToken
		}
		if err := c.mayEnd(d); err != nil {
			return err
		}
		t.RevokedAt = now
		setToken(&d, t)
		if err := tx.PutDevice(d); err != nil {
			return err
		}
		if err := deleteInvites(tx, invites); err != nil {
			return err
		}
		return tx.Audit(Audit{At: now, Kind: "device.revoke", Subject: c.Subject(), DeviceID: d.ID, Role: in.Role, Scopes: t.Scopes})
	})
	if err != nil {
		return RevokeOut{}, err
	}
	s.forgetInvites(invites)
	s.reindex(old.ID, old)
	s.end(Ended{DeviceID: old.ID, Role: in.Role, By: c.ConnID, Reason: "device token revoked"})
	return RevokeOut{DeviceID: old.ID, Role: in.Role, RevokedAt: now}, nil
}

// mayEnd says whether the caller may end what the device has: a device that is no admin may end its
// own, and that of devices which hold nothing that it does not hold itself.
func (c Caller) mayEnd(d Device) error {
	if c.DeviceID == "" || c.DeviceID == d.ID {
		return nil
	}
	for _, r := range d.Roles {
		if err := beyond(c.lacks(r, d.Scopes)); err != nil {
			return err
		}
	}
	return nil
}
