//go:build unix

package acceptance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// The suite of the instance half runs over a pipe in memory as over a WebSocket.
func TestH11(t *testing.T) {
	accept(t, "H11")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "OverEveryCarrier|SlowServer", "./compat/hanzotunnel")
	cmd.Dir = proc.Root(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, test := range []string{"TestInstanceOverEveryCarrier", "TestEventsWaitForASlowServer"} {
		for _, carrier := range []string{"memory", "websocket"} {
			if !strings.Contains(string(out), "--- PASS: "+test+"/"+carrier) {
				t.Errorf("%s did not run over %s:\n%s", test, carrier, out)
			}
		}
	}
}

// A hanzod is an instance of another one, with a token that stands elsewhere; its links are started and stopped by
// every door, and follow the configuration.
func TestH11Uplink(t *testing.T) {
	accept(t, "H11")
	hub := linkDaemon(t, nil)
	box := proc.Start(t, proc.Options{Env: []string{"HUB_TOKEN=" + proc.Token}, Config: object{
		"uplinks": object{"hub": object{
			"url": hub.WS() + "/v1/tunnel", "instanceId": "box-1", "appKind": "node",
			"token": object{"source": "env", "provider": "default", "id": "HUB_TOKEN"},
		}},
	}})
	g := hub.Client(t)
	connected := func(id string) bool {
		n, err := g.Nodes.GetNode(t.Context(), &nodesv1.GetNodeRequest{NodeId: id})
		return err == nil && n.GetNode().GetConnected()
	}
	proc.Until(t, "the box is a node of the hub", func() bool { return connected("box-1") })
	out, err := g.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: "box-1", Command: "status.get"})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := out.GetPayload().AsInterface().(map[string]any); got["status"] != "running" || got["pid"] != float64(box.PID()) {
		t.Errorf("status.get: %v", got)
	}

	ctl := func(want int, args ...string) string {
		t.Helper()
		c := box.Ctl(args...).Wait(t, 30*time.Second)
		if c.Code != want {
			t.Errorf("hanzoctl %s ended with %d:\n%s%s", strings.Join(args, " "), c.Code, c.Stdout, c.Stderr)
		}
		return c.Stdout.String()
	}
	if text := ctl(0, "uplinks", "list"); !strings.Contains(text, "hub") || !strings.Contains(text, "connected") || strings.Contains(text, proc.Token) {
		t.Errorf("uplinks list:\n%s", text)
	}
	ctl(0, "uplinks", "stop", "hub")
	proc.Until(t, "the box is gone from the hub", func() bool { return !connected("box-1") })
	if text := ctl(0, "uplinks", "status", "hub"); !strings.Contains(text, "stopped") {
		t.Errorf("uplinks status: %s", text)
	}
	ctl(0, "uplinks", "start", "hub")
	proc.Until(t, "the box is back", func() bool { return connected("box-1") })
	ctl(66, "uplinks", "start", "nothing")

	req, err := http.NewRequestWithContext(t.Context(), "GET", box.URL()+"/v1/uplinks", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+proc.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var list struct {
		Uplinks []struct{ Name, Phase, InstanceID string }
	}
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || len(list.Uplinks) != 1 || list.Uplinks[0].Phase != "UPLINK_PHASE_CONNECTED" {
		t.Errorf("GET /v1/uplinks: %+v %v", list, err)
	}

	ctl(0, "config", "set", "uplinks.hub.instanceId", "box-2")
	proc.Until(t, "the box goes by its new name", func() bool { return connected("box-2") && !connected("box-1") })
	ctl(0, "config", "set", "uplinks.hub.enabled", "false")
	proc.Until(t, "the uplink is off", func() bool { return !connected("box-2") })
	if strings.Contains(box.Stderr.String(), proc.Token) {
		t.Error("the log holds the token")
	}
}

// A node dials over TLS with an authority of its own, and refuses another name and another authority.
func TestH29Node(t *testing.T) {
	accept(t, "H29")
	ca, cert, key := certificates(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
	})
	instance(t, "TUNNEL_URL="+r.url, "INSTANCE_ID=secure", "HANZOD_TLS_CA_PATH="+ca)
	r.next(20 * time.Second).registered()

	for what, env := range map[string][]string{
		"an unknown authority": {"TUNNEL_URL=" + r.url},
		"another name":         {"TUNNEL_URL=" + strings.Replace(r.url, "127.0.0.1", "localhost", 1), "HANZOD_TLS_CA_PATH=" + ca},
		"another fingerprint":  {"TUNNEL_URL=" + r.url, "HANZOD_TLS_FINGERPRINT=" + strings.Repeat("ab", 32)},
	} {
		node := instance(t, env...)
		proc.Until(t, what+" is refused", func() bool {
			return strings.Contains(node.Stderr.String(), "certificate")
		})
	}
	select {
	case <-r.conns:
		t.Error("a server that cannot be trusted was spoken to")
	default:
	}
}

// No overlay network is linked into what is shipped.
func TestH31(t *testing.T) {
	accept(t, "H31")
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/...")
	cmd.Dir = proc.Root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "github.com/hanzoai/hanzod/runtime\n") {
		t.Fatalf("that is no list of packages: %.200s", out)
	}
	for _, name := range []string{"tailscale", "openziti", "zerotier", "wireguard", "netbird", "nebula", "netmaker", "yggdrasil", "libp2p", "istio", "linkerd", "consul"} {
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, name) {
				t.Errorf("the default build holds %s (only builds with the tag tailnet may)", line)
			}
		}
	}
}

// Reconnecting, TLS and the announcement are switches.
func TestH33(t *testing.T) {
	accept(t, "H33")
	bin := proc.Build(t, "hanzod", proc.Tested)
	for what, start := range map[string]func(string) *proc.Command{
		"the flag": func(url string) *proc.Command {
			return proc.Run(t, proc.Dir(t), bin, []string{"TUNNEL_URL=" + url}, "node", "--no-reconnect")
		},
		"the variable": func(url string) *proc.Command { return instance(t, "TUNNEL_URL="+url, "HANZOD_RECONNECT=false") },
	} {
		r := newRelay(t, nil)
		node := start(r.url)
		c := r.next(20 * time.Second)
		c.registered()
		_ = c.ws.Close(websocket.StatusGoingAway, "bye")
		if node.Wait(t, 10*time.Second); node.Code == 0 {
			t.Errorf("without reconnecting by %s it ended with 0", what)
		}
		select {
		case <-r.conns:
			t.Errorf("%s changes nothing", what)
		default:
		}
	}
	r := newRelay(t, nil)
	on := instance(t, "TUNNEL_URL="+r.url)
	c := r.next(20 * time.Second)
	c.registered()
	_ = c.ws.Close(websocket.StatusGoingAway, "bye")
	r.next(10 * time.Second).registered()
	on.Signal(syscall.SIGTERM)

	help := proc.Run(t, proc.Dir(t), bin, nil, "help", "environment").Wait(t, 20*time.Second).Stdout.String()
	for _, name := range []string{"HANZOD_RECONNECT", "HANZOD_TLS_CA_PATH", "HANZOD_TLS_FINGERPRINT", "HANZOD_DISABLE_MDNS", "TUNNEL_URL", "INSTANCE_ID", "APP_KIND", "WORKSPACE_DIR", "S3_BUCKET"} {
		if !strings.Contains(help, name) {
			t.Errorf("hanzod help environment does not know %s", name)
		}
	}
	keys, err := os.ReadFile(filepath.Join(proc.Root(t), "config", "schema", "keys.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"  reconnect bool", "  caFile string", "mdns"} {
		if !strings.Contains(string(keys), key) {
			t.Errorf("the configuration does not describe %s", key)
		}
	}
}
