package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/config/live"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Updates is what the door needs of live.Service for updates.
type Updates interface {
	Update(context.Context, identity.Caller, struct{}) (live.UpdateState, error)
	RunUpdate(context.Context, identity.Caller, live.UpdateIn) (live.UpdateOut, error)
}

type updateServer struct {
	updatev1.UnimplementedUpdateServiceServer
	s *Server
}

func (u *updateServer) GetUpdate(ctx context.Context, req *updatev1.GetUpdateRequest) (*updatev1.GetUpdateResponse, error) {
	return call(ctx, req, nothing, u.s.d.Config.Update, updateToProto)
}

func (u *updateServer) RunUpdate(ctx context.Context, req *updatev1.RunUpdateRequest) (*updatev1.RunUpdateResponse, error) {
	return call(ctx, req, runUpdateFromProto, u.s.d.Config.RunUpdate, runUpdateToProto)
}

func updateToProto(u live.UpdateState) (*updatev1.GetUpdateResponse, error) {
	return &updatev1.GetUpdateResponse{
		CurrentVersion: cleanText(u.Current), LatestVersion: cleanText(u.Latest), Channel: cleanText(u.Channel), Directory: cleanText(u.Directory),
		CheckedAt: timeToProto(u.CheckedAt), Fault: cleanText(u.Fault),
	}, nil
}

func runUpdateFromProto(r *updatev1.RunUpdateRequest) (live.UpdateIn, error) {
	in := live.UpdateIn{SessionKey: r.GetSessionKey(), Note: r.GetNote()}
	var err error
	if in.Delay, err = durationFromProto(r.GetRestartDelay()); err != nil {
		return in, err
	}
	timeout, err := durationFromProto(r.GetTimeout())
	if timeout != nil {
		in.Timeout = *timeout
	}
	return in, err
}

func runUpdateToProto(o live.UpdateOut) (*updatev1.RunUpdateResponse, error) {
	r := &updatev1.RunUpdateResponse{
		Status: o.Status, Reason: cleanText(o.Reason), Root: cleanText(o.Root), BeforeVersion: cleanText(o.Before), AfterVersion: cleanText(o.After),
		Took: durationpb.New(o.Took), Steps: make([]*updatev1.UpdateStep, len(o.Steps)),
	}
	for i, st := range o.Steps {
		r.Steps[i] = &updatev1.UpdateStep{
			Name: st.Name, Command: cleanText(st.Command), Took: durationpb.New(st.Took), StdoutTail: cleanText(st.Stdout), StderrTail: cleanText(st.Stderr),
		}
		if st.Failed {
			r.Steps[i].ExitCode = 1
		}
	}
	if o.Restart != nil {
		r.Restarting, r.RestartDelay = true, durationpb.New(o.Restart.Delay)
	}
	return r, nil
}
