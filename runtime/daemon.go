// Package runtime puts the daemon together: it makes the store, the domains, the doors and the
// listeners, wires them, runs them and stops them in order.
//
// It may import everything but cmd and test packages; only cmd/hanzod and hanzodtest import it.
// Daemon owns the goroutines of everything it made and waits for them in Run.
package runtime

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/channels"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/discover"
	"github.com/hanzoai/hanzod/compat"
	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/push"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/runtime/logs"
	"github.com/hanzoai/hanzod/runtime/metrics"
	"github.com/hanzoai/hanzod/runtime/rest"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/secrets"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/chat"
	"github.com/hanzoai/hanzod/sessions/usage"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/talk"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/checkpoints"
	"github.com/hanzoai/hanzod/tunnel/screens"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/uplinks"
	"github.com/hanzoai/hanzod/wizard"
)

const (
	// releaseTime bounds the end of what a daemon that did not run had begun.
	releaseTime = 5 * time.Second
	// drainTime is how long a stop waits for clients and calls. With the closing of the store it
	// stays below the five seconds that a stop may take.
	drainTime = 3 * time.Second
	// restartExpected is what clients are told of a restart: how long until they find the next daemon.
	// It is the time of a drain that somebody holds up; most take less than half a second.
	restartExpected = drainTime
	// settleTime is when the memory of starting is given back.
	settleTime = 2 * time.Second
	// policyFileName is the exec approvals file, in the frozen format that companion apps read.
	policyFileName = "exec-approvals.json"
	// recordTime bounds the wait for a row of the audit log where the caller brings no time limit.
	recordTime = 5 * time.Second
	// rulesFileName holds the policy rules of the gateway.
	rulesFileName = "policy.json"
)

// The states that readiness probes see.
const (
	starting = "starting"
	ready    = "ready"
	stopping = "stopping"
)

// Options are what a daemon needs to start.
type Options struct {
	Config *config.Config
	// Load is how the configuration was read, so that it can be read again.
	Load config.Options
	// Console is where log lines for people go.
	Console io.Writer
	// Node runs a node host inside the daemon.
	Node bool
	// NodeSecurity and NodeAsk are the policy of that node host where neither its exec approvals file nor
	// the configuration says anything: allowlist and on-miss when empty.
	NodeSecurity, NodeAsk string
	// Companion is for the node host in the daemon: see NodeOptions.
	Companion string
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// Restarting is asked, when the daemon is told to stop, whether it will be started again at once, so
	// that clients can be told; nil says no. It must answer soon.
	Restarting func(context.Context) bool
	// PushHosts and PushRoots take the place of Apple's push service in tests.
	PushHosts map[push.Environment]string
	PushRoots *x509.CertPool
	// Tailnet is where people read the address that lets the daemon into its tailnet: Console when nil. It is
	// used when gateway.tailnet is on.
	Tailnet io.Writer
	// TailscaleSocket is where the Tailscale service of this machine answers, "" for where it is on this
	// system.
	TailscaleSocket string
	// SharedDiscovery is the well-known discovery file, client.SharedDiscoveryFile; "" leaves it to others.
	// The one in the state directory is written in any case.
	SharedDiscovery string
	// Service is the service manager that runs this process, for the discovery file; "" when none is known
	// to.
	Service string

	// fault says why Config is not what its file says, restarts starts the daemon anew, and lock keeps the
	// state between two daemons; Serve sets them.
	fault    live.Fault
	restarts *live.Restarts
	updates  live.Updates
	lock     **store.Held
}

// Daemon is hanzod. New makes it, Run runs it once.
type Daemon struct {
	// TokenMade says that this start generated the shared token.
	TokenMade bool

	cfg   *config.Config // what it was started with; what may change is read through current
	live  *live.Service
	load  config.Options
	now   func() time.Time
	log   *slog.Logger
	state atomic.Value // starting, ready or stopping

	store     *store.Store
	bus       *events.Bus
	metrics   *metrics.Metrics
	identity  *identity.Service
	peers     *peer.Rules
	presence  *system.PresenceTable
	nodes     *nodes.Service
	push      *push.Client
	approvals *approvals.Service
	runs      *runs.Service
	sessions  *sessions.Service
	usage     *usage.Service
	tools     *compat.Tools
	talksWith sessionModels
	system    *system.Service
	heartbeat *heartbeat.Service
	cron      *cron.Service
	channels  *channels.Service
	secrets   *secrets.Service
	wizard    *wizard.Service
	chat      *chat.Service
	agents    *agents.Service
	skills    *skills.Service
	models    *models.Service
	talk      *talk.Service
	policy    *policy.File
	rules     *approvals.PolicyService
	door      *compat.Door
	links     *hanzotunnel.Door
	carriers  *hoody.Door
	bindings  *bindings.Service
	tunnels   *tunnels.Service
	overview  *tunnel.Overview
	neighbors *tunnel.Neighborhood
	measured  measured
	terminals *tunnel.Service
	screens   *screens.Service
	tech      *tech.Service
	uplinks   *uplinks.Service
	routes    *swapped

	agentsSeen atomic.Pointer[agentsSeen]
	hookRate   *identity.Limiter
	levels     *logs.Levels
	rpc        *rpc.Server
	grpc       *grpc.Server
	http       *http.Server
	remote     *grpc.Server // nil when the door for other machines is closed
	members    *grpc.Server // nil when the daemon is to be on no tailnet

	withNode   bool
	companion  string
	restarting func(context.Context) bool
	// nodeSecurity and nodeAsk are NodeSecurity and NodeAsk of Options.
	nodeSecurity, nodeAsk string
	tailscale             string // TailscaleSocket
	pushHosts             map[push.Environment]string
	pushRoots             *x509.CertPool
	shared, service       string // SharedDiscovery and Service
	started               time.Time
	announcing            sync.Mutex // held while the discovery files change
	socket                string
	local                 net.Listener
	tcp                   []net.Listener
	loopback              bool            // tcp is reached from this machine only
	far                   *listen.Limited // of remote
	guard                 *listen.Guard   // of tcp
	tailnet               *tailnetDoor    // nil with members
	tailnetOut            io.Writer
	tailnetMu             sync.Mutex
	tailnetListeners      []net.Listener      // under tailnetMu
	cert                  *listen.Certificate // nil when nothing speaks TLS
	logFile               io.Closer
	backingUp             sync.Mutex // held by the one backup under way

	fatal chan error
	ready chan struct{}

	fault    live.Fault
	restarts *live.Restarts
	updates  live.Updates
	anew     chan string // why the daemon is to start anew
	lock     **store.Held

	checkpoints *checkpoints.Service
}

// New opens the state and listens. It fails when the state is another daemon's, the configuration
// does not allow a start, or a port is taken. A daemon that was made must be run.
func New(ctx context.Context, o Options) (*Daemon, error) {
	d := &Daemon{
		cfg: o.Config, now: o.Now, withNode: o.Node, companion: o.Companion, nodeSecurity: o.NodeSecurity, nodeAsk: o.NodeAsk, tailscale: o.TailscaleSocket, pushHosts: o.PushHosts, pushRoots: o.PushRoots, restarting: o.Restarting,
		shared: o.SharedDiscovery, service: o.Service, load: o.Load,
		fault: o.fault, restarts: o.restarts, updates: o.updates, anew: make(chan string, 1), lock: o.lock,
		levels: &logs.Levels{}, fatal: make(chan error, 1), ready: make(chan struct{}), tailnetOut: o.Tailnet,
	}
	if d.tailnetOut == nil {
		d.tailnetOut = o.Console
	}
	if d.now == nil {
		d.now = time.Now
	}
	d.load.Path, d.load.StateDir, d.load.Source = o.Config.Path, o.Config.StateDir, nil
	d.started = d.now().Round(0) // without the monotonic clock, as it is written
	if _, err := policyOf(NodeOptions{Security: o.NodeSecurity, Ask: o.NodeAsk}); err != nil {
		return nil, err
	}
	if _, err := companionOf(o.Companion, nil); err != nil {
		return nil, err
	}
	if o.Config.Gateway.Tailnet.Enabled && !TailnetBuilt {
		return nil, &config.Refused{Text: "gateway.tailnet is on: " + ErrNoTailnet.Error()}
	}
	d.state.Store(starting)
	if err := d.open(ctx, o.Console); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// open makes everything, in the order in which the parts need each other.
func (d *Daemon) open(ctx context.Context, console io.Writer) error {
	catalogue, err := ops.Load()
	if err != nil {
		return err
	}
	early, _, err := logs.New(d.logOptions(console, ""))
	if err != nil {
		return err
	}
	if backup.Pending(d.cfg.StateDir) {
		return backup.ErrUnfinished // the configuration was read from the old state, or from half of the new one
	}
	// The lock comes first: a second daemon touches nothing of the first, its log included.
	var held *store.Held
	if d.lock != nil {
		held = *d.lock
	}
	d.store, err = store.Open(ctx, d.cfg.StateDir, store.Options{
		Now: d.now, Log: early, OnFatal: d.fail, Held: held,
		Audit: auditLimits(d.cfg),
	})
	if err != nil {
		return err
	}
	d.clearStale()
	config.SaveMigrated(d.cfg)
	if d.TokenMade, err = config.EnsureToken(d.cfg); err != nil {
		return err
	}
	if err := d.cfg.CheckStart(); err != nil {
		return err
	}
	d.metrics = metrics.New(Version, catalogue, metrics.Gauges{
		LegacyConnections: func() int { return d.door.Connections() },
		OutboundHeld:      func() int { return int(d.bus.Budget().Held()) },
		NodesConnected:    func() int { return d.nodes.Connected() },
		NodesKnown:        func() int { _, known := d.nodes.Counts(); return known },
		ApprovalsPending:  func() int { return d.approvals.PendingCount() },
	})
	if d.log, d.logFile, err = logs.New(d.logOptions(console, d.cfg.Logging.File)); err != nil {
		return err
	}
	warnEnviron(d.log)
	for _, w := range d.cfg.Warnings {
		d.log.Warn(w)
	}
	if err := d.makeDomains(); err != nil {
		return err
	}
	// Listening comes before the doors: they name the port that was taken.
	if err := d.listen(ctx); err != nil {
		return err
	}
	return d.makeDoors(catalogue)
}

func (d *Daemon) logOptions(console io.Writer, file string) logs.Options {
	l := d.cfg.Logging
	return logs.Options{
		File: file, MaxBytes: l.MaxFileBytes, Level: l.Level, ConsoleLevel: l.ConsoleLevel, Levels: d.levels,
		Style: l.ConsoleStyle, Console: console,
		OnLine: func(lvl slog.Level) {
			if d.metrics != nil {
				d.metrics.LogLine(lvl)
			}
		},
	}
}

// fail stops the daemon: what is acknowledged could no longer be kept.
func (d *Daemon) fail(err error) {
	select {
	case d.fatal <- err:
	default:
	}
}

// makeDomains makes the services that hold the rules.
func (d *Daemon) makeDomains() error {
	d.bus = events.NewBounded(d.now, fitMemory())
	d.makeLive()
	d.makeAgents()
	if d.cfg.Gateway.Tailnet.Enabled {
		d.tailnet = newTailnetDoor(d.cfg, d.subsystem("tailnet"), d.tailnetOut, d.now)
	}
	auth, err := d.makeAuth()
	if err != nil {
		return err
	}
	if d.identity, err = identity.New(d.store, auth, d.bus, d.now); err != nil {
		return err
	}
	warnSafeBins(d.cfg, d.subsystem("approvals"))
	d.policy = policy.Open(filepath.Join(d.cfg.StateDir, policyFileName), policy.Options{
		Now: d.now, HomeDir: d.cfg.Home, Log: d.subsystem("approvals"), SafeBins: d.safeBins,
	})
	d.rules = approvals.NewPolicy(approvals.PolicyConfig{
		Path: filepath.Join(d.cfg.StateDir, rulesFileName), Audit: d.store, File: d.policy, Now: d.now, Log: d.subsystem("approvals"),
	})
	d.approvals, err = approvals.New(approvals.Config{
		Store: d.store, Bus: d.bus, File: d.policy, Rules: d.rules, Standing: d.identity.Stands, Now: d.now, Log: d.subsystem("approvals"),
	})
	if err != nil {
		return err
	}
	p := d.cfg.Push
	d.push = push.New(push.Config{
		TeamID: p.TeamID, KeyID: p.KeyID, Key: p.Key.Reveal(), KeyErr: p.KeyErr, Now: d.now, Hosts: d.pushHosts, Roots: d.pushRoots,
	})
	if p.TeamID != "" && d.push.Ready() != nil {
		d.log.Warn("no pushes can be sent to phones", "subsystem", "nodes", "error", d.push.Ready())
	}
	d.nodes = nodes.New(nodes.Config{
		Serial: func(n nodes.Node) bool { return slices.Contains(d.current().Gateway.Nodes.Serial, n.ID) },
		Policy: nodePolicyOf(d.cfg),
		Guard:  d.approvals, Decisions: nodeDecisions{d}, Paired: pairedNodes{d.identity}, Store: d.store, Bus: d.bus, Now: d.now,
		Observer: RunObserver{func() *runs.Service { return d.runs }}, Push: d.push, SkillBins: d.skills.Bins, Log: d.subsystem("nodes"),
		Reports: d.reported,
	})
	if err := d.makeTerminals(); err != nil {
		return err
	}
	d.makeScreens()
	if err := d.makeTech(); err != nil {
		return err
	}
	d.approvals.SetNodes(d.nodes)
	d.rules.SetNodes(d.nodes)
	d.rules.SetCovering(d.approvals)
	d.runs, err = runs.New(runs.Config{
		Store: d.store, Nodes: RunNodes{func() *nodes.Service { return d.nodes }}, Approvals: RunApprovals{func() *approvals.Service { return d.approvals }, func() *nodes.Service { return d.nodes }},
		Standing: d.identity.Standing, Bus: d.bus, Now: d.now, Log: d.subsystem("runs"),
	})
	if err != nil {
		return err
	}
	d.heartbeat = heartbeat.New(heartbeat.Config{
		Agents: func() []heartbeat.Agent { return beatsOf(d.current()) }, Bus: d.bus, Now: d.now, Log: d.subsystem("heartbeat"),
	})
	d.talksWith = newSessionModels(d.current)
	d.sessions, err = sessions.New(sessions.Settings{
		Store: d.store, Transcripts: d.store.Transcripts(), Models: d.talksWith, Thinking: d.talksWith.thinking, Config: d.current, Bus: d.bus, Now: d.now,
		Log: d.subsystem("sessions"),
	})
	if err != nil {
		return err
	}
	d.channels = channels.New(d.now)
	d.makeSecrets()
	d.makeCheckpoints()
	d.chat = chat.New(d.sessions, d.current)
	d.usage = usage.New(usage.Config{
		Index: d.store, Files: d.store.Transcripts(), Current: d.current, Price: priceIn(d.current), Now: d.now,
	})
	d.talk = talk.New(talk.Config{
		Current: d.current, AudioDir: filepath.Join(d.cfg.StateDir, "media", "tts"), Mobile: d.nodes.Mobile, Bus: d.bus, Now: d.now, Log: d.subsystem("talk"),
	})
	d.presence = system.NewPresence(self(), d.now)
	d.socket = client.SocketPath(d.cfg.StateDir)
	d.system = system.New(system.Config{
		Version: Version, StateDir: d.cfg.StateDir, ConfigPath: d.cfg.Path, Socket: d.socket,
		AuthMode: d.cfg.AuthMode(), LogFile: d.cfg.Logging.File, MainSession: func() string { return mainSession(d.current()) }, Queue: d.store, Beat: d.heartbeat.Request, Bus: d.bus, Presence: d.presence, Now: d.now,
		Facts: system.Facts{
			Connections:      func() int { return d.door.Connections() + d.rpc.Links() + d.links.Links() },
			NodesConnected:   d.nodes.Connected,
			NodesKnown:       func() int { _, known := d.nodes.Counts(); return known },
			ApprovalsPending: d.approvals.PendingCount,
			PolicyFault:      func() string { return d.rules.State().Fault },
			ConfigFault:      func() string { return d.live.Fault().What },
			ConfigPending:    d.live.PendingUntil,
			Diagnose:         d.diagnose,
			Listen:           d.listens,
			Remote:           func() (string, string) { return d.GRPCAddress(), d.TLSFingerprint() },
			Agents:           d.shownAgents,
			HeartbeatsOn:     d.heartbeat.Enabled,
			Sessions:         d.sessionsOf,
			Defaults:         d.defaultsOf,
		},
	})
	return d.makeCron()
}

// current is the configuration in force. What may change while the daemon runs is read through it at each
// use; d.cfg is what the daemon was started with.
func (d *Daemon) current() *config.Config { return d.live.Current() }

func (d *Daemon) subsystem(name string) *slog.Logger { return d.log.With("subsystem", name) }

// listen takes the socket and the port.
func (d *Daemon) listen(ctx context.Context) error {
	local, err := listen.Unix(ctx, d.socket)
	if err != nil {
		return err
	}
	d.local = listen.Watch(local)
	hosts, err := d.cfg.ListenHosts()
	if err != nil {
		return err
	}
	d.loopback = peer.LoopbackName(hosts[0])
	grpcPort, open := d.cfg.RemoteGRPC(hosts)
	if open || d.cfg.Gateway.TLS.Enabled {
		if d.cert, err = loadCertificate(d.cfg, d.now, d.subsystem("tls")); err != nil {
			return err
		}
	}
	if open {
		// It comes before the older port, so that a node that prefers it never finds that one alone.
		l, err := listen.TCP(ctx, hosts[:1], grpcPort, listen.Use{Scheme: "hanzod://", Setting: "--grpc-port or gateway.grpc.port"}, d.log)
		if err != nil {
			return err
		}
		d.far = listen.Limit(l[0])
	}
	if d.tcp, err = listen.TCP(ctx, hosts, d.cfg.Gateway.Port, listen.Use{Scheme: "ws://", Setting: "--port or gateway.port"}, d.log); err != nil {
		return err
	}
	d.guard = listen.NewGuard(func(a netip.Addr) bool { return a.IsLoopback() || d.peers.Trusts(a) })
	for i, l := range d.tcp {
		d.tcp[i] = d.guard.Listener(l)
		if d.cfg.Gateway.TLS.Enabled {
			// Older clients speak HTTP/1.1. Who speaks plain HTTP is answered 400 by net/http.
			d.tcp[i] = tls.NewListener(d.tcp[i], d.cert.Config("http/1.1"))
		}
	}
	return nil
}

// makeDoors makes the ways in.
func (d *Daemon) makeDoors(catalogue *ops.Catalogue) error {
	g := gate.New()
	d.openUplinks()
	if err := d.makeLinks(); err != nil {
		return err
	}
	d.makeOverview()
	d.rpc = rpc.New(rpc.Deps{
		Catalogue: catalogue, Gate: g, Nodes: d.nodes, Approvals: d.approvals, Policy: d.rules, Runs: d.runs, Terminals: d.terminals, Screens: d.screens, Uplinks: d.uplinks, System: d.system, Sessions: d.sessions, Usage: d.usage, Heartbeat: d.heartbeat, Channels: d.channels, Talk: d.talk, Config: d.live, Devices: d.identity,
		Secrets: d.secrets, Wizard: d.wizard, Checkpoints: d.checkpoints,
		Tunnels: d.tunnels, Bindings: d.bindings, Tech: d.tech, Overview: d.overview, Neighborhood: d.neighbors,
		Cron:   d.cron,
		Files:  tunnel.NewFiles(FileNodes{d.nodes}),
		Agents: d.agents, Skills: d.skills, Models: d.models,
		DeviceConnections: func() map[string]int { return d.door.DeviceConnections() },
		Remote: func() rpc.Remote {
			return rpc.Remote{Addresses: d.RemoteAddresses(), Fingerprint: d.TLSFingerprint(), Name: machineName()}
		},
		Bus: d.bus, Render: compat.Payload, SharedSecret: d.sharedSecret, Backup: d.backup, Bearer: d.identity.Bearer, NodeName: d.nodes.Name,
		Presence: d.presence, Version: Version, Now: d.now,
		Log: d.subsystem("rpc"), Metrics: d.metrics,
	})
	d.grpc = d.rpc.GRPC(listen.PeerCredentials())
	if d.far != nil {
		d.remote = d.rpc.Remote(listen.RemoteCredentials(d.cert))
	}
	tailnetName := func() string { return "" }
	if d.tailnet != nil {
		d.members = d.rpc.Remote(listen.TailnetCredentials())
		tailnetName = d.tailnet.name
	}
	late := d.agents.Late()
	d.door = compat.New(compat.Config{
		Catalogue: catalogue, Gate: g, Identity: d.identity, Nodes: d.nodes, Approvals: d.approvals,
		System: d.system, Sessions: d.sessions, Heartbeat: d.heartbeat, Channels: d.channels, Talk: d.talk, Screens: d.screens, Config: d.live, Chat: d.chat, Presence: d.presence, Bus: d.bus, Log: d.subsystem("gateway"), Metrics: d.metrics,
		Usage:   d.usage,
		Cron:    d.cron,
		Secrets: d.secrets, Wizard: d.wizard,
		Agents: late, Skills: d.skills.For(late.Current), Models: d.models.For(late.Current),
		Version: Version, ConfigPath: d.cfg.Path, StateDir: d.cfg.StateDir, Port: d.Port(),
		Defaults: func() compat.SessionDefaults {
			c := d.current()
			return compat.SessionDefaults{MainKey: c.MainKey(), Scope: c.SessionScope(), DefaultAgent: c.DefaultAgentID()}
		},
		Canvas: d.canvasOn(), Peers: d.peers,
		Now: d.now,
	})
	d.tools = compat.NewTools(compat.ToolsConfig{Catalogue: catalogue, Gate: g, Sessions: d.sessions, Agents: late, Current: d.current})
	d.hookRate = identity.NewLimiter(identity.HookRate, d.now)
	deps := rest.Deps{
		RPC: d.rpc, Legacy: d.door, Links: d.links, Carriers: d.carriers, Endpoints: d.makeEndpoints(catalogue, g), Tech: d.makeTechEndpoints(catalogue, g), Visit: d.bindings.Visit, Screens: d.screens, Metrics: d.metrics.Handler(), DetailedMetrics: d.metrics.DetailedHandler(), Bearer: d.identity.Bearer, Gate: g,
		TailnetName: tailnetName,
		Ready:       d.State, Loopback: d.loopback, Hosts: d.peers.Names(),
		ProxyNames: d.identity.Mode() != identity.AuthTrustedProxy, Peers: d.peers,
		HSTS: d.cfg.Gateway.HTTP.StrictTransportSecurity, Log: d.subsystem("rest"),
	}
	handler, err := newSwapped(func() (*web.Web, http.Handler, error) {
		deps.Web = web.New(d.webConfig())
		h, err := rest.New(deps)
		return deps.Web, h, err
	})
	if err != nil {
		return err
	}
	d.routes = handler
	d.http = rest.NewServer(handler, d.log)
	return nil
}

// State is what readiness probes see: starting, ready or stopping.
func (d *Daemon) State() string {
	s, _ := d.state.Load().(string)
	return s
}

// Started is the configuration that the daemon was started with.
func (d *Daemon) Started() *config.Config { return d.cfg }

// ConfigFault says why the configuration in force is not that of its file, "" when it is.
func (d *Daemon) ConfigFault() string { return d.live.Fault().What }

// Ready is closed when the daemon serves.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// Socket is the path of the local socket.
func (d *Daemon) Socket() string { return d.socket }

// Port is the TCP port that was taken.
func (d *Daemon) Port() int {
	if a, ok := d.tcp[0].Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return d.cfg.Gateway.Port
}

// Addresses are the TCP addresses, as host:port.
func (d *Daemon) Addresses() []string {
	var out []string
	for _, l := range d.tcp {
		out = append(out, l.Addr().String())
	}
	return out
}

// listens are the TCP addresses with those on the tailnet.
func (d *Daemon) listens() []string {
	out := d.Addresses()
	if d.tailnet != nil {
		out = append(out, d.tailnet.addresses()...)
	}
	return out
}

// TailnetName is the full name of the daemon on its tailnet, "" while it is on none.
func (d *Daemon) TailnetName() string {
	if d.tailnet == nil {
		return ""
	}
	return d.tailnet.name()
}

// Log is the daemon's logger.
func (d *Daemon) Log() *slog.Logger { return d.log }

// sharedSecret shows the gateway's secret to the local operator, and to nobody else.
func (d *Daemon) sharedSecret(c identity.Caller) (mode, secret string, err error) {
	if c.Door != identity.DoorGRPC || !c.Local || !c.Has(identity.ScopeAdmin) {
		return "", "", system.ErrLocalOnly
	}
	// What cannot be recorded is not shown.
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	if err := d.store.AppendAudit(ctx, approvals.Audit{At: d.now(), Kind: "secret", Subject: c.Subject(), Detail: "the shared secret was shown"}); err != nil {
		return "", "", err
	}
	switch d.identity.Mode() {
	case identity.AuthToken:
		secret = d.cfg.Gateway.Auth.Token.Reveal()
	case identity.AuthPassword:
		secret = d.cfg.Gateway.Auth.Password.Reveal()
	}
	return string(d.identity.Mode()), secret, nil
}

// Run serves until ctx ends or the store fails, then stops in order: no new work, tell the
// clients, drain, and close the store last. It returns nil after a stop that was asked for, and errRestart
// after one that another daemon is to follow.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.release()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	run := func(f func(context.Context)) { wg.Go(func() { f(work) }) }
	run(d.approvals.Run)
	run(d.rules.Run)
	run(d.nodes.Run)
	run(d.runs.Run)
	run(d.system.Run)
	run(d.sessions.Run)
	run(d.heartbeat.Run)
	run(d.talk.Run)
	run(d.cron.Run)
	run(d.door.Run)
	run(d.links.Run)
	run(d.rpc.Run)
	served := make(chan error, 2+len(d.tcp))
	wg.Go(func() { served <- d.grpc.Serve(d.local) })
	if d.remote != nil {
		wg.Go(func() { served <- d.remote.Serve(d.far) })
	}
	for _, l := range d.tcp {
		wg.Go(func() { served <- d.http.Serve(l) })
	}
	d.state.Store(ready)
	d.announce()
	run(d.keepAnnounced)
	d.keepHot()
	run(d.followConfig)
	close(d.ready)
	d.log.Info("hanzod is ready", "version", Version, "socket", d.socket, "listen", d.Addresses(),
		"grpc", d.GRPCAddress(), "tls", d.TLSFingerprint())
	if d.withNode {
		run(d.runNode)
	}
	run(d.uplinks.Run)
	if d.tailnet != nil {
		run(d.runTailnet)
	}
	announcing, unannounce := context.WithCancel(work)
	defer unannounce()
	if a, o, on := d.announcement(); on {
		wg.Go(func() { discover.Advertise(announcing, a, o) })
	}
	settle := time.AfterFunc(settleTime, func() {
		debug.FreeOSMemory()
		forgetStart()
	})
	defer settle.Stop()

	var failure error
	again := false
	select {
	case <-ctx.Done():
		d.log.Info("hanzod stops", "reason", context.Cause(ctx).Error())
	case why := <-d.anew:
		d.log.Info("hanzod starts anew", "reason", why)
		again = true
	case failure = <-d.fatal:
		d.log.Error("hanzod stops: its state cannot be written", "error", failure)
	case failure = <-served:
		d.log.Error("hanzod stops: a listener failed", "error", failure)
	}
	unannounce() // first, so that nobody new comes
	d.stop(work, cancel, &wg, again || failure == nil && d.restarting != nil && d.restarting(work))
	if again && failure == nil {
		return errRestart
	}
	return failure
}

// stop ends the doors and then everything behind them.
func (d *Daemon) stop(work context.Context, cancel context.CancelFunc, wg *sync.WaitGroup, restart bool) {
	d.state.Store(stopping)
	d.withdraw()
	deadline, done := context.WithTimeout(work, drainTime)
	defer done()
	for _, l := range d.tcp {
		_ = l.Close() // the server closes it again and says so
	}
	d.tailnetMu.Lock()
	closeAll(d.tailnetListeners)
	d.tailnetMu.Unlock()
	bye := system.Shutdown{Reason: "gateway stopping"}
	if restart {
		expected := restartExpected
		bye.Reason, bye.RestartExpected = "gateway restarting", &expected
	}
	d.bus.Publish("shutdown", bye)
	d.rpc.Stop()
	d.tech.Stop(deadline)
	d.nodes.Stop()
	var doors sync.WaitGroup
	doors.Go(func() { d.door.Close(deadline) })
	doors.Go(d.tunnels.Close)
	doors.Go(func() { d.links.Close(deadline) })
	doors.Go(func() { d.carriers.Close(deadline) })
	doors.Go(func() { d.routes.close(deadline) })
	doors.Go(func() {
		if err := d.http.Shutdown(deadline); err != nil {
			_ = d.http.Close() // what did not end in time is cut
		}
	})
	for _, g := range []*grpc.Server{d.grpc, d.remote, d.members} {
		if g != nil {
			doors.Go(func() { drain(deadline, g) })
		}
	}
	doors.Wait()
	d.terminals.Stop()
	d.screens.Stop()
	d.rpc.Wait()
	cancel()
	wg.Wait()
	d.wizard.Close()
}

// drain stops a gRPC server: its calls may end by themselves until ctx does.
func drain(ctx context.Context, g *grpc.Server) {
	graceful := make(chan struct{})
	go func() {
		g.GracefulStop()
		close(graceful)
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		g.Stop()
		<-graceful
	}
}

// release gives back what open took. It may be called at any stage.
func (d *Daemon) release() {
	ls := append([]net.Listener{d.local}, d.tcp...)
	if d.far != nil {
		ls = append(ls, d.far)
	}
	for _, l := range ls {
		if l != nil {
			_ = l.Close() // closed already after a run
		}
	}
	if d.push != nil {
		d.push.Close()
	}
	if d.tech != nil {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
		d.tech.Stop(ctx) // stopped already after a run
		cancel()
	}
	if d.store != nil {
		var err error
		if d.lock == nil {
			err = d.store.Close()
		} else {
			*d.lock, err = d.store.CloseHeld()
		}
		if err != nil && d.log != nil && !errors.Is(err, net.ErrClosed) {
			d.log.Error("the store did not close cleanly", "error", err)
		}
	}
	if d.logFile != nil {
		_ = d.logFile.Close() // the last line is written; nobody is left to tell
	}
}
