package runs

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// Sent is a system.run that is about to leave for a node, whoever asked for it.
type Sent struct {
	InvokeID string
	NodeID   string
	Caller   identity.Caller
	// Own is the id of the run when it is one of this package, empty otherwise.
	Own string
	// Params is what the node is sent, JSON text.
	Params []byte
	// Streams says that the node will send what the command writes.
	Streams bool
}

// Leaving is called right before a command leaves. An error keeps it: the run was ended meanwhile. It
// does not block.
func (s *Service) Leaving(in Sent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Own == "" {
		if l := s.follow(in); l != nil {
			s.invokes[in.InvokeID] = l
		}
		return nil
	}
	l, ok := s.live[in.Own]
	if !ok {
		return ErrUnknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed || l.left {
		return ErrKilled
	}
	l.left, l.invokeID = true, in.InvokeID
	l.run.StartedAt, l.run.Streams = s.now(), in.Streams
	if l.run.Tried {
		l.run.State = Running
	} else {
		time.AfterFunc(refusalTime, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.invokeID == in.InvokeID {
				l.runs()
			}
		})
	}
	l.version++
	l.tell()
	s.invokes[in.InvokeID] = l
	return nil
}

// runs notes that a command that left has begun. The caller holds mu.
func (l *live) runs() {
	if l.left && l.run.State == Starting {
		l.run.State = Running
		l.version++
		l.tell()
	}
}

// follow makes an entry for an approved run of another door, nil when it is not to be followed. The
// caller holds mu.
func (s *Service) follow(in Sent) *live {
	var p struct {
		RunID            string
		Approved         bool
		Command          json.RawMessage
		RawCommand, Cwd  *string
		AgentID          *string
		SessionKey       *string
		Env              map[string]json.RawMessage
		ApprovalDecision string
	}
	if json.Unmarshal(in.Params, &p) != nil || !p.Approved || p.RunID == "" || len(p.RunID) > maxErrorText || len(s.foreign) >= maxForeign {
		return nil
	}
	if _, own := s.live[p.RunID]; own {
		return nil
	}
	if l, known := s.foreign[p.RunID]; known && !l.get().State.Ended() {
		return nil // an approval for good, used twice at once: the first is the one that is seen
	}
	r := Run{
		ID: p.RunID, State: Running, NodeID: in.NodeID, Requester: requesterOf(in.Caller), ApprovalID: p.RunID,
		CreatedAt: s.now(), StartedAt: s.now(), Streams: in.Streams, Foreign: true,
		Cwd: text(p.Cwd), AgentID: text(p.AgentID), SessionKey: text(p.SessionKey), Command: text(p.RawCommand),
	}
	_ = json.Unmarshal(p.Command, &r.Argv) // what is no list has no words to show
	for k := range p.Env {
		r.EnvKeys = append(r.EnvKeys, k)
	}
	l := newLive(r)
	l.left, l.invokeID = true, in.InvokeID
	s.foreign[r.ID] = l
	return l
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Wrote takes what a command wrote. It does not block: who watches too slowly loses some of it.
func (s *Service) Wrote(invokeID string, c Chunk) {
	s.mu.Lock()
	l, ok := s.invokes[invokeID]
	if !ok || len(c.Data) > maxChunk || (c.Stream != Stdout && c.Stream != Stderr) {
		s.mu.Unlock()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tail == nil && s.tails < tailRuns {
		l.tail = newTail()
		s.tails++
	}
	s.mu.Unlock()
	l.runs()
	if l.tail != nil && l.tail.add(c) {
		l.tell()
	}
}

// Left is called when a command that left has ended, or its end will not be seen; with sent false it did
// not leave after all. It does not block.
func (s *Service) Left(invokeID string, payload []byte, err error, sent bool) {
	s.mu.Lock()
	l, ok := s.invokes[invokeID]
	if !ok {
		s.mu.Unlock()
		return
	}
	delete(s.invokes, invokeID)
	l.mu.Lock()
	if l.tail != nil {
		s.tails-- // its readers have it; nobody finds it any more
	}
	if !sent {
		l.left, l.invokeID = false, ""
	}
	foreign := l.run.Foreign
	if foreign {
		l.forget = s.now().Add(foreignFor)
	}
	l.mu.Unlock()
	s.mu.Unlock()
	if !foreign {
		return // its own goroutine has the answer
	}
	l.set(func(r *Run) {
		r.EndedAt = s.now()
		conclude(r, payload, err, sent)
	})
}

// forget drops the runs of other doors that ended a while ago.
func (s *Service) forget() {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.foreign {
		l.mu.Lock()
		over := !l.forget.IsZero() && (now.After(l.forget) || l.forget.Sub(now) > foreignFor)
		l.mu.Unlock()
		if over {
			delete(s.foreign, id)
		}
	}
}

// withdraw ends the question of a run that will not need it, for the sake of those who are asked.
func (s *Service) withdraw(ctx context.Context, c identity.Caller, id string) {
	if err := s.approvals.Withdraw(ctx, c, id); err != nil && ctx.Err() == nil {
		s.log.Info("the question of a run that was ended stays open", "run", id, "error", err)
	}
}
