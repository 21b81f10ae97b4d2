package rpc

import (
	"context"
	"math"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runs"
)

type nodesServer struct {
	nodesv1.UnimplementedNodeServiceServer
	s *Server
}

func (n *nodesServer) ListNodes(ctx context.Context, req *nodesv1.ListNodesRequest) (*nodesv1.ListNodesResponse, error) {
	return call(ctx, req, listNodesFromProto, n.s.d.Nodes.List, listNodesToProto)
}

func (n *nodesServer) GetNode(ctx context.Context, req *nodesv1.GetNodeRequest) (*nodesv1.GetNodeResponse, error) {
	return call(ctx, req, getNodeFromProto, n.s.d.Nodes.Describe, getNodeToProto)
}

func (n *nodesServer) GetInstance(ctx context.Context, req *nodesv1.GetInstanceRequest) (*nodesv1.GetInstanceResponse, error) {
	return call(ctx, req, getInstanceFromProto, n.s.d.Nodes.Instance, getInstanceToProto)
}

func (n *nodesServer) GetInfo(ctx context.Context, req *nodesv1.GetInfoRequest) (*nodesv1.GetInfoResponse, error) {
	return call(ctx, req, getInfoFromProto, lasting(n.s, n.s.d.Nodes.Info), getInfoToProto)
}

// WatchEvents sends what nodes report. A reader that is behind is told how much it lost: events are
// news, and the next one stands alone.
func (n *nodesServer) WatchEvents(req *nodesv1.WatchEventsRequest, stream nodesv1.NodeService_WatchEventsServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	sub, err := n.s.d.Nodes.WatchEvents(ctx, c, req.GetNodeId())
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := open(stream); err != nil {
		return err
	}
	lost := uint64(0)
	return forward(ctx, sub, func(k uint64) error {
		n.s.d.Metrics.EventsDropped(c.Door.String(), k)
		lost = k
		return nil
	}, func(e events.Event) error {
		m := reportToWatch(e)
		m.Lost, lost = lost, 0
		return stream.Send(m)
	})
}

// reportToWatch writes an event of a node. One without a payload of ours only tells of a loss.
func reportToWatch(e events.Event) *nodesv1.WatchEventsResponse {
	m := &nodesv1.WatchEventsResponse{At: timeToProto(e.At)}
	r, ok := e.Payload.(nodes.Reported)
	if !ok {
		return m
	}
	m.NodeId, m.Event = cleanText(r.NodeID), cleanText(r.Event)
	if v, err := valueFromJSON(r.Payload); err == nil {
		m.Payload = v
	}
	return m
}

func (n *nodesServer) RenameNode(ctx context.Context, req *nodesv1.RenameNodeRequest) (*nodesv1.RenameNodeResponse, error) {
	return call(ctx, req, renameNodeFromProto, n.s.d.Nodes.Rename, renameNodeToProto)
}

func (n *nodesServer) Invoke(ctx context.Context, req *nodesv1.InvokeRequest) (*nodesv1.InvokeResponse, error) {
	return call(ctx, req, invokeFromProto, lasting(n.s, n.s.d.Nodes.Invoke), invokeToProto)
}

func (n *nodesServer) ReportResult(ctx context.Context, req *nodesv1.ReportResultRequest) (*nodesv1.ReportResultResponse, error) {
	return call(ctx, req, resultFromProto, n.s.d.Nodes.Result, resultToProto)
}

func (n *nodesServer) ReportEvent(ctx context.Context, req *nodesv1.ReportEventRequest) (*nodesv1.ReportEventResponse, error) {
	return call(ctx, req, eventFromProto, n.s.d.Nodes.Event, eventToProto)
}

func (n *nodesServer) GetVoiceWake(ctx context.Context, req *nodesv1.GetVoiceWakeRequest) (*nodesv1.GetVoiceWakeResponse, error) {
	return call(ctx, req, getVoiceWakeFromProto, n.s.d.Nodes.VoiceWake, getVoiceWakeToProto)
}

func (n *nodesServer) SetVoiceWake(ctx context.Context, req *nodesv1.SetVoiceWakeRequest) (*nodesv1.SetVoiceWakeResponse, error) {
	return call(ctx, req, setVoiceWakeFromProto, n.s.d.Nodes.SetVoiceWake, setVoiceWakeToProto)
}

func (n *nodesServer) ListSkillBins(ctx context.Context, req *nodesv1.ListSkillBinsRequest) (*nodesv1.ListSkillBinsResponse, error) {
	return call(ctx, req, skillBinsFromProto, n.s.d.Nodes.SkillBins, skillBinsToProto)
}

func (n *nodesServer) TestPush(ctx context.Context, req *nodesv1.TestPushRequest) (*nodesv1.TestPushResponse, error) {
	return call(ctx, req, testPushFromProto, n.s.d.Nodes.TestPush, testPushToProto)
}

// AskInvoke calls a command, and asks for an approval where one is needed.
func (n *nodesServer) AskInvoke(req *nodesv1.AskInvokeRequest, stream nodesv1.NodeService_AskInvokeServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in, err := askFromProto(req)
	if err != nil {
		return err
	}
	if err := open(stream); err != nil {
		return err
	}
	out, err := n.s.d.Nodes.Ask(ctx, c, in, func(q nodes.Question) error {
		return stream.Send(&nodesv1.AskInvokeResponse{Message: &nodesv1.AskInvokeResponse_Question{Question: questionToProto(q)}})
	})
	if err != nil {
		return err
	}
	answer, err := invokeToProto(out)
	if err != nil {
		return err
	}
	return stream.Send(&nodesv1.AskInvokeResponse{Message: &nodesv1.AskInvokeResponse_Answer{Answer: answer}})
}

func askFromProto(r *nodesv1.AskInvokeRequest) (nodes.AskIn, error) {
	in, err := invokeFromProto(&nodesv1.InvokeRequest{
		NodeId: r.GetNodeId(), Command: r.GetCommand(), Params: r.GetParams(), Timeout: r.GetTimeout(), IdempotencyKey: r.GetIdempotencyKey(),
		WaitForNode: r.GetWaitForNode(),
	})
	if err != nil {
		return nodes.AskIn{}, err
	}
	ask, err := durationFromProto(r.GetApprovalTimeout())
	if err != nil || ask == nil {
		return nodes.AskIn{Invoke: in}, err
	}
	return nodes.AskIn{Invoke: in, ApprovalTimeout: *ask}, nil
}

func questionToProto(q nodes.Question) *nodesv1.InvokeQuestion {
	return &nodesv1.InvokeQuestion{
		ApprovalId: cleanText(q.ApprovalID), Argv: cleanTexts(q.Argv), Cwd: cleanText(q.Cwd), EnvKeys: cleanTexts(q.EnvKeys),
		ExpiresAt: timeToProto(q.ExpiresAt),
	}
}

// Run begins a run and follows it.
func (n *nodesServer) Run(req *nodesv1.RunRequest, stream nodesv1.NodeService_RunServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in, err := nodeRunFromProto(req)
	if err != nil {
		return err
	}
	run, err := n.s.d.Runs.Start(ctx, c, in)
	if err != nil {
		return err
	}
	return n.s.watchRun(ctx, c, run.ID, stream, func(u runs.Update) error {
		m := &nodesv1.RunResponse{}
		if u.Run != nil {
			m.Message = &nodesv1.RunResponse_Run{Run: n.s.runToProto(*u.Run)}
		} else {
			m.Message = &nodesv1.RunResponse_Output{Output: outputToProto(*u.Output)}
		}
		return stream.Send(m)
	})
}

func nodeRunFromProto(r *nodesv1.RunRequest) (runs.StartIn, error) {
	argv := r.GetArgv()
	if line := r.GetCommand(); line != "" {
		if len(argv) > 0 {
			return runs.StartIn{}, errRunTwice
		}
		argv = []string{"/bin/sh", "-c", line}
	}
	return startRunFromProto(&runsv1.StartRunRequest{
		Id: r.GetId(), NodeId: r.GetNodeId(), Argv: argv, Cwd: r.GetCwd(), Env: r.GetEnv(), AgentId: r.GetAgentId(), SessionKey: r.GetSessionKey(),
		Timeout: r.GetTimeout(), ApprovalTimeout: r.GetApprovalTimeout(), WaitForNode: r.GetWaitForNode(),
	})
}

var errRunTwice = errs.Define(errs.Invalid, "rpc.run_twice", "give argv or command, not both")

// changes says what the events of a node mean to a watcher.
var changes = map[string]nodesv1.WatchNodesResponse_Change{
	"node.connected":    nodesv1.WatchNodesResponse_CHANGE_CONNECTED,
	"node.disconnected": nodesv1.WatchNodesResponse_CHANGE_DISCONNECTED,
	"node.renamed":      nodesv1.WatchNodesResponse_CHANGE_RENAMED,
	"node.mode":         nodesv1.WatchNodesResponse_CHANGE_MODE,
}

// WatchNodes sends the present nodes, then each change. A change that happened while the list was
// read may be sent although the list shows it already.
func (n *nodesServer) WatchNodes(_ *nodesv1.WatchNodesRequest, stream nodesv1.NodeService_WatchNodesServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	w, err := n.s.d.Nodes.Watch(ctx, c)
	if err != nil {
		return err
	}
	defer w.Events.Close()
	if err := open(stream); err != nil {
		return err
	}
	send := func(change nodesv1.WatchNodesResponse_Change, node nodes.Node) error {
		return stream.Send(&nodesv1.WatchNodesResponse{Change: change, Node: nodeToProto(node)})
	}
	for _, node := range w.Present {
		if err := send(nodesv1.WatchNodesResponse_CHANGE_PRESENT, node); err != nil {
			return err
		}
	}
	return forward(ctx, w.Events, n.s.stateLost(c), func(e events.Event) error {
		changed, ok := e.Payload.(nodes.Changed)
		if !ok {
			return nil
		}
		return send(changes[e.Name], changed.Node)
	})
}

// nodeToProto cleans what the node said of itself: protobuf refuses a message with text that is not
// UTF-8, and one odd name must not hide all nodes.
func nodeToProto(n nodes.Node) *nodesv1.Node {
	return &nodesv1.Node{
		NodeId:          cleanText(n.ID),
		DisplayName:     cleanText(n.DisplayName),
		Platform:        cleanText(n.Platform),
		Version:         cleanText(n.Version),
		CoreVersion:     cleanText(n.CoreVersion),
		UiVersion:       cleanText(n.UIVersion),
		DeviceFamily:    cleanText(n.DeviceFamily),
		ModelIdentifier: cleanText(n.ModelIdentifier),
		RemoteIp:        cleanText(n.RemoteIP),
		Caps:            cleanTexts(n.Caps),
		Commands:        cleanTexts(n.Commands),
		Permissions:     cleanKeys(n.Permissions),
		PathEnv:         cleanText(n.PathEnv),
		ConnectedAt:     timeToProto(n.ConnectedAt),
		Paired:          n.Paired,
		Connected:       n.Connected,
		Link:            string(n.Link),
		Tenant:          cleanText(n.Tenant),
		InstanceId:      cleanText(n.InstanceID),
		AppKind:         cleanText(n.AppKind),
		Cwd:             cleanText(n.Cwd),
		SessionUrl:      cleanText(n.SessionURL),
		LastSeen:        timeToProto(n.LastSeen),
		Instance:        instanceToProto(n),
		Mode:            modeOf(n),
		TechSessionId:   cleanText(n.Session),
	}
}

// modeOf is what a node does over its link (tunnel.md §3.1).
func modeOf(n nodes.Node) string {
	switch {
	case !n.Connected:
		return ""
	case n.Session != "":
		return "tunnel"
	}
	return "heartbeat"
}

// instanceToProto writes the Instance of the older tunnel (tunnel.md §1.14): cwd and session_url are left
// out when there are none, metadata is null then. It is nil for a node that is no linked instance.
func instanceToProto(n nodes.Node) *structpb.Struct {
	if n.InstanceID == "" {
		return nil
	}
	f := map[string]*structpb.Value{
		"instance_id": textValue(n.InstanceID), "app_kind": textValue(n.AppKind), "display_name": textValue(n.DisplayName),
		"capabilities": textValues(n.Caps), "commands": textValues(n.Commands),
		"version": textValue(n.Version), "platform": textValue(n.Platform),
		"connected": structpb.NewBoolValue(n.Connected), "connected_at_ms": structpb.NewNumberValue(0),
		"metadata": structpb.NewNullValue(),
	}
	if !n.ConnectedAt.IsZero() {
		f["connected_at_ms"] = structpb.NewNumberValue(float64(n.ConnectedAt.UnixMilli()))
	}
	if v, err := valueFromJSON(n.Metadata); err == nil && v != nil {
		f["metadata"] = v
	}
	if n.Cwd != "" {
		f["cwd"] = textValue(n.Cwd)
	}
	if n.SessionURL != "" {
		f["session_url"] = textValue(n.SessionURL)
	}
	exposed := make([]*structpb.Value, len(n.Exposed))
	for i, x := range n.Exposed {
		exposed[i] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
			"name": textValue(x.Name), "url": textValue(x.URL), "ttl": structpb.NewNumberValue(math.Ceil(x.TTL.Seconds())),
		}})
	}
	f["exposed"] = structpb.NewListValue(&structpb.ListValue{Values: exposed})
	return &structpb.Struct{Fields: f}
}

func textValue(s string) *structpb.Value { return structpb.NewStringValue(cleanText(s)) }

func textValues(in []string) *structpb.Value {
	out := make([]*structpb.Value, len(in))
	for i, s := range in {
		out[i] = textValue(s)
	}
	return structpb.NewListValue(&structpb.ListValue{Values: out})
}

func getInstanceFromProto(r *nodesv1.GetInstanceRequest) (nodes.DescribeIn, error) {
	return nodes.DescribeIn{NodeID: r.GetNodeId()}, nil
}

func getInstanceToProto(out nodes.DescribeOut) (*nodesv1.GetInstanceResponse, error) {
	return &nodesv1.GetInstanceResponse{Instance: instanceToProto(out.Node)}, nil
}

func getInfoFromProto(r *nodesv1.GetInfoRequest) (nodes.InfoIn, error) {
	return nodes.InfoIn{NodeID: r.GetNodeId()}, nil
}

func getInfoToProto(out nodes.InfoOut) (*nodesv1.GetInfoResponse, error) {
	info, err := valueFromJSON(out.Info)
	if err != nil {
		return nil, errAnswer.Wrap(err)
	}
	return &nodesv1.GetInfoResponse{NodeId: cleanText(out.NodeID), Command: out.Command, Info: info}, nil
}

func listNodesFromProto(r *nodesv1.ListNodesRequest) (nodes.ListIn, error) {
	return nodes.ListIn{ConnectedOnly: r.GetConnectedOnly(), AppKind: r.GetAppKind()}, nil
}

func listNodesToProto(out nodes.ListOut) (*nodesv1.ListNodesResponse, error) {
	r := &nodesv1.ListNodesResponse{Nodes: make([]*nodesv1.Node, len(out.Nodes))}
	for i, n := range out.Nodes {
		r.Nodes[i] = nodeToProto(n)
	}
	return r, nil
}

func getNodeFromProto(r *nodesv1.GetNodeRequest) (nodes.DescribeIn, error) {
	return nodes.DescribeIn{NodeID: r.GetNodeId()}, nil
}

func getNodeToProto(out nodes.DescribeOut) (*nodesv1.GetNodeResponse, error) {
	return &nodesv1.GetNodeResponse{Node: nodeToProto(out.Node)}, nil
}

func renameNodeFromProto(r *nodesv1.RenameNodeRequest) (nodes.RenameIn, error) {
	return nodes.RenameIn{NodeID: r.GetNodeId(), DisplayName: r.GetDisplayName()}, nil
}

func renameNodeToProto(out nodes.RenameOut) (*nodesv1.RenameNodeResponse, error) {
	return &nodesv1.RenameNodeResponse{NodeId: out.NodeID, DisplayName: out.DisplayName}, nil
}

func invokeFromProto(r *nodesv1.InvokeRequest) (nodes.InvokeIn, error) {
	in := nodes.InvokeIn{NodeID: r.GetNodeId(), Command: r.GetCommand(), IdempotencyKey: r.GetIdempotencyKey()}
	var err error
	if in.Params, err = jsonFromValue(r.GetParams()); err != nil {
		return nodes.InvokeIn{}, err
	}
	if in.Timeout, err = durationFromProto(r.GetTimeout()); err != nil {
		return nodes.InvokeIn{}, err
	}
	if in.WaitForNode, err = durationFromProto(r.GetWaitForNode()); err != nil {
		return nodes.InvokeIn{}, err
	}
	return in, nil
}

// invokeToProto carries the answer. An answer that is no JSON value goes out as text alone when the
// node sent it as text; the command did run, so such an answer is not thrown away.
func invokeToProto(out nodes.InvokeOut) (*nodesv1.InvokeResponse, error) {
	payload, err := valueFromJSON(out.Payload)
	if err != nil && out.PayloadJSON == nil {
		return nil, errAnswer.Wrap(err)
	}
	text, err := textToProto(out.PayloadJSON)
	if err != nil {
		return nil, errAnswer.Wrap(err)
	}
	return &nodesv1.InvokeResponse{NodeId: out.NodeID, Command: out.Command, Payload: payload, PayloadJson: text}, nil
}

func resultFromProto(r *nodesv1.ReportResultRequest) (nodes.ResultIn, error) {
	payload, err := jsonFromValue(r.GetPayload())
	if err != nil {
		return nodes.ResultIn{}, err
	}
	in := nodes.ResultIn{
		NodeID: r.GetNodeId(), InvokeID: r.GetInvokeId(), OK: r.GetOk(), Payload: payload, PayloadJSON: r.PayloadJson,
	}
	if e := r.GetError(); e != nil {
		in.Error = &nodes.NodeError{Code: absentWhenEmpty(e.GetCode()), Message: absentWhenEmpty(e.GetMessage())}
	}
	return in, nil
}

func resultToProto(out nodes.ResultOut) (*nodesv1.ReportResultResponse, error) {
	return &nodesv1.ReportResultResponse{Ignored: out.Ignored}, nil
}

func eventFromProto(r *nodesv1.ReportEventRequest) (nodes.EventIn, error) {
	payload, err := jsonFromValue(r.GetPayload())
	if err != nil {
		return nodes.EventIn{}, err
	}
	return nodes.EventIn{NodeID: r.GetNodeId(), Event: r.GetEvent(), Payload: payload, PayloadJSON: r.PayloadJson}, nil
}

func eventToProto(nodes.EventOut) (*nodesv1.ReportEventResponse, error) {
	return &nodesv1.ReportEventResponse{}, nil
}

func getVoiceWakeFromProto(*nodesv1.GetVoiceWakeRequest) (nodes.VoiceWakeIn, error) {
	return nodes.VoiceWakeIn{}, nil
}

func getVoiceWakeToProto(out nodes.VoiceWakeOut) (*nodesv1.GetVoiceWakeResponse, error) {
	return &nodesv1.GetVoiceWakeResponse{Triggers: cleanTexts(out.Triggers)}, nil
}

func setVoiceWakeFromProto(r *nodesv1.SetVoiceWakeRequest) (nodes.SetVoiceWakeIn, error) {
	return nodes.SetVoiceWakeIn{Triggers: r.GetTriggers()}, nil
}

func setVoiceWakeToProto(out nodes.VoiceWakeOut) (*nodesv1.SetVoiceWakeResponse, error) {
	return &nodesv1.SetVoiceWakeResponse{Triggers: cleanTexts(out.Triggers)}, nil
}

func skillBinsFromProto(*nodesv1.ListSkillBinsRequest) (nodes.SkillBinsIn, error) {
	return nodes.SkillBinsIn{}, nil
}

func skillBinsToProto(out nodes.SkillBinsOut) (*nodesv1.ListSkillBinsResponse, error) {
	return &nodesv1.ListSkillBinsResponse{Bins: cleanTexts(out.Bins)}, nil
}

func testPushFromProto(r *nodesv1.TestPushRequest) (nodes.TestPushIn, error) {
	return nodes.TestPushIn{NodeID: r.GetNodeId(), Title: r.GetTitle(), Body: r.GetBody(), Environment: r.GetEnvironment()}, nil
}

func testPushToProto(out nodes.TestPushOut) (*nodesv1.TestPushResponse, error) {
	return &nodesv1.TestPushResponse{
		Ok: out.OK, Status: clampInt32(out.Status), ApnsId: cleanText(out.APNsID), Reason: cleanText(out.Reason),
		TokenSuffix: cleanText(out.TokenSuffix), Topic: cleanText(out.Topic), Environment: out.Environment,
	}, nil
}
