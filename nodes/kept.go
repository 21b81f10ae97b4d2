package nodes

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// callID is a key of a caller. It is a sum, so that long keys take no more room than short ones.
type callID [sha256.Size]byte

// call is one invoke named by an idempotency key. Its first caller runs it; the others wait.
type call struct {
	id      callID
	owner   string
	print   uint64        // what was asked, so that a key cannot be used for something else
	done    chan struct{} // closed when ans is set
	ans     answer
	size    int // of ans, in bytes; zero when it was dropped
	waiting int // repetitions that have not read ans yet
	ended   time.Time
	byAge   *list.Element // among all ended calls
	byOwner *list.Element // among the ended calls of its caller
}

// owned is what is kept for one caller.
type owned struct {
	ended list.List // calls, the oldest first
	bytes int
}

// keptSet remembers calls by key, so that a repetition gets the first answer, never a second run.
// Calls that run are bounded by what may wait for nodes. Ended ones are bounded for each caller and
// in all; when there are too many in all, the caller that has most loses its oldest.
type keptSet struct {
	mu     sync.Mutex
	m      map[callID]*call
	ended  list.List // calls, the oldest first
	owners map[string]*owned
	bytes  int
}

func newKeptSet() *keptSet {
	return &keptSet{m: map[callID]*call{}, owners: map[string]*owned{}}
}

// begin returns the call of a key, and whether the caller is the one to run it. Who is not must end
// with answer or leave.
func (k *keptSet) begin(id callID, owner string, print uint64, now time.Time) (*call, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prune(now)
	if c, ok := k.m[id]; ok {
		if c.print != print {
			return nil, false, ErrKeyReused
		}
		c.waiting++
		return c, false, nil
	}
	c := &call{id: id, owner: owner, print: print, done: make(chan struct{})}
	k.m[id] = c
	return c, true, nil
}

// end records how a call ended. A call that never reached the node is forgotten, so that it can
// be tried again under the same key.
func (k *keptSet) end(c *call, ans answer, ran bool, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.ans = ans
	close(c.done)
	if !ran {
		delete(k.m, c.id)
		return
	}
	o := k.owners[c.owner]
	if o == nil {
		o = &owned{}
		k.owners[c.owner] = o
	}
	c.ended = now
	c.byAge, c.byOwner = k.ended.PushBack(c), o.ended.PushBack(c)
	c.size = sizeOf(ans)
	k.bytes += c.size
	o.bytes += c.size
	k.tooLarge(c)
	k.prune(now)
}

// answer is how a call ended, for one repetition.
func (k *keptSet) answer(c *call) answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := c.ans
	c.waiting--
	k.tooLarge(c)
	return a
}

// leave is answer for a repetition that does not wait any longer.
func (k *keptSet) leave(c *call) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.waiting--
	k.tooLarge(c)
}

// tooLarge drops a large answer once everybody who waited for it has it. The caller holds mu.
func (k *keptSet) tooLarge(c *call) {
	if c.size > keptEach && c.waiting == 0 {
		k.drop(c)
	}
}

// drop forgets the answer of a call and keeps its key. The caller holds mu.
func (k *keptSet) drop(c *call) {
	if o := k.owners[c.owner]; o != nil {
		o.bytes -= c.size
	}
	k.bytes -= c.size
	c.size, c.ans = 0, answer{err: ErrAnswerGone}
}

// forget forgets an ended call. Repetitions that wait already still get its answer. The caller holds
// mu.
func (k *keptSet) forget(c *call) {
	o := k.owners[c.owner]
	k.ended.Remove(c.byAge)
	o.ended.Remove(c.byOwner)
	k.bytes -= c.size
	o.bytes -= c.size
	c.size = 0
	delete(k.m, c.id)
	if o.ended.Len() == 0 {
		delete(k.owners, c.owner)
	}
}

// prune forgets what is too old or too much. The caller holds mu.
func (k *keptSet) prune(now time.Time) {
	for e := k.ended.Front(); e != nil && tooOld(e.Value.(*call), now); e = k.ended.Front() {
		k.forget(e.Value.(*call))
	}
	if e := k.ended.Back(); e != nil {
		// The newest is the one that may be too much for its caller.
		if o := k.owners[e.Value.(*call).owner]; o.ended.Len() > keptEachCaller {
			k.forget(o.ended.Front().Value.(*call))
		}
	}
	for k.ended.Len() > keptMax {
		k.forget(k.most(func(o *owned) int { return o.ended.Len() }).ended.Front().Value.(*call))
	}
	for k.bytes > keptBytes {
		o := k.most(func(o *owned) int { return o.bytes })
		for e := o.ended.Front(); e != nil; e = e.Next() {
			if c := e.Value.(*call); c.size > 0 {
				k.drop(c)
				break
			}
		}
	}
}

// tooOld also holds for a call from the future: the clock was set back.
func tooOld(c *call, now time.Time) bool {
	age := now.Sub(c.ended)
	return age > keptFor || age < -keptFor
}

// most is the caller of which most is kept.
func (k *keptSet) most(of func(*owned) int) *owned {
	var top *owned
	for _, o := range k.owners {
		if top == nil || of(o) > of(top) {
			top = o
		}
	}
	return top
}

// sizeOf is about what an answer takes.
func sizeOf(a answer) int {
	n := len(a.out.Payload)
	if a.out.PayloadJSON != nil {
		n += len(*a.out.PayloadJSON)
	}
	if e, ok := errs.As(a.err); ok {
		n += len(e.Text)
		for _, v := range e.Fields {
			switch v := v.(type) {
			case string:
				n += len(v)
			case NodeError:
				n += len(deref(v.Code)) + len(deref(v.Message)) + len(v.Details)
			}
		}
	}
	return n
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// idOf names a call. The keys of different callers are different calls, and so are those of one caller
// with different rights. Clients that share the gateway's secret and have no device are one caller:
// their connections come and go.
func idOf(c identity.Caller, key string) (id callID, owner string) {
	owner = c.Subject()
	if c.DeviceID == "" && strings.HasPrefix(c.Principal, "conn:") {
		owner = "shared-secret"
	}
	text := make([]byte, 0, 256)
	add := func(part string) {
		text = binary.BigEndian.AppendUint64(text, uint64(len(part)))
		text = append(text, part...)
	}
	add(owner)
	add(string(c.Role))
	add(key)
	if c.Has(identity.ScopeAdmin) {
		add(string(identity.ScopeAdmin))
		return sha256.Sum256(text), owner
	}
	for _, s := range identity.SortedScopes(c.Scopes) {
		add(string(s))
	}
	return sha256.Sum256(text), owner
}

// printSeed keys the fingerprints of calls; they never leave the process.
var printSeed = maphash.MakeSeed()

func printOf(in InvokeIn) uint64 {
	var h maphash.Hash
	h.SetSeed(printSeed)
	for _, s := range []string{in.NodeID, in.Command} {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	_, _ = h.Write(in.Params)
	return h.Sum64()
}
