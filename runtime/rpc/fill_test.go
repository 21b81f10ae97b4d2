package rpc

import (
	"fmt"
	"github.com/hanzoai/hanzod/tunnel/uplinks"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/errs"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/checkpoints"
	"github.com/hanzoai/hanzod/tunnel/files"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/wizard"
)

// The fill tests hold every codec to every field. A value with all fields set is converted; then
// one field at a time is cleared, and the result must change, or the field must be named as
// dropped. A name that is dropped no more fails too.

// outbound is one codec from the domain to the contract.
type outbound struct {
	name    string
	in      any
	convert func(any) (proto.Message, error)
	dropped []string
}

func out[D any, P proto.Message](name string, to func(D) (P, error), dropped ...string) outbound {
	var in D
	return outbound{name, in, func(v any) (proto.Message, error) { return to(v.(D)) }, dropped}
}

func TestOutboundCarriesEveryField(t *testing.T) {
	s := &Server{d: Deps{NodeName: func(id string) string { return "name of " + id }}}
	approval := func(a approvals.Approval) (*approvalsv1.Approval, error) { return s.approvalToProto(a), nil }
	beats := []string{"Prompt", "Model", "AckMaxChars"}
	for _, c := range []outbound{
		out("secrets.ListOut", listSecretsToProto), out("secrets.ReloadOut", reloadSecretsToProto), out("secrets.ResolveOut", resolveSecretsToProto),
		out("wizard.StepOut", startWizardToProto), out("wizard.StepOut next", nextStepToProto, "SessionID"),
		out("wizard.StatusOut", cancelWizardToProto), out("wizard.StatusOut get", getWizardToProto),
		out("tunnel.OpenOut", openTerminalToProto, "Terminal.Record.Tenant"), out("tunnel.ListOut", listTerminalsToProto, "Terminals[0].Record.Tenant"), out("tunnel.WriteOut", writeTerminalToProto),
		// Where a screen is shown is the same for all.
		out("screens.GetOut", getScreenToProto, "Host"), out("screens.CreateTokenOut", screenTokenToProto),
		out("tunnel.ResizeOut", resizeTerminalToProto), out("tunnel.CloseOut", closeTerminalToProto),
		out("files.Entry", func(e files.Entry) (*tunnelv1.FileEntry, error) { return fileEntryToProto(e), nil }),
		out("checkpoints.ListOut", checkpointListToProto), out("checkpoints.PruneOut", checkpointPruneToProto),
		out("checkpoints.Step", func(st checkpoints.Step) (*tunnelv1.CheckpointStep, error) { return checkpointStepToProto(st), nil }),
		out("checkpoints.Restored", func(r checkpoints.Restored) (*tunnelv1.CheckpointRestored, error) {
			return checkpointRestoredToProto(r), nil
		}),
		// The words are few; TestBindingWords has them. What stands in another place too is told once.
		// How many streams are in which state is for metrics.
		out("tunnels.ListOut", listTunnelsToProto, "Tunnels[0].States.Opening", "Tunnels[0].States.Open", "Tunnels[0].States.HalfClosedLocal", "Tunnels[0].States.HalfClosedRemote", "Tunnels[0].States.Closing", "Tunnels[0].Bindings[0].TunnelID", "Tunnels[0].Bindings[0].Kind", "Tunnels[0].Bindings[0].Access",
			"Tunnels[0].Bindings[0].NodeID"),
		out("tunnels.Snapshot", func(s tunnels.Snapshot) (*tunnelv1.TunnelServiceWatchResponse, error) { return snapshotToProto(s), nil },
			"Tunnels[0].States.Opening", "Tunnels[0].States.Open", "Tunnels[0].States.HalfClosedLocal", "Tunnels[0].States.HalfClosedRemote", "Tunnels[0].States.Closing", "Tunnels[0].Bindings[0].TunnelID", "Tunnels[0].Bindings[0].Kind", "Tunnels[0].Bindings[0].Access", "Tunnels[0].Bindings[0].NodeID"),
		out("bindings.CreateOut", createBindingToProto, "Binding.Kind", "Binding.Protocol", "Binding.Label"),
		out("tunnel.ListBindingsOut", listBindingsToProto, "Bindings[0].Binding.Kind", "Bindings[0].Binding.Protocol",
			"Bindings[0].Binding.Label", "Bindings[0].Binding.LocalAddr"),
		out("tech.Session", func(r tech.Session) (*tunnelv1.TechSession, error) { return techToProto(r), nil }),
		out("tech.Audit", techAuditToProto), out("tech.Event", func(e tech.Event) (*tunnelv1.TechSessionServiceWatchResponse, error) { return techEventToProto(e), nil }),
		// Its text stands for what is text, its bytes for what is not.
		out("message.Output", func(o message.Output) (*tunnelv1.TechSessionServiceRunResponse, error) {
			return techOutputToProto("1", o), nil
		}, "Stdout", "Stderr"),
		out("tunnel.HealthOut", tunnelHealthToProto), out("tunnel.PeersOut", listPeersToProto),
		out("files.ListOut", fileListToProto), out("files.ReadOut", func(o files.ReadOut) (*tunnelv1.FileContent, error) { return fileContentToProto(o), nil }),
		out("nodes.ListOut", listNodesToProto, "At"),
		out("nodes.DescribeOut", getNodeToProto, "At"),
		out("nodes.RenameOut", renameNodeToProto),
		out("nodes.InvokeOut", invokeToProto),
		out("nodes.ResultOut", resultToProto),
		out("nodes.Request", linkInvokeToProto, "NodeID"), // a link is that of one node
		// The id of the request is the caller's own.
		out("nodes.RequestPairingOut", pairRequestToProto), out("nodes.RejectPairingOut", pairRejectToProto, "RequestID"),
		out("nodes.ApprovePairingOut", pairApproveToProto, "RequestID"),
		// A token is shown when it is made and not again.
		out("nodes.ListPairingsOut", pairListToProto, "Paired[0].Token"),
		out("nodes.VerifyPairingOut", pairVerifyToProto, "Node.Token"),
		out("nodes.TestPushOut", testPushToProto),
		out("nodes.VoiceWakeOut", getVoiceWakeToProto), out("nodes.VoiceWakeOut set", setVoiceWakeToProto), out("nodes.SkillBinsOut", skillBinsToProto),
		out("agents.ListOut", listAgentsToProto), out("agents.CreateOut", createAgentToProto), out("agents.UpdateOut", updateAgentToProto),
		out("agents.DeleteOut", deleteAgentToProto), out("agents.IdentityOut", agentIdentityToProto), out("agents.FilesOut", listAgentFilesToProto),
		out("agents.FileOut", getAgentFileToProto), out("agents.FileOut set", setAgentFileToProto), out("skills.StatusOut", listSkillsToProto),
		out("skills.InstallOut", installSkillToProto), out("models.Model", listModelsToProto), out("models.ToolsOut", listToolsToProto),
		out("approvals.Approval", approval,
			// The plan is how the binding came to be; the rest is for the daemon and its audit log.
			"Plan.Argv[0]", "Plan.Cwd", "Plan.RawCommand", "Plan.AgentID", "Plan.SessionKey", "Plan",
			"TurnSource.Channel", "TurnSource.To", "TurnSource.AccountID", "TurnSource.ThreadID",
			// requested_by is the strongest of these.
			"Requester.ConnID", "Requester.Principal", "Requester.ClientID", "Requester.Paired", "Requester.Tenant",
			"Votes[0].Party.DeviceID", "Votes[0].Party.Principal", "Votes[0].Party.Paired",
			"ResolvedBySubject", "Uses", "LastUsedAt"),
		out("approvals.GrantOut", func(g approvals.GrantOut) (*approvalsv1.Grant, error) { return s.grantToProto(g), nil },
			// Who agreed is in the audit log.
			"Grant.Makers[0].DeviceID", "Grant.Makers[0].Principal", "Grant.Makers[0].Paired", "Grant.Tenant"),
		out("approvals.AuditEntry", func(e approvals.AuditEntry) (*auditv1.Row, error) { return s.auditToProto(e), nil }),
		out("approvals.AuditEnds", auditHeadToProto),
		out("audit.Report", func(r audit.Report) (*auditv1.Report, error) { return reportToProto(r), nil }),
		out("audit.Row", exportedToProto),
		out("runs.Run", func(r runs.Run) (*runsv1.Run, error) { return s.runToProto(r), nil },
			// Values of the environment are never shown.
			"Env",
			// requested_by is the strongest of these.
			"Requester.Paired", "Requester.Tenant", "Requester.TokenID", "Requester.Principal", "Requester.ConnID", "Requester.Scopes[0]",
			"Requester.ClientID", "Requester.DisplayName", "Requester.Local",
			// Who asked knows them, and Tried is between the daemon and itself.
			"Timeout", "ApprovalTimeout", "WaitForNode", "Tried"),
		out("runs.Chunk", func(c runs.Chunk) (*runsv1.Output, error) { return outputToProto(c), nil }),
		out("policy.Snapshot", policyToProto),
		out("approvals.RulesOut", func(r approvals.RulesOut) (*approvalsv1.Rules, error) { return rulesToProto(r), nil }, "State.Text"), // the text is that of the file
		out("approvals.Explanation", explanationToProto,
			// The explanation says it itself; GetRules has more about the rules.
			"Ruling.Rule", "Ruling.Where", "Ruling.Reason", "Ruling.Rules", "Rules.Text", "Rules.Count", "Rules.Since",
			"Machine.FileRuling.Run", "Machine.FileRuling.Reason"), // the verdict is made of these
		out("approvals.TestPolicyOut", testToProto), out("approvals.SimulateOut", simulationToProto),
		out("identity.ListOut", func(o identity.ListOut) (*devicesv1.ListDevicesResponse, error) {
			return listDevicesToProto(o, nil)
		},
			// The first and the last role, for legacy clients; nobody asks about what is silent.
			"Pending[0].Role", "Pending[0].Silent", "Devices[0].Role",
			// What bounds rotation is not shown.
			"Devices[0].ApprovedScopes[0]"),
		out("identity.RejectOut", rejectPairingToProto, "RequestID"),
		out("identity.RotateOut", rotateTokenToProto, "DeviceID", "Role"),
		out("identity.RevokeOut", revokeTokenToProto, "DeviceID", "Role"),
		out("identity.EnrollOut", enrollToProto),
		// What a key is known by is not shown.
		// The phases are few; TestUplinkPhases has them.
		out("uplinks.ListOut", listUplinksToProto, "Uplinks[0].Phase"), out("uplinks.State", getUplinkToProto, "Phase"),
		out("uplinks.State", startUplinkToProto, "Phase"), out("uplinks.State", stopUplinkToProto, "Phase"),
		out("identity.LinkKeyOut", createLinkKeyToProto, "Key.Hash"),
		out("identity.LinkKeysOut", listLinkKeysToProto, "Keys[0].Hash"),
		out("identity.RevokeLinkKeyOut", revokeLinkKeyToProto, "Key.Hash"),
		out("identity.InviteOut", func(o identity.InviteOut) (*devicesv1.CreateInviteResponse, error) {
			return createInviteToProto(o, Remote{}, "node")
		}),
		// A summary names sessions and says when they changed.
		out("system.Health", healthToProto, append(prefixed("Agents[0].Heartbeat.", beats), prefixed("Agents[0].Recent[0].", []string{
			"AgentID", "Kind", "ID", "Thinking", "Verbose", "Reasoning", "Elevated", "SystemSent", "Aborted", "Input", "Output", "CacheRead", "CacheWrite", "Total", "TotalFresh", "Model", "Context",
		})...)...),
		out("system.Status", statusToProto, append(prefixed("Agents[0].Heartbeat.", beats),
			// The key names the agent; whether a total is fresh is told once.
			"At", "Admin", "Agents[0].Name", "Agents[0].Default", "Agents[0].Recent[0].AgentID", "Agents[0].Recent[0].TotalFresh")...),
		// Rev is for keeping encoded rows.
		out("[]system.Presence", presenceToProto, "[0].Rev", "[0].Key", "[0].Tenant"),
		out("*heartbeat.Report", func(r heartbeat.Report) (*systemv1.GetLastHeartbeatResponse, error) { return lastHeartbeatToProto(&r) }),
		out("channels.StatusOut", channelsToProto), out("channels.LogoutOut", logoutToProto), out("channels.StartLoginOut", startLoginToProto),
		out("channels.WaitLoginOut", waitLoginToProto), out("channels.SendOut", sendToProto), out("channels.PollOut", pollToProto),
		out("talk.ModeOut", talkModeToProto), out("talk.StatusOut", speechStatusToProto), out("talk.ProvidersOut", speechProvidersToProto),
		out("talk.SetProviderIn", speechProviderToProto), out("talk.ConvertOut", convertToProto),
		// It says which provider it is.
		out("talk.ConfigOut", talkConfigToProto, "Talk.Active.ID"),
		out("heartbeat.Outcome", outcomeToProto), out("system.Memory", memoryToProto),
		out("system.TailOut", tailToProto),
		out("cron.Job", func(j cron.Job) (*cronv1.Job, error) { return jobToProto(j), nil },
			// What is there says the kind; who owns a command is told by the strongest of these.
			"Schedule.Kind", "Payload.Kind", "Owner.Paired", "Owner.Tenant", "Owner.Principal", "Owner.Scopes[0]", "Owner.ClientID", "Owner.DisplayName", "Owner.Local"),
		out("cron.Entry", func(e cron.Entry) (*cronv1.Run, error) { return cronRunToProto(e), nil }),
		out("cron.StatusOut", cronStatusToProto), out("cron.Page", func(p cron.Page) (*cronv1.Page, error) { return pageToProto(p), nil }),
		out("live.Pending", func(p live.Pending) (*configv1.PendingChange, error) { return pendingToProto(&p), nil },
			// The text of before holds secrets; the rest is between the daemon and itself.
			"Path", "Existed", "Before", "BeforeHash", "Hash"),
		out("live.UpdateState", updateToProto),
		out("live.Restart", func(r live.Restart) (*configv1.Restart, error) { return restartToProto(r), nil }, "PID"),
		out("sharedSecret", secretToProto),
		// The path is that of a file the original has; the rest is for searching and sorting.
		out("sessions.ListOut", listSessionsToProto, "Path", "Sessions[0].Row.name", "Sessions[0].Row.hidden"),
		out("sessions.Previews", previewsToProto), out("sessions.History", historyToProto),
		out("[]sessions.Raw", func(in []sessions.Raw) (*sessionsv1.ListMessagesResponse, error) {
			return &sessionsv1.ListMessagesResponse{Messages: messagesToProto(in)}, nil
		}),
		out("sessions.PatchOut", patchSessionToProto), out("sessions.ResetOut", resetSessionToProto),
		out("sessions.DeleteOut", deleteSessionToProto), out("sessions.CompactOut", compactSessionToProto),
		out("usage.Cost", costToProto), out("usage.Status", providersToProto), out("usage.Series", seriesToProto),
		out("[]usage.Log", usageLogsToProto),
		// Who wants to know more of a session asks for it; that it was asked for is known to who asked.
		out("usage.Sessions", sessionsUsageToProto, append(otherEntryFields(t, "Sessions[0].Entry.", "Label", "ChatType", "Channel",
			"ProviderOverride", "ModelOverride", "ModelProvider", "Model"), "ContextWeight")...),
	} {
		t.Run(c.name, func(t *testing.T) {
			full := reflect.New(reflect.TypeOf(c.in)).Elem()
			fill(t, full, "", new(int))
			all, err := c.convert(full.Interface())
			if err != nil {
				t.Fatal(err)
			}
			dropped := map[string]bool{}
			for _, d := range c.dropped {
				dropped[d] = true
			}
			for _, path := range leaves(full, "") {
				less := reflect.New(full.Type()).Elem()
				fill(t, less, "", new(int))
				clearAt(less, "", path)
				some, err := c.convert(less.Interface())
				if err != nil {
					t.Fatalf("without %s: %v", path, err)
				}
				if carried := !proto.Equal(all, some); carried == dropped[path] {
					t.Errorf("%s: carried %v, named as dropped %v", path, carried, dropped[path])
				}
				delete(dropped, path)
			}
			for path := range dropped {
				t.Errorf("%s is named as dropped and does not exist", path)
			}
		})
	}
}

// otherEntryFields are the fields of a session entry but for some.
func otherEntryFields(t *testing.T, prefix string, but ...string) (out []string) {
	t.Helper()
	v := reflect.New(reflect.TypeFor[sessions.Entry]()).Elem()
	fill(t, v, "", new(int))
	for _, path := range leaves(v, "") {
		if !slices.Contains(but, path) {
			out = append(out, prefix+path)
		}
	}
	return out
}

func prefixed(prefix string, in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = prefix + s
	}
	return out
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	bytesType = reflect.TypeFor[[]byte]()
	rawType   = reflect.TypeFor[sessions.Raw]()
)

// fill sets every field below v, each to something else.
func fill(t *testing.T, v reflect.Value, path string, n *int) {
	*n++
	switch {
	case v.Type() == timeType:
		v.Set(reflect.ValueOf(time.Unix(int64(*n), 0)))
		return
	case v.Type() == bytesType, v.Type() == rawType:
		v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
		return
	case v.Type() == reflect.TypeFor[approvals.State]():
		v.SetString(string(approvals.Denied))
		return
	case v.Type() == reflect.TypeFor[runs.State]():
		v.SetString(string(runs.Denied))
		return
	case v.Type() == reflect.TypeFor[bindings.Access]():
		v.SetString(string(bindings.Operator))
		return
	case v.Type() == reflect.TypeFor[files.Kind]():
		v.SetString(string(files.Link))
		return
	case v.Type() == reflect.TypeFor[message.Kind]():
		v.SetString(string(message.Service))
		return
	case v.Type() == reflect.TypeFor[tech.Status]():
		v.SetString(string(tech.Closed))
		return
	case v.Type() == reflect.TypeFor[runs.Stream]():
		v.SetString(string(runs.Stderr))
		return
	case v.Type() == reflect.TypeFor[wizard.Type]():
		v.SetString(string(wizard.Confirm))
		return
	case v.Type() == reflect.TypeFor[wizard.Status]():
		v.SetString(string(wizard.Cancelled))
		return
	case v.Type() == reflect.TypeFor[errs.Class]():
		v.Set(reflect.ValueOf(errs.Denied))
		return
	case v.Type() == reflect.TypeFor[approvals.GrantState]():
		v.SetString(string(approvals.GrantUsed))
		return
	case v.Type() == reflect.TypeFor[policy.Effect]():
		v.SetString(string(policy.EffectAsk))
		return
	case v.Type() == reflect.TypeFor[approvals.Verdict]():
		v.SetString(string(approvals.VerdictDeny))
		return
	case v.Type() == reflect.TypeFor[approvals.Decision]():
		v.SetString(string(approvals.AllowAlways))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(int64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n))
	case reflect.Uint64, reflect.Uint32:
		v.SetUint(uint64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), path, n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), path+"[0]", n)
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), path, n)
		}
	case reflect.Uint8:
		v.SetUint(uint64(*n & 0xff))
	case reflect.Map:
		key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, path, n)
		fill(t, val, path, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, val)
	case reflect.Interface:
		v.Set(reflect.ValueOf(fmt.Sprintf("text %d", *n)))
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(t, v.Field(i), path+"."+f.Name, n)
			} else {
				set := reflect.NewAt(f.Type, v.Field(i).Addr().UnsafePointer()).Elem()
				fill(t, set, path+"."+f.Name, n)
			}
		}
	default:
		t.Fatalf("%s: fill cannot set a %s", path, v.Kind())
	}
}

// walk calls f for every field that can be cleared, inner ones before the one that holds them.
func walk(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	switch {
	case v.Type() == timeType || v.Type() == bytesType || v.Type() == rawType:
		f(path, v)
	case v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct:
		walk(v.Elem(), path, f)
		f(path, v)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			set := reflect.NewAt(field.Type, v.Field(i).Addr().UnsafePointer()).Elem()
			walk(set, strings.TrimPrefix(path+"."+field.Name, "."), f)
		}
	case v.Kind() == reflect.Slice:
		walk(v.Index(0), path+"[0]", f)
	default:
		f(path, v)
	}
}

func leaves(v reflect.Value, path string) []string {
	var out []string
	walk(v, path, func(p string, _ reflect.Value) { out = append(out, p) })
	return out
}

func clearAt(v reflect.Value, path, at string) {
	walk(v, path, func(p string, x reflect.Value) {
		if p == at {
			x.SetZero()
		}
	})
}

// Absent and empty text are two things wherever the contract can tell them apart.
func TestAbsentIsNotEmpty(t *testing.T) {
	empty := ""
	full := reflect.New(reflect.TypeFor[approvals.Approval]()).Elem()
	fill(t, full, "", new(int))
	s := &Server{d: Deps{NodeName: func(string) string { return "" }}}
	for _, path := range leaves(full, "") {
		a := reflect.New(full.Type()).Elem()
		fill(t, a, "", new(int))
		isText := false
		walk(a, "", func(p string, x reflect.Value) {
			if p == path && x.Type() == reflect.TypeFor[*string]() {
				isText = true
				x.Set(reflect.ValueOf(&empty))
			}
		})
		if !isText || strings.HasPrefix(path, "Plan") || strings.HasPrefix(path, "TurnSource") {
			continue
		}
		with := s.approvalToProto(a.Interface().(approvals.Approval))
		clearAt(a, "", path)
		if without := s.approvalToProto(a.Interface().(approvals.Approval)); proto.Equal(with, without) {
			t.Errorf("%s: absent and empty look the same", path)
		}
	}
}

// inbound is one codec from the contract to the domain.
type inbound struct {
	name    string
	in      proto.Message
	convert func(proto.Message) (any, error)
	dropped []string
}

func in[P proto.Message, D any](name string, from func(P) (D, error), dropped ...string) inbound {
	var p P
	return inbound{name, p, func(m proto.Message) (any, error) { return from(m.(P)) }, dropped}
}

func TestInboundCarriesEveryField(t *testing.T) {
	for _, c := range []inbound{
		// The raw bytes of a path come before its text.
		in("StatFileRequest", statFileFromProto, "path"), in("ListFilesRequest", listFilesFromProto, "path"), in("ReadFileRequest", readFileFromProto, "path"),
		in("HashFileRequest", hashFileFromProto, "path"), in("FileUpload", writeFileFromProto, "path"), in("GetUploadRequest", heldFromProto, "path"),
		in("MakeDirectoryRequest", makeDirectoryFromProto, "path"), in("RemoveFileRequest", removeFileFromProto, "path"),
		in("RenameFileRequest", renameFileFromProto, "path", "new_path"),
		in("ListNodesRequest", listNodesFromProto),
		in("TechSessionServiceOpenRequest", openTechFromProto), in("TechSessionServiceListRequest", listTechFromProto),
		in("GetNodeRequest", getNodeFromProto),
		in("RenameNodeRequest", renameNodeFromProto),
		in("InvokeRequest", invokeFromProto),
		in("ReportResultRequest", resultFromProto),
		in("ReportEventRequest", eventFromProto),
		in("RequestPairingRequest", pairRequestFromProto),
		in("ApprovePairingRequest", pairDecideFromProto[*nodesv1.ApprovePairingRequest]),
		in("TestPushRequest", testPushFromProto),
		in("SetVoiceWakeRequest", setVoiceWakeFromProto),
		in("VerifyPairingRequest", pairVerifyFromProto),
		in("RequestApprovalRequest", requestFromProto),
		in("WaitApprovalRequest", idFromProto[*approvalsv1.WaitApprovalRequest]),
		in("SetRulesRequest", setRulesFromProto), in("ExplainPolicyRequest", explainFromProto), in("SimulatePolicyRequest", simulateFromProto),
		in("CreateGrantRequest", createGrantFromProto), in("ListGrantsRequest", listGrantsFromProto),
		in("RevokeGrantRequest", idFromProto[*approvalsv1.RevokeGrantRequest]), in("GetGrantRequest", idFromProto[*approvalsv1.GetGrantRequest]),
		in("GetApprovalRequest", idFromProto[*approvalsv1.GetApprovalRequest]),
		in("ResolveApprovalRequest", resolveFromProto),
		in("ListApprovalsRequest", listApprovalsFromProto),
		in("ListAuditRequest", listAuditFromProto),
		in("GetAuditRequest", seqFromProto),
		in("SetPolicyFileRequest", setFileFromProto),
		in("NodeResult", func(r *nodesv1.NodeResult) (nodes.ResultIn, error) { return linkResultFromProto("n", r), nil }),
		in("NodeReport", func(r *nodesv1.NodeReport) (nodes.EventIn, error) { return linkEventFromProto("n", r), nil }),
		in("GetNodePolicyFileRequest", nodeIDFromProto),
		in("SetNodePolicyFileRequest", setNodeFileFromProto),
		in("GetHealthRequest", healthFromProto),
		in("StartRunRequest", startRunFromProto), in("ListRunsRequest", listRunsFromProto),
		in("GetRunRequest", idFromProto[*runsv1.GetRunRequest]), in("WaitRunRequest", idFromProto[*runsv1.WaitRunRequest]),
		in("KillRunRequest", idFromProto[*runsv1.KillRunRequest]),
		in("ApprovePairingRequest", approvePairingFromProto),
		in("RejectPairingRequest", rejectPairingFromProto),
		in("RemoveDeviceRequest", removeDeviceFromProto),
		in("RotateTokenRequest", rotateTokenFromProto),
		in("RevokeTokenRequest", revokeTokenFromProto),
		in("CreateInviteRequest", createInviteFromProto),
		in("EnrollRequest", enrollFromProto),
		in("TunnelServiceWatchRequest", watchTunnelsFromProto), in("ListPeersRequest", listPeersFromProto),
		in("TunnelServiceKillRequest", killTunnelFromProto), in("CreateBindingRequest", createBindingFromProto, "kind"), // the first is the default
		in("GetUplinkRequest", getUplinkFromProto), in("StartUplinkRequest", startUplinkFromProto), in("StopUplinkRequest", stopUplinkFromProto),
		in("CreateLinkKeyRequest", createLinkKeyFromProto), in("RevokeLinkKeyRequest", revokeLinkKeyFromProto),
		in("TailLogsRequest", tailFromProto),
		in("ListSessionsRequest", listSessionsFromProto), in("ResolveSessionRequest", resolveSessionFromProto),
		in("PreviewSessionsRequest", previewSessionsFromProto), in("ListMessagesRequest", listMessagesFromProto), in("GetHistoryRequest", historyFromProto),
		in("ResetSessionRequest", resetSessionFromProto), in("DeleteSessionRequest", deleteSessionFromProto),
		in("CompactSessionRequest", compactSessionFromProto), in("InjectMessageRequest", injectFromProto),
		in("PatchSessionRequest", func(r *sessionsv1.PatchSessionRequest) (sessions.PatchIn, error) {
			if len(r.GetClear()) > 0 {
				r = proto.CloneOf(r)
				r.Label, r.Clear = nil, []string{"label"}
			}
			return patchSessionFromProto(r)
		}, "label"), // it is cleared
		in("GetCostRequest", costFromProto), in("GetSessionsUsageRequest", sessionsUsageFromProto), in("GetSessionLogsRequest", usageLogsFromProto),
		in("ListSecretsRequest", listSecretsFromProto), in("ResolveSecretsRequest", resolveSecretsFromProto),
		in("TerminalServiceOpenRequest", openTerminalFromProto), in("TerminalServiceWriteRequest", func(r *tunnelv1.TerminalServiceWriteRequest) (tunnel.WriteIn, error) {
			if len(r.GetData()) > 0 {
				r = proto.CloneOf(r)
				r.Text = ""
			}
			return writeTerminalFromProto(r)
		}, "text"), // it is there for who gives no data
		in("TerminalServiceResizeRequest", resizeTerminalFromProto), in("TerminalServiceCloseRequest", closeTerminalFromProto),
		in("TerminalServiceListRequest", listTerminalsFromProto),
		in("ScreenServiceGetRequest", getScreenFromProto), in("ScreenServiceCreateTokenRequest", screenTokenFromProto),
		in("StartWizardRequest", startWizardFromProto), in("NextStepRequest", nextStepFromProto),
		in("CancelWizardRequest", cancelWizardFromProto), in("GetWizardRequest", getWizardFromProto),
		in("AddJobRequest", addJobFromProto), in("UpdateJobRequest", updateJobFromProto), in("RunJobRequest", runJobFromProto),
		in("ListJobsRequest", listJobsFromProto), in("ListRunsRequest", listCronRunsFromProto), in("PreviewScheduleRequest", previewFromProto),
		in("GetJobRequest", idFromProto[*cronv1.GetJobRequest]), in("RemoveJobRequest", idFromProto[*cronv1.RemoveJobRequest]),
	} {
		t.Run(c.name, func(t *testing.T) {
			dropped := map[string]bool{}
			for _, d := range c.dropped {
				dropped[d] = true
			}
			full := c.in.ProtoReflect().New()
			fillMessage(t, full, new(int))
			all, err := c.convert(full.Interface())
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range messageLeaves(full, "") {
				less := proto.Clone(full.Interface())
				clearField(less.ProtoReflect(), path)
				some, err := c.convert(less)
				if err != nil {
					t.Fatalf("without %s: %v", path, err)
				}
				if carried := !cmp.Equal(all, some); carried == dropped[path] {
					t.Errorf("%s: carried %v, named as dropped %v", path, carried, dropped[path])
				}
			}
		})
	}
}

// known are messages that count as one value.
func known(m protoreflect.MessageDescriptor, n int) proto.Message {
	switch m.FullName() {
	case "google.protobuf.Value":
		return structpb.NewNumberValue(float64(n))
	case "google.protobuf.Struct":
		return &structpb.Struct{Fields: map[string]*structpb.Value{"n": structpb.NewNumberValue(float64(n))}}
	case "google.protobuf.Duration":
		return durationpb.New(time.Duration(n) * time.Second)
	case "google.protobuf.Timestamp":
		return timestamppb.New(time.Unix(int64(n), 0))
	}
	return nil
}

func fillMessage(t *testing.T, m protoreflect.Message, n *int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		*n++
		text := protoreflect.ValueOfString(fmt.Sprintf("text %d", *n))
		switch {
		case f.IsMap():
			m.Mutable(f).Map().Set(text.MapKey(), text)
		case f.IsList() && f.Kind() == protoreflect.EnumKind:
			m.Mutable(f).List().Append(protoreflect.ValueOfEnum(1))
		case f.IsList():
			m.Mutable(f).List().Append(text)
		case f.Message() != nil:
			if v := known(f.Message(), *n); v != nil {
				m.Set(f, protoreflect.ValueOfMessage(v.ProtoReflect()))
			} else {
				fillMessage(t, m.Mutable(f).Message(), n)
			}
		default:
			switch f.Kind() {
			case protoreflect.StringKind:
				m.Set(f, text)
			case protoreflect.BytesKind:
				m.Set(f, protoreflect.ValueOfBytes([]byte(text.String())))
			case protoreflect.BoolKind:
				m.Set(f, protoreflect.ValueOfBool(true))
			case protoreflect.EnumKind:
				m.Set(f, protoreflect.ValueOfEnum(1))
			case protoreflect.Uint64Kind:
				m.Set(f, protoreflect.ValueOfUint64(uint64(*n)))
			case protoreflect.Uint32Kind:
				m.Set(f, protoreflect.ValueOfUint32(uint32(*n)))
			case protoreflect.Int64Kind:
				m.Set(f, protoreflect.ValueOfInt64(int64(*n)))
			case protoreflect.Int32Kind:
				m.Set(f, protoreflect.ValueOfInt32(int32(*n)))
			default:
				t.Fatalf("%s: fill cannot set a %s", f.FullName(), f.Kind())
			}
		}
	}
}

func messageLeaves(m protoreflect.Message, path string) []string {
	var out []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		p := strings.TrimPrefix(path+"."+string(f.Name()), ".")
		out = append(out, p)
		if f.Message() != nil && !f.IsMap() && !f.IsList() && known(f.Message(), 0) == nil {
			out = append(out, messageLeaves(m.Get(f).Message(), p)...)
		}
	}
	return out
}

func clearField(m protoreflect.Message, path string) {
	name, rest, more := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if more {
		clearField(m.Mutable(f).Message(), rest)
		return
	}
	m.Clear(f)
}

// Zero that was said is not taken for absent, and nothing out of range is cut.
func TestInboundRanges(t *testing.T) {
	zero, huge, far := uint32(0), uint32(1)<<31, uint64(1)<<63
	for name, err := range map[string]error{
		"limit 0":            second(tailFromProto(&systemv1.TailLogsRequest{Limit: &zero})),
		"limit 2^31":         second(tailFromProto(&systemv1.TailLogsRequest{Limit: &huge})),
		"max_bytes 0":        second(tailFromProto(&systemv1.TailLogsRequest{MaxBytes: &zero})),
		"cursor 2^63":        second(tailFromProto(&systemv1.TailLogsRequest{Cursor: &far})),
		"approval timeout 0": second(requestFromProto(&approvalsv1.RequestApprovalRequest{Timeout: durationpb.New(0)})),
		"invite for no time": second(createInviteFromProto(&devicesv1.CreateInviteRequest{Ttl: durationpb.New(0)})),
		"odd duration":       second(invokeFromProto(&nodesv1.InvokeRequest{Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}})),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	invoke, err := invokeFromProto(&nodesv1.InvokeRequest{Timeout: durationpb.New(0)})
	if err != nil || invoke.Timeout == nil || *invoke.Timeout != 0 {
		t.Errorf("an invoke timeout of 0 became %v, %v", invoke.Timeout, err)
	}
	resolve, err := resolveFromProto(&approvalsv1.ResolveApprovalRequest{Decision: 99})
	if err != nil || resolve.Decision != approvals.None {
		t.Errorf("an unknown decision became %q, %v", resolve.Decision, err)
	}
}

func second[T any](_ T, err error) error { return err }

// What a patch clears, and what it cannot.
func TestPatchSessionClears(t *testing.T) {
	text := "x"
	for _, name := range []string{
		"label", "thinking_level", "verbose_level", "reasoning_level", "response_usage", "elevated_level", "exec_host", "exec_security", "exec_ask",
		"exec_node", "model", "spawned_by", "spawn_depth", "send_policy", "group_activation",
	} {
		in, err := patchSessionFromProto(&sessionsv1.PatchSessionRequest{Key: "k", Clear: []string{name}})
		if err != nil || cmp.Equal(in, sessions.PatchIn{Key: "k"}) {
			t.Errorf("%s: %+v %v", name, in, err)
		}
	}
	for _, r := range []*sessionsv1.PatchSessionRequest{
		{Clear: []string{"key"}}, {Clear: []string{""}}, {Clear: []string{"label"}, Label: &text}, {Clear: []string{"spawn_depth"}, SpawnDepth: new(int64)},
	} {
		if _, err := patchSessionFromProto(r); errs.ClassOf(err) != errs.Invalid {
			t.Errorf("%v: %v", r, err)
		}
	}
}

func TestUplinkPhases(t *testing.T) {
	for _, p := range []uplinks.Phase{uplinks.Stopped, uplinks.Connecting, uplinks.Connected, uplinks.Waiting, uplinks.Failed} {
		if got := uplinkToProto(uplinks.State{Phase: p}).GetPhase().String(); got != "UPLINK_PHASE_"+strings.ToUpper(string(p)) {
			t.Errorf("%s is told as %s", p, got)
		}
	}
}

// What a binding is called at the doors (tunnel.md §4.3): what a node exposes has a protocol in place of the two.
func TestBindingWords(t *testing.T) {
	type words struct {
		kind   tunnelv1.BindingKind
		mode   tunnelv1.BindingMode
		access tunnelv1.BindingAccess
	}
	for _, c := range []struct {
		b    bindings.Binding
		want words
	}{
		{bindings.Binding{Kind: "http", Mode: "expose", Access: "public"}, words{tunnelv1.BindingKind_BINDING_KIND_HTTP, tunnelv1.BindingMode_BINDING_MODE_EXPOSE, tunnelv1.BindingAccess_BINDING_ACCESS_PUBLIC}},
		{bindings.Binding{Kind: "tcp", Mode: "pull", Access: "token"}, words{tunnelv1.BindingKind_BINDING_KIND_TCP, tunnelv1.BindingMode_BINDING_MODE_PULL, tunnelv1.BindingAccess_BINDING_ACCESS_TOKEN}},
		{bindings.Binding{Kind: "tcp", Mode: "dial"}, words{kind: tunnelv1.BindingKind_BINDING_KIND_TCP, mode: tunnelv1.BindingMode_BINDING_MODE_DIAL}},
		{bindings.Binding{Protocol: bindings.HTTP, Access: "operator"}, words{tunnelv1.BindingKind_BINDING_KIND_HTTP, tunnelv1.BindingMode_BINDING_MODE_EXPOSE, tunnelv1.BindingAccess_BINDING_ACCESS_OPERATOR}},
		{bindings.Binding{Protocol: bindings.WebSocket}, words{kind: tunnelv1.BindingKind_BINDING_KIND_WEB_SOCKET, mode: tunnelv1.BindingMode_BINDING_MODE_EXPOSE}},
		{bindings.Binding{Protocol: bindings.TCP}, words{kind: tunnelv1.BindingKind_BINDING_KIND_TCP, mode: tunnelv1.BindingMode_BINDING_MODE_EXPOSE}},
	} {
		b := bindingToProto(&tunnel.Bound{Binding: c.b})
		if got := (words{b.GetKind(), b.GetMode(), b.GetAccess()}); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.b, got, c.want)
		}
	}
	for kind, want := range map[tunnelv1.BindingKind]bindings.Protocol{0: bindings.HTTP, 1: bindings.HTTP, 2: bindings.TCP, 3: bindings.WebSocket, 4: ""} {
		for access, is := range map[tunnelv1.BindingAccess]bindings.Access{0: "", 1: bindings.Public, 2: bindings.Token, 3: bindings.Operator, 4: "-"} {
			in, err := createBindingFromProto(&tunnelv1.CreateBindingRequest{Kind: kind, Access: access, Target: "a:1"})
			if (err != nil) != (want == "" || is == "-") || err == nil && (in.Protocol != want || in.Access != is || in.Name != "a:1") {
				t.Errorf("%v %v: %+v %v", kind, access, in, err)
			}
		}
	}
	for ms, good := range map[int64]bool{-1: false, 0: true, 5000: true, 5001: false} {
		if in, err := killTunnelFromProto(&tunnelv1.TunnelServiceKillRequest{GraceMs: &ms}); (err == nil) != good || good && in.Grace.Milliseconds() != ms {
			t.Errorf("%d: %+v %v", ms, in, err)
		}
	}
}
