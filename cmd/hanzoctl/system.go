package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// Bounds of TailLogs and FollowLogs (control-plane.md, logs.tail).
const (
	defaultLines = 200
	maxLines     = 5000
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show what the daemon is doing", Args: cobra.NoArgs,
		Example: `  hanzoctl status
  hanzoctl status -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				rows := []string{
					cells("target", a.to.String()),
					cells("version", s.GetVersion()),
					cells("pid", strconv.FormatInt(s.GetPid(), 10)),
					cells("uptime", span(s.GetUptime().AsDuration())),
					cells("socket", s.GetSocket()),
					cells("listening", strings.Join(s.GetListen(), " ")),
				}
				if a := s.GetGrpcListen(); a != "" {
					rows = append(rows, cells("grpc", a))
				}
				if pin := s.GetTlsFingerprint(); pin != "" {
					rows = append(rows, cells("tls", "sha256:"+pin))
				}
				rows = append(rows,
					cells("auth", s.GetAuthMode()),
					cells("state", s.GetStateDir()),
					cells("config", s.GetConfigPath()),
					cells("connections", strconv.Itoa(int(s.GetConnections()))),
					cells("nodes", fmt.Sprintf("%d connected, %d known", s.GetNodesConnected(), s.GetNodesKnown())),
					cells("approvals", fmt.Sprintf("%d pending", s.GetApprovalsPending())),
				)
				if fault := s.GetConfigFault(); fault != "" {
					rows = append(rows, cells("", "THE FILE IS NOT IN USE: "+fault+"; see "+a.again()+" config get"))
				}
				if until := s.GetConfigPending(); until != nil {
					rows = append(rows, cells("", "the last change undoes itself in "+time.Until(until.AsTime()).Round(time.Second).String()+"; keep it with "+a.again()+" config confirm"))
				}
				if fault := s.GetPolicyFault(); fault != "" {
					// What is wrong may take several lines; the first says the most.
					first, _, _ := strings.Cut(fault, "\n")
					rows = append(rows, cells("policy", "WRONG FILE, the rules before it are in force: "+first+"; see "+a.again()+" policy show"))
				}
				if devices, err := c.Devices.ListDevices(ctx, &devicesv1.ListDevicesRequest{}); err == nil { // who may not see them, does not
					rows = append(rows, cells("devices", fmt.Sprintf("%d paired, %d waiting", len(devices.GetDevices()), len(devices.GetPending()))))
					for _, p := range devices.GetPending() {
						rows = append(rows, cells(requestState(p), asks(p)+": "+a.again()+" devices approve "+shortID(p.GetDeviceId())))
					}
				}
				rows = append(rows, cells("sessions", strconv.Itoa(int(s.GetSessionCount()))))
				if m := s.GetDefaultModel(); m != "" {
					rows = append(rows, cells("model", fmt.Sprintf("%s, %d tokens", m, s.GetDefaultContextTokens())))
				}
				if !s.GetHeartbeatsEnabled() {
					rows = append(rows, cells("heartbeats", "turned off: "+a.again()+" heartbeat enable"))
				}
				if n := len(s.GetQueuedSystemEvents()); n > 0 {
					rows = append(rows, cells("waiting", fmt.Sprintf("%d events for the next turn of the main session; the last: %s", n, s.GetQueuedSystemEvents()[n-1])))
				}
				for _, g := range s.GetAgents() {
					rows = append(rows, cells("agent", fmt.Sprintf("%s, %d sessions, heartbeat %s", g.GetAgentId(), g.GetSessionCount(), heartbeat(g.GetHeartbeat()))))
				}
				whole, err := a.withTarget(s)
				if err != nil {
					return err
				}
				return a.printOne(whole, "", rows...)
			})
		}}
}

func heartbeat(h *systemv1.Heartbeat) string {
	if !h.GetEnabled() {
		return "off"
	}
	return h.GetEvery()
}

func (a *app) healthCmd() *cobra.Command {
	var probe bool
	c := &cobra.Command{Use: "health", Short: "Say whether the daemon works", Args: cobra.NoArgs,
		Long: "Say whether the daemon works. The exit code is 0 when it does.",
		Example: `  hanzoctl health
  hanzoctl health --probe -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				h, err := c.System.GetHealth(ctx, &systemv1.GetHealthRequest{Probe: probe})
				if err != nil {
					return err
				}
				word := "ok"
				if !h.GetOk() {
					word = "not ok"
				}
				rows := []string{word}
				if !a.to.local() {
					rows = append(rows, cells("target", a.to.String()))
				}
				if s, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{}); err == nil { // who may not see it, does not
					rows = append(rows, cells("auth", s.GetAuthMode()))
				}
				for _, g := range h.GetAgents() {
					rows = append(rows, cells("agent "+g.GetAgentId(), fmt.Sprintf("%d sessions", g.GetSessionCount()), "heartbeat "+heartbeat(g.GetHeartbeat())))
				}
				whole, err := a.withTarget(h)
				if err != nil {
					return err
				}
				if err := a.printOne(whole, "", rows...); err != nil {
					return err
				}
				if !h.GetOk() {
					return &codeError{code: exitFailed, text: "the daemon reports that it does not work; see hanzoctl logs"}
				}
				return nil
			})
		}}
	c.Flags().BoolVar(&probe, "probe", false, "look afresh instead of showing the last summary")
	return c
}

func (a *app) eventsCmd() *cobra.Command {
	var in []string
	var count int
	c := &cobra.Command{Use: "events", Short: "Print events as they happen", Args: cobra.NoArgs,
		Long: `Print events as they happen, from now on, until interrupted. It outlives restarts of the daemon
and of the network, and says so: what happens meanwhile is not printed.`,
		Example: `  hanzoctl events --follow
  hanzoctl events --name exec.approval.requested -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				return follow(ctx, a, count, func(ctx context.Context, _ bool) (grpc.ServerStreamingClient[systemv1.WatchEventsResponse], error) {
					return c.System.WatchEvents(ctx, &systemv1.WatchEventsRequest{Names: in})
				}, func(e *systemv1.WatchEventsResponse) (err error) {
					if e.GetDropped() > 0 {
						fmt.Fprintf(a.stderr, "%d events were dropped because this reader was too slow\n", e.GetDropped())
					}
					if e.GetName() == "" {
						return nil
					}
					payload := []byte("null")
					if e.GetPayload() != nil {
						if payload, err = encode(e.GetPayload(), "jsonl"); err != nil {
							return err
						}
					}
					line := fmt.Sprintf("%s  %s  %s", e.GetAt().AsTime().Local().Format(time.TimeOnly), Text(e.GetName()), strings.TrimSpace(string(payload)))
					return a.printItem(e, e.GetName(), line)
				})
			})
		}}
	// Events are followed in any case; the flag is for those who expect to have to say so.
	c.Flags().BoolP("follow", "f", true, "go on until interrupted")
	c.Flags().StringSliceVar(&in, "name", nil, "names of events to keep; may be repeated")
	countFlag(c, &count)
	return c
}

func (a *app) logsCmd() *cobra.Command {
	var followed bool
	var lines int
	c := &cobra.Command{Use: "logs", Short: "Print the end of the daemon's log", Args: cobra.NoArgs,
		Example: `  hanzoctl logs -n 50
  hanzoctl logs -f`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 || lines > maxLines {
				return usagef("-n may be 0 to %d", maxLines)
			}
			if followed {
				return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
					return follow(ctx, a, 0, func(ctx context.Context, again bool) (grpc.ServerStreamingClient[systemv1.FollowLogsResponse], error) {
						if again {
							lines = 0 // they were printed
						}
						return c.System.FollowLogs(ctx, &systemv1.FollowLogsRequest{Lines: uint32(lines)})
					}, func(m *systemv1.FollowLogsResponse) error { return a.logLine(m.GetLine()) })
				})
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.System.TailLogs(ctx, &systemv1.TailLogsRequest{Limit: new(uint32(max(lines, 1)))})
				if err != nil {
					return err
				}
				if a.output == "json" || a.output == "yaml" {
					return a.printValue(out)
				}
				for _, l := range out.GetLines() {
					if lines == 0 {
						break
					}
					if err := a.logLine(l); err != nil {
						return err
					}
				}
				return nil
			})
		}}
	c.Flags().BoolVarP(&followed, "follow", "f", false, "go on with each new line until interrupted")
	c.Flags().IntVarP(&lines, "lines", "n", defaultLines, "lines from the end")
	return c
}

// logLine prints a line of the log, which is JSON already.
func (a *app) logLine(line string) error {
	if a.output == "table" || !json.Valid([]byte(line)) {
		_, err := fmt.Fprintln(a.stdout, Text(line))
		return err
	}
	return a.printItem(json.RawMessage(line), "", "")
}

func (a *app) tokenCmd() *cobra.Command {
	return &cobra.Command{Use: "token", Short: "Print the secret that remote clients present", Args: cobra.NoArgs,
		Long: `Print the secret that remote clients present. Whoever has it can act as you: do not put it
into a command line or a URL.

A daemon shows it at its own socket alone. Over SSH you come out there, so --host ssh://box
works; over TLS and the tailnet it is refused.`,
		Example: `  hanzoctl token
  hanzoctl token | ssh phone-gateway 'cat > ~/.hanzod-token'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.System.GetSharedSecret(ctx, &systemv1.GetSharedSecretRequest{})
				if err != nil {
					return err
				}
				if out.GetSecret() == "" {
					fmt.Fprintf(a.stderr, "there is no shared secret: auth mode is %s\n", Text(out.GetAuthMode()))
				}
				return a.printOne(out, "", Text(out.GetSecret()))
			})
		}}
}

// built is what this program was made from.
type built struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version of hanzoctl", Args: cobra.NoArgs,
		Example: `  hanzoctl version
  hanzoctl version -o json`,
		RunE: func(*cobra.Command, []string) error {
			b := built{Version: version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			b.Revision = revision
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						b.Revision = s.Value
					}
				}
			}
			return a.printOne(b, "", fmt.Sprintf("hanzoctl %s %s %s", b.Version, b.Go, b.Platform))
		}}
}

// release and revision are set by a build that knows better than the Go tool.
var release, revision string

// version is the version of the build, else that of the module, as the Go tool recorded it.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
