package rpc

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/tap"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runtime/listen"
)

// Limits of the door for other machines. listen.Limit bounds its connections.
const (
	// maxRemoteCalls is how many calls one connection from elsewhere may have in flight; gRPC makes
	// further ones wait in the client.
	maxRemoteCalls = 128
	// remoteWindow is the flow control window of streams and connections: 160 MB/s over a way of 50 ms there and
	// back. A connection may have that much lie unread.
	remoteWindow = 16 << 20
	// pingAfter is how long a connection may be silent before it is asked whether its peer is there,
	// pingWait how long the answer may take. Together they stay below two heartbeats of 30 s (R13).
	pingAfter = 20 * time.Second
	pingWait  = 15 * time.Second
	// idleConn closes connections without a call; clients dial again when they need one.
	idleConn = 30 * time.Minute
	// bearerTime bounds the check of credentials, which an identity service may have a part in. The
	// connection does nothing else meanwhile.
	bearerTime = 5 * time.Second
)

// Remote returns the server for other machines, for connections from listen.Limit under
// listen.RemoteCredentials, or from a listen.Tailnet under listen.TailnetCredentials. It serves what GRPC serves, by the same interceptors; but nothing, the
// standard health service included, without credentials that are accepted. Each call brings its own,
// as "authorization: Bearer <token>", and they are checked before anything of its body is read; over a
// tailnet the connection itself says who is calling. Its
// owner serves and stops it as GRPC says.
func (s *Server) Remote(creds credentials.TransportCredentials) *grpc.Server {
	g := grpc.NewServer(append(s.options(creds),
		grpc.InTapHandle(s.tap),
		grpc.MaxConcurrentStreams(maxRemoteCalls),
		grpc.InitialWindowSize(remoteWindow),
		grpc.InitialConnWindowSize(remoteWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingWait, MaxConnectionIdle: idleConn}),
	)...)
	s.Register(g)
	healthpb.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// credential is what a call from another machine has proved.
type credential struct {
	caller identity.Caller
	// token is what it presented, and peer where it came from. A node registers with them.
	token string
	peer  identity.Peer
}

type credentialKey struct{}

// tap lets a call from another machine in or refuses it, before a stream exists: a stranger must
// not make the daemon hold the body of a call.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	begin := time.Now()
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, s.finish(ctx, identity.Caller{}, info.FullMethodName, begin, errNoCaller)
	}
	var cred credential
	var from interface {
		Proved()
		Refused() (first bool)
	}
	var err error
	switch who := p.AuthInfo.(type) {
	case listen.RemoteInfo:
		from = who
		cred, err = s.authenticate(ctx, who, info.Header)
	case listen.MemberInfo:
		from = who
		cred, err = member(who, info.Header)
	default:
		return nil, s.finish(ctx, identity.Caller{}, info.FullMethodName, begin, errNoCaller)
	}
	if err != nil {
		// An error of ours says nothing of the caller.
		if class := errs.ClassOf(err); class != errs.Internal && class != errs.Unavailable && from.Refused() {
			s.d.Log.LogAttrs(ctx, slog.LevelInfo, "a caller from another machine was not let in",
				slog.String("ip", cred.caller.RemoteIP), slog.String("error", err.Error()))
		}
		return nil, s.finish(ctx, cred.caller, info.FullMethodName, begin, err)
	}
	from.Proved()
	// The token goes no further than here: handlers see the metadata.
	md := info.Header.Copy()
	delete(md, "authorization")
	return context.WithValue(metadata.NewIncomingContext(ctx, md), credentialKey{}, &cred), nil
}

// authenticate finds the caller that the bearer token stands for.
func (s *Server) authenticate(ctx context.Context, from listen.RemoteInfo, header metadata.MD) (credential, error) {
	cred := credential{}
	if from.Addr.IsValid() {
		cred.caller.RemoteIP = from.Addr.String()
	}
	if values := header["authorization"]; len(values) == 1 {
		scheme, token, _ := strings.Cut(values[0], " ")
		if strings.EqualFold(scheme, "bearer") {
			cred.token = strings.TrimSpace(token)
		}
	}
	if cred.token == "" {
		return cred, identity.ErrBearerRequired
	}
	ctx, cancel := context.WithTimeout(ctx, bearerTime)
	defer cancel()
	// gRPC comes by no proxy, so nobody speaks for others here.
	cred.peer = identity.Peer{Direct: from.Addr, Client: from.Addr}
	c, err := s.d.Bearer(ctx, cred.token, cred.peer)
	if err != nil {
		return cred, err
	}
	c.Door, c.RemoteIP, c.Local = identity.DoorGRPC, cred.caller.RemoteIP, false
	cred.caller = c
	return cred, nil
}

// member is the caller whom the tailnet names, in the role that it asks for, or else in the first that it
// may have. A token is not looked at: it could not add anything.
func member(from listen.MemberInfo, header metadata.MD) (credential, error) {
	m := from.Member
	cred := credential{peer: identity.Peer{Direct: from.Addr, Client: from.Addr, Member: m, MemberCounts: true}}
	cred.caller.RemoteIP, cred.caller.Principal = from.Addr.String(), m.Principal()
	role := identity.RoleOperator
	if asked := header[roleHeader]; len(asked) > 0 {
		role = identity.Role(asked[0])
	} else if !m.May(role) && m.May(identity.RoleNode) {
		role = identity.RoleNode
	}
	c, err := m.Caller(role)
	if err != nil {
		return cred, err
	}
	c.Door, c.RemoteIP = identity.DoorGRPC, cred.caller.RemoteIP
	cred.caller = c
	return cred, nil
}

func credentialFrom(ctx context.Context) (*credential, bool) {
	c, ok := ctx.Value(credentialKey{}).(*credential)
	return c, ok
}

// roleHeader is where a caller asks for less than it is entitled to.
const roleHeader = "x-hanzo-role"

// inRole gives a caller the role that it asks for. Who could do everything may be a node instead, and
// is nothing else then. Everybody else has exactly the role of the credentials.
func inRole(ctx context.Context, c identity.Caller) (identity.Caller, error) {
	asked := metadata.ValueFromIncomingContext(ctx, roleHeader)
	switch {
	case len(asked) == 0, len(asked) == 1 && asked[0] == string(c.Role):
		return c, nil
	case len(asked) == 1 && asked[0] == string(identity.RoleNode) && c.DeviceID == "" && c.Has(identity.ScopeAdmin):
		c.Role, c.Scopes, c.NodeID = identity.RoleNode, nil, ""
		return c, nil
	}
	return identity.Caller{}, errRole
}
