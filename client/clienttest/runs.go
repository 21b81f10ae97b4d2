package clienttest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
)

// nodeWait is how long an approved run waits for its node.
const nodeWait = 30 * time.Second

// runService is the runs. They go on while the daemon is stopped, so that a test can restart it around
// one.
type runService struct {
	runsv1.UnimplementedRunServiceServer
	d *Daemon
}

// aRun is one run; its fields are guarded by Daemon.mu.
type aRun struct {
	run     *runsv1.Run
	output  []*runsv1.Output
	changed chan struct{} // closed and replaced at each change
	kill    chan struct{} // closed by KillRun
	killer  string
}

// tell changes a run and wakes those who watch it.
func (d *Daemon) tell(r *aRun, change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (s runService) StartRun(_ context.Context, in *runsv1.StartRunRequest) (*runsv1.StartRunResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.runsByID[in.GetId()]; old != nil {
		return &runsv1.StartRunResponse{Run: clone(old.run)}, nil
	}
	r := &aRun{changed: make(chan struct{}), kill: make(chan struct{}), run: &runsv1.Run{
		Id: in.GetId(), State: runsv1.State_STATE_PREPARING, NodeId: in.GetNodeId(), NodeName: d.node(in.GetNodeId()).GetDisplayName(),
		Argv: in.GetArgv(), Command: strings.Join(in.GetArgv(), " "), Cwd: in.GetCwd(), EnvKeys: slices.Sorted(maps.Keys(in.GetEnv())),
		AgentId: in.GetAgentId(), RequestedBy: "local:1000", CreatedAt: timestamppb.Now(),
	}}
	if d.runsByID == nil {
		d.runsByID = map[string]*aRun{}
	}
	d.runsByID[in.GetId()] = r
	go d.drive(r, in)
	return &runsv1.StartRunResponse{Run: clone(r.run)}, nil
}

// drive brings a run to its end.
func (d *Daemon) drive(r *aRun, in *runsv1.StartRunRequest) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-r.kill:
			cancel()
		case <-ctx.Done():
		}
	}()
	end := func(state runsv1.State, code, text string, class codes.Code) {
		d.tell(r, func() {
			if r.killer != "" {
				state, code, class = runsv1.State_STATE_FAILED, "runs.killed", codes.FailedPrecondition
				text, r.run.KilledBy = "the run was ended by "+r.killer+" before the command began; nothing ran", r.killer
			}
			r.run.State, r.run.EndedAt = state, timestamppb.Now()
			r.run.Failure = &runsv1.Failure{Code: code, Message: text, Status: int32(code2(class))}
		})
	}
	params := map[string]any{"command": list(in.GetArgv()), "runId": in.GetId()}
	for k, v := range map[string]string{"cwd": in.GetCwd(), "agentId": in.GetAgentId()} {
		if v != "" {
			params[k] = v
		}
	}
	prepare := maps.Clone(params)
	if len(in.GetEnv()) > 0 {
		env := map[string]any{}
		for k, v := range in.GetEnv() {
			env[k] = v
		}
		params["env"] = env
	}
	if t := in.GetTimeout().AsDuration(); t > 0 {
		params["timeoutMs"] = float64(t.Milliseconds())
	}
	payload, err := d.onNode(ctx, r, in, params, in.GetWaitForNode().AsDuration())
	if err == nil {
		d.done(r, payload)
		return
	}
	text := status.Convert(err).Message()
	if !strings.Contains(text, "SYSTEM_RUN_DENIED: ") {
		state := runsv1.State_STATE_FAILED
		if strings.Contains(text, "SYSTEM_RUN_DISABLED") {
			state = runsv1.State_STATE_REFUSED
		}
		end(state, reason(err), text, status.Code(err))
		return
	}
	answer, _, _ := Node("system.run.prepare", encode(prepare))
	var v structpb.Struct
	if err := protojson.Unmarshal(answer, &v); err != nil {
		panic(err) // of this package
	}
	plan := v.GetFields()["plan"].GetStructValue().GetFields()
	host := "node"
	req := &approvalsv1.RequestApprovalRequest{
		Id: in.GetId(), Command: plan["rawCommand"].GetStringValue(), CommandArgv: texts(plan["argv"]), NodeId: &in.NodeId, Host: &host,
		Env: in.GetEnv(), Timeout: in.GetApprovalTimeout(), Plan: &approvalsv1.Plan{Argv: texts(plan["argv"])},
	}
	req.ResolvedPath = &req.CommandArgv[0]
	if in.GetCwd() != "" {
		req.Cwd, req.Plan.Cwd = &in.Cwd, &in.Cwd
	}
	if in.GetAgentId() != "" {
		req.AgentId, req.Plan.AgentId = &in.AgentId, &in.AgentId
	}
	asked, err := d.RequestApproval(ctx, req)
	if err != nil {
		end(runsv1.State_STATE_FAILED, reason(err), status.Convert(err).Message(), status.Code(err))
		return
	}
	d.tell(r, func() {
		r.run.State, r.run.ApprovalId, r.run.Command, r.run.ExpiresAt = runsv1.State_STATE_WAITING, in.GetId(), req.GetCommand(), asked.GetApproval().GetExpiresAt()
	})
	var a *approvalsv1.Approval
	for a == nil {
		out, err := d.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: in.GetId()})
		if ctx.Err() != nil {
			end(0, "", "", 0)
			return
		}
		if err == nil {
			a = out.GetApproval()
			break
		}
		time.Sleep(10 * time.Millisecond) // the daemon is stopped
	}
	switch a.GetDecision() {
	case approvalsv1.Decision_DECISION_ALLOW_ONCE, approvalsv1.Decision_DECISION_ALLOW_ALWAYS:
	case approvalsv1.Decision_DECISION_DENY:
		end(runsv1.State_STATE_DENIED, "runs.denied", "the run was denied by "+a.GetResolvedBy(), codes.PermissionDenied)
		return
	default:
		end(runsv1.State_STATE_EXPIRED, "runs.expired", "nobody answered in time", codes.Unavailable)
		return
	}
	d.tell(r, func() { r.run.State, r.run.ResolvedBy = runsv1.State_STATE_STARTING, a.GetResolvedBy() })
	params["command"], params["approved"] = list(texts(plan["argv"])), true
	if payload, err = d.onNode(ctx, r, in, params, nodeWait); err != nil {
		end(runsv1.State_STATE_FAILED, reason(err), status.Convert(err).Message(), status.Code(err))
		return
	}
	d.done(r, payload)
}

// onNode sends a command to the node, which streams what Live says first.
func (d *Daemon) onNode(ctx context.Context, r *aRun, in *runsv1.StartRunRequest, params map[string]any, wait time.Duration) ([]byte, error) {
	v, err := structpb.NewValue(params)
	if err != nil {
		return nil, err
	}
	live := func() {
		d.tell(r, func() { r.run.State, r.run.StartedAt = runsv1.State_STATE_RUNNING, timestamppb.Now() })
		if slices.Contains(in.GetArgv(), "--live") {
			d.live(r)
		}
	}
	out, err := d.invoke(ctx, &nodesv1.InvokeRequest{NodeId: in.GetNodeId(), Command: "system.run", Params: v, WaitForNode: durationpb.New(wait)}, live)
	if err != nil {
		return nil, err
	}
	return []byte(out.GetPayloadJson()), nil
}

// live streams "one\n" and, until the run is ended by KillRun or its words have no --forever, "two\n".
func (d *Daemon) live(r *aRun) {
	d.tell(r, func() {
		r.run.Streams = true
		r.output = append(r.output, &runsv1.Output{Stream: runsv1.Output_STREAM_STDOUT, Data: []byte("one\n")})
	})
	if slices.Contains(r.run.GetArgv(), "--forever") {
		<-r.kill
		return
	}
	d.tell(r, func() {
		r.output = append(r.output, &runsv1.Output{Stream: runsv1.Output_STREAM_STDOUT, Offset: 4, Data: []byte("two\n")},
			&runsv1.Output{Stream: runsv1.Output_STREAM_STDERR, Offset: 100, Data: []byte("late\n")})
	})
}

// done ends a run with the answer of the node.
func (d *Daemon) done(r *aRun, payload []byte) {
	var v structpb.Struct
	if err := protojson.Unmarshal(payload, &v); err != nil {
		panic(err) // of this package
	}
	f := v.GetFields()
	res := &runsv1.Result{
		Signal: f["signal"].GetStringValue(), TimedOut: f["timedOut"].GetBoolValue(), Stdout: f["stdout"].GetStringValue(),
		Stderr: f["stderr"].GetStringValue(), Error: f["error"].GetStringValue(),
	}
	if c, ok := f["exitCode"]; ok {
		res.ExitCode = new(int32(c.GetNumberValue()))
	}
	d.tell(r, func() {
		if r.killer != "" {
			res.ExitCode, res.Error, r.run.KilledBy = nil, "killed by "+r.killer, r.killer
		}
		r.run.State, r.run.Result, r.run.EndedAt = runsv1.State_STATE_DONE, res, timestamppb.Now()
	})
}

func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func code2(c codes.Code) codes.Code {
	if c == codes.OK {
		return codes.Internal
	}
	return c
}

func list(argv []string) []any {
	out := make([]any, len(argv))
	for i, a := range argv {
		out[i] = a
	}
	return out
}

func (s runService) find(id string) (*aRun, error) {
	if r := s.d.runsByID[id]; r != nil {
		return r, nil
	}
	return nil, fail(codes.NotFound, "runs.unknown", "no such run is known", nil)
}

func (s runService) GetRun(_ context.Context, in *runsv1.GetRunRequest) (*runsv1.GetRunResponse, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	r, err := s.find(in.GetId())
	if err != nil {
		return nil, err
	}
	return &runsv1.GetRunResponse{Run: clone(r.run)}, nil
}

func (s runService) ListRuns(_ context.Context, in *runsv1.ListRunsRequest) (*runsv1.ListRunsResponse, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	out := &runsv1.ListRunsResponse{}
	for _, r := range s.d.runsByID {
		if (in.GetLive() && r.run.GetEndedAt() != nil) || (in.GetNodeId() != "" && r.run.GetNodeId() != in.GetNodeId()) ||
			(len(in.GetStates()) > 0 && !slices.Contains(in.GetStates(), r.run.GetState())) {
			continue
		}
		one := clone(r.run)
		if one.GetResult() != nil {
			one.Result.Stdout, one.Result.Stderr = "", ""
		}
		out.Runs = append(out.Runs, one)
	}
	slices.SortFunc(out.Runs, func(a, b *runsv1.Run) int { return b.GetCreatedAt().AsTime().Compare(a.GetCreatedAt().AsTime()) })
	return out, nil
}

func (s runService) WatchRun(in *runsv1.WatchRunRequest, stream grpc.ServerStreamingServer[runsv1.WatchRunResponse]) error {
	d := s.d
	sent := 0
	for {
		d.mu.Lock()
		r, err := s.find(in.GetId())
		if err != nil {
			d.mu.Unlock()
			return err
		}
		run, changed, stopping := clone(r.run), r.changed, d.stopping
		output := slices.Clone(r.output[sent:])
		sent = len(r.output)
		d.mu.Unlock()
		if run.GetEndedAt() == nil {
			if err := stream.Send(&runsv1.WatchRunResponse{Message: &runsv1.WatchRunResponse_Run{Run: run}}); err != nil {
				return err
			}
		}
		for _, o := range output {
			if err := stream.Send(&runsv1.WatchRunResponse{Message: &runsv1.WatchRunResponse_Output{Output: o}}); err != nil {
				return err
			}
		}
		if run.GetEndedAt() != nil {
			return stream.Send(&runsv1.WatchRunResponse{Message: &runsv1.WatchRunResponse_Run{Run: run}})
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-stopping:
			return status.Error(codes.Unavailable, "the daemon is stopping")
		}
	}
}

func (s runService) KillRun(_ context.Context, in *runsv1.KillRunRequest) (*runsv1.KillRunResponse, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	r, err := s.find(in.GetId())
	switch {
	case err != nil:
		return nil, err
	case r.run.GetEndedAt() != nil || r.killer != "":
		return nil, fail(codes.FailedPrecondition, "runs.ended", "the run has ended", nil)
	}
	r.killer = "local user"
	close(r.kill)
	return &runsv1.KillRunResponse{Run: clone(r.run)}, nil
}
