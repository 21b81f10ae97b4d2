// Package tunnels serves the commands tunnel.* of a node: the gateway asks to reach a host and a port of this machine,
// and what is admitted is served on a carrier that the node opens beside its link (tunnel.md §4.13).
//
// It imports nodes/host, tunnel/driver and the standard library. A link that has a carrier owns two goroutines, which
// end with it; Close waits for them.
package tunnels

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Limits.
const (
	// MaxGrants is how many targets a gateway may have at once.
	MaxGrants = 256
	// MaxStreams is how many local sockets there are at once, to however many targets: the gateway has a bound of
	// its own, which is lower unless somebody has raised it.
	MaxStreams = 16_384
	// idle is how long a carrier stands that serves nobody and has no grants.
	idle = 120 * time.Second
	// carryTime bounds the opening of a carrier: a call of tunnel.open waits for it.
	carryTime = 10 * time.Second
	// tokenKind is of the name, in the parameter carrier, by which the gateway knows a carrier as the node's.
	tokenKind = "node"
	// maxToken bounds it, in bytes.
	maxToken = 256
	// maxBefore is how many targets of former links are remembered.
	maxBefore = 4 * MaxGrants
	// maxID is the largest id of a grant.
	maxID = 1<<31 - 1
	// MaxAllow bounds the list of targets that are allowed beside loopback.
	MaxAllow = 256
)

// Config of New. Policy is required.
type Config struct {
	Policy host.Policy
	// Env is the environment whose PATH the policy looks at; os.Environ when nil.
	Env func() []string
	// Allow are the targets beside those of the loopback interface: host:port, host:*, *:port, or * for all.
	Allow []string
	// Exposed are services that this node asks to be exposed on each link: the gateway may reach them without an
	// approval.
	Exposed []Exposure
	// Dial connects to a target; a net.Dialer when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle replaces the 120 seconds after which a carrier that has no grants is closed, when it is positive.
	Idle time.Duration
	Log  *slog.Logger
}

// Module is the host.Module. Its methods may be called concurrently.
type Module struct {
	c     Config
	allow []target
	own   []target

	mu sync.Mutex
	// before are the targets that were admitted, by id, also on links that are gone: a gateway that comes back asks for
	// them again without the approval that they had.
	before map[int]target
	links  map[<-chan struct{}]*link
	wg     sync.WaitGroup
}

// target is what may be reached; a host "" or a port 0 is any.
type target struct {
	host string
	port int
}

// link is what one link of the node has.
type link struct {
	m *Module

	opening sync.Mutex // one carrier at a time

	// Guarded by Module.mu.
	grants  map[int]target
	session *driver.Session
	since   time.Time // when there was a grant or a stream last
}

// ParseAllow reads a target of Config.Allow.
func ParseAllow(text string) error {
	_, err := parseAllow(text)
	return err
}

func parseAllow(text string) (target, error) {
	if text == "*" {
		return target{}, nil
	}
	i := strings.LastIndexByte(text, ':')
	if i < 1 {
		return target{}, fmt.Errorf("%q is no target: give host:port, host:*, *:port, or * for all", text)
	}
	name, port := text[:i], text[i+1:]
	probeHost, probePort := name, port
	if name == "*" {
		probeHost = "localhost"
	}
	if port == "*" {
		probePort = "1"
	}
	h, p, err := driver.SplitTarget(probeHost + ":" + probePort)
	if err != nil {
		return target{}, err
	}
	t := target{host: fold(h), port: p}
	if name == "*" {
		t.host = ""
	}
	if port == "*" {
		t.port = 0
	}
	return t, nil
}

// fold writes a host in one way.
func fold(h string) string {
	if ip := net.ParseIP(h); ip != nil {
		return ip.String()
	}
	return strings.ToLower(strings.TrimSuffix(h, "."))
}

// New returns the module. It fails for a target of Config.Allow that cannot be read.
func New(c Config) (*Module, error) {
	if c.Env == nil {
		c.Env = os.Environ
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Idle <= 0 {
		c.Idle = idle
	}
	m := &Module{c: c, links: map[<-chan struct{}]*link{}, before: map[int]target{}}
	if len(c.Allow) > MaxAllow {
		return nil, fmt.Errorf("more than %d targets are allowed", MaxAllow)
	}
	for _, text := range c.Allow {
		t, err := parseAllow(text)
		if err != nil {
			return nil, err
		}
		m.allow = append(m.allow, t)
	}
	for _, x := range c.Exposed {
		h, port, err := driver.SplitTarget(x.Address)
		if err != nil {
			return nil, err
		}
		m.own = append(m.own, target{fold(h), port})
	}
	return m, nil
}

// Close ends the carriers and waits for their goroutines.
func (m *Module) Close() {
	m.mu.Lock()
	var open []*driver.Session
	for _, l := range m.links {
		if l.session != nil {
			open = append(open, l.session)
		}
	}
	m.mu.Unlock()
	for _, s := range open {
		_ = s.Close()
	}
	m.wg.Wait()
}

// Commands implements host.Module.
func (m *Module) Commands() []string { return []string{"tunnel.close", "tunnel.list", "tunnel.open"} }

// Caps implements host.Module.
func (m *Module) Caps() []string { return []string{"tunnel"} }

// params are those of all commands.
type params struct {
	ID       *float64        `json:"id"`
	Host     string          `json:"host"`
	Port     *float64        `json:"port"`
	Carrier  string          `json:"carrier"`
	AgentID  *string         `json:"agentId"`
	Approved json.RawMessage `json:"approved"`
	Decision json.RawMessage `json:"approvalDecision"`
}

var names = []string{"id", "host", "port", "carrier", "agentId", "approved", "approvalDecision"}

func read(text *string) (p params, bad *host.Error) {
	if text == nil {
		return p, nil
	}
	raw := bytes.TrimSpace([]byte(*text))
	if len(raw) == 0 || string(raw) == "null" {
		return p, nil
	}
	// Names count as they are written: who guards this node reads them so, too.
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return p, invalid("the parameters must be an object")
	}
	for name := range members {
		if !slices.Contains(names, name) {
			delete(members, name)
		}
	}
	clean, _ := json.Marshal(members) // of JSON
	if json.Unmarshal(clean, &p) != nil {
		return p, invalid("a parameter is of the wrong kind: id and port are numbers, host is a text")
	}
	return p, nil
}

func invalid(text string) *host.Error { return &host.Error{Code: "INVALID_PARAMS", Message: text} }

// whole reads a number from 1 to most.
func whole(name string, n *float64, most int) (int, *host.Error) {
	if n == nil || *n != float64(int64(*n)) || *n < 1 || *n > float64(most) {
		return 0, invalid(fmt.Sprintf("%s must be a whole number from 1 to %d", name, most))
	}
	return int(*n), nil
}

// Handle implements host.Module.
func (m *Module) Handle(ctx context.Context, r host.Request) host.Result {
	p, bad := read(r.ParamsJSON)
	if bad != nil {
		return host.Result{Error: bad}
	}
	var out any
	switch r.Command {
	case "tunnel.open":
		out, bad = m.open(ctx, r, p)
	case "tunnel.close":
		out, bad = m.close(r, p)
	case "tunnel.list":
		out = m.list(r)
	default:
		bad = &host.Error{Code: "UNKNOWN_COMMAND", Message: "unknown command: " + r.Command}
	}
	if bad != nil {
		return host.Result{Error: bad}
	}
	raw, _ := json.Marshal(out) // of texts, numbers and booleans
	text := string(raw)
	return host.Result{OK: true, PayloadJSON: &text}
}

type okAnswer struct {
	OK bool `json:"ok"`
}

// open is tunnel.open: it admits a target under an id and makes sure that a carrier stands.
func (m *Module) open(ctx context.Context, r host.Request, p params) (any, *host.Error) {
	id, bad := whole("id", p.ID, maxID)
	if bad != nil {
		return nil, bad
	}
	port, bad := whole("port", p.Port, 65535)
	if bad != nil {
		return nil, bad
	}
	switch {
	case len(p.Carrier) > maxToken:
		return nil, invalid("carrier is too long")
	case p.Host == "":
		return nil, invalid("missing host")
	}
	name := p.Host
	if ip := net.ParseIP(name); ip != nil && strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	h, port, err := driver.SplitTarget(name + ":" + strconv.Itoa(port))
	if err != nil {
		return nil, invalid("host is no host: " + err.Error())
	}
	t := target{p.Host, port}
	where := target{fold(h), port}
	text := net.JoinHostPort(h, strconv.Itoa(port))
	if !m.allowed(where) {
		return nil, &host.Error{Code: "DENIED", Message: fmt.Sprintf(
			"this node reaches its own loopback interface alone; start it with --tunnel-allow %s, or HANZOD_TUNNEL_ALLOW, to allow this target", text)}
	}
	if bad := m.admitted(p, id, where, text); bad != nil {
		return nil, bad
	}
	if r.Carry == nil {
		return nil, &host.Error{Code: "UNAVAILABLE", Message: "the link of this node has no carriers for tunnels"}
	}
	l := m.linkOf(r)
	m.mu.Lock()
	_, again := l.grants[id]
	full := !again && len(l.grants) >= MaxGrants
	if !full {
		l.grants[id] = t
		if len(m.before) >= maxBefore {
			clear(m.before) // they are asked for with an approval then
		}
		m.before[id] = where
	}
	m.mu.Unlock()
	if full {
		return nil, &host.Error{Code: "UNAVAILABLE", Message: fmt.Sprintf("this node has %d targets open already; close some", MaxGrants)}
	}
	if err := l.carry(ctx, r, p.Carrier); err != nil {
		m.mu.Lock()
		if !again {
			delete(l.grants, id)
		}
		m.mu.Unlock()
		return nil, &host.Error{Code: "UNAVAILABLE", Message: "the node could not open a carrier for tunnels: " + err.Error()}
	}
	if !again {
		m.c.Log.Info("the gateway may reach a target through this node", "target", text, "id", id)
	}
	return okAnswer{true}, nil
}

// admitted asks the policy of this machine, as for a program of that name with the target behind it: deny refuses, full
// admits, and with allowlist it takes an approval. What this node exposes by itself was decided here.
func (m *Module) admitted(p params, id int, where target, text string) *host.Error {
	m.mu.Lock()
	again := m.before[id] == where
	m.mu.Unlock()
	approved := again || slices.Contains(m.own, where) || string(p.Approved) == "true" || string(p.Decision) == `"allow-once"` || string(p.Decision) == `"allow-always"`
	_, _, reason, message, err := m.c.Policy.Admit(p.AgentID, []string{"tunnel.open", text}, "", pathOf(m.c.Env()), approved)
	switch {
	case reason != "":
		return &host.Error{Code: "DENIED", Message: message}
	case err != nil:
		return &host.Error{Code: "DENIED", Message: "the exec approvals of this node cannot be read: " + err.Error()}
	}
	return nil
}

// allowed reports whether the settings of this node let a target be reached.
func (m *Module) allowed(t target) bool {
	if driver.Loopback(t.host) || slices.Contains(m.own, t) {
		return true
	}
	return slices.ContainsFunc(m.allow, func(a target) bool {
		return (a.host == "" || a.host == t.host) && (a.port == 0 || a.port == t.port)
	})
}

func pathOf(env []string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); strings.EqualFold(k, "PATH") {
			return v
		}
	}
	return ""
}

// close is tunnel.close.
func (m *Module) close(r host.Request, p params) (any, *host.Error) {
	id, bad := whole("id", p.ID, maxID)
	if bad != nil {
		return nil, bad
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.before, id)
	if l := m.links[r.Ended]; l != nil {
		delete(l.grants, id)
		l.since = time.Now()
	}
	return okAnswer{true}, nil
}

type listed struct {
	ID   int    `json:"id"`
	Host string `json:"host"`
	Port int    `json:"port"`
}

// list is tunnel.list.
func (m *Module) list(r host.Request) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := struct {
		Carrier bool     `json:"carrier"`
		Tunnels []listed `json:"tunnels"`
	}{Tunnels: []listed{}}
	l := m.links[r.Ended]
	if l == nil {
		return out
	}
	out.Carrier = l.session != nil
	for id, t := range l.grants {
		out.Tunnels = append(out.Tunnels, listed{id, t.host, t.port})
	}
	slices.SortFunc(out.Tunnels, func(a, b listed) int { return a.ID - b.ID })
	return out
}

// linkOf returns what the link of a request has. What it has goes with it.
func (m *Module) linkOf(r host.Request) *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.links[r.Ended]
	if l != nil {
		return l
	}
	l = &link{m: m, grants: map[int]target{}, since: time.Now()}
	m.links[r.Ended] = l
	if r.Ended != nil {
		m.wg.Go(func() {
			<-r.Ended
			m.mu.Lock()
			delete(m.links, r.Ended)
			s := l.session
			clear(l.grants)
			m.mu.Unlock()
			if s != nil {
				_ = s.Close() // its gateway sees the end
			}
		})
	}
	return l
}

// carry makes sure that a carrier stands.
func (l *link) carry(ctx context.Context, r host.Request, token string) error {
	l.opening.Lock()
	defer l.opening.Unlock()
	l.m.mu.Lock()
	s := l.session
	l.since = time.Now()
	l.m.mu.Unlock()
	if s != nil {
		select {
		case <-s.Done():
		default:
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, carryTime)
	defer cancel()
	s, err := driver.Connect(ctx, driver.Options{
		Dial:  func(ctx context.Context, _ int) (mux.Carrier, error) { return r.Carry(ctx, wire.V1) },
		Token: token, TokenKind: tokenKind,
		Local: l.m.c.Dial, Serve: l.admit, MaxLocal: MaxStreams, MaxTarget: MaxStreams, Log: l.m.c.Log,
	})
	if err != nil {
		return err
	}
	ended := false
	l.m.mu.Lock()
	if l.m.links[r.Ended] != l {
		ended = true
	} else {
		l.session = s
		l.m.wg.Go(func() { l.watch(s) })
	}
	l.m.mu.Unlock()
	if ended {
		_ = s.Close() // the link went meanwhile
		return driver.ErrClosed
	}
	return nil
}

// admit lets a stream through to what was admitted under its id.
func (l *link) admit(id int, name string, port int) error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	t, ok := l.grants[id]
	if !ok || t != (target{name, port}) {
		return errNotAdmitted
	}
	return nil
}

var errNotAdmitted = fmt.Errorf("this target is not open: ask with tunnel.open")

// watch closes a carrier that serves nobody, and forgets one that ended.
func (l *link) watch(s *driver.Session) {
	look := time.NewTicker(max(l.m.c.Idle/8, time.Millisecond))
	defer look.Stop()
	for over := false; !over; {
		select {
		case <-s.Done():
			over = true
		case now := <-look.C:
			l.m.mu.Lock()
			if len(l.grants) > 0 || s.Streams() > 0 {
				l.since = now
			}
			over = now.Sub(l.since) >= l.m.c.Idle
			if over && l.session == s {
				l.session = nil // who asks from now on gets another one
			}
			l.m.mu.Unlock()
		}
	}
	_ = s.Close() // it has ended, or nobody needs it
	l.m.mu.Lock()
	if l.session == s {
		l.session = nil
	}
	l.m.mu.Unlock()
}
