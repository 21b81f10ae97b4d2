package runtime

import (
	"context"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/hooks"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/system"
)

// pairedNodes shows the paired devices to nodes.
type pairedNodes struct{ id *identity.Service }

func (p pairedNodes) PairedNodes() []nodes.Node {
	devices := p.id.PairedNodes()
	out := make([]nodes.Node, len(devices))
	for i, dev := range devices {
		out[i] = nodes.Node{
			ID: nodes.QualifiedID(dev.Tenant, dev.ID), Tenant: dev.Tenant, DisplayName: dev.DisplayName, Platform: dev.Platform, RemoteIP: dev.RemoteIP,
			Caps: []string{}, Commands: []string{},
		}
	}
	return out
}

// shownAgents reads the agents of the configuration in force.
func (d *Daemon) shownAgents() ([]system.Agent, string) {
	cfg := d.current()
	if known := d.agentsSeen.Load(); known != nil && known.of == cfg {
		return known.agents, known.def
	}
	seen := &agentsSeen{of: cfg, def: cfg.DefaultAgentID()}
	for _, id := range cfg.AgentIDs() {
		b := cfg.Beat(id)
		a := system.Agent{
			ID: id, Name: cfg.AgentName(id), Default: id == seen.def,
			SessionsPath: filepath.Join(cfg.StateDir, "agents", id, "sessions", "sessions.json"),
			Heartbeat: system.Heartbeat{
				Enabled: b.Enabled, Every: b.Every, Prompt: b.Prompt, Target: b.Target, Model: b.Model, AckMaxChars: b.AckMaxChars,
			},
		}
		if b.EveryMs != nil {
			a.Heartbeat.Interval = time.Duration(*b.EveryMs) * time.Millisecond
		}
		seen.agents = append(seen.agents, a)
	}
	d.agentsSeen.Store(seen)
	return seen.agents, seen.def
}

// agentsSeen are the agents of one configuration; nobody changes them.
type agentsSeen struct {
	of     *config.Config
	agents []system.Agent
	def    string
}

// canvasOn reports whether the canvas host serves (protocol.md §1.7).
func (d *Daemon) canvasOn() bool { return d.cfg.CanvasHost.Enabled }

// webConfig wires the HTTP routes of the original.
func (d *Daemon) webConfig() web.Config {
	cfg := d.current()
	runs := hooks.New(hooks.Config{
		Hooks: cfg.Hooks, Agents: cfg.AgentIDs(), DefaultAgent: cfg.DefaultAgentID(),
	})
	return web.Config{
		Hooks: cfg.Hooks, HookLimiter: d.hookRate, Wake: d.system.Wake, Agent: runs.Agent, HTTP: d.cfg.Gateway.HTTP,
		Canvas: web.Canvas{
			Enabled: d.canvasOn(), Root: d.cfg.CanvasHost.Root, A2UI: filepath.Join(d.cfg.StateDir, "a2ui"),
			LiveReload: d.cfg.CanvasHost.LiveReload, Capability: d.door.CanvasCapability,
		},
		UI:     d.controlUI(cfg),
		Tools:  d.tools,
		Bearer: d.identity.Bearer, Mode: d.identity.Mode(), Peers: d.peers,
		Log: d.subsystem("http"), Now: d.now,
	}
}

// controlUI is the web page of the original, as the configuration has it.
func (d *Daemon) controlUI(cfg *config.Config) web.ControlUI {
	ui := cfg.Gateway.ControlUI
	return web.ControlUI{
		Enabled: ui.Enabled, Root: ui.Root, Base: ui.BasePath, Version: Version,
		Assistant: func() (name, avatar, agentID string) {
			out, err := d.agents.Identity(context.Background(), identity.Internal(), agents.IdentityIn{})
			if err != nil { // only a key that is none
				return "Assistant", "A", cfg.DefaultAgentID()
			}
			return out.Name, out.Avatar, out.AgentID
		},
		Avatar: func(agentID string) (data []byte, mime, address string) {
			out := d.agents.Avatar(context.Background(), identity.Internal(), agentID)
			return out.Data, out.Mime, out.URL
		},
	}
}

// mainSession is the session that people talk to when they name none.
func mainSession(cfg *config.Config) string {
	return mainSessionOf(cfg, cfg.DefaultAgentID())
}

// self is the gateway's own presence (protocol.md §6.4).
func self() system.Presence {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	p := system.Presence{
		Host: host, IP: ownAddress(), Version: Version, Platform: osName(), Mode: "gateway", Reason: "self",
		DeviceFamily:    map[string]string{"linux": "Linux", "darwin": "Mac", "windows": "Windows"}[goruntime.GOOS],
		ModelIdentifier: goruntime.GOARCH,
	}
	if goruntime.GOARCH == "amd64" {
		p.ModelIdentifier = "x64"
	}
	p.Text = "Gateway: " + p.Host + " (" + p.IP + ") · app " + p.Version + " · mode gateway · reason self"
	return p
}

// ownAddress is the first address of this machine that others may reach, the loopback one without
// any.
func ownAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
