package runtime

import (
	"context"
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

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/runtime/logs"
)

// NodeOptions describe a node host: this machine, offered to a gateway.
type NodeOptions struct {
	// StateDir keeps the node's identity, its configuration and its exec approvals file.
	StateDir string
	// Host, Port, TLS and Fingerprint name the gateway; empty ones are those of the last start, then
	// 127.0.0.1 and 18789.
	Host        string
	Port        int
	TLS         bool
	Fingerprint string
	// AllowInsecure lets secrets travel to another machine without TLS.
	AllowInsecure bool
	// DisplayName and NodeID replace the stored ones when not empty.
	DisplayName string
	NodeID      string
	// Security and Ask are the policy where the exec approvals file says nothing: allowlist and
	// on-miss when empty.
	Security string
	Ask      string
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
}

// nodeFile is the configuration of a node host in its state directory.
const nodeFile = "node.json"

// RunNode offers this machine to a gateway until ctx ends.
func RunNode(ctx context.Context, o NodeOptions) error {
	log, _, err := logs.New(logs.Options{Console: o.Console, ConsoleLevel: o.LogLevel, Style: o.LogStyle})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("make the node's state directory: %w", err)
	}
	path := filepath.Join(o.StateDir, nodeFile)
	cfg, err := dial.LoadOrCreateNodeConfig(path)
	if err != nil {
		return err
	}
	changed := merge(cfg, o)
	scheme := "ws"
	if cfg.Gateway.TLS {
		scheme = "wss"
	}
	url := scheme + "://" + net.JoinHostPort(cfg.Gateway.Host, strconv.Itoa(cfg.Gateway.Port))
	// What cannot be right is not stored: the next start without flags would fail over it.
	if err := (dial.Options{URL: url, AllowInsecure: o.AllowInsecure, TLSFingerprint: cfg.Gateway.TLSFingerprint}).Check(); err != nil {
		return err
	}
	if changed {
		if err := cfg.Save(path); err != nil {
			return err
		}
	}
	file, err := nodePolicy(filepath.Join(o.StateDir, policyFileName), o, log)
	if err != nil {
		return err
	}
	log.Info("this machine is offered as a node", "gateway", url, "name", cfg.DisplayName, "policy", file.Path())
	return connectNode(ctx, o, cfg, url, file, log)
}

// merge brings what the command line says into the stored configuration and reports whether it
// changed.
func merge(cfg *dial.NodeConfig, o NodeOptions) bool {
	was := *cfg
	gw := dial.GatewayAddr{Host: "127.0.0.1", Port: 18789}
	if cfg.Gateway != nil {
		gw = *cfg.Gateway
	}
	if o.Host != "" {
		// Another gateway has another certificate.
		gw.Host, gw.TLS, gw.TLSFingerprint = o.Host, false, ""
	}
	if o.Port != 0 {
		gw.Port = o.Port
	}
	if o.TLS || o.Fingerprint != "" {
		gw.TLS = true
	}
	if o.Fingerprint != "" {
		gw.TLSFingerprint = o.Fingerprint
	}
	changed := cfg.Gateway == nil || *cfg.Gateway != gw
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
	return changed || was.NodeID != cfg.NodeID || was.DisplayName != cfg.DisplayName
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

func nodePolicy(path string, o NodeOptions, log *slog.Logger) (*policy.File, error) {
	sec, ok := securities[o.Security]
	if !ok {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("security must be deny, allowlist or full, not %q", o.Security))
	}
	ask, ok := asks[o.Ask]
	if !ok {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("ask must be off, on-miss or always, not %q", o.Ask))
	}
	return policy.Open(path, policy.Options{
		Log: log, Defaults: policy.Overrides{Security: sec, Ask: ask},
	}), nil
}

// gatewaySecrets are the variables in which this process may be handed the secrets of a gateway.
// Operators with fewer rights than those secrets give may read what a command prints.
var gatewaySecrets = []string{
	"HANZOD_TOKEN", "OPENCLAW_GATEWAY_TOKEN", "BOT_GATEWAY_TOKEN",
	"HANZOD_PASSWORD", "OPENCLAW_GATEWAY_PASSWORD", "BOT_GATEWAY_PASSWORD",
	"HANZOD_APNS_PRIVATE_KEY_P8", "HANZOD_APNS_PRIVATE_KEY", "OPENCLAW_APNS_PRIVATE_KEY_P8", "OPENCLAW_APNS_PRIVATE_KEY",
}

// runEnv is the environment that commands on this machine begin with: that of this process without
// the secrets of the gateway.
func runEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(gatewaySecrets, strings.ToUpper(name))
	})
}

func connectNode(ctx context.Context, o NodeOptions, cfg *dial.NodeConfig, url string, file *policy.File, log *slog.Logger) error {
	opts := dial.NodeOptions{
		Host: host.New(host.Config{Policy: file, Env: runEnv, Log: log}), Log: log, OnState: o.OnState,
		Dial: dial.Options{
			URL: url, AllowInsecure: o.AllowInsecure, TLSFingerprint: cfg.Gateway.TLSFingerprint,
			Client: dial.Client{
				ID: "node-host", Mode: "node", Version: Version, DisplayName: cfg.DisplayName, InstanceID: cfg.NodeID,
			},
			Auth: dial.Auth{Token: o.Token, Password: o.Password},
		},
	}
	if !o.NoDevice {
		id, err := dial.LoadOrCreateIdentity(filepath.Join(o.StateDir, "identity", "device.json"))
		if err != nil {
			return err
		}
		opts.Dial.Device = id
		opts.Tokens = &dial.Tokens{Path: filepath.Join(o.StateDir, "identity", "device-auth.json"), DeviceID: id.ID}
	}
	err := dial.RunNode(ctx, opts)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// runNode runs the node host of this machine inside the daemon. It comes in by the front door like
// any other node, and shares the machine's exec approvals file.
func (d *Daemon) runNode(ctx context.Context) {
	dir := filepath.Join(d.cfg.StateDir, "node")
	log := d.subsystem("node")
	o := NodeOptions{
		StateDir: dir, Host: "127.0.0.1", Port: d.Port(),
		Security: d.cfg.Tools.Exec.Security, Ask: d.cfg.Tools.Exec.Ask,
	}
	if h, _, err := net.SplitHostPort(d.Addresses()[0]); err == nil && h != "0.0.0.0" && h != "::" {
		o.Host = h
	}
	switch d.identity.Mode() {
	case identity.AuthToken:
		o.Token = d.cfg.Gateway.Auth.Token.Reveal()
	case identity.AuthPassword:
		o.Password = d.cfg.Gateway.Auth.Password.Reveal()
	}
	if err := d.embedNode(ctx, o, log); err != nil && ctx.Err() == nil {
		log.Error("the node host of this machine stopped", "error", err)
	}
}

func (d *Daemon) embedNode(ctx context.Context, o NodeOptions, log *slog.Logger) error {
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return err
	}
	cfg, err := dial.LoadOrCreateNodeConfig(filepath.Join(o.StateDir, nodeFile))
	if err != nil {
		return err
	}
	merge(cfg, o)
	file, err := nodePolicy(filepath.Join(d.cfg.StateDir, policyFileName), o, log)
	if err != nil {
		return err
	}
	url := "ws://" + net.JoinHostPort(cfg.Gateway.Host, strconv.Itoa(cfg.Gateway.Port))
	// The address may be one of this machine that is not loopback; the packets do not leave it.
	o.AllowInsecure = true
	return connectNode(ctx, o, cfg, url, file, log)
}

// NodeName is what the node host in this daemon is called.
func (d *Daemon) NodeName() string {
	cfg, err := dial.LoadOrCreateNodeConfig(filepath.Join(d.cfg.StateDir, "node", nodeFile))
	if err == nil && cfg.DisplayName != "" {
		return cfg.DisplayName
	}
	return machineName()
}
