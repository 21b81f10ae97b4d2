package rpc

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/events"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

type grantsServer struct {
	approvalsv1.UnimplementedGrantServiceServer
	s *Server
}

func (g *grantsServer) CreateGrant(ctx context.Context, req *approvalsv1.CreateGrantRequest) (*approvalsv1.CreateGrantResponse, error) {
	return call(ctx, req, createGrantFromProto, g.s.d.Approvals.CreateGrant, func(out approvals.GrantOut) (*approvalsv1.CreateGrantResponse, error) {
		return &approvalsv1.CreateGrantResponse{Grant: g.s.grantToProto(out)}, nil
	})
}

func (g *grantsServer) RevokeGrant(ctx context.Context, req *approvalsv1.RevokeGrantRequest) (*approvalsv1.RevokeGrantResponse, error) {
	return call(ctx, req, idFromProto, g.s.d.Approvals.RevokeGrant, func(out approvals.GrantOut) (*approvalsv1.RevokeGrantResponse, error) {
		return &approvalsv1.RevokeGrantResponse{Grant: g.s.grantToProto(out)}, nil
	})
}

func (g *grantsServer) GetGrant(ctx context.Context, req *approvalsv1.GetGrantRequest) (*approvalsv1.GetGrantResponse, error) {
	return call(ctx, req, idFromProto, g.s.d.Approvals.GetGrant, func(out approvals.GrantOut) (*approvalsv1.GetGrantResponse, error) {
		return &approvalsv1.GetGrantResponse{Grant: g.s.grantToProto(out)}, nil
	})
}

func (g *grantsServer) ListGrants(ctx context.Context, req *approvalsv1.ListGrantsRequest) (*approvalsv1.ListGrantsResponse, error) {
	return call(ctx, req, listGrantsFromProto, g.s.d.Approvals.ListGrants, func(out approvals.ListGrantsOut) (*approvalsv1.ListGrantsResponse, error) {
		r := &approvalsv1.ListGrantsResponse{NextPageToken: out.Next}
		for _, x := range out.Grants {
			r.Grants = append(r.Grants, g.s.grantToProto(approvals.GrantOut{Grant: x, State: x.State(out.Now)}))
		}
		return r, nil
	})
}

// WatchGrants sends the live grants, then each that is made, used or ends. One that was made while the
// list was read may be sent twice.
func (g *grantsServer) WatchGrants(_ *approvalsv1.WatchGrantsRequest, stream approvalsv1.GrantService_WatchGrantsServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	live, sub, err := g.s.d.Approvals.WatchGrants(ctx, c)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := open(stream); err != nil {
		return err
	}
	send := func(x approvals.GrantOut) error {
		return stream.Send(&approvalsv1.WatchGrantsResponse{Grant: g.s.grantToProto(x)})
	}
	for _, x := range live {
		if err := send(x); err != nil {
			return err
		}
	}
	return forward(ctx, sub, g.s.stateLost(c), func(e events.Event) error {
		if p, ok := e.Payload.(approvals.GrantChanged); ok {
			return send(p.Grant)
		}
		return nil
	})
}

var grantStates = map[approvals.GrantState]approvalsv1.GrantState{
	approvals.GrantLive:    approvalsv1.GrantState_GRANT_STATE_LIVE,
	approvals.GrantUsed:    approvalsv1.GrantState_GRANT_STATE_USED,
	approvals.GrantOver:    approvalsv1.GrantState_GRANT_STATE_OVER,
	approvals.GrantRevoked: approvalsv1.GrantState_GRANT_STATE_REVOKED,
}

func (s *Server) grantToProto(out approvals.GrantOut) *approvalsv1.Grant {
	g := out.Grant
	p := &approvalsv1.Grant{
		Id: cleanText(g.ID), State: grantStates[out.State], Key: cleanText(g.Key), Pattern: cleanTexts(g.Pattern), Command: cleanText(g.Command),
		NodeId: cleanText(g.NodeID), AgentId: cleanOpt(g.AgentID), AnyAgent: g.AnyAgent, SessionKey: cleanOpt(g.SessionKey),
		Cwd: cleanOpt(g.Cwd), AnyCwd: g.AnyCwd, EnvHash: cleanOpt(g.EnvHash), Requester: cleanText(g.Requester), AnyRequester: g.AnyRequester,
		MaxUses: count(g.MaxUses), Uses: count(g.Uses), LastUsedAt: timeToProto(g.LastUsedAt), Until: timeToProto(g.Until),
		CreatedAt: timeToProto(g.CreatedAt), CreatedBy: cleanText(g.CreatedBy), CreatedByName: cleanText(g.CreatedByName),
		ApprovalId: cleanText(g.ApprovalID), Rule: cleanText(g.Rule), Note: cleanText(g.Note),
		RevokedAt: timeToProto(g.RevokedAt), RevokedBy: cleanText(g.RevokedBy),
	}
	for _, f := range g.Files {
		p.Files = append(p.Files, &approvalsv1.GrantFile{Path: cleanText(f.Path), Sha256: cleanText(f.SHA256)})
	}
	if g.NodeID != "" {
		p.NodeName = cleanText(s.d.NodeName(g.NodeID))
	}
	return p
}

func count(n int) int32 { return int32(max(0, min(n, math.MaxInt32))) }

// whenFromProto reads a time; none is the zero time.
func whenFromProto(t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if t.CheckValid() != nil {
		return time.Time{}, approvals.ErrGrantUntil
	}
	return t.AsTime(), nil
}

func createGrantFromProto(r *approvalsv1.CreateGrantRequest) (approvals.CreateGrantIn, error) {
	until, err := whenFromProto(r.GetUntil())
	return approvals.CreateGrantIn{
		Argv: r.GetArgv(), Pattern: r.GetPattern(), NodeID: r.GetNodeId(), AgentID: r.AgentId, AnyAgent: r.GetAnyAgent(),
		SessionKey: r.SessionKey, Cwd: r.Cwd, AnyCwd: r.GetAnyCwd(), Env: r.GetEnv(), Requester: r.GetRequester(), AnyRequester: r.GetAnyRequester(),
		MaxUses: int(r.GetUses()), Until: until, Always: r.GetAlways(), Note: r.GetNote(),
	}, err
}

func listGrantsFromProto(r *approvalsv1.ListGrantsRequest) (approvals.ListGrantsIn, error) {
	return approvals.ListGrantsIn{All: r.GetAll(), NodeID: r.GetNodeId(), Max: int(r.GetPageSize()), Before: r.GetPageToken()}, nil
}

func grantFromProto(r *approvalsv1.GrantRequest) (*approvals.GrantIn, error) {
	if r == nil {
		return nil, nil
	}
	until, err := whenFromProto(r.GetUntil())
	return &approvals.GrantIn{
		MaxUses: int(r.GetUses()), Until: until, Session: r.GetSession(), Always: r.GetAlways(), Pattern: r.GetPattern(),
		AnyCwd: r.GetAnyCwd(), AnyAgent: r.GetAnyAgent(), AnyRequester: r.GetAnyRequester(), AnyFiles: r.GetAnyFiles(), Note: r.GetNote(),
	}, err
}
