package nodes

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// Service is the nodes domain. Its methods are safe for concurrent use.
type Service struct {
	// turn makes comings and goings public in the order in which they happen.
	turn    sync.Mutex
	reg     *registry
	pending pendingSet
	kept    *keptSet
	policy  atomic.Pointer[Policy]
	guard   Guard
	answers Decisions
	watch   Observer
	paired  Paired
	store   Store
	bus     *events.Bus
	now     func() time.Time
	log     *slog.Logger
	seen    seenSet

	voiceWake sync.Mutex // held while the words change
	skillBins func() []string
	serial    func(Node) bool

	push     Pusher
	times    timings
	throttle throttle
	held     heldSet
	channels *channelSet
	reports  func(nodeID, event string, payload []byte)
	// life ends with Stop.
	life context.Context //nolint:containedctx // the service's own
	stop context.CancelFunc
}

// Config is what the service needs.
type Config struct {
	Policy *Policy
	Guard  Guard
	// Decisions may be nil: then nobody keeps them.
	Decisions Decisions
	// Observer is told of commands that run; nobody is when it is nil.
	Observer Observer
	Paired   Paired
	Store    Store
	Bus      *events.Bus
	Now      func() time.Time
	// Push wakes phones; nil for none.
	Push Pusher
	// SkillBins names the programs that skills need; there are none when it is nil.
	SkillBins func() []string
	// Serial reports whether a node that comes handles one command after another, beyond those that are
	// known to (tunnel.md §5.2); nil for no others.
	Serial func(Node) bool
	// Reports hears of every event of a node in order, before watchers do and whatever its size. It does not
	// block. Nobody does when it is nil.
	Reports func(nodeID, event string, payload []byte)
	// Log hears of what no caller can be told; nothing when nil.
	Log *slog.Logger
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	//nolint:contextcheck // the service's own lifetime, ended by Stop
	life, stop := context.WithCancel(context.Background())
	s := &Service{
		reg:     newRegistry(),
		pending: pendingSet{m: map[string]*waiting{}},
		kept:    newKeptSet(),
		guard:   cfg.Guard, watch: cfg.Observer, answers: cfg.Decisions, paired: cfg.Paired, store: cfg.Store,
		bus: cfg.Bus, now: cfg.Now, log: cfg.Log,
		seen: seenSet{m: map[string]time.Time{}}, skillBins: cfg.SkillBins, serial: cfg.Serial,
		push: cfg.Push, times: frozenTimings, throttle: throttle{m: map[string]pushTimes{}},
		held: heldSet{m: map[string]map[*held]struct{}{}, each: map[string]int{}},
		life: life, stop: stop, channels: newChannelSet(), reports: cfg.Reports,
	}
	s.SetPolicy(cfg.Policy)
	return s
}

// SetPolicy changes which commands platforms may offer. What nodes declared before counts as it did when
// they came; each call is checked against the policy of now.
func (s *Service) SetPolicy(p *Policy) { s.policy.Store(p) }

// Attachment is one connection's hold on its place in the registry.
type Attachment struct {
	svc  *Service
	id   string
	gone atomic.Bool
	// ended is closed when gone is set.
	ended chan struct{}
	subs  subscriptions
	// terminals are those that were opened on the node since it came.
	terminals terminals
	lane      *lane // nil for a node that handles several commands at once
	// heard is when the door heard from the node last, in nanoseconds since 1970.
	heard atomic.Int64
}

// Heard notes that something came from the node. It may be called for each message.
func (a *Attachment) Heard() { a.heard.Store(a.svc.now().UnixNano()) }

// shown is the node with when it was heard last.
func (e *entry) shown() Node {
	n := e.node
	n.LastSeen = time.Unix(0, e.own.heard.Load())
	return n
}

func (a *Attachment) closed() bool { return a.gone.Load() }

// Attach registers a connected node. A link that held the id before is closed: the newer one
// wins. The declared commands are filtered by the policy of this moment. The caller must Detach
// when the connection ends.
func (s *Service) Attach(n Node, declared, caps []string, link Link) (*Attachment, Node, error) {
	n.Connected, n.ConnectedAt = true, s.now()
	n.Commands = s.policy.Load().Offered(n, declared)
	n.Caps = sortedSet(caps)
	if name, err := s.store.NodeName(n.ID); err != nil {
		return nil, Node{}, err
	} else if name != "" {
		n.DisplayName = name
	}
	if n.Tenant != "" && identity.NodeTenant(n.ID) != n.Tenant {
		return nil, Node{}, ErrTenantID
	}
	a := &Attachment{svc: s, id: n.ID, ended: make(chan struct{})}
	if serialByNature(n, declared) || s.serial != nil && s.serial(n) {
		a.lane = &lane{}
	}
	a.Heard()
	old, err := s.come(&entry{node: n, link: link, own: a, runs: slices.Contains(declared, killCommand)})
	if err != nil {
		return nil, Node{}, err
	}
	if old != nil {
		s.end(old.own)
		old.link.Close("replaced by a newer connection")
	}
	s.Saw(n.ID)
	s.held.arrived(n.ID)
	return a, n, nil
}

// come puts a node into the registry and says so; it returns the entry it replaces.
func (s *Service) come(e *entry) (*entry, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	old, err := s.reg.put(e)
	if err == nil {
		s.bus.Publish("node.connected", Changed{Node: e.node})
	}
	return old, err
}

// end fails the calls that wait on an attachment.
func (s *Service) end(a *Attachment) {
	if !a.gone.Swap(true) {
		close(a.ended)
	}
	s.channels.end(a)
	if a.lane != nil {
		a.lane.close()
	}
	for _, w := range s.pending.takeAll(a) {
		w.end(answer{err: ErrDisconnected}, true)
	}
}

// Detach takes the node out, unless a newer connection holds its id, and fails the calls that wait
// on this one. Who learns from a failed call that the node is gone finds it gone.
func (a *Attachment) Detach() {
	defer a.svc.end(a)
	a.svc.turn.Lock()
	defer a.svc.turn.Unlock()
	if n, ok := a.svc.reg.remove(a); ok {
		n.Connected, n.ConnectedAt, n.Link, n.Session, n.LastSeen = false, time.Time{}, "", "", time.Unix(0, a.heard.Load())
		a.svc.bus.Publish("node.disconnected", Changed{Node: n})
	}
}

func withCommand(err error, command string) error {
	if e, ok := errs.As(err); ok {
		return e.With("command", command)
	}
	return err
}

// known returns the live and paired nodes, unsorted.
func (s *Service) known() map[string]Node {
	live := s.reg.cur.Load().live
	out := make(map[string]Node, len(live))
	for id, e := range live {
		out[id] = e.shown()
	}
	for _, p := range s.paired.PairedNodes() {
		if n, ok := out[p.ID]; ok {
			n.Paired = true
			n.DisplayName = first(n.DisplayName, p.DisplayName)
			n.Platform = first(n.Platform, p.Platform)
			n.RemoteIP = first(n.RemoteIP, p.RemoteIP)
			out[p.ID] = n
			continue
		}
		p.Paired = true
		if name, err := s.store.NodeName(p.ID); err == nil && name != "" {
			p.DisplayName = name
		}
		out[p.ID] = p
	}
	return out
}

// List returns the connected and paired nodes (nodes-approvals.md §1.4).
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) (ListOut, error) {
	known := s.known()
	out := ListOut{At: s.now(), Nodes: make([]Node, 0, len(known))}
	for _, n := range known {
		if (n.Connected || !in.ConnectedOnly) && (in.AppKind == "" || n.AppKind == in.AppKind) && c.SeesNode(n.ID) {
			out.Nodes = append(out.Nodes, n)
		}
	}
	sortNodes(out.Nodes)
	return out, nil
}

// Describe returns one node.
func (s *Service) Describe(_ context.Context, c identity.Caller, in DescribeIn) (DescribeOut, error) {
	id := trim(in.NodeID)
	if id == "" {
		return DescribeOut{}, ErrNodeIDRequired
	}
	n, ok := s.known()[s.Resolve(c, id)]
	if !ok || !c.SeesNode(n.ID) {
		return DescribeOut{}, ErrUnknown.With("node", id)
	}
	return DescribeOut{At: s.now(), Node: n}, nil
}

// Instance is Describe of a linked instance; of others it fails with ErrNoInstance.
func (s *Service) Instance(ctx context.Context, c identity.Caller, in DescribeIn) (DescribeOut, error) {
	out, err := s.Describe(ctx, c, in)
	if err == nil && out.Node.InstanceID == "" {
		return DescribeOut{}, ErrNoInstance.With("node", trim(in.NodeID))
	}
	return out, err
}

// Resolve is the registry's id for what a caller calls a node: who has a tenant means its own first.
func (s *Service) Resolve(c identity.Caller, id string) string {
	if c.Tenant == "" {
		return id
	}
	own := QualifiedID(c.Tenant, id)
	if _, ok := s.reg.get(own); ok {
		return own
	}
	return id
}

// InfoIn and InfoOut are the arguments and the result of Info.
type (
	InfoIn struct {
		NodeID string
	}
	InfoOut struct {
		NodeID string
		// Command is the one that answered.
		Command string
		// Info is the answer as JSON text.
		Info []byte
	}
)

// Info asks a node what it is and how it does (tunnel.md §5.3 row 13).
func (s *Service) Info(ctx context.Context, c identity.Caller, in InfoIn) (InfoOut, error) {
	id := trim(in.NodeID)
	if id == "" {
		return InfoOut{}, ErrNodeIDRequired
	}
	e, ok := s.reg.get(s.Resolve(c, id))
	if !ok || !c.SeesNode(e.node.ID) {
		return InfoOut{}, ErrNotConnected.With("node", id)
	}
	for _, command := range []string{"system.info", "status.get"} {
		if slices.Contains(e.node.Commands, command) {
			out, err := s.Invoke(ctx, c, InvokeIn{NodeID: e.node.ID, Command: command})
			return InfoOut{NodeID: e.node.ID, Command: command, Info: out.Payload}, err
		}
	}
	return InfoOut{}, ErrNoInfo.With("node", id)
}

// Rename gives a connected or paired node, by either kind of pairing, a name that outlasts its connection.
func (s *Service) Rename(ctx context.Context, c identity.Caller, in RenameIn) (RenameOut, error) {
	id, name := trim(in.NodeID), trim(in.DisplayName)
	switch {
	case id == "":
		return RenameOut{}, ErrNodeIDRequired
	case name == "":
		return RenameOut{}, ErrNameRequired
	case utf8.RuneCountInString(name) > maxName:
		return RenameOut{}, ErrNameTooLong
	}
	if id = s.Resolve(c, id); !c.SeesNode(id) {
		return RenameOut{}, ErrUnknown.With("node", trim(in.NodeID))
	}
	n, ok := s.known()[id]
	if !ok {
		_, paired, err := s.store.Pairing(id)
		if err != nil {
			return RenameOut{}, err
		}
		if !paired {
			return RenameOut{}, ErrUnknown.With("node", id)
		}
	}
	if err := s.store.SetNodeName(ctx, id, name); err != nil {
		return RenameOut{}, err
	}
	if ok { // else it is paired in the older store only, which node.list does not show
		s.reg.rename(id, name)
		n.DisplayName = name
		s.bus.Publish("node.renamed", Changed{Node: n})
	}
	return RenameOut{NodeID: id, DisplayName: name}, nil
}

// Watch is a stream of changes. The reader closes Events.
type Watch struct {
	// Present is the nodes when the stream began, in display order.
	Present []Node
	// Events carries Changed payloads.
	Events *events.Subscription
}

// Watch begins a stream: no change between Present and Events is lost.
func (s *Service) Watch(ctx context.Context, c identity.Caller) (Watch, error) {
	sub := s.bus.Subscribe(func(e events.Event) bool {
		_, ok := e.Payload.(Changed)
		return ok && events.Visible(c, e.Name) && events.Concerns(c, e.Payload)
	})
	list, err := s.List(ctx, c, ListIn{})
	if err != nil {
		sub.Close()
		return Watch{}, err
	}
	return Watch{Present: list.Nodes, Events: sub}, nil
}

// WatchEvents begins a stream of what a node reports, or all nodes when the id is empty: Reported payloads,
// in order. The reader closes it.
func (s *Service) WatchEvents(_ context.Context, c identity.Caller, nodeID string) (*events.Subscription, error) {
	id := trim(nodeID)
	if id != "" {
		id = s.Resolve(c, id)
		if _, known := s.known()[id]; !known || !c.SeesNode(id) {
			return nil, ErrUnknown.With("node", trim(nodeID))
		}
	}
	return s.bus.Subscribe(func(e events.Event) bool {
		r, ok := e.Payload.(Reported)
		return ok && (id == "" || r.NodeID == id) && events.Visible(c, e.Name) && events.Concerns(c, r)
	}), nil
}

// Counts returns how many nodes are connected, and how many are known.
func (s *Service) Counts() (connected, known int) {
	return len(s.reg.cur.Load().live), len(s.known())
}

// Live are the connected nodes, by id.
func (s *Service) Live() []Node {
	live := s.reg.cur.Load().live
	out := make([]Node, 0, len(live))
	for _, e := range live {
		out = append(out, e.node)
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Connected returns how many nodes are connected.
func (s *Service) Connected() int { return len(s.reg.cur.Load().live) }

// Name is the name of a node, "" when it is not known.
func (s *Service) Name(id string) string {
	name, _ := s.Look(id)
	return name
}

// Look returns the name and the platform of a node, empty when they are not known. It is asked for each
// run and each approval: of a connected node it reads nothing from the disk.
func (s *Service) Look(id string) (name, platform string) {
	if e, ok := s.reg.cur.Load().live[id]; ok && e.node.DisplayName != "" && e.node.Platform != "" {
		return e.node.DisplayName, e.node.Platform
	}
	n := s.known()[id]
	return n.DisplayName, n.Platform
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func sortedSet(in []string) []string {
	out := []string{}
	for _, s := range in {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func trim(s string) string { return strings.TrimSpace(s) }

// Mobile reports whether a phone or a tablet is connected.
func (s *Service) Mobile() bool {
	for _, e := range s.reg.cur.Load().live {
		if c := classify(e.node.Platform, e.node.DeviceFamily); c == classIOS || c == classAndroid {
			return true
		}
	}
	return false
}
