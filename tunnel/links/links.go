// Package links remembers which instances were linked, so that one that comes back without registering
// again, as instances of the Rust crate do, is known for who it is (tunnel.md §1.4).
//
// It imports errs. Its Memory owns one goroutine while something is to be written; Close waits for it.
package links

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// KeepFor is how long an instance that was dropped may come back without registering (tunnel.md §1.4; frozen).
	KeepFor = 15 * time.Minute
	// maxLinks bounds what is remembered: as many as nodes may be connected. The one dropped first goes.
	maxLinks = 10_000
	// maxBatch is how many changes are written at once, saveTime how long that may take.
	maxBatch = 1000
	saveTime = 10 * time.Second
)

// Link is the last link of an instance.
type Link struct {
	NodeID string
	// Credential and Address are what let it in and where it came from.
	Credential string
	Address    string
	// Registration is the text with which it registered.
	Registration []byte
	LinkedAt     time.Time
	// DroppedAt is zero while the link stands.
	DroppedAt time.Time
}

// Store keeps links. Writes are durable when they return nil.
type Store interface {
	// Links returns all of them, in no order.
	Links() ([]Link, error)
	// ChangeLinks keeps some and forgets others, by the ids of their nodes. One transaction.
	ChangeLinks(ctx context.Context, keep []Link, forget []string) error
}

// Memory knows the links that stand and those that were dropped of late. Its methods are safe for concurrent
// use and do not wait for the disk: what is not there yet after a crash is an instance that has to register.
type Memory struct {
	store Store
	now   func() time.Time
	log   *slog.Logger

	mu     sync.Mutex
	links  map[string]*Link
	dirty  map[string]struct{}
	saving bool
	closed bool
	wg     sync.WaitGroup
}

// Open reads what a daemon before this one knew. Links that stood then count as dropped when it was last
// known to be there, which is now: nobody knows better.
func Open(store Store, now func() time.Time, log *slog.Logger) (*Memory, error) {
	all, err := store.Links()
	if err != nil {
		return nil, err
	}
	m := &Memory{store: store, now: now, log: log, links: map[string]*Link{}, dirty: map[string]struct{}{}}
	at := now()
	for _, l := range all {
		if l.DroppedAt.IsZero() || l.DroppedAt.After(at) {
			l.DroppedAt = at
		}
		m.links[l.NodeID] = &l
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prune(at)
	return m, nil
}

// Linked notes that an instance is linked.
func (m *Memory) Linked(l Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.LinkedAt, l.DroppedAt = m.now(), time.Time{}
	if _, known := m.links[l.NodeID]; !known && len(m.links) >= maxLinks {
		m.prune(l.LinkedAt)
		m.evict()
	}
	m.links[l.NodeID] = &l
	m.save(l.NodeID)
}

// Dropped notes that the link of an instance has ended.
func (m *Memory) Dropped(nodeID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.links[nodeID]; l != nil && l.DroppedAt.IsZero() {
		l.DroppedAt = m.now()
		m.save(nodeID)
	}
}

// Credential is what let a node in last, "" when it is not known.
func (m *Memory) Credential(nodeID string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.links[nodeID]; l != nil {
		return l.Credential
	}
	return ""
}

// Lost returns the one link with a credential and an address that was dropped of late; it is false when there is
// none, and when there are several, of which nobody can say which one comes back.
func (m *Memory) Lost(credential, address string) (Link, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prune(m.now())
	var found *Link
	for _, l := range m.links {
		if l.DroppedAt.IsZero() || l.Credential != credential || l.Address != address {
			continue
		}
		if found != nil {
			return Link{}, false
		}
		found = l
	}
	if found == nil {
		return Link{}, false
	}
	return *found, true
}

// prune forgets what was dropped too long ago. The callers of this and what follows hold mu.
func (m *Memory) prune(now time.Time) {
	for id, l := range m.links {
		if !l.DroppedAt.IsZero() && now.Sub(l.DroppedAt) > KeepFor {
			delete(m.links, id)
			m.save(id)
		}
	}
}

// evict makes room for one.
func (m *Memory) evict() {
	if len(m.links) < maxLinks {
		return
	}
	dropped := make([]*Link, 0, len(m.links))
	for _, l := range m.links {
		if !l.DroppedAt.IsZero() {
			dropped = append(dropped, l)
		}
	}
	if len(dropped) == 0 {
		return // as many stand as may: the registry takes no more either
	}
	first := slices.MinFunc(dropped, func(a, b *Link) int { return cmp.Compare(a.DroppedAt.UnixNano(), b.DroppedAt.UnixNano()) })
	delete(m.links, first.NodeID)
	m.save(first.NodeID)
}

// save lets a link be written soon.
func (m *Memory) save(id string) {
	m.dirty[id] = struct{}{}
	if m.saving || m.closed {
		return
	}
	m.saving = true
	m.wg.Go(m.write)
}

// write writes until nothing is left to write.
func (m *Memory) write() {
	for {
		m.mu.Lock()
		var keep []Link
		var forget []string
		for id := range m.dirty {
			delete(m.dirty, id)
			if l := m.links[id]; l != nil {
				keep = append(keep, *l)
			} else {
				forget = append(forget, id)
			}
			if len(keep)+len(forget) == maxBatch {
				break
			}
		}
		if len(keep)+len(forget) == 0 {
			m.saving = false
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), saveTime)
		err := m.store.ChangeLinks(ctx, keep, forget)
		cancel()
		if err != nil {
			m.log.Warn("what is known of links was not written; an instance that does not register again will not be known after a restart", "error", err)
		}
	}
}

// Close notes that all links end, and waits until that is written.
func (m *Memory) Close() {
	m.mu.Lock()
	now := m.now()
	for id, l := range m.links {
		if l.DroppedAt.IsZero() {
			l.DroppedAt = now
			m.save(id)
		}
	}
	m.closed = true
	m.mu.Unlock()
	m.wg.Wait()
}
