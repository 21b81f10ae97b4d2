package screens

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
)

// calls are the nodes of the older kind that were asked to come back (tunnel.md §2.7).
type calls struct {
	key [32]byte // random per start

	mu      sync.Mutex
	pending map[string]chan Pipe // by id, with room for one
}

func newCalls() *calls {
	c := &calls{pending: map[string]chan Pipe{}}
	rand.Read(c.key[:]) // never fails
	return c
}

// token is <id>.<hex HMAC-SHA256 of id>.
func (c *calls) token(id string) string {
	m := hmac.New(sha256.New, c.key[:])
	m.Write([]byte(id)) // never fails
	return id + "." + hex.EncodeToString(m.Sum(nil))
}

// callNode asks a node to come back, and waits for it.
func (s *Service) callNode(ctx context.Context, nodeID string) (Pipe, error) {
	id, came := uuid.NewString(), make(chan Pipe, 1)
	s.call.mu.Lock()
	if len(s.call.pending) >= MaxCalls {
		s.call.mu.Unlock()
		return nil, ErrTooMany
	}
	s.call.pending[id] = came
	s.call.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.c.Wait)
	defer cancel()
	type answer struct {
		code string
		err  error
	}
	failed := make(chan answer, 1)
	go func() { // ends with ctx
		if code, err := s.c.Nodes.Call(ctx, nodeID, s.call.token(id)); err != nil {
			failed <- answer{code, err}
		}
	}()
	var err error
	select {
	case p := <-came:
		return p, nil
	case a := <-failed:
		if err = ErrCallFailed.With("node", nodeID, "code", a.code).Wrap(a.err); errs.ClassOf(a.err) == errs.Deadline {
			err = ErrCallLate.With("node", nodeID)
		}
	case <-ctx.Done():
		if err = ErrCallLate.With("node", nodeID); context.Cause(ctx) != context.DeadlineExceeded { //nolint:errorlint // the timer's own
			err = ctx.Err()
		}
	}
	s.call.mu.Lock()
	delete(s.call.pending, id)
	s.call.mu.Unlock()
	select {
	case p := <-came: // it came just now
		return p, nil
	default:
		return nil, err
	}
}

// Called checks the token that a node came back with, and takes it: it counts once. deliver hands the way to the
// node over; the way is closed by who looks. It fails with ErrCallRequired for none and with ErrCallUnknown for one
// that is forged, was used, or is waited for no more.
func (s *Service) Called(token string) (deliver func(Pipe), err error) {
	if token == "" {
		return nil, ErrCallRequired
	}
	id, _, _ := strings.Cut(token, ".")
	if len(token) > 256 || !hmac.Equal([]byte(s.call.token(id)), []byte(token)) {
		return nil, ErrCallUnknown
	}
	s.call.mu.Lock()
	defer s.call.mu.Unlock()
	came := s.call.pending[id]
	if came == nil {
		return nil, ErrCallUnknown
	}
	delete(s.call.pending, id)
	return func(p Pipe) {
		came <- p
		// Who waited may have gone between the two.
		time.AfterFunc(s.c.Wait, func() {
			select {
			case p := <-came:
				_ = p.Close(ErrCallLate)
			default:
			}
		})
	}, nil
}
