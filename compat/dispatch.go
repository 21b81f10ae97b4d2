package compat

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/schema"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/system"
)

// DefaultPort is the port of the original.
const DefaultPort = 18789

// request is one call on its way through the door.
type request struct {
	conn   *conn
	id     string
	op     *ops.Operation
	params wire.Value
	began  time.Time
	// nodeFile marks the methods that word a node that is not there in their own way.
	nodeFile bool
	// elsewhere says that another client's goroutine may answer: it may not be kept waiting.
	elsewhere bool
}

// binding is how a method is served.
type binding struct {
	// waits says that the call may take long: it gets a goroutine of its own.
	waits bool
	// normalize is what the original forgives before it validates; nil for nothing.
	normalize func(wire.Value) wire.Value
	// first refuses callers before their parameters are looked at; nil refuses nobody.
	first func(identity.Caller) error
	serve func(ctx context.Context, r request)
	// start serves a call that waits without a goroutine of its own, and calls left at its end; nil
	// for none. It returns false, with nothing done, for calls that need one all the same.
	start func(r request, left func()) bool
}

// unary binds a domain method between two codecs.
func unary[In, Out any](
	from func(wire.Value) (In, error), method func(context.Context, identity.Caller, In) (Out, error), to func(Out) any,
) binding {
	return binding{serve: func(ctx context.Context, r request) {
		in, err := from(r.params)
		if _, worded := errs.As(err); worded {
			r.failed(err)
			return
		}
		if err != nil {
			r.fail(wire.ErrorShape{Code: codeInvalid, Message: "invalid " + r.op.Legacy + " params: " + err.Error()}, errs.Invalid)
			return
		}
		out, err := method(ctx, r.conn.caller, in)
		if err != nil {
			r.failed(err)
			return
		}
		r.ok(to(out))
	}}
}

// waiting marks a binding as one that may take long.
func waiting(b binding) binding {
	b.waits = true
	return b
}

func forgiving(b binding, normalize func(wire.Value) wire.Value) binding {
	b.normalize = normalize
	return b
}

func starting(b binding, start func(request, func()) bool) binding {
	b.start = start
	return b
}

// none is the codec of methods without parameters.
func none(wire.Value) (struct{}, error) { return struct{}{}, nil }

// plain adapts a domain method without arguments.
func plain[Out any](f func(context.Context, identity.Caller) (Out, error)) func(context.Context, identity.Caller, struct{}) (Out, error) {
	return func(ctx context.Context, c identity.Caller, _ struct{}) (Out, error) { return f(ctx, c) }
}

// bind is the table of served methods.
func (d *Door) bind() map[string]binding {
	n, a, s, i := d.cfg.Nodes, d.cfg.Approvals, d.cfg.System, d.cfg.Identity
	talks, costs := d.cfg.Sessions, d.cfg.Usage
	who, able := d.cfg.Agents, d.cfg.Skills
	h := d.cfg.Heartbeat
	k := d.cfg.Cron
	ch := d.cfg.Channels
	return map[string]binding{
		"health":               unary(methods.HealthFromLegacy, s.Health, methods.HealthToLegacy),
		"status":               unary(none, plain(s.Status), methods.StatusToLegacy),
		"system-presence":      unary(none, plain(s.Presence), methods.PresenceToLegacy),
		"doctor.memory.status": unary(none, plain(s.Memory), methods.MemoryToLegacy),
		"update.run":           waiting(unary(methods.UpdateFromLegacy, d.cfg.Config.RunUpdate, methods.UpdateToLegacy)),
		"config.get":           waiting(unary(methods.ConfigGetFromLegacy, d.cfg.Config.Get, methods.ConfigToLegacy)),
		"config.set":           waiting(unary(methods.ConfigSetFromLegacy, d.cfg.Config.Set, methods.ConfigSetToLegacy)),
		"config.apply":         waiting(unary(methods.ConfigApplyFromLegacy, d.cfg.Config.Apply, methods.ConfigApplyToLegacy)),
		"config.patch":         waiting(unary(methods.ConfigApplyFromLegacy, d.cfg.Config.Patch, methods.ConfigApplyToLegacy)),
		"config.schema":        waiting(unary(none, d.cfg.Config.Schema, methods.ConfigSchemaToLegacy)),
		"config.schema.lookup": unary(methods.ConfigLookupFromLegacy, d.cfg.Config.Lookup, methods.ConfigLookupToLegacy),
		"system-event":         waiting(unary(methods.SystemEventFromLegacy, s.SendEvent, methods.SystemEventToLegacy)),
		"wake":                 waiting(binding{serve: d.wake}),
		"last-heartbeat":       unary(none, plain(h.Last), methods.LastHeartbeatToLegacy),
		"set-heartbeats":       unary(methods.SetHeartbeatsFromLegacy, h.SetEnabled, methods.SetHeartbeatsToLegacy),
		"logs.tail":            waiting(unary(methods.TailFromLegacy, s.TailLogs, methods.TailToLegacy)),

		"sessions.list":    waiting(unary(methods.SessionsListFromLegacy, talks.List, methods.SessionsListToLegacy)),
		"sessions.resolve": unary(methods.SessionsResolveFromLegacy, talks.Resolve, methods.SessionsResolveToLegacy),
		"sessions.patch":   waiting(unary(methods.SessionsPatchFromLegacy, talks.Patch, methods.SessionsPatchToLegacy)),
		"sessions.reset":   waiting(unary(methods.SessionsResetFromLegacy, talks.Reset, methods.SessionsResetToLegacy)),
		"sessions.delete":  waiting(unary(methods.SessionsDeleteFromLegacy, talks.Delete, methods.SessionsDeleteToLegacy)),
		"sessions.compact": waiting(unary(methods.SessionsCompactFromLegacy, talks.Compact, methods.SessionsCompactToLegacy)),
		"chat.inject":      waiting(unary(methods.ChatInjectFromLegacy, talks.Inject, methods.ChatInjectToLegacy)),
		"channels.status":  unary(methods.ChannelsStatusFromLegacy, ch.Status, methods.ChannelsStatusToLegacy),
		"channels.logout":  waiting(unary(methods.ChannelsLogoutFromLegacy, ch.Logout, methods.ChannelsLogoutToLegacy)),
		"web.login.start":  waiting(unary(methods.WebLoginStartFromLegacy, ch.StartLogin, methods.WebLoginStartToLegacy)),
		"web.login.wait":   waiting(unary(methods.WebLoginWaitFromLegacy, ch.WaitLogin, methods.WebLoginWaitToLegacy)),
		"send":             waiting(unary(methods.SendFromLegacy, ch.Send, methods.SendToLegacy)),
		"poll":             waiting(unary(methods.PollFromLegacy, ch.Poll, methods.PollToLegacy)),
		"secrets.reload":   waiting(unary(methods.SecretsReloadFromLegacy, d.cfg.Secrets.Reload, methods.SecretsReloadToLegacy)),
		"secrets.resolve":  waiting(unary(methods.SecretsResolveFromLegacy, d.cfg.Secrets.Resolve, methods.SecretsResolveToLegacy)),
		"wizard.start":     waiting(unary(methods.WizardStartFromLegacy, d.cfg.Wizard.Start, methods.WizardStartToLegacy)),
		"wizard.next":      waiting(unary(methods.WizardNextFromLegacy, d.cfg.Wizard.Next, methods.WizardNextToLegacy)),
		"wizard.cancel":    waiting(unary(methods.WizardSessionFromLegacy, d.cfg.Wizard.Cancel, methods.WizardStatusToLegacy)),
		"wizard.status":    waiting(unary(methods.WizardSessionFromLegacy, d.cfg.Wizard.Status, methods.WizardStatusToLegacy)),
		"chat.history":     waiting(unary(methods.ChatHistoryFromLegacy, talks.History, methods.ChatHistoryToLegacy)),
		"sessions.get":     waiting(unary(methods.SessionsGetFromLegacy, talks.Messages, methods.SessionsGetToLegacy)),
		"sessions.preview": waiting(unary(methods.SessionsPreviewFromLegacy, talks.Preview, methods.SessionsPreviewToLegacy)),

		"usage.cost":                waiting(unary(methods.UsageCostFromLegacy, costs.Cost, methods.UsageCostToLegacy)),
		"usage.status":              waiting(unary(none, plain(costs.Status), methods.UsageStatusToLegacy)),
		"sessions.usage":            waiting(unary(methods.SessionsUsageFromLegacy, costs.Sessions, methods.SessionsUsageToLegacy)),
		"sessions.usage.timeseries": waiting(unary(methods.UsageSeriesFromLegacy, costs.Series, methods.UsageSeriesToLegacy)),
		"sessions.usage.logs":       waiting(unary(methods.UsageLogsFromLegacy, costs.Logs, methods.UsageLogsToLegacy)),

		"node.list":          unary(methods.NodeListFromLegacy, n.List, methods.NodeListToLegacy),
		"node.describe":      unary(methods.NodeDescribeFromLegacy, n.Describe, methods.NodeDescribeToLegacy),
		"node.rename":        waiting(unary(methods.NodeRenameFromLegacy, n.Rename, methods.NodeRenameToLegacy)),
		"node.invoke":        starting(waiting(unary(methods.NodeInvokeFromLegacy, n.Invoke, methods.NodeInvokeToLegacy)), d.startInvoke),
		"node.invoke.result": forgiving(unary(methods.NodeResultFromLegacy, n.Result, methods.NodeResultToLegacy), methods.NormalizeNodeResult),
		"node.event":         starting(waiting(unary(methods.NodeEventFromLegacy, n.Event, methods.NodeEventToLegacy)), d.takeEvent),
		"push.test":          waiting(unary(methods.PushTestFromLegacy, n.TestPush, methods.PushTestToLegacy)),
		"skills.bins":        waiting(unary(methods.SkillBinsFromLegacy, n.SkillBins, methods.SkillBinsToLegacy)),
		"voicewake.get":      unary(methods.VoiceWakeFromLegacy, n.VoiceWake, methods.VoiceWakeToLegacy),
		"voicewake.set":      waiting(unary(methods.SetVoiceWakeFromLegacy, n.SetVoiceWake, methods.VoiceWakeToLegacy)),

		"node.pair.request": waiting(unary(methods.NodePairRequestFromLegacy, n.RequestPairing, methods.NodePairRequestToLegacy)),
		"node.pair.list":    unary(methods.NodePairListFromLegacy, n.ListPairings, methods.NodePairListToLegacy),
		"node.pair.approve": waiting(unary(methods.NodePairDecideFromLegacy, n.ApprovePairing, methods.NodePairApproveToLegacy)),
		"node.pair.reject":  waiting(unary(methods.NodePairDecideFromLegacy, n.RejectPairing, methods.NodePairRejectToLegacy)),
		"node.pair.verify":  unary(methods.NodePairVerifyFromLegacy, n.VerifyPairing, methods.NodePairVerifyToLegacy),

		"device.pair.list":               waiting(unary(none, plain(i.List), methods.DeviceListToLegacy)),
		"device.pair.approve":            waiting(unary(methods.DeviceApproveFromLegacy, i.Approve, methods.DeviceApproveToLegacy)),
		"device.pair.reject":             waiting(unary(methods.DeviceRejectFromLegacy, i.Reject, methods.DeviceRejectToLegacy)),
		"device.pair.remove":             waiting(unary(methods.DeviceRemoveFromLegacy, i.Remove, methods.DeviceRemoveToLegacy)),
		"device.token.rotate":            waiting(unary(methods.TokenRotateFromLegacy, i.RotateToken, methods.TokenRotateToLegacy)),
		"device.token.revoke":            waiting(unary(methods.TokenRevokeFromLegacy, i.RevokeToken, methods.TokenRevokeToLegacy)),
		"node.canvas.capability.refresh": {serve: d.refreshCanvas},

		"cron.list":   unary(methods.CronListFromLegacy, k.List, methods.CronListToLegacy),
		"cron.status": unary(none, k.Status, methods.CronStatusToLegacy),
		"cron.add":    forgiving(waiting(unary(methods.CronAddFromLegacy, k.Add, methods.CronJobToLegacy)), schema.NormalizeCronAdd),
		"cron.update": forgiving(waiting(unary(methods.CronUpdateFromLegacy, k.Update, methods.CronJobToLegacy)), schema.NormalizeCronUpdate),
		"cron.remove": waiting(unary(methods.CronIDFromLegacy, k.Remove, methods.CronRemoveToLegacy)),
		"cron.run":    waiting(unary(methods.CronRunFromLegacy, k.RunNow, methods.CronRunToLegacy)),
		"cron.runs":   waiting(unary(methods.CronRunsFromLegacy, k.Runs, methods.CronRunsToLegacy)),

		"agents.list":        waiting(unary(none, who.List, methods.AgentsToLegacy)),
		"agents.create":      waiting(unary(methods.AgentCreateFromLegacy, who.Create, methods.AgentCreateToLegacy)),
		"agents.update":      waiting(unary(methods.AgentUpdateFromLegacy, who.Update, methods.AgentUpdateToLegacy)),
		"agents.delete":      waiting(unary(methods.AgentDeleteFromLegacy, who.Delete, methods.AgentDeleteToLegacy)),
		"agents.files.list":  waiting(unary(methods.AgentFilesFromLegacy, who.ListFiles, methods.AgentFilesToLegacy)),
		"agents.files.get":   waiting(unary(methods.AgentFileFromLegacy, who.GetFile, methods.AgentFileToLegacy)),
		"agents.files.set":   waiting(unary(methods.AgentFileSetFromLegacy, who.SetFile, methods.AgentFileSetToLegacy)),
		"agent.identity.get": waiting(unary(methods.AgentIdentityFromLegacy, who.Identity, methods.AgentIdentityToLegacy)),
		"skills.status":      waiting(unary(methods.SkillStatusFromLegacy, able.Status, methods.SkillStatusToLegacy)),
		"skills.update":      waiting(unary(methods.SkillUpdateFromLegacy, able.Update, methods.SkillUpdateToLegacy)),
		"skills.install":     waiting(binding{serve: d.installSkill}),
		"models.list":        unary(none, d.cfg.Models.List, methods.ModelsToLegacy),
		"tools.catalog":      unary(methods.ToolsFromLegacy, d.cfg.Models.Tools, methods.ToolsToLegacy),

		"screen.vnc": waiting(unary(methods.ScreenFromLegacy, d.cfg.Screens.Get, methods.ScreenToLegacy)),

		"exec.approval.request":      waiting(binding{serve: d.requestApproval}),
		"exec.approval.waitDecision": waiting(unary(methods.ApprovalWaitFromLegacy, a.Wait, methods.ApprovalDecidedToLegacy)),
		"exec.approval.resolve":      waiting(unary(methods.ApprovalResolveFromLegacy, a.Resolve, methods.ApprovalResolveToLegacy)),
		"exec.approvals.get":         waiting(unary(none, plain(a.GetFile), methods.PolicyFileToLegacy)),
		"exec.approvals.set":         waiting(unary(methods.PolicySetFromLegacy, a.SetFile, methods.PolicyFileToLegacy)),
		"exec.approvals.node.get":    waiting(nodeFile(unary(methods.NodePolicyGetFromLegacy, a.GetNodeFile, methods.NodePolicyToLegacy))),
		"exec.approvals.node.set":    waiting(nodeFile(unary(methods.NodePolicySetFromLegacy, a.SetNodeFile, methods.NodePolicyToLegacy))),
	}
}

// wake queues a text; a blank one is no error to the original (control-plane.md §3).
func (d *Door) wake(ctx context.Context, r request) {
	in, err := methods.WakeFromLegacy(r.params)
	if err != nil {
		r.failed(err)
		return
	}
	out, err := d.cfg.System.Wake(ctx, r.conn.caller, in)
	switch {
	case errors.Is(err, system.ErrWakeText):
		r.ok(methods.OK{})
	case err != nil:
		r.failed(err)
	default:
		r.ok(methods.WakeToLegacy(out))
	}
}

// requestApproval asks, answers "accepted" when two answers are wanted, and answers again when
// there is a decision (nodes-approvals.md §3.16).
func (d *Door) requestApproval(ctx context.Context, r request) {
	in, twoPhase, err := methods.ApprovalRequestFromLegacy(r.params)
	if err != nil {
		r.fail(wire.ErrorShape{Code: codeInvalid, Message: "invalid " + r.op.Legacy + " params: " + err.Error()}, errs.Invalid)
		return
	}
	a, err := d.cfg.Approvals.Request(ctx, r.conn.caller, in)
	if err != nil {
		r.failed(err)
		return
	}
	if twoPhase {
		r.conn.send(wire.AppendResult(nil, r.id, wire.MustMarshal(methods.ApprovalAcceptedToLegacy(a))))
	}
	done, err := d.cfg.Approvals.Wait(ctx, r.conn.caller, a.ID)
	if err != nil {
		r.failed(err)
		return
	}
	r.ok(methods.ApprovalDecidedToLegacy(done))
}

// installSkill answers a failed installation with an error and its output (protocol.md trap 13).
func (d *Door) installSkill(ctx context.Context, r request) {
	in, err := methods.SkillInstallFromLegacy(r.params)
	if err != nil {
		r.fail(wire.ErrorShape{Code: codeInvalid, Message: "invalid " + r.op.Legacy + " params: " + err.Error()}, errs.Invalid)
		return
	}
	out, err := d.cfg.Skills.Install(ctx, r.conn.caller, in)
	switch {
	case err != nil:
		r.failed(err)
	case out.OK:
		r.ok(methods.SkillInstallToLegacy(out))
	default:
		r.send(wire.AppendErrorPayload(nil, r.id, wire.MustMarshal(methods.SkillInstallToLegacy(out)),
			wire.ErrorShape{Code: codeUnavailable, Message: out.Message}))
		r.observe(errs.Unavailable.String())
	}
}

// startInvoke passes a call on in the caller's reading goroutine, and its answer back in the node's:
// each goroutine between them would cost a round trip as much as the network does.
func (d *Door) startInvoke(r request, left func()) bool {
	in, err := methods.NodeInvokeFromLegacy(r.params)
	if err != nil || nodes.MayWait(in.Command) {
		return false
	}
	r.elsewhere = true
	left = sync.OnceFunc(left)
	ended := false
	r.safely(func() {
		d.cfg.Nodes.Start(r.conn.ctx, r.conn.caller, in, func(out nodes.InvokeOut, err error) {
			defer left()
			r.safely(func() {
				if err != nil {
					r.failed(err)
					return
				}
				r.ok(methods.NodeInvokeToLegacy(out))
			})
		})
		ended = true
	})
	if !ended {
		left() // it was a fault, and is answered
	}
	return true
}

// takeEvent takes what a node reports in the node's own goroutine, so that its events stay in order;
// those that wait for the disk get a goroutine.
func (d *Door) takeEvent(r request, left func()) bool {
	in, err := methods.NodeEventFromLegacy(r.params)
	if err == nil && nodes.Slow(in.Event) {
		return false
	}
	defer left()
	r.serve(d.methods["node.event"])
	return true
}

// nodeFile words a node that is not there as the exec.approvals.node methods do
// (nodes-approvals.md §3.15).
func nodeFile(b binding) binding {
	serve := b.serve
	b.serve = func(ctx context.Context, r request) {
		r.nodeFile = true
		serve(ctx, r)
	}
	return b
}

// dispatch serves one request. It returns false when the connection ends.
func (c *conn) dispatch(req wire.Request) bool {
	d := c.door
	op, _ := d.cfg.Catalogue.ByLegacy(req.Method)
	r := request{conn: c, id: req.ID, op: op, began: time.Now()}
	if req.Method == "connect" {
		op = nil
	}
	if err := d.cfg.Gate.Admit(c.caller, op); err != nil {
		r.failed(err)
		return c.countUnauthorized(err)
	}
	c.unauthorized = 0
	if op == nil {
		text := "unknown method: " + req.Method
		if req.Method == "connect" {
			text = "connect is only valid as the first request"
		}
		r.fail(wire.ErrorShape{Code: codeInvalid, Message: text}, errs.Invalid)
		return true
	}
	b, served := d.methods[req.Method]
	r.params = req.ParamsOrEmpty()
	if b.normalize != nil {
		r.params = b.normalize(r.params)
	}
	if b.first != nil {
		if err := b.first(c.caller); err != nil {
			r.failed(err)
			return true
		}
	}
	if problem := schema.Check(req.Method, c.dialect.Frozen(req.Method, r.params)); problem != "" {
		r.fail(wire.ErrorShape{Code: codeInvalid, Message: problem}, errs.Invalid)
		return true
	}
	if !served {
		r.fail(wire.ErrorShape{
			Code: codeUnavailable, Message: req.Method + " is not served by this version of hanzod yet",
		}, errs.Unavailable)
		return true
	}
	if !b.waits {
		r.serve(b)
		return true
	}
	if c.inFlight.Add(1) > maxInFlight {
		c.inFlight.Add(-1)
		r.fail(wire.ErrorShape{
			Code: codeUnavailable, Message: "too many calls of this connection are waiting; try again later", Retryable: true,
		}, errs.Exhausted)
		return true
	}
	c.calls.Add(1)
	left := func() {
		c.inFlight.Add(-1)
		c.calls.Done()
	}
	if b.start != nil && b.start(r, left) {
		return true
	}
	go func() {
		defer left()
		r.serve(b)
	}()
	return true
}

// serve runs the binding.
func (r request) serve(b binding) {
	r.safely(func() { b.serve(r.conn.ctx, r) })
}

// safely runs a part of a call. A fault of ours costs this call, not the daemon.
func (r request) safely(part func()) {
	defer func() {
		if fault := recover(); fault != nil {
			r.conn.door.cfg.Log.Error("a call panicked", "method", r.methodName(), "panic", fault, "stack", string(debug.Stack()))
			r.fail(wire.ErrorShape{Code: codeUnavailable, Message: "Error: internal error"}, errs.Internal)
		}
	}()
	part()
}

// countUnauthorized ends a connection that keeps calling what its role may not (protocol.md §5).
func (c *conn) countUnauthorized(err error) bool {
	e, ok := errs.As(err)
	if !ok || e.Code != gate.ErrRole.Code {
		c.unauthorized = 0
		return true
	}
	if c.unauthorized++; c.unauthorized <= maxUnauthorized {
		return true
	}
	c.end(websocket.StatusPolicyViolation, "repeated unauthorized calls")
	return false
}

func (r request) observe(class string) {
	if m := r.conn.door.cfg.Metrics; m != nil {
		name := "unknown"
		if r.op != nil {
			name = r.op.Name()
		}
		m.Observe("legacy", name, class, time.Since(r.began))
	}
}

// ok answers with a result; nil leaves the payload out.
func (r request) ok(result any) {
	var payload []byte
	if result != nil {
		var err error
		if payload, err = wire.Marshal(result); err != nil {
			r.failed(errs.Wrap(errs.Internal, "encode the answer", err))
			return
		}
	}
	r.send(wire.AppendResult(nil, r.id, payload))
	r.observe("ok")
}

// failed answers with a domain error.
func (r request) failed(err error) {
	class := errs.ClassOf(err)
	if class == errs.Internal || class == errs.Unknown {
		if r.conn.ctx.Err() != nil {
			return // the client is gone
		}
		r.conn.door.cfg.Log.Error("a call failed", "method", r.methodName(), "error", err)
	}
	shape := shapeOf(err)
	if r.nodeFile && errors.Is(err, nodes.ErrNotConnected) {
		shape = nodeFault("NOT_CONNECTED", "node not connected")
	}
	if r.nodeFile && errors.Is(err, approvals.ErrNodeRequired) {
		shape.Message = "nodeId required"
	}
	r.fail(shape, class)
}

func (r request) send(data []byte) {
	if r.elsewhere {
		_ = r.conn.offer(data) // a client that is gone misses its answer
		return
	}
	r.conn.send(data)
}

func (r request) fail(e wire.ErrorShape, class errs.Class) {
	r.send(wire.AppendError(nil, r.id, e))
	r.observe(class.String())
}

func (r request) methodName() string {
	if r.op == nil {
		return "unknown"
	}
	return r.op.Name()
}
