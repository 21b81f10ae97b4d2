package runtime

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/agent"
)

const (
	// maxSwarm bounds the instances of one process.
	maxSwarm = 1000
	// maxInstanceID bounds an instance id, in bytes: that of the door for links.
	maxInstanceID = 200
	// instanceHealthy is how long a link must have stood to make the pause after it the first again
	// (tunnel.md §7).
	instanceHealthy = 30 * time.Second
)

// instanceCaps are what the bridge says that it can (tunnel.md §1.3).
var instanceCaps = []string{"chat", "exec", "tools", "terminal"}

// capsOf adds to them that approvals of the server count here, which a machine that lets everything run need not say.
func capsOf(security string) []string {
	if security == "full" {
		return instanceCaps
	}
	return append(slices.Clone(instanceCaps), host.CapBinding)
}

// TunnelOptions make a node an instance of a relay (tunnel.md §1.15). What else it takes of NodeOptions: StateDir,
// Workspace, DisplayName, NodeID (before InstanceID), Token, Fingerprint, CAFile, AllowInsecure, Security, Ask,
// Current, Companion, Files.
type TunnelOptions struct {
	// URL is that of the link: ws(s)://[name:token@]host[:port]/v1/tunnel[?token=…].
	URL string
	// InstanceID is <short host name>-<pid> when empty, AppKind dev.
	InstanceID, AppKind string
	// Count is how many instances there are, 1 when zero; more than one have their number behind their id.
	Count int
	// NoReconnect ends when the link does.
	NoReconnect bool
}

// runInstances offers this machine as one or more instances until ctx ends.
func runInstances(ctx context.Context, o NodeOptions, log *slog.Logger) error {
	t := *o.Tunnel
	if t.Count == 0 {
		t.Count = 1
	}
	if t.Count < 0 || t.Count > maxSwarm {
		return errs.New(errs.Invalid, fmt.Sprintf("the number of instances is from 1 to %d, not %d", maxSwarm, t.Count))
	}
	if t.AppKind == "" {
		t.AppKind = "dev"
	}
	if o.NodeID != "" {
		t.InstanceID = o.NodeID
	}
	if t.InstanceID == "" {
		t.InstanceID = machineName() + "-" + strconv.Itoa(os.Getpid())
	}
	if len(t.InstanceID) > maxInstanceID-len("-1000") {
		return errs.New(errs.Invalid, "the instance id is too long")
	}
	if o.DisplayName == "" {
		user := os.Getenv("USER")
		if user == "" {
			user = "user"
		}
		o.DisplayName = user + "@" + machineName()
	}
	if o.Workspace == "" {
		var err error
		if o.Workspace, err = os.Getwd(); err != nil {
			return fmt.Errorf("where do commands run? Set WORKSPACE_DIR: %w", err)
		}
	}
	o.Workspace, _ = filepath.Abs(o.Workspace)             // fails as Getwd did, which is told by the first command
	_ = os.MkdirAll(o.Workspace, 0o700)                    // who opens it finds out
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil { // also one that nobody knows, in a container without a home
		dir, tempErr := os.MkdirTemp("", "hanzod-node-")
		if tempErr != nil {
			return fmt.Errorf("make the node's state directory: %w", err)
		}
		log.Warn("this instance keeps its state until it ends, because its directory cannot be made", "wanted", o.StateDir, "dir", dir, "err", err)
		defer os.RemoveAll(dir)
		o.StateDir = dir
	}
	if o.Security == "" && !saysPolicy(o) {
		log.Warn("everything that the relay asks for runs here, as with the agent bridge: there is no exec-approvals.json and no --security. Give it --security allowlist, or a file, to decide", "file", filepath.Join(o.StateDir, policyFileName))
		o.Security, o.Ask = "full", "off"
	}
	o.NoDevice, o.Tunnel = true, &t

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := nodeHost{o: o, log: log, now: o.Now}
	var wg sync.WaitGroup
	failures := make(chan error, t.Count)
	for i := range t.Count {
		id, said := t.InstanceID, log
		if t.Count > 1 {
			id += "-" + strconv.Itoa(i+1)
			said = log.With("instance", id)
		}
		n, d, err := first.instance(id, said)
		if err != nil {
			cancel()
			wg.Wait()
			return err
		}
		wg.Go(func() {
			defer n.close()
			if err := n.serveInstance(ctx, d); err != nil {
				failures <- err
				if errs.ClassOf(err) == errs.Invalid {
					cancel() // none of the others fares better
				}
			}
		})
	}
	log.Info("this machine is offered as an instance", "count", t.Count, "id", t.InstanceID, "kind", t.AppKind, "workspace", o.Workspace)
	wg.Wait()
	close(failures)
	return <-failures
}

// saysPolicy reports whether something but a flag says what may run here.
func saysPolicy(o NodeOptions) bool {
	if _, err := os.Stat(filepath.Join(o.StateDir, policyFileName)); !errors.Is(err, os.ErrNotExist) {
		return true // also one that cannot be looked at
	}
	return o.Current != nil && o.Current().ExecPolicy("main").Security != ""
}

// instance makes one of them; its policy is that of the first.
func (n *nodeHost) instance(id string, log *slog.Logger) (*nodeHost, *hanzotunnel.Dialler, error) {
	o := n.o
	one := &nodeHost{o: o, cfg: &dial.NodeConfig{NodeID: id, DisplayName: o.DisplayName}, log: log, now: n.now, file: n.file}
	if one.now == nil {
		one.now = time.Now
	}
	tunnel, err := instanceTLS(o.CAFile)
	if err != nil {
		return nil, nil, err
	}
	u, err := url.Parse(o.Tunnel.URL)
	insecure := o.AllowInsecure
	if err == nil && u.Scheme == "ws" && o.Token == "" && (u.User != nil || u.RawQuery != "") && !isLoopback(u.Hostname()) && !insecure {
		// Whoever wrote the token into an address that begins with ws:// has decided.
		log.Warn("the token in the address of the relay travels without TLS; use wss://", "host", u.Host)
		insecure = true
	}
	d, err := hanzotunnel.NewDialler(hanzotunnel.DialOptions{
		URL: o.Tunnel.URL, Token: o.Token, AllowInsecure: insecure, Fingerprint: o.Fingerprint, TLS: tunnel, Log: log,
		Carry: func(ctx context.Context, version string) (host.Carrier, error) {
			return carryTo(ctx, o.Tunnel.URL, o.Token, version, hoody.DialOptions{AllowInsecure: insecure, Fingerprint: o.Fingerprint, TLS: tunnel})
		},
		Technician: one.frames,
		Instance: hanzotunnel.Instance{
			ID: id, AppKind: o.Tunnel.AppKind, DisplayName: o.DisplayName, Version: Version, Platform: agent.BridgePlatform(), Cwd: o.Workspace,
			Capabilities: capsOf(o.Security),
		},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := one.open(); err != nil {
		return nil, nil, err
	}
	n.file, n.skills = one.file, one.skills
	return one, d, nil
}

// serveInstance keeps an instance linked until ctx ends.
func (n *nodeHost) serveInstance(ctx context.Context, c host.Connector) error {
	err := n.serveWith(ctx, host.ServeOptions{Connector: c, Healthy: instanceHealthy, Once: n.o.Tunnel.NoReconnect})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// instanceTLS trusts the certificates of a file alone; nil without one.
func instanceTLS(caFile string) (*tls.Config, error) {
	if caFile == "" {
		return nil, nil
	}
	roots, err := client.ReadRoots(caFile)
	if err != nil {
		return nil, permanent(err)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
