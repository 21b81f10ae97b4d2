package rpc

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
)

// Runs is what the door needs of runs.Service.
type Runs interface {
	Start(context.Context, identity.Caller, runs.StartIn) (runs.Run, error)
	Get(ctx context.Context, c identity.Caller, id string) (runs.Run, error)
	Wait(ctx context.Context, c identity.Caller, id string) (runs.Run, error)
	List(context.Context, identity.Caller, runs.ListIn) ([]runs.Run, error)
	Watch(ctx context.Context, c identity.Caller, id string) (*runs.Watcher, error)
	Kill(ctx context.Context, c identity.Caller, id string) (runs.Run, error)
}

type runsServer struct {
	runsv1.UnimplementedRunServiceServer
	s *Server
}

func (r *runsServer) StartRun(ctx context.Context, req *runsv1.StartRunRequest) (*runsv1.StartRunResponse, error) {
	return call(ctx, req, startRunFromProto, r.s.d.Runs.Start, func(out runs.Run) (*runsv1.StartRunResponse, error) {
		return &runsv1.StartRunResponse{Run: r.s.runToProto(out)}, nil
	})
}

func (r *runsServer) GetRun(ctx context.Context, req *runsv1.GetRunRequest) (*runsv1.GetRunResponse, error) {
	return call(ctx, req, idFromProto, r.s.d.Runs.Get, func(out runs.Run) (*runsv1.GetRunResponse, error) {
		return &runsv1.GetRunResponse{Run: r.s.runToProto(out)}, nil
	})
}

func (r *runsServer) WaitRun(ctx context.Context, req *runsv1.WaitRunRequest) (*runsv1.WaitRunResponse, error) {
	return call(ctx, req, idFromProto, r.wait, func(out runs.Run) (*runsv1.WaitRunResponse, error) {
		return &runsv1.WaitRunResponse{Run: r.s.runToProto(out)}, nil
	})
}

// wait stands among the streams while it lasts, as the wait for an approval does.
func (r *runsServer) wait(ctx context.Context, c identity.Caller, id string) (runs.Run, error) {
	live, err := r.s.live(ctx, c, aWatch)
	if err != nil {
		return runs.Run{}, err
	}
	defer r.s.streams.remove(live)
	out, err := r.s.d.Runs.Wait(live.ctx, c, id)
	if err != nil && live.ctx.Err() != nil {
		err = context.Cause(live.ctx)
	}
	return out, err
}

func (r *runsServer) ListRuns(ctx context.Context, req *runsv1.ListRunsRequest) (*runsv1.ListRunsResponse, error) {
	return call(ctx, req, listRunsFromProto, r.s.d.Runs.List, func(out []runs.Run) (*runsv1.ListRunsResponse, error) {
		list := &runsv1.ListRunsResponse{Runs: make([]*runsv1.Run, len(out))}
		for i, x := range out {
			list.Runs[i] = r.s.runToProto(x)
		}
		return list, nil
	})
}

func (r *runsServer) KillRun(ctx context.Context, req *runsv1.KillRunRequest) (*runsv1.KillRunResponse, error) {
	return call(ctx, req, idFromProto, r.s.d.Runs.Kill, func(out runs.Run) (*runsv1.KillRunResponse, error) {
		return &runsv1.KillRunResponse{Run: r.s.runToProto(out)}, nil
	})
}

func (r *runsServer) WatchRun(req *runsv1.WatchRunRequest, stream runsv1.RunService_WatchRunServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	return r.s.watchRun(ctx, c, req.GetId(), stream, func(u runs.Update) error {
		m := &runsv1.WatchRunResponse{}
		if u.Run != nil {
			m.Message = &runsv1.WatchRunResponse_Run{Run: r.s.runToProto(*u.Run)}
		} else {
			m.Message = &runsv1.WatchRunResponse_Output{Output: outputToProto(*u.Output)}
		}
		return stream.Send(m)
	})
}

// watchRun hands on what a run does until it has ended.
func (s *Server) watchRun(ctx context.Context, c identity.Caller, id string, stream grpc.ServerStream, send func(runs.Update) error) error {
	w, err := s.d.Runs.Watch(ctx, c, id)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := open(stream); err != nil {
		return err
	}
	for {
		u, err := w.Next(ctx)
		switch {
		case runs.IsOver(err):
			return nil
		case err != nil:
			return err
		}
		if err := send(u); err != nil {
			return err
		}
	}
}

func startRunFromProto(r *runsv1.StartRunRequest) (runs.StartIn, error) {
	in := runs.StartIn{
		ID: r.GetId(), NodeID: r.GetNodeId(), Argv: r.GetArgv(), Cwd: r.GetCwd(), Env: r.GetEnv(), AgentID: r.GetAgentId(), SessionKey: r.GetSessionKey(),
	}
	for _, d := range []struct {
		from interface {
			CheckValid() error
			AsDuration() time.Duration
		}
		absent bool
		to     *time.Duration
	}{
		{r.GetTimeout(), r.GetTimeout() == nil, &in.Timeout},
		{r.GetApprovalTimeout(), r.GetApprovalTimeout() == nil, &in.ApprovalTimeout},
		{r.GetWaitForNode(), r.GetWaitForNode() == nil, &in.WaitForNode},
	} {
		if d.absent {
			continue
		}
		if err := d.from.CheckValid(); err != nil {
			return runs.StartIn{}, errDuration.Wrap(err)
		}
		*d.to = d.from.AsDuration()
	}
	return in, nil
}

// runStates pairs the domain's words with the contract's.
var runStates = map[runs.State]runsv1.State{
	runs.Preparing: runsv1.State_STATE_PREPARING,
	runs.Waiting:   runsv1.State_STATE_WAITING,
	runs.Starting:  runsv1.State_STATE_STARTING,
	runs.Running:   runsv1.State_STATE_RUNNING,
	runs.Done:      runsv1.State_STATE_DONE,
	runs.Refused:   runsv1.State_STATE_REFUSED,
	runs.Denied:    runsv1.State_STATE_DENIED,
	runs.Expired:   runsv1.State_STATE_EXPIRED,
	runs.Failed:    runsv1.State_STATE_FAILED,
	runs.Lost:      runsv1.State_STATE_LOST,
}

func listRunsFromProto(r *runsv1.ListRunsRequest) (runs.ListIn, error) {
	in := runs.ListIn{Live: r.GetLive(), NodeID: r.GetNodeId(), Limit: int(r.GetLimit())}
	for _, wanted := range r.GetStates() {
		state := runs.State("unknown") // no run has it: what is not known is not all
		for s, p := range runStates {
			if p == wanted {
				state = s
			}
		}
		in.States = append(in.States, state)
	}
	return in, nil
}

func (s *Server) runToProto(r runs.Run) *runsv1.Run {
	out := &runsv1.Run{
		Id: cleanText(r.ID), State: runStates[r.State], NodeId: cleanText(r.NodeID), NodeName: cleanText(s.d.NodeName(r.NodeID)),
		Argv: cleanTexts(r.Argv), Command: cleanText(r.Command), Cwd: cleanText(r.Cwd), EnvKeys: cleanTexts(r.EnvKeys),
		AgentId: cleanText(r.AgentID), SessionKey: cleanText(r.SessionKey), RequestedBy: cleanText(r.Requester.Caller().Subject()),
		ApprovalId: cleanText(r.ApprovalID), ResolvedBy: cleanText(r.ResolvedBy), CreatedAt: timeToProto(r.CreatedAt),
		ExpiresAt: timeToProto(r.ExpiresAt), StartedAt: timeToProto(r.StartedAt), EndedAt: timeToProto(r.EndedAt),
		KilledBy: cleanText(r.KilledBy), Streams: r.Streams, Foreign: r.Foreign,
	}
	if f := r.Failure; f != nil {
		code := codes.Internal
		if int(f.Class) < len(grpcCodes) {
			code = grpcCodes[f.Class]
		}
		out.Failure = &runsv1.Failure{Code: cleanText(f.Code), Message: cleanText(f.Text), Status: int32(min(code, math.MaxInt32))}
	}
	if x := r.Result; x != nil {
		out.Result = &runsv1.Result{
			Signal: cleanText(x.Signal), TimedOut: x.TimedOut, Stdout: cleanText(x.Stdout), Stderr: cleanText(x.Stderr), Error: cleanText(x.Error),
			OutputGone: x.OutputGone,
		}
		if x.ExitCode != nil {
			code := clampInt32(*x.ExitCode)
			out.Result.ExitCode = &code
		}
	}
	return out
}

func outputToProto(c runs.Chunk) *runsv1.Output {
	out := &runsv1.Output{Stream: runsv1.Output_STREAM_STDOUT, Offset: c.Offset, Data: c.Data}
	if c.Stream == runs.Stderr {
		out.Stream = runsv1.Output_STREAM_STDERR
	}
	return out
}
