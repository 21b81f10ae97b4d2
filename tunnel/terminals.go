package tunnel

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

// Config is what the service needs. Log may be nil.
type Config struct {
	Nodes Nodes
	Store Store
	Now   func() time.Time
	Log   *slog.Logger
	// Linger and Away replace the constants when they are positive.
	Linger, Away time.Duration
}

// Service is the terminals of all nodes. Its methods are safe for concurrent use.
type Service struct {
	c    Config
	life context.Context //nolint:containedctx // ends with Stop
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	all      map[string]*term
	sessions map[session]*eventWay // terminals fed by events
	early    map[string]*early     // by node, while one is opened there
	opening  int
	stopped  bool
}

// session names a terminal as its node does.
type session struct{ node, id string }

// New returns a service that knows nothing; Start reads what the daemon before this one knew.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Linger <= 0 {
		c.Linger = Linger
	}
	if c.Away <= 0 {
		c.Away = Away
	}
	//nolint:contextcheck // the service's own lifetime, ended by Stop
	life, stop := context.WithCancel(context.Background())
	return &Service{c: c, life: life, stop: stop, all: map[string]*term{}, sessions: map[session]*eventWay{}, early: map[string]*early{}}
}

// Start finds the terminals again that were open when the last daemon stopped or died: each is joined when its
// node is there.
func (s *Service) Start() error {
	records, err := s.c.Store.Terminals()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		t := s.newTerm(r)
		s.all[r.ID] = t
		s.wg.Go(func() { s.follow(t, nil) })
	}
	return nil
}

// Stop lets go of all terminals; their programs go on. It returns when the goroutines have ended.
func (s *Service) Stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
}

// Terminal is one, as it is now.
type Terminal struct {
	Record
	Viewers int
	// Start and End are the numbers of the first byte of output that is kept and of the next.
	Start, End int64
	// Connected says that output comes and input goes.
	Connected bool
	// Exit is nil while the program runs.
	Exit *terminal.Exit
}

// term is one terminal. It goes one way: joined and away in turns, then ended.
type term struct {
	feed *terminal.Feed
	came chan struct{} // holds one token when the node has connected

	mu      sync.Mutex
	rec     Record
	up      upstream      // nil while away
	changed chan struct{} // closed and replaced when up changes
}

// upstream is the way to the program.
type upstream interface {
	Input(ctx context.Context, b []byte) error
	Resize(cols, rows int) error
}

func (s *Service) newTerm(r Record) *term {
	return &term{feed: terminal.NewFeed(0), came: make(chan struct{}, 1), rec: r, changed: make(chan struct{})}
}

func (t *term) set(up upstream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.up = up
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *term) way() (up upstream, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up, t.changed
}

func (t *term) record() Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec
}

func (t *term) show() Terminal {
	out := Terminal{Record: t.record(), Viewers: t.feed.Viewers()}
	up, _ := t.way()
	out.Connected = up != nil
	out.Start, out.End = t.feed.Range()
	if e, ended := t.feed.Exit(); ended {
		out.Exit, out.Connected = &e, false
	}
	return out
}

// OpenIn and OpenOut are the arguments and the result of Open.
type (
	OpenIn struct {
		NodeID string
		// Shell is the program, the shell of the node's user when empty; Argv a program with its arguments in its place.
		Shell string
		Argv  []string
		Cwd   string
		Env   map[string]string
		// Cols and Rows are 80 and 24 when zero.
		Cols, Rows int
	}
	OpenOut struct {
		Terminal Terminal
	}
)

func (in *OpenIn) check() error {
	switch {
	case in.NodeID == "":
		return ErrNodeRequired
	case in.Cols < 0 || in.Cols > terminal.MaxSide || in.Rows < 0 || in.Rows > terminal.MaxSide:
		return ErrSize
	case len(in.Argv) > maxArgs || len(in.Env) > maxEnv:
		return ErrSpec
	}
	texts := append([]string{in.Shell, in.Cwd}, in.Argv...)
	for k, v := range in.Env {
		texts = append(texts, k, v)
	}
	for _, t := range texts {
		if len(t) > maxArg || strings.ContainsRune(t, 0) {
			return ErrSpec
		}
	}
	return nil
}

// opened is a node's answer to terminal.open (tunnel.md §1.6).
type opened struct {
	Session string
	Shell   string
	PID     int64
}

// readOpened takes what there is of an answer: nodes may leave out all but the name.
func readOpened(payload []byte) (opened, error) {
	f, err := read(payload)
	return opened{Session: f.text("session_id"), Shell: f.text("shell"), PID: f.number("pid")}, err
}

// Open starts a program under a terminal of a node. Whether it may is decided as for an invoke of terminal.open
// by the same caller. It is on disk before it is answered.
func (s *Service) Open(ctx context.Context, c identity.Caller, in OpenIn) (OpenOut, error) {
	in.NodeID = strings.TrimSpace(in.NodeID)
	if err := in.check(); err != nil {
		return OpenOut{}, err
	}
	node, err := s.c.Nodes.Node(c, in.NodeID)
	if err != nil {
		return OpenOut{}, err
	}
	done, err := s.room(c, node.ID)
	if err != nil {
		return OpenOut{}, err
	}
	defer done()
	params := map[string]any{"cols": cmp.Or(in.Cols, 80), "rows": cmp.Or(in.Rows, 24)}
	for name, text := range map[string]string{"shell": in.Shell, "cwd": in.Cwd} {
		if text != "" {
			params[name] = text
		}
	}
	if len(in.Argv) > 0 {
		params["argv"] = in.Argv
	}
	if len(in.Env) > 0 {
		params["env"] = in.Env
	}
	rec := Record{
		ID: uuid.NewString(), NodeID: node.ID, Owner: c.Subject(), Tenant: c.Tenant, Shell: in.Shell, Argv: in.Argv, Cwd: in.Cwd,
		Cols: cmp.Or(in.Cols, 80), Rows: cmp.Or(in.Rows, 24), Opened: s.c.Now().UTC(),
	}
	t := s.newTerm(rec)
	j, err := s.openAt(ctx, c, node, params)
	if err != nil {
		return OpenOut{}, err
	}
	t.rec.Session, t.rec.PID = j.answer.Session, j.answer.PID
	t.rec.Shell = cmp.Or(j.answer.Shell, t.rec.Shell)
	if t.rec.Session == "" {
		j.drop(ErrAnswer)
		return OpenOut{}, ErrAnswer
	}
	if err := s.keep(ctx, c, t); err != nil {
		j.drop(err)
		s.end(t.rec)
		return OpenOut{}, err
	}
	s.mu.Lock()
	if s.stopped { // the next daemon finds it
		s.mu.Unlock()
		j.drop(ErrStopping)
		return OpenOut{}, ErrStopping
	}
	s.all[t.rec.ID] = t
	s.wg.Add(1)
	s.mu.Unlock()
	t.set(j.start(s, t))
	go func() {
		defer s.wg.Done()
		s.follow(t, j)
	}()
	return OpenOut{Terminal: t.show()}, nil
}

func (s *Service) keep(ctx context.Context, c identity.Caller, t *term) error {
	return s.c.Store.ChangeTerminal(ctx, t.rec.ID, &t.rec, s.row(t.rec, "opened", c.Subject(), ""))
}

func (s *Service) row(r Record, act, subject, detail string) Audit {
	return Audit{
		At: s.c.Now().UTC(), Act: act, Subject: subject, TerminalID: r.ID, NodeID: r.NodeID, Command: r.Shell, Argv: r.Argv, Cwd: r.Cwd, Detail: detail,
	}
}

// room takes a place for a terminal that is being opened, until done is called.
func (s *Service) room(c identity.Caller, nodeID string) (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, ErrStopping
	}
	node, own := 0, 0
	for _, t := range s.all {
		if _, ended := t.feed.Exit(); ended {
			continue
		}
		if r := t.record(); r.NodeID == nodeID {
			node++
		}
		if t.record().Owner == c.Subject() {
			own++
		}
	}
	if len(s.all)+s.opening >= MaxTerminals || node >= MaxNodeTerminals || own >= MaxOwnTerminals {
		return nil, ErrTooMany
	}
	s.opening++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opening--
	}, nil
}

// find returns a terminal that the caller may use.
func (s *Service) find(c identity.Caller, id string) (*term, error) {
	if id = strings.TrimSpace(id); id == "" {
		return nil, ErrRequired
	}
	s.mu.Lock()
	t := s.all[id]
	s.mu.Unlock()
	if t == nil {
		return nil, ErrUnknown.With("terminal", id)
	}
	r := t.record()
	switch {
	case !c.SeesNode(r.NodeID), !c.Decides(r.Tenant):
		return nil, ErrUnknown.With("terminal", id)
	case !owns(c, r):
		return nil, ErrForeign.With("terminal", id)
	}
	return t, nil
}

func owns(c identity.Caller, r Record) bool {
	return c.Has(identity.ScopeAdmin) || r.Owner != "" && r.Owner == c.Subject()
}

// WriteIn and WriteOut are the arguments and the result of Write.
type (
	WriteIn struct {
		ID   string
		Data []byte
	}
	WriteOut struct{}
)

// Write types. It waits InputWait at the most for a program that does not read.
func (s *Service) Write(ctx context.Context, c identity.Caller, in WriteIn) (WriteOut, error) {
	t, err := s.find(c, in.ID)
	if err != nil {
		return WriteOut{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, InputWait)
	defer cancel()
	return WriteOut{}, t.input(ctx, in.Data)
}

// input types; ctx bounds it.
func (t *term) input(ctx context.Context, b []byte) error {
	if len(b) > MaxInput {
		return ErrInputSize
	}
	up, _ := t.way()
	if _, ended := t.feed.Exit(); ended {
		return ErrEnded
	}
	if up == nil {
		return ErrAway
	}
	err := up.Input(ctx, b)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ErrInputFull
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return t.broken(err)
}

// broken says what a failure of the way to the program means.
func (t *term) broken(err error) error {
	if _, ended := t.feed.Exit(); ended {
		return ErrEnded
	}
	if errors.Is(err, terminal.ErrEnded) { // the way, not the program
		return ErrAway
	}
	return err
}

// ResizeIn and ResizeOut are the arguments and the result of Resize.
type (
	ResizeIn struct {
		ID         string
		Cols, Rows int
	}
	ResizeOut struct{}
)

// Resize changes the window; the program learns of it.
func (s *Service) Resize(_ context.Context, c identity.Caller, in ResizeIn) (ResizeOut, error) {
	t, err := s.find(c, in.ID)
	if err != nil {
		return ResizeOut{}, err
	}
	return ResizeOut{}, t.resize(in.Cols, in.Rows)
}

func (t *term) resize(cols, rows int) error {
	if cols < terminal.MinSide || cols > terminal.MaxSide || rows < terminal.MinSide || rows > terminal.MaxSide {
		return ErrSize
	}
	up, _ := t.way()
	if _, ended := t.feed.Exit(); ended {
		return ErrEnded
	}
	if up == nil {
		return ErrAway
	}
	if err := up.Resize(cols, rows); err != nil {
		return t.broken(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rec.Cols, t.rec.Rows = cols, rows
	return nil
}

// CloseIn and CloseOut are the arguments and the result of Close.
type (
	CloseIn struct {
		ID string
	}
	CloseOut struct{}
)

// Close asks the node to end the program with all that it started. Viewers see the exit when it has. Of one that
// has ended nothing is kept any more.
func (s *Service) Close(ctx context.Context, c identity.Caller, in CloseIn) (CloseOut, error) {
	t, err := s.find(c, in.ID)
	if err != nil {
		return CloseOut{}, err
	}
	r := t.record()
	if _, ended := t.feed.Exit(); ended {
		s.forget(t)
		return CloseOut{}, nil
	}
	if err := s.c.Store.ChangeTerminal(ctx, r.ID, &r, s.row(r, "closed", c.Subject(), "")); err != nil {
		return CloseOut{}, err
	}
	params, err := json.Marshal(map[string]string{"session_id": r.Session})
	if err != nil {
		return CloseOut{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	if _, err := s.c.Nodes.InvokeInternal(ctx, r.NodeID, "terminal.close", params); err != nil {
		if _, ended := t.feed.Exit(); ended {
			return CloseOut{}, nil
		}
		return CloseOut{}, ErrCannotClose.Wrap(err)
	}
	return CloseOut{}, nil
}

// end asks a node to end a program of which nothing is kept here.
func (s *Service) end(r Record) {
	params, err := json.Marshal(map[string]string{"session_id": r.Session})
	if err != nil {
		return // texts always marshal
	}
	ctx, cancel := context.WithTimeout(s.life, closeTime)
	defer cancel()
	if _, err := s.c.Nodes.InvokeInternal(ctx, r.NodeID, "terminal.close", params); err != nil {
		s.c.Log.Warn("a terminal that could not be kept may go on at its node", "node", r.NodeID, "session", r.Session, "err", err)
	}
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		// NodeID limits the list to one node when it is not empty.
		NodeID string
	}
	ListOut struct {
		// Terminals are the oldest first.
		Terminals []Terminal
	}
)

// List lists the terminals that the caller may use.
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) (ListOut, error) {
	nodeID := strings.TrimSpace(in.NodeID)
	if nodeID != "" {
		if n, err := s.c.Nodes.Node(c, nodeID); err == nil {
			nodeID = n.ID
		}
	}
	s.mu.Lock()
	var all []*term
	for _, t := range s.all {
		all = append(all, t)
	}
	s.mu.Unlock()
	out := ListOut{Terminals: []Terminal{}}
	for _, t := range all {
		r := t.record()
		if c.SeesNode(r.NodeID) && c.Decides(r.Tenant) && owns(c, r) && (nodeID == "" || nodeID == r.NodeID) {
			out.Terminals = append(out.Terminals, t.show())
		}
	}
	slices.SortFunc(out.Terminals, func(a, b Terminal) int { return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// Count returns how many terminals are known, those that ended a moment ago among them.
func (s *Service) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// AttachIn is the argument of Attach.
type AttachIn struct {
	ID string
	// From is the number of the first byte wanted, nil for all that is kept; FromEnd wants only what comes.
	From     *int64
	FromEnd  bool
	ReadOnly bool
	// Record says that the viewer keeps what it sees; it is noted in the audit log.
	Record bool
}

// Viewer watches one terminal. One goroutine at a time calls Next; the other methods may be called from others.
type Viewer struct {
	s    *Service
	t    *term
	v    *terminal.Viewer
	seq  int64
	only bool
}

// Attach joins a terminal. The caller closes the viewer.
func (s *Service) Attach(ctx context.Context, c identity.Caller, in AttachIn) (*Viewer, error) {
	t, err := s.find(c, in.ID)
	if err != nil {
		return nil, err
	}
	from := terminal.FromStart
	switch {
	case in.FromEnd:
		from = terminal.FromEnd
	case in.From != nil:
		from = max(*in.From, 0)
	}
	if in.Record {
		r := t.record()
		keep := &r
		if _, ended := t.feed.Exit(); ended {
			keep = nil
		}
		if err := s.c.Store.ChangeTerminal(ctx, r.ID, keep, s.row(r, "recorded", c.Subject(), "")); err != nil {
			return nil, err
		}
	}
	v, err := t.feed.Attach(from, 0)
	if err != nil {
		return nil, err
	}
	return &Viewer{s: s, t: t, v: v, seq: v.Seq(), only: in.ReadOnly}, nil
}

// Terminal is what the viewer watches, as it is now.
func (v *Viewer) Terminal() Terminal { return v.t.show() }

// Seq is the number of the first byte that the viewer is given; it is fixed before Next is called.
func (v *Viewer) Seq() int64 { return v.seq }

// Next waits for output and copies it into buf; the piece says what this viewer was too slow for. After the last
// byte it fails with io.EOF, and Terminal has the exit then.
func (v *Viewer) Next(ctx context.Context, buf []byte) (terminal.Piece, error) {
	return v.v.Next(ctx, buf)
}

// Connected says whether the node is there; changed is closed when that changes.
func (v *Viewer) Connected() (yes bool, changed <-chan struct{}) {
	up, changed := v.t.way()
	return up != nil, changed
}

// Input types. It waits for a program that does not read, and for a node that is away, until ctx ends. ErrAway
// says that the link was lost on the way: part of b may have been typed.
func (v *Viewer) Input(ctx context.Context, b []byte) error {
	if v.only {
		return ErrReadOnly
	}
	for {
		up, changed := v.t.way()
		if up != nil {
			return v.t.input(ctx, b)
		}
		select {
		case <-changed:
		case <-v.t.feed.Done():
			return ErrEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Resize changes the window.
func (v *Viewer) Resize(cols, rows int) error {
	if v.only {
		return ErrReadOnly
	}
	return v.t.resize(cols, rows)
}

// Close takes the viewer away.
func (v *Viewer) Close() { v.v.Detach() }

// forget takes an ended terminal out of the list.
func (s *Service) forget(t *term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, t.record().ID)
}
