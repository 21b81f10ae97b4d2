package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	hostscreens "github.com/hanzoai/hanzod/nodes/host/screens"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/screens"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// makeScreens makes the service of screens. The nodes are there, and nobody is connected yet.
func (d *Daemon) makeScreens() {
	d.screens = screens.New(screens.Config{
		Settings: func() screens.Settings {
			s := d.current().Tunnel.Screen
			return screens.Settings{Enabled: s.Enabled, Host: s.Host, Port: s.Port}
		},
		Nodes: ScreenNodes{
			Service: func() *nodes.Service { return d.nodes },
			Denied: func() bool {
				return slices.Contains(d.current().Gateway.Nodes.DenyCommands, screens.CommandCall)
			},
			Back:   d.callBack,
			Stream: d.screenStream,
		},
		Audit: func(ctx context.Context, r screens.Row) error {
			return d.store.AppendAudit(ctx, approvals.Audit{
				At: r.At, Kind: "screen." + r.Act, Subject: r.Subject, RequestID: r.ScreenID, NodeID: r.NodeID, Detail: r.Detail,
			})
		},
		Standing: d.identity.Standing, Base: d.base, Now: d.now, Log: d.subsystem("screens"),
	})
}

// callBack is where a node of the older kind comes back: what the configuration says, else where this daemon listens.
// No request has a say in it.
func (d *Daemon) callBack(n nodes.Node) string {
	base := d.current().Tunnel.Screen.URL
	if base == "" {
		base = "ws" + strings.TrimPrefix(d.base(), "http")
		if ip := net.ParseIP(n.RemoteIP); ip != nil && ip.IsLoopback() {
			scheme, _, _ := strings.Cut(base, "://")
			base = scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Port()))
		}
	}
	return base + screens.CallPath
}

// ScreenNodes are the nodes as screens see them.
type ScreenNodes struct {
	Service func() *nodes.Service
	// Denied says that the configuration takes the command of older nodes away.
	Denied func() bool
	// Back is where such a node comes back.
	Back func(nodes.Node) string
	// Stream reaches a port of a node by a carrier, for links that have no channels; nil does not.
	Stream func(ctx context.Context, c identity.Caller, nodeID, host string, port int) (screens.Pipe, error)
}

// Node implements screens.Nodes.
func (s ScreenNodes) Node(c identity.Caller, id string) (screens.Node, error) {
	out, err := s.Service().Describe(context.Background(), c, nodes.DescribeIn{NodeID: id})
	if err != nil {
		return screens.Node{}, err
	}
	return screens.Node{ID: out.Node.ID, Connected: out.Node.Connected, Commands: out.Node.Commands, Caps: out.Node.Caps, Denied: s.Denied()}, nil
}

// Open implements screens.Nodes.
func (s ScreenNodes) Open(ctx context.Context, c identity.Caller, nodeID string) (screens.Pipe, error) {
	ch, answer, err := s.Service().OpenChannel(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: screens.CommandOpen, Params: []byte("{}")})
	if errors.Is(err, nodes.ErrNoChannel) {
		return s.stream(ctx, c, nodeID)
	}
	if err != nil {
		return nil, err
	}
	if _, err := answer(ctx); err != nil {
		_ = ch.Close(err) // nobody reads it
		return nil, err
	}
	return ch, nil
}

// stream is Open for a link without channels: the node says where its VNC server is, and a carrier of it leads there,
// with all that tunnel.open takes.
func (s ScreenNodes) stream(ctx context.Context, c identity.Caller, nodeID string) (screens.Pipe, error) {
	if s.Stream == nil {
		return nil, screens.ErrNoChannel
	}
	out, err := s.Service().Invoke(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: screens.CommandOpen, Params: []byte(`{"stream":true}`)})
	if err != nil {
		return nil, err
	}
	var at struct {
		Host string
		Port int
	}
	if json.Unmarshal(out.Payload, &at) != nil || at.Port == 0 {
		return nil, screens.ErrNoChannel
	}
	return s.Stream(ctx, c, nodeID, at.Host, at.Port)
}

// screenStream reaches a port of a node by a carrier.
func (d *Daemon) screenStream(ctx context.Context, c identity.Caller, nodeID, host string, port int) (screens.Pipe, error) {
	g, err := d.tunnels.Grant(ctx, c, tunnels.GrantIn{NodeID: nodeID, Host: host, Port: port})
	if err != nil {
		return nil, err
	}
	st, err := g.Open(ctx, bindings.OpenIn{RemoteAddr: c.RemoteIP})
	if err != nil {
		_ = g.Close() // it cannot fail
		return nil, err
	}
	return screenStream{st, g}, nil
}

type screenStream struct {
	bindings.Stream
	g *tunnels.Grant
}

// Close implements screens.Pipe.
func (s screenStream) Close(error) error {
	_ = s.g.Close() // it cannot fail
	return s.Stream.Close()
}

// Call implements screens.Nodes.
func (s ScreenNodes) Call(ctx context.Context, nodeID, token string) (string, error) {
	out, err := s.Service().Describe(ctx, identity.Internal(), nodes.DescribeIn{NodeID: nodeID})
	if err != nil {
		return "UNAVAILABLE", err
	}
	params, err := json.Marshal(map[string]string{"tunnelId": token, "tunnelUrl": s.Back(out.Node) + "?tunnelId=" + url.QueryEscape(token)})
	if err != nil {
		return "UNAVAILABLE", err
	}
	_, err = s.Service().InvokeInternal(ctx, nodeID, screens.CommandCall, params)
	if err == nil {
		return "", nil
	}
	if e, ok := errs.As(err); ok {
		if failed, ok := e.Fields["nodeError"].(nodes.NodeError); ok && failed.Code != nil && *failed.Code != "" {
			return *failed.Code, err
		}
	}
	if errs.ClassOf(err) == errs.Deadline {
		return "TIMEOUT", err
	}
	return "UNAVAILABLE", err
}

// hostScreens is the screen of this machine, for a gateway: that of the VNC server that the node was started with.
func hostScreens(o NodeOptions, log *slog.Logger) (*hostscreens.Module, error) {
	address := o.VNC
	if address == "" && o.Current != nil {
		address = o.Current().NodeHost.Screen
	}
	if address != "" {
		host, port, ok := config.VNCAddress(address)
		if !ok {
			return nil, errs.New(errs.Invalid, "the VNC server must be host:port or a port, not "+strconv.Quote(address))
		}
		address = net.JoinHostPort(host, strconv.Itoa(port))
	}
	return hostscreens.New(hostscreens.Config{Address: address, Log: log}), nil
}
