package events

import (
	"cmp"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxHeld is how many bytes may wait for all slow readers of the daemon together: legacy clients
	// and streams. Two legacy clients with everything that one may have waiting fit into it, and a
	// small machine survives it.
	MaxHeld = 128 << 20
	// lowWater is the share of the limit, in percent, that is left when the largest backlogs went: they
	// are looked for once a burst, not with each message.
	lowWater = 75
)

// Budget bounds what waits to be sent to all readers together. Doors count what they keep, and when
// it is over the limit the readers with the largest backlogs lose theirs until it is well below: a
// Holder says what that means for it. A text that many queues share counts once.
//
// Its methods may be called concurrently, but Relieve with no lock held that a Holder needs.
type Budget struct {
	limit int64
	held  atomic.Int64

	mu      sync.Mutex // held while backlogs are looked for
	sources []func() []Holder
}

// Holder is a reader that keeps something waiting.
type Holder interface {
	// Backlog is how many bytes wait for the reader, shared ones in full.
	Backlog() int
	// Evict gives up what waits. The reader is told in the way of its door. It does not wait.
	Evict()
}

// NewBudget returns a budget of so many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Source adds a list of holders to look at under pressure. It is called before anything is added.
func (b *Budget) Source(list func() []Holder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources = append(b.sources, list)
}

// Add counts bytes that are kept for one reader, or no longer kept when n is negative.
func (b *Budget) Add(n int) { b.held.Add(int64(n)) }

// Held is how many bytes wait.
func (b *Budget) Held() int64 { return b.held.Load() }

// Over reports whether too much waits: whoever added it calls Relieve as soon as it may.
func (b *Budget) Over() bool { return b.held.Load() > b.limit }

// Relieve evicts the largest backlogs while too much waits.
func (b *Budget) Relieve() {
	if !b.Over() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.Over() {
		return // somebody else has done it
	}
	type loaded struct {
		Holder
		size int
	}
	var all []loaded
	for _, list := range b.sources {
		for _, h := range list() {
			if n := h.Backlog(); n > 0 {
				all = append(all, loaded{h, n})
			}
		}
	}
	slices.SortFunc(all, func(x, y loaded) int { return cmp.Compare(y.size, x.size) })
	for _, h := range all {
		if b.held.Load() <= b.limit/100*lowWater {
			return
		}
		h.Evict()
	}
}

// Shared is memory that several queues of one budget keep. It counts while one of them does.
type Shared struct {
	size int
	refs atomic.Int64
}

// NewShared describes memory of so many bytes that nobody keeps yet.
func NewShared(size int) *Shared { return &Shared{size: size} }

// Keep counts one more queue that has s.
func (b *Budget) Keep(s *Shared) {
	if s.refs.Add(1) == 1 {
		b.Add(s.size)
	}
}

// Drop counts one queue less.
func (b *Budget) Drop(s *Shared) {
	if s.refs.Add(-1) == 0 {
		b.Add(-s.size)
	}
}

// maxDepth bounds how deep the size of a payload is looked for: payloads are plain records.
const maxDepth = 8

// sizeOf is about what a payload takes: its records and the texts in them.
func sizeOf(payload any) int {
	if payload == nil {
		return 0
	}
	v := reflect.ValueOf(payload)
	return int(v.Type().Size()) + beyond(v, 0)
}

var timeType = reflect.TypeFor[time.Time]()

// beyond is what a value refers to.
func beyond(v reflect.Value, depth int) int {
	if depth == maxDepth || v.Type() == timeType {
		return 0
	}
	n := 0
	switch v.Kind() {
	case reflect.String:
		return v.Len()
	case reflect.Struct:
		for _, f := range v.Fields() {
			n += beyond(f, depth+1)
		}
	case reflect.Slice:
		n = v.Len() * int(v.Type().Elem().Size())
		if flat(v.Type().Elem().Kind()) {
			return n
		}
		for i := range v.Len() {
			n += beyond(v.Index(i), depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			n += int(v.Type().Key().Size()+v.Type().Elem().Size()) + beyond(it.Key(), depth+1) + beyond(it.Value(), depth+1)
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n = int(v.Elem().Type().Size()) + beyond(v.Elem(), depth+1)
		}
	}
	return n
}

// flat says that values of the kind refer to nothing.
func flat(k reflect.Kind) bool { return k <= reflect.Complex128 && k != reflect.Invalid }
