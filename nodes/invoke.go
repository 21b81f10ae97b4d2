package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
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
	// left tells the caller, which is gone, and lets the call go on for its repetitions; nil for calls
	// that have none.
	left func()
	// timer runs from the moment in which the call is sent; nil before. Sent says that the node may have
	// seen it. Both change under the lock of the set only.
	timer   *time.Timer
	sent    bool
	limit   time.Duration
	until   time.Time
	late    error       // what it ends with when the timer fires
	orphan  bool        // its caller is gone
	decided bool        // a person at the node has answered for it
	watched bool        // what it writes is for the observer
	unwatch func() bool // stops watching the caller
}

// end gives the answer; ran says that the node may have seen the request.
func (w *waiting) end(a answer, ran bool) {
	ran = ran && w.sent
	if w.timer != nil {
		w.timer.Stop()
	}
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
	mu      sync.Mutex
	m       map[string]*waiting
	orphans int
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

// InFlight counts the invokes that wait for an answer of their node.
func (s *Service) InFlight() int {
	s.pending.mu.Lock()
	defer s.pending.mu.Unlock()
	return len(s.pending.m)
}

// launch notes that an invoke is about to be sent, from which its time runs. It is false when the invoke
// has ended already.
func (p *pendingSet) launch(id, nodeID string, over func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.m[id]
	if w == nil || w.nodeID != nodeID {
		return false
	}
	w.sent, w.until = true, time.Now().Add(w.limit)
	w.timer = time.AfterFunc(w.limit, over)
	return true
}

// take removes an invoke of the node, nil when it does not wait.
func (p *pendingSet) take(id, nodeID string) *waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.m[id]
	if w == nil || w.nodeID != nodeID {
		return nil
	}
	p.remove(id, w)
	return w
}

// remove takes an invoke out. The caller holds mu.
func (p *pendingSet) remove(id string, w *waiting) {
	delete(p.m, id)
	if w.orphan {
		p.orphans--
	}
}

// adopt lets an invoke go on whose caller is gone, for a while: a repetition of it may ask for the
// answer. It fails when there are too many of them.
func (p *pendingSet) adopt(id, nodeID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.m[id]
	if w == nil || w.nodeID != nodeID || w.left == nil || !w.sent || p.orphans >= maxOrphans {
		return false
	}
	p.orphans++
	w.orphan = true
	if time.Until(w.until) > keptFor {
		w.late = ErrFirstGone
		w.timer.Reset(keptFor)
	}
	return true
}

// decide notes that a person at the node answered for a guarded invoke that waits. It is true once for
// each.
func (p *pendingSet) decide(id, nodeID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.m[id]
	if w == nil || w.nodeID != nodeID || !Guarded(w.command) || w.decided {
		return false
	}
	w.decided = true
	return true
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
			p.remove(id, w)
		}
	}
	return out
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
	in.NodeID, in.Command = s.Resolve(c, trim(in.NodeID)), trim(in.Command)
	if in.WaitForNode != nil && *in.WaitForNode == 0 {
		in.WaitForNode = nil
	}
	if err := check(in); err != nil {
		then(InvokeOut{}, err)
		return
	}
	if in.IdempotencyKey == "" {
		// Nobody can repeat a call that has no name.
		in.IdempotencyKey = uuid.NewString()
		s.invoke(ctx, c, in, func(a answer, _ bool) { then(a.out, a.err) }, nil)
		return
	}
	id, owner := idOf(c, in.IdempotencyKey)
	k, first, err := s.kept.begin(id, owner, printOf(in), s.now())
	switch {
	case err != nil:
		then(InvokeOut{}, err)
	case first:
		var once sync.Once
		tell := func(out InvokeOut, err error) { once.Do(func() { then(out, err) }) }
		s.invoke(ctx, c, in, func(a answer, ran bool) {
			kept := a
			if ctx.Err() != nil && errors.Is(a.err, ctx.Err()) {
				if kept = (answer{err: ErrFirstGone}); !ran {
					kept = answer{err: errFirstLeft}
				}
			}
			s.kept.end(k, kept, ran, s.now())
			tell(a.out, a.err)
		}, func() { tell(InvokeOut{}, ctx.Err()) })
	default:
		go s.repeat(ctx, c, in, k, then)
	}
}

// repeat waits for the answer of the call that has the same key. When that went away before the node
// could see it, this one takes its place.
func (s *Service) repeat(ctx context.Context, c identity.Caller, in InvokeIn, k *call, then func(InvokeOut, error)) {
	select {
	case <-k.done:
		a := s.kept.answer(k)
		if errors.Is(a.err, errFirstLeft) {
			s.Start(ctx, c, in, then)
			return
		}
		then(a.out, a.err)
	case <-ctx.Done():
		s.kept.leave(k)
		then(InvokeOut{}, ctx.Err())
	}
}

// object is params as a linked machine is sent them: always an object (tunnel.md §1.3).
func object(params []byte) ([]byte, error) {
	text := bytes.TrimSpace(params)
	switch {
	case len(text) == 0 || string(text) == "null":
		return []byte("{}"), nil
	case text[0] != '{' || !json.Valid(text):
		return nil, ErrParams
	}
	return params, nil
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
	if in.WaitForNode != nil && (*in.WaitForNode < 0 || *in.WaitForNode > MaxNodeWait) {
		return ErrWaitRange
	}
	return nil
}

// invoke does it; ran says that the node may have seen the request. When left is not nil, the call
// goes on when its caller is gone, and left is called then.
func (s *Service) invoke(ctx context.Context, c identity.Caller, in InvokeIn, then func(a answer, ran bool), left func()) {
	if !c.SeesNode(in.NodeID) {
		then(answer{err: ErrNotConnected.With("node", in.NodeID)}, false)
		return
	}
	if e, ok := s.reg.get(in.NodeID); ok {
		s.run(ctx, c, e, in, then, left)
		return
	}
	s.hold(ctx, c, in, then, left)
}

// run does it on a node that is connected.
func (s *Service) run(ctx context.Context, c identity.Caller, e *entry, in InvokeIn, then func(a answer, ran bool), left func()) {
	g, err := s.policy.Load().check(e.node, in.Command)
	if err != nil {
		then(answer{err: err}, false)
		return
	}
	if openingOf(ctx) != nil && !channeled(e) {
		then(answer{err: ErrNoChannel.With("node", in.NodeID)}, false)
		return
	}
	if e.node.Link == LinkTunnel {
		if in.Params, err = object(in.Params); err != nil {
			then(answer{err: err}, false)
			return
		}
	}
	if q := e.own.lane; q != nil && q.full() {
		then(answer{err: withCommand(ErrBusy.With("node", in.NodeID), in.Command)}, false)
		return // before an approval is used for it
	}
	params, ended, err := s.guarded(ctx, c, e, g, in)
	if err != nil {
		if ended != nil {
			ended(false, nil, err)
		}
		then(answer{err: err}, false)
		return
	}
	if in.Params = params; ended != nil {
		// The caller's answer comes first: what the guard does with it is not what the caller waits for. A
		// terminal is its opener's before the opener knows it.
		tell, sent := then, false
		then = func(a answer, ran bool) {
			if in.Command == "terminal.open" && a.err == nil {
				e.own.terminals.opened(a.out.Payload, c.Subject())
			}
			tell(a, ran)
			ended(sent && ran, a.out.Payload, a.err)
		}
		// The guard waited for the disk: the node may have gone or come back meanwhile.
		var ok bool
		if e, ok = s.reg.get(in.NodeID); !ok {
			then(answer{err: ErrNotConnected.With("node", in.NodeID)}, true)
			return
		}
		sent = true
	}
	s.send(ctx, c, e, in, then, left)
}

// send hands the request to the link; then is called when the answer, the time limit, the end of
// the link or the end of ctx comes.
func (s *Service) send(ctx context.Context, c identity.Caller, e *entry, in InvokeIn, then func(a answer, ran bool), left func()) {
	limit := limitOf(e.node, in)
	if in.Timeout != nil {
		if limit = *in.Timeout; limit == 0 || limit > MaxTimeout {
			limit = MaxTimeout
		}
	}
	id := uuid.NewString()
	watched := Guarded(in.Command) || in.Run != ""
	if watched {
		var err error
		if in.Params, err = s.leave(c, e, id, in); err != nil {
			then(answer{err: err}, false)
			return
		}
		told := then
		then = func(a answer, ran bool) {
			s.watch.Left(id, a.out, a.err, ran)
			told(a, ran)
		}
	}
	if o := openingOf(ctx); o != nil {
		var err error
		if in.Params, err = s.nameChannel(e, o, in.Params); err != nil {
			then(answer{err: err}, false)
			return
		}
	}
	w := &waiting{
		nodeID: in.NodeID, command: in.Command, own: e.own, then: then, left: left, watched: watched, limit: limit, late: ErrTimeout,
	}
	queue := e.own.lane
	err := s.pending.add(id, w, func() {
		w.unwatch = context.AfterFunc(ctx, func() {
			if s.pending.adopt(id, in.NodeID) {
				left()
				return
			}
			if queue != nil {
				queue.leave(id)
			}
			s.pending.end(id, in.NodeID, answer{err: ctx.Err()}, true)
		})
	})
	if err != nil {
		then(answer{err: err}, false)
		return
	}
	if queue == nil {
		s.dispatch(id, e, in)
		return
	}
	err = queue.enter(id, max(limit, limitOf(e.node, in)), func() {
		if !s.dispatch(id, e, in) {
			queue.done(id)
		}
	})
	if err != nil {
		s.pending.end(id, in.NodeID, answer{err: err}, false)
	}
}

// dispatch hands a waiting call to the link. It is false when the node will not see it.
func (s *Service) dispatch(id string, e *entry, in InvokeIn) bool {
	launched := s.pending.launch(id, in.NodeID, func() {
		if w := s.pending.take(id, in.NodeID); w != nil {
			w.end(answer{err: w.late}, true)
		}
	})
	if !launched {
		return false
	}
	if e.node.Link == LinkTunnel && len(in.Params) == 0 {
		in.Params = []byte("{}")
	}
	err := e.link.Invoke(Request{
		ID: id, NodeID: in.NodeID, Command: in.Command, Params: in.Params,
		Timeout: in.Timeout, IdempotencyKey: in.IdempotencyKey,
	})
	if err != nil {
		if !errors.Is(err, ErrTooLarge) { // which says what to do
			err = ErrSend.Wrap(err)
		}
		s.pending.end(id, in.NodeID, answer{err: err}, false)
		return false
	}
	if e.own.closed() {
		// The link went away while the request was written; its waiting calls were ended before
		// this one was among them, or are being ended now.
		s.pending.end(id, in.NodeID, answer{err: ErrDisconnected}, true)
	}
	return true
}

// bindingCap is announced by a node that says which files a run would open, and runs no others under an
// approval that comes with them.
const bindingCap = "system.binding"

// Binds reports whether a node is connected, and whether it says which files a run would open.
func (s *Service) Binds(nodeID string) (connected, binds bool) {
	e, ok := s.reg.get(nodeID)
	return ok, ok && slices.Contains(e.node.Caps, bindingCap)
}

// InvokeInternal runs a command on a node for the daemon itself: past the command policy, with no
// guard and no key. Params and the answer are JSON text.
func (s *Service) InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	e, ok := s.reg.get(nodeID)
	if !ok {
		return nil, ErrNotConnected.With("node", nodeID)
	}
	done := make(chan answer, 1)
	s.send(ctx, identity.Internal(), e, InvokeIn{NodeID: nodeID, Command: command, Params: params}, func(a answer, _ bool) { done <- a }, nil)
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
	out := ResultOut{Ignored: !s.pending.end(in.InvokeID, in.NodeID, a, true)}
	if e, ok := s.reg.get(in.NodeID); ok && e.own.lane != nil {
		e.own.lane.done(in.InvokeID) // a late answer too: the node is free
	}
	return out, nil
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
