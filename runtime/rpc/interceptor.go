package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/listen"
)

// The order of what a call passes is a security property, so it stands here alone: recover, caller,
// admission, handler; then, for every outcome, refusals and panics too: status, log, metrics.

// UnaryInterceptor is what every unary call passes.
func (s *Server) UnaryInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		begin := time.Now()
		var c identity.Caller
		defer func() {
			if p := recover(); p != nil {
				resp, err = nil, panicked(p)
			}
			if err = s.finish(ctx, c, info.FullMethod, begin, err); err != nil {
				resp = nil
			}
		}()
		if c, err = callerOf(ctx); err != nil {
			return nil, err
		}
		if err = s.admit(c, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(withCaller(ctx, &c), req)
	}
}

// StreamInterceptor is what every streaming call passes. Beyond the unary one it keeps the stream
// in a list, so that Stop and EndStreams reach it.
func (s *Server) StreamInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		begin := time.Now()
		var c identity.Caller
		ctx := stream.Context()
		defer func() {
			if p := recover(); p != nil {
				err = panicked(p)
			}
			err = s.finish(ctx, c, info.FullMethod, begin, err)
		}()
		if c, err = callerOf(ctx); err != nil {
			return err
		}
		if err = s.admit(c, info.FullMethod); err != nil {
			return err
		}
		kind := aWatch
		switch info.FullMethod {
		case nodesv1.NodeService_Attach_FullMethodName:
			kind = aLink
		case nodesv1.NodeService_Channel_FullMethodName:
			kind = aChannel
		case tunnelv1.TunnelService_Carry_FullMethodName:
			kind = aCarrier
		}
		live, err := s.live(ctx, c, kind)
		if err != nil {
			return err
		}
		defer s.streams.remove(live)
		err = handler(srv, &callerStream{ServerStream: stream, ctx: withCaller(live.ctx, &c)})
		if err != nil && live.ctx.Err() != nil { // whatever broke, it broke because the stream ended
			err = context.Cause(live.ctx)
		}
		return err
	}
}

type callerStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *callerStream) Context() context.Context { return s.ctx }

// standard are the facts of the services that are not ours. Health is for every caller, as
// SystemService.GetHealth is; reflection tells operators what they could read anyway.
var standard = map[string]*ops.Operation{
	"/grpc.health.v1.Health/":                    {Role: ops.AnyRole},
	"/grpc.reflection.v1.ServerReflection/":      {Role: identity.RoleOperator, Scope: identity.ScopeRead},
	"/grpc.reflection.v1alpha.ServerReflection/": {Role: identity.RoleOperator, Scope: identity.ScopeRead},
}

// admit asks the gate. A method that nobody declared is denied, whoever calls.
func (s *Server) admit(c identity.Caller, method string) error {
	op, ok := s.d.Catalogue.ByMethod(method)
	if !ok {
		op, ok = standard[method[:strings.LastIndexByte(method, '/')+1]]
	}
	if !ok {
		return errMethod
	}
	return s.d.Gate.Admit(c, op)
}

type callerKey struct{}

// WithCaller hands a verified caller to the in-process channel. Only a door in this process can:
// the value is read from the client side of the channel, which no transport carries.
func WithCaller(ctx context.Context, c identity.Caller) context.Context {
	return withCaller(ctx, &c)
}

func withCaller(ctx context.Context, c *identity.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerFrom(ctx context.Context) (identity.Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(*identity.Caller)
	if !ok {
		return identity.Caller{}, false
	}
	return *c, true
}

// clientHeader is where a client says what it calls itself, for showing.
const clientHeader = "x-hanzo-client"

// callerOf says who is calling. A call of the in-process channel is made by the caller that its
// door verified and by nobody else: the trust of the local socket is out of its reach.
func callerOf(ctx context.Context) (identity.Caller, error) {
	if client := inprocgrpc.ClientContext(ctx); client != nil {
		if c, ok := callerFrom(client); ok {
			return c, nil
		}
		return identity.Caller{}, errNoCaller
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Caller{}, errNoCaller
	}
	var c identity.Caller
	switch info := p.AuthInfo.(type) {
	case listen.PeerInfo:
		info.Called()
		var err error
		if c, err = localCaller(info); err != nil {
			return identity.Caller{}, err
		}
	case listen.RemoteInfo, listen.MemberInfo:
		cred, ok := credentialFrom(ctx)
		if !ok { // it did not pass tap
			return identity.Caller{}, errNoCaller
		}
		c = cred.caller
	default:
		return identity.Caller{}, errNoCaller
	}
	if v := metadata.ValueFromIncomingContext(ctx, clientHeader); len(v) > 0 {
		if name := clientName(v[0]); name != "" {
			c.ClientID = name
		}
	}
	return inRole(ctx, c)
}

// localCaller is who calls by the local socket.
func localCaller(info listen.PeerInfo) (identity.Caller, error) {
	if !info.Own {
		return identity.Caller{}, errForeign.
			WithText("this socket serves the user that runs the daemon only; you are user " + info.User + ", call as that user")
	}
	return identity.Caller{
		Door:      identity.DoorGRPC,
		Role:      identity.RoleOperator,
		Scopes:    identity.AllOperatorScopes,
		Principal: info.Principal,
		Local:     true,
	}, nil
}

// clientName keeps what can be shown on one line of a terminal.
func clientName(s string) string {
	if len(s) > maxClientName {
		s = s[:maxClientName]
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return ""
		}
	}
	return s
}

func panicked(p any) error {
	return errPanic.Wrap(fmt.Errorf("%v\n%s", p, debug.Stack()))
}

// finish gives the outcome its status and records it. What the caller is not told, the log is.
func (s *Server) finish(ctx context.Context, c identity.Caller, method string, begin time.Time, err error) error {
	took := time.Since(begin)
	door := c.Door
	if door == identity.DoorInternal { // nobody: the refused caller has no door
		door = identity.DoorGRPC
	}
	st, class := statusOf(err)
	s.d.Metrics.Observe(door.String(), method, class, took)
	level := slog.LevelDebug
	if class == errs.Internal.String() || class == errs.Unknown.String() {
		level = slog.LevelError
	}
	if s.d.Log.Enabled(ctx, level) {
		attrs := []slog.Attr{
			slog.String("door", door.String()), slog.String("method", method), slog.String("class", class),
			slog.Duration("took", took), slog.String("caller", c.Subject()),
		}
		if err != nil {
			attrs = append(attrs, slog.String("error", err.Error()))
		}
		s.d.Log.LogAttrs(ctx, level, "call", attrs...)
	}
	if st == nil {
		return nil
	}
	return st.Err()
}
