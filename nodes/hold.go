package nodes

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// held is a call that waits for its node to connect.
type held struct {
	caller string
	came   chan struct{} // has room for one
}

// heldSet is the calls that wait for nodes. Each has a goroutine, counted in wg.
type heldSet struct {
	mu     sync.Mutex
	m      map[string]map[*held]struct{} // by node
	each   map[string]int                // by caller
	n      int
	closed bool
	wg     sync.WaitGroup
}

// hold adds a call and runs it in a goroutine of its own.
func (h *heldSet) hold(nodeID, caller string, run func(*held)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return ErrConnectionClosed
	case h.n >= maxHeld || len(h.m[nodeID]) >= maxHeldNode || h.each[caller] >= maxHeldCaller:
		return ErrTooManyHeld.With("node", nodeID)
	}
	one := &held{caller: caller, came: make(chan struct{}, 1)}
	if h.m[nodeID] == nil {
		h.m[nodeID] = map[*held]struct{}{}
	}
	h.m[nodeID][one] = struct{}{}
	h.n++
	h.each[caller]++
	h.wg.Go(func() { run(one) })
	return nil
}

// free takes a call out.
func (h *heldSet) free(nodeID string, one *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n--
	if h.each[one.caller]--; h.each[one.caller] == 0 {
		delete(h.each, one.caller)
	}
	if delete(h.m[nodeID], one); len(h.m[nodeID]) == 0 {
		delete(h.m, nodeID)
	}
}

// arrived tells the calls of a node that it connected. It does not block.
func (h *heldSet) arrived(nodeID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for one := range h.m[nodeID] {
		select {
		case one.came <- struct{}{}:
		default:
		}
	}
}

// close lets no call wait any more.
func (h *heldSet) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// Held returns how many calls wait for nodes to connect.
func (s *Service) Held() int {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	return s.held.n
}

// Stop ends the calls that wait for nodes to connect, and returns when their goroutines have ended.
func (s *Service) Stop() {
	s.held.close()
	s.stop()
	s.held.wg.Wait()
}

// hold keeps a call for a node that is not connected: while the node is woken by push, and for as
// long as the caller wishes to wait. It fails at once when nothing of that can help. What the
// platform of a sleeping node may not do wakes it up for nothing, so that is asked first.
func (s *Service) hold(ctx context.Context, c identity.Caller, in InvokeIn, then func(a answer, ran bool), left func()) {
	gone := ErrNotConnected.With("node", in.NodeID)
	reg, canWake := s.wakeable(in.NodeID)
	if !canWake && in.WaitForNode == nil {
		then(answer{err: gone}, false)
		return
	}
	if canWake {
		if err := s.policy.Load().CheckPlatform(reg.Platform, reg.DeviceFamily, in.Command); err != nil {
			then(answer{err: err}, false)
			return
		}
	}
	err := s.held.hold(in.NodeID, c.Subject(), func(one *held) {
		w := await{s: s, c: c, in: in, one: one, reg: reg, canWake: canWake, left: left}
		w.run(ctx, then)
	})
	if err != nil {
		then(answer{err: err}, false)
	}
}

// await is one held call on its way.
type await struct {
	s       *Service
	c       identity.Caller
	in      InvokeIn
	one     *held
	reg     Registration
	canWake bool
	left    func()
}

// Where waking a node stands (nodes-approvals.md §1.6).
type waking uint8

const (
	firstPush  waking = iota // on its way
	firstWait                // it went out
	secondPush               // on its way
	secondWait               // it went out
	noMore                   // no push will help
)

func (w *await) run(caller context.Context, then func(a answer, ran bool)) {
	s := w.s
	defer s.held.free(w.in.NodeID, w.one)
	// ctx ends with the waiting; the call itself goes on with its caller.
	ctx, cancel := context.WithCancel(caller)
	defer cancel()
	unwatch := context.AfterFunc(s.life, cancel)
	defer unwatch()
	var end <-chan time.Time
	if w.in.WaitForNode != nil {
		timer := time.NewTimer(*w.in.WaitForNode)
		defer timer.Stop()
		end = timer.C
	}
	pushed := make(chan bool, 1)
	send := func(force bool) { s.held.wg.Go(func() { pushed <- s.wake(ctx, w.reg, force) }) }
	step := time.NewTimer(time.Hour)
	step.Stop()
	defer step.Stop()
	stage := noMore
	if w.canWake {
		stage = firstPush
		send(false)
	}
	// The node may have come between the look that missed it and the wait.
	if _, ok := s.reg.get(w.in.NodeID); ok {
		s.held.arrived(w.in.NodeID)
	}
	for stage != noMore || end != nil {
		select {
		case <-w.one.came:
			if w.try(caller, then) {
				return
			}
		case may := <-pushed:
			switch {
			case !may:
				stage = noMore
			case stage == firstPush:
				stage = firstWait
				step.Reset(s.times.again)
			default:
				stage = secondWait
				step.Reset(s.times.give)
			}
		case <-step.C:
			if stage == firstWait {
				stage = secondPush
				send(true)
				continue
			}
			stage = noMore
			s.held.wg.Go(func() { s.nudge(s.life, w.reg) })
		case <-end:
			stage, end = noMore, nil
		case <-ctx.Done():
			err := ctx.Err()
			if s.life.Err() != nil {
				err = ErrConnectionClosed
			}
			then(answer{err: err}, false)
			return
		}
	}
	if !w.try(caller, then) { // it may have come in this moment
		then(answer{err: ErrNotConnected.With("node", w.in.NodeID)}, false)
	}
}

// try sends the call to the node that came. It returns false, with nothing sent, when the node is gone
// again.
func (w *await) try(ctx context.Context, then func(a answer, ran bool)) bool {
	e, ok := w.s.reg.get(w.in.NodeID)
	if !ok {
		return false
	}
	again := false
	w.s.run(ctx, w.c, e, w.in, func(a answer, ran bool) {
		if !ran && errors.Is(a.err, ErrSend) {
			again = true // said before run returns: the request did not leave
			return
		}
		then(a, ran)
	}, w.left)
	return !again
}
