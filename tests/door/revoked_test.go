package door

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tunnel/driver"
)

// TestExposuresEndWithTheirOperator: what an operator's device exposed of a node, and what it reaches there, ends
// with its credential: visitors are closed, ports too, and the streams on the carrier of the node are reset. What
// somebody else exposed stays.
func TestExposuresEndWithTheirOperator(t *testing.T) {
	t.Parallel()
	w := &tunnelWorld{terminalWorld: terminalWorldOf(t, hanzodtest.Options{GRPC: true}), echo: echoes(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	expose := func(c *client.Client, name string) *tunnelv1.Binding {
		t.Helper()
		out, err := c.Tunnels.CreateBinding(ctx, &tunnelv1.CreateBindingRequest{
			NodeId: w.node, Target: w.echo, Kind: tunnelv1.BindingKind_BINDING_KIND_TCP, Access: tunnelv1.BindingAccess_BINDING_ACCESS_PUBLIC, Name: name,
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetBinding()
	}
	kept := expose(w.c, "kept")
	stays := w.visit(int(kept.GetPort()))
	for name, end := range map[string]func(id string) error{
		"removed": func(id string) error {
			_, err := w.c.Devices.RemoveDevice(ctx, &devicesv1.RemoveDeviceRequest{DeviceId: id})
			return err
		},
		"revoked": func(id string) error {
			_, err := w.c.Devices.RevokeToken(ctx, &devicesv1.RevokeTokenRequest{DeviceId: id, Role: "operator"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			device, id := w.operator(ctx, name)
			made := expose(device, name)
			visitor := w.visit(int(made.GetPort()))
			s, err := device.Tunnel(ctx, driver.Options{Grace: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, port, _ := net.SplitHostPort(w.echo)
			number, _ := strconv.Atoi(port)
			d, err := s.DialBinding(ctx, driver.DialIn{Node: w.node, Host: "127.0.0.1", Port: number})
			if err != nil {
				t.Fatal(err)
			}
			far, err := d.DialContext(ctx, "tcp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			_ = far.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(far, "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if n := w.streamsOfNode(); n != 3 {
				t.Fatalf("the node has %d streams", n)
			}
			if err := end(id); err != nil {
				t.Fatal(err)
			}
			for what, c := range map[string]net.Conn{"a visitor": visitor, "a way": far} {
				_ = c.SetReadDeadline(time.Now().Add(patience))
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s is open after its credential has ended: %v", what, err)
				}
			}
			w.within("the binding is gone", func() bool {
				out, err := w.c.Tunnels.ListBindings(ctx, &tunnelv1.ListBindingsRequest{NodeId: w.node})
				return err == nil && len(out.GetBindings()) == 1 && out.GetBindings()[0].GetBindingId() == kept.GetBindingId()
			})
			if c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(made.GetPort())))); err == nil {
				_ = c.Close()
				t.Error("the port is open")
			}
			w.within("the streams at the node are reset", func() bool { return w.streamsOfNode() == 1 })
			if _, err := device.Tunnels.CreateBinding(ctx, &tunnelv1.CreateBindingRequest{NodeId: w.node, Target: w.echo}); err == nil {
				t.Error("it exposes again")
			}
		})
	}
	if _, err := io.WriteString(stays, "still\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stays, make([]byte, 6)); err != nil {
		t.Errorf("what another operator exposed has ended: %v", err)
	}
}

// operator is a device that was let in as one, over TLS.
func (w *tunnelWorld) operator(ctx context.Context, name string) (*client.Client, string) {
	w.t.Helper()
	inv, err := w.c.Devices.CreateInvite(ctx, &devicesv1.CreateInviteRequest{Role: "operator", Scopes: []string{"operator.admin"}})
	if err != nil {
		w.t.Fatal(err)
	}
	code, err := client.ParseInvite(inv.GetCode())
	if err != nil {
		w.t.Fatal(err)
	}
	k := newDeviceKey(name)
	e, err := client.Enroll(ctx, code, k, client.Machine{Name: name, Platform: "linux"}, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := client.Dial(ctx, client.Options{Host: w.d.Host(), TLSFingerprint: w.d.TLSFingerprint(), Token: e.Token})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c, k.id
}

// streamsOfNode is how many streams the carriers of the node have.
func (w *tunnelWorld) streamsOfNode() int {
	w.t.Helper()
	out, err := w.c.Tunnels.List(w.t.Context(), &tunnelv1.TunnelServiceListRequest{NodeId: w.node})
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, t := range out.GetTunnels() {
		n += int(t.GetActiveStreams())
	}
	return n
}
