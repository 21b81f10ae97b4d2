package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

// join is a terminal joined at its node: by a channel, or by events where the link has none.
type join struct {
	answer opened

	pipe   Pipe
	remote *terminal.Remote

	events *eventWay
}

// start returns the way to the program; run is to follow.
func (j *join) start(s *Service, t *term) upstream {
	if j.events != nil {
		j.events.start(t)
		return j.events
	}
	j.remote = terminal.NewRemote(j.pipe, t.feed)
	return j.remote
}

// run brings the output into the feed. It returns nil when the feed has ended.
func (j *join) run(ctx context.Context) error {
	if j.events != nil {
		return j.events.run(ctx)
	}
	return j.remote.Run(ctx)
}

// drop gives a join up that was not started.
func (j *join) drop(err error) {
	if j.events != nil {
		j.events.leave()
		return
	}
	_ = j.pipe.Close(err) // it ends either way
}

// openAt opens a terminal at a node.
func (s *Service) openAt(ctx context.Context, c identity.Caller, n Node, params map[string]any) (*join, error) {
	text, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	pipe, answer, err := s.c.Nodes.Open(ctx, c, n.ID, "terminal.open", text)
	if errors.Is(err, ErrNoChannel) {
		return s.openByEvents(n, params, func(p []byte) ([]byte, error) { return s.c.Nodes.Invoke(ctx, c, n.ID, "terminal.open", p) })
	}
	if err != nil {
		return nil, err
	}
	return answered(ctx, pipe, answer)
}

// answered waits for the answer of a call with a channel.
func answered(ctx context.Context, pipe Pipe, answer func(context.Context) ([]byte, error)) (*join, error) {
	payload, err := answer(ctx)
	if err != nil {
		_ = pipe.Close(err) // it ends either way
		return nil, err
	}
	j := &join{pipe: pipe}
	if j.answer, err = readOpened(payload); err != nil {
		_ = pipe.Close(err) // it ends either way
		return nil, err
	}
	return j, nil
}

var (
	errNotThere = errors.New("the node is not connected")
	errNoneHere = errors.New("the node does not have the terminal any more")
)

// follow keeps a terminal joined until its program has ended or the service stops.
func (s *Service) follow(t *term, j *join) {
	for s.life.Err() == nil {
		if j == nil {
			if j = s.rejoin(t); j == nil {
				break
			}
			t.set(j.start(s, t))
		}
		began := time.Now()
		err := j.run(s.life)
		t.set(nil)
		j = nil
		if _, ended := t.feed.Exit(); ended {
			break
		}
		if s.life.Err() == nil {
			r := t.record()
			s.c.Log.Info("a terminal lost its node; it is joined again", "terminal", r.ID, "node", r.NodeID, "err", err)
			if time.Since(began) < retryFirst { // a node that breaks what it has joined is not asked without pause
				s.pause(retryFirst)
			}
		}
	}
	if _, ended := t.feed.Exit(); ended {
		s.ended(t)
	}
}

func (s *Service) pause(d time.Duration) {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-late.C:
	case <-s.life.Done():
	}
}

// ended puts the end of a program on record, and keeps its last output for a while.
func (s *Service) ended(t *term) {
	r := t.record()
	e, _ := t.feed.Exit()
	detail := e.Reason
	switch {
	case e.Code != nil:
		detail = fmt.Sprintf("exit code %d", *e.Code)
	case e.Signal != "":
		detail = e.Signal
	}
	if err := s.c.Store.ChangeTerminal(s.life, r.ID, nil, s.row(r, "ended", "", detail)); err != nil {
		s.c.Log.Error("the end of a terminal could not be kept; it is looked for again at the next start", "terminal", r.ID, "err", err)
	}
	s.pause(s.c.Linger)
	s.forget(t)
}

// rejoin waits for the node and joins the terminal where it was left. It returns nil when that is no use any
// more: the feed has ended, or the service stops.
func (s *Service) rejoin(t *term) *join {
	away := time.NewTimer(s.c.Away)
	defer away.Stop()
	pause := retryFirst
	for {
		j, err := s.joinAgain(t)
		if err == nil {
			return j
		}
		r := t.record()
		if errors.Is(err, errNoneHere) {
			t.feed.End(terminal.Exit{Reason: "the node has the terminal no more: its program was restarted or gave it up"})
			return nil
		}
		var again <-chan time.Time
		if !errors.Is(err, errNotThere) {
			s.c.Log.Debug("a terminal could not be joined", "terminal", r.ID, "node", r.NodeID, "retryIn", pause.String(), "err", err)
			again = time.After(pause)
			pause = min(2*pause, retryMost)
		}
		select {
		case <-again:
		case <-t.came:
			pause = retryFirst
		case <-away.C:
			t.feed.End(terminal.Exit{Reason: "the node did not come back"})
			return nil
		case <-s.life.Done():
			return nil
		}
	}
}

// joinAgain tries once.
func (s *Service) joinAgain(t *term) (*join, error) {
	r := t.record()
	n, err := s.c.Nodes.Node(identity.Internal(), r.NodeID)
	if err != nil || !n.Connected {
		return nil, errNotThere
	}
	ctx, cancel := context.WithTimeout(s.life, joinTime)
	defer cancel()
	params := map[string]any{"session_id": r.Session}
	_, from := t.feed.Range()
	if from == 0 { // nobody has seen anything yet: what is kept no more is no loss of theirs
		from = terminal.FromStart
	}
	params["from"] = from
	var j *join
	if slices.Contains(n.Commands, "terminal.attach") {
		text, err := json.Marshal(params)
		if err != nil {
			return nil, err
		}
		pipe, answer, err := s.c.Nodes.OpenInternal(ctx, n.ID, "terminal.attach", text)
		switch {
		case err == nil:
			j, err = answered(ctx, pipe, answer)
		case errors.Is(err, ErrNoChannel):
			j, err = s.openByEvents(n, params, func(p []byte) ([]byte, error) { return s.c.Nodes.InvokeInternal(ctx, n.ID, "terminal.attach", p) })
		}
		if err == nil {
			return j, nil
		}
		if there, lerr := s.listed(ctx, n, r.Session); lerr == nil && !there {
			return nil, errNoneHere
		}
		return nil, err
	}
	there, err := s.listed(ctx, n, r.Session)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, errNoneHere
	}
	return s.openByEvents(n, params, func([]byte) ([]byte, error) { return json.Marshal(map[string]string{"session_id": r.Session}) })
}

// listed asks the node whether it has a terminal.
func (s *Service) listed(ctx context.Context, n Node, id string) (bool, error) {
	payload, err := s.c.Nodes.InvokeInternal(ctx, n.ID, "terminal.list", []byte(`{}`))
	if err != nil {
		return false, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(payload, &list); err != nil {
		return false, ErrAnswer.Wrap(err)
	}
	return slices.ContainsFunc(list, func(one json.RawMessage) bool {
		o, err := readOpened(one)
		return err == nil && o.Session == id
	}), nil
}

// Came says that a node has connected, Left that it is gone. Neither waits.
func (s *Service) Came(nodeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.all {
		if t.record().NodeID == nodeID {
			select {
			case t.came <- struct{}{}:
			default:
			}
		}
	}
}

// Left implements the other half of Came.
func (s *Service) Left(nodeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, w := range s.sessions {
		if k.node == nodeID {
			w.cut()
		}
	}
}
