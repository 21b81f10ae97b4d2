package tech

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// sweepTime is how often idle sessions are looked for.
	sweepTime = 30 * time.Second
	// recordTime bounds the wait for the disk, and closeTime that for a node, after whoever asked has gone.
	recordTime = 10 * time.Second
	closeTime  = 5 * time.Second
	// maxDirectories and maxDirectory bound what a session is opened with: entries, and bytes in one.
	maxDirectories = 64
	maxDirectory   = 4096
	// MaxList bounds one answer of List and of ListAudit.
	MaxList = 1000
)

// Config of New. All but Log is required.
type Config struct {
	Settings func() Settings
	Nodes    Nodes
	Store    Store
	// Standing returns nil as long as what let a caller in still does.
	Standing func(identity.Caller) error
	Now      func() time.Time
	Log      *slog.Logger
}

// Service is the technician sessions. Its methods may be called concurrently. It owns a goroutine for each active
// session, which follows its node, and one that looks for idle ones; Stop ends them.
type Service struct {
	c Config

	mu      sync.Mutex
	live    map[string]*hold // by session
	opening map[string]bool  // nodes with a session on its way
	// unclosed are sessions that have ended and are active on disk, because that failed: it is tried again.
	unclosed map[string]unclosed
	closed   bool
	commands map[string][]time.Time // of the last minute, by operator and node
	refused  map[string]int64       // refusals by reason, for metrics
	ran      int64

	stop chan struct{}
	wg   sync.WaitGroup
}

// New makes the service. Start makes it ready.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		c: c, live: map[string]*hold{}, opening: map[string]bool{}, unclosed: map[string]unclosed{}, commands: map[string][]time.Time{}, refused: map[string]int64{},
		stop: make(chan struct{}),
	}
}

// Start closes what a daemon before this one has left active, and begins to look for idle sessions.
func (s *Service) Start(ctx context.Context) error {
	for after := ""; ; {
		page, err := s.c.Store.TechSessions(ListIn{Status: Active, After: after, Limit: MaxList})
		if err != nil {
			return err
		}
		for _, r := range page {
			after = r.ID
			now := s.c.Now()
			r.Status, r.Reason, r.ClosedAt = Closed, Restarted, now
			if err := s.c.Store.ChangeTechSession(ctx, r, s.row(r, "", "close", "ok", "hanzod", map[string]any{"reason": string(Restarted)})); err != nil {
				return err
			}
			s.c.Nodes.Mode(r.NodeID, "")
		}
		if len(page) < MaxList {
			break
		}
	}
	s.wg.Go(func() { // ends with Stop
		t := time.NewTicker(sweepTime)
		defer t.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-t.C:
				s.Sweep()
			}
		}
	})
	return nil
}

// Stop closes the active sessions and returns when their goroutines have ended, or with ctx.
func (s *Service) Stop(ctx context.Context) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.stop)
	for _, h := range s.live {
		s.wg.Go(func() { _ = h.end(Restarted, "hanzod") }) // it is logged
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// row makes a row of the audit log.
func (s *Service) row(r Session, channel, op, outcome, subject string, detail map[string]any) Audit {
	return Audit{
		At: s.c.Now(), SessionID: r.ID, ChannelID: channel, NodeID: r.NodeID, Subject: subject, Tenant: r.Tenant, Operation: op, Outcome: outcome, Detail: detail,
	}
}

func (s *Service) refuse(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[reason]++
}

// Open lets the caller hold a node.
//
// Errors: ErrScope, ErrDisabled, ErrNode, ErrKind, ErrDirectory, ErrOffline, ErrHeld, ErrForeign (to take over somebody
// else's takes the scope operator.admin), ErrTooMany, ErrStopping, and what decides on the node's tech.open.
func (s *Service) Open(ctx context.Context, c identity.Caller, in OpenIn) (Session, error) {
	set := s.c.Settings()
	switch {
	case !c.Has(identity.ScopeWrite):
		return Session{}, ErrScope
	case !set.Enabled:
		return Session{}, ErrDisabled
	case strings.TrimSpace(in.NodeID) == "":
		return Session{}, ErrNode
	}
	kinds, err := kindsOf(in.Kinds)
	if err != nil {
		return Session{}, err
	}
	dirs, err := directoriesOf(in.Directories, set.Directories)
	if err != nil {
		return Session{}, err
	}
	n, err := s.c.Nodes.Node(c, in.NodeID)
	switch {
	case err != nil:
		return Session{}, ErrOffline.Wrap(err)
	case !n.Connected:
		return Session{}, ErrOffline
	}
	now := s.c.Now()
	r := Session{
		ID: uuid.NewString(), Owner: c.Subject(), Name: c.Name(), Tenant: c.Tenant, NodeID: n.ID, Kinds: kinds, ReadOnly: in.ReadOnly, Directories: dirs,
		Status: Active, OpenedAt: now, LastActivity: now,
	}
	if err := s.reserve(n.ID); err != nil {
		return Session{}, err
	}
	defer s.unreserve(n.ID)
	if err := s.claim(ctx, c, r, in.Takeover); err != nil {
		return Session{}, err
	}
	opening, cancel := context.WithTimeout(ctx, OpenTime)
	lane, err := s.c.Nodes.Open(opening, c, OpenNode{
		NodeID: n.ID, SessionID: r.ID, Owner: r.Name, Kinds: kinds, ReadOnly: in.ReadOnly, Directories: dirs,
	})
	cancel()
	if err != nil {
		s.abandon(ctx, r, err)
		return Session{}, err
	}
	r.Emulated = lane.Emulated()
	h := newHold(s, c, r, lane)
	s.mu.Lock()
	stopping := s.closed
	if !stopping {
		s.live[r.ID] = h
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if stopping {
		_ = lane.Close(ctx, Restarted) // the link ends as well
		s.abandon(ctx, r, ErrStopping)
		return Session{}, ErrStopping
	}
	s.c.Nodes.Mode(n.ID, r.ID) // before its end can be noticed
	go h.follow()
	// What let the caller in may have ended meanwhile.
	if err := s.c.Standing(c); err != nil {
		_ = h.end(Revoked, "hanzod") // it is logged
		return Session{}, err
	}
	s.c.Log.Info("a technician session was opened", "session", r.ID, "node", n.ID, "owner", r.Owner, "emulated", r.Emulated, "readOnly", r.ReadOnly)
	h.hub.tell(Event{Type: "opened", Subject: r.Owner, Text: n.ID})
	return h.shown(), nil
}

// claim writes the session down as the one that holds its node. One that it takes over ends before.
func (s *Service) claim(ctx context.Context, c identity.Caller, r Session, takeover bool) error {
	detail := map[string]any{"kinds": r.Kinds, "read_only": r.ReadOnly, "directories": r.Directories}
	row := s.row(r, "", "open", "ok", r.Owner, detail)
	if old := s.holder(r.NodeID); old != nil {
		switch {
		case old.ending(): // it is let go now
		case !takeover:
			s.refuse("held")
			return ErrHeld
		case s.sees(c, old.owner, old.tenant, false) != nil:
			s.refuse("foreign")
			return ErrForeign
		default:
			if err := old.end(TakenOver, r.Owner); err != nil {
				return err
			}
			row.Operation, detail["taken"] = "takeover", old.id
			s.c.Log.Warn("a technician session was taken over", "session", old.id, "node", r.NodeID, "by", r.Owner)
		}
		// The node serves one session: it is told of the end of the old one first, for as long as closeTime.
		select {
		case <-old.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := s.settle(ctx, r.NodeID); err != nil {
		return err
	}
	err := s.c.Store.OpenTechSession(ctx, r, row)
	if errors.Is(err, ErrHeld) {
		s.refuse("held")
	}
	return err
}

// abandon closes a session that its node did not take.
func (s *Service) abandon(ctx context.Context, r Session, why error) {
	r.Status, r.Reason, r.ClosedAt = Closed, NodeEnded, s.c.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	end := unclosed{r, s.row(r, "", "close", outcomeOf(why), r.Owner, map[string]any{"reason": string(NodeEnded)})}
	if err := s.c.Store.ChangeTechSession(ctx, end.session, end.row); err != nil {
		s.later(end, err)
	}
}

// outcomeOf is an error for a row.
func outcomeOf(err error) string {
	if e, ok := errs.As(err); ok && e.Text != "" {
		return e.Text
	}
	return err.Error()
}

// unclosed is a session that has ended, with the row that says so.
type unclosed struct {
	session Session
	row     Audit
}

// later keeps a session that could not be written down as closed. There is one for a node at the most: as long as it is
// there, no other session of the node begins.
func (s *Service) later(end unclosed, err error) {
	s.c.Log.Error("a technician session could not be written down as closed; that is tried again", "session", end.session.ID, "reason", end.session.Reason, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unclosed[end.session.ID] = end
}

// settle writes down what later keeps, of a node or of all.
func (s *Service) settle(ctx context.Context, node string) error {
	s.mu.Lock()
	var all []unclosed
	for _, end := range s.unclosed {
		if node == "" || end.session.NodeID == node {
			all = append(all, end)
		}
	}
	s.mu.Unlock()
	for _, end := range all {
		err := s.c.Store.ChangeTechSession(ctx, end.session, end.row)
		if err != nil && !errors.Is(err, ErrUnknown) { // it went with its node
			return err
		}
		s.mu.Lock()
		delete(s.unclosed, end.session.ID)
		s.mu.Unlock()
	}
	return nil
}

// reserve lets one session at a time begin on a node.
func (s *Service) reserve(node string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrStopping
	case s.opening[node]:
		s.refused["held"]++
		return ErrHeld
	case len(s.live)+len(s.opening) >= MaxSessions:
		return ErrTooMany
	}
	s.opening[node] = true
	return nil
}

func (s *Service) unreserve(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opening, node)
}

func (s *Service) holder(node string) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.live {
		if h.node == node {
			return h
		}
	}
	return nil
}

func kindsOf(in []message.Kind) ([]message.Kind, error) {
	if len(in) == 0 {
		return slices.Clone(message.Kinds), nil
	}
	var out []message.Kind
	for _, k := range in {
		switch {
		case !slices.Contains(message.Kinds, k):
			return nil, ErrKind
		case !slices.Contains(out, k):
			out = append(out, k)
		}
	}
	return out, nil
}

// directoriesOf are the directories of a session, each below one of the configuration's when that has any.
func directoriesOf(in, bound []string) ([]string, error) {
	if len(in) == 0 {
		return slices.Clone(bound), nil
	}
	if len(in) > maxDirectories {
		return nil, ErrDirectory.WithText(fmt.Sprintf("a technician session has at most %d directories", maxDirectories))
	}
	for _, d := range in {
		switch {
		case len(d) > maxDirectory || strings.ContainsRune(d, 0) || !absolute(d):
			return nil, ErrDirectory.WithText("a directory of a technician session is an absolute path")
		case len(bound) > 0 && !within(bound, d):
			return nil, ErrDirectory.WithText("the directory is outside of those in tunnel.tech.directories")
		}
	}
	return slices.Clone(in), nil
}

var windowsRoot = regexp.MustCompile(`^[A-Za-z]:[\\/]`)

func absolute(p string) bool { return strings.HasPrefix(p, "/") || windowsRoot.MatchString(p) }

// within says whether a path, by its words alone, is one of the directories or below. The node looks again at what is
// really there.
func within(dirs []string, p string) bool {
	clean, ok := cleanPath(p)
	if !ok {
		return false
	}
	for _, d := range dirs {
		d, ok := cleanPath(d)
		if ok && (clean == d || strings.HasPrefix(clean, strings.TrimSuffix(d, "/")+"/")) {
			return true
		}
	}
	return false
}

// cleanPath is an absolute path without its dots, with Windows' separators and letters put alike.
func cleanPath(p string) (string, bool) {
	if strings.ContainsRune(p, 0) || !absolute(p) {
		return "", false
	}
	if windowsRoot.MatchString(p) {
		p = "/" + strings.ToLower(strings.ReplaceAll(p, `\`, "/"))
	}
	return path.Clean(p), true
}

// isUUID says whether an id is a UUID as it is written plainly: no other spelling of one is.
func isUUID(id string) bool { return len(id) == 36 && uuid.Validate(id) == nil }

// find is an active session that the caller may see: its own, or with the scope operator.admin anybody's of its tenant.
// own demands that it is its own.
func (s *Service) find(c identity.Caller, id string, own bool) (*hold, error) {
	if !isUUID(id) {
		return nil, ErrSession
	}
	id = strings.ToLower(id)
	s.mu.Lock()
	h := s.live[id]
	s.mu.Unlock()
	if h == nil {
		r, err := s.stored(c, id)
		switch {
		case err != nil:
			return nil, err
		case own && r.Owner != c.Subject():
			return nil, ErrForeign
		}
		return nil, ErrEnded
	}
	if err := s.sees(c, h.owner, h.tenant, own); err != nil {
		return nil, err
	}
	return h, nil
}

func (s *Service) sees(c identity.Caller, owner, tenant string, own bool) error {
	switch {
	case c.Tenant != "" && c.Tenant != tenant:
		return ErrUnknown
	case owner == c.Subject():
		return nil
	case own || !c.Has(identity.ScopeAdmin):
		return ErrForeign
	}
	return nil
}

// stored is a session as the store has it, when the caller may see it.
func (s *Service) stored(c identity.Caller, id string) (Session, error) {
	s.mu.Lock()
	ended, ok := s.unclosed[strings.ToLower(id)]
	s.mu.Unlock()
	r := ended.session
	if !ok {
		var err error
		if r, err = s.c.Store.TechSession(strings.ToLower(id)); err != nil {
			return Session{}, err
		}
	}
	if err := s.sees(c, r.Owner, r.Tenant, false); err != nil {
		return Session{}, err
	}
	return r, nil
}

// Get returns a session of the caller, an active or a closed one.
// Errors: ErrScope, ErrSession, ErrUnknown, ErrForeign.
func (s *Service) Get(_ context.Context, c identity.Caller, id string) (Session, error) {
	if !c.Has(identity.ScopeRead) {
		return Session{}, ErrScope
	}
	h, err := s.find(c, id, false)
	switch {
	case errors.Is(err, ErrEnded):
		return s.stored(c, id)
	case err != nil:
		return Session{}, err
	}
	return h.shown(), nil
}

// List returns sessions, the newest first.
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) ([]Session, error) {
	if !c.Has(identity.ScopeRead) {
		return nil, ErrScope
	}
	if in.Tenant = c.Tenant; !c.Has(identity.ScopeAdmin) {
		in.Owner = c.Subject()
	}
	if in.Limit <= 0 || in.Limit > MaxList {
		in.Limit = MaxList
	}
	all, err := s.c.Store.TechSessions(in)
	if err != nil {
		return nil, err
	}
	for i, r := range all {
		s.mu.Lock()
		h := s.live[r.ID]
		s.mu.Unlock()
		if h != nil {
			all[i] = h.shown()
		}
	}
	return all, nil
}

// Close ends a session of the caller. One that is closed already stays as it is.
// Errors: ErrScope, ErrSession, ErrUnknown, ErrForeign, ErrEnded.
func (s *Service) Close(_ context.Context, c identity.Caller, id string) (Session, error) {
	if !c.Has(identity.ScopeWrite) {
		return Session{}, ErrScope
	}
	h, err := s.find(c, id, false)
	if err != nil {
		return Session{}, err
	}
	if err := h.end(ByOperator, c.Subject()); err != nil {
		return Session{}, err
	}
	return s.stored(c, id)
}

// Revoke ends the sessions of callers whose credential has ended, and what others do in them. It does not wait.
func (s *Service) Revoke(covers func(identity.Caller) bool) {
	s.soon(func() {
		for _, h := range s.all() {
			if covers(h.caller) {
				_ = h.end(Revoked, "hanzod") // it is logged
				continue
			}
			h.leave(covers)
		}
	})
}

// soon does something that waits for the disk, before Stop returns.
func (s *Service) soon(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // everything ends
		return
	}
	s.wg.Go(do)
}

// NodeRemoved ends the session of a node that is removed, and forgets those that were; their audit stays. It does not
// wait.
func (s *Service) NodeRemoved(nodeID string) {
	s.soon(func() {
		if h := s.holder(nodeID); h != nil {
			_ = h.end(Removed, "hanzod") // it is logged
		}
		ctx, cancel := context.WithTimeout(context.Background(), recordTime)
		defer cancel()
		if err := s.c.Store.RemoveTechSessions(ctx, nodeID); err != nil {
			s.c.Log.Error("the technician sessions of a node that was removed could not be removed", "node", nodeID, "err", err)
		}
	})
}

func (s *Service) all() []*hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*hold, 0, len(s.live))
	for _, h := range s.live {
		out = append(out, h)
	}
	return out
}

// Sweep ends the sessions in which nothing happened for too long, and those whose credential has ended.
func (s *Service) Sweep() {
	idle := s.c.Settings().Idle
	if idle <= 0 {
		idle = DefaultIdle
	}
	now := s.c.Now()
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	_ = s.settle(ctx, "") // it is tried again
	s.forgetCommands(now)
	for _, h := range s.all() {
		switch {
		case now.Sub(h.active()) >= idle:
			_ = h.end(Idle, "hanzod") // it is logged
		case s.c.Standing(h.caller) != nil:
			_ = h.end(Revoked, "hanzod") // it is logged
		default:
			h.keep(now)
		}
	}
}

// ListAudit returns the rows of a session of the caller, the oldest first, after a row.
func (s *Service) ListAudit(_ context.Context, c identity.Caller, id string, after uint64, limit int) ([]Audit, error) {
	if !c.Has(identity.ScopeRead) {
		return nil, ErrScope
	}
	if !isUUID(id) {
		return nil, ErrSession
	}
	if limit <= 0 || limit > MaxList {
		limit = MaxList
	}
	id = strings.ToLower(id)
	_, err := s.stored(c, id)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return nil, err
	}
	rows, auditErr := s.c.Store.TechAudit(id, after, limit)
	switch {
	case auditErr != nil:
		return nil, auditErr
	case err != nil && len(rows) == 0 && after == 0:
		return nil, ErrUnknown
	case err == nil || len(rows) == 0:
		return rows, nil
	}
	// The session went with its node: its first row says whose it was.
	first, err := s.c.Store.TechAudit(id, 0, 1)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	if err := s.sees(c, first[0].Subject, first[0].Tenant, false); err != nil {
		return nil, err
	}
	return rows, nil
}

// Stats are figures for metrics.
type Stats struct {
	Sessions, Channels, Watchers int
	Commands                     int64
	Refused                      map[string]int64
}

// Stats counts what there is.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	out := Stats{Sessions: len(s.live), Commands: s.ran, Refused: maps.Clone(s.refused)}
	s.mu.Unlock()
	for _, h := range s.all() {
		r := h.shown()
		out.Channels += len(r.Channels)
		out.Watchers += r.Watchers
	}
	return out
}

// Export gives all sessions of the caller's tenant, the oldest last, and then all rows of their audit, the oldest first.
// It takes the scope operator.admin. An error of a function ends it.
func (s *Service) Export(ctx context.Context, c identity.Caller, session func(Session) error, row func(Audit) error) error {
	if !c.Has(identity.ScopeAdmin) {
		return ErrScope.WithText("the export of technician sessions takes the scope operator.admin")
	}
	for after := ""; ; {
		page, err := s.c.Store.TechSessions(ListIn{After: after, Limit: MaxList, Tenant: c.Tenant})
		if err != nil {
			return err
		}
		for _, r := range page {
			after = r.ID
			if err := session(r); err != nil {
				return err
			}
		}
		if len(page) < MaxList {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for after := uint64(0); ; {
		page, err := s.c.Store.TechAudit("", after, MaxList)
		if err != nil {
			return err
		}
		for _, a := range page {
			after = a.ID
			if c.Tenant != "" && a.Tenant != c.Tenant {
				continue
			}
			if err := row(a); err != nil {
				return err
			}
		}
		if len(page) < MaxList {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
