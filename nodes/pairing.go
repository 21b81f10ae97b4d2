package nodes

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// PairingInfo is what a node says of itself when it asks to be paired. Empty texts were not given;
// nil lists neither.
type PairingInfo struct {
	NodeID          string
	DisplayName     string
	Platform        string
	Version         string
	CoreVersion     string
	UIVersion       string
	DeviceFamily    string
	ModelIdentifier string
	Caps            []string
	Commands        []string
	RemoteIP        string
}

// PairingRequest is a node that waits for an answer, at most PairingTTL.
type PairingRequest struct {
	RequestID string
	Info      PairingInfo
	// Silent is as sent, nil when it was not; it decides nothing.
	Silent *bool
	// Repair says that the node was paired when it asked.
	Repair bool
	At     time.Time
}

// Pairing is a paired node of the older store: it gates no connection, devices do (protocol.md §4.9).
type Pairing struct {
	Info PairingInfo
	// Token is a secret.
	Token           string
	CreatedAt       time.Time
	ApprovedAt      time.Time
	LastConnectedAt time.Time
}

// Audit is a row of the audit log about a node.
type Audit struct {
	At time.Time
	// Kind is "node-pairing".
	Kind string
	// Subject is who did it, as the daemon verified it.
	Subject  string
	NodeID   string
	Decision string
}

// PairingTx is the pairings inside one transaction. It is valid until the function that got it
// returns.
type PairingTx interface {
	// Requests come in no order, expired ones among them.
	Requests() ([]PairingRequest, error)
	PutRequest(PairingRequest) error
	DeleteRequest(requestID string) error
	// Pairing reports whether the node is paired.
	Pairing(nodeID string) (Pairing, bool, error)
	PutPairing(Pairing) error
	CountPairings() int
	AppendAudit(Audit) error
}

// The arguments and results of the pairing operations.
type (
	RequestPairingIn struct {
		Info   PairingInfo
		Silent *bool
	}
	RequestPairingOut struct {
		Request PairingRequest
		// Created is false when a request of the node was open already.
		Created bool
	}
	ListPairingsIn  struct{}
	ListPairingsOut struct {
		// Pending is the open requests, newest first; Paired the paired nodes, latest approval first.
		// Tokens are there for callers with the admin scope only.
		Pending []PairingRequest
		Paired  []Pairing
	}
	DecidePairingIn struct {
		RequestID string
	}
	ApprovePairingOut struct {
		RequestID string
		// Node has the token; it is shown once.
		Node Pairing
	}
	RejectPairingOut struct {
		RequestID string
		NodeID    string
	}
	VerifyPairingIn struct {
		NodeID string
		Token  string
	}
	VerifyPairingOut struct {
		OK bool
		// Node is zero unless OK.
		Node Pairing
	}
)

// PairingRequested and PairingResolved are the payloads of the events node.pair.requested and
// node.pair.resolved.
type (
	PairingRequested struct{ Request PairingRequest }
	PairingResolved  struct {
		RequestID string
		NodeID    string
		Decision  string // approved or rejected
		At        time.Time
	}
)

// BelongsTo is the tenant that the event is for.
func (p PairingRequested) BelongsTo() string { return identity.NodeTenant(p.Request.Info.NodeID) }

// BelongsTo is the tenant that the event is for.
func (p PairingResolved) BelongsTo() string { return identity.NodeTenant(p.NodeID) }

// expired also holds for a request from the future: a clock that was set back must not make it stand
// for longer.
func (r PairingRequest) expired(now time.Time) bool {
	age := now.Sub(r.At)
	return age > PairingTTL || age < -PairingTTL
}

// check bounds what a request may hold: it is kept.
func (p PairingInfo) check() error {
	texts := []string{
		p.DisplayName, p.Platform, p.Version, p.CoreVersion, p.UIVersion, p.DeviceFamily, p.ModelIdentifier, p.RemoteIP,
	}
	texts = slices.Concat([]string{p.NodeID}, texts, p.Caps, p.Commands)
	long := slices.ContainsFunc(texts, func(s string) bool { return len(s) > maxPairingText })
	switch {
	case p.NodeID == "":
		return ErrNodeIDRequired
	case long || len(p.Caps) > maxPairingList || len(p.Commands) > maxPairingList:
		return ErrPairingTooLarge
	}
	return nil
}

// RequestPairing leaves a request to pair a node. A node has one open request: a repetition gets
// the first one, unchanged (protocol.md §4.9). Nodes that a caller with a tenant asks for are that tenant's.
func (s *Service) RequestPairing(ctx context.Context, c identity.Caller, in RequestPairingIn) (RequestPairingOut, error) {
	in.Info.NodeID = ownID(c, in.Info.NodeID)
	if err := in.Info.check(); err != nil {
		return RequestPairingOut{}, err
	}
	fresh := PairingRequest{RequestID: uuid.NewString(), Info: in.Info, Silent: in.Silent, At: s.now()}
	var out RequestPairingOut
	err := s.store.UpdatePairings(ctx, func(tx PairingTx) error {
		out = RequestPairingOut{}
		open, err := tx.Requests()
		if err != nil {
			return err
		}
		n := 0
		for _, r := range open {
			switch {
			case r.expired(fresh.At):
				if err := tx.DeleteRequest(r.RequestID); err != nil {
					return err
				}
			case r.Info.NodeID == in.Info.NodeID:
				out.Request = r
			default:
				n++
			}
		}
		if out.Request.RequestID != "" {
			return nil
		}
		if n >= maxPairingRequests {
			return ErrTooManyRequests
		}
		_, paired, err := tx.Pairing(in.Info.NodeID)
		if err != nil {
			return err
		}
		out = RequestPairingOut{Request: fresh, Created: true}
		out.Request.Repair = paired
		return tx.PutRequest(out.Request)
	})
	if err != nil {
		return RequestPairingOut{}, err
	}
	if out.Created {
		s.bus.Publish("node.pair.requested", PairingRequested{Request: out.Request})
	}
	return out, nil
}

// ownID is the id of a node that a caller may pair: one of its tenant, whatever it says.
func ownID(c identity.Caller, id string) string {
	id = trim(id)
	if c.Tenant == "" || id == "" || identity.NodeTenant(id) == c.Tenant {
		return id
	}
	return QualifiedID(c.Tenant, id)
}

// ListPairings returns the open requests and the paired nodes: those of its tenant for a caller with one.
func (s *Service) ListPairings(_ context.Context, c identity.Caller, _ ListPairingsIn) (ListPairingsOut, error) {
	requests, paired, err := s.store.Pairings()
	if err != nil {
		return ListPairingsOut{}, err
	}
	now := s.now()
	requests = slices.DeleteFunc(requests, func(r PairingRequest) bool { return r.expired(now) || !c.Decides(identity.NodeTenant(r.Info.NodeID)) })
	paired = slices.DeleteFunc(paired, func(p Pairing) bool { return !c.Decides(identity.NodeTenant(p.Info.NodeID)) })
	slices.SortFunc(requests, func(a, b PairingRequest) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.RequestID, b.RequestID))
	})
	slices.SortFunc(paired, func(a, b Pairing) int {
		return cmp.Or(b.ApprovedAt.Compare(a.ApprovedAt), cmp.Compare(a.Info.NodeID, b.Info.NodeID))
	})
	admin := c.Has(identity.ScopeAdmin)
	for i := range paired {
		if paired[i], err = s.shown(paired[i]); err != nil {
			return ListPairingsOut{}, err
		}
		if !admin {
			paired[i].Token = ""
		}
	}
	return ListPairingsOut{Pending: requests, Paired: paired}, nil
}

// shown is a pairing with what is known since: the name that people gave the node, and a time of
// connection that is not on disk yet.
func (s *Service) shown(p Pairing) (Pairing, error) {
	name, err := s.store.NodeName(p.Info.NodeID)
	if err != nil {
		return Pairing{}, err
	}
	p.Info.DisplayName = first(name, p.Info.DisplayName)
	if at, ok := s.seen.get(p.Info.NodeID); ok {
		p.LastConnectedAt = at
	}
	return p, nil
}

// ApprovePairing pairs the node of a request and gives it a fresh token.
func (s *Service) ApprovePairing(ctx context.Context, c identity.Caller, in DecidePairingIn) (ApprovePairingOut, error) {
	token, err := newToken()
	if err != nil {
		return ApprovePairingOut{}, err
	}
	now := s.now()
	var p Pairing
	err = s.decide(ctx, c, in.RequestID, "approved", now, func(tx PairingTx, r PairingRequest) error {
		old, paired, err := tx.Pairing(r.Info.NodeID)
		if err != nil {
			return err
		}
		if !paired && tx.CountPairings() >= maxPairings {
			return ErrTooManyPairings
		}
		p = Pairing{Info: r.Info, Token: token, CreatedAt: now, ApprovedAt: now, LastConnectedAt: old.LastConnectedAt}
		if paired {
			p.CreatedAt = old.CreatedAt
		}
		return tx.PutPairing(p)
	})
	if err != nil {
		return ApprovePairingOut{}, err
	}
	return ApprovePairingOut{RequestID: in.RequestID, Node: p}, nil
}

// RejectPairing ends a request. The node may ask again.
func (s *Service) RejectPairing(ctx context.Context, c identity.Caller, in DecidePairingIn) (RejectPairingOut, error) {
	out := RejectPairingOut{RequestID: in.RequestID}
	err := s.decide(ctx, c, in.RequestID, "rejected", s.now(), func(_ PairingTx, r PairingRequest) error {
		out.NodeID = r.Info.NodeID
		return nil
	})
	if err != nil {
		return RejectPairingOut{}, err
	}
	return out, nil
}

// decide ends an open request with a row in the audit log, and tells.
func (s *Service) decide(
	ctx context.Context, c identity.Caller, requestID, decision string, now time.Time, act func(PairingTx, PairingRequest) error,
) error {
	var r PairingRequest
	err := s.store.UpdatePairings(ctx, func(tx PairingTx) error {
		open, err := tx.Requests()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(open, func(r PairingRequest) bool {
			return r.RequestID == requestID && !r.expired(now) && c.Decides(identity.NodeTenant(r.Info.NodeID))
		})
		if i < 0 {
			return ErrRequestUnknown.With("request", requestID)
		}
		r = open[i]
		if err := tx.DeleteRequest(r.RequestID); err != nil {
			return err
		}
		if err := act(tx, r); err != nil {
			return err
		}
		return tx.AppendAudit(Audit{
			At: now, Kind: "node-pairing", Subject: c.Subject(), NodeID: r.Info.NodeID, Decision: decision,
		})
	})
	if err != nil {
		return err
	}
	s.bus.Publish("node.pair.resolved", PairingResolved{
		RequestID: r.RequestID, NodeID: r.Info.NodeID, Decision: decision, At: now,
	})
	return nil
}

// VerifyPairing says whether a token is that of a paired node.
func (s *Service) VerifyPairing(_ context.Context, c identity.Caller, in VerifyPairingIn) (VerifyPairingOut, error) {
	p, paired, err := s.store.Pairing(ownID(c, in.NodeID))
	if err != nil {
		return VerifyPairingOut{}, err
	}
	// Sums of equal length are compared, also for a node that is not there.
	want, got := sha256.Sum256([]byte(p.Token)), sha256.Sum256([]byte(in.Token))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !paired || p.Token == "" {
		return VerifyPairingOut{}, nil
	}
	if p, err = s.shown(p); err != nil {
		return VerifyPairingOut{}, err
	}
	return VerifyPairingOut{OK: true, Node: p}, nil
}

// newToken is 32 random bytes in base64url (protocol.md §4.9).
func newToken() (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// seenSet holds the connections of paired nodes that are not on disk yet, so that connecting waits
// for no disk. It has at most one entry a pairing.
type seenSet struct {
	mu sync.Mutex
	m  map[string]time.Time
}

func (s *seenSet) put(id string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[id] = at
}

func (s *seenSet) get(id string) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.m[id]
	return at, ok
}

// all is a copy.
func (s *seenSet) all() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.m)
}

// written forgets what is on disk now.
func (s *seenSet) written(done map[string]time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range done {
		if s.m[id].Equal(at) {
			delete(s.m, id)
		}
	}
}

// Saw notes that a node connected under an id, when that is paired in the older store. Doors call it
// for the instance id of a node whose own id is another.
func (s *Service) Saw(id string) {
	if id == "" {
		return
	}
	if _, paired, err := s.store.Pairing(id); err == nil && paired {
		s.seen.put(id, s.now())
	}
}

// flushSeen writes the noted connections.
func (s *Service) flushSeen(ctx context.Context) {
	all := s.seen.all()
	if len(all) == 0 {
		return
	}
	err := s.store.UpdatePairings(ctx, func(tx PairingTx) error {
		for id, at := range all {
			p, paired, err := tx.Pairing(id)
			if err != nil {
				return err
			}
			if !paired {
				continue
			}
			p.LastConnectedAt = at
			if err := tx.PutPairing(p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.log.Warn("the times at which paired nodes connected were not stored", "error", err)
		return
	}
	s.seen.written(all)
}

// Run writes what connecting did not wait for, and forgets where pushes for removed and revoked devices
// go, until ctx ends, and once more then.
func (s *Service) Run(ctx context.Context) {
	ended := s.bus.Subscribe(func(e events.Event) bool {
		d, ok := e.Payload.(identity.Ended)
		return ok && d.TokenID == "" && d.Role != identity.RoleOperator
	})
	defer ended.Close()
	tidy := func(ctx context.Context) {
		s.flushSeen(ctx)
		for e, ok := ended.TryNext(); ok; e, ok = ended.TryNext() {
			if d, isEnd := e.Payload.(identity.Ended); isEnd {
				s.unregister(ctx, d.DeviceID)
			}
		}
	}
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			tidy(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), seenEvery)
			defer cancel()
			tidy(last)
			return
		}
	}
}
