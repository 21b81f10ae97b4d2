package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/companion"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// maxApprovalsFile bounds an exec approvals file, as the node host does.
const maxApprovalsFile = 4 << 20

// serveSocket is the companion app of this machine: it answers the questions of its node host on this
// terminal.
func (a *app) serveSocket(ctx context.Context, file string) error {
	if !isTerminal(a.stdin) || !isTerminal(a.stdout) {
		return usagef("--serve-socket asks on a terminal, and this is none")
	}
	file, err := a.approvalsFile(file)
	if err != nil {
		return err
	}
	path, token, err := readSocket(file)
	if err != nil {
		return err
	}
	l, err := companion.Listen(ctx, path)
	if err != nil {
		return fmt.Errorf("offer the socket to the node host: %w", err)
	}
	s := &socketSource{l: l, token: token, open: map[string]*openPrompt{}}
	return a.board(ctx, s, &board{color: a.color(), now: time.Now, once: true,
		note: "answering the node host that uses " + Text(file)})
}

// approvalsFile is the exec approvals file of this machine's node host: the given one, else that of the
// daemon's node, else that of a node host of its own.
func (a *app) approvalsFile(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	dir := a.stateDir
	if dir == "" {
		dir = client.DefaultStateDir(a.getenv)
	}
	tried := []string{filepath.Join(dir, "exec-approvals.json")}
	if a.stateDir == "" {
		if node := a.getenv("HANZOD_NODE_STATE_DIR"); node != "" {
			tried = append(tried, filepath.Join(node, "exec-approvals.json"))
		} else if home, err := os.UserHomeDir(); err == nil {
			tried = append(tried, filepath.Join(home, ".hanzo", "node", "exec-approvals.json"))
		}
	}
	for _, path := range tried {
		if _, err := os.Stat(path); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", &codeError{code: exitNotFound, text: fmt.Sprintf(
		"no exec approvals file is at %s; start the node host once, or name its file with --serve-socket=FILE", tried[0])}
}

// readSocket reads where the socket has to be, and its secret.
func readSocket(file string) (path, token string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxApprovalsFile+1))
	if err != nil {
		return "", "", err
	}
	var doc struct {
		Socket struct{ Path, Token string }
	}
	if len(raw) > maxApprovalsFile || json.Unmarshal(raw, &doc) != nil {
		return "", "", fmt.Errorf("%s is no exec approvals file", file)
	}
	if doc.Socket.Path == "" || doc.Socket.Token == "" {
		return "", "", fmt.Errorf("%s names no socket yet; start the node host once", file)
	}
	return doc.Socket.Path, doc.Socket.Token, nil
}

// socketSource is the node hosts of this machine. It numbers their questions, because ids are theirs.
type socketSource struct {
	l     net.Listener
	token string

	mu    sync.Mutex
	count int
	open  map[string]*openPrompt
}

type openPrompt struct {
	approval *approvalsv1.Approval
	answer   chan companion.Decision // of size one
}

func (s *socketSource) list(context.Context) ([]*approvalsv1.Approval, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*approvalsv1.Approval
	for i := range s.count + 1 {
		if p := s.open[promptID(i)]; p != nil {
			out = append(out, p.approval)
		}
	}
	return out, nil
}

func promptID(n int) string { return fmt.Sprintf("prompt-%d", n) }

func (s *socketSource) watch(ctx context.Context, out chan<- change) {
	srv := &companion.Server{Token: s.token, Answer: func(asked context.Context, p companion.Prompt) (companion.Decision, bool) {
		return s.ask(asked, out, p)
	}}
	if err := srv.Serve(ctx, s.l); err != nil && ctx.Err() == nil {
		send(ctx, out, change{err: err})
	}
}

// ask puts a question on the board and waits for its answer, as long as somebody wants it.
func (s *socketSource) ask(ctx context.Context, out chan<- change, p companion.Prompt) (companion.Decision, bool) {
	s.mu.Lock()
	s.count++
	q := &openPrompt{approval: promptApproval(promptID(s.count), p), answer: make(chan companion.Decision, 1)}
	s.open[q.approval.GetId()] = q
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.open, q.approval.GetId())
		s.mu.Unlock()
	}()
	if !send(ctx, out, change{approval: q.approval}) {
		return "", false
	}
	select {
	case d := <-q.answer:
		return d, true
	case <-ctx.Done():
		gone := &approvalsv1.Approval{Id: q.approval.GetId(), State: approvalsv1.State_STATE_EXPIRED}
		select {
		case out <- change{approval: gone}:
		case <-time.After(redrawEvery): // the board is gone
		}
		return "", false
	}
}

// promptApproval shows a question of a node host like any other.
func promptApproval(id string, p companion.Prompt) *approvalsv1.Approval {
	opt := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	now := time.Now()
	return &approvalsv1.Approval{
		Id: id, State: approvalsv1.State_STATE_PENDING, Command: p.Command, Cwd: opt(p.Cwd), Host: opt("this machine"),
		Security: opt(p.Security), Ask: opt(p.Ask), AgentId: opt(p.AgentID), ResolvedPath: opt(p.ResolvedPath), SessionKey: opt(p.SessionKey),
		CreatedAt: timestamppb.New(now), ExpiresAt: timestamppb.New(now.Add(companion.MaxWait)), RequestedBy: "the node host of this machine",
	}
}

var promptDecisions = map[approvalsv1.Decision]companion.Decision{
	approvalsv1.Decision_DECISION_ALLOW_ONCE:   companion.AllowOnce,
	approvalsv1.Decision_DECISION_ALLOW_ALWAYS: companion.AllowAlways,
	approvalsv1.Decision_DECISION_DENY:         companion.Deny,
}

func (s *socketSource) decide(_ context.Context, act action) (*approvalsv1.Approval, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.open[act.id]
	if q == nil {
		return &approvalsv1.Approval{Id: act.id, State: approvalsv1.State_STATE_EXPIRED}, false, nil
	}
	delete(s.open, act.id)
	q.answer <- promptDecisions[act.decision] // of size one, and taken out above
	p := &approvalsv1.Approval{Id: act.id, State: approvalsv1.State_STATE_ALLOWED, Decision: act.decision, Command: q.approval.GetCommand()}
	if act.decision == approvalsv1.Decision_DECISION_DENY {
		p.State = approvalsv1.State_STATE_DENIED
	}
	return p, true, nil
}

func (s *socketSource) detail(context.Context, string) (detail, error) {
	return detail{}, errors.ErrUnsupported
}
