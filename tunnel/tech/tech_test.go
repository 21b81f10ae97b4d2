package tech_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait = 20 * time.Second

// clock is a clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var errDisk = errs.New(errs.Internal, "the disk is broken")

// disk is a store that fails when it is told.
type disk struct {
	tech.Store
	mu   sync.Mutex
	fail func(op string) error
}

func (d *disk) failing(f func(op string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = f
}

// ask tells an op of a write: the operation of its first row, "change" without one.
func (d *disk) ask(rows []tech.Audit) error {
	d.mu.Lock()
	f := d.fail
	d.mu.Unlock()
	if f == nil {
		return nil
	}
	if len(rows) == 0 {
		return f("change")
	}
	return f(rows[0].Operation)
}

func (d *disk) OpenTechSession(ctx context.Context, s tech.Session, rows ...tech.Audit) error {
	if err := d.ask(rows); err != nil {
		return err
	}
	return d.Store.OpenTechSession(ctx, s, rows...)
}

func (d *disk) ChangeTechSession(ctx context.Context, s tech.Session, rows ...tech.Audit) error {
	if err := d.ask(rows); err != nil {
		return err
	}
	return d.Store.ChangeTechSession(ctx, s, rows...)
}

func (d *disk) AppendTechAudit(ctx context.Context, rows ...tech.Audit) error {
	if err := d.ask(rows); err != nil {
		return err
	}
	return d.Store.AppendTechAudit(ctx, rows...)
}

// node is a node that plays its part in memory: what real ones do is tested with them.
type node struct {
	mu      sync.Mutex
	mode    string
	modes   []string
	opened  int
	lanes   []*lane
	refuse  error
	opening chan struct{} // Open waits for it when it is not nil
	joining chan struct{} // Channel likewise
	offline bool
}

func (n *node) Node(c identity.Caller, id string) (tech.Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !c.SeesNode(id) || id == "nowhere" {
		return tech.Node{}, errs.New(errs.NotFound, "no such node")
	}
	return tech.Node{ID: id, Tenant: identity.NodeTenant(id), Connected: !n.offline}, nil
}

func (n *node) Open(ctx context.Context, _ identity.Caller, in tech.OpenNode) (tech.Lane, error) {
	if n.opening != nil {
		select {
		case <-n.opening:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuse != nil {
		return nil, n.refuse
	}
	for _, l := range n.lanes {
		if l.in.NodeID == in.NodeID && !l.over() {
			return nil, errs.New(errs.Conflict, "the node is in tunnel mode")
		}
	}
	n.opened++
	l := &lane{n: n, in: in, done: make(chan struct{}), closed: make(chan struct{}), conns: map[string]*conn{}}
	n.lanes = append(n.lanes, l)
	return l, nil
}

func (n *node) Mode(_, session string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mode, n.modes = session, append(n.modes, session)
}

func (n *node) last() *lane {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lanes[len(n.lanes)-1]
}

func (n *node) now() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mode
}

type lane struct {
	n      *node
	in     tech.OpenNode
	done   chan struct{}
	why    tech.Reason
	once   sync.Once
	closed chan struct{}
	reason tech.Reason

	mu    sync.Mutex
	conns map[string]*conn
}

func (l *lane) over() bool {
	select {
	case <-l.closed:
		return true
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *lane) gone(why tech.Reason) { l.why = why; close(l.done) }

func (l *lane) Channel(_ context.Context, _ identity.Caller, id string, kind message.Kind) (message.Conn, error) {
	l.n.mu.Lock()
	joining := l.n.joining
	l.n.mu.Unlock()
	if joining != nil {
		<-joining
	}
	if kind == message.Registry {
		return nil, tech.ErrUnsupported.WithText("unsupported on linux")
	}
	c := &conn{in: make(chan message.Message, 64), out: make(chan message.Message, 64), closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[id] = c
	return c, nil
}

func (l *lane) conn(id string) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[id]
}

func (l *lane) Close(_ context.Context, reason tech.Reason) error {
	l.once.Do(func() { l.reason = reason; close(l.closed) })
	return nil
}

func (l *lane) Done() <-chan struct{} { return l.done }
func (l *lane) Err() tech.Reason      { return l.why }
func (l *lane) Emulated() bool        { return false }

// conn is a channel; the test takes the node's part through in and out.
type conn struct {
	in, out chan message.Message
	once    sync.Once
	closed  chan struct{}
}

func (c *conn) Send(ctx context.Context, m message.Message) error {
	select {
	case c.in <- m:
		return nil
	case <-c.closed:
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *conn) Receive(ctx context.Context) (message.Message, error) {
	select {
	case m := <-c.out:
		return m, nil
	case <-c.closed:
		return message.Message{}, io.EOF
	case <-ctx.Done():
		return message.Message{}, ctx.Err()
	}
}

func (c *conn) Close(error) error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// world is a service over a real store.
type world struct {
	t     *testing.T
	s     *tech.Service
	n     *node
	d     *disk
	db    *store.Store
	dir   string
	clock *clock

	mu    sync.Mutex
	set   tech.Settings
	ended map[string]bool // principals whose credential has ended
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dir: filepath.Join(t.TempDir(), "state"), n: &node{}, ended: map[string]bool{}, set: tech.Settings{Enabled: true},
		clock: &clock{now: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)},
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start begins a daemon on the directory.
func (w *world) start() {
	w.t.Helper()
	w.db = storetest.OpenDir(w.t, w.dir)
	w.d = &disk{Store: w.db}
	w.s = tech.New(tech.Config{
		Settings: func() tech.Settings { w.mu.Lock(); defer w.mu.Unlock(); return w.set },
		Nodes:    w.n, Store: w.d, Now: w.clock.Now,
		Standing: func(c identity.Caller) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.ended[c.Principal] {
				return identity.ErrEnded
			}
			return nil
		},
	})
	if err := w.s.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	w.s.Stop(ctx)
	if ctx.Err() != nil {
		w.t.Error("Stop did not end")
	}
}

func (w *world) settings(f func(*tech.Settings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.set)
}

func (w *world) end(principal string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended[principal] = true
}

var (
	alice = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "iam:alice", DisplayName: "Alice"}
	bob   = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "iam:bob"}
	admin = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "local:1000"}
	// reader and acme's people may less, or see less.
	reader = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}, Principal: "iam:reader"}
	carol  = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "iam:carol", Tenant: "acme"}
	dave   = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "iam:dave", Tenant: "globex"}
)

func (w *world) open(c identity.Caller, in tech.OpenIn) tech.Session {
	w.t.Helper()
	if in.NodeID == "" {
		in.NodeID = "n1"
	}
	r, err := w.s.Open(w.t.Context(), c, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) join(c identity.Caller, session string, kind message.Kind, id string) *tech.Joined {
	w.t.Helper()
	j, err := w.s.Join(w.t.Context(), c, tech.JoinIn{SessionID: session, Kind: kind, ChannelID: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

func (w *world) want(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("%v, want %v", err, want)
	}
}

// rows are the operations in the audit of a session.
func (w *world) rows(session string) []tech.Audit {
	w.t.Helper()
	rows, err := w.db.TechAudit(session, 0, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	return rows
}

func ops(rows []tech.Audit) string {
	var out []string
	for _, r := range rows {
		out = append(out, r.Operation)
	}
	return strings.Join(out, " ")
}

// closedAs waits until a session is closed and its node told.
func (w *world) closedAs(c identity.Caller, id string, reason tech.Reason) {
	w.t.Helper()
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		r, err := w.s.Get(w.t.Context(), c, id)
		if err == nil && r.Status == tech.Closed && r.Reason == reason && !r.ClosedAt.IsZero() && w.n.now() == "" {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%+v, %v: not closed as %s", r, err, reason)
		}
	}
}

func command(line string) message.Message {
	return message.Of(message.TypeCommand, message.Command{Command: line}, nil)
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{Directories: []string{"/srv"}})
	if r.Status != tech.Active || r.Owner != "iam:alice" || r.NodeID != "n1" || len(r.Kinds) != 4 || w.n.now() != r.ID || uuid.Validate(r.ID) != nil {
		t.Fatalf("%+v, mode %q", r, w.n.now())
	}
	if in := w.n.last().in; in.SessionID != r.ID || in.Owner != "Alice" || !slices.Equal(in.Directories, []string{"/srv"}) {
		t.Errorf("the node was told %+v", in)
	}
	for _, again := range []identity.Caller{alice, bob, admin} {
		_, err := w.s.Open(t.Context(), again, tech.OpenIn{NodeID: "n1"})
		w.want(err, tech.ErrHeld)
	}
	if got, err := w.s.Get(t.Context(), alice, strings.ToUpper(r.ID)); err != nil || got.ID != r.ID {
		t.Errorf("%+v, %v", got, err)
	}
	w.clock.advance(time.Minute)
	got, err := w.s.Close(t.Context(), alice, r.ID)
	if err != nil || got.Status != tech.Closed || got.Reason != tech.ByOperator || got.ClosedBy != "iam:alice" || !got.ClosedAt.Equal(w.clock.Now()) {
		t.Errorf("%+v, %v", got, err)
	}
	if w.n.now() != "" || w.n.last().reason != tech.ByOperator {
		t.Errorf("mode %q, the node was told %q", w.n.now(), w.n.last().reason)
	}
	w.closedAs(alice, r.ID, tech.ByOperator)
	_, err = w.s.Close(t.Context(), alice, r.ID)
	w.want(err, tech.ErrEnded)
	_, err = w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.File})
	w.want(err, tech.ErrEnded)
	if got := ops(w.rows(r.ID)); got != "open close" {
		t.Error(got)
	}
	again := w.open(bob, tech.OpenIn{})
	all, err := w.s.List(t.Context(), admin, tech.ListIn{})
	if err != nil || len(all) != 2 || all[0].ID != again.ID || all[1].ID != r.ID {
		t.Errorf("%+v, %v", all, err)
	}
	if log, err := w.db.Audit(0, 9); err != nil || len(log) != 3 || log[0].Kind != "tech.open" || log[1].Kind != "tech.close" || log[0].RequestID != r.ID {
		t.Errorf("the chained log: %+v, %v", log, err)
	}
}

func TestRefusedOpens(t *testing.T) {
	w := newWorld(t)
	w.settings(func(s *tech.Settings) { s.Directories = []string{"/srv", `C:\Data`} })
	for name, test := range map[string]struct {
		c    identity.Caller
		in   tech.OpenIn
		want error
	}{
		"a reader":           {reader, tech.OpenIn{NodeID: "n1"}, tech.ErrScope},
		"a node":             {identity.Caller{Role: identity.RoleNode, Principal: "x"}, tech.OpenIn{NodeID: "n1"}, tech.ErrScope},
		"no node":            {alice, tech.OpenIn{NodeID: " "}, tech.ErrNode},
		"unknown node":       {alice, tech.OpenIn{NodeID: "nowhere"}, tech.ErrOffline},
		"another's node":     {carol, tech.OpenIn{NodeID: "globex/n1"}, tech.ErrOffline},
		"unknown kind":       {alice, tech.OpenIn{NodeID: "n1", Kinds: []message.Kind{"Terminal"}}, tech.ErrKind},
		"relative directory": {alice, tech.OpenIn{NodeID: "n1", Directories: []string{"srv"}}, tech.ErrDirectory},
		"outside":            {alice, tech.OpenIn{NodeID: "n1", Directories: []string{"/srv/../etc"}}, tech.ErrDirectory},
		"beside":             {alice, tech.OpenIn{NodeID: "n1", Directories: []string{"/srv2"}}, tech.ErrDirectory},
		"zero byte":          {alice, tech.OpenIn{NodeID: "n1", Directories: []string{"/srv/\x00"}}, tech.ErrDirectory},
		"too many":           {alice, tech.OpenIn{NodeID: "n1", Directories: slices.Repeat([]string{"/srv"}, 65)}, tech.ErrDirectory},
	} {
		if _, err := w.s.Open(t.Context(), test.c, test.in); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	w.n.offline = true
	_, err := w.s.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"})
	w.want(err, tech.ErrOffline)
	w.n.offline = false
	w.settings(func(s *tech.Settings) { s.Enabled = false })
	_, err = w.s.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"})
	w.want(err, tech.ErrDisabled)
	w.settings(func(s *tech.Settings) { s.Enabled = true })
	if r := w.open(alice, tech.OpenIn{Directories: []string{`c:\data\x`}}); len(r.Directories) != 1 {
		t.Errorf("%+v", r)
	}
	if r := w.open(alice, tech.OpenIn{NodeID: "n2"}); !slices.Equal(r.Directories, []string{"/srv", `C:\Data`}) {
		t.Errorf("%+v", r)
	}
}

// TestOneHolds: of 50 that open at once one holds the node, and the others are told so.
func TestOneHolds(t *testing.T) {
	w := newWorld(t)
	for round := range 10 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var held []tech.Session
		for i := range 50 {
			wg.Go(func() {
				c := alice
				c.Principal = fmt.Sprint("iam:", i%5)
				r, err := w.s.Open(t.Context(), c, tech.OpenIn{NodeID: "n1"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					held = append(held, r)
				} else if !errors.Is(err, tech.ErrHeld) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(held) != 1 || w.n.opened != round+1 {
			t.Fatalf("%d hold the node, which was asked %d times", len(held), w.n.opened)
		}
		if _, err := w.s.Close(t.Context(), admin, held[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	active, err := w.db.TechSessions(tech.ListIn{Status: tech.Active, Limit: 9})
	if err != nil || len(active) != 0 {
		t.Errorf("%+v, %v", active, err)
	}
}

// TestCloseAndOpen: who opens while a session closes waits for that, and is not told that somebody holds the node.
func TestCloseAndOpen(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	for range 50 {
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := w.s.Close(t.Context(), alice, r.ID); err != nil {
				t.Error(err)
			}
		})
		var next tech.Session
		for end := time.Now().Add(wait); next.ID == ""; {
			var err error
			if next, err = w.s.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"}); err != nil && !errors.Is(err, tech.ErrHeld) || time.Now().After(end) {
				t.Fatal(err)
			}
		}
		wg.Wait()
		r = next
		if w.n.now() != r.ID {
			t.Fatalf("mode %q, want %q", w.n.now(), r.ID)
		}
	}
}

func TestTakeover(t *testing.T) {
	w := newWorld(t)
	first := w.open(alice, tech.OpenIn{})
	j := w.join(alice, first.ID, message.File, "")
	_, err := w.s.Open(t.Context(), bob, tech.OpenIn{NodeID: "n1", Takeover: true})
	w.want(err, tech.ErrForeign)
	own := w.open(alice, tech.OpenIn{Takeover: true})
	_, err = j.Receive(t.Context())
	if e, ok := errs.As(err); !errors.Is(err, tech.ErrEnded) || !ok || e.Field("reason") != string(tech.TakenOver) || !strings.Contains(e.Text, "took the node over") {
		t.Errorf("the channel of the old session ended with %v", err)
	}
	w.want(j.Send(t.Context(), message.Of(message.TypeList, message.Path{Path: "/"}, nil)), tech.ErrEnded)
	if r, err := w.s.Get(t.Context(), alice, first.ID); err != nil || r.Reason != tech.TakenOver || r.ClosedBy != "iam:alice" {
		t.Errorf("%+v, %v", r, err)
	}
	by := w.open(admin, tech.OpenIn{Takeover: true})
	if r, err := w.s.Get(t.Context(), alice, own.ID); err != nil || r.Reason != tech.TakenOver || r.ClosedBy != "local:1000" {
		t.Errorf("%+v, %v", r, err)
	}
	rows := w.rows(by.ID)
	if ops(rows) != "takeover" || rows[0].Detail["taken"] != own.ID || w.n.now() != by.ID || w.n.last().in.SessionID != by.ID {
		t.Errorf("%+v", rows)
	}
	// A disk that fails leaves it with who holds it.
	w.d.failing(func(string) error { return errDisk })
	_, err = w.s.Open(t.Context(), admin, tech.OpenIn{NodeID: "n1", Takeover: true})
	w.want(err, errDisk)
	w.d.failing(nil)
	if r, err := w.s.Get(t.Context(), admin, by.ID); err != nil || r.Status != tech.Active || w.n.now() != by.ID {
		t.Errorf("%+v, %v", r, err)
	}
	// Admins of one tenant take nothing from another.
	other := w.open(carol, tech.OpenIn{NodeID: "shared"})
	_, err = w.s.Open(t.Context(), dave, tech.OpenIn{NodeID: "shared", Takeover: true})
	w.want(err, tech.ErrForeign)
	if r, err := w.s.Get(t.Context(), carol, other.ID); err != nil || r.Status != tech.Active {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOwnership(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	unknown := uuid.NewString()
	calls := map[string]func(c identity.Caller, id string) error{
		"get": func(c identity.Caller, id string) error { _, err := w.s.Get(t.Context(), c, id); return err },
		"audit": func(c identity.Caller, id string) error {
			_, err := w.s.ListAudit(t.Context(), c, id, 0, 0)
			return err
		},
		"watch": func(c identity.Caller, id string) error {
			x, err := w.s.Watch(t.Context(), c, id)
			if err == nil {
				x.Close()
			}
			return err
		},
		"join": func(c identity.Caller, id string) error {
			j, err := w.s.Join(t.Context(), c, tech.JoinIn{SessionID: id, Kind: message.File})
			if err == nil {
				err = j.Close(nil)
			}
			return err
		},
		"close": func(c identity.Caller, id string) error { _, err := w.s.Close(t.Context(), c, id); return err },
	}
	for _, name := range []string{"get", "audit", "watch", "join", "close"} { // close comes last: it works
		call := calls[name]
		for id, want := range map[string]error{
			unknown: tech.ErrUnknown, "": tech.ErrSession, "x": tech.ErrSession, "{" + r.ID + "}": tech.ErrSession, "urn:uuid:" + r.ID: tech.ErrSession,
			strings.ReplaceAll(r.ID, "-", ""): tech.ErrSession, r.ID + "\x00": tech.ErrSession, "' OR 1=1 --": tech.ErrSession, strings.Repeat("é", 18): tech.ErrSession,
		} {
			if err := call(alice, id); !errors.Is(err, want) {
				t.Errorf("%s %q: %v, want %v", name, id, err, want)
			}
		}
		w.want(call(bob, r.ID), tech.ErrForeign)
		w.want(call(carol, r.ID), tech.ErrUnknown)
		w.want(call(identity.Caller{Role: identity.RoleNode, Principal: "iam:alice"}, r.ID), tech.ErrScope)
		if name == "join" {
			w.want(call(admin, r.ID), tech.ErrForeign)
		} else if err := call(admin, r.ID); err != nil {
			t.Errorf("%s as an admin: %v", name, err)
		}
	}
	for name, test := range map[string]struct {
		c    identity.Caller
		want int
	}{"its owner": {alice, 1}, "somebody": {bob, 0}, "an admin": {admin, 1}, "another tenant's": {carol, 0}} {
		if all, err := w.s.List(t.Context(), test.c, tech.ListIn{Owner: "iam:alice"}); err != nil || len(all) != test.want {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
}

// TestFailingDisk: what cannot be written down does not happen, and leaves nothing half done.
func TestFailingDisk(t *testing.T) {
	w := newWorld(t)
	w.d.failing(func(string) error { return errDisk })
	_, err := w.s.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"})
	if !errors.Is(err, errDisk) || errs.ClassOf(err) != errs.Internal || w.n.opened != 0 || w.n.now() != "" {
		t.Fatalf("%v, the node was asked %d times, mode %q", err, w.n.opened, w.n.now())
	}
	w.d.failing(nil)
	r := w.open(alice, tech.OpenIn{})
	j := w.join(alice, r.ID, message.Terminal, "t")
	w.d.failing(func(string) error { return errDisk })
	w.want(j.Send(t.Context(), command("reboot")), errDisk)
	if len(w.n.last().conn("t").in) != 0 {
		t.Error("a command left without its row")
	}
	_, err = w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.File, ChannelID: "f"})
	w.want(err, errDisk)
	_, err = w.s.Watch(t.Context(), alice, r.ID)
	w.want(err, errDisk)
	_, err = w.s.Close(t.Context(), alice, r.ID)
	w.want(err, errDisk)
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || got.Status != tech.Active || len(got.Channels) != 1 || w.n.now() != r.ID {
		t.Errorf("%+v, %v", got, err)
	}
	// What does not wait for an operator ends all the same, and is written down as soon as that works.
	w.n.last().gone(tech.Disconnected)
	w.closedAs(alice, r.ID, tech.Disconnected)
	_, err = w.s.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"})
	w.want(err, errDisk)
	w.d.failing(nil)
	next := w.open(alice, tech.OpenIn{})
	if got, err := w.db.TechSession(r.ID); err != nil || got.Status != tech.Closed || got.Reason != tech.Disconnected {
		t.Errorf("%+v, %v", got, err)
	}
	w.d.failing(func(op string) error {
		if op == "close" {
			return errDisk
		}
		return nil
	})
	w.n.last().gone(tech.NodeEnded)
	w.closedAs(alice, next.ID, tech.NodeEnded)
	w.d.failing(nil)
	w.s.Sweep()
	if got, err := w.db.TechSession(next.ID); err != nil || got.Status != tech.Closed {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestNodeRefuses: a node that does not take the session is free for the next one.
func TestNodeRefuses(t *testing.T) {
	w := newWorld(t)
	w.n.refuse = errs.New(errs.Denied, "approval required")
	_, err := w.s.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"})
	w.want(err, w.n.refuse)
	all, err := w.s.List(t.Context(), alice, tech.ListIn{})
	if err != nil || len(all) != 1 || all[0].Status != tech.Closed || all[0].Reason != tech.NodeEnded {
		t.Fatalf("%+v, %v", all, err)
	}
	if rows := w.rows(all[0].ID); ops(rows) != "open close" || rows[1].Outcome != "approval required" {
		t.Errorf("%+v", rows)
	}
	w.n.refuse = nil
	// Who goes away while the node decides leaves it free as well.
	w.n.opening = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = w.s.Open(ctx, alice, tech.OpenIn{NodeID: "n1"})
	w.want(err, context.DeadlineExceeded)
	close(w.n.opening)
	w.open(alice, tech.OpenIn{})
}

func TestIdle(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	j := w.join(alice, r.ID, message.Terminal, "t")
	w.clock.advance(4*time.Hour - time.Second)
	w.s.Sweep()
	w.n.last().conn("t").out <- message.Of(message.TypeOutput, message.Output{Stdout: "still here\n"}, nil)
	if _, err := j.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(4*time.Hour - time.Second)
	w.s.Sweep()
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || got.Status != tech.Active {
		t.Fatalf("%+v, %v", got, err)
	}
	w.clock.advance(time.Second)
	w.s.Sweep()
	w.closedAs(alice, r.ID, tech.Idle)
	_, err := j.Receive(t.Context())
	w.want(err, tech.ErrEnded)
	r = w.open(alice, tech.OpenIn{})
	w.settings(func(s *tech.Settings) { s.Idle = time.Minute })
	w.clock.advance(time.Minute)
	w.s.Sweep()
	w.closedAs(alice, r.ID, tech.Idle)
}

// TestRate: the 101st command of a minute is refused and written down, also in another session.
func TestRate(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	j := w.join(alice, r.ID, message.Terminal, "t")
	c := w.n.last().conn("t")
	for i := range tech.DefaultRate {
		if i == tech.DefaultRate/2 {
			w.clock.advance(30 * time.Second)
		}
		if err := j.Send(t.Context(), command("true")); err != nil {
			t.Fatal(i, err)
		}
		<-c.in
	}
	err := j.Send(t.Context(), command("one too many"))
	if !errors.Is(err, tech.ErrRate) || errs.ClassOf(err) != errs.Exhausted || len(c.in) != 0 {
		t.Fatal(err)
	}
	rows := w.rows(r.ID)
	if last := rows[len(rows)-1]; last.Operation != "refused" || last.Detail["command"] != "one too many" || last.Outcome != tech.ErrRate.Text {
		t.Errorf("%+v", last)
	}
	// Neither another channel nor another session is a way around it.
	again := w.open(alice, tech.OpenIn{Takeover: true})
	j = w.join(alice, again.ID, message.Terminal, "t")
	c = w.n.last().conn("t")
	w.want(j.Send(t.Context(), command("x")), tech.ErrRate)
	w.want(j.Send(t.Context(), message.Of(message.TypeOpen, message.TerminalOpen{}, nil)), tech.ErrRate)
	w.clock.advance(30 * time.Second) // the first half is a minute old
	w.s.Sweep()
	for range tech.DefaultRate / 2 {
		if err := j.Send(t.Context(), command("true")); err != nil {
			t.Fatal(err)
		}
		<-c.in
	}
	w.want(j.Send(t.Context(), command("x")), tech.ErrRate)
	w.settings(func(s *tech.Settings) { s.Rate = 1000 })
	if err := j.Send(t.Context(), command("true")); err != nil {
		t.Error(err)
	}
	if got := w.s.Stats(); got.Refused["rate"] != 4 || got.Commands != tech.DefaultRate*3/2+1 || got.Sessions != 1 || got.Channels != 1 {
		t.Errorf("%+v", got)
	}
}

func TestRevoked(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	j := w.join(alice, r.ID, message.File, "")
	watcher, err := w.s.Watch(t.Context(), admin, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.s.Revoke(func(c identity.Caller) bool { return c.Principal == admin.Principal })
	for {
		_, err := watcher.Next(t.Context())
		if err != nil {
			w.want(err, identity.ErrEnded)
			break
		}
	}
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || got.Status != tech.Active {
		t.Errorf("%+v, %v", got, err)
	}
	w.s.Revoke(func(c identity.Caller) bool { return c.Principal == alice.Principal })
	_, err = j.Receive(t.Context())
	w.want(err, tech.ErrEnded)
	w.closedAs(alice, r.ID, tech.Revoked)
	// One whose end nobody told of is found.
	r = w.open(bob, tech.OpenIn{})
	w.end(bob.Principal)
	w.s.Sweep()
	w.closedAs(admin, r.ID, tech.Revoked)
	// And one that ended while the session was opened.
	_, err = w.s.Open(t.Context(), bob, tech.OpenIn{NodeID: "n1"})
	w.want(err, identity.ErrEnded)
	if w.n.now() != "" {
		t.Error("the node stays in tunnel mode")
	}
}

// TestExpires: channels and watchers end with their caller's token, the session goes on with a newer one.
func TestExpires(t *testing.T) {
	w := newWorld(t)
	c := alice
	c.Expires = w.clock.Now().Add(time.Hour)
	r := w.open(c, tech.OpenIn{})
	j := w.join(c, r.ID, message.Terminal, "t")
	if err := j.Send(t.Context(), command("true")); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(time.Hour)
	w.want(j.Send(t.Context(), command("true")), identity.ErrEnded)
	_, err := j.Receive(t.Context())
	w.want(err, identity.ErrEnded)
	w.s.Sweep()
	// The real clock ends those in which nobody sends.
	c.Expires = w.clock.Now().Add(30 * time.Millisecond)
	j = w.join(c, r.ID, message.Terminal, "u")
	watcher, err := w.s.Watch(t.Context(), c, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Receive(t.Context())
	w.want(err, identity.ErrEnded)
	for err = nil; err == nil; {
		_, err = watcher.Next(t.Context())
	}
	w.want(err, identity.ErrEnded)
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || got.Status != tech.Active || len(got.Channels) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	w.join(alice, r.ID, message.Terminal, "v")
}

func TestNodeGoes(t *testing.T) {
	w := newWorld(t)
	for _, reason := range []tech.Reason{tech.Disconnected, tech.NodeEnded} {
		r := w.open(alice, tech.OpenIn{})
		j := w.join(alice, r.ID, message.Terminal, "t")
		w.n.last().gone(reason)
		_, err := j.Receive(t.Context())
		if e, ok := errs.As(err); !ok || !errors.Is(err, tech.ErrEnded) || e.Field("reason") != string(reason) {
			t.Errorf("%v", err)
		}
		w.closedAs(alice, r.ID, reason)
		rows := w.rows(r.ID)
		if i := slices.IndexFunc(rows, func(a tech.Audit) bool { return a.Operation == "close" }); i < 0 || rows[i].Detail["reason"] != string(reason) {
			t.Errorf("%+v", rows)
		}
	}
}

// TestNodeRemoved: its sessions go, their audit stays.
func TestNodeRemoved(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	other := w.open(alice, tech.OpenIn{NodeID: "n2"})
	w.s.NodeRemoved("n1")
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if _, err := w.s.Get(t.Context(), alice, r.ID); errors.Is(err, tech.ErrUnknown) {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	rows, err := w.s.ListAudit(t.Context(), alice, r.ID, 0, 0)
	if err != nil || ops(rows) != "open close" || rows[1].Detail["reason"] != string(tech.Removed) {
		t.Errorf("%+v, %v", rows, err)
	}
	if rows, err := w.s.ListAudit(t.Context(), alice, r.ID, rows[0].ID, 0); err != nil || ops(rows) != "close" {
		t.Errorf("%+v, %v", rows, err)
	}
	_, err = w.s.ListAudit(t.Context(), bob, r.ID, 0, 0)
	w.want(err, tech.ErrForeign)
	if got, err := w.s.Get(t.Context(), alice, other.ID); err != nil || got.Status != tech.Active {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRestart: what a daemon left active is closed by the next one, and its node free.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	j := w.join(alice, r.ID, message.Terminal, "t")
	if err := j.Send(t.Context(), command("sleep 1000")); err != nil {
		t.Fatal(err)
	}
	old := w.s
	old.Sweep()
	w.d.failing(func(string) error { return errDisk }) // it is killed: nothing more is written
	w.stop()
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := old.Open(t.Context(), alice, tech.OpenIn{NodeID: "n1"})
	w.want(err, tech.ErrStopping)
	w.clock.advance(time.Minute)
	w.start()
	got, err := w.s.Get(t.Context(), alice, r.ID)
	if err != nil || got.Status != tech.Closed || got.Reason != tech.Restarted || !got.ClosedAt.Equal(w.clock.Now()) || got.Commands != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := ops(w.rows(r.ID)); got != "open channel_open command close" {
		t.Error(got)
	}
	next := w.open(bob, tech.OpenIn{})
	// One that ends in order leaves nothing to close.
	w.stop()
	if got, err := w.db.TechSession(next.ID); err != nil || got.Status != tech.Closed || got.Reason != tech.Restarted {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestChannels(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{Kinds: []message.Kind{message.Terminal, message.File, message.Registry}})
	for id, want := range map[string]error{
		"a b": tech.ErrChannel, "a\x00": tech.ErrChannel, "ä": tech.ErrChannel, strings.Repeat("a", 37): tech.ErrChannel, "../x": tech.ErrChannel, "a\n": tech.ErrChannel,
	} {
		_, err := w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.File, ChannelID: id})
		w.want(err, want)
	}
	_, err := w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: "shell"})
	w.want(err, tech.ErrKind)
	_, err = w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.Service})
	w.want(err, tech.ErrNotAllowed)
	_, err = w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.Registry, ChannelID: "reg"})
	w.want(err, tech.ErrUnsupported)
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || len(got.Channels) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	rows := w.rows(r.ID)
	if ops(rows) != "open refused channel_open channel_close" || rows[3].Outcome != "unsupported on linux" {
		t.Errorf("%+v", rows)
	}
	var first *tech.Joined
	for i := range tech.MaxChannels {
		j := w.join(alice, r.ID, message.File, fmt.Sprint("c", i))
		if first == nil {
			first = j
		}
	}
	_, err = w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.File, ChannelID: "c0"})
	w.want(err, tech.ErrChannelUsed)
	_, err = w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.File})
	w.want(err, tech.ErrTooMany)
	if err := first.Close(nil); err != nil {
		t.Error(err)
	}
	w.want(first.Close(errDisk), nil)
	_, err = first.Receive(t.Context())
	w.want(err, io.EOF)
	w.join(alice, r.ID, message.File, "c0")
}

// TestJoinWhileItEnds: a channel that a node opens while its session ends is ended as well.
func TestJoinWhileItEnds(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	w.n.mu.Lock()
	w.n.joining = make(chan struct{})
	w.n.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.File, ChannelID: "f"})
		done <- err
	}()
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || time.Now().After(end) {
			t.Fatal(err)
		} else if len(got.Channels) == 1 {
			break
		}
	}
	if _, err := w.s.Close(t.Context(), alice, r.ID); err != nil {
		t.Fatal(err)
	}
	close(w.n.joining)
	w.want(<-done, tech.ErrEnded)
	<-w.n.last().conn("f").closed
}

// TestChecked: what does not belong on a channel, or outside of the rules, does not reach the node; what may is written down
// byte by byte before it does.
func TestChecked(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{Directories: []string{"/srv/a", `C:\Data`}})
	term, file, service := w.join(alice, r.ID, message.Terminal, "t"), w.join(alice, r.ID, message.File, "f"), w.join(alice, r.ID, message.Service, "s")
	raw := func(typ, payload string) message.Message {
		return message.Message{Type: typ, Payload: json.RawMessage(payload)}
	}
	path := func(typ, p string) message.Message { return message.Of(typ, message.FileRead{Path: p}, nil) }
	for i, test := range []struct {
		j    *tech.Joined
		m    message.Message
		want error
	}{
		{term, message.Message{Type: "tunnel_close"}, tech.ErrMessage},
		{term, message.Message{Type: message.TypeExit}, tech.ErrMessage},
		{term, path(message.TypeRead, "/srv/a/x"), tech.ErrMessage},
		{term, raw(message.TypeCommand, `{"command":1}`), tech.ErrMessage},
		{term, raw(message.TypeCommand, `[]`), tech.ErrMessage},
		{term, raw(message.TypeCommand, "{\"command\":\"\xff\"}"), tech.ErrMessage},
		{term, command(" \n"), tech.ErrMessage},
		{term, command("a\x00b"), tech.ErrMessage},
		{term, command(strings.Repeat("x", tech.MaxCommand+1)), tech.ErrMessage},
		{term, message.Of(message.TypeCommand, message.Command{Command: "ls", Cwd: "/srv"}, nil), tech.ErrDirectory},
		{term, message.Of(message.TypeCommand, message.Command{Command: "ls", Cwd: "srv/a"}, nil), tech.ErrDirectory},
		{term, message.Of(message.TypeOpen, message.TerminalOpen{Cwd: "/"}, nil), tech.ErrDirectory},
		{term, message.Of(message.TypeOpen, message.TerminalOpen{Argv: []string{"a\x00"}}, nil), tech.ErrMessage},
		{term, message.Message{Type: message.TypeInput, Data: make([]byte, message.MaxData+1)}, tech.ErrMessage},
		{file, path(message.TypeRead, "/etc/shadow"), tech.ErrDirectory},
		{file, path(message.TypeRead, "/srv/a/../../etc/shadow"), tech.ErrDirectory},
		{file, path(message.TypeRead, "/srv/ab"), tech.ErrDirectory},
		{file, path(message.TypeRead, "//etc/shadow"), tech.ErrDirectory},
		{file, path(message.TypeSum, "srv/a"), tech.ErrDirectory},
		{file, path(message.TypeList, `c:\data2`), tech.ErrDirectory},
		{file, path(message.TypeWrite, `C:\Data\..\x`), tech.ErrDirectory},
		{file, path(message.TypeRead, "/srv/a/\x00"), tech.ErrMessage},
		{file, path(message.TypeRead, ""), tech.ErrMessage},
		{file, raw(message.TypeRead, `{"path":"/srv/a/x","offset":-1}`), tech.ErrMessage},
		// Two readers that see different members: the one that counts is checked, and the node gets no other.
		{file, raw(message.TypeRead, `{"path":"/srv/a/x","path_b64":"`+base64.StdEncoding.EncodeToString([]byte("/etc/shadow"))+`"}`), tech.ErrDirectory},
	} {
		if err := test.j.Send(t.Context(), test.m); !errors.Is(err, test.want) {
			t.Errorf("%d: %s: %v, want %v", i, test.m.Payload, err, test.want)
		}
	}
	for _, id := range []string{"t", "f", "s"} {
		if n := len(w.n.last().conn(id).in); n != 0 {
			t.Errorf("%d messages reached the node on %s", n, id)
		}
	}
	refused := w.rows(r.ID)[4:]
	if n := len(refused); n != 11 || refused[0].Detail["cwd"] != "/srv" || refused[3].Detail["path"] != "/etc/shadow" {
		t.Errorf("%d: %+v", n, refused)
	}

	const nasty = "rm -rf \"$HOME\"; echo 'x' \\\x01\x1b[2J\u202e · \u00e9 · e\u0301 \r\n\t"
	sent := []struct {
		j    *tech.Joined
		id   string
		m    message.Message
		want string // what the node gets
	}{
		{term, "t", command(nasty), string(message.Of("", message.Command{Command: nasty}, nil).Payload)},
		{file, "f", path(message.TypeRead, "/srv/a"), `{"path":"/srv/a","offset":0,"length":0}`},
		{file, "f", raw(message.TypeRead, `{"path":"/etc/shadow","PATH":"/srv/a/x","x":1}`), `{"path":"/srv/a/x","offset":0,"length":0}`},
		{file, "f", message.Of(message.TypeRead, message.FileRead{PathB64: []byte("/srv/a/\xff")}, nil), `{"path":"/srv/a/\ufffd","path_b64":"L3Nydi9hL/8=","offset":0,"length":0}`},
		{service, "s", raw(message.TypeService, `{"op":"restart","name":"a'b"}`), `{"op":"restart","name":"a'b"}`},
	}
	for _, one := range sent {
		if err := one.j.Send(t.Context(), one.m); err != nil {
			t.Fatal(err)
		}
		got := <-w.n.last().conn(one.id).in
		var a, b any
		if json.Unmarshal(got.Payload, &a) != nil || json.Unmarshal([]byte(one.want), &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("the node got %s, want %s", got.Payload, one.want)
		}
	}
	rows := w.rows(r.ID)
	rows = rows[len(rows)-len(sent):]
	if ops(rows) != "command file_read file_read file_read service" || rows[0].Detail["command"] != nasty || rows[2].Detail["path"] != "/srv/a/x" ||
		rows[3].Detail["path_b64"] != "L3Nydi9hL/8=" || rows[4].Detail["name"] != "a'b" || rows[4].Detail["op"] != "restart" {
		t.Errorf("%+v", rows)
	}
	for _, a := range rows {
		if a.SessionID != r.ID || a.ChannelID == "" || a.NodeID != "n1" || a.Subject != "iam:alice" || a.Outcome != "ok" || a.At.IsZero() {
			t.Errorf("%+v", a)
		}
	}
}

func TestReadOnly(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{ReadOnly: true})
	_, err := w.s.Join(t.Context(), alice, tech.JoinIn{SessionID: r.ID, Kind: message.Terminal})
	w.want(err, tech.ErrNotAllowed)
	file, service := w.join(alice, r.ID, message.File, "f"), w.join(alice, r.ID, message.Service, "s")
	w.want(file.Send(t.Context(), message.Of(message.TypeWrite, message.FileWrite{Path: "/x"}, []byte("x"))), tech.ErrNotAllowed)
	w.want(file.Send(t.Context(), message.Of(message.TypeRead, message.FileRead{Path: "/x"}, nil)), nil)
	for op, want := range map[string]error{"list": nil, "status": nil, "restart": tech.ErrNotAllowed, "List": tech.ErrNotAllowed, "": tech.ErrNotAllowed} {
		w.want(service.Send(t.Context(), message.Of(message.TypeService, message.ServiceCall{Op: op, Name: "x"}, nil)), want)
	}
}

// TestEnds: the end of what a node does has its row, with what came of it.
func TestEnds(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	file, term := w.join(alice, r.ID, message.File, "f"), w.join(alice, r.ID, message.Terminal, "t")
	f, tc := w.n.last().conn("f"), w.n.last().conn("t")
	send := func(j *tech.Joined, m message.Message) {
		t.Helper()
		if err := j.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(j *tech.Joined, c *conn, m message.Message) {
		t.Helper()
		c.out <- m
		if got, err := j.Receive(t.Context()); err != nil || got.Type != m.Type || !bytes.Equal(got.Data, m.Data) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	write := func(path, upload string, eof bool) message.Message {
		in := message.FileWrite{Path: path, Upload: upload, EOF: eof}
		if eof {
			in.SHA256 = "sum of " + path
		}
		return message.Of(message.TypeWrite, in, []byte("data"))
	}
	// Two uploads and a read, asked before anything is answered.
	send(file, write("/a", "upload-a", false))
	send(file, write("/a", "upload-a", true))
	send(file, write("/b", "upload-b", true))
	send(file, message.Of(message.TypeRead, message.FileRead{Path: "/c"}, nil))
	send(file, message.Of(message.TypeList, message.Path{Path: "/d"}, nil))
	send(file, message.Of(message.TypeRead, message.FileRead{Path: "/e"}, nil))
	answer(file, f, message.Of(message.TypeAck, message.FileAck{Written: 4}, nil))
	answer(file, f, message.Of(message.TypeAck, message.FileAck{Written: 8, Done: true}, nil))
	answer(file, f, message.Of(message.TypeError, message.Failure{Code: "conflict", Error: "the checksum is another one"}, nil))
	answer(file, f, message.Of(message.TypeFileChunk, message.FileChunk{}, []byte("12345")))
	answer(file, f, message.Of(message.TypeFileChunk, message.FileChunk{Done: true, EOF: true, SHA256: "sum of /c"}, []byte("67")))
	answer(file, f, message.Of(message.TypeEntries, message.Entries{}, nil))

	zero := 0
	send(term, command("make"))
	answer(term, tc, message.Of(message.TypeOutput, message.Output{Stdout: "abc", StderrB64: []byte{0xff}}, nil))
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || !slices.ContainsFunc(got.Channels, func(c tech.Channel) bool { return c.What == "make" }) {
		t.Errorf("%+v, %v", got, err)
	}
	answer(term, tc, message.Of(message.TypeOutput, message.Output{ExitCode: &zero}, nil))
	send(term, message.Of(message.TypeOpen, message.TerminalOpen{Argv: []string{"sh"}, Env: []string{"TOKEN=secret"}}, nil))
	answer(term, tc, message.Of(message.TypeOpened, message.TerminalReady{PID: 1}, nil))
	answer(term, tc, message.Of(message.TypeError, message.Failure{Error: "the program does not read"}, nil))
	answer(term, tc, message.Of(message.TypeChunk, struct{}{}, []byte("$ ")))
	answer(term, tc, message.Of(message.TypeExit, message.Exit{ExitCode: &zero}, nil))
	if err := file.Close(nil); err != nil {
		t.Error(err)
	}
	if err := term.Close(nil); err != nil {
		t.Error(err)
	}

	var got []string
	for _, a := range w.rows(r.ID)[3:] {
		text, err := json.Marshal(a.Detail)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Operation+" "+a.Outcome+" "+string(text))
	}
	want := []string{
		`file_write ok {"offset":0,"path":"/a","upload":"upload-a"}`,
		`file_write ok {"offset":0,"path":"/b","upload":"upload-b"}`,
		`file_read ok {"length":0,"offset":0,"path":"/c"}`,
		`file_list ok {"path":"/d"}`,
		`file_read ok {"length":0,"offset":0,"path":"/e"}`,
		`file_write_end ok {"path":"/a","sha256":"sum of /a","written":8}`,
		`failed the checksum is another one {"code":"conflict","of":"file_write","path":"/b","sha256":"sum of /b"}`,
		`file_read_end ok {"bytes":7,"of":"file_read","path":"/c","sha256":"sum of /c"}`,
		`command ok {"command":"make","cwd":""}`,
		`command_end ok {"bytes":4,"exit_code":0,"of":"command","signal":"","timed_out":false,"truncated":false}`,
		`terminal_open ok {"argv":["sh"],"cwd":"","env":["TOKEN"]}`,
		`failed the program does not read {"code":""}`,
		`terminal_exit ok {"bytes":2,"exit_code":0,"of":"terminal_open","signal":""}`,
		`channel_close cut off {"kind":"file","of":"file_read","path":"/e"}`,
		`channel_close ok {"kind":"terminal"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestRun(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	seven := 7
	go func() {
		c := w.waitConn("run")
		<-c.in
		c.out <- message.Of(message.TypeOutput, message.Output{Stdout: "one\n"}, nil)
		c.out <- message.Of(message.TypeOutput, message.Output{Stdout: "two\n", ExitCode: &seven}, nil)
	}()
	var out string
	var code int
	if err := w.s.Run(t.Context(), alice, tech.RunIn{SessionID: r.ID, ChannelID: "run", Command: message.Command{Command: "x"}}, func(id string, o message.Output) error {
		if out += id + o.Stdout; o.ExitCode != nil {
			code = *o.ExitCode
		}
		return nil
	}); err != nil || out != "runone\nruntwo\n" || code != 7 {
		t.Errorf("%q, %d, %v", out, code, err)
	}
	// A node that fails says why, and one that ends the channel is told apart from success.
	go func() {
		c := w.waitConn("fails")
		<-c.in
		c.out <- message.Of(message.TypeError, message.Failure{Code: "denied", Error: "the policy says no"}, nil)
		c = w.waitConn("ends")
		<-c.in
		_ = c.Close(nil)
	}()
	none := func(string, message.Output) error { return nil }
	err := w.s.Run(t.Context(), alice, tech.RunIn{SessionID: r.ID, ChannelID: "fails", Command: message.Command{Command: "x"}}, none)
	if e, ok := errs.As(err); !ok || e.Class != errs.Denied || e.Text != "the policy says no" {
		t.Error(err)
	}
	err = w.s.Run(t.Context(), alice, tech.RunIn{SessionID: r.ID, ChannelID: "ends", Command: message.Command{Command: "x"}}, none)
	w.want(err, tech.ErrUnsupported)
	// Who goes away ends the command.
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan string, 2)
	go func() {
		c := w.waitConn("hung")
		<-c.in
		cancel()
		<-c.closed
		select { // what was sent before
		case m := <-c.in:
			hung <- m.Type
		default:
			hung <- "nothing"
		}
		hung <- "closed"
	}()
	err = w.s.Run(ctx, alice, tech.RunIn{SessionID: r.ID, ChannelID: "hung", Command: message.Command{Command: "sleep 1000"}}, none)
	w.want(err, context.Canceled)
	if a, b := <-hung, <-hung; a != message.TypeClose || b != "closed" {
		t.Error(a, b)
	}
}

func (w *world) waitConn(id string) *conn {
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if c := w.n.last().conn(id); c != nil {
			return c
		}
	}
	panic("no channel " + id)
}

// TestWatch: those who look on see everything as it happens, and one that does not read is told what it missed and slows
// nobody.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	quick, err := w.s.Watch(t.Context(), alice, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := w.s.Watch(t.Context(), admin, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	j := w.join(alice, r.ID, message.Terminal, "t")
	c := w.n.last().conn("t")
	if err := j.Send(t.Context(), command("yes")); err != nil {
		t.Fatal(err)
	}
	const pieces, size = 200, 32 << 10
	var seen bytes.Buffer
	var types []string
	take := func(x *tech.Watcher) tech.Event {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		e, err := x.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for range 4 {
		types = append(types, take(quick).Type)
	}
	for i := range pieces {
		piece := bytes.Repeat([]byte{byte(i)}, size)
		c.out <- message.Message{Type: message.TypeChunk, Data: piece}
		if _, err := j.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		e := take(quick)
		seen.Write(e.Data)
		if e.Type != "output" || e.Stream != "terminal" || e.ChannelID != "t" || !bytes.Equal(e.Data, piece) || e.Watchers != 2 {
			t.Fatalf("%+v", e)
		}
	}
	if seen.Len() != pieces*size {
		t.Errorf("%d bytes were seen", seen.Len())
	}
	if _, err := w.s.Close(t.Context(), alice, r.ID); err != nil {
		t.Fatal(err)
	}
	var got, skipped int64
	var last tech.Event
	for {
		e, err := slow.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got += int64(len(e.Data))
		skipped += e.Skipped
		if e.Type != "skipped" {
			last = e
		}
	}
	if got+skipped != pieces*size || skipped == 0 || got > 2<<20 || last.Type != "closed" || last.Text != string(tech.ByOperator) {
		t.Errorf("%d bytes, %d skipped, at last %+v", got, skipped, last)
	}
	if s := strings.Join(types, " "); s != "watcher_joined watcher_joined channel_opened command" {
		t.Error(s)
	}
	_, err = w.s.Watch(t.Context(), alice, r.ID)
	w.want(err, tech.ErrEnded)
}

func TestWatchers(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	var all []*tech.Watcher
	for range tech.MaxWatchers {
		x, err := w.s.Watch(t.Context(), alice, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
	}
	_, err := w.s.Watch(t.Context(), alice, r.ID)
	w.want(err, tech.ErrTooMany)
	all[1].Close()
	all[1].Close()
	var last tech.Event
	for range tech.MaxWatchers + 1 {
		if last, err = all[0].Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if last.Type != "watcher_left" || last.Subject != "iam:alice" || last.Watchers != tech.MaxWatchers-1 {
		t.Errorf("%+v", last)
	}
	for { // it reads what it was told before
		if _, err := all[1].Next(t.Context()); err != nil {
			w.want(err, io.EOF)
			break
		}
	}
	if got, err := w.s.Get(t.Context(), alice, r.ID); err != nil || got.Watchers != tech.MaxWatchers-1 {
		t.Errorf("%+v, %v", got, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errDisk)
	for err = nil; err == nil; {
		_, err = all[2].Next(ctx)
	}
	w.want(err, errDisk)
}

// TestOneBlocks: a channel whose node reads nothing holds up no other one.
func TestOneBlocks(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	blocked := w.join(alice, r.ID, message.Terminal, "blocked")
	free := w.join(alice, r.ID, message.Terminal, "free")
	done := make(chan error, 1)
	go func() {
		for {
			if err := blocked.Send(t.Context(), message.Message{Type: message.TypeInput, Data: []byte("x")}); err != nil {
				done <- err
				return
			}
		}
	}()
	for end := time.Now().Add(wait); len(w.n.last().conn("blocked").in) < cap(w.n.last().conn("blocked").in); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the channel does not fill")
		}
	}
	for range 100 {
		if err := free.Send(t.Context(), message.Message{Type: message.TypeInput, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		<-w.n.last().conn("free").in
	}
	if _, err := w.s.Close(t.Context(), alice, r.ID); err != nil {
		t.Fatal(err)
	}
	w.want(<-done, tech.ErrEnded)
}

func TestExport(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		r := w.open(alice, tech.OpenIn{NodeID: fmt.Sprint("n", i)})
		if _, err := w.s.Close(t.Context(), alice, r.ID); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(time.Second)
	}
	w.open(carol, tech.OpenIn{NodeID: "acme/n1"})
	count := func(c identity.Caller) (sessions, rows int, err error) {
		err = w.s.Export(t.Context(), c, func(tech.Session) error { sessions++; return nil }, func(tech.Audit) error { rows++; return nil })
		return
	}
	for c, want := range map[string]struct {
		c              identity.Caller
		sessions, rows int
		err            error
	}{"the owner": {admin, 4, 7, nil}, "acme": {carol, 1, 1, nil}, "globex": {dave, 0, 0, nil}, "no admin": {alice, 0, 0, tech.ErrScope}} {
		if s, r, err := count(want.c); s != want.sessions || r != want.rows || !errors.Is(err, want.err) {
			t.Errorf("%s: %d sessions, %d rows, %v", c, s, r, err)
		}
	}
	w.want(w.s.Export(t.Context(), admin, func(tech.Session) error { return errDisk }, nil), errDisk)
}

// TestMany lets operators open, work, take over, close and revoke at once; at the end nothing is left.
func TestMany(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := []identity.Caller{alice, bob, admin}[i%3]
			for k := range 15 {
				r, err := w.s.Open(t.Context(), c, tech.OpenIn{NodeID: fmt.Sprint("n", k%2), Takeover: k%3 == 0})
				if err != nil {
					continue
				}
				if j, err := w.s.Join(t.Context(), c, tech.JoinIn{SessionID: r.ID, Kind: message.Terminal}); err == nil {
					_ = j.Send(t.Context(), command("true"))
				}
				if x, err := w.s.Watch(t.Context(), c, r.ID); err == nil {
					defer x.Close()
				}
				if k%5 == 0 {
					w.s.Revoke(func(o identity.Caller) bool { return o.Principal == bob.Principal })
				}
				w.s.Sweep()
				if k%4 != 0 {
					_, _ = w.s.Close(t.Context(), c, r.ID)
				}
			}
		})
	}
	wg.Wait()
	w.stop()
	active, err := w.db.TechSessions(tech.ListIn{Status: tech.Active, Limit: 9})
	if err != nil || len(active) != 0 || w.s.Stats().Sessions != 0 {
		t.Errorf("%+v, %v", active, err)
	}
	for _, l := range w.n.lanes {
		if !l.over() {
			t.Error("a lane is open")
		}
		for _, c := range l.conns {
			select {
			case <-c.closed:
			default:
				t.Error("a channel is open")
			}
		}
	}
}
