package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/identity"
)

// answer is how an invoke ended.
type answer struct {
	out InvokeOut
	err error
}

// waiting is an invoke whose answer is due.
type waiting struct {
	nodeID string
	own    *Attachment
	done   chan answer // buffered: whoever answers never waits
}

// pendingSet holds the invokes that wait. Answering removes, so each gets one answer.
type pendingSet struct {
	mu sync.Mutex
	m  map[string]*waiting
}

func (p *pendingSet) add(id string, w *waiting) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.m) >= maxPending {
		return ErrTooManyInvokes
	}
	p.m[id] = w
	return nil
}

// take removes an invoke of the node, nil when it does not wait.
func (p *pendingSet) take(id, nodeID string) *waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.m[id]
	if w == nil || w.nodeID != nodeID {
		return nil
	}
	delete(p.m, id)
	return w
}

func (p *pendingSet) drop(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, id)
}

// takeAll removes every invoke that went out over the attachment.
func (p *pendingSet) takeAll(a *Attachment) []*waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*waiting
	for id, w := range p.m {
		if w.own == a {
			out = append(out, w)
			delete(p.m, id)
		}
	}
	return out
}

// call is one invoke named by an idempotency key. Its first caller runs it; the others wait.
type call struct {
	print uint64        // what was asked, so that a key cannot be used for something else
	done  chan struct{} // closed when answer is set
	ans   answer
	at    time.Time
	size  int
}

// keptSet remembers calls by key, so that a repetition gets the first answer, never a second run.
type keptSet struct {
	mu    sync.Mutex
	m     map[string]*call
	order []string // keys by age
	bytes int
}

// begin returns the call of a key, and whether the caller is the one to run it.
func (k *keptSet) begin(key string, print uint64, now time.Time) (*call, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prune(now)
	if c, ok := k.m[key]; ok {
		if c.print != print {
			return nil, false, ErrKeyReused
		}
		return c, false, nil
	}
	c := &call{print: print, done: make(chan struct{}), at: now}
	k.m[key] = c
	k.order = append(k.order, key)
	return c, true, nil
}

// prune forgets what is too old, too much or too large. Calls that still run are kept: they are
// bounded by maxPending.
func (k *keptSet) prune(now time.Time) {
	for i := 0; i < len(k.order); {
		c := k.m[k.order[i]]
		if now.Sub(c.at) <= keptFor && len(k.order) <= keptMax && k.bytes <= keptBytes {
			return
		}
		select {
		case <-c.done:
			k.bytes -= c.size
			c.size = 0 // its caller may still let go of it
			delete(k.m, k.order[i])
			k.order = append(k.order[:i], k.order[i+1:]...)
		default:
			i++
		}
	}
}

// end records how a call ended. A call that never reached the node is forgotten, so that it can
// be tried again under the same key.
func (k *keptSet) end(key string, c *call, ans answer, ran bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.ans = ans
	if !ran {
		delete(k.m, key)
		for i, o := range k.order {
			if o == key {
				k.order = append(k.order[:i], k.order[i+1:]...)
				break
			}
		}
	} else {
		c.size = len(ans.out.Payload)
		if ans.out.PayloadJSON != nil {
			c.size += len(*ans.out.PayloadJSON)
		}
		k.bytes += c.size
	}
	close(c.done)
}

// forget drops a large answer once its own caller has it.
func (k *keptSet) forget(c *call) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.size > keptEach {
		k.bytes -= c.size
		c.size = 0
		c.ans = answer{err: ErrAnswerGone}
	}
}

func (k *keptSet) answer(c *call) answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return c.ans
}

// keyScope keeps the keys of different callers apart. Clients that share the gateway's secret and
// have no device are one caller: their connections come and go.
func keyScope(c identity.Caller) string {
	if c.DeviceID != "" || c.ConnID == "" {
		return c.Subject()
	}
	return "shared-secret"
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

// Invoke runs one command on one node and waits for its answer (nodes-approvals.md §2.1).
func (s *Service) Invoke(ctx context.Context, c identity.Caller, in InvokeIn) (InvokeOut, error) {
	in.NodeID, in.Command = trim(in.NodeID), trim(in.Command)
	if in.NodeID == "" || in.Command == "" {
		return InvokeOut{}, ErrTargetRequired
	}
	if in.Command == "system.execApprovals.get" || in.Command == "system.execApprovals.set" {
		return InvokeOut{}, ErrPolicyCommand.With("command", in.Command)
	}
	if in.Timeout != nil && *in.Timeout < 0 {
		return InvokeOut{}, ErrTimeoutNegative
	}
	if in.IdempotencyKey == "" {
		in.IdempotencyKey = uuid.NewString()
	}
	key := keyScope(c) + "\x00" + in.IdempotencyKey
	k, first, err := s.kept.begin(key, printOf(in), s.now())
	if err != nil {
		return InvokeOut{}, err
	}
	if !first {
		select {
		case <-k.done:
			ans := s.kept.answer(k)
			return ans.out, ans.err
		case <-ctx.Done():
			return InvokeOut{}, ctx.Err()
		}
	}
	out, ran, err := s.invoke(ctx, c, in)
	kept := answer{out, err}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		kept = answer{err: ErrFirstGone}
	}
	s.kept.end(key, k, kept, ran)
	s.kept.forget(k)
	return out, err
}

// invoke does it; ran says that the node may have seen the request.
func (s *Service) invoke(ctx context.Context, c identity.Caller, in InvokeIn) (out InvokeOut, ran bool, err error) {
	e, ok := s.reg.get(in.NodeID)
	if !ok {
		return InvokeOut{}, false, ErrNotConnected.With("node", in.NodeID)
	}
	if err := s.policy.Check(e.node, in.Command); err != nil {
		return InvokeOut{}, false, err
	}
	if in.Command == "system.run" {
		if in.Params, err = s.guard.GuardRun(ctx, c, in.NodeID, in.Params); err != nil {
			return InvokeOut{}, false, err
		}
		// The guard waited for the disk: the node may have gone or come back meanwhile.
		if e, ok = s.reg.get(in.NodeID); !ok {
			return InvokeOut{}, true, ErrNotConnected.With("node", in.NodeID)
		}
	}
	return s.send(ctx, e, in)
}

// send hands the request to the link and waits.
func (s *Service) send(ctx context.Context, e *entry, in InvokeIn) (out InvokeOut, ran bool, err error) {
	wait := DefaultTimeout
	if in.Timeout != nil {
		if wait = *in.Timeout; wait == 0 || wait > MaxTimeout {
			wait = MaxTimeout
		}
	}
	id := uuid.NewString()
	w := &waiting{nodeID: in.NodeID, own: e.own, done: make(chan answer, 1)}
	if err := s.pending.add(id, w); err != nil {
		return InvokeOut{}, false, err
	}
	defer s.pending.drop(id)
	err = e.link.Invoke(Request{
		ID: id, NodeID: in.NodeID, Command: in.Command, Params: in.Params,
		Timeout: in.Timeout, IdempotencyKey: in.IdempotencyKey,
	})
	if err != nil {
		return InvokeOut{}, false, ErrSend.With("command", in.Command).Wrap(err)
	}
	if e.own.closed() {
		// The link went away while the request was written; its waiting calls were ended before
		// this one was among them, or are being ended now.
		if w := s.pending.take(id, in.NodeID); w != nil {
			return InvokeOut{}, true, ErrDisconnected.With("command", in.Command)
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case a := <-w.done:
		if a.err != nil {
			return InvokeOut{}, true, withCommand(a.err, in.Command)
		}
		a.out.NodeID, a.out.Command = in.NodeID, in.Command
		return a.out, true, nil
	case <-timer.C:
		return InvokeOut{}, true, ErrTimeout.With("command", in.Command)
	case <-ctx.Done():
		return InvokeOut{}, true, ctx.Err()
	}
}

// InvokeInternal runs a command on a node for the daemon itself: past the command policy, with no
// guard and no key. Params and the answer are JSON text.
func (s *Service) InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	e, ok := s.reg.get(nodeID)
	if !ok {
		return nil, ErrNotConnected.With("node", nodeID)
	}
	out, _, err := s.send(ctx, e, InvokeIn{NodeID: nodeID, Command: command, Params: params})
	if err != nil {
		return nil, err
	}
	return out.Payload, nil
}

// Result takes a node's answer (nodes-approvals.md §2.4).
func (s *Service) Result(_ context.Context, c identity.Caller, in ResultIn) (ResultOut, error) {
	if c.NodeID == "" || in.NodeID != c.NodeID {
		return ResultOut{}, ErrForeignNode
	}
	w := s.pending.take(in.InvokeID, in.NodeID)
	if w == nil {
		return ResultOut{Ignored: true}, nil
	}
	if !in.OK {
		w.done <- answer{err: nodeFailure(in.Error)}
		return ResultOut{}, nil
	}
	w.done <- answer{out: InvokeOut{Payload: payloadOf(in), PayloadJSON: in.PayloadJSON}}
	return ResultOut{}, nil
}

// payloadOf is the value of an answer: the parsed text when the node sent text. Text that is not
// JSON is wrapped.
func payloadOf(in ResultIn) []byte {
	if in.PayloadJSON == nil {
		return in.Payload
	}
	text := trim(*in.PayloadJSON)
	if text == "" {
		return nil
	}
	if json.Valid([]byte(text)) {
		return []byte(text)
	}
	wrapped, err := json.Marshal(map[string]string{"payloadJSON": *in.PayloadJSON})
	if err != nil {
		return nil // a string always marshals
	}
	return wrapped
}

func nodeFailure(e *NodeError) error {
	if e == nil {
		return ErrNodeFailed
	}
	err := ErrNodeFailed.With("nodeError", *e)
	if e.Message != nil {
		err = err.WithText(*e.Message)
	}
	if e.Code != nil {
		err.Fields["nodeCode"] = *e.Code
	}
	if e.Message != nil {
		err.Fields["nodeMessage"] = *e.Message
	}
	return err
}
