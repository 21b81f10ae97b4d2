//go:build tailnet

package tailnet

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/netns"
	"tailscale.com/net/stun/stuntest"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/types/nettype"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/tailnet"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// patience is for what takes a second on an idle machine.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	netns.SetEnabled(false) // everything is on loopback
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// control is a tailnet.
type control struct {
	*testcontrol.Server
	url string
}

func startControl(t *testing.T, change func(*testcontrol.Server)) control {
	t.Helper()
	d := derpserver.New(key.NewNode(), logger.Discard)
	relay := httptest.NewUnstartedServer(derpserver.AddWebSocketSupport(d, derpserver.Handler(d)))
	relay.Config.ErrorLog = log.New(io.Discard, "", 0)
	relay.Config.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler))
	relay.StartTLS()
	stun, stopStun := stuntest.ServeWithPacketListener(t, nettype.Std{})
	c := &testcontrol.Server{
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {
			RegionID: 1, RegionCode: "test",
			Nodes: []*tailcfg.DERPNode{{
				Name: "t1", RegionID: 1, HostName: "127.0.0.1", IPv4: "127.0.0.1", IPv6: "none",
				STUNPort: stun.Port, DERPPort: relay.Listener.Addr().(*net.TCPAddr).Port, InsecureForTests: true, STUNTestIP: "127.0.0.1",
			}},
		}}},
		DNSConfig: &tailcfg.DNSConfig{Proxied: true}, MagicDNSDomain: "tail1.ts.net", Logf: logger.Discard, AllOnline: true,
		TagOwners: map[string][]string{"tag:ci": {"tag:ci"}, "tag:node": {"tag:node"}},
	}
	if change != nil {
		change(c)
	}
	c.HTTPTestServer = httptest.NewUnstartedServer(c)
	c.HTTPTestServer.Start()
	t.Cleanup(func() {
		c.HTTPTestServer.CloseClientConnections()
		c.HTTPTestServer.Close()
		relay.CloseClientConnections()
		relay.Close()
		_ = d.Close()
		stopStun()
	})
	return control{c, c.HTTPTestServer.URL}
}

// login is that of the n-th machine that registered.
func login(n int) string { return "user-" + strconv.Itoa(n) + "@fake-control.example.net" }

func grant(who string, names []string, role string, scopes ...string) map[string]any {
	g := map[string]any{who: names, "role": role}
	if len(scopes) > 0 {
		g["scopes"] = scopes
	}
	return g
}

// daemon starts a daemon that is box on the tailnet.
func (c control) daemon(t *testing.T, o hanzodtest.Options, grants ...map[string]any) *hanzodtest.Daemon {
	t.Helper()
	return hanzodtest.Start(t, c.options(o, grants...))
}

func (c control) options(o hanzodtest.Options, grants ...map[string]any) hanzodtest.Options {
	list := []any{}
	for _, g := range grants {
		list = append(list, g)
	}
	o.Config = map[string]any{"gateway": map[string]any{
		"auth":    map[string]any{"mode": "token", "token": hanzodtest.Token},
		"tailnet": map[string]any{"enabled": true, "hostname": "box", "controlUrl": c.url, "grants": list},
	}, "logging": map[string]any{"level": "debug", "consoleLevel": "debug"}}
	return o
}

// until waits for something to hold.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func onTailnet(t *testing.T, d *hanzodtest.Daemon) {
	t.Helper()
	until(t, "the daemon is on the tailnet", func() bool { return d.TailnetName() != "" })
}

// machine joins the tailnet as another machine and returns its way to box.
func (c control) machine(t *testing.T, name string, tags ...string) *tailnet.Host {
	t.Helper()
	h, err := c.connect(t, name, t.TempDir(), tags...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (c control) connect(t *testing.T, name, dir string, tags ...string) (*tailnet.Host, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h, err := tailnet.Connect(ctx, tailnet.Options{
		Address: "tailnet://box", Socket: filepath.Join(dir, "no-service"), Progress: func(line string) { t.Log(name + ": " + line) },
		Own: tailnet.MachineOptions{StateDir: filepath.Join(dir, "machine"), Name: name, ControlURL: c.url, Tags: tags, AuthKey: os.Getenv("TS_AUTHKEY")},
	})
	if err == nil {
		t.Cleanup(func() { _ = h.Close() })
	}
	return h, err
}

// lent is a way whose machine others use too.
type lent struct{ *tailnet.Host }

func (lent) Close() error { return nil }

func dialed(t *testing.T, h *tailnet.Host, asNode bool) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Via: lent{h}, AsNode: asNode, ClientName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func contains(t *testing.T, what, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%s: %q does not say %q", what, text, part)
	}
}
