// Package bindings gives addresses to what linked nodes expose (tunnel.md §1.12). Visitors of an address are
// told to come again until a carrier of the node is there.
//
// It imports errs, identity and tunnel/wire. A Service owns a goroutine for each tcp binding; Close waits for them.
package bindings

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// Grace is how long the bindings of a node outlast its link: one that comes back finds them.
	Grace = 30 * time.Second
	// RetryAfter is when visitors of an address without a carrier are to come again (tunnel.md §1.12).
	RetryAfter = 5 * time.Second
	// maxBindings bounds all bindings, maxPerNode those of one node, maxText a name or an address in
	// characters.
	maxBindings = 10_000
	maxPerNode  = 64
	maxText     = 200
)

// Protocol is what an address speaks.
type Protocol string

// The protocols, in the words of the originals.
const (
	HTTP      Protocol = "http"
	WebSocket Protocol = "web_socket"
	TCP       Protocol = "tcp"
)

// The errors of this package.
var (
	ErrName      = errs.Define(errs.Invalid, "bindings.name", "a binding has a name of 1 to 200 printable characters")
	ErrLocalAddr = errs.Define(errs.Invalid, "bindings.local_addr", "local_addr names host:port")
	ErrProtocol  = errs.Define(errs.Invalid, "bindings.protocol", "the protocol is http, web_socket or tcp")
	ErrSubdomain = errs.Define(errs.Invalid, "bindings.subdomain", "a subdomain is a DNS label: 1 to 63 lower-case letters, digits and dashes, no dash at either end")
	ErrTaken     = errs.Define(errs.Conflict, "bindings.subdomain_taken", "the subdomain is taken; ask for another one, or for none")
	ErrTooMany   = errs.Define(errs.Exhausted, "bindings.too_many", "too many bindings; stop some")
	ErrListen    = errs.Define(errs.Unavailable, "bindings.listen", "no port could be opened for the binding")
	ErrUnknown   = errs.Define(errs.NotFound, "bindings.unknown", "no such binding")
	ErrNoNode    = errs.Define(errs.Denied, "bindings.no_node", "a node exposes what is its own")
)

// Binding is something of a node that can be reached.
type Binding struct {
	// ID names it in this daemon: its tenant, node and name.
	ID        string
	NodeID    string
	Tenant    string
	Name      string
	Protocol  Protocol
	LocalAddr string
	Subdomain string
	URL       string
	CreatedAt time.Time
	// Access says who may visit it.
	Access Access
	// TunnelID, BindID, Kind, Mode, Host, Port and Label are of bindings of tunnels (see BindIn), which have no
	// LocalAddr. Host and Port are where it listens, for tcp of nodes too.
	TunnelID string
	BindID   int
	Kind     string
	Mode     string
	Host     string
	Port     int
	Label    string
	// Parked says that visitors are told to come again, Streams is how many they have open.
	Parked  bool
	Streams int
}

// Config of New. Fields are required unless they say otherwise.
type Config struct {
	// Pattern is the address with {subdomain}, {tenant}, {name} and {port} in it; "" puts bindings below
	// Base, the address of the daemon without a slash at its end.
	Pattern func() string
	Base    func() string
	// Host is where tcp bindings are reached, Listen opens a port there.
	Host   func() string
	Listen func() (net.Listener, error)
	// Reserved reports whether a host name is the daemon's own: no binding gets it.
	Reserved func(host string) bool
	// Changed is told the bindings of a node whenever they change. It does not call back.
	Changed func(nodeID string, all []Binding)
	Now     func() time.Time

	// The rest is optional.

	// Upstreams returns where the visitors of what a linked node exposes go: nil, or ErrNoCarrier from Open, while
	// it has no carrier. Streams are KindTCP with Host and Port.
	Upstreams func(nodeID string) Upstream
	// Admit asks a node, in the name of an operator, to serve what a binding names, and returns where its visitors
	// go. It is called before the binding is made; without it operators make none.
	Admit func(ctx context.Context, c identity.Caller, b Binding) (Upstream, error)
	// Settings are in force when they are needed; the zero value is the default.
	Settings func() Settings
	// Own reports whether a port is the daemon's.
	Own func(port int) bool
	// Authenticate proves who visits a binding with the access Operator; nil lets nobody in.
	Authenticate func(*http.Request) (identity.Caller, error)
	// Trusted reports whether the X-Forwarded headers of a peer count.
	Trusted func(netip.Addr) bool
	Log     *slog.Logger
}

// Settings is the configuration of what tunnels bind.
type Settings struct {
	// ExposeBind is the address on which exposed ports listen; 127.0.0.1 when empty.
	ExposeBind string
	// PrivilegedExpose and PrivilegedPull allow ports from 80 to 1023.
	PrivilegedExpose bool
	PrivilegedPull   bool
	// Permits is how many descriptors exposures may hold, PermitsPerTunnel how many those of one tunnel may; 0 for
	// the default (tunnel.md §4.10).
	Permits          int
	PermitsPerTunnel int
}

// Service holds the bindings. Its methods are safe for concurrent use.
type Service struct {
	cfg Config

	mu     sync.Mutex
	byNode map[string]map[string]*bound // by node and name
	places map[string]*bound            // by what visitors come with: a host name, or a path below Base
	subs   map[string]*bound            // by tenant and subdomain
	count  int
	gone   map[string]*time.Timer // nodes whose link has ended
	closed bool
	wg     sync.WaitGroup
}

type bound struct {
	Binding
	place string
	sub   string
	tcp   net.Listener // nil for other protocols
}

// New returns a service without bindings.
func New(cfg Config) *Service {
	return &Service{
		cfg: cfg, byNode: map[string]map[string]*bound{}, places: map[string]*bound{}, subs: map[string]*bound{}, gone: map[string]*time.Timer{},
	}
}

// CreateIn and CreateOut are the arguments and the result of Create.
type (
	CreateIn struct {
		Name string
		// LocalAddr is host:port as the node sees it.
		LocalAddr string
		Protocol  Protocol
		// Subdomain is chosen when it is empty.
		Subdomain string
		// The rest is for operators. NodeID is whose LocalAddr is exposed. Port is where a tcp binding listens, 0
		// for any; a http binding listens on none but that of the daemon unless Listens is set.
		NodeID  string
		Port    int
		Listens bool
		// Access is Token for operators and Public for nodes when it is empty. Secret is the token, made when it is
		// empty.
		Access Access
		Secret string
	}
	CreateOut struct {
		Binding Binding
		// Secret is the token to visit with. It is a secret, and nothing keeps it.
		Secret string
	}
)

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (in CreateIn) check() error {
	printable := func(s string) bool {
		return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	}
	switch {
	case !printable(in.Name):
		return ErrName
	case in.Protocol != HTTP && in.Protocol != WebSocket && in.Protocol != TCP:
		return ErrProtocol
	case in.Subdomain != "" && !label.MatchString(in.Subdomain):
		return ErrSubdomain
	}
	_, port, err := net.SplitHostPort(in.LocalAddr)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || !printable(in.LocalAddr) {
		return ErrLocalAddr
	}
	return nil
}

// Create gives an address to something of the calling node. One of the same name takes the place of the older.
func (s *Service) Create(_ context.Context, c identity.Caller, in CreateIn) (CreateOut, error) {
	if c.Role != identity.RoleNode || c.NodeID == "" {
		return CreateOut{}, ErrNoNode
	}
	if err := in.check(); err != nil {
		return CreateOut{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.byNode[c.NodeID][in.Name]
	switch {
	case s.closed:
		return CreateOut{}, ErrTooMany
	case old == nil && (s.count >= maxBindings || len(s.byNode[c.NodeID]) >= maxPerNode):
		return CreateOut{}, ErrTooMany
	}
	b := &bound{Binding: Binding{
		ID: id(c.NodeID, in.Name), NodeID: c.NodeID, Tenant: c.Tenant, Name: in.Name, Protocol: in.Protocol, LocalAddr: in.LocalAddr,
		Subdomain: in.Subdomain, CreatedAt: s.cfg.Now(),
	}}
	if err := s.place(b, old); err != nil {
		return CreateOut{}, err
	}
	if old != nil {
		s.drop(old)
	}
	if s.byNode[c.NodeID] == nil {
		s.byNode[c.NodeID] = map[string]*bound{}
	}
	s.byNode[c.NodeID][in.Name], s.places[b.place], s.subs[b.sub] = b, b, b
	s.count++
	if b.tcp != nil {
		s.wg.Go(func() { refuse(b.tcp) })
	}
	s.changed(c.NodeID)
	return CreateOut{Binding: b.Binding}, nil
}

func id(node, name string) string {
	sum := sha256.Sum256([]byte(node + "\x00" + name))
	return hex.EncodeToString(sum[:8])
}

// place finds the address. The caller holds mu.
func (s *Service) place(b, old *bound) error {
	pattern := s.cfg.Pattern()
	scope := b.Tenant
	if pattern != "" && !strings.Contains(pattern, "{tenant}") {
		scope = "" // one address for all
	}
	wanted := b.Subdomain
	for n := 0; ; n++ {
		if wanted == "" {
			b.Subdomain = choose(b.Name, b.ID, n)
		}
		b.sub = scope + "/" + b.Subdomain
		if other := s.subs[b.sub]; other == nil || other == old {
			break
		}
		if wanted != "" || n > maxTries {
			return ErrTaken
		}
	}
	if b.Protocol == TCP {
		return s.open(b, pattern)
	}
	scheme := ""
	if b.Protocol == WebSocket {
		scheme = "ws"
	}
	if pattern == "" {
		path := "/exposed/" + b.Subdomain
		if b.Tenant != "" {
			path = "/exposed/" + url.PathEscape(b.Tenant) + "/" + b.Subdomain
		}
		b.URL, b.place = dressed(s.cfg.Base()+path+"/", scheme), path
		return nil
	}
	b.URL = dressed(fill(pattern, b, ""), scheme)
	u, err := url.Parse(b.URL)
	if err != nil || u.Hostname() == "" {
		return ErrListen.WithText("tunnel.publicUrlPattern makes no address of this binding")
	}
	b.place = strings.ToLower(u.Hostname())
	_, rest, _ := strings.Cut(pattern, "://")
	if authority, _, _ := strings.Cut(rest, "/"); !strings.Contains(authority, "{subdomain}") {
		return ErrListen.WithText("tunnel.publicUrlPattern has no {subdomain} in its host name")
	}
	if s.cfg.Reserved(b.place) {
		return ErrTaken // that is the daemon itself
	}
	return nil
}

// maxTries is how many names are tried where none was asked for.
const maxTries = 8

// choose makes a subdomain of a name: the same one each time.
func choose(name, id string, n int) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 40 {
			break
		}
	}
	text := strings.Trim(b.String(), "-")
	if text != "" {
		text += "-"
	}
	if n == 0 {
		return text + id[:8]
	}
	return text + id[:8] + "-" + strconv.Itoa(n)
}

// open opens the port of a tcp binding.
func (s *Service) open(b *bound, pattern string) error {
	l, err := s.cfg.Listen()
	if err != nil {
		return ErrListen.Wrap(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String()) // a listener's
	b.tcp, b.place = l, "tcp:"+port
	b.URL = "tcp://" + net.JoinHostPort(s.cfg.Host(), port)
	if strings.Contains(pattern, "{port}") {
		b.URL = dressed(fill(pattern, b, port), "tcp")
	}
	return nil
}

func fill(pattern string, b *bound, port string) string {
	return strings.NewReplacer("{subdomain}", b.Subdomain, "{tenant}", url.PathEscape(b.Tenant), "{name}", url.PathEscape(b.Name), "{port}", port).Replace(pattern)
}

// dressed is an address with another scheme: ws takes the place of http, and wss that of https.
func dressed(address, scheme string) string {
	was, rest, _ := strings.Cut(address, "://")
	switch {
	case scheme == "":
		return address
	case scheme == "ws" && was == "https":
		scheme = "wss"
	}
	return scheme + "://" + rest
}

// refuse ends the connections of a port that has no carrier.
func refuse(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close() // the visitor comes again
	}
}

// drop takes a binding out. The caller holds mu.
func (s *Service) drop(b *bound) {
	delete(s.byNode[b.NodeID], b.Name)
	if len(s.byNode[b.NodeID]) == 0 {
		delete(s.byNode, b.NodeID)
	}
	if s.places[b.place] == b {
		delete(s.places, b.place)
	}
	if s.subs[b.sub] == b {
		delete(s.subs, b.sub)
	}
	s.count--
	if b.tcp != nil {
		_ = b.tcp.Close() // nobody uses it
	}
}

// changed tells the bindings of a node. The caller holds mu.
func (s *Service) changed(nodeID string) { s.cfg.Changed(nodeID, s.of(nodeID)) }

func (s *Service) of(nodeID string) []Binding {
	out := make([]Binding, 0, len(s.byNode[nodeID]))
	for _, b := range s.byNode[nodeID] {
		out = append(out, b.Binding)
	}
	slices.SortFunc(out, func(a, b Binding) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Stop ends a binding of the calling node; one that is not there is no error.
func (s *Service) Stop(c identity.Caller, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byNode[c.NodeID][name]; b != nil {
		s.drop(b)
		s.changed(c.NodeID)
	}
}

// Back returns the bindings of a node that is linked, which stay.
func (s *Service) Back(nodeID string) []Binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.gone[nodeID]; t != nil {
		t.Stop()
		delete(s.gone, nodeID)
	}
	return s.of(nodeID)
}

// Gone notes that the link of a node has ended: its bindings go after Grace.
func (s *Service) Gone(nodeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.byNode[nodeID]) == 0 || s.gone[nodeID] != nil {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(Grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.gone[nodeID] != t { // it came back
			return
		}
		delete(s.gone, nodeID)
		for _, b := range s.byNode[nodeID] {
			s.drop(b)
		}
	})
	s.gone[nodeID] = t
}

// Visited reports whether a request is for a binding, by its host name without port or its path as it was sent.
// Known says that there is one.
func (s *Service) Visited(host, path string) (ours, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.places[strings.ToLower(host)]; b != nil && b.tcp == nil {
		return true, true
	}
	rest, ok := strings.CutPrefix(path, "/exposed/")
	if !ok {
		return false, false
	}
	first, more, _ := strings.Cut(rest, "/")
	second, _, _ := strings.Cut(more, "/")
	return true, s.places["/exposed/"+first] != nil || second != "" && s.places["/exposed/"+first+"/"+second] != nil
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		// NodeID confines it to a node when not empty.
		NodeID string
	}
	ListOut struct{ Bindings []Binding }
)

// List returns the bindings, by node and name: those of its tenant and of the gateway's own for a caller with one.
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) (ListOut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := ListOut{Bindings: []Binding{}}
	for node := range s.byNode {
		for _, b := range s.of(node) {
			if (in.NodeID == "" || in.NodeID == b.NodeID) && visible(c, b) {
				out.Bindings = append(out.Bindings, b)
			}
		}
	}
	slices.SortStableFunc(out.Bindings, func(a, b Binding) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return out, nil
}

func visible(c identity.Caller, b Binding) bool {
	return c.Tenant == "" || b.Tenant == "" || b.Tenant == c.Tenant
}

// DeleteIn and DeleteOut are the arguments and the result of Delete.
type (
	DeleteIn  struct{ ID string }
	DeleteOut struct{ Binding Binding }
)

// Delete ends a binding. Who belongs to a tenant ends those of that tenant.
func (s *Service) Delete(_ context.Context, c identity.Caller, in DeleteIn) (DeleteOut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, all := range s.byNode {
		for _, b := range all {
			if b.ID == in.ID && (c.Tenant == "" || c.Tenant == b.Tenant) {
				s.drop(b)
				s.changed(node)
				return DeleteOut{Binding: b.Binding}, nil
			}
		}
	}
	return DeleteOut{}, ErrUnknown
}

// Close ends all bindings and waits for their goroutines.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for _, t := range s.gone {
		t.Stop()
	}
	clear(s.gone)
	for _, all := range s.byNode {
		for _, b := range all {
			s.drop(b)
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
}
