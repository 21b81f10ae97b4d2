package bindings

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The modes of bindings of tunnels (tunnel.md §4.3).
const (
	ModeExpose = "expose"
	ModePull   = "pull"
)

// Access says who may visit a binding.
type Access string

// The policies.
const (
	// Public lets everybody in who reaches the address.
	Public Access = "public"
	// Token lets those in who show the secret of the binding.
	Token Access = "token"
	// Operator lets operators of this gateway in who may read.
	Operator Access = "operator"
)

// The limits of bindings of tunnels (tunnel.md §4.10).
const (
	// MaxPerTunnel bounds the bindings of one tunnel, MaxOfTunnels those of all tunnels.
	MaxPerTunnel = 32
	MaxOfTunnels = 256
)

// The errors of Bind. Code has their words on the wire.
var (
	ErrAlreadyBound = errs.Define(errs.Exists, "bindings.already_bound", "another tunnel exposes on that port; ask with takeover, or for another port")
	ErrPortInUse    = errs.Define(errs.Exists, "bindings.port_in_use", "something else listens on that port; ask for another one, or for 0")
	ErrReservedPort = errs.Define(errs.Denied, "bindings.reserved_port", "that port is not given to tunnels; ask for another one, or for 0")
	ErrPrivileged   = errs.Define(errs.Denied, "bindings.privileged_port", "ports below 1024 are not given to tunnels unless the configuration says so; ask for another one, or for 0")
	ErrInvalidHost  = errs.Define(errs.Invalid, "bindings.invalid_host", "a port to pull from listens on 127.0.0.1 or ::1")
	ErrInvalidKind  = errs.Define(errs.Invalid, "bindings.invalid_kind", "tunnels bind http or tcp with expose, and tcp with pull and without takeover")
	ErrBindCap      = errs.Define(errs.Exhausted, "bindings.bind_cap", "no more bindings are possible now; end some")
	ErrAccess       = errs.Define(errs.Invalid, "bindings.access", "access is public, token or operator; a token has 16 to 256 printable characters without spaces")
)

// Code is the word of BIND_ERR for an error of Bind (tunnel.md §4.5).
func Code(err error) string {
	e, _ := errs.As(err)
	if e == nil {
		return wire.Internal
	}
	switch e.Code {
	case ErrAlreadyBound.Code, ErrTaken.Code:
		return wire.AlreadyBound
	case ErrPortInUse.Code:
		return wire.PortInUse
	case ErrReservedPort.Code:
		return wire.ReservedPort
	case ErrPrivileged.Code:
		return wire.PrivilegedPort
	case ErrInvalidHost.Code:
		return wire.InvalidHost
	case ErrInvalidKind.Code, ErrAccess.Code, ErrSubdomain.Code:
		return wire.InvalidKind
	case ErrBindCap.Code:
		return wire.BindCapExceeded
	}
	return wire.Internal
}

// BindIn and BindOut are the arguments and the result of Bind.
type (
	BindIn struct {
		// TunnelID names the tunnel, BindID the binding there.
		TunnelID string
		BindID   int
		// Kind is KindHTTP or KindTCP, Mode is ModeExpose or ModePull.
		Kind string
		Mode string
		// Port is where visitors come to, 0 for any.
		Port int
		// Host is 127.0.0.1 or ::1 for ModePull; empty is the former. For ModeExpose it is what the target wants to
		// read in the header Host, of an upstream that is Raw; localhost when it is empty.
		Host string
		// Label is the name that people give it.
		Label string
		// Takeover takes the port of another tunnel of the same tenant with ModeExpose.
		Takeover bool
		// Subdomain puts an http binding below the address of the daemon, or on a host name, too.
		Subdomain string
		// Access is Public when it is empty. Secret is the token of Token, made when it is empty.
		Access Access
		Secret string
		// Upstream takes the visitors. Raw is asked once.
		Upstream Upstream
		// Bound is told when the binding is there and before its first visitor: the answer to the tunnel is under
		// way. It must not call the service. It may be nil.
		Bound func(BindOut)
		// Revoked is told once when the binding has ended by a takeover or by an operator. It must not block, and
		// not call the service.
		Revoked func(reason string)
	}
	BindOut struct {
		Binding Binding
		// Port is the real one.
		Port int
		// PublicURL is empty where no pattern is configured.
		PublicURL string
		// Secret is the token to visit with. It is a secret, and nothing keeps it.
		Secret string
	}
)

const (
	loopback4 = "127.0.0.1"
	loopback6 = "::1"
	// randomFrom and randomTo bound the exposed ports that are chosen; randomTries is how many are tried.
	randomFrom  = 20_000
	randomTo    = 65_534
	randomTries = 64
	// lowest is the first port that may be given at all, privileged the first one that always may.
	lowest     = 80
	privileged = 1024
)

// Bind makes a binding of a tunnel (tunnel.md §4.5). Errors have a Code.
func (s *Service) Bind(_ context.Context, c identity.Caller, in BindIn) (BindOut, error) {
	out, err := s.bind(c, in)
	if err != nil {
		s.figures.reject(err)
	}
	return out, err
}

func (s *Service) bind(c identity.Caller, in BindIn) (BindOut, error) {
	if err := s.checkBind(&in); err != nil {
		return BindOut{}, err
	}
	token, err := secret(in.Access, in.Secret)
	if err != nil {
		return BindOut{}, err
	}
	if in.Kind == KindTCP && in.Access != Public {
		return BindOut{}, ErrAccess.WithText("a tcp binding has no way to show a token; its access is public")
	}
	b := &bound{s: s, revoked: in.Revoked, ready: make(chan struct{}), secret: sha256.Sum256([]byte(token)), targetName: "localhost"}
	if in.Mode == ModeExpose && in.Host != "" {
		b.targetName = in.Host
	}
	b.up.Store(&in.Upstream)
	b.Binding = Binding{
		ID: id(in.TunnelID, in.Mode+"/"+strconv.Itoa(in.BindID)), NodeID: c.NodeID, Tenant: c.Tenant, Protocol: Protocol(in.Kind), Subdomain: in.Subdomain,
		CreatedAt: s.cfg.Now(), Owner: c.Subject(), Access: in.Access, TunnelID: in.TunnelID, BindID: in.BindID, Kind: in.Kind, Mode: in.Mode, Port: in.Port, Label: in.Label,
	}
	old, fresh, err := s.attach(c, b, in)
	if err != nil {
		return BindOut{}, err
	}
	if old != nil && old.revoked != nil {
		old.revoked("takeover")
	}
	out := BindOut{Binding: b.seen(), Port: b.Port, PublicURL: b.URL, Secret: token}
	if in.Bound != nil {
		in.Bound(out)
	}
	close(b.ready)
	if fresh {
		s.start(b)
	}
	return out, nil
}

// start serves a port unless its binding has ended meanwhile.
func (s *Service) start(b *bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !b.slot.ended.Load() {
		b.slot.serve(b.Kind == KindHTTP)
	}
}

// checkBind checks what is asked for and fills in what is not.
func (s *Service) checkBind(in *BindIn) error {
	switch {
	case in.Upstream == nil || in.TunnelID == "":
		return errs.New(errs.Internal, "a binding of nothing")
	case in.Mode == ModePull && in.Kind == KindTCP && !in.Takeover:
	case in.Mode == ModeExpose && (in.Kind == KindHTTP || in.Kind == KindTCP):
	default:
		return ErrInvalidKind
	}
	in.Access = cmp.Or(in.Access, Public)
	set := s.settings()
	may := set.PrivilegedExpose
	if in.Mode == ModePull {
		may = set.PrivilegedPull
		if in.Host = cmp.Or(in.Host, loopback4); in.Host != loopback4 && in.Host != loopback6 {
			return ErrInvalidHost
		}
		in.Subdomain = ""
	}
	if in.Subdomain != "" && !label.MatchString(in.Subdomain) {
		return ErrSubdomain
	}
	if in.Label != "" && !printable(in.Label) {
		in.Label = ""
	}
	if in.Mode == ModeExpose && strings.ContainsFunc(in.Host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/?#@\\", r) }) {
		return ErrInvalidHost
	}
	if in.Port == 0 {
		return nil
	}
	return s.allowed(in.Port, may)
}

// allowed judges a port that is asked for.
func (s *Service) allowed(port int, may bool) error {
	switch {
	case port < lowest || port > 65535:
		return ErrReservedPort
	case s.cfg.Own != nil && s.cfg.Own(port):
		return ErrReservedPort
	case port < privileged && !may:
		return ErrPrivileged
	}
	return nil
}

// attach gives a binding its port, which may be another one's until now.
func (s *Service) attach(c identity.Caller, b *bound, in BindIn) (old *bound, fresh bool, err error) {
	s.mu.Lock()
	defer s.unlock()
	b.Host = in.Host
	if in.Mode == ModeExpose {
		b.Host = cmp.Or(s.settings().ExposeBind, loopback4)
	}
	if in.Port != 0 {
		if old, err = s.holder(c, b, in); err != nil {
			return nil, false, err
		}
	}
	all, own := s.bound, len(s.tunnels[in.TunnelID])
	if old != nil {
		if all--; old.TunnelID == in.TunnelID {
			own--
		}
	}
	switch {
	case s.closed || all >= MaxOfTunnels || own >= MaxPerTunnel:
		return nil, false, ErrBindCap
	case s.tunnels[in.TunnelID][in.BindID] != nil:
		return nil, false, errs.New(errs.Internal, "a number of a binding twice")
	}
	b.share = s.share(in.TunnelID)
	defer func() {
		if err != nil && len(s.tunnels[in.TunnelID]) == 0 {
			delete(s.shares, in.TunnelID)
		}
	}()
	if !s.both(b.share) {
		return nil, false, ErrBindCap
	}
	if old == nil {
		l, key, err := s.listen(b.Host, in.Port, in.Mode)
		if err != nil {
			s.giveBoth(b.share)
			return nil, false, err
		}
		b.slot, b.Port, fresh = s.slot(key, l), l.Addr().(*net.TCPAddr).Port, true
	} else {
		b.slot = old.slot
	}
	b.Name = cmp.Or(b.Label, strconv.Itoa(b.Port))
	if err := s.placeBind(b, old); err != nil {
		s.giveBoth(b.share)
		if fresh {
			b.slot.close()
		}
		return nil, false, err
	}
	if s.tunnels[in.TunnelID] == nil {
		s.tunnels[in.TunnelID] = map[int]*bound{}
	}
	s.tunnels[in.TunnelID][in.BindID] = b
	s.shares[in.TunnelID] = b.share
	s.bound++
	s.enter(b) // from now on visitors wait for the new one
	if old != nil {
		s.figures.took()
		s.drop(old, wire.CodeTakeover)
	}
	return old, fresh, nil
}

// holder finds whose port it is that is asked for, and whether it may be taken over. The caller holds mu.
func (s *Service) holder(c identity.Caller, b *bound, in BindIn) (*bound, error) {
	for _, p := range s.slots {
		old := p.cur.Load()
		if old.Port != in.Port {
			continue
		}
		switch {
		case in.Mode == ModePull && old.Mode == ModePull && old.Host != b.Host:
			continue // the same port may be bound on both
		case in.Mode != ModeExpose || old.Mode != ModeExpose:
			return nil, ErrPortInUse
		case !in.Takeover || old.Kind != in.Kind:
			return nil, ErrAlreadyBound
		case c.Tenant != "" && c.Tenant != old.Tenant || c.Role == identity.RoleNode && c.NodeID != old.NodeID:
			return nil, ErrAlreadyBound // it is somebody else's
		}
		return old, nil
	}
	return nil, nil
}

// listen opens a port, 0 for any as the mode has it. Its key is the address.
func (s *Service) listen(host string, port int, mode string) (net.Listener, string, error) {
	try := func(port int) (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	}
	random := port == 0 && mode == ModeExpose
	for n := 0; ; n++ {
		if random {
			port = randomFrom + rand.IntN(randomTo-randomFrom+1) //nolint:gosec // it is no secret
			if s.cfg.Own != nil && s.cfg.Own(port) || s.held(port) {
				continue
			}
		}
		l, err := try(port)
		switch {
		case err == nil:
			return l, l.Addr().String(), nil
		case random && n < randomTries:
		case errors.Is(err, fs.ErrPermission):
			return nil, "", ErrPrivileged.WithText("the system does not give hanzod that port; ask for another one, or for 0").Wrap(err)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return nil, "", ErrInvalidHost.WithText("this machine does not have the address; tunnel.exposeBind or the host names another one").Wrap(err)
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
			return nil, "", ErrBindCap.Wrap(err)
		default:
			return nil, "", ErrPortInUse.Wrap(err)
		}
	}
}

// held reports whether a port is bound already, on any address. The caller holds mu.
func (s *Service) held(port int) bool {
	for _, p := range s.slots {
		if p.cur.Load().Port == port {
			return true
		}
	}
	return false
}

// placeBind finds the public address of an exposed port: none without a pattern, unless a subdomain was asked for.
// The caller holds mu.
func (s *Service) placeBind(b, old *bound) error {
	pattern, wanted := s.cfg.Pattern(), b.Subdomain != ""
	if b.Mode != ModeExpose || pattern == "" && (!wanted || b.Kind != KindHTTP) {
		b.Subdomain = ""
		return nil
	}
	if b.Kind == KindTCP {
		b.Subdomain = ""
		if strings.Contains(pattern, "{port}") {
			b.URL = dressed(fill(pattern, b, strconv.Itoa(b.Port)), "tcp")
		}
		return nil
	}
	err := s.name(b, old, pattern)
	if err == nil {
		err = s.address(b, pattern)
	}
	if err == nil && pattern != "" {
		if own := hostOf(pattern); !strings.Contains(own, "{") {
			b.place = "" // its visitors come to the port
		} else if other := s.places[b.place]; other != nil && other != old {
			err = ErrTaken
		}
	}
	if err != nil && !wanted { // it has its port
		b.place, b.sub, b.URL, b.Subdomain, err = "", "", "", "", nil
	}
	return err
}

// hostOf is the host in a pattern, without port.
func hostOf(pattern string) string {
	_, rest, _ := strings.Cut(pattern, "://")
	authority, _, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, ':'); i >= 0 {
		authority = authority[:i]
	}
	return authority
}

// Unbind ends a binding of a tunnel with all its streams: ErrUnknown when there is none.
func (s *Service) Unbind(tunnelID string, bindID int) error {
	s.mu.Lock()
	defer s.unlock()
	b := s.tunnels[tunnelID][bindID]
	if b == nil {
		return ErrUnknown
	}
	s.drop(b, wire.CodeCancel)
	return nil
}

// Park notes that a tunnel has lost its carrier: its ports stay, and visitors are told to come again (tunnel.md
// §4.8).
func (s *Service) Park(tunnelID string) {
	for _, b := range s.boundBy(tunnelID) {
		b.parked.Store(true)
		b.mu.Lock()
		all := slices.Collect(maps.Keys(b.streams))
		b.mu.Unlock()
		b.reset(all, wire.CodeCancel)
	}
}

// Resume notes that a parked tunnel is back, with another upstream for each binding.
func (s *Service) Resume(tunnelID string, upstream func(bindID int) Upstream) {
	for _, b := range s.boundBy(tunnelID) {
		up := upstream(b.BindID)
		b.up.Store(&up)
		b.parked.Store(false)
	}
}

// End ends all bindings of a tunnel.
func (s *Service) End(tunnelID string) {
	s.mu.Lock()
	defer s.unlock()
	for _, b := range s.tunnels[tunnelID] {
		s.drop(b, wire.CodeCancel)
	}
}

func (s *Service) boundBy(tunnelID string) []*bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.tunnels[tunnelID]))
}

// OfTunnel returns the bindings of a tunnel by BindID.
func (s *Service) OfTunnel(tunnelID string) []Binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ofTunnel(tunnelID)
}

func (s *Service) ofTunnel(tunnelID string) []Binding {
	out := make([]Binding, 0, len(s.tunnels[tunnelID]))
	for _, b := range s.tunnels[tunnelID] {
		out = append(out, b.seen())
	}
	slices.SortFunc(out, func(a, b Binding) int { return cmp.Compare(a.BindID, b.BindID) })
	return out
}

// evict closes the streams of a share that wait for another request.
func (s *Service) evict(share *pool) {
	s.mu.Lock()
	var all []*bound
	for _, some := range s.tunnels {
		for _, b := range some {
			if b.share == share {
				all = append(all, b)
			}
		}
	}
	for _, some := range s.byNode {
		for _, b := range some {
			if b.share == share {
				all = append(all, b)
			}
		}
	}
	s.mu.Unlock()
	for _, b := range all {
		b.idle()
	}
}
