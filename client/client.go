// Package client talks to a running daemon: over its local socket, which needs no secret, or over
// TLS to another machine, with a token. hanzoctl is built on it, and so can other programs be.
//
// It imports gen, errs, gRPC and, on Windows, the named-pipe library. A Client owns the
// goroutines of its gRPC connection, and one while it asks the daemon for a sign of life, and ends them in
// Close.
package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/hanzoai/hanzod/errs"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	channelsv1 "github.com/hanzoai/hanzod/gen/hanzo/channels/v1"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	secretsv1 "github.com/hanzoai/hanzod/gen/hanzo/secrets/v1"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
	wizardv1 "github.com/hanzoai/hanzod/gen/hanzo/wizard/v1"
)

// Options say where the daemon is and who is asking.
type Options struct {
	// Socket is the daemon's socket; when empty, the one that Find finds.
	Socket string

	// Host is a daemon on another machine, hanzod://host[:port] as ParseHost takes it. Empty talks to
	// the socket; with it, Socket is not used and these fields are:
	Host string
	// TLSFingerprint pins the daemon's certificate by its SHA-256 (see ParseFingerprint). It replaces
	// the check of the chain: a pinned certificate may be self-signed, expired or of another name.
	TLSFingerprint string
	// Roots vouch for the daemon's certificate when it is not pinned; nil is the system's.
	Roots *x509.CertPool
	// Token is the daemon's shared secret, a device token or the secret of an invite; see ReadToken.
	// It is sent over TLS only, after the certificate was checked.
	Token string

	// Via reaches the daemon by a way of its own, such as SSH; Socket, Host and what belongs to Host are
	// not used then. Dial takes it over: Close of the client closes it.
	Via Way

	// AsNode asks for the role node, for a node that presents what would make it an operator: the
	// shared secret or the local socket. Every call of the client has that role then.
	AsNode bool
	// Now is the clock by which a sleep of the machine is noticed; time.Now when nil.
	Now func() time.Time
	// ClientName goes into the user agent, for the daemon's log. It decides nothing.
	ClientName string
}

// Way opens connections to one daemon other than by its local socket or TLS. The daemon knows the
// caller by where the connection comes out, so a call by a Way carries no token.
type Way interface {
	// Dial opens a connection to the daemon's gRPC door. An *Error of it reaches the caller of the
	// client's methods with its code and message, and class Denied when it has none of its own; any other
	// error becomes a *NotRunning that names Target. It may be called by several goroutines.
	Dial(ctx context.Context) (net.Conn, error)
	// Target names the daemon for people, such as ssh://alice@box; it holds no secret.
	Target() string
	// Close ends every connection and what carries them.
	Close() error
}

// Client is a connection to one daemon. Its service clients return *Error and *NotRunning. It is
// safe for concurrent use.
type Client struct {
	System    systemv1.SystemServiceClient
	Nodes     nodesv1.NodeServiceClient
	Approvals approvalsv1.ApprovalServiceClient
	Grants    approvalsv1.GrantServiceClient
	Policy    approvalsv1.PolicyServiceClient
	Devices   devicesv1.DeviceServiceClient
	Runs      runsv1.RunServiceClient
	Agents    agentsv1.AgentServiceClient
	Skills    agentsv1.SkillServiceClient
	Catalog   agentsv1.CatalogServiceClient
	Config    configv1.ConfigServiceClient
	Updates   updatev1.UpdateServiceClient
	Audit     auditv1.AuditServiceClient
	Cron      cronv1.CronServiceClient
	Channels  channelsv1.ChannelServiceClient
	Talk      talkv1.TalkServiceClient
	Secrets   secretsv1.SecretServiceClient
	Sessions  sessionsv1.SessionServiceClient
	Usage     sessionsv1.UsageServiceClient
	Wizard    wizardv1.WizardServiceClient
	Terminals tunnelv1.TerminalServiceClient
	// Technicians are technician sessions.
	Technicians tunnelv1.TechSessionServiceClient
	Screens     tunnelv1.ScreenServiceClient
	Files       tunnelv1.FileServiceClient
	// Checkpoints are of sessions of nodes.
	Checkpoints tunnelv1.CheckpointServiceClient
	Uplinks     tunnelv1.UplinkServiceClient
	Tunnels     tunnelv1.TunnelServiceClient
	Discovery   tunnelv1.DiscoveryServiceClient

	socket string
	remote *remote // nil for the local socket
	via    Way     // nil for both of them
	asNode bool
	conn   *grpc.ClientConn
	waker  *waker
}

// Dial prepares a connection. Nothing is sent, and a missing daemon goes unnoticed, until the
// first call; after a lost connection the next call dials again. It fails when an option cannot be
// right.
func Dial(_ context.Context, o Options) (*Client, error) {
	c := &Client{socket: o.Socket, via: o.Via, asNode: o.AsNode}
	c.waker = newWaker(o.Now, c.awake)
	attempt := dialTimeout
	if c.via != nil {
		attempt = wayTimeout
	}
	options := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := c.dial(ctx)
			if err != nil {
				return nil, err
			}
			return c.waker.track(conn), nil
		}),
		grpc.WithUserAgent(o.ClientName),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: redialFirst, Multiplier: 2, Jitter: 0.2, MaxDelay: redialMax},
			MinConnectTimeout: attempt,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingWait}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(c.unary),
		grpc.WithChainStreamInterceptor(c.stream),
	}
	if c.via != nil {
		c.socket = ""
		options = append(options, grpc.WithAuthority("hanzod"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	} else if o.Host != "" {
		r, cfg, err := newRemote(o)
		if err != nil {
			return nil, err
		}
		c.remote, c.socket = r, ""
		options = append(options, grpc.WithAuthority(r.address), grpc.WithPerRPCCredentials(r),
			grpc.WithTransportCredentials(&tlsCredentials{credentials.NewTLS(cfg), r}))
	} else {
		if c.socket == "" {
			found, err := Find(os.Getenv)
			if err != nil {
				return nil, err
			}
			c.socket = found.Socket
		}
		options = append(options, grpc.WithAuthority("hanzod"), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithInitialWindowSize(localWindow), grpc.WithInitialConnWindowSize(localWindow))
	}
	conn, err := grpc.NewClient("passthrough:///hanzod", options...)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to %s: %w", c.Target(), err)
	}
	c.conn = conn
	c.System = systemv1.NewSystemServiceClient(conn)
	c.Nodes = nodesv1.NewNodeServiceClient(conn)
	c.Approvals = approvalsv1.NewApprovalServiceClient(conn)
	c.Grants = approvalsv1.NewGrantServiceClient(conn)
	c.Policy = approvalsv1.NewPolicyServiceClient(conn)
	c.Devices = devicesv1.NewDeviceServiceClient(conn)
	c.Runs = runsv1.NewRunServiceClient(conn)
	c.Agents = agentsv1.NewAgentServiceClient(conn)
	c.Skills = agentsv1.NewSkillServiceClient(conn)
	c.Catalog = agentsv1.NewCatalogServiceClient(conn)
	c.Updates = updatev1.NewUpdateServiceClient(conn)
	c.Config = configv1.NewConfigServiceClient(conn)
	c.Cron = cronv1.NewCronServiceClient(conn)
	c.Channels = channelsv1.NewChannelServiceClient(conn)
	c.Talk = talkv1.NewTalkServiceClient(conn)
	c.Audit = auditv1.NewAuditServiceClient(conn)
	c.Secrets = secretsv1.NewSecretServiceClient(conn)
	c.Sessions = sessionsv1.NewSessionServiceClient(conn)
	c.Usage = sessionsv1.NewUsageServiceClient(conn)
	c.Wizard = wizardv1.NewWizardServiceClient(conn)
	c.Terminals = tunnelv1.NewTerminalServiceClient(conn)
	c.Technicians = tunnelv1.NewTechSessionServiceClient(conn)
	c.Screens = tunnelv1.NewScreenServiceClient(conn)
	c.Files = tunnelv1.NewFileServiceClient(conn)
	c.Checkpoints = tunnelv1.NewCheckpointServiceClient(conn)
	c.Uplinks = tunnelv1.NewUplinkServiceClient(conn)
	c.Tunnels = tunnelv1.NewTunnelServiceClient(conn)
	c.Discovery = tunnelv1.NewDiscoveryServiceClient(conn)
	return c, nil
}

// Socket is where the client looks for the daemon of this machine, "" when it talks to another one.
func (c *Client) Socket() string { return c.socket }

// Target is where the client looks for the daemon: a path, hanzod://host:port, or what its Way says.
func (c *Client) Target() string {
	switch {
	case c.via != nil:
		return c.via.Target()
	case c.remote != nil:
		return scheme + "://" + c.remote.address
	}
	return c.socket
}

// Close ends the connection. Calls under way fail.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.waker.close()
	if c.via != nil {
		err = errors.Join(err, c.via.Close())
	}
	return err
}

// dial opens the socket or the TCP connection. Its errors carry a mark by which translate knows,
// through gRPC's own wrapping, that the call was never sent.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.via != nil {
		conn, err := c.via.Dial(ctx)
		if e, ok := errors.AsType[*Error](err); ok {
			return nil, fmt.Errorf("%s%w", refusedMark, &refused{code: e.Code, class: e.Class, text: e.Message})
		}
		if err != nil {
			return nil, fmt.Errorf("%s%w", dialMark, err)
		}
		return conn, nil
	}
	if c.remote != nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", c.remote.address)
		if err != nil {
			return nil, fmt.Errorf("%s%w", dialMark, err)
		}
		return conn, nil
	}
	conn, err := dialSocket(ctx, c.socket)
	if foreign, ok := errors.AsType[*refused](err); ok {
		return nil, fmt.Errorf("%s%w", refusedMark, foreign)
	}
	if err != nil {
		return nil, fmt.Errorf("%s%w", dialMark, err)
	}
	return conn, nil
}

// DialSocket opens the local socket of a daemon, or its named pipe on Windows, after it has checked that
// neither belongs to somebody else; it is an *Error with CodeForeignSocket then. It is for programs that carry
// the bytes of others.
func DialSocket(ctx context.Context, path string) (net.Conn, error) {
	conn, err := dialSocket(ctx, path)
	if e, ok := errors.AsType[*refused](err); ok {
		return nil, &Error{Code: e.code, Class: errs.Denied, Message: e.text}
	}
	return conn, err
}

// roleHeader is where a caller asks for less than it is entitled to.
const roleHeader = "x-hanzo-role"

func (c *Client) role(ctx context.Context) context.Context {
	if !c.asNode {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, roleHeader, "node")
}

func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if ctx.Value(awakeKey{}) == nil {
		c.waker.begin()
		defer c.waker.end()
	}
	return c.translate(ctx, next(c.role(ctx), method, req, reply, cc, opts...))
}

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.waker.begin()
	s, err := next(c.role(ctx), desc, cc, method, opts...)
	if err != nil {
		c.waker.end()
		return nil, c.translate(ctx, err)
	}
	// A stream is over when reading it fails or its context ends: gRPC asks its users for one of the two.
	end := sync.OnceFunc(c.waker.end)
	stop := context.AfterFunc(ctx, end)
	return &clientStream{ClientStream: s, c: c, over: func() { stop(); end() }}, nil
}

type clientStream struct {
	grpc.ClientStream
	c    *Client
	over func()
}

func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.over()
	}
	return s.c.translate(s.Context(), err)
}
