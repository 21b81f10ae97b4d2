package door

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// TestCarry opens carriers over gRPC, at the local socket and at the port for other machines.
func TestCarry(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	for name, o := range map[string]client.Options{
		"socket": {Socket: d.Socket()},
		"TLS":    {Host: d.Host(), Token: d.Token, TLSFingerprint: d.TLSFingerprint()},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			o.ClientName = "test"
			cl, err := client.Dial(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			for _, version := range []string{wire.V1, wire.V2} {
				c, err := cl.Carry(ctx, version)
				if err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(map[string]any{"version": version, "capabilities": []string{wire.Hanzod1}})
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Write(net.Buffers{wire.Append(nil, wire.Hello, 0, text)}); err != nil {
					t.Fatal(err)
				}
				m, err := c.Read(ctx)
				if err != nil || wire.Type(m[0]) != wire.HelloOK {
					t.Fatalf("the answer to HELLO is %q, %v", m, err)
				}
				if err := c.Close(1000, ""); err != nil {
					t.Error(err)
				}
			}
			// Another frame first, and a version that is none.
			c, err := cl.Carry(ctx, wire.V2)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Write(net.Buffers{wire.Append(nil, wire.Ping, 0, make([]byte, 8))}); err != nil {
				t.Fatal(err)
			}
			var closed *mux.CloseError
			if _, err := c.Read(ctx); !errors.As(err, &closed) || closed.Code != 1002 {
				t.Errorf("another frame first: %v", err)
			}
			var refused *client.Error
			if _, err := cl.Carry(ctx, "hoody-tunnel.v3"); !errors.As(err, &refused) || refused.Class != errs.Invalid {
				t.Errorf("another version: %v", err)
			}
		})
	}
	t.Run("stop", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cl, err := client.Dial(ctx, client.Options{Socket: d.Socket(), ClientName: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		c, err := cl.Carry(ctx, wire.V2)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(net.Buffers{wire.Append(nil, wire.Hello, 0, []byte(`{"version":"hoody-tunnel.v2","capabilities":[]}`))}); err != nil {
			t.Fatal(err)
		}
		if err := c.Write(net.Buffers{wire.Append(nil, wire.Ping, 0, make([]byte, 8))}); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error, 1)
		var told []wire.Type
		for {
			m, err := c.Read(ctx)
			if err != nil {
				var closed *mux.CloseError
				if !errors.As(err, &closed) || closed.Code != 1001 {
					t.Errorf("after %v: %v", told, err)
				}
				break
			}
			told = append(told, wire.Type(m[0]))
			if wire.Type(m[0]) == wire.Pong {
				go func() { stopped <- d.Stop() }()
			}
		}
		if len(told) < 3 || told[len(told)-1] != wire.GoAway {
			t.Errorf("the daemon said %v", told)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// Who says that it ends is not waited for, however quickly its stream is gone then.
func TestCarryEnds(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cl, err := client.Dial(ctx, client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	hello := wire.Append(nil, wire.Hello, 0, []byte(`{"version":"`+wire.V1+`","capabilities":["`+wire.Hanzod1+`"]}`))
	for range 60 {
		c, err := cl.Carry(ctx, wire.V1)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(net.Buffers{bytes.Clone(hello)}); err != nil {
			t.Fatal(err)
		}
		if m, err := c.Read(ctx); err != nil || wire.Type(m[0]) != wire.HelloOK {
			t.Fatalf("the answer to HELLO is %q, %v", m, err)
		}
		if err := c.Close(1000, ""); err != nil {
			t.Fatal(err)
		}
	}
	out, err := cl.Tunnels.List(ctx, &tunnelv1.TunnelServiceListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if all := out.GetTunnels(); len(all) != 0 {
		t.Errorf("%d of 60 tunnels are still there: %v", len(all), all[0])
	}
}
