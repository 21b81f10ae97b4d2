package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/system"
)

// The errors of a node's link.
var (
	errRegister     = errs.Define(errs.Invalid, "rpc.register", "the first message of a node is its registration, and only the first")
	errRegisterLate = errs.Define(errs.Deadline, "rpc.register_late", "the registration did not come in time")
	errRegisterSize = errs.Define(errs.Invalid, "rpc.register_size", "the registration is larger than 64 KiB")
	errRegisterText = errs.Define(errs.Invalid, "rpc.register_text", "a registration names client id, version and platform")
	errLinkMessage  = errs.Define(errs.Invalid, "rpc.link_message", "a message on the link of a node is none that is known")
	errLinkEnded    = errs.Define(errs.Conflict, "rpc.link_ended", "the link was ended")
	errLinkGone     = errs.Define(errs.Unavailable, "rpc.link_gone", "the link of the node is gone")
	errNodeBehind   = errs.Define(errs.Exhausted, "rpc.node_behind", "the node does not take its requests; too many wait for it")
	errSlowNode     = errs.Define(errs.Exhausted, "rpc.slow_node", "the node did not take what was sent to it")
	errSilentNode   = errs.Define(errs.Unavailable, "rpc.silent_node", "the node was silent for too long")
	errTooLarge     = errs.Define(errs.Invalid, "rpc.too_large", "the request is larger than the 25 MiB that a link carries")
	errParams       = errs.Define(errs.Invalid, "rpc.params", "the parameters are not valid UTF-8 text")
)

// errGoodbye ends a link whose node has closed its side.
var errGoodbye = errors.New("the node has closed its side")

// Attach is the link of a node. It lets a node in by the same rules as the legacy door.
func (n *nodesServer) Attach(stream nodesv1.NodeService_AttachServer) (err error) {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	live, ok := liveFrom(ctx)
	if !ok {
		return errNoCaller
	}
	l := newLink(n.s, stream, live)
	l.conn = connOf(ctx)
	n.s.links.add(l)
	defer n.s.links.remove(l)
	n.s.links.wg.Go(l.read)
	n.s.links.wg.Go(l.write)
	defer func() { l.shut(err) }()
	l.enqueue(&nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_Challenge{Challenge: &nodesv1.NodeChallenge{Nonce: l.nonce}}})
	reg, err := l.registration(ctx)
	if err != nil {
		return err
	}
	leave, err := l.register(ctx, c, reg)
	if err != nil {
		return err
	}
	defer leave()
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, errGoodbye) {
		return err
	}
	return nil
}

// registration waits for the node's first message.
func (l *link) registration(ctx context.Context) (*nodesv1.NodeRegistration, error) {
	late := time.NewTimer(registerTime)
	defer late.Stop()
	var m *nodesv1.AttachRequest
	select {
	case m = <-l.first:
	case <-late.C:
		return nil, errRegisterLate
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r := m.GetRegister()
	switch {
	case r == nil:
		return nil, errRegister
	case proto.Size(r) > maxRegistration:
		return nil, errRegisterSize
	case strings.TrimSpace(r.GetClientId()) == "" || strings.TrimSpace(r.GetVersion()) == "" || strings.TrimSpace(r.GetPlatform()) == "":
		return nil, errRegisterText
	}
	return r, nil
}

// attempt is what the legacy door would make of the same node (protocol.md §4): who calls by the
// local socket is the daemon's own user, everybody else presents the bearer token again, for the
// rule of admission to judge.
func (l *link) attempt(ctx context.Context, c identity.Caller, r *nodesv1.NodeRegistration) identity.Attempt {
	a := identity.Attempt{
		Role: identity.RoleNode, ClientID: r.GetClientId(), ClientMode: r.GetClientMode(),
		DisplayName: r.GetDisplayName(), Platform: r.GetPlatform(), DeviceFamily: r.GetDeviceFamily(), Nonce: l.nonce,
	}
	cred, remote := credentialFrom(ctx)
	switch {
	case !remote:
		a.Owner, a.Peer = c.Local, identity.Peer{Local: c.Local}
	case c.DeviceID != "":
		a.DeviceToken, a.Peer = cred.token, cred.peer
	default:
		a.Token, a.Password, a.Peer = cred.token, cred.token, cred.peer
	}
	if d := r.GetDevice(); d != nil {
		a.Device = &identity.Proof{
			ID: d.GetDeviceId(), PublicKey: d.GetPublicKey(), Signature: d.GetSignature(),
			SignedAt: d.GetSignedAt().AsTime().UnixMilli(), Nonce: d.GetNonce(),
		}
	}
	return a
}

// register lets the node in, puts it into the registry and greets it. The caller calls leave when the
// link has ended.
func (l *link) register(ctx context.Context, c identity.Caller, r *nodesv1.NodeRegistration) (leave func(), err error) {
	d := &l.s.d
	a := l.attempt(ctx, c, r)
	adm, err := d.Devices.Admit(ctx, a)
	if err != nil {
		d.Log.LogAttrs(ctx, slog.LevelInfo, "a node was not let in", slog.String("reason", err.Error()), slog.String("ip", a.Peer.ReportedIP()))
		return nil, err
	}
	id, err := nodes.ID(adm.DeviceID, r.GetInstanceId(), r.GetClientId())
	if err != nil {
		return nil, err
	}
	id = nodes.QualifiedID(adm.Tenant, id)
	ip := a.Peer.ReportedIP()
	l.caller = identity.Caller{
		Door: identity.DoorGRPC, Role: identity.RoleNode, DeviceID: adm.DeviceID, Paired: adm.Paired, TokenID: adm.TokenID,
		ConnID: l.id, NodeID: id, Tenant: adm.Tenant, Expires: adm.Expires, Principal: "conn:" + l.id, ClientID: r.GetClientId(), ClientMode: r.GetClientMode(),
		DisplayName: r.GetDisplayName(), Local: c.Local, RemoteIP: ip,
	}
	if m := a.Peer.Member; m != nil {
		l.caller.DisplayName = m.Shown(l.caller.DisplayName)
	}
	// From here on an end of the device reaches this link; this is for one that came before.
	l.s.streams.become(l.live, l.caller)
	if err := d.Devices.Confirm(l.caller, adm); err != nil {
		return nil, err
	}
	l.hold()
	att, node, err := d.Nodes.Attach(nodes.Node{
		ID: id, DisplayName: r.GetDisplayName(), Platform: adm.Platform, Version: r.GetVersion(), DeviceFamily: adm.DeviceFamily,
		ModelIdentifier: r.GetModelIdentifier(), RemoteIP: ip, Permissions: r.GetPermissions(), PathEnv: r.GetPathEnv(), Paired: adm.Paired,
		Link: nodes.LinkGRPC, Tenant: adm.Tenant, AppKind: r.GetAppKind(), Cwd: r.GetCwd(), Metadata: metadataOf(r),
	}, r.GetCommands(), r.GetCaps(), l)
	if err != nil {
		return nil, err
	}
	l.s.links.admit(l, att)
	instance := strings.TrimSpace(r.GetInstanceId())
	if instance != "" {
		d.Nodes.Saw(nodes.QualifiedID(adm.Tenant, instance))
	}
	key := d.Presence.Join(system.Party{
		ConnID: l.id, DeviceID: adm.DeviceID, InstanceID: instance, ClientID: r.GetClientId(),
		Mode: r.GetClientMode(), DisplayName: l.caller.DisplayName, Version: r.GetVersion(), Platform: adm.Platform,
		DeviceFamily: adm.DeviceFamily, ModelIdentifier: r.GetModelIdentifier(), IP: ip, Role: identity.RoleNode, Tenant: adm.Tenant,
	})
	l.release(welcome(l, node, adm, d.Version))
	l.greet(ctx)
	close(l.admitted)
	d.System.RefreshHealth()
	d.Log.LogAttrs(ctx, slog.LevelInfo, "a node connected", slog.String("node", id), slog.String("conn", l.id),
		slog.String("client", r.GetClientId()), slog.String("device", adm.DeviceID), slog.String("ip", ip))
	return func() {
		att.Detach()
		if key != "" {
			d.Presence.Leave(key)
			d.System.AnnouncePresence()
		}
	}, nil
}

// metadataOf is what a node says of itself, nil for what is no JSON.
func metadataOf(r *nodesv1.NodeRegistration) []byte {
	if m := []byte(r.GetMetadataJson()); json.Valid(m) {
		return m
	}
	return nil
}

func welcome(l *link, n nodes.Node, adm identity.Admission, version string) *nodesv1.AttachResponse {
	w := &nodesv1.NodeWelcome{
		NodeId: cleanText(n.ID), ConnId: l.id, Version: version, Commands: cleanTexts(n.Commands),
		DisplayName: cleanText(n.DisplayName), Heartbeat: durationpb.New(linkBeat), SessionUrl: cleanText(n.SessionURL),
	}
	if adm.Issued != nil {
		w.DeviceToken = adm.Issued.Token
	}
	return &nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_Welcome{Welcome: w}}
}

// greet tells a node which words wake it, as the legacy door does (nodes-approvals.md §1.1).
func (l *link) greet(ctx context.Context) {
	words, err := l.s.d.Nodes.VoiceWake(ctx, l.caller, nodes.VoiceWakeIn{})
	if err != nil {
		l.s.d.Log.LogAttrs(ctx, slog.LevelError, "a node was not told which words wake it", slog.String("error", err.Error()))
		return
	}
	payload, ok := l.s.d.Render(events.Event{Name: "voicewake.changed", Payload: nodes.VoiceWakeChanged(words)})
	if ok {
		l.enqueue(notice("voicewake.changed", string(payload)))
	}
}

func notice(event, payload string) *nodesv1.AttachResponse {
	return &nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_Notice{Notice: &nodesv1.NodeNotice{Event: event, PayloadJson: &payload}}}
}

// take serves a message of a node that was let in.
func (l *link) take(ctx context.Context, m *nodesv1.AttachRequest) error {
	switch m := m.GetMessage().(type) {
	case *nodesv1.AttachRequest_Result:
		// Late, unknown and foreign answers are ignored, as by the legacy door.
		_, err := l.s.d.Nodes.Result(ctx, l.caller, linkResultFromProto(l.caller.NodeID, m.Result))
		return err
	case *nodesv1.AttachRequest_Event:
		_, err := l.s.d.Nodes.Event(ctx, l.caller, linkEventFromProto(l.caller.NodeID, m.Event))
		if err != nil {
			l.enqueue(reportRefused(m.Event.GetEvent(), err))
		}
		return nil
	case *nodesv1.AttachRequest_Ping:
		l.enqueue(&nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_Pong{Pong: &nodesv1.NodePong{}}})
		return nil
	case *nodesv1.AttachRequest_Pong:
		return nil
	case *nodesv1.AttachRequest_Register:
		return errRegister
	}
	return errLinkMessage
}

func reportRefused(event string, err error) *nodesv1.AttachResponse {
	out := &nodesv1.NodeReportRefused{Event: event, Message: internalText, Reason: "internal"}
	if st, _ := statusOf(err); st != nil {
		out.Message = st.Message()
	}
	if e, ok := errs.As(err); ok && e.Class != errs.Internal {
		out.Reason = e.Code
	}
	return &nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_ReportRefused{ReportRefused: out}}
}

func linkResultFromProto(nodeID string, r *nodesv1.NodeResult) nodes.ResultIn {
	in := nodes.ResultIn{NodeID: nodeID, InvokeID: r.GetInvokeId(), OK: r.GetOk(), PayloadJSON: r.PayloadJson}
	if e := r.GetError(); e != nil {
		in.Error = &nodes.NodeError{Code: absentWhenEmpty(e.GetCode()), Message: absentWhenEmpty(e.GetMessage())}
	}
	return in
}

func linkEventFromProto(nodeID string, r *nodesv1.NodeReport) nodes.EventIn {
	return nodes.EventIn{NodeID: nodeID, Event: r.GetEvent(), PayloadJSON: r.PayloadJson}
}

// linkInvokeToProto carries a request to its node. The node id is that of the link.
func linkInvokeToProto(r nodes.Request) (*nodesv1.NodeInvoke, error) {
	out := &nodesv1.NodeInvoke{InvokeId: r.ID, Command: cleanText(r.Command), IdempotencyKey: cleanText(r.IdempotencyKey)}
	if r.Params != nil {
		// What was approved is what runs: parameters are never mended.
		if !utf8.Valid(r.Params) {
			return nil, errParams
		}
		text := string(r.Params)
		out.ParamsJson = &text
	}
	if r.Timeout != nil {
		out.Timeout = durationpb.New(*r.Timeout)
	}
	return out, nil
}

// recvEnd says why nothing more comes from a node.
func recvEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return errGoodbye
	}
	return err
}

func newConnID() string { return uuid.NewString() }
