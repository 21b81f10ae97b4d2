package door

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/channels"
	"github.com/hanzoai/hanzod/compat"
	"github.com/hanzoai/hanzod/compat/hoody"
	compattech "github.com/hanzoai/hanzod/compat/tech"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/rest"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/secrets"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
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

const secretText = "the-shared-secret"

type secret string

func (s secret) Equal(c string) bool { return string(s) == c }

type nobody struct{}

func (nobody) PairedNodes() []nodes.Node { return nil }

// unheld has no nodes.
type unheld struct{}

func (unheld) Node(identity.Caller, string) (tech.Node, error) { return tech.Node{}, nodes.ErrUnknown }
func (unheld) Mode(string, string)                             {}
func (unheld) Open(context.Context, identity.Caller, tech.OpenNode) (tech.Lane, error) {
	return nil, tech.ErrOffline
}

type noMetrics struct{}

func (noMetrics) Observe(string, string, string, time.Duration) {}
func (noMetrics) EventsDropped(string, uint64)                  {}

// kind is a caller as each door knows it.
type kind struct {
	name   string
	role   identity.Role
	scopes []identity.Scope
	token  string // of a device, for REST
}

// house is the domains with all three doors before them, so that each caller can come by each.
type house struct {
	catalogue *ops.Catalogue
	channel   *inprocgrpc.Channel
	remote    *remoteDoor
	http      *httptest.Server
	kinds     []kind
	identity  *identity.Service
	store     *store.Store
}

func newHouse(t *testing.T) *house {
	st := storetest.Open(t)
	bus := events.New(time.Now)
	log := slog.New(slog.DiscardHandler)
	catalogue, err := ops.Load()
	if err != nil {
		t.Fatal(err)
	}
	h := &house{catalogue: catalogue, store: st}
	// Devices pair as local programs do; a node does so where no secret is asked for.
	h.kinds = []kind{{name: "operator without scopes", role: identity.RoleOperator}, {name: "node", role: identity.RoleNode}}
	for _, s := range append(slices.Clone(identity.AllOperatorScopes), identity.ScopeTalkSecrets) {
		h.kinds = append(h.kinds, kind{name: string(s), role: identity.RoleOperator, scopes: []identity.Scope{s}})
	}
	open, err := identity.New(st, identity.Auth{Mode: identity.AuthNone}, bus, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range h.kinds {
		h.kinds[i].token = pair(t, open, h.kinds[i])
	}
	id, err := identity.New(st, identity.Auth{Mode: identity.AuthToken, Secret: secret(secretText)}, bus, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h.identity = id
	dir := t.TempDir()
	file := policy.Open(filepath.Join(dir, "exec-approvals.json"), policy.Options{HomeDir: dir})
	rules := approvals.NewPolicy(approvals.PolicyConfig{Path: filepath.Join(dir, "policy.json"), Audit: st, File: file, Now: time.Now, Log: log})
	app, err := approvals.New(approvals.Config{
		Store: st, Bus: bus, Now: time.Now, Log: log, File: file, Rules: rules,
	})
	if err != nil {
		t.Fatal(err)
	}
	ns := nodes.New(nodes.Config{Policy: nodes.NewPolicy(nil, nil), Guard: app, Paired: nobody{}, Store: st, Bus: bus, Now: time.Now})
	app.SetNodes(ns)
	rules.SetNodes(ns)
	rules.SetCovering(app)
	rs, err := runs.New(runs.Config{
		Store: st, Nodes: runtime.RunNodes{Of: func() *nodes.Service { return ns }}, Approvals: runtime.RunApprovals{Of: func() *approvals.Service { return app }},
		Standing: id.Standing, Bus: bus, Now: time.Now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	presence := system.NewPresence(system.Presence{Host: "gw"}, time.Now)
	voice := talk.New(talk.Config{Current: func() *config.Config { return &config.Config{StateDir: dir} }, AudioDir: dir, Bus: bus, Now: time.Now})
	beats := heartbeat.New(heartbeat.Config{Agents: func() []heartbeat.Agent { return nil }, Bus: bus, Now: time.Now})
	kept := secrets.New(secrets.Config{Current: func() *config.Config { return nil }})
	asks := wizard.New(wizard.Config{Now: time.Now})
	t.Cleanup(asks.Close)
	zero := func() int { return 0 }
	sys := system.New(system.Config{
		Version: "1", Bus: bus, Presence: presence, Now: time.Now, Queue: st, LogFile: filepath.Join(dir, "log"),
		Facts: system.Facts{
			Connections: zero, NodesConnected: zero, NodesKnown: zero, ApprovalsPending: zero,
			Listen: func() []string { return nil }, Agents: func() ([]system.Agent, string) { return nil, "main" },
		},
	})
	cfg, err := config.Load(config.Options{Path: filepath.Join(dir, "config.json"), StateDir: dir, Env: func(k string) string {
		if k == "HOME" {
			return dir
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	current := func() *config.Config { return cfg }
	lv := live.New(live.Config{Load: config.Options{}, Initial: cfg, Bus: bus, Now: time.Now, Log: log, Record: func(context.Context, live.Change) error { return nil }})
	ag := agents.New(agents.Config{Current: current, File: lv, Now: time.Now})
	sk := skills.New(skills.Config{Current: current, File: lv, Now: time.Now})
	mo := models.New(current)
	jobs, err := cron.New(cron.Config{Store: st, Settings: func() cron.Settings { return cron.Settings{} }, Bus: bus, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	working, ended := context.WithCancel(context.Background())
	worked := make(chan struct{})
	go func() { defer close(worked); jobs.Run(working) }()
	t.Cleanup(func() { ended(); <-worked })
	talks, costs := sessionsOf(t, st, bus, mo, current)
	g := gate.New()
	bound := bindings.New(bindings.Config{
		Pattern: func() string { return "" }, Base: func() string { return "http://box" }, Host: func() string { return "box" },
		Listen: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }, Reserved: func(string) bool { return false },
		Changed: func(string, []bindings.Binding) {}, Now: time.Now,
	})
	t.Cleanup(bound.Close)
	carried := tunnels.New(tunnels.Config{
		Settings: func() tunnels.Settings {
			return tunnels.Settings{MaxTunnels: 1, MaxPerTenant: 1, MaxStreams: 1, Connections: 1, Idle: time.Minute}
		},
		Standing: id.Standing, Bindings: bound, Nodes: runtime.TunnelNodes{Service: ns}, Now: time.Now, Log: log,
		Audit: func(context.Context, identity.Caller, tunnels.AuditRow) error { return nil },
	})
	t.Cleanup(carried.Close)
	shown := screens.New(screens.Config{
		Settings: func() screens.Settings { return screens.Settings{Enabled: true, Host: "127.0.0.1", Port: 1} },
		Nodes: runtime.ScreenNodes{
			Service: func() *nodes.Service { return ns }, Denied: func() bool { return false }, Back: func(nodes.Node) string { return "ws://127.0.0.1:1" },
		},
		Audit: func(context.Context, screens.Row) error { return nil }, Standing: func(identity.Caller) error { return nil }, Now: time.Now,
	})
	held := tech.New(tech.Config{
		Settings: func() tech.Settings { return tech.Settings{Enabled: true} }, Nodes: unheld{}, Store: st, Standing: id.Standing, Now: time.Now, Log: log,
	})
	server := rpc.New(rpc.Deps{
		Catalogue: catalogue, Gate: g, Nodes: ns, Approvals: app, Policy: rules, Runs: rs, System: sys, Heartbeat: beats, Channels: channels.New(time.Now), Talk: voice, Screens: shown, Bus: bus, Render: compat.Payload,
		Secrets: kept, Wizard: asks, Config: lv, Terminals: tunnel.New(tunnel.Config{Nodes: runtime.TerminalNodes{Nodes: func() *nodes.Service { return ns }}, Store: st, Now: time.Now}), Files: tunnel.NewFiles(runtime.FileNodes{Nodes: ns}),
		Uplinks: uplinks.New(uplinks.Config{
			List: func() map[string]uplinks.Entry { return nil }, Run: func(context.Context, string, func(uplinks.Report)) error { return nil },
		}),
		Checkpoints: checkpoints.New(checkpoints.Config{
			Settings: func() checkpoints.Settings {
				return checkpoints.Settings{Kind: checkpoints.KindOwn, Dir: filepath.Join(dir, "checkpoints")}
			},
			Nodes: runtime.CheckpointNodes{Service: ns}, Record: func(context.Context, identity.Caller, checkpoints.Act) error { return nil },
			TempDir: filepath.Join(dir, "checkpoints.tmp"), Now: time.Now, Log: log,
		}),
		Tunnels: carried, Bindings: bound, Overview: &tunnel.Overview{Tunnels: carried, Bindings: bound, Process: func() tunnel.Process { return tunnel.Process{} }},
		Tech:         held,
		Neighborhood: tunnel.NewNeighborhood(func(context.Context) (tunnel.PeersOut, error) { return tunnel.PeersOut{}, nil }),
		Sessions:     talks, Usage: costs,
		Agents: ag, Skills: sk, Models: mo,
		Cron:         jobs,
		SharedSecret: func(identity.Caller) (string, string, error) { return "", "", system.ErrLocalOnly },
		Backup: func(context.Context, identity.Caller, io.Writer, func(done, all int64)) error {
			return system.ErrBackupLocal
		},
		Bearer: id.Bearer, NodeName: ns.Name, Log: log, Metrics: noMetrics{},
		Devices: id, DeviceConnections: func() map[string]int { return map[string]int{} }, Remote: func() rpc.Remote { return rpc.Remote{} },
	})
	h.channel = new(inprocgrpc.Channel).WithServerUnaryInterceptor(server.UnaryInterceptor()).WithServerStreamInterceptor(server.StreamInterceptor())
	server.Register(h.channel)
	h.remote = openRemote(t, server)
	legacyDoor := compat.New(compat.Config{
		Catalogue: catalogue, Gate: g, Identity: id, Nodes: ns, Approvals: app, System: sys, Heartbeat: beats, Channels: channels.New(time.Now), Talk: voice, Screens: shown, Secrets: kept, Wizard: asks, Presence: presence, Bus: bus,
		Sessions: talks, Usage: costs,
		Defaults: func() compat.SessionDefaults { return compat.SessionDefaults{MainKey: "main", DefaultAgent: "main"} },
		Log:      log, Version: "1", Now: time.Now, Cron: jobs,
		Agents: ag, Skills: sk, Models: mo,
	})
	handler, err := rest.New(rest.Deps{
		RPC: server, Legacy: legacyDoor, Metrics: http.NotFoundHandler(), Bearer: id.Bearer, Gate: g,
		Ready: func() string { return "ready" }, Loopback: true, Log: log,
		Tech: compattech.New(compattech.Config{Sessions: held, Catalogue: catalogue, Gate: g}),
		Endpoints: hoody.NewEndpoints(hoody.EndpointsConfig{
			Tunnels: carried, Catalogue: catalogue, Gate: g, Process: func() tunnel.Process { return tunnel.Process{Ready: true} }, Metrics: http.NotFoundHandler(),
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.http = httptest.NewServer(handler)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		server.Stop()
		legacyDoor.Close(ctx)
		h.http.Close()
	})
	return h
}

func pair(t *testing.T, svc *identity.Service, k kind) string {
	t.Helper()
	seed := sha256.Sum256([]byte(k.name))
	key := ed25519.NewKeyFromSeed(seed[:])
	pub := key.Public().(ed25519.PublicKey)
	f := identity.Signed{
		DeviceID: identity.DeviceID(pub), ClientID: "test", ClientMode: "test", Role: k.role, Scopes: k.scopes,
		SignedAt: time.Now().UnixMilli(), Nonce: "n", Platform: "linux",
	}
	adm, err := svc.Admit(context.Background(), identity.Attempt{
		Role: k.role, Scopes: k.scopes, ClientID: f.ClientID, ClientMode: f.ClientMode, Platform: f.Platform, Nonce: f.Nonce, Peer: identity.Peer{Local: true},
		Device: &identity.Proof{
			ID: f.DeviceID, PublicKey: identity.EncodeKey(pub), SignedAt: f.SignedAt, Nonce: f.Nonce,
			Signature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(f.Payload("v3")))),
		},
	})
	if err != nil || adm.Issued == nil {
		t.Fatalf("%+v %v", adm, err)
	}
	return adm.Issued.Token
}

// allowed is the verdict on a call that passed the gate, whatever came of it.
const allowed = "allowed"

func refusal(code string, fields map[string]string) string {
	switch code {
	case gate.ErrRole.Code:
		return "role " + fields["role"]
	case gate.ErrScope.Code:
		return "scope " + fields["scope"]
	default:
		return allowed
	}
}

// expected is what the gate says of the caller.
func expected(k kind, op *ops.Operation) string {
	err := gate.New().Admit(identity.Caller{Role: k.role, Scopes: k.scopes}, op)
	if e, ok := errs.As(err); ok {
		return refusal(e.Code, map[string]string{"role": e.Field("role"), "scope": e.Field("scope")})
	}
	return allowed
}

func method(t *testing.T, full string) protoreflect.MethodDescriptor {
	t.Helper()
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(full, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.MethodDescriptor)
}

func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	m, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return m.New().Interface()
}

func (h *house) byGRPC(t *testing.T, k kind, op *ops.Operation) string {
	ctx := rpc.WithCaller(context.Background(), identity.Caller{Door: identity.DoorGRPC, Role: k.role, Scopes: k.scopes, Principal: "local:1", NodeID: "x"})
	return ask(ctx, t, h.channel, op)
}

func ask(ctx context.Context, t *testing.T, channel grpc.ClientConnInterface, op *ops.Operation) string {
	m := method(t, op.Method)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	in, out := message(t, m.Input()), message(t, m.Output())
	var err error
	if m.IsStreamingServer() {
		var cs grpc.ClientStream
		if cs, err = channel.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.IsStreamingClient()}, op.Method); err != nil {
			t.Fatal(err)
		}
		if err = cs.SendMsg(in); err == nil {
			err = cs.CloseSend()
		}
		if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why
			t.Fatal(err)
		}
		md, herr := cs.Header()
		if herr == nil && len(md.Get(rpc.OpenHeader)) > 0 {
			return allowed
		}
		err = cs.RecvMsg(out)
	} else {
		err = channel.Invoke(ctx, op.Method, in, out)
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return refusal(info.GetReason(), info.GetMetadata())
		}
	}
	return allowed
}

var pathVariable = regexp.MustCompile(`\{[^}]*\}`)

// byREST returns "" when the operation has no route.
func (h *house) byREST(t *testing.T, k kind, op *ops.Operation) string {
	rule, _ := proto.GetExtension(method(t, op.Method).Options(), annotations.E_Http).(*annotations.HttpRule)
	verb, path := "", ""
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		verb, path = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		verb, path = http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		verb, path = http.MethodPut, p.Put
	case *annotations.HttpRule_Patch:
		verb, path = http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		verb, path = http.MethodDelete, p.Delete
	default:
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body := ""
	if rule.GetBody() != "" {
		body = "{}"
	}
	req, err := http.NewRequestWithContext(ctx, verb, h.http.URL+pathVariable.ReplaceAllString(path, "x"), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+k.token)
	res, err := h.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return allowed
	case http.StatusUnauthorized, http.StatusMethodNotAllowed, http.StatusMisdirectedRequest:
		t.Fatalf("%s %s as %s: %s", verb, path, k.name, res.Status)
	}
	var p struct {
		Code   string
		Fields map[string]string
	}
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
		t.Fatalf("%s %s: %s: %v", verb, path, res.Status, err)
	}
	if res.StatusCode == http.StatusInternalServerError {
		t.Errorf("%s %s as %s: %s %+v", verb, path, k.name, res.Status, p)
	}
	return refusal(p.Code, p.Fields)
}

func byLegacy(t *testing.T, c *legacy, op *ops.Operation) string {
	_, text := failure(c.call(op.Legacy, object{}))
	if scope, ok := strings.CutPrefix(text, "missing scope: "); ok {
		return "scope " + scope
	}
	if role, ok := strings.CutPrefix(text, "unauthorized role: "); ok {
		// One more in a row than the door bears would end the connection.
		c.call("health", object{})
		return "role " + role
	}
	return allowed
}

// missing names the doors that an operation lacks, and why.
var missing = map[string]string{
	"/hanzo.system.v1.SystemService/GetSharedSecret":     "the secret is shown on the local socket only: no REST, no legacy",
	"/hanzo.system.v1.SystemService/Diagnose":            "the original cannot diagnose itself",
	"/hanzo.secrets.v1.SecretService/ListSecrets":        "the original does not show which secrets there are",
	"/hanzo.cron.v1.CronService/GetJob":                  "the original lists jobs only",
	"/hanzo.cron.v1.CronService/PreviewSchedule":         "the original does not tell when an expression is due",
	"/hanzo.system.v1.SystemService/RunHeartbeat":        "the original cannot ask for one heartbeat",
	"/hanzo.system.v1.SystemService/Backup":              "a backup holds every secret and is made on the local socket only: no REST, no legacy",
	"/hanzo.update.v1.UpdateService/GetUpdate":           "legacy clients are told by an event",
	"/hanzo.config.v1.ConfigService/EditConfig":          "the original changes single keys by patches, which restart it",
	"/hanzo.config.v1.ConfigService/CheckConfig":         "the original cannot try a configuration",
	"/hanzo.config.v1.ConfigService/ConfirmConfig":       "the original does not undo changes",
	"/hanzo.config.v1.ConfigService/RevertConfig":        "the original does not undo changes",
	"/hanzo.system.v1.SystemService/WatchEvents":         "legacy clients get events without asking",
	"/hanzo.system.v1.SystemService/FollowLogs":          "the legacy protocol has no streams",
	"/hanzo.nodes.v1.NodeService/WatchNodes":             "the legacy protocol has no streams",
	"/hanzo.nodes.v1.NodeService/WatchEvents":            "legacy clients get node.event without asking",
	"/hanzo.nodes.v1.NodeService/GetInstance":            "the original shows nodes in one form: node.describe",
	"/hanzo.nodes.v1.NodeService/GetInfo":                "the original invokes system.info on the node",
	"/hanzo.nodes.v1.NodeService/AskInvoke":              "the legacy protocol has no streams",
	"/hanzo.nodes.v1.NodeService/Run":                    "the original has no runs, and the legacy protocol no streams",
	"/hanzo.nodes.v1.NodeService/Attach":                 "a link of its own: the legacy one is the connection",
	"/hanzo.nodes.v1.NodeService/Channel":                "the links of the original carry no bytes",
	"/hanzo.tunnel.v1.ScreenService/CreateToken":         "the original shows screens to whoever asks",
	"/hanzo.tunnel.v1.ScreenService/Connect":             "the original has a WebSocket at /vnc",
	"/hanzo.tunnel.v1.TerminalService/Open":              "the original invokes terminal.* on the node",
	"/hanzo.tunnel.v1.TerminalService/Write":             "the original invokes terminal.* on the node",
	"/hanzo.tunnel.v1.TerminalService/Resize":            "the original invokes terminal.* on the node",
	"/hanzo.tunnel.v1.TerminalService/Close":             "the original invokes terminal.* on the node",
	"/hanzo.tunnel.v1.TerminalService/List":              "the original invokes terminal.* on the node",
	"/hanzo.tunnel.v1.TerminalService/Attach":            "the original invokes terminal.* on the node",
	"/hanzo.devices.v1.DeviceService/CreateInvite":       "the original has no invites",
	"/hanzo.devices.v1.DeviceService/CreateLinkKey":      "the original lets every instance link",
	"/hanzo.devices.v1.DeviceService/ListLinkKeys":       "the original lets every instance link",
	"/hanzo.devices.v1.DeviceService/RevokeLinkKey":      "the original lets every instance link",
	"/hanzo.devices.v1.DeviceService/Enroll":             "the original has no invites",
	"/hanzo.tunnel.v1.TunnelService/Carry":               "a stream of frames: REST and legacy clients open the WebSocket /api/v1/tunnel/connect",
	"/hanzo.tunnel.v1.TunnelService/CreateBinding":       "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/DeleteBinding":       "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/ListBindings":        "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/List":                "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/Get":                 "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/Kill":                "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/Watch":               "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TunnelService/Health":              "the original has no tunnels: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TechSessionService/Open":           "the original has no technician sessions: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TechSessionService/Close":          "the original has no technician sessions: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TechSessionService/Get":            "the original has no technician sessions: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TechSessionService/List":           "the original has no technician sessions",
	"/hanzo.tunnel.v1.TechSessionService/Channel":        "a stream of messages: REST has a WebSocket for it",
	"/hanzo.tunnel.v1.TechSessionService/Run":            "the original has no technician sessions: /api/v1/tunnel has them",
	"/hanzo.tunnel.v1.TechSessionService/Watch":          "the original has no technician sessions, and the legacy protocol no streams",
	"/hanzo.tunnel.v1.TechSessionService/ListAudit":      "the original has no technician sessions",
	"/hanzo.tunnel.v1.TechSessionService/Export":         "the original has no technician sessions",
	"/hanzo.tunnel.v1.DiscoveryService/ListPeers":        "the original does not tell who else is there",
	"/hanzo.tunnel.v1.CheckpointService/Create":          "legacy clients invoke session.checkpoint",
	"/hanzo.tunnel.v1.CheckpointService/Restore":         "legacy clients invoke session.restore",
	"/hanzo.tunnel.v1.CheckpointService/List":            "legacy clients invoke session.list",
	"/hanzo.tunnel.v1.CheckpointService/Migrate":         "legacy clients invoke session.checkpoint and session.restore",
	"/hanzo.tunnel.v1.CheckpointService/Get":             "the original cannot look into a checkpoint",
	"/hanzo.tunnel.v1.CheckpointService/Download":        "the original cannot look into a checkpoint",
	"/hanzo.tunnel.v1.CheckpointService/Upload":          "the original cannot take a checkpoint, and REST has no streams of a client",
	"/hanzo.tunnel.v1.CheckpointService/Delete":          "the original removes no checkpoints",
	"/hanzo.tunnel.v1.CheckpointService/Prune":           "the original removes no checkpoints",
	"/hanzo.runs.v1.RunService/StartRun":                 "the original has no runs: its clients invoke the node themselves",
	"/hanzo.runs.v1.RunService/GetRun":                   "the original has no runs",
	"/hanzo.runs.v1.RunService/WaitRun":                  "the original has no runs",
	"/hanzo.runs.v1.RunService/ListRuns":                 "the original has no runs",
	"/hanzo.runs.v1.RunService/WatchRun":                 "the original has no runs, and the legacy protocol no streams",
	"/hanzo.runs.v1.RunService/KillRun":                  "the original cannot end a run",
	"/hanzo.audit.v1.AuditService/ListAudit":             "the original has no audit log",
	"/hanzo.audit.v1.AuditService/GetAudit":              "the original has no audit log",
	"/hanzo.audit.v1.AuditService/GetAuditHead":          "the original has no audit log",
	"/hanzo.audit.v1.AuditService/WatchAudit":            "the original has no audit log",
	"/hanzo.audit.v1.AuditService/VerifyAudit":           "the original has no audit log",
	"/hanzo.audit.v1.AuditService/ExportAudit":           "the original has no audit log",
	"/hanzo.approvals.v1.ApprovalService/GetApproval":    "the original cannot look at one approval",
	"/hanzo.approvals.v1.ApprovalService/ListApprovals":  "the original cannot list approvals",
	"/hanzo.approvals.v1.ApprovalService/WatchApprovals": "the legacy protocol has no streams",
	"/hanzo.approvals.v1.PolicyService/GetRules":         "the original has no rules",
	"/hanzo.approvals.v1.PolicyService/SetRules":         "the original has no rules",
	"/hanzo.approvals.v1.PolicyService/ExplainPolicy":    "the original cannot explain",
	"/hanzo.approvals.v1.PolicyService/TestPolicy":       "the original has no rules",
	"/hanzo.approvals.v1.PolicyService/SimulatePolicy":   "the original has no rules",
	"/hanzo.approvals.v1.GrantService/CreateGrant":       "the original has no grants",
	"/hanzo.approvals.v1.GrantService/RevokeGrant":       "the original has no grants",
	"/hanzo.approvals.v1.GrantService/GetGrant":          "the original has no grants",
	"/hanzo.approvals.v1.GrantService/ListGrants":        "the original has no grants",
	"/hanzo.approvals.v1.GrantService/WatchGrants":       "the original has no grants",
	"/hanzo.tunnel.v1.UplinkService/ListUplinks":         "the original has no uplinks",
	"/hanzo.tunnel.v1.UplinkService/GetUplink":           "the original has no uplinks",
	"/hanzo.tunnel.v1.UplinkService/StartUplink":         "the original has no uplinks",
	"/hanzo.tunnel.v1.UplinkService/StopUplink":          "the original has no uplinks",
	"/hanzo.tunnel.v1.FileService/StatFile":              "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/ListFiles":             "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/HashFile":              "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/GetUpload":             "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/MakeDirectory":         "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/RemoveFile":            "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/RenameFile":            "the legacy door has node.invoke file.* for it",
	"/hanzo.tunnel.v1.FileService/ReadFile":              "a stream of bytes; REST has routes of its own for it, the legacy door node.invoke file.*",
	"/hanzo.tunnel.v1.FileService/WriteFile":             "a stream of bytes; REST has routes of its own for it, the legacy door node.invoke file.*",
}

// Every operation, every kind of caller, every door: the verdicts are the gate's.
func TestVerdicts(t *testing.T) {
	h := newHouse(t)
	lacks := map[string]bool{}
	for _, k := range h.kinds {
		t.Run(k.name, func(t *testing.T) {
			var scopes []string
			for _, s := range k.scopes {
				scopes = append(scopes, string(s))
			}
			c, hello := connect(t, strings.Replace(h.http.URL, "http", "ws", 1), params(string(k.role), secretText, scopes, nil), nil)
			if hello["ok"] != true {
				t.Fatalf("%v", hello)
			}
			for _, op := range h.catalogue.All() {
				want := expected(k, op)
				got := map[string]string{}
				if op.Method != "" {
					got["grpc"] = h.byGRPC(t, k, op)
					got["remote"] = ask(bearer(k.token), t, h.remote.conn, op)
					got["rest"] = h.byREST(t, k, op)
				}
				for _, asked := range atTunnels[op.Method] {
					if v := h.byTunnels(t, k, asked); (v == allowed) != (want == allowed) {
						t.Errorf("%s by %s as %s: %s, want %s", op.Name(), asked, k.name, v, want)
					}
				}
				if op.Legacy != "" {
					got["legacy"] = byLegacy(t, c, op)
				}
				for d, v := range got {
					switch {
					case v == "":
						lacks[op.Method] = true
					case v != want:
						t.Errorf("%s by %s: %s, want %s", op.Name(), d, v, want)
					}
				}
				if op.Legacy == "" {
					lacks[op.Method] = true
				}
			}
		})
	}
	for m := range lacks {
		if missing[m] == "" {
			t.Errorf("%s lacks a door, and nobody says why", m)
		}
	}
	for m := range missing {
		if !lacks[m] {
			t.Errorf("%s is said to lack a door, and has all", m)
		}
	}
}

// atTunnels are the endpoints of hoody-tunnel, and those of technician sessions, that are operations (tunnel.md §5.3).
var atTunnels = map[string][]string{
	"/hanzo.tunnel.v1.TunnelService/List":         {"GET tunnels", "GET sessions", "GET tunnels?shape=kit", "GET metrics"},
	"/hanzo.tunnel.v1.TunnelService/ListBindings": {"GET bindings"},
	"/hanzo.tunnel.v1.TunnelService/Kill":         {"DELETE sessions/x"},
	"/hanzo.tunnel.v1.TechSessionService/Open":    {"POST open"},
	"/hanzo.tunnel.v1.TechSessionService/Close":   {"POST close"},
	"/hanzo.tunnel.v1.TechSessionService/Get":     {"GET status/x", "GET status/00000000-0000-4000-8000-000000000000"},
	"/hanzo.tunnel.v1.TechSessionService/Run":     {"POST x/command"},
}

// byTunnels asks one of them.
func (h *house) byTunnels(t *testing.T, k kind, asked string) string {
	t.Helper()
	verb, path, _ := strings.Cut(asked, " ")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, verb, h.http.URL+"/api/v1/tunnel/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k.token != "" {
		req.Header.Set("Authorization", "Bearer "+k.token)
	}
	res, err := h.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	switch res.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized:
		return res.Status
	case http.StatusOK, http.StatusNotFound, http.StatusBadRequest: // nobody has that tunnel or session, no page is served here, and nothing was asked
		return allowed
	}
	t.Fatalf("%s as %s: %s", asked, k.name, res.Status)
	return ""
}

// A stranger gets nothing by any door but the probes.
func TestStranger(t *testing.T) {
	h := newHouse(t)
	for _, op := range h.catalogue.All() {
		if op.Method == "" {
			continue
		}
		ctx := rpc.WithCaller(context.Background(), identity.Caller{})
		m := method(t, op.Method)
		if !m.IsStreamingServer() {
			if err := h.channel.Invoke(ctx, op.Method, message(t, m.Input()), message(t, m.Output())); err == nil {
				t.Errorf("%s by gRPC", op.Method)
			}
			if err := h.channel.Invoke(context.Background(), op.Method, message(t, m.Input()), message(t, m.Output())); status.Code(err).String() != "Unauthenticated" {
				t.Errorf("%s in process without a caller: %v", op.Method, err)
			}
		}
		for _, token := range []string{"", "wrong", secretText + "x"} {
			k := kind{token: token}
			for _, asked := range atTunnels[op.Method] {
				if v := h.byTunnels(t, k, asked); !strings.HasPrefix(v, "401") {
					t.Errorf("%s with %q: %s", asked, token, v)
				}
			}
			req := fmt.Sprintf("%s with %q", op.Method, token)
			if code := h.status(t, k, op); code != 0 && code != http.StatusUnauthorized {
				t.Errorf("%s: %d", req, code)
			}
		}
	}
}

// status is the HTTP status of an operation, 0 without a route.
func (h *house) status(t *testing.T, k kind, op *ops.Operation) int {
	rule, _ := proto.GetExtension(method(t, op.Method).Options(), annotations.E_Http).(*annotations.HttpRule)
	verb, path := http.MethodPost, rule.GetPost()
	switch {
	case rule.GetGet() != "":
		verb, path = http.MethodGet, rule.GetGet()
	case rule.GetPut() != "":
		verb, path = http.MethodPut, rule.GetPut()
	case rule.GetDelete() != "":
		verb, path = http.MethodDelete, rule.GetDelete()
	case path == "":
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, verb, h.http.URL+pathVariable.ReplaceAllString(path, "x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if k.token != "" {
		req.Header.Set("Authorization", "Bearer "+k.token)
	}
	res, err := h.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}
