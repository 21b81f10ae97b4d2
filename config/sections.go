package config

import "net/netip"

// The typed sections. Each field says its key and default where the name does not; config.md §4 to
// §9 describe them. Times named …Ms are milliseconds.

// Gateway is the section gateway: where and how the daemon listens.
type Gateway struct {
	Port                      int    // 18789
	Mode                      string // local or remote; unset counts as local
	Bind                      string // auto, lan, loopback (default), custom, tailnet
	CustomBindHost            string // IPv4 address, for bind custom
	Auth                      Auth
	TrustedProxies            []netip.Prefix // whose forwarded headers count
	AllowRealIPFallback       bool
	TLS                       TLS
	GRPC                      GRPC
	ControlUI                 ControlUI
	Nodes                     Nodes
	HTTP                      HTTP
	Tailscale                 Tailscale
	Tailnet                   Tailnet
	Remote                    Remote
	Reload                    Reload
	ChannelHealthCheckMinutes int // 5; 0 is off
	Tools                     ToolsInvoke
}

// Auth is gateway.auth. AuthMode of Config tells the mode that results.
type Auth struct {
	Mode            string // none, token, password, trusted-proxy, iam, or "" when unset
	Token, Password Secret
	AllowTailscale  *bool         // nil when unset
	RateLimit       *RateLimit    // nil when the section is absent
	TrustedProxy    *TrustedProxy // nil when the section is absent
	IAM             *IAM          // nil when the section is absent
}

// RateLimit is gateway.auth.rateLimit: failed attempts per address.
type RateLimit struct {
	MaxAttempts    int   // 10
	WindowMs       int64 // 60000
	LockoutMs      int64 // 300000
	ExemptLoopback bool  // true
}

// TrustedProxy is gateway.auth.trustedProxy.
type TrustedProxy struct {
	UserHeader                  string
	RequiredHeaders, AllowUsers []string
}

// IAM is gateway.auth.iam, an OpenID Connect server.
type IAM struct {
	ServerURL, ClientID, OrgName, AppName, JWKSURL string
	ClientSecret                                   Secret
	Scopes, SuperAdmins                            []string
}

// TLS is gateway.tls.
type TLS struct {
	Enabled                   bool
	AutoGenerate              bool // true
	CertPath, KeyPath, CAPath string
}

// GRPC is gateway.grpc, the gRPC door for other machines, which the older gateway has not. Ask
// RemoteGRPC of Config for what results.
type GRPC struct {
	Enabled *bool // nil when unset: open when the daemon listens beyond this machine
	Port    *int  // nil when unset: the port after gateway.port; 0 takes a free one
}

// ControlUI is gateway.controlUi.
type ControlUI struct {
	Enabled                                  bool   // true
	BasePath                                 string // "" or with a leading and no trailing slash
	Root                                     string
	AllowedOrigins                           []string
	AllowInsecureAuth                        bool
	DangerouslyDisableDeviceAuth             bool
	DangerouslyAllowHostHeaderOriginFallback bool
}

// Nodes is gateway.nodes.
type Nodes struct {
	AllowCommands, DenyCommands []string
	BrowserMode                 string // auto, manual, off (default)
	BrowserNode                 string
	// Serial are the ids of nodes that handle one command after another.
	Serial []string
}

// HTTP is gateway.http. StrictTransportSecurity is the header's value, empty for none.
type HTTP struct {
	StrictTransportSecurity string
	ChatCompletions         bool // endpoint enabled
	Responses               bool // endpoint enabled
}

// Tailscale is gateway.tailscale.
type Tailscale struct {
	Mode        string // off (default), serve, funnel
	ResetOnExit bool
}

// Remote is gateway.remote, used by clients.
type Remote struct {
	URL, Transport, TLSFingerprint, SSHTarget, SSHIdentity string
	Token, Password                                        Secret
}

// Reload is gateway.reload.
type Reload struct {
	Mode       string // off, restart, hot, hybrid (default)
	DebounceMs int64  // 300
}

// ToolsInvoke is gateway.tools: what POST /tools/invoke may call.
type ToolsInvoke struct{ Deny, Allow []string }

// Logging is the section logging.
type Logging struct {
	Level           string // silent, fatal, error, warn, info (default), debug, trace
	File            string // <state>/logs/hanzod.log
	MaxFileBytes    int64  // 500 MiB
	ConsoleLevel    string // info
	ConsoleStyle    string // pretty, compact, json, or "" for the terminal to decide
	ConsoleOutput   string // stderr (default), stdout; the environment alone says so
	RedactSensitive string // off, tools (default)
	RedactPatterns  []string
}

// Audit is the section audit, which is hanzod's own: how long the audit log is kept. The oldest rows go
// when one of the bounds is passed, and the log says so.
type Audit struct {
	KeepDays int   // 0..36500, 365 by default; 0 keeps rows as long as the other bounds do
	MaxRows  int64 // 1,000..10,000,000; 100,000 by default
	MaxBytes int64 // 1 MiB..4 GiB; 64 MiB by default
}

// DefaultSessionURL is where the originals show instances (tunnel.md §2.2).
const DefaultSessionURL = "https://app.hanzo.bot/nodes"

// Tunnel is the section tunnel, which is hanzod's own: instances that link to this gateway.
type Tunnel struct {
	// SessionURL is where instances are shown, without the id of one and the slash before it.
	SessionURL string
	// MaxPerTenant is how many instances of one organisation may be linked at once: 1..10,000; 1000 by
	// default.
	MaxPerTenant int
	// PublicURLPattern is the address of what instances expose; empty for a path of this gateway.
	PublicURLPattern string
	// Screen is tunnel.screen.
	Screen Screen
	// Tech is tunnel.tech.
	Tech Tech
	// MaxTunnels bounds all tunnels, MaxTunnelsPerTenant those of one organisation or of the gateway's owner:
	// 1..10,000; 256 and 32 by default.
	MaxTunnels, MaxTunnelsPerTenant int
	// MaxStreams bounds the streams of a tunnel: 1..100,000, 256 by default; Connections its carriers: 1..16, 4.
	MaxStreams, Connections int
	// GraceSeconds is how long a tunnel whose carrier was lost keeps its bindings: 0..3600, 60 by default, 0 ends
	// it at once. IdleSeconds is how long one without streams and bindings is kept: 1..86400, 120.
	GraceSeconds, IdleSeconds int
	// ExposeBind is the address on which exposed ports listen; 127.0.0.1 when empty.
	ExposeBind string
	// Permits is how many descriptors visitors and ports of bindings may hold, 16..1,000,000; 0 for 1024 or three
	// quarters of what the process may open. PermitsPerTunnel is how many of them one tunnel may: 2..1,000,000, 100
	// by default.
	Permits, PermitsPerTunnel int
	// PrivilegedExpose and PrivilegedPull allow bindings the ports 80 to 1023.
	PrivilegedExpose, PrivilegedPull bool
	// HelloCredentials lets carriers connect that show their credential in HELLO: true by default.
	HelloCredentials bool
	// MetricsPublic shows /api/v1/tunnel/metrics to everybody.
	MetricsPublic bool
}

// Tech is tunnel.tech: technician sessions.
type Tech struct {
	Enabled bool // true
	// IdleMinutes ends a session in which nothing happens: 1..43,200, 240 by default; CommandsPerMinute bounds those of one
	// session: 1..10,000, 100.
	IdleMinutes, CommandsPerMinute int
	// Directories bound all sessions to absolute paths of the nodes; empty leaves that to the nodes.
	Directories []string
}

// Agents is the section agents.
type Agents struct {
	Defaults AgentDefaults
	List     []Agent
}

// AgentDefaults is agents.defaults.
type AgentDefaults struct {
	Workspace string
	Heartbeat Heartbeat
}

// Agent is an entry of agents.list. Heartbeat is the defaults' with the entry's own laid over it.
type Agent struct {
	ID, Name, Workspace string
	Default             bool
	OwnHeartbeat        bool // the entry has a heartbeat section
	Heartbeat           Heartbeat
	SafeBins            SafeBins // tools.exec of the entry, as is the next
	Exec                ExecPolicy
}

// Heartbeat is agents.defaults.heartbeat or an agent's (control-plane.md §3).
type Heartbeat struct {
	Every                     string // 30m; a bare number is minutes, 0 is off
	Model, Session            string
	Target                    string // none
	DirectPolicy              string // allow (default), block
	To, AccountID             string
	Prompt                    string
	AckMaxChars               int // 300
	ActiveStart, ActiveEnd    string
	ActiveTimezone            string
	SuppressToolErrorWarnings bool
	LightContext              bool
	IncludeReasoning          bool
}

// Tools is the section tools, as far as it is typed.
type Tools struct{ Exec Exec }

// Exec is tools.exec. Host, Security and Ask are empty when unset: their defaults depend on each
// other (config.md §7).
type Exec struct {
	Host        string // sandbox, gateway, node
	Security    string // deny, allowlist, full
	Ask         string // off, on-miss, always
	Node        string
	PathPrepend []string
	SafeBins    SafeBins
	TimeoutSec  int // 1800
}

// ExecPolicy is security and ask of tools.exec; empty when unset.
type ExecPolicy struct{ Security, Ask string }

// SafeBins are the keys of tools.exec about filters that need no approval (nodes-approvals.md §3.9).
type SafeBins struct {
	// Bins is nil when unset and empty for none.
	Bins []string
	// TrustedDirs are directories in which a program is what its name says, beside /bin and /usr/bin.
	TrustedDirs []string
	Profiles    map[string]SafeBinProfile
}

// SafeBinProfile says which arguments of a filter are harmless. MaxPositional is nil for any number.
type SafeBinProfile struct {
	MinPositional                  int
	MaxPositional                  *int
	AllowedValueFlags, DeniedFlags []string
}

// CanvasHost is the section canvasHost. Port is 0 when the gateway's port is free to choose.
type CanvasHost struct {
	Enabled    bool   // true
	Root       string // <workspace of the default agent>/canvas
	Port       int    // gateway port + 4
	LiveReload bool   // true
}

// FileRoot is a directory whose files a node offers.
type FileRoot struct {
	// Path is absolute.
	Path     string
	ReadOnly bool
}

// NodeHost is the section nodeHost.
type NodeHost struct {
	BrowserProxy  bool // true
	AllowProfiles []string
	// FileRoots are the directories whose files are offered; nil is the workspace alone.
	FileRoots []FileRoot
	// Embedded runs a node host inside the daemon; the environment alone says so.
	Embedded bool
	// Chat and Dev are the programs of chat.send and dev.launch; empty lists are the usual ones.
	Chat NodeChat
	Dev  NodeDev
	// Commands are those of this machine.
	Commands []NodeCommand
	// Checkpoints are limits of what is saved of a workspace and restored.
	Checkpoints NodeCheckpoints
	// Screen is the VNC server whose screen is shown, host:port; empty for none.
	Screen string
}

// Hooks is the section hooks, without gmail and internal.
type Hooks struct {
	Enabled                   bool
	Token                     Secret
	Path                      string // /hooks
	DefaultSessionKey         string
	AllowRequestSessionKey    bool
	AllowedSessionKeyPrefixes []string
	// AllowedAgentIDs are the agents that a hook may name; nil, or one that is "*", is any.
	AllowedAgentIDs []string
	MaxBodyBytes    int64 // 262144
	// Mappings are those of the file and then those of the presets.
	Mappings []HookMapping
}

// HookMapping is an entry of hooks.mappings: what a request to a path of its own does. Texts may
// hold {{expressions}} over the request (channels-plugins.md §5.4).
type HookMapping struct {
	ID                         string // mapping-<n> without one
	MatchPath, MatchSource     string // "" matches all
	Action                     string // wake, agent (default)
	WakeMode                   string // now (default), next-heartbeat
	Name, AgentID, SessionKey  string
	MessageTemplate            string // of the action agent
	TextTemplate               string // of the action wake
	Deliver                    bool   // true
	AllowUnsafeExternalContent bool
	Channel, To                string // "" is last
	Model, Thinking            string
	TimeoutSeconds             int // 0 for none of its own
}

// Discovery is the section discovery.
type Discovery struct {
	WideArea bool
	MDNS     string // off (default), minimal, full
	// SSHPort is where the SSH server of this machine listens, 22 by default. Mode full announces it.
	SSHPort int
}

// Update is the section update.
type Update struct {
	Channel      string // stable, beta, dev, or "" when unset
	CheckOnStart bool   // true
	Auto         bool
}

// Browser is the section browser, as far as it is typed.
type Browser struct{ Enabled bool }
