package identity

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
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
	// Tenant is what the device will belong to, empty for the gateway's owner.
	Tenant string
	Silent bool
	Repair bool
	At     time.Time
}

// The payloads of the events device.pair.requested and device.pair.resolved.
type (
	PairingRequested struct{ Pairing Pairing }
	PairingResolved  struct {
		RequestID string
		DeviceID  string
		Decision  string // approved or rejected
		Tenant    string
		At        time.Time
	}
)

// BelongsTo is the tenant that the event is for.
func (p PairingRequested) BelongsTo() string { return p.Pairing.Tenant }

// BelongsTo is the tenant that the event is for.
func (p PairingResolved) BelongsTo() string { return p.Tenant }

// pairingReason says why a device has to be (re-)approved, "" when it has not.
func pairingReason(a Attempt, dev Device, paired bool) string {
	switch {
	case !paired:
		return "not-paired"
	case differs(dev.Platform, a.Platform) || differs(dev.DeviceFamily, a.DeviceFamily):
		return "metadata-upgrade"
	case !slices.Contains(dev.Roles, a.Role), dev.revoked(a.Role):
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

// pair lets a device on this machine in without asking, or leaves a request and says that it waits.
func (s *Service) pair(ctx context.Context, a Attempt, key []byte, exists bool, reason string) (Device, error) {
	silent := a.Peer.Local && (!a.Peer.HasOrigin || a.ControlUI || a.Webchat) &&
		(reason == "not-paired" || reason == "scope-upgrade")
	p, err := s.request(ctx, a, key, exists, silent)
	if err != nil {
		return Device{}, err
	}
	if !p.Silent {
		return Device{}, ErrPairingRequired.With("requestId", p.RequestID, "reason", reason)
	}
	d, err := s.grant(ctx, p, false, func(tx Tx, _ Device) (Audit, error) {
		if d, _, err := tx.Device(p.DeviceID); err != nil {
			return Audit{}, err
		} else if d.revoked(a.Role) { // meanwhile: that is no longer for the daemon to decide
			return Audit{}, ErrPairingRequired.With("reason", "role-upgrade", "requestId", "")
		}
		return Audit{Kind: "device.pair", Subject: "device:" + p.DeviceID, RequestID: p.RequestID}, nil
	})
	if err != nil {
		return Device{}, err
	}
	s.resolved(p, "approved")
	return d, nil
}

func (s *Service) resolved(p Pairing, decision string) {
	s.pub.Publish("device.pair.resolved", PairingResolved{
		RequestID: p.RequestID, DeviceID: p.DeviceID, Decision: decision, Tenant: p.Tenant, At: s.now(),
	})
}

// question is an open request. Its fields change with mu held.
type question struct {
	Pairing
	// stored is closed when the request is on disk, or err says why it is not.
	stored chan struct{}
	err    error
}

// request returns the request of a device: a silent one, which nobody is asked about, or the open
// one (protocol.md §4.7, merge). One that wants more than the open one takes its place under
// another id: an answer is to what was shown. What it returns is on disk, unless it is silent.
func (s *Service) request(ctx context.Context, a Attempt, key []byte, exists, silent bool) (Pairing, error) {
	s.mu.Lock()
	now := s.now()
	s.expire(now)
	open := s.pending[a.Device.ID]
	p := Pairing{
		RequestID: uuid.NewString(), DeviceID: a.Device.ID, PublicKey: EncodeKey(key), Role: a.Role, Repair: exists,
		DisplayName: a.DisplayName, Platform: a.Platform, DeviceFamily: a.DeviceFamily,
		ClientID: a.ClientID, ClientMode: a.ClientMode, RemoteIP: a.Peer.ReportedIP(),
		Roles: []Role{a.Role}, Scopes: Union(nil, a.Scopes), Silent: silent && open == nil, Tenant: a.tenant, At: now,
	}
	if p.Silent {
		s.mu.Unlock()
		return p, nil
	}
	if open != nil {
		p.Role, p.Repair, p.Tenant = open.Role, open.Repair, cmp.Or(p.Tenant, open.Tenant)
		p.Roles, p.Scopes = Union(open.Roles, p.Roles), Union(open.Scopes, p.Scopes)
		if !wider(open.Pairing, p) {
			p.RequestID = open.RequestID
			open.Pairing = p
			s.mu.Unlock()
			return p, open.wait(ctx)
		}
	}
	switch {
	case len(p.Scopes) > maxScopes:
		s.mu.Unlock()
		return Pairing{}, ErrTooManyScopes
	case open == nil && len(s.pending) >= maxPending:
		s.mu.Unlock()
		return Pairing{}, ErrTooManyPending
	}
	q := &question{Pairing: p, stored: make(chan struct{})}
	s.pending[p.DeviceID] = q
	gone := s.expired
	s.expired = nil
	s.mu.Unlock()
	if open != nil {
		gone = append(gone, open.RequestID)
		_ = open.wait(ctx) // its record comes before the one that removes it
	}
	if err := s.storeRequest(ctx, q, p, gone); err != nil {
		return Pairing{}, err
	}
	if open != nil {
		s.resolved(open.Pairing, "rejected")
	}
	s.pub.Publish("device.pair.requested", PairingRequested{Pairing: p})
	return p, nil
}

// wider reports whether a request asks for more than the one that is open, as another machine or for another tenant.
func wider(open, p Pairing) bool {
	return p.Tenant != open.Tenant || len(p.Roles) > len(open.Roles) || len(p.Scopes) > len(open.Scopes) ||
		NormalMetadata(p.Platform) != NormalMetadata(open.Platform) ||
		NormalMetadata(p.DeviceFamily) != NormalMetadata(open.DeviceFamily)
}

func (q *question) wait(ctx context.Context) error {
	select {
	case <-q.stored:
		return q.err
	case <-ctx.Done():
		return errs.Wrap(errs.Deadline, "store the pairing request", ctx.Err())
	}
}

// storeRequest writes a new request in the place of those that are gone.
func (s *Service) storeRequest(ctx context.Context, q *question, p Pairing, gone []string) error {
	q.err = s.store.ChangeDevices(ctx, func(tx Tx) error {
		for _, id := range gone {
			if err := tx.DeleteRequest(id); err != nil {
				return err
			}
		}
		return tx.PutRequest(p)
	})
	close(q.stored)
	if q.err != nil {
		s.mu.Lock()
		if s.pending[p.DeviceID] == q {
			delete(s.pending, p.DeviceID)
		}
		s.mu.Unlock()
	}
	return q.err
}

// expire forgets requests that nobody answered. Their records go with the next one that is written,
// or at the next start. The caller holds mu.
func (s *Service) expire(now time.Time) {
	for id, q := range s.pending {
		// A clock that was set back must not make a request stand for longer.
		if age := now.Sub(q.At); age > PendingTTL || age < -PendingTTL {
			delete(s.pending, id)
			s.expired = append(s.expired, q.RequestID)
		}
	}
}

// open finds an open request by its id, for who may decide it.
func (s *Service) open(c Caller, requestID string) (Pairing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(s.now())
	for _, q := range s.pending {
		if q.RequestID == requestID && c.Decides(q.Tenant) {
			return q.Pairing, nil
		}
	}
	return Pairing{}, ErrUnknownRequest
}

// close forgets a request that was decided.
func (s *Service) close(p Pairing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.pending[p.DeviceID]; q != nil && q.RequestID == p.RequestID {
		delete(s.pending, p.DeviceID)
	}
}

// grant records a device as paired and gives it a token (protocol.md §4.7, approval). Who asks for no
// scopes keeps those that it had, unless exact. Allow sees what the device becomes and has the last
// word, in the same transaction; it says what the audit log holds of it.
func (s *Service) grant(ctx context.Context, p Pairing, exact bool, allow func(Tx, Device) (Audit, error)) (Device, error) {
	token, err := newToken()
	if err != nil {
		return Device{}, err
	}
	now := s.now()
	var old, d Device
	var exists bool
	err = s.store.ChangeDevices(ctx, func(tx Tx) (err error) {
		if old, exists, err = tx.Device(p.DeviceID); err != nil {
			return err
		}
		if !exists && s.count.Load() >= maxDevices {
			return ErrTooManyDevices
		}
		tenant, err := joined(old.Tenant, p.Tenant)
		if err != nil {
			return err
		}
		d = granted(old, p, exact, token, now)
		if d.Tenant = tenant; len(d.ApprovedScopes) > maxScopes {
			return ErrTooManyScopes
		}
		row, err := allow(tx, d)
		if err != nil {
			return err
		}
		row.At, row.DeviceID, row.Role, row.Scopes = now, d.ID, p.Role, d.Tokens[p.Role].Scopes
		if err := tx.PutDevice(d); err != nil {
			return err
		}
		return tx.Audit(row)
	})
	if err != nil {
		return Device{}, err
	}
	if !exists {
		s.count.Add(1)
	}
	s.reindex(d.ID, old)
	s.narrowed(old, d)
	return d, nil
}

// granted is the device after its request was approved. A token that does for it stays. What a revocation took away from an operator
// does not come back with less being approved: it begins anew.
func granted(old Device, p Pairing, exact bool, token string, now time.Time) Device {
	d := old
	if d.CreatedAt.IsZero() {
		d.CreatedAt = now
	}
	prev := old.Tokens[p.Role]
	d.ID, d.PublicKey = p.DeviceID, p.PublicKey
	d.DisplayName, d.Platform, d.DeviceFamily = p.DisplayName, p.Platform, p.DeviceFamily
	d.ClientID, d.ClientMode, d.RemoteIP = p.ClientID, p.ClientMode, p.RemoteIP
	d.Role = p.Role
	d.Roles = Union(old.Roles, p.Roles)
	scopes := p.Scopes
	if len(scopes) == 0 && !exact {
		scopes = old.ApprovedScopes
		if prev.Token != "" {
			scopes = prev.Scopes
		}
	}
	d.ApprovedScopes = Union(old.ApprovedScopes, p.Scopes)
	if p.Role == RoleOperator && old.revoked(p.Role) {
		d.ApprovedScopes = Union(old.others(p.Role), scopes)
	}
	d.Scopes = slices.Clone(d.ApprovedScopes)
	d.ApprovedAt = now
	t := DeviceToken{Token: token, Role: p.Role, Scopes: SortedScopes(scopesFor(p.Role, scopes)), CreatedAt: now}
	switch {
	case prev.Token != "" && !exact && !old.revoked(p.Role) && ScopesAllow(p.Role, t.Scopes, prev.Scopes):
		// No more than before: the device may have nothing but this token to come back with, and is
		// told a new one only once it is in (R12).
		t.Token, t.CreatedAt, t.RotatedAt, t.LastUsedAt = prev.Token, prev.CreatedAt, prev.RotatedAt, prev.LastUsedAt
	case prev.Token != "":
		t.CreatedAt, t.RotatedAt, t.LastUsedAt = prev.CreatedAt, now, prev.LastUsedAt
	}
	setToken(&d, t)
	return d
}

// others are the scopes that the device holds by its tokens for other roles. What is written on the
// token of a node is not among them: nodes hold none, and it may be what an operator was granted.
func (d Device) others(role Role) []Scope {
	var out []Scope
	for r, t := range d.Tokens {
		if r != role && r != RoleNode && !d.revoked(r) {
			out = Union(out, t.Scopes)
		}
	}
	return SortedScopes(out)
}
