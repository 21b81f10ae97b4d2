// Package screens shows screens over VNC: that of the daemon's machine, and those of nodes (tunnel.md §2.7, §5.3 row
// 41). It carries the bytes of a viewer and of a VNC server and looks into none of them; who may look, and the tokens
// that let a browser in for somebody, are decided here.
//
// It imports leaves. Nodes reach it through Nodes, the audit log through Audit. A screen that is open owns one timer
// and no goroutine: the door that shows it reads and writes. A call of a node of the older kind owns one, which ends
// with the call.
package screens

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Limits of screens.
const (
	// MaxScreens bounds the viewers of all screens, MaxNodeScreens those of one screen and MaxOwnScreens those of one
	// caller. Each may hold a message of each direction, and what the kernel buffers.
	MaxScreens     = 64
	MaxNodeScreens = 8
	MaxOwnScreens  = 16
	// MaxMessage is how many bytes of a viewer travel at once.
	MaxMessage = 256 << 10
	// TokenTime is how long a token lets somebody in, once. MaxTokens bounds those that wait, MaxOwnTokens those of one
	// caller: the oldest of theirs makes way.
	TokenTime    = time.Minute
	MaxTokens    = 512
	MaxOwnTokens = 32
	// SessionTime is how long a browser that was let in stays so without looking at the screen. MaxSessions and
	// MaxOwnSessions are as those of tokens.
	SessionTime    = 10 * time.Minute
	MaxSessions    = 256
	MaxOwnSessions = 16
	// DialTime bounds the connection to the VNC server of this machine (tunnel.md §2.7), CallTime the call of a node of
	// the older kind and its way back.
	DialTime = 10 * time.Second
	CallTime = 15 * time.Second
	// MaxCalls bounds the nodes that are waited for.
	MaxCalls = 64
	// IdleTime ends a screen on which nothing happens, StallTime one whose viewer or whose server does not take what
	// the other side sent.
	IdleTime  = time.Hour
	StallTime = 2 * time.Minute
	// probeTime bounds the look for a VNC server, probeKeep says how long its result counts.
	probeTime = time.Second
	probeKeep = 5 * time.Second
	// recordTime bounds the wait for the row of a screen that was closed.
	recordTime = 5 * time.Second
	// maxNodeID bounds what is looked up.
	maxNodeID = 512
)

// Where the viewer and the WebSocket are (tunnel.md §2.7).
const (
	ViewerPath = "/vnc-viewer"
	SocketPath = "/vnc"
	CallPath   = "/vnc-tunnel"
)

// The commands of nodes: that of ours, and that of the older kind with its capability.
const (
	CommandOpen = "screen.open"
	CommandCall = "vnc.tunnel.open"
	CapVNC      = "vnc"
)

// The errors of this package.
var (
	ErrOff          = errs.Define(errs.Unavailable, "screens.off", "the daemon shows no screens; tunnel.screen.enabled is off")
	ErrLocalAdmin   = errs.Define(errs.Denied, "screens.local_admin", "the screen of the daemon's machine takes the scope operator.admin")
	ErrCallAdmin    = errs.Define(errs.Denied, "screens.call_admin", "the screen of a node of this kind takes the scope operator.admin")
	ErrDenied       = errs.Define(errs.Denied, "screens.denied", "gateway.nodes.denyCommands lists vnc.tunnel.open")
	ErrNodeUnknown  = errs.Define(errs.NotFound, "screens.node_unknown", "no such node is connected")
	ErrNoScreen     = errs.Define(errs.Unavailable, "screens.none", "the node shows no screen; start it with --vnc, or HANZOD_VNC_HOST and HANZOD_VNC_PORT")
	ErrNoServer     = errs.Define(errs.Unavailable, "screens.no_server", "no VNC server answers on the daemon's machine; start one, or set tunnel.screen.host and tunnel.screen.port")
	ErrCallLate     = errs.Define(errs.Deadline, "screens.call_late", "the node did not connect back in time")
	ErrCallFailed   = errs.Define(errs.Unavailable, "screens.call_failed", "the node could not be asked for its screen")
	ErrCallUnknown  = errs.Define(errs.Denied, "screens.call_unknown", "no node is expected with this id")
	ErrCallRequired = errs.Define(errs.NotFound, "screens.call_required", "the id of the call is missing")
	ErrTooMany      = errs.Define(errs.Exhausted, "screens.too_many", "too many screens are shown; close some first")
	ErrToken        = errs.Define(errs.Unauthenticated, "screens.token", "the token is unknown, was used, or is too old; make another one")
	ErrTokenNode    = errs.Define(errs.Denied, "screens.token_node", "the token is for another screen")
	ErrSession      = errs.Define(errs.Unauthenticated, "screens.session", "this browser was not let in, or too long ago; open the viewer's address anew")
	ErrIdle         = errs.Define(errs.Conflict, "screens.idle", "nothing happened on the screen for an hour")
	ErrStalled      = errs.Define(errs.Conflict, "screens.stalled", "one side of the screen did not take what the other one sent for two minutes")
	ErrClosed       = errs.Define(errs.Conflict, "screens.closed", "the screen was closed")
	ErrStopping     = errs.Define(errs.Unavailable, "screens.stopping", "the daemon is stopping")
	// ErrNoChannel is what Nodes answers for links without channels.
	ErrNoChannel = errs.Define(errs.Unavailable, "screens.no_channel", "the node is linked in a way that carries no screens; link it by gRPC")
)

// Node is what is asked of a node.
type Node struct {
	// ID is that in the registry.
	ID        string
	Connected bool
	Commands  []string
	Caps      []string
	// Denied says that the configuration takes vnc.tunnel.open away.
	Denied bool
}

// Pipe is a way to a VNC server. One goroutine may read while another writes.
type Pipe interface {
	// Read returns io.EOF when the other side has ended.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// Close gives both directions up; it does not wait. An error tells the other side why.
	Close(err error) error
}

// Nodes is what the service needs of the nodes.
type Nodes interface {
	// Node finds a node as the caller names it. It fails for nodes that the caller does not see.
	Node(c identity.Caller, id string) (Node, error)
	// Open is a call of screen.open by the caller, past everything that decides on it, with the way to the screen. It
	// fails with ErrNoChannel where the link has none.
	Open(ctx context.Context, c identity.Caller, nodeID string) (Pipe, error)
	// Call asks a node of the older kind to come back to this daemon at CallPath with the token. code is what the
	// node, or the daemon in its place, called a failure.
	Call(ctx context.Context, nodeID, token string) (code string, err error)
}

// Row is a row of the audit log.
type Row struct {
	At time.Time
	// Act is opened or closed.
	Act      string
	Subject  string
	ScreenID string
	// NodeID is empty for the daemon's machine.
	NodeID string
	Detail string
}

// Settings are those of the configuration in force.
type Settings struct {
	Enabled bool
	// Host and Port are the VNC server of the daemon's machine.
	Host string
	Port int
}

// Config is what the service needs. Log may be nil.
type Config struct {
	Settings func() Settings
	Nodes    Nodes
	// Audit writes a row of the audit log; it is on disk when it returns nil.
	Audit func(context.Context, Row) error
	// Standing says whether what let a caller in still does.
	Standing func(identity.Caller) error
	// Base is the address where this daemon listens, of no request; nil for none.
	Base func() string
	Now  func() time.Time
	Log  *slog.Logger
	// Idle, Stall and Wait replace IdleTime, StallTime and CallTime when they are positive.
	Idle, Stall, Wait time.Duration
}

// Service is the screens of this daemon and of its nodes. Its methods are safe for concurrent use.
type Service struct {
	c    Config
	keys *keys
	call *calls

	mu      sync.Mutex
	open    map[*Screen]struct{}
	opening []claim // places that are being filled
	stopped bool

	probing sync.Mutex // held by the one who looks
	probed  probe
}

// claim is the place of a screen.
type claim struct{ node, owner string }

// New returns a service. Stop ends it.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for of, to := range map[*time.Duration]time.Duration{&c.Idle: IdleTime, &c.Stall: StallTime, &c.Wait: CallTime} {
		if *of <= 0 {
			*of = to
		}
	}
	return &Service{c: c, open: map[*Screen]struct{}{}, keys: newKeys(), call: newCalls()}
}

// Stop closes all screens.
func (s *Service) Stop() {
	s.mu.Lock()
	s.stopped = true
	all := make([]*Screen, 0, len(s.open))
	for v := range s.open {
		all = append(all, v)
	}
	s.mu.Unlock()
	for _, v := range all {
		v.Close(ErrStopping)
	}
}

// GetIn and GetOut are the arguments and the result of Get.
type (
	GetIn struct {
		// NodeID is empty for the daemon's machine.
		NodeID string
	}
	GetOut struct {
		// NodeID is that in the registry.
		NodeID string
		// Available says that a VNC server answers, or that the node is there and offers its screen.
		Available bool
		// Host and Port are those of the VNC server of the daemon's machine, empty for nodes.
		Host string
		Port int
		// Viewers is how many look now.
		Viewers int
		// Instructions say how the screen is reached, for people.
		Instructions []string
	}
)

// Get says whether there is a screen (tunnel.md §2.7, screen.vnc).
func (s *Service) Get(ctx context.Context, c identity.Caller, in GetIn) (GetOut, error) {
	set := s.c.Settings()
	if in.NodeID = strings.TrimSpace(in.NodeID); in.NodeID == "" {
		out := GetOut{Host: set.Host, Port: set.Port, Viewers: s.viewers("")}
		out.Available = set.Enabled && (out.Viewers > 0 || s.answers(ctx, set))
		out.Instructions = []string{
			"Open " + ViewerPath + " on the address of this gateway, and log in there, or make an address with a token by: hanzoctl screen",
			"A WebSocket at " + SocketPath + " carries the bytes of the VNC server at " + address(set) + "; it takes the gateway's credentials.",
			"With ?nodeId= behind either path it is the screen of a node.",
			"For a VNC viewer: hanzoctl screen NODE --listen 127.0.0.1:5901, then connect the viewer there.",
		}
		return out, nil
	}
	node, err := s.node(c, in.NodeID)
	if err != nil {
		return GetOut{}, err
	}
	out := GetOut{NodeID: node.ID, Viewers: s.viewers(node.ID)}
	way := wayTo(node)
	out.Available = set.Enabled && node.Connected && way != noWay && (way != byCall || !node.Denied)
	switch way {
	case byChannel:
		out.Instructions = []string{"hanzoctl screen " + node.ID + " prints the address of a viewer; it takes an approval of " + CommandOpen + ", or the scope operator.admin."}
	case byCall:
		out.Instructions = []string{"hanzoctl screen " + node.ID + " prints the address of a viewer; it takes the scope operator.admin."}
	default:
		out.Instructions = []string{ErrNoScreen.Text}
	}
	return out, nil
}

func address(set Settings) string { return net.JoinHostPort(set.Host, strconv.Itoa(set.Port)) }

// The ways to the screen of a node.
type way uint8

const (
	noWay way = iota
	byChannel
	byCall
)

func wayTo(n Node) way {
	switch {
	case slices.Contains(n.Commands, CommandOpen):
		return byChannel
	case slices.Contains(n.Caps, CapVNC), slices.Contains(n.Commands, CommandCall):
		return byCall
	}
	return noWay
}

func (s *Service) node(c identity.Caller, id string) (Node, error) {
	if len(id) > maxNodeID {
		return Node{}, ErrNodeUnknown
	}
	n, err := s.c.Nodes.Node(c, id)
	if errs.ClassOf(err) == errs.NotFound {
		return Node{}, ErrNodeUnknown.With("node", id)
	}
	return n, err
}

func (s *Service) viewers(nodeID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for v := range s.open {
		if v.node == nodeID {
			n++
		}
	}
	return n
}

// probe is what was seen of the VNC server of this machine.
type probe struct {
	address string
	at      time.Time
	answers bool
}

// answers says whether a VNC server answers. One look at a time, and its result counts for a while: each costs the
// server a connection.
func (s *Service) answers(ctx context.Context, set Settings) bool {
	s.probing.Lock()
	defer s.probing.Unlock()
	to, now := address(set), s.c.Now()
	if age := now.Sub(s.probed.at); s.probed.address == to && age >= 0 && age < probeKeep {
		return s.probed.answers
	}
	yes := greets(ctx, to)
	if ctx.Err() == nil {
		s.probed = probe{address: to, at: now, answers: yes}
	}
	return yes
}

// greets reports whether what listens there says that it speaks RFB, which a server does first.
func greets(ctx context.Context, to string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
	if err != nil {
		return false
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetReadDeadline(end) // a connection that cannot has ended
	}
	var hello [4]byte
	n := 0
	for n < len(hello) {
		m, err := conn.Read(hello[n:])
		if n += m; err != nil {
			break
		}
	}
	return n == len(hello) && string(hello[:]) == "RFB "
}
