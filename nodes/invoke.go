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

// waiting is an invoke whose answer is due. Whoever takes it out of the pendingSet ends it.
type waiting struct {
	nodeID  string
	command string
	own     *Attachment
	then    func(a answer, ran bool) // does not block
	timer   *time.Timer
	unwatch func() bool // stops watching the caller
}

// end gives the answer; ran says that the node may have seen the request.
func (w *waiting) end(a answer, ran bool) {
	w.timer.Stop()
	w.unwatch()
	switch {
	case a.err != nil:
		a.err = withCommand(a.err, w.command)
	default:
		a.out.NodeID, a.out.Command = w.nodeID, w.command
	}
	w.then(a, ran)
}

// pendingSet holds the invokes that wait. Ending takes them out, so each gets one answer.
type pendingSet struct {
	mu sync.Mutex
	m  map[string]*waiting
}

// add lets an invoke wait. What ends it early is armed under the lock: it cannot come before.
func (p *pendingSet) add(id string, w *waiting, arm func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.m) >= maxPending {
		return ErrTooManyInvokes
	}
	p.m[id] = w
	arm()
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

// end ends an invoke of the node when it still waits.
func (p *pendingSet) end(id, nodeID string, a answer, ran bool) bool {
	w := p.take(id, nodeID)
	if w != nil {
		w.end(a, ran)
	}
	return w != nil
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

// Guarded says that a command runs only with an approval, which Start waits for the disk to read.
func Guarded(command string) bool { return trim(command) == "system.run" }

// Invoke runs one command on one node and waits for its answer (nodes-approvals.md §2.1).
func (s *Service) Invoke(ctx context.Context, c identity.Caller, in InvokeIn) (InvokeOut, error) {
	done := make(chan answer, 1)
	s.Start(ctx, c, in, func(out InvokeOut, err error) { done <- answer{out, err} })
	a := <-done
	return a.out, a.err
}

// Start is Invoke for callers that do not wait: then is called once, perhaps before Start returns,
// perhaps in the goroutine that brings the node's answer, so it must not block. Start itself waits
// only for a Guarded command.
func (s *Service) Start(ctx context.Context, c identity.Caller, in InvokeIn, then func(InvokeOut, error)) {
	in.NodeID, in.Command = trim(in.NodeID), trim(in.Command)
	if err := check(in); err != nil {
		then(InvokeOut{}, err)
		return
	}
	if in.IdempotencyKey == "" {
		in.IdempotencyKey = uuid.NewString()
	}
	key := keyScope(c) + "\x00" + in.IdempotencyKey
	k, first, err := s.kept.begin(key, printOf(in), s.now())
	if err != nil {
		then(InvokeOut{}, err)
		return
	}
	if !first {
		go func() {
			select {
			case <-k.done:
				a := s.kept.answer(k)
				then(a.out, a.err)
			case <-ctx.Done():
				then(InvokeOut{}, ctx.Err())
			}
		}()
		return
	}
	s.invoke(ctx, c, in, func(a answer, ran bool) {
		kept := a
		if ctx.Err() != nil && errors.Is(a.err, ctx.Err()) {
			kept = answer{err: ErrFirstGone}
		}
		s.kept.end(key, k, kept, ran)
		s.kept.forget(k)
		then(a.out, a.err)
	})
}

func check(in InvokeIn) error {
	if in.NodeID == "" || in.Command == "" {
		return ErrTargetRequired
	}
	if in.Command == "system.execApprovals.get" || in.Command == "system.execApprovals.set" {
		return ErrPolicyCommand.With("command", in.Command)
	}
	if in.Timeout != nil && *in.Timeout < 0 {
		return ErrTimeoutNegative
	}
	return nil
}

// invoke does it; ran says that the node may have seen the request.
func (s *Service) invoke(ctx context.Context, c identity.Caller, in InvokeIn, then func(a answer, ran bool)) {
	e, ok := s.reg.get(in.NodeID)
	if !ok {
		then(answer{err: ErrNotConnected.With("node", in.NodeID)}, false)
		return
	}
	if err := s.policy.Check(e.node, in.Command); err != nil {
		then(answer{err: err}, false)
		return
	}
	if Guarded(in.Command) {
		var err error
		if in.Params, err = s.guard.GuardRun(ctx, c, in.NodeID, in.Params); err != nil {
			then(answer{err: err}, false)
			return
		}
		// The guard waited for the disk: the node may have gone or come back meanwhile.
		if e, ok = s.reg.get(in.NodeID); !ok {
			then(answer{err: ErrNotConnected.With("node", in.NodeID)}, true)
			return
		}
	}
	s.send(ctx, e, in, then)
}

// send hands the request to the link; then is called when the answer, the time limit, the end of
// the link or the end of ctx comes.
func (s *Service) send(ctx context.Context, e *entry, in InvokeIn, then func(a answer, ran bool)) {
	limit := DefaultTimeout
	if in.Timeout != nil {
		if limit = *in.Timeout; limit == 0 || limit > MaxTimeout {
			limit = MaxTimeout
		}
	}
	id := uuid.NewString()
	w := &waiting{nodeID: in.NodeID, command: in.Command, own: e.own, then: then}
	err := s.pending.add(id, w, func() {
		w.timer = time.AfterFunc(limit, func() { s.pending.end(id, in.NodeID, answer{err: ErrTimeout}, true) })
		w.unwatch = context.AfterFunc(ctx, func() { s.pending.end(id, in.NodeID, answer{err: ctx.Err()}, true) })
	})
	if err != nil {
		then(answer{err: err}, false)
		return
	}
	err = e.link.Invoke(Request{
		ID: id, NodeID: in.NodeID, Command: in.Command, Params: in.Params,
		Timeout: in.Timeout, IdempotencyKey: in.IdempotencyKey,
	})
	if err != nil {
		s.pending.end(id, in.NodeID, answer{err: ErrSend.Wrap(err)}, false)
		return
	}
	if e.own.closed() {
		// The link went away while the request was written; its waiting calls were ended before
		// this one was among them, or are being ended now.
		s.pending.end(id, in.NodeID, answer{err: ErrDisconnected}, true)
	}
}

// InvokeInternal runs a command on a node for the daemon itself: past the command policy, with no
// guard and no key. Params and the answer are JSON text.
func (s *Service) InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	e, ok := s.reg.get(nodeID)
	if !ok {
		return nil, ErrNotConnected.With("node", nodeID)
	}
	done := make(chan answer, 1)
	s.send(ctx, e, InvokeIn{NodeID: nodeID, Command: command, Params: params}, func(a answer, _ bool) { done <- a })
	a := <-done
	return a.out.Payload, a.err
}

// Result takes a node's answer (nodes-approvals.md §2.4).
func (s *Service) Result(_ context.Context, c identity.Caller, in ResultIn) (ResultOut, error) {
	if c.NodeID == "" || in.NodeID != c.NodeID {
		return ResultOut{}, ErrForeignNode
	}
	a := answer{out: InvokeOut{Payload: payloadOf(in), PayloadJSON: in.PayloadJSON}}
	if !in.OK {
		a = answer{err: nodeFailure(in.Error)}
	}
	return ResultOut{Ignored: !s.pending.end(in.InvokeID, in.NodeID, a, true)}, nil
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
