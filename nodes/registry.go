package nodes

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// entry is one live node. It is immutable; own is the attachment that it belongs to, which stays
// the same when the node is renamed.
type entry struct {
	node Node
	link Link
	own  *Attachment
	// runs says that the node streams the output of its commands and can end them.
	runs bool
}

// snapshot is the registry at one moment. It is immutable.
type snapshot struct {
	live map[string]*entry
}

// registry holds the live nodes. Readers load the snapshot; writers make the next one under mu.
type registry struct {
	mu  sync.Mutex
	cur atomic.Pointer[snapshot]
}

func newRegistry() *registry {
	r := &registry{}
	r.cur.Store(&snapshot{live: map[string]*entry{}})
	return r
}

func (r *registry) get(id string) (*entry, bool) {
	e, ok := r.cur.Load().live[id]
	return e, ok
}

// put adds a node and returns the entry it replaces, nil without one.
func (r *registry) put(e *entry) (*entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.cur.Load().live
	replaced := old[e.node.ID]
	if replaced == nil && len(old) >= maxNodes {
		return nil, ErrTooManyNodes
	}
	next := maps.Clone(old)
	next[e.node.ID] = e
	r.cur.Store(&snapshot{live: next})
	return replaced, nil
}

// remove takes a node out if the attachment still holds its id: a connection that was replaced
// never removes its successor.
func (r *registry) remove(a *Attachment) (Node, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.cur.Load().live
	e, ok := old[a.id]
	if !ok || e.own != a {
		return Node{}, false
	}
	next := maps.Clone(old)
	delete(next, a.id)
	r.cur.Store(&snapshot{live: next})
	return e.node, true
}

// rename gives a live node another name and returns it.
func (r *registry) rename(id, name string) (Node, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.cur.Load().live
	e, ok := old[id]
	if !ok {
		return Node{}, false
	}
	e2 := &entry{node: e.node, link: e.link, own: e.own, runs: e.runs}
	e2.node.DisplayName = name
	next := maps.Clone(old)
	next[id] = e2
	r.cur.Store(&snapshot{live: next})
	return e2.node, true
}

// sortNodes brings nodes into display order: connected first, then by name, then by id
// (nodes-approvals.md §1.4).
func sortNodes(nodes []Node) {
	slices.SortFunc(nodes, func(a, b Node) int {
		if a.Connected != b.Connected {
			if a.Connected {
				return -1
			}
			return 1
		}
		return cmp.Or(
			cmp.Compare(strings.ToLower(a.label()), strings.ToLower(b.label())),
			cmp.Compare(a.ID, b.ID),
		)
	})
}

func (n Node) label() string {
	if n.DisplayName != "" {
		return n.DisplayName
	}
	return n.ID
}
