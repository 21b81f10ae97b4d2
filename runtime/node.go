package runtime

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/agent"
	hostfiles "github.com/hanzoai/hanzod/nodes/host/files"
	hostscreens "github.com/hanzoai/hanzod/nodes/host/screens"
	hosttech "github.com/hanzoai/hanzod/nodes/host/tech"
	"github.com/hanzoai/hanzod/runtime/logs"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// NodeOptions describe a node host: this machine, offered to a gateway.
type NodeOptions struct {
	// StateDir keeps the node's identity, its configuration and its exec approvals file.
	StateDir string
	// Host, Port, TLS and Fingerprint name the gateway; empty ones are those of the last start, then
	// the daemon of this user, then 127.0.0.1 and 18789. Host may be hanzod://host[:port], which is
	// reached by gRPC alone. GRPCPort is that of gRPC over TLS, Port + 1 when zero.
	Host        string
	Port        int
	GRPCPort    int
	TLS         bool
	Fingerprint string
	// CAFile holds certificates to know the gateway by when it is not pinned; the system's when empty.
	CAFile string
	// Link is auto (also when empty), grpc or websocket.
	Link string
	// Socket is that of the daemon of this user, the usual one when empty.
	Socket string
	// Enroll is an invite code: it makes this machine known to the gateway that is named in it, before
	// anything else.
	Enroll string
	// AllowInsecure lets secrets travel to another machine without TLS.
	AllowInsecure bool
	// DisplayName and NodeID replace the stored ones when not empty.
	DisplayName string
	NodeID      string
	// Security and Ask are the policy where neither the exec approvals file nor the configuration says
	// anything: allowlist and on-miss when empty (nodes-approvals.md §3.2).
	Security string
	Ask      string
	// Current returns the configuration of this machine as it is now: tools.exec, of an agent before the
	// general one, is the policy where the exec approvals file says nothing. Nil says nothing.
	Current func() *config.Config
	// Companion says whether the companion app of this machine is asked: auto (also when empty), off, or
	// how long its answer is waited for.
	Companion string
	// Files are the directories whose files are offered, of which one that ends in :ro is for reading only;
	// else nodeHost.files.roots of the configuration says, else it is the workspace.
	Files []string
	// VNC is the VNC server of this machine whose screen is shown, host:port or a port; else nodeHost.screen of the
	// configuration says, else no screen is shown.
	VNC string
	// Workspace is where the work on this machine is done; empty is that of the configuration's default agent,
	// else workspace in StateDir.
	Workspace string
	// TunnelAllow are the targets beside those of the loopback interface that the gateway may reach through this
	// machine: host:port, host:*, *:port or *.
	TunnelAllow []string
	// Expose are local services that an instance asks its server to expose, NAME=PROTOCOL:HOST:PORT with the protocol
	// http, web_socket or tcp.
	Expose []string
	// Tunnel makes this machine an instance of a relay, or of a hanzod that takes links, in place of a node of a
	// gateway. Nil does not.
	Tunnel *TunnelOptions
	// Token and Password are the gateway's shared secrets; both may be empty for a paired device.
	Token    string
	Password string
	// NoDevice connects without a device identity, with the shared secret alone.
	NoDevice bool
	Console  io.Writer
	LogLevel string
	LogStyle string
	// OnState is told of each change. Nil tells nobody.
	OnState func(host.State)
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// nodeFile is the configuration of a node host in its state directory.
const nodeFile = "node.json"

// RunNode offers this machine to a gateway until ctx ends.
func RunNode(ctx context.Context, o NodeOptions) error {
	log, _, err := logs.New(logs.Options{Console: o.Console, ConsoleLevel: o.LogLevel, Style: o.LogStyle})
	if err != nil {
		return err
	}
	warnEnviron(log)
	if o.Tunnel != nil {
		return runInstances(ctx, o, log)
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("make the node's state directory: %w", err)
	}
	path := filepath.Join(o.StateDir, nodeFile)
	cfg, err := dial.LoadOrCreateNodeConfig(path)
	if err != nil {
		return err
	}
	switch {
	case o.Enroll == "":
	case cfg.Enrolled == usedCode(o.Enroll):
		// A container is started with the same variables again and again.
		log.Info("this machine is enrolled already; the invite is not used again")
	default:
		if err := enroll(ctx, o, cfg, path, log); err != nil {
			return err
		}
	}
	changed, err := merge(ctx, cfg, o)
	if err != nil {
		return err
	}
	n := nodeHost{o: o, cfg: cfg, log: log, now: o.Now}
	if n.now == nil {
		n.now = time.Now
	}
	if err := n.open(); err != nil {
		return err
	}
	defer n.close()
	// What cannot be right is not stored: the next start without flags would fail over it.
	ways, err := n.ways()
	if err != nil {
		return err
	}
	if changed {
		if err := cfg.Save(path); err != nil {
			return err
		}
	}
	ways.worked = func(name string) {
		if name == cfg.Link {
			return
		}
		cfg.Link = name
		if err := cfg.Save(path); err != nil {
			log.Error("how the gateway was reached could not be stored", "path", path, "err", err)
		}
	}
	log.Info("this machine is offered as a node", "gateway", n.gateway(), "name", cfg.DisplayName, "policy", n.file.Path())
	return n.serve(ctx, ways)
}

// merge brings what the command line says into the stored configuration and reports whether it
// changed.
func merge(ctx context.Context, cfg *dial.NodeConfig, o NodeOptions) (bool, error) {
	was, wasLink := *cfg, cfg.Link
	gw := dial.GatewayAddr{Host: "127.0.0.1", Port: config.DefaultPort}
	switch {
	case cfg.Gateway != nil:
		gw = *cfg.Gateway
	case o.Host == "" && o.Port == 0 && o.Link != "websocket":
		// Nobody has named a gateway: it is the daemon of this user, if there is one.
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		if ports, err := portsOf(ctx, socketOf(o)); err == nil && len(ports) > 0 {
			gw.Port = ports[0]
		}
	}
	if o.Host != "" {
		// Another gateway has another certificate.
		gw = dial.GatewayAddr{Host: o.Host, Port: gw.Port}
		if strings.Contains(o.Host, "://") {
			address, err := client.ParseHost(o.Host)
			if err != nil {
				return false, permanent(err)
			}
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return false, err
			}
			gw.Host, gw.Port, gw.TLS = host, 0, true
			if gw.GRPCPort, err = strconv.Atoi(port); err != nil {
				return false, err
			}
		} else if gw.Port == 0 {
			gw.Port = config.DefaultPort
		}
	}
	if o.Port != 0 {
		gw.Port = o.Port
	}
	if o.GRPCPort != 0 {
		gw.GRPCPort = o.GRPCPort
	}
	if o.TLS || o.Fingerprint != "" || o.CAFile != "" {
		gw.TLS = true
	}
	switch {
	case o.Fingerprint != "" && o.CAFile != "":
		return false, errs.New(errs.Invalid, "a pinned certificate needs nobody to vouch for it: give --tls-fingerprint or --tls-ca")
	case o.Fingerprint != "":
		gw.TLSFingerprint, gw.TLSCA = o.Fingerprint, ""
	case o.CAFile != "":
		path, err := filepath.Abs(o.CAFile)
		if err != nil {
			return false, err
		}
		gw.TLSFingerprint, gw.TLSCA = "", path
	}
	changed := cfg.Gateway == nil || *cfg.Gateway != gw
	if changed && cfg.Gateway != nil {
		cfg.Link = "" // how the one before was reached says nothing of this one
	}
	cfg.Gateway = &gw
	if o.NodeID != "" {
		cfg.NodeID = o.NodeID
	}
	if o.DisplayName != "" {
		cfg.DisplayName = o.DisplayName
	}
	if cfg.DisplayName == "" {
		cfg.DisplayName = machineName()
	}
	return changed || wasLink != cfg.Link || was.NodeID != cfg.NodeID || was.DisplayName != cfg.DisplayName, nil
}

// socketOf is the socket of the daemon of this user.
func socketOf(o NodeOptions) string {
	if o.Socket != "" {
		return o.Socket
	}
	found, err := client.Find(os.Getenv)
	if err != nil {
		return "" // as for an unknown home: the dial says so
	}
	return found.Socket
}

// enroll uses an invite up: this machine is a paired device of the gateway then, and keeps its token
// and its certificate's fingerprint.
func enroll(ctx context.Context, o NodeOptions, cfg *dial.NodeConfig, path string, log *slog.Logger) error {
	i, err := client.ParseInvite(o.Enroll)
	if err != nil {
		return permanent(err)
	}
	switch {
	case i.Role != string(identity.RoleNode):
		return errs.New(errs.Invalid, `this invite is for an operator; use it with "hanzoctl enroll", or make one with "hanzoctl devices invite --role node"`)
	case len(i.Addresses) == 0:
		return errs.New(errs.Invalid, "the daemon that made this invite listens on its own machine only; start it with --bind lan and make another one")
	case o.Host != "" || o.Port != 0 || o.GRPCPort != 0 || o.TLS || o.Fingerprint != "" || o.CAFile != "" || o.NoDevice:
		return errs.New(errs.Invalid, "the invite says which gateway it is: leave --host, --port, --tls, --tls-fingerprint and --tls-ca away, and the variables for them")
	}
	id, tokens, err := deviceOf(o.StateDir)
	if err != nil {
		return err
	}
	if cfg.DisplayName == "" {
		cfg.DisplayName = machineName()
	}
	if o.DisplayName != "" {
		cfg.DisplayName = o.DisplayName
	}
	e, err := client.Enroll(ctx, i, id, client.Machine{Name: cfg.DisplayName, Platform: dial.Platform()}, "hanzod-node/"+Version)
	if err != nil {
		return permanent(err)
	}
	if err := tokens.Put(identity.RoleNode, e.Token, nil, time.Now()); err != nil {
		return fmt.Errorf("this machine is enrolled, but its token could not be kept; make another invite and enrol again: %w", err)
	}
	host, text, err := net.SplitHostPort(e.Address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	cfg.Gateway = &dial.GatewayAddr{Host: host, GRPCPort: port, TLS: true, TLSFingerprint: e.Pin}
	cfg.Link, cfg.Enrolled = "", usedCode(o.Enroll)
	if err := cfg.Save(path); err != nil {
		return fmt.Errorf("this machine is enrolled, but its gateway could not be kept; start it with --host hanzod://%s --tls-fingerprint %s: %w", e.Address, e.Pin, err)
	}
	log.Info("this machine is enrolled as a node", "gateway", "hanzod://"+e.Address, "device", e.DeviceID)
	return nil
}

// usedCode is how an invite code that enrolled this machine is remembered: no secret, and enough to know
// it again.
func usedCode(code string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(code)))
	return hex.EncodeToString(sum[:16])
}

// deviceOf is the device of a node host, and where its tokens are.
func deviceOf(stateDir string) (*dial.Identity, *dial.Tokens, error) {
	id, err := dial.LoadOrCreateIdentity(filepath.Join(stateDir, "identity", "device.json"))
	if err != nil {
		return nil, nil, err
	}
	return id, &dial.Tokens{Path: filepath.Join(stateDir, "identity", "device-auth.json"), DeviceID: id.ID}, nil
}

func machineName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "this machine"
	}
	short, _, _ := strings.Cut(name, ".")
	return short
}

var (
	securities = map[string]policy.Security{
		"": policy.SecurityAllowlist, "deny": policy.SecurityDeny, "allowlist": policy.SecurityAllowlist, "full": policy.SecurityFull,
	}
	asks = map[string]policy.Ask{
		"": policy.AskOnMiss, "off": policy.AskOff, "on-miss": policy.AskOnMiss, "always": policy.AskAlways,
	}
)

// policyOf is the policy where the exec approvals file says nothing.
func policyOf(o NodeOptions) (policy.Overrides, error) {
	sec, ok := securities[o.Security]
	if !ok {
		return policy.Overrides{}, errs.New(errs.Invalid, fmt.Sprintf("security must be deny, allowlist or full, not %q", o.Security))
	}
	ask, ok := asks[o.Ask]
	if !ok {
		return policy.Overrides{}, errs.New(errs.Invalid, fmt.Sprintf("ask must be off, on-miss or always, not %q", o.Ask))
	}
	return policy.Overrides{Security: sec, Ask: ask}, nil
}

func nodePolicy(path string, o NodeOptions, skills *skillBins, log *slog.Logger) (*policy.File, error) {
	defaults, err := policyOf(o)
	if err != nil {
		return nil, err
	}
	p := policy.Options{Log: log, Defaults: defaults, Skills: skills.list}
	if current := o.Current; current != nil {
		warnSafeBins(current(), log)
		p.AgentDefaults = func(agentID string) policy.Overrides {
			e := current().ExecPolicy(agentID)
			return policy.Overrides{Security: policy.Security(e.Security), Ask: policy.Ask(e.Ask)}
		}
		p.SafeBins = func(agentID string) policy.SafeBins { return safeBinsOf(current().SafeBins(agentID)) }
	}
	return policy.Open(path, p), nil
}

// gatewaySecrets are the variables in which this process may be handed the secrets of a gateway.
// Operators with fewer rights than those secrets give may read what a command prints.
var gatewaySecrets = config.SecretVariables()

// runEnv is the environment that commands on this machine begin with: that of this process without
// the secrets of the gateway.
func runEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(gatewaySecrets, strings.ToUpper(name))
	})
}

// nodeHost is a node host on its way to a gateway.
type nodeHost struct {
	o   NodeOptions
	cfg *dial.NodeConfig
	log *slog.Logger
	now func() time.Time

	file   *policy.File
	skills *skillBins     // what the gateway says of skills
	ask    host.Prompter  // nil asks nobody
	device *dial.Identity // nil without one
	tokens *dial.Tokens

	offered *files.Files    // the files of this machine
	session *checkpoint.Log // what was said and run here
	screen  *hostscreens.Module
	agent   *agent.Agent
	host    *host.Host

	technician *hosttech.Module
}

// open reads what the node host keeps.
func (n *nodeHost) open() (err error) {
	if n.file == nil {
		n.skills = newSkillBins(n.now)
		if n.file, err = nodePolicy(filepath.Join(n.o.StateDir, policyFileName), n.o, n.skills, n.log); err != nil {
			return err
		}
	}
	if n.ask, err = companionOf(n.o.Companion, n.file); err != nil {
		return err
	}
	roots, err := fileRoots(n.o)
	if err != nil {
		return err
	}
	n.offered = files.New(roots)
	if n.screen, err = hostScreens(n.o, n.log); err != nil {
		return err
	}
	if err := n.openAgent(); err != nil {
		return err
	}
	if !n.o.NoDevice {
		n.device, n.tokens, err = deviceOf(n.o.StateDir)
	}
	return err
}

func (n *nodeHost) self() dial.Client {
	return dial.Client{
		ID: "node-host", Mode: "node", Version: Version, Platform: dial.Platform(), DisplayName: n.cfg.DisplayName, InstanceID: n.cfg.NodeID,
	}
}

// gateway is what the gateway is called in the log.
func (n *nodeHost) gateway() string {
	gw := n.cfg.Gateway
	switch {
	case gw.Port == 0:
		return "hanzod://" + net.JoinHostPort(gw.Host, strconv.Itoa(gw.GRPCPort))
	case gw.TLS:
		return "wss://" + net.JoinHostPort(gw.Host, strconv.Itoa(gw.Port))
	}
	return "ws://" + net.JoinHostPort(gw.Host, strconv.Itoa(gw.Port))
}

// ways are the ways to the gateway, the best first: gRPC before the legacy WebSocket, at the local
// socket on the same machine and over TLS to another one. A gateway that was reached by the socket is
// reached by nothing else: whoever takes its port while it is away gets no secret.
func (n *nodeHost) ways() (*choice, error) {
	gw, link := n.cfg.Gateway, n.o.Link
	if link != "" && link != "auto" && link != "grpc" && link != "websocket" {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("the link must be auto, grpc or websocket, not %q", link))
	}
	c := &choice{now: n.now, worked: func(string) {}}
	add := func(name string, w way) { c.names, c.ways = append(c.names, name), append(c.ways, w) }
	local := !gw.TLS && isLoopback(gw.Host)
	if link != "websocket" {
		if local {
			w := n.rpc(viaLocal, client.Options{Socket: socketOf(n.o)})
			if n.cfg.Link != viaLocal {
				w.port = gw.Port
			}
			add(viaLocal, w)
		}
		if port := grpcPort(gw); port != 0 {
			o := client.Options{Host: net.JoinHostPort(gw.Host, strconv.Itoa(port)), TLSFingerprint: gw.TLSFingerprint}
			if gw.TLSCA != "" {
				var err error
				if o.Roots, err = client.ReadRoots(gw.TLSCA); err != nil {
					return nil, permanent(err)
				}
			}
			// What the options hold is checked now, before they are stored.
			probe, err := client.Dial(context.Background(), o)
			if err != nil {
				return nil, permanent(err)
			}
			_ = probe.Close() // nothing was sent
			add(viaGRPC, n.rpc(viaGRPC, o))
		}
	}
	sticky := local && n.cfg.Link == viaLocal && link != "websocket"
	if link != "grpc" && gw.Port != 0 && !sticky {
		opts, err := n.legacy()
		if err != nil {
			return nil, err
		}
		if err := opts.Dial.Check(); err != nil {
			return nil, err
		}
		add(viaWebSocket, dial.NewNode(opts))
	}
	if len(c.ways) == 0 {
		return nil, errs.New(errs.Invalid, "there is no such way to this gateway: gRPC to another machine needs TLS (--tls or --tls-fingerprint), and a gateway named by hanzod:// has no WebSocket")
	}
	return c, nil
}

// grpcPort is the port of gRPC over TLS, 0 without one.
func grpcPort(gw *dial.GatewayAddr) int {
	switch {
	case !gw.TLS:
		return 0
	case gw.GRPCPort != 0:
		return gw.GRPCPort
	case gw.Port >= 65535:
		return 0
	}
	return gw.Port + 1
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func (n *nodeHost) rpc(via string, o client.Options) *rpcNode {
	w := &rpcNode{via: via, target: o, self: n.self(), device: n.device, tokens: n.tokens, now: n.now, log: n.log}
	if via != viaLocal {
		if w.shared = n.o.Token; w.shared == "" {
			w.shared = n.o.Password
		}
	}
	return w
}

func (n *nodeHost) legacy() (dial.NodeOptions, error) {
	opts := dial.NodeOptions{
		Log: n.log, Tokens: n.tokens, OnConn: n.skills.connected,
		Dial: dial.Options{
			URL: n.gateway(), AllowInsecure: n.o.AllowInsecure, TLSFingerprint: n.cfg.Gateway.TLSFingerprint, Client: n.self(),
			Auth: dial.Auth{Token: n.o.Token, Password: n.o.Password}, Device: n.device, Now: n.now,
		},
	}
	if file := n.cfg.Gateway.TLSCA; file != "" {
		pool, err := client.ReadRoots(file)
		if err != nil {
			return opts, permanent(err)
		}
		opts.Dial.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	opts.Carry = n.carry(opts.Dial.TLS)
	return opts, nil
}

// modules are what this machine offers beyond running commands.
func (n *nodeHost) modules() []host.Module {
	return []host.Module{n.agent, hostfiles.New(n.offered), n.checkpoints(), n.screen}
}

// serve runs the node host until ctx ends.
func (n *nodeHost) serve(ctx context.Context, c host.Connector) error {
	return n.serveWith(ctx, host.ServeOptions{Connector: c})
}

// terminalDir is where terminals open that name no directory, "" where this process runs.
func (n *nodeHost) terminalDir() string {
	if n.o.Tunnel != nil {
		return n.o.Workspace
	}
	return ""
}

// serveWith is serve with what else an instance says.
func (n *nodeHost) serveWith(ctx context.Context, o host.ServeOptions) error {
	terminals, endTerminals := hostTerminals(n.file, n.terminalDir(), n.log)
	defer endTerminals()
	tunnels, err := n.tunnels()
	if err != nil {
		return err
	}
	defer tunnels.Close()
	technician, endTechnician, err := n.tech(n.log)
	if err != nil {
		return err
	}
	defer endTechnician()
	n.host = host.New(host.Config{Policy: n.file, Prompter: n.ask, Env: runEnv, Modules: append(n.modules(), terminals, tunnels, technician), Log: n.log})
	o.Host, o.OnState, o.Log = n.host, n.o.OnState, n.log
	err = host.Serve(ctx, o)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// runNode runs the node host of this machine inside the daemon. It comes in by the local socket like
// any other node of this user, and shares the machine's exec approvals file.
func (d *Daemon) runNode(ctx context.Context) {
	log := d.subsystem("node")
	if err := d.embedNode(ctx, log); err != nil && ctx.Err() == nil {
		log.Error("the node host of this machine stopped", "error", err)
	}
}

func (d *Daemon) embedNode(ctx context.Context, log *slog.Logger) error {
	o := NodeOptions{
		StateDir: filepath.Join(d.cfg.StateDir, "node"),
		Security: d.nodeSecurity, Ask: d.nodeAsk, Current: d.current, Companion: d.companion,
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return err
	}
	cfg, err := dial.LoadOrCreateNodeConfig(filepath.Join(o.StateDir, nodeFile))
	if err != nil {
		return err
	}
	if cfg.DisplayName == "" {
		cfg.DisplayName = machineName()
	}
	n := nodeHost{o: o, cfg: cfg, log: log, now: d.now}
	n.skills = newSkillBins(n.now)
	if n.file, err = nodePolicy(filepath.Join(d.cfg.StateDir, policyFileName), o, n.skills, log); err != nil {
		return err
	}
	if err := n.open(); err != nil {
		return err
	}
	defer n.close()
	return n.serve(ctx, n.rpc(viaLocal, client.Options{Socket: d.socket}))
}

// NodeName is what the node host in this daemon is called.
func (d *Daemon) NodeName() string {
	cfg, err := dial.LoadOrCreateNodeConfig(filepath.Join(d.cfg.StateDir, "node", nodeFile))
	if err == nil && cfg.DisplayName != "" {
		return cfg.DisplayName
	}
	return machineName()
}
