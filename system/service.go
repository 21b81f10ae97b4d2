package system

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// TickEvery is the heartbeat of connections (protocol.md §0; frozen).
	TickEvery = 30 * time.Second
	// healthFor is how long a health summary is served from the cache (protocol.md §6.5; frozen).
	healthFor = time.Minute
	// healthGap is the least time between two refreshes. Each is broadcast, and each connect and
	// each health call asks for one, so this bounds what a burst of clients costs the others.
	healthGap = time.Second
	// presenceGap is the same for presence after disconnects. The list goes to everybody, so with many
	// clients it is longer: presenceRows is how many rows a second, about 20 MB, are sent to all of them
	// together while clients come and go, and presenceGapMax the longest gap.
	presenceGap    = 200 * time.Millisecond
	presenceGapMax = 30 * time.Second
	presenceRows   = 50_000
)

// Config is what the service needs.
type Config struct {
	Version    string
	StateDir   string
	ConfigPath string
	Socket     string
	AuthMode   string
	LogFile    string
	// MainSession is the session that Wake wakes, Queue keeps what woke it. Beat asks for a heartbeat, for a
	// reason such as "wake"; nil asks nobody.
	MainSession func() string
	Queue       EventQueue
	Beat        func(reason string)
	Facts       Facts
	Bus         *events.Bus
	Presence    *PresenceTable
	Now         func() time.Time
}

// Service answers for the daemon. Its methods are safe for concurrent use. Run must be running for
// ticks and health events.
type Service struct {
	cfg     Config
	pid     int
	started time.Time

	looking sync.Mutex // makes the versions of health go out in order

	mu      sync.Mutex
	health  *Health // nil until the first refresh
	version uint64
	// noted is the key of the entry that the last queued line speaks of, "" when it was another event.
	noted string
	// diagnosis is the one under way, nil when there is none.
	diagnosis *diagnosing

	refresh  chan struct{}
	presence chan struct{}
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.MainSession == nil {
		cfg.MainSession = func() string { return "agent:main:main" }
	}
	return &Service{
		cfg: cfg, pid: os.Getpid(), started: cfg.Now(), version: 1,
		refresh: make(chan struct{}, 1), presence: make(chan struct{}, 1),
	}
}

// Run sends ticks, refreshes the health and announces presence, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(TickEvery)
	defer tick.Stop()
	regular := time.NewTicker(healthFor)
	defer regular.Stop()
	// A gate holds a signal back until its time has come.
	refresh := gate{min: healthGap}
	presence := gate{min: presenceGap}
	s.look()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.cfg.Bus.Publish("tick", Tick{At: s.cfg.Now()})
		case <-regular.C:
			s.look()
		case <-s.refresh:
			refresh.ask()
		case <-s.presence:
			presence.ask()
		case <-refresh.due():
			refresh.open()
			s.look()
		case <-presence.due():
			presence.open()
			presence.min = s.announcePresence()
		}
	}
}

// gate turns many signals into at most one per interval. The first passes at once.
type gate struct {
	min   time.Duration
	last  time.Time
	timer *time.Timer
}

func (g *gate) ask() {
	if g.timer == nil {
		g.timer = time.NewTimer(max(0, g.min-time.Since(g.last)))
	}
}

func (g *gate) due() <-chan time.Time {
	if g.timer == nil {
		return nil
	}
	return g.timer.C
}

func (g *gate) open() { g.timer, g.last = nil, time.Now() }

// announcePresence tells everybody who is there, and returns how long to wait before the next time.
func (s *Service) announcePresence() time.Duration {
	v := s.Versions() // before the list: it shows these changes at least
	rows := s.cfg.Presence.List()
	s.cfg.Bus.Publish("presence", PresenceChanged{Entries: rows, Versions: v})
	sent := time.Duration(len(rows) * s.cfg.Facts.Connections())
	return min(max(presenceGap, sent*time.Second/presenceRows), presenceGapMax)
}

// look makes a new health summary and announces it.
func (s *Service) look() {
	s.looking.Lock()
	defer s.looking.Unlock()
	began := s.cfg.Now()
	agents, def := s.agents(healthSessions)
	h := Health{At: began, DefaultAgentID: def, Agents: agents}
	h.Took = s.cfg.Now().Sub(began)
	s.mu.Lock()
	s.health = &h
	s.version++
	s.mu.Unlock()
	s.cfg.Bus.Publish("health", HealthChanged{Health: h, Versions: s.Versions()})
}

// RefreshHealth asks for a new summary. It does not wait.
func (s *Service) RefreshHealth() {
	select {
	case s.refresh <- struct{}{}:
	default:
	}
}

// AnnouncePresence asks for a presence event. It does not wait.
func (s *Service) AnnouncePresence() {
	select {
	case s.presence <- struct{}{}:
	default:
	}
}

// Health returns the cached summary and has it refreshed (protocol.md §6.5).
func (s *Service) Health(_ context.Context, _ identity.Caller, probe bool) (Health, error) {
	s.mu.Lock()
	h := s.health
	s.mu.Unlock()
	// A probe is a fresh look, but not one per call: each is announced to every client.
	age := time.Duration(0)
	if h != nil {
		age = s.cfg.Now().Sub(h.At)
	}
	if h == nil || age > healthFor || (probe && age >= healthGap) {
		s.look()
		s.mu.Lock()
		h = s.health
		s.mu.Unlock()
		return *h, nil
	}
	s.RefreshHealth()
	return *h, nil
}

// Cached returns the last summary, nil before the first.
func (s *Service) Cached() *Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

// Versions returns the versions of presence and health.
func (s *Service) Versions() Versions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Versions{Presence: s.cfg.Presence.Version(), Health: s.version}
}

// Uptime is the time since the start.
func (s *Service) Uptime() time.Duration { return s.cfg.Now().Sub(s.started) }

// Presence lists who was seen, newest first: of its tenant, for a caller with one.
func (s *Service) Presence(_ context.Context, c identity.Caller) ([]Presence, error) {
	return Shown(c, s.cfg.Presence.List()), nil
}
