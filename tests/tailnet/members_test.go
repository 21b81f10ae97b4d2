//go:build tailnet

package tailnet

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/tailnet"
	"github.com/hanzoai/hanzod/compat/dial"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// Who is calling is who the tailnet says, and may what the configuration gives to that login or tag.
func TestMembers(t *testing.T) {
	c := startControl(t, nil)
	d := c.daemon(t, hanzodtest.Options{},
		grant("users", []string{login(2)}, "operator", "operator.read"),
		grant("users", []string{strings.ToUpper(login(3))}, "operator", "operator.admin"),
		grant("tags", []string{"tag:ci"}, "operator", "operator.read", "operator.write"),
		grant("tags", []string{"tag:node"}, "node"),
	)
	onTailnet(t, d)
	reader := c.machine(t, "reader")
	admin := c.machine(t, "admin")
	nobody := c.machine(t, "nobody")
	ci := c.machine(t, "ci", "tag:ci")
	node := c.machine(t, "node", "tag:node")

	t.Run("scopes", func(t *testing.T) {
		for _, x := range []struct {
			name          string
			host          *tailnet.Host
			read, pairing bool
		}{{"reader", reader, true, false}, {"admin", admin, true, true}, {"ci", ci, true, false}, {"nobody", nobody, false, false}, {"node", node, false, false}} {
			cl := dialed(t, x.host, false)
			_, err := cl.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
			if (err == nil) != x.read {
				t.Errorf("%s reads: %v", x.name, err)
			}
			_, err = cl.Devices.CreateInvite(t.Context(), &devicesv1.CreateInviteRequest{Role: "operator", Scopes: []string{"operator.read"}})
			if (err == nil) != x.pairing {
				t.Errorf("%s invites: %v", x.name, err)
			}
			if _, err = cl.System.GetSharedSecret(t.Context(), &systemv1.GetSharedSecretRequest{}); err == nil {
				t.Errorf("%s is shown the shared secret", x.name)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		_, err := dialed(t, nobody, false).System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
		e, ok := errors.AsType[*client.Error](err)
		if !ok || e.Code != identity.ErrMember.Code || e.Class != client.Denied {
			t.Fatalf("%#v", err)
		}
		contains(t, "the refusal", e.Message, login(4))
		contains(t, "the refusal", e.Message, "gateway.tailnet.grants")
		for name, h := range map[string]*tailnet.Host{"admin": admin, "ci": ci} {
			_, err = dialed(t, h, true).System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
			if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != identity.ErrMember.Code {
				t.Errorf("%s as a node: %v", name, err)
			}
		}
	})
	t.Run("node", func(t *testing.T) {
		if _, err := dialed(t, node, true).AttachNode(t.Context(), nodeOptions(nil)); err == nil {
			t.Error("a node without a device is let in")
		}
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		l, err := dialed(t, node, false).AttachNode(t.Context(), nodeOptions(dial.NewIdentity(private)))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.Welcome().GetNodeId() != dial.NewIdentity(private).ID {
			t.Errorf("the node is %s", l.Welcome().GetNodeId())
		}
		p, err := dialed(t, reader, false).System.ListPresence(t.Context(), &systemv1.ListPresenceRequest{})
		if err != nil {
			t.Fatal(err)
		}
		contains(t, "presence", p.String(), "worker (tag:node@node.tail1.ts.net)")
		if _, err := dialed(t, admin, true).AttachNode(t.Context(), nodeOptions(dial.NewIdentity(private))); err == nil {
			t.Error("an operator is let in as a node")
		}
	})
	t.Run("audit", func(t *testing.T) {
		out, err := dialed(t, admin, false).Audit.ListAudit(t.Context(), &auditv1.ListAuditRequest{})
		if err != nil {
			t.Fatal(err)
		}
		contains(t, "the audit log", out.String(), "tailnet:"+login(3))
	})
	t.Run("legacy", func(t *testing.T) { legacy(t, reader, nobody) })
	t.Run("rest", func(t *testing.T) { rest(t, d, reader, nobody) })
	t.Run("ports", func(t *testing.T) {
		if conn, err := admin.DialPort(t.Context(), 18789); err != nil {
			t.Error(err)
		} else {
			_ = conn.Close()
		}
		if _, err := dialTo(t, admin, "tailnet://box:18789"); err == nil {
			t.Error("what is no gRPC is taken for it")
		} else if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != tailnet.CodeOther {
			t.Errorf("%v", err)
		}
	})
	t.Run("changed", func(t *testing.T) { changed(t, c, ci) })
	t.Run("revoked", func(t *testing.T) { revoked(t, c, d, reader) })
}

func dialTo(t *testing.T, h *tailnet.Host, address string) (net.Conn, error) {
	t.Helper()
	o, err := h.Other(address)
	if err != nil {
		t.Fatal(err)
	}
	return o.Dial(t.Context())
}

func nodeOptions(id *dial.Identity) client.NodeOptions {
	o := client.NodeOptions{Registration: &nodesv1.NodeRegistration{
		InstanceId: "worker", ClientId: "node-host", ClientMode: "node", DisplayName: "worker", Version: "1", Platform: "linux", Commands: []string{"system.run"},
	}, OnInvoke: func(*client.NodeLink, *nodesv1.NodeInvoke) {}}
	if id != nil {
		o.Prove = func(nonce string) (*nodesv1.DeviceProof, error) {
			at := time.Now()
			s := identity.Signed{
				DeviceID: id.ID, ClientID: "node-host", ClientMode: "node", Role: identity.RoleNode, SignedAt: at.UnixMilli(), Nonce: nonce, Platform: "linux",
			}
			return &nodesv1.DeviceProof{
				DeviceId: id.ID, PublicKey: id.PublicKey(), Signature: id.Sign(s.Payload("v3")), SignedAt: timestamppb.New(time.UnixMilli(at.UnixMilli())), Nonce: nonce,
			}, nil
		}
	}
	return o
}

// local serves a port of box on loopback, for clients that dial by themselves.
func local(t *testing.T, h *tailnet.Host, port int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := h.DialPort(context.Background(), port)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return l.Addr().String()
}

func operator(scopes ...identity.Scope) dial.Options {
	return dial.Options{Client: dial.Client{ID: "cli", Mode: "cli", Platform: "linux"}, Scopes: scopes}
}

// The older door knows the login too, cuts scopes to the mapping, and knows nobody behind a web page.
func legacy(t *testing.T, reader, nobody *tailnet.Host) {
	o := operator(identity.ScopeAdmin)
	o.URL = "ws://" + local(t, reader, 18789)
	conn, err := dial.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Call(t.Context(), "health", nil); err != nil {
		t.Error(err)
	}
	if _, err := conn.Call(t.Context(), "device.pair.list", nil); err == nil {
		t.Error("a reader sees who waits to be paired")
	}
	// Credentials of another door add nothing.
	o.Auth.Token = hanzodtest.Token
	with, err := dial.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer with.Close()
	if _, err := with.Call(t.Context(), "device.pair.list", nil); err == nil {
		t.Error("the shared secret gives more than the mapping")
	}
	page := operator(identity.ScopeRead)
	page.URL, page.Header = o.URL, http.Header{"Origin": {"http://box.tail1.ts.net:18789"}}
	if conn, err := dial.Dial(t.Context(), page); err == nil {
		_ = conn.Close()
		t.Error("a web page is let in with the identity of its reader")
	}
	o.URL = "ws://" + local(t, nobody, 18789)
	_, err = dial.Dial(t.Context(), o) // the right token does not help
	refused, ok := errors.AsType[*dial.RefusedError](err)
	if !ok {
		t.Fatalf("%v", err)
	}
	contains(t, "the refusal", refused.Message, login(4))
}

// REST takes the login for a request that no web page can make, and for no other.
func rest(t *testing.T, d *hanzodtest.Daemon, reader, nobody *tailnet.Host) {
	ask := func(h *tailnet.Host, host string, header ...string) (int, string) {
		t.Helper()
		conn, err := h.DialPort(t.Context(), 18789)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET /v1/nodes HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", host, strings.Join(append(header, ""), "\r\n"))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	const by = "Sec-Hanzo-Identity: tailnet"
	for _, x := range []struct {
		name, host string
		header     []string
		want       int
	}{
		{"short name", "box:18789", []string{by}, 200},
		{"full name", "box.tail1.ts.net", []string{by}, 200},
		{"address", "100.64.0.1:18789", []string{by}, 200},
		{"without the header", "box", nil, 401},
		{"a name that leads here", "evil.example", []string{by}, 421},
		{"a page", "box", []string{by, "Origin: http://box"}, 401},
		{"another page", "box", []string{by, "Origin: http://evil.example"}, 403},
		{"who claims to be somebody", "box", []string{"Tailscale-User-Login: " + login(3), "X-Forwarded-For: 100.64.0.3"}, 401},
		{"the shared secret", "box", []string{"Authorization: Bearer " + hanzodtest.Token}, 200},
		{"a wrong secret", "box", []string{by, "Authorization: Bearer wrong"}, 401},
	} {
		if got, body := ask(reader, x.host, x.header...); got != x.want {
			t.Errorf("%s: %d %s", x.name, got, body)
		}
	}
	if got, body := ask(nobody, "box", by); got != 403 || !strings.Contains(body, login(4)) {
		t.Errorf("nobody: %d %s", got, body)
	}
	if got, _ := ask(nobody, "box", "Authorization: Bearer "+hanzodtest.Token); got != 403 {
		t.Errorf("nobody with the shared secret: %d", got)
	}
	// Elsewhere the header means nothing.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL()+"/v1/nodes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Hanzo-Identity", "tailnet")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("on loopback: %d", resp.StatusCode)
	}
}

// What a machine may changes while it is connected: its streams end, and it is told why.
func changed(t *testing.T, c control, ci *tailnet.Host) {
	cl := dialed(t, ci, false)
	watch, err := cl.Nodes.WatchNodes(t.Context(), &nodesv1.WatchNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.AllNodes() {
		if strings.HasPrefix(n.Name, "ci.") {
			n.Tags = []string{"tag:other"}
			c.UpdateNode(n)
		}
	}
	began := time.Now()
	_, err = watch.Recv()
	for err == nil { // what it had still to be told
		_, err = watch.Recv()
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the stream ended after %s", took)
	}
	_, err = cl.System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != identity.ErrMember.Code {
		t.Fatalf("%v", err)
	}
	contains(t, "the refusal", e.Message, "tag:other@ci.tail1.ts.net")
}

// Whom the tailnet does not know any more is cut off, and not let in again.
func revoked(t *testing.T, c control, d *hanzodtest.Daemon, reader *tailnet.Host) {
	cl := dialed(t, reader, false)
	if _, err := cl.System.GetHealth(t.Context(), &systemv1.GetHealthRequest{}); err != nil {
		t.Fatal(err)
	}
	o := operator(identity.ScopeRead)
	o.URL, o.Client.ID, o.Client.Mode = "ws://"+local(t, reader, 18789), "gateway-client", "backend"
	conn, err := dial.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	until(t, "presence names the login", func() bool { return strings.Contains(presence(t, d), login(2)) })
	var box key.NodePublic
	var id tailcfg.NodeID
	for _, n := range c.AllNodes() {
		switch {
		case strings.HasPrefix(n.Name, "box."):
			box = n.Key
		case strings.HasPrefix(n.Name, "reader."):
			id = n.ID
		}
	}
	began := time.Now()
	if !c.AddRawMapResponse(box, &tailcfg.MapResponse{PeersRemoved: []tailcfg.NodeID{id}}) {
		t.Fatal("the daemon does not listen to the control server")
	}
	until(t, "the log says that the connection ended", func() bool {
		return strings.Contains(d.LogText(), `"was":"`+login(2))
	})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	} else {
		t.Logf("cut off after %s", took.Round(10*time.Millisecond))
	}
	until(t, "nothing of the reader is connected", func() bool {
		return strings.Contains(d.Summary(), " 0 clients,")
	})
	// It does not get in again: the tailnet carries nothing from it, and would not say who it is.
	again, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := cl.System.GetHealth(again, &systemv1.GetHealthRequest{}); err == nil {
		t.Error("who was removed is answered")
	}
}

func presence(t *testing.T, d *hanzodtest.Daemon) string {
	t.Helper()
	cl, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	out, err := cl.System.ListPresence(t.Context(), &systemv1.ListPresenceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
