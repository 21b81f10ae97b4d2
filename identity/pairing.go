package identity

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

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
	silent := a.Peer.Local && (!a.Peer.HasOrigin || a.ControlUI || a.Webchat) &&
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
	open.ClientID, open.ClientMode, open.RemoteIP = a.ClientID, a.ClientMode, a.Peer.ReportedIP()
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
