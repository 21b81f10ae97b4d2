package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func hosts(t *PresenceTable) (out []string) {
	for _, p := range t.List() {
		out = append(out, p.Host)
	}
	return out
}

// The rules of the presence list (protocol.md §6.4).
func TestPresence(t *testing.T) {
	clock := time.UnixMilli(1700000000000)
	p := NewPresence(Presence{Host: "gw", Mode: "gateway"}, func() time.Time { return clock })
	p.Put("b", Presence{Host: "b", Mode: "ui", Roles: []identity.Role{"operator"}, Scopes: []identity.Scope{" operator.read ", "", " "}})
	p.Put("a", Presence{Host: "a", Mode: "ui"})
	if d := cmp.Diff([]string{"gw", "b", "a"}, hosts(p)); d != "" {
		t.Errorf("equal times: %s", d)
	}
	clock = clock.Add(time.Minute)
	p.Put("c", Presence{Host: "c", Text: "words"})
	p.Put("b", Presence{Host: "b2", Mode: "ui", Roles: []identity.Role{"node", "operator"}, Scopes: []identity.Scope{"operator.write", "operator.read"}})
	list := p.List()
	if d := cmp.Diff([]string{"gw", "b2", "c", "a"}, hosts(p)); d != "" {
		t.Errorf("newest first: %s", d)
	}
	if !list[0].At.Equal(clock) {
		t.Errorf("the gateway's own time is %s", list[0].At)
	}
	b := list[1]
	if b.Text != "Node: b · mode ui" || !slices.Equal(b.Roles, []identity.Role{"operator", "node"}) ||
		!slices.Equal(b.Scopes, []identity.Scope{"operator.read", "operator.write"}) {
		t.Errorf("%+v", b)
	}
	if list[2].Text != "words" {
		t.Errorf("%+v", list[2])
	}
	v := p.Version()
	p.Leave("nobody")
	if p.Version() != v {
		t.Error("the version counts what did not happen")
	}
	p.Leave("a")
	if a := p.List()[1]; p.Version() != v+1 || a.Host != "b2" && a.Host != "a" {
		t.Errorf("%+v", a)
	}
	clock = clock.Add(presenceTTL)
	if n := len(p.List()); n != 4 {
		t.Errorf("%d at the end of their time", n)
	}
	clock = clock.Add(time.Millisecond)
	if d := cmp.Diff([]string{"gw"}, hosts(p)); d != "" {
		t.Errorf("past their time: %s", d)
	}
	if got := Key("", "  ", "X"); got != "  " {
		t.Errorf("got %q", got)
	}
	if got := Key("", "ABC", "X"); got != "abc" {
		t.Errorf("got %q", got)
	}
}

// A party is gone when the last of its connections is, even if its entry was dropped in between.
func TestPresenceCountsConnections(t *testing.T) {
	clock := time.UnixMilli(1700000000000)
	p := NewPresence(Presence{Host: "gw"}, func() time.Time { return clock })
	put := func(key string) { p.Put(key, Presence{Host: key, Reason: "connect"}) }
	leave := func(want string) {
		t.Helper()
		p.Leave("a")
		if got := p.List()[1]; got.Host != "a" || got.Reason != want {
			t.Errorf("%s is marked %q, want %q", got.Host, got.Reason, want)
		}
	}
	put("a")
	put("a")
	leave("connect")
	leave("disconnect")
	put("a")
	clock = clock.Add(2 * presenceTTL)
	put("b") // drops what is too old
	clock = clock.Add(time.Second)
	put("a")
	leave("connect")
	leave("disconnect")
	p.Leave("b")
	if len(p.live) != 0 {
		t.Errorf("%v is left", p.live)
	}
}

// The list holds 200 entries, the gateway's own among them; the oldest go.
func TestPresenceIsBounded(t *testing.T) {
	clock := time.UnixMilli(1700000000000)
	p := NewPresence(Presence{Host: "gw"}, func() time.Time { return clock })
	for i := range 3 * presenceMax {
		clock = clock.Add(time.Millisecond)
		p.Put(fmt.Sprint(i), Presence{Host: fmt.Sprint(i)})
	}
	list := p.List()
	if len(list) != presenceMax || list[1].Host != fmt.Sprint(3*presenceMax-1) {
		t.Errorf("%d entries, the newest is %s", len(list), list[1].Host)
	}
	if len(p.entries) > presenceMax {
		t.Errorf("%d are kept", len(p.entries))
	}
}

func newService(tb testing.TB) (*Service, *events.Bus) {
	tb.Helper()
	bus := events.New(time.Now)
	count := func() int { return 1 }
	return New(Config{
		Version: "v", StateDir: "/state", ConfigPath: "/config", Socket: "/socket", AuthMode: "token",
		LogFile: filepath.Join(tb.TempDir(), "log"), Bus: bus, Presence: NewPresence(Presence{Host: "gw"}, time.Now), Now: time.Now,
		Facts: Facts{
			Connections: count, NodesConnected: count, NodesKnown: count, ApprovalsPending: count,
			Listen: func() []string { return []string{"127.0.0.1:1"} },
			Agents: func() ([]Agent, string) { return []Agent{{ID: "main", Default: true}}, "main" },
		},
	}), bus
}

// Paths are for admins.
func TestStatus(t *testing.T) {
	s, _ := newService(t)
	for _, c := range []struct {
		scope identity.Scope
		paths bool
	}{{identity.ScopeAdmin, true}, {identity.ScopeRead, false}} {
		st, err := s.Status(context.Background(), identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{c.scope}})
		if err != nil || (st.StateDir != "") != c.paths || (st.ConfigPath != "") != c.paths || (st.Socket != "") != c.paths || st.Admin != c.paths {
			t.Errorf("%s: %+v %v", c.scope, st, err)
		}
		if st.PID != os.Getpid() || st.Connections != 1 || st.DefaultAgentID != "main" {
			t.Errorf("%+v", st)
		}
	}
}

// queue is an EventQueue in memory.
type queue struct {
	session string
	events  []QueuedEvent
	err     error
}

func (q *queue) QueueEvent(_ context.Context, session string, e QueuedEvent, keep int) error {
	if q.err != nil {
		return q.err
	}
	q.session, q.events = session, append(q.events, e)
	if n := len(q.events) - keep; n > 0 {
		q.events = q.events[n:]
	}
	return nil
}

func (q *queue) QueuedEvents(string) ([]QueuedEvent, error) { return q.events, nil }

// What wakes an agent is stored before anybody is told, and nobody is told of what is not stored.
func TestWake(t *testing.T) {
	q := &queue{}
	bus := events.New(time.Now)
	var woken []string
	beat := func(reason string) {
		if len(q.events) == 0 {
			t.Error("announced before it was stored")
		}
		woken = append(woken, reason)
	}
	s := New(Config{Bus: bus, Queue: q, Beat: beat, MainSession: func() string { return "agent:main:main" }, Now: func() time.Time { return time.UnixMilli(7) }})
	for _, c := range []struct {
		in   WakeIn
		text string
		out  WakeMode
		beat string
		err  error
	}{
		{WakeIn{Text: " hi\n", Source: "hook"}, "hi", WakeNow, "hook:wake", nil},
		{WakeIn{Text: "hi", Source: "hook github"}, "hi", WakeNow, "hook:github", nil},
		{WakeIn{Text: "later", Mode: WakeNextHeartbeat}, "later", WakeNextHeartbeat, "", nil},
		{WakeIn{Text: "odd", Mode: "whenever"}, "odd", WakeNow, "wake", nil},
		{WakeIn{Text: "bad \xff"}, "bad \uFFFD", WakeNow, "wake", nil},
		{WakeIn{Text: " "}, "", "", "", ErrWakeText},
		{WakeIn{Text: strings.Repeat("x", maxEventText+1)}, "", "", "", ErrWakeTooLong},
		{WakeIn{Text: strings.Repeat("x", maxEventText)}, strings.Repeat("x", maxEventText), WakeNow, "wake", nil},
	} {
		q.events, woken = nil, nil
		out, err := s.Wake(t.Context(), identity.Caller{}, c.in)
		if !errors.Is(err, c.err) || out.Mode != c.out {
			t.Errorf("%.20q: %+v, %v", c.in.Text, out, err)
		}
		if err != nil {
			if len(q.events)+len(woken) > 0 {
				t.Errorf("%.20q: refused, and %v %v", c.in.Text, q.events, woken)
			}
			continue
		}
		want := QueuedEvent{Text: c.text, Source: c.in.Source, At: time.UnixMilli(7)}
		if len(q.events) != 1 || q.events[0] != want || q.session != "agent:main:main" || strings.Join(woken, " ") != c.beat {
			t.Errorf("%.20q: %v, %v", c.in.Text, q.events, woken)
		}
	}
	q.err, woken = errors.New("disk"), nil
	if _, err := s.Wake(t.Context(), identity.Caller{}, WakeIn{Text: "x"}); !errors.Is(err, q.err) || woken != nil {
		t.Errorf("%v, %v", err, woken)
	}
}

// What is announced how often, whatever is asked: ticks, health and presence.
func TestAnnouncements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, bus := newService(t)
		counts := map[string]int{}
		var mu sync.Mutex
		bus.Sink(func(e events.Event) {
			mu.Lock()
			defer mu.Unlock()
			counts[e.Name]++
		})
		seen := func(name string) int {
			mu.Lock()
			defer mu.Unlock()
			return counts[name]
		}
		reset := func() {
			mu.Lock()
			defer mu.Unlock()
			clear(counts)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Run(ctx)
		}()
		synctest.Wait()
		if seen("health") != 1 || s.Cached() == nil {
			t.Fatalf("at the start: %d health, %d presence, %d ticks", seen("health"), seen("presence"), seen("tick"))
		}
		before := s.Versions().Health
		time.Sleep(2 * time.Second)
		// A hundred clients at once cost one refresh now and one later.
		for range 100 {
			s.RefreshHealth()
			s.AnnouncePresence()
			if _, err := s.Health(ctx, identity.Caller{}, false); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		time.Sleep(time.Second + time.Millisecond)
		synctest.Wait()
		if seen("health") > 3 || seen("presence") > 2 || seen("presence") == 0 {
			t.Errorf("after a burst: %d health, %d presence, %d ticks", seen("health"), seen("presence"), seen("tick"))
		}
		if after := s.Versions().Health; int(after-before) != seen("health")-1 {
			t.Errorf("version %d after %d, %d announcements", after, before, seen("health"))
		}
		// Nor do callers that insist on a fresh look.
		reset()
		for range 100 {
			if _, err := s.Health(ctx, identity.Caller{}, true); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if seen("health") > 2 {
			t.Errorf("%d announcements for a burst of probes", seen("health"))
		}
		time.Sleep(10 * time.Second)
		h, err := s.Health(ctx, identity.Caller{}, true)
		if err != nil || time.Since(h.At) != 0 {
			t.Errorf("a probe after a while is %s old", time.Since(h.At))
		}
		reset()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if seen("tick") != 10 || seen("health") != 5 {
			t.Errorf("in five minutes: %d health, %d presence, %d ticks", seen("health"), seen("presence"), seen("tick"))
		}
		cancel()
		<-done
	})
}

// With many clients, presence goes out the less often the more they are; its versions only grow.
func TestPresenceOfACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, bus := newService(t)
		clients := 10
		s.cfg.Facts.Connections = func() int { return clients }
		var at []time.Time
		var last Versions
		bus.Sink(func(e events.Event) {
			if p, ok := e.Payload.(PresenceChanged); ok {
				at = append(at, e.At)
				if p.Versions.Presence < last.Presence || p.Versions.Presence < uint64(len(p.Entries)) {
					t.Errorf("%+v after %+v with %d entries", p.Versions, last, len(p.Entries))
				}
				last = p.Versions
			}
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		for _, c := range []struct {
			clients int
			gap     time.Duration
		}{{10, presenceGap}, {1000, 4 * time.Second}, {100_000, presenceGapMax}} {
			clients = c.clients
			time.Sleep(time.Minute)
			for i := range presenceMax {
				s.cfg.Presence.Put(fmt.Sprint(i), Presence{Host: fmt.Sprint(i)})
			}
			at = nil
			for range 1000 { // somebody leaves every 100 ms
				s.AnnouncePresence()
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
			}
			if len(at) < 3 || at[2].Sub(at[1]) < c.gap || at[2].Sub(at[1]) > c.gap+100*time.Millisecond {
				t.Errorf("with %d clients there are %d announcements, %s apart; want %s", c.clients, len(at), at[2].Sub(at[1]), c.gap)
			}
		}
	})
}

// What is older than a minute is not served.
func TestHealthIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t)
		if s.Cached() != nil {
			t.Error("a summary before the first look")
		}
		for range 3 {
			h, err := s.Health(context.Background(), identity.Caller{}, false)
			if err != nil || time.Since(h.At) > healthFor || h.DefaultAgentID != "main" {
				t.Errorf("%+v %v", h, err)
			}
			time.Sleep(healthFor + time.Second)
		}
	})
}

func ptr(n int64) *int64 { return &n }

// logs.tail (control-plane.md §1).
func TestTail(t *testing.T) {
	s, _ := newService(t)
	ctx := context.Background()
	tail := func(in TailIn) TailOut {
		t.Helper()
		out, err := s.TailLogs(ctx, identity.Caller{}, in)
		if err != nil {
			t.Fatalf("%+v: %v", in, err)
		}
		return out
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(s.cfg.LogFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(TailOut{File: s.cfg.LogFile, Lines: []string{}}, tail(TailIn{})); d != "" {
		t.Errorf("no file: %s", d)
	}
	write("one\ntwo\n\nfour\n")
	for _, c := range []struct {
		name string
		in   TailIn
		want TailOut
	}{
		{"all", TailIn{}, TailOut{Lines: []string{"one", "two", "", "four"}, Cursor: 14, Size: 14}},
		{"limit", TailIn{Limit: 1}, TailOut{Lines: []string{"four"}, Cursor: 14, Size: 14}},
		{"whole lines only", TailIn{MaxBytes: 8}, TailOut{Lines: []string{"", "four"}, Cursor: 14, Size: 14, Truncated: true}},
		{"from a line's end", TailIn{MaxBytes: 10}, TailOut{Lines: []string{"two", "", "four"}, Cursor: 14, Size: 14, Truncated: true}},
		{"less than a line", TailIn{MaxBytes: 2}, TailOut{Lines: []string{}, Cursor: 14, Size: 14, Truncated: true}},
		{"cursor", TailIn{Cursor: ptr(8)}, TailOut{Lines: []string{"", "four"}, Cursor: 14, Size: 14}},
		{"cursor in a line", TailIn{Cursor: ptr(5)}, TailOut{Lines: []string{"", "four"}, Cursor: 14, Size: 14}},
		{"cursor at the end", TailIn{Cursor: ptr(14)}, TailOut{Lines: []string{}, Cursor: 14, Size: 14}},
		{"cursor past the end", TailIn{Cursor: ptr(15)}, TailOut{Lines: []string{"one", "two", "", "four"}, Cursor: 14, Size: 14, Reset: true}},
		{"cursor far behind", TailIn{Cursor: ptr(0), MaxBytes: 5}, TailOut{Lines: []string{"four"}, Cursor: 14, Size: 14, Reset: true, Truncated: true}},
		{"cursor 0", TailIn{Cursor: ptr(0)}, TailOut{Lines: []string{"one", "two", "", "four"}, Cursor: 14, Size: 14}},
	} {
		c.want.File = s.cfg.LogFile
		if d := cmp.Diff(c.want, tail(c.in)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	for _, in := range []TailIn{
		{Limit: -1}, {Limit: 5001}, {MaxBytes: -1}, {MaxBytes: 1_000_001}, {Cursor: ptr(-1)}, {Cursor: ptr(-1 << 63)}, {Cursor: ptr(-1 << 62)},
	} {
		if _, err := s.TailLogs(ctx, identity.Caller{}, in); !errors.Is(err, ErrLogRange) {
			t.Errorf("%+v: %v", in, err)
		}
	}
	if err := os.Remove(s.cfg.LogFile); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.cfg.LogFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TailLogs(ctx, identity.Caller{}, TailIn{}); errs.ClassOf(err) != errs.Unavailable {
		t.Errorf("a directory: %v", err)
	}
}

// Following goes on through rotations and loses no line of a file that was put aside.
func TestFollow(t *testing.T) {
	s, _ := newService(t)
	path := s.cfg.LogFile
	if err := os.WriteFile(path, []byte("old 1\nold 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.FollowLogs(ctx, identity.Caller{}, 1, func(line string) error {
			got <- line
			return nil
		})
	}()
	want := func(lines ...string) {
		t.Helper()
		for _, w := range lines {
			select {
			case g := <-got:
				if g != w {
					t.Fatalf("got %q, want %q", g, w)
				}
			case <-ctx.Done():
				t.Fatalf("no line %q", w)
			}
		}
	}
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want("old 2")
	add("new 1\nnew 2\nhalf")
	want("new 1", "new 2")
	add(" and half\n")
	want("half and half")
	for i := range 3 {
		add(fmt.Sprintf("last of %d\n", i))
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
			t.Fatal(err)
		}
		add(fmt.Sprintf("first after %d\n", i))
		want(fmt.Sprintf("last of %d", i), fmt.Sprintf("first after %d", i))
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop := errors.New("enough")
	if err := s.FollowLogs(context.Background(), identity.Caller{}, 5, func(string) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if err := s.FollowLogs(context.Background(), identity.Caller{}, -1, nil); !errors.Is(err, ErrLogRange) {
		t.Error(err)
	}
}

// Whenever a file is put aside, no line of it is lost.
func TestFollowRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	seen := make(chan int, 8)
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(seen)
		fl := follower{path: path}
		defer fl.close()
		next := 0
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := fl.read(func(line string) error {
				if line != fmt.Sprint("line ", next) {
					return fmt.Errorf("got %q, want line %d", line, next)
				}
				next++
				seen <- next
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	n := 0
	await := func(want int) {
		for {
			got, ok := <-seen
			if !ok {
				t.FailNow()
			}
			if got == want {
				return
			}
		}
	}
	const lines = 4
	for range 1000 {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range lines {
			if _, err := fmt.Fprintf(f, "line %d\n", n); err != nil {
				t.Fatal(err)
			}
			n++
			if i == 0 {
				await(n) // the reader is at this file; what follows races with it
			}
		}
		if err := errors.Join(f.Close(), os.Rename(path, path+".1")); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	for range seen {
	}
	<-ended
}

// A line that never ends is cut.
func TestFollowLongLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 3*maxFollowLine)), 0o600); err != nil {
		t.Fatal(err)
	}
	fl := follower{path: path}
	defer fl.close()
	most := 0
	if err := fl.read(func(line string) error { most = max(most, len(line)); return nil }); err != nil {
		t.Fatal(err)
	}
	if most > 2*maxFollowLine || cap(fl.part) > 4*maxFollowLine {
		t.Errorf("a line of %d bytes", most)
	}
}

// Who only says that it is a device does not stand in that device's place.
func TestPresenceOfAClaimedDevice(t *testing.T) {
	p := NewPresence(Presence{Host: "gw"}, time.Now)
	id := strings.Repeat("ab", 32)
	device := p.Join(Party{ConnID: "1", DeviceID: id, ClientID: "device", Mode: "ui", IP: "192.0.2.1"})
	for i, claim := range []string{id, strings.ToUpper(id)} {
		other := p.Join(Party{ConnID: fmt.Sprint("c", i), InstanceID: claim, ClientID: "other", Mode: "ui"})
		if other == device {
			t.Error("the claim has the entry of the device")
		}
	}
	for _, e := range p.List() {
		if e.Host == "device" && (e.IP != "192.0.2.1" || e.InstanceID != id) || e.Host == "other" && e.InstanceID != "" {
			t.Errorf("%+v", e)
		}
	}
}
