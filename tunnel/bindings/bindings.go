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
	"github.com/hanzoai/hanzod/tunnel/wire"
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
	ErrOwner     = errs.Define(errs.Denied, "bindings.owner", "that takes the scope operator.admin: the binding is somebody else's")
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
	// Owner is the subject of who made it, empty for what a node exposes by itself.
	Owner string
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
	// Standing returns nil as long as what let a caller in still does; nil takes all to stand.
	Standing func(c identity.Caller) error
	// Settings are in force when they are needed; the zero value is the default.
	Settings func() Settings
	// Own reports whether a port is the daemon's.
	Own func(port int) bool
	// Authenticate proves who visits a binding with the access Operator; nil lets nobody in.
	Authenticate func(*http.Request) (identity.Caller, error)
	// Proved is told of the request of a visitor of the daemon's own port that lasts: its connection may, too. It
	// may be called at any time of the request.
	Proved func(context.Context)
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
	cfg     Config
	log     *slog.Logger
	most    int
	stall   time.Duration // stallTimeout but in tests
	permits *pool

	mu      sync.Mutex
	byNode  map[string]map[string]*bound // by node and key
	tunnels map[string]map[int]*bound    // by tunnel and number
	places  map[string]*bound            // by what visitors come with: a host name, or a path below Base
	subs    map[string]*bound            // by tenant and subdomain
	slots   map[string]*slot             // by host and port
	shares  map[string]*pool             // by tunnel, or by node behind a space
	count   int                          // of nodes
	bound   int                          // of tunnels
	gone    map[string]*time.Timer       // nodes whose link has ended
	ending  []ending
	closed  bool
	wg      sync.WaitGroup

	figures figures
}

// New returns a service without bindings.
func New(cfg Config) *Service {
	s := &Service{
		cfg: cfg, log: cfg.Log, most: most(), stall: stallTimeout, byNode: map[string]map[string]*bound{}, tunnels: map[string]map[int]*bound{}, places: map[string]*bound{},
		subs: map[string]*bound{}, slots: map[string]*slot{}, shares: map[string]*pool{}, gone: map[string]*time.Timer{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.permits = &pool{limit: s.limit}
	return s
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

func printable(s string) bool {
	return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (in CreateIn) check() error {
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

// Create gives an address to something: a node exposes what is its own, and operators what a node lets them reach.
// One of the same name takes the place of the older.
func (s *Service) Create(ctx context.Context, c identity.Caller, in CreateIn) (CreateOut, error) {
	b, err := s.wanted(c, &in)
	if err != nil {
		return CreateOut{}, err
	}
	token, err := secret(b.Access, in.Secret)
	if err != nil {
		return CreateOut{}, err
	}
	b.secret = sha256.Sum256([]byte(token))
	if b.operators {
		up, err := s.cfg.Admit(ctx, c, b.Binding)
		if err != nil {
			return CreateOut{}, err
		}
		b.up.Store(&up)
	}
	if err := s.create(b, in); err != nil {
		b.closeUpstream()
		return CreateOut{}, err
	}
	if b.operators && s.cfg.Standing != nil {
		if err := s.cfg.Standing(c); err != nil { // it may have ended before Revoke could find the binding
			s.take([]*bound{b}, wire.CodeAuth)
			return CreateOut{}, err
		}
	}
	return CreateOut{Binding: b.seen(), Secret: token}, nil
}

// wanted checks what somebody wants.
func (s *Service) wanted(c identity.Caller, in *CreateIn) (*bound, error) {
	node := c.NodeID
	switch {
	case c.Role == identity.RoleNode && node != "":
		in.Port, in.Listens, in.Access, in.NodeID = 0, false, cmp.Or(in.Access, Public), node
	case c.Role == identity.RoleOperator && in.NodeID != "" && s.cfg.Admit != nil:
		node = in.NodeID
		if in.Name == "" {
			in.Name = in.LocalAddr
		}
		if in.Protocol == TCP {
			in.Access = cmp.Or(in.Access, Public)
		}
		in.Access = cmp.Or(in.Access, Token)
	default:
		return nil, ErrNoNode
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	if in.Protocol == TCP && in.Access != Public {
		return nil, ErrAccess.WithText("a tcp binding has no way to show a token; its access is public, and it listens where the configuration says")
	}
	if in.Port != 0 {
		if err := s.allowed(in.Port, s.settings().PrivilegedExpose); err != nil {
			return nil, err
		}
	}
	b := &bound{s: s, operators: c.Role == identity.RoleOperator, key: in.Name, ready: done}
	owner := ""
	if b.operators {
		b.key, owner = "\x00"+in.Name, c.Subject()
		b.admin, b.caller = c.Has(identity.ScopeAdmin), c
	}
	b.Binding = Binding{
		ID: id(node, b.key), NodeID: node, Tenant: c.Tenant, Name: in.Name, Protocol: in.Protocol, LocalAddr: in.LocalAddr,
		Subdomain: in.Subdomain, CreatedAt: s.cfg.Now(), Owner: owner, Access: in.Access,
	}
	host, port, _ := net.SplitHostPort(in.LocalAddr) // was checked
	b.targetName, b.targetHost = in.LocalAddr, host
	b.targetPort, _ = strconv.Atoi(port) // was checked
	return b, nil
}

func (s *Service) create(b *bound, in CreateIn) error {
	s.mu.Lock()
	defer s.unlock()
	old := s.byNode[b.NodeID][b.key]
	switch {
	case s.closed:
		return ErrTooMany
	case old == nil && (s.count >= maxBindings || len(s.byNode[b.NodeID]) >= maxPerNode):
		return ErrTooMany
	case old != nil && b.Tenant != "" && old.Tenant != b.Tenant:
		return ErrTaken
	case old != nil && b.operators && !b.admin && old.Owner != b.Owner:
		return ErrOwner.WithText("somebody else exposes something of that name; choose another name")
	}
	b.share = s.share(" " + b.NodeID)
	fresh, err := s.place(b, old, in)
	if err != nil {
		if len(s.byNode[b.NodeID]) == 0 {
			delete(s.shares, " "+b.NodeID)
		}
		return err
	}
	s.enter(b)
	if old != nil {
		s.drop(old, wire.CodeBind)
		s.shares[" "+b.NodeID] = b.share
	}
	if s.byNode[b.NodeID] == nil {
		s.byNode[b.NodeID] = map[string]*bound{}
	}
	s.byNode[b.NodeID][b.key] = b
	s.count++
	if fresh {
		b.slot.serve(b.Protocol != TCP)
	}
	s.changed(b.NodeID)
	return nil
}

// enter makes a binding the one of its address.
func (s *Service) enter(b *bound) {
	if b.place != "" {
		s.places[b.place] = b
	}
	if b.sub != "" {
		s.subs[b.sub] = b
	}
	if b.slot != nil {
		b.slot.cur.Store(b)
		s.slots[b.slot.key] = b.slot
	}
}

// share returns the permits of a tunnel, or of a node. The caller holds mu.
func (s *Service) share(key string) *pool {
	if s.shares[key] == nil {
		s.shares[key] = &pool{limit: s.shareLimit}
	}
	return s.shares[key]
}

func id(node, name string) string {
	sum := sha256.Sum256([]byte(node + "\x00" + name))
	return hex.EncodeToString(sum[:8])
}

// place finds the address of something of a node. The caller holds mu. fresh says that its port is new.
func (s *Service) place(b, old *bound, in CreateIn) (fresh bool, err error) {
	pattern := s.cfg.Pattern()
	if err := s.name(b, old, pattern); err != nil {
		return false, err
	}
	if b.Protocol != TCP {
		if err := s.address(b, pattern); err != nil {
			return false, err
		}
		if pattern != "" {
			_, rest, _ := strings.Cut(pattern, "://")
			if authority, _, _ := strings.Cut(rest, "/"); !strings.Contains(authority, "{subdomain}") {
				return false, ErrListen.WithText("tunnel.publicUrlPattern has no {subdomain} in its host name")
			}
		}
		if !in.Listens && in.Port == 0 {
			return false, nil
		}
	}
	return s.open(b, old, in, pattern)
}

// name chooses a subdomain where none is wanted. The caller holds mu.
func (s *Service) name(b, old *bound, pattern string) error {
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
			return nil
		}
		if wanted != "" || n > maxTries {
			return ErrTaken
		}
	}
}

// address finds where visitors come to: a path below Base without a pattern, and else a host name.
func (s *Service) address(b *bound, pattern string) error {
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
	port := ""
	if b.Port != 0 {
		port = strconv.Itoa(b.Port)
	}
	b.URL = dressed(fill(pattern, b, port), scheme)
	u, err := url.Parse(b.URL)
	if err != nil || u.Hostname() == "" {
		return ErrListen.WithText("tunnel.publicUrlPattern makes no address of this binding")
	}
	b.place = strings.ToLower(u.Hostname())
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

// open opens the port of a binding of a node, or keeps that of the older one. The caller holds mu.
func (s *Service) open(b, old *bound, in CreateIn, pattern string) (fresh bool, err error) {
	if old != nil && old.slot != nil && (old.Protocol == TCP) == (b.Protocol == TCP) && (in.Port == 0 || in.Port == old.Port) {
		if !s.both(b.share) {
			return false, ErrBindCap
		}
		b.slot, b.Host, b.Port = old.slot, old.Host, old.Port
	} else {
		if !s.both(b.share) {
			return false, ErrBindCap
		}
		l, host, err := s.listenFor(b, in.Port)
		if err != nil {
			s.giveBoth(b.share)
			return false, err
		}
		b.Host, b.Port = host, l.Addr().(*net.TCPAddr).Port
		b.slot, fresh = s.slot(l.Addr().String(), l), true
	}
	if b.Protocol != TCP {
		return fresh, nil
	}
	port := strconv.Itoa(b.Port)
	b.URL = "tcp://" + net.JoinHostPort(s.cfg.Host(), port)
	if strings.Contains(pattern, "{port}") {
		b.URL = dressed(fill(pattern, b, port), "tcp")
	}
	return fresh, nil
}

// listenFor opens a port: for operators where the configuration says, for nodes where the daemon is reached.
func (s *Service) listenFor(b *bound, port int) (net.Listener, string, error) {
	if b.operators {
		host := cmp.Or(s.settings().ExposeBind, loopback4)
		l, _, err := s.listen(host, port, ModeExpose)
		return l, host, err
	}
	l, err := s.cfg.Listen()
	if err != nil {
		return nil, "", ErrListen.Wrap(err)
	}
	host, _, _ := net.SplitHostPort(l.Addr().String()) // a listener's
	return l, host, nil
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

// drop takes a binding out. The caller holds mu, and ends the streams with unlock.
func (s *Service) drop(b *bound, code wire.Code) {
	if b.TunnelID == "" {
		delete(s.byNode[b.NodeID], b.key)
		if len(s.byNode[b.NodeID]) == 0 {
			delete(s.byNode, b.NodeID)
			delete(s.shares, " "+b.NodeID)
		}
		s.count--
	} else {
		delete(s.tunnels[b.TunnelID], b.BindID)
		if len(s.tunnels[b.TunnelID]) == 0 {
			delete(s.tunnels, b.TunnelID)
			delete(s.shares, b.TunnelID)
		}
		s.bound--
	}
	if s.places[b.place] == b {
		delete(s.places, b.place)
	}
	if s.subs[b.sub] == b {
		delete(s.subs, b.sub)
	}
	if b.slot != nil {
		if b.slot.cur.Load() == b {
			delete(s.slots, b.slot.key)
			b.slot.close()
		}
		s.giveBoth(b.share)
	}
	s.ending = append(s.ending, ending{b, code})
}

// ending is a binding that has been taken out, and whose streams end when mu is free: streams and upstreams have
// locks of their own.
type ending struct {
	b    *bound
	code wire.Code
}

// unlock frees mu and ends what was taken out.
func (s *Service) unlock() {
	all := s.ending
	s.ending = nil
	s.mu.Unlock()
	for _, e := range all {
		e.b.end(e.code)
	}
}

// changed tells the bindings of a node. The caller holds mu.
func (s *Service) changed(nodeID string) { s.cfg.Changed(nodeID, s.of(nodeID)) }

func (s *Service) of(nodeID string) []Binding {
	out := make([]Binding, 0, len(s.byNode[nodeID]))
	for _, b := range s.byNode[nodeID] {
		out = append(out, b.seen())
	}
	slices.SortFunc(out, func(a, b Binding) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Stop ends a binding of the calling node; one that is not there is no error.
func (s *Service) Stop(c identity.Caller, name string) {
	s.mu.Lock()
	defer s.unlock()
	if b := s.byNode[c.NodeID][name]; b != nil {
		s.drop(b, wire.CodeBind)
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
		defer s.unlock()
		if s.gone[nodeID] != t { // it came back
			return
		}
		delete(s.gone, nodeID)
		for _, b := range s.byNode[nodeID] {
			if !b.operators { // theirs wait for the node
				s.drop(b, wire.CodeBind)
			}
		}
	})
	s.gone[nodeID] = t
}

// find returns the binding that a host name without port, or a path as it was sent, is of, with the part of the
// path that is the daemon's; nil with ours true when there is none at a place where bindings are.
func (s *Service) find(host, path string) (b *bound, prefix string, ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.places[strings.ToLower(host)]; b != nil {
		return b, "", true
	}
	rest, ok := strings.CutPrefix(path, "/exposed/")
	if !ok {
		return nil, "", false
	}
	first, more, _ := strings.Cut(rest, "/")
	second, _, _ := strings.Cut(more, "/")
	if second != "" {
		prefix = "/exposed/" + first + "/" + second
		if b := s.places[prefix]; b != nil {
			return b, prefix, true
		}
	}
	prefix = "/exposed/" + first
	return s.places[prefix], prefix, true
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		// NodeID confines it to a node when not empty.
		NodeID string
	}
	ListOut struct{ Bindings []Binding }
)

// List returns the bindings, by node, tunnel, and name or number: those of its tenant and of the gateway's own for a caller with one.
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
	for tunnel := range s.tunnels {
		for _, b := range s.ofTunnel(tunnel) {
			if (in.NodeID == "" || in.NodeID == b.NodeID) && visible(c, b) {
				out.Bindings = append(out.Bindings, b)
			}
		}
	}
	slices.SortStableFunc(out.Bindings, func(a, b Binding) int {
		return cmp.Or(cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.TunnelID, b.TunnelID))
	})
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

// Delete ends a binding: one's own, or with operator.admin any (tunnel.md §5.4). Who belongs to a tenant ends those
// of that tenant.
func (s *Service) Delete(_ context.Context, c identity.Caller, in DeleteIn) (DeleteOut, error) {
	s.mu.Lock()
	b := s.byID(in.ID)
	if b == nil || c.Tenant != "" && c.Tenant != b.Tenant {
		s.mu.Unlock()
		return DeleteOut{}, ErrUnknown
	}
	if !c.Has(identity.ScopeAdmin) && (b.Owner == "" || b.Owner != c.Subject()) {
		s.mu.Unlock()
		return DeleteOut{}, ErrOwner
	}
	out := DeleteOut{Binding: b.seen()}
	s.drop(b, wire.CodeBind)
	if b.TunnelID == "" {
		s.changed(b.NodeID)
	}
	s.unlock()
	if b.revoked != nil {
		b.revoked("deleted")
	}
	return out, nil
}

// Revoke ends the bindings that operators made who have lost their credential: for whom gone is true. Those of
// tunnels end with their tunnel. It does not block.
func (s *Service) Revoke(gone func(identity.Caller) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*bound
	for _, some := range s.byNode {
		for _, b := range some {
			if b.operators && gone(b.caller) {
				all = append(all, b)
			}
		}
	}
	if s.closed || len(all) == 0 {
		return
	}
	s.wg.Go(func() {
		for _, b := range s.take(all, wire.CodeAuth) {
			s.log.Info("a binding has ended with the credential of who made it", "binding", b.ID, "node", b.NodeID, "owner", b.Owner)
		}
	})
}

// take ends bindings of nodes as far as they are still there, and returns those.
func (s *Service) take(all []*bound, code wire.Code) []*bound {
	s.mu.Lock()
	defer s.unlock()
	var taken []*bound
	for _, b := range all {
		if s.byNode[b.NodeID][b.key] != b {
			continue // it has ended, or another one took its place
		}
		s.drop(b, code)
		s.changed(b.NodeID)
		taken = append(taken, b)
	}
	return taken
}

// byID finds a binding. The caller holds mu.
func (s *Service) byID(id string) *bound {
	for _, all := range s.byNode {
		for _, b := range all {
			if b.ID == id {
				return b
			}
		}
	}
	for _, all := range s.tunnels {
		for _, b := range all {
			if b.ID == id {
				return b
			}
		}
	}
	return nil
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
			s.drop(b, wire.CodeCancel)
		}
	}
	for _, all := range s.tunnels {
		for _, b := range all {
			s.drop(b, wire.CodeCancel)
		}
	}
	s.unlock()
	s.wg.Wait()
}
