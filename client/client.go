// Package client talks to a running daemon over its local socket. hanzoctl is built on it, and so
// can other programs be.
//
// It imports gen, errs, gRPC and, on Windows, the named-pipe library. A Client owns the
// goroutines of its gRPC connection and ends them in Close; the package starts none of its own.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// Options say where the daemon is and who is asking.
type Options struct {
	// Socket is the daemon's socket: SocketPath(DefaultStateDir(os.Getenv)) when empty.
	Socket string
	// ClientName goes into the user agent, for the daemon's log. It decides nothing.
	ClientName string
}

// Client is a connection to one daemon. Its service clients return *Error and *NotRunning. It is
// safe for concurrent use.
type Client struct {
	System    systemv1.SystemServiceClient
	Nodes     nodesv1.NodeServiceClient
	Approvals approvalsv1.ApprovalServiceClient

	socket string
	conn   *grpc.ClientConn
}

// Dial prepares a connection. Nothing is sent, and a missing daemon goes unnoticed, until the
// first call; after a lost connection the next call dials again.
func Dial(_ context.Context, o Options) (*Client, error) {
	socket := o.Socket
	if socket == "" {
		dir, err := stateDir()
		if err != nil {
			return nil, err
		}
		socket = SocketPath(dir)
	}
	c := &Client{socket: socket}
	conn, err := grpc.NewClient("passthrough:///hanzod",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
		grpc.WithUserAgent(o.ClientName),
		grpc.WithAuthority("hanzod"),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: redialFirst, Multiplier: 2, Jitter: 0.2, MaxDelay: redialMax},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(c.unary),
		grpc.WithChainStreamInterceptor(c.stream),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to %s: %w", socket, err)
	}
	c.conn = conn
	c.System = systemv1.NewSystemServiceClient(conn)
	c.Nodes = nodesv1.NewNodeServiceClient(conn)
	c.Approvals = approvalsv1.NewApprovalServiceClient(conn)
	return c, nil
}

// Socket is where the client looks for the daemon.
func (c *Client) Socket() string { return c.socket }

// Close ends the connection. Calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// dial opens the socket. Its errors carry a mark by which translate knows, through gRPC's own
// wrapping, that the call was never sent.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := dialSocket(ctx, c.socket)
	if foreign, ok := errors.AsType[*foreignSocket](err); ok {
		return nil, fmt.Errorf("%s%s", foreignMark, foreign.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("%s%w", dialMark, err)
	}
	return conn, nil
}

func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return c.translate(ctx, next(ctx, method, req, reply, cc, opts...))
}

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := next(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, c.translate(ctx, err)
	}
	return &clientStream{ClientStream: s, c: c}, nil
}

type clientStream struct {
	grpc.ClientStream
	c *Client
}

func (s *clientStream) RecvMsg(m any) error {
	return s.c.translate(s.Context(), s.ClientStream.RecvMsg(m))
}
