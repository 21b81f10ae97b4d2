package system

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// presenceTTL and presenceMax are frozen (protocol.md §0).
	presenceTTL = 5 * time.Minute
	presenceMax = 200
)

// PresenceTable is who was seen on the gateway lately. Its methods are safe for concurrent use.
type PresenceTable struct {
	now func() time.Time

	mu      sync.Mutex
	self    Presence
	entries map[string]*presenceEntry
	recent  []*presenceEntry // the same, by time of the last change
	live    map[string]int   // how many connections stand under a key, whether it is listed or not
	next    uint64
	version uint64
}

type presenceEntry struct {
	Presence
	key   string
	order uint64 // of first insertion
	ms    int64  // At as it is listed
}

// NewPresence returns a table that holds the gateway itself.
func NewPresence(self Presence, now func() time.Time) *PresenceTable {
	return &PresenceTable{now: now, self: self, entries: map[string]*presenceEntry{}, live: map[string]int{}, version: 1}
}

// Key is what an entry stands under: the first that is not empty, in lower case.
func Key(candidates ...string) string {
	for _, c := range candidates {
		if c != "" {
			return strings.ToLower(c)
		}
	}
	return ""
}

// Party is who has connected, as its door knows it.
type Party struct {
	ConnID, DeviceID, InstanceID                string
	ClientID, Mode, DisplayName, Version        string
	Platform, DeviceFamily, ModelIdentifier, IP string
	Role                                        identity.Role
	Tenant                                      string
	Scopes                                      []identity.Scope
}

// Join lists a party that has connected (protocol.md §6.4) and returns the key for its Leave. Command
// lines come and go and are not listed: their key is empty.
func (t *PresenceTable) Join(p Party) (key string) {
	if p.Mode == "cli" {
		return ""
	}
	e := Presence{
		Host: p.DisplayName, IP: p.IP, Version: p.Version, Platform: p.Platform, DeviceFamily: p.DeviceFamily,
		ModelIdentifier: p.ModelIdentifier, Mode: p.Mode, Reason: "connect", DeviceID: p.DeviceID,
		Roles: []identity.Role{p.Role}, Scopes: p.Scopes, InstanceID: p.DeviceID, Tenant: p.Tenant,
	}
	if e.Host == "" {
		e.Host = p.ClientID
	}
	if p.DeviceID == "" && identity.LooksLikeDevice(p.InstanceID) {
		p.InstanceID = "" // it would stand in the place of that device
	}
	if e.InstanceID == "" {
		e.InstanceID = p.InstanceID
	}
	key = identity.QualifiedNode(p.Tenant, Key(p.DeviceID, p.InstanceID, p.ConnID))
	t.Put(key, e)
	return key
}

// shownTo reports whether a caller is shown an entry: who has a tenant sees its own, and the gateway.
func (p Presence) shownTo(c identity.Caller) bool { return p.Key == "" || c.Decides(p.Tenant) }

// For implements events.Tailored.
func (e PresenceChanged) For(c identity.Caller) any {
	e.Entries = Shown(c, e.Entries)
	return e
}

// Shown is the part of a list that a caller is shown. The list stays as it is.
func Shown(c identity.Caller, all []Presence) []Presence {
	if c.Tenant == "" {
		return all
	}
	out := make([]Presence, 0, len(all))
	for _, p := range all {
		if p.shownTo(c) {
			out = append(out, p)
		}
	}
	return out
}

// Put brings in what is known of a party that has connected; one Leave follows each. Roles and
// scopes add up; the text stays when the new one is empty.
func (t *PresenceTable) Put(key string, p Presence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
	t.live[key]++
	p.At = t.now()
	e, ok := t.entries[key]
	if !ok {
		t.prune(p.At)
		t.next++
		e = &presenceEntry{key: key, order: t.next}
		t.entries[key] = e
	}
	p.Roles = identity.Union(e.Roles, p.Roles)
	p.Scopes = identity.Union(e.Scopes, trimList(p.Scopes))
	if p.Text == "" {
		p.Text = e.Text
	}
	if p.Text == "" {
		p.Text = "Node: " + p.Host + " · mode " + p.Mode
	}
	p.Rev, p.Key = t.version, key
	e.Presence = p
	t.touch(e)
}

// touch makes an entry the latest. The caller holds mu.
func (t *PresenceTable) touch(e *presenceEntry) {
	e.ms = e.At.UnixMilli()
	if i := slices.Index(t.recent, e); i >= 0 {
		t.recent = slices.Delete(t.recent, i, i+1)
	}
	t.recent = append(t.recent, e)
}

// Leave marks a party as gone when its last connection has ended; it stays listed until it is too
// old.
func (t *PresenceTable) Leave(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live[key] > 1 {
		t.live[key]--
		return
	}
	delete(t.live, key)
	if e, ok := t.entries[key]; ok {
		t.version++
		e.Reason, e.At, e.Rev = "disconnect", t.now(), t.version
		t.touch(e)
	}
}

// Version grows with every change.
func (t *PresenceTable) Version() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version
}

// prune takes out what is too old, and the oldest when there are too many. The caller holds mu.
func (t *PresenceTable) prune(now time.Time) {
	n := 0
	for _, e := range t.recent {
		// The gateway's own entry counts too.
		if now.Sub(e.At) <= presenceTTL && len(t.recent)-n < presenceMax-1 {
			break
		}
		delete(t.entries, e.key)
		n++
	}
	t.recent = slices.Delete(t.recent, 0, n)
}

// List returns the entries, newest first, the gateway itself at the head; equal times stand in
// order of first insertion.
func (t *PresenceTable) List() []Presence {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	rows := make([]*presenceEntry, 0, len(t.entries))
	for _, e := range slices.Backward(t.recent) {
		if now.Sub(e.At) <= presenceTTL {
			rows = append(rows, e)
		}
	}
	// They are nearly in order; what is left to sort is equal milliseconds.
	slices.SortFunc(rows, func(a, b *presenceEntry) int {
		return cmp.Or(cmp.Compare(b.ms, a.ms), cmp.Compare(a.order, b.order))
	})
	self := t.self
	self.At = now
	out := make([]Presence, 0, len(rows)+1)
	out = append(out, self)
	for _, e := range rows {
		out = append(out, e.Presence)
	}
	return out
}
