package methods

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/usage"
	"github.com/hanzoai/hanzod/system"
)

// The fill tests hold every codec to every field. A value with all fields set is converted; then one
// field at a time is cleared, and the result must change, or the field must be named as dropped. A
// name that is dropped no more fails too.

type codec struct {
	name    string
	in      any
	convert func(any) any
	dropped []string
}

func to[D any](name string, f func(D) any, dropped ...string) codec {
	var in D
	return codec{name, in, func(v any) any { return f(v.(D)) }, dropped}
}

func prefixed(prefix string, in ...string) []string {
	for i, s := range in {
		in[i] = prefix + s
	}
	return in
}

// filledList is a list whose rows can be filled.
type filledList struct {
	At            time.Time
	Path          string
	Default       sessions.Model
	ContextTokens int64
	Sessions      []filledRow
}

type filledRow struct {
	Ref                                            sessions.Ref
	Entry                                          sessions.Entry
	Kind, Name, Channel, DerivedTitle, LastMessage string
	Model                                          sessions.Model
	Delivery                                       *sessions.Delivery
}

func listToLegacy(l filledList) any {
	out := sessions.ListOut{At: l.At, Path: l.Path, Default: l.Default, ContextTokens: l.ContextTokens}
	for _, r := range l.Sessions {
		out.Sessions = append(out.Sessions, sessions.Listed{
			Row: &sessions.Row{Ref: r.Ref, Entry: r.Entry}, Kind: r.Kind, Name: r.Name, Channel: r.Channel, DerivedTitle: r.DerivedTitle,
			LastMessage: r.LastMessage, Model: r.Model, Delivery: r.Delivery,
		})
	}
	return SessionsListToLegacy(out)
}

// linked is what the original does not show of a linked instance (tunnel.md §2.2).
func linked(prefix string) []string {
	return prefixed(prefix, "Link", "Tenant", "InstanceID", "AppKind", "Cwd", "SessionURL", "Metadata", "Exposed[0].Name", "Exposed[0].URL",
		"Exposed[0].TTL", "LastSeen", "Session")
}

// cronRows is what the original does not know of a row of the run log.
var cronRows = []string{"Seq", "SlotMs", "LeftOut", "UntilMs", "RunID", "NodeID", "Own"}

// cronOurs is what the original does not know of a job, or does not say of one whose failure alert is off.
func cronOurs(prefix string) []string {
	out := []string{
		"Missed.Mode", "Missed.Within", "Owner.Tenant", "Owner.DeviceID", "Owner.Paired", "Owner.Principal", "Owner.Scopes[0]", "Owner.ClientID", "Owner.DisplayName", "Owner.Local",
		"State.SlotMs", "State.LastSlotMs", "State.RunID", "FailureAlert*.Channel", "FailureAlert*.To",
		"FailureAlert*.Mode", "FailureAlert*.AccountID",
	}
	out = append(out, prefixed("Payload.Command.", "NodeID", "Argv[0]", "Cwd", "Env[k]", "Timeout", "ApprovalTimeout", "WaitForNode")...)
	return prefixed(prefix, out...)
}

// sessionsUsageToLegacy is the codec, with what the system prompts hold asked for.
func sessionsUsageToLegacy(out usage.Sessions) any {
	if len(out.Sessions) > 0 && len(out.Sessions[0].ContextWeight) > 0 {
		out.ContextWeight = true
	}
	return SessionsUsageToLegacy(out)
}

// otherEntryFields are the fields of a session entry that its usage does not show.
func otherEntryFields(t *testing.T) (out []string) {
	v := reflect.New(reflect.TypeFor[sessions.Entry]()).Elem()
	fill(t, v, "", "-", new(int))
	for _, path := range leaves(v, "") {
		switch path {
		case "Label", "ChatType", "Channel", "ModelOverride", "ProviderOverride", "ModelProvider", "Model":
		default:
			// What a number is not there for shifts those that are filled in after it.
			number := v.FieldByName(path).Kind() == reflect.Pointer
			if !strings.HasPrefix(path, "Origin*") && !number {
				out = append(out, path)
			}
		}
	}
	return out
}

func TestToLegacyCarriesEveryField(t *testing.T) {
	// What an approval keeps for itself: its state, its answer and who verified it are told by the
	// decision, or are for the audit log.
	asked := []string{
		"State", "Decision", "ResolvedAt", "ResolvedBy", "ResolvedBySubject", "Uses", "LastUsedAt",
		"Requester.DeviceID", "Requester.ConnID", "Requester.Principal", "Requester.ClientID", "Requester.Paired", "Requester.Tenant",
	}
	// What the original does not know: it is shown by the other doors.
	var ours []string
	for _, file := range []string{"Executable*", "Script*", "Directory*", "Inner[0].FileIdentity"} {
		for _, fact := range []string{"Path", "Device", "Inode", "SHA256"} {
			ours = append(ours, "Binding*.Identity*."+file+"."+fact)
		}
	}
	ours = append(ours, "Binding*.Identity*.Inner[0].Role", "Binding*.Identity*.Unbound[0]", "Binding*.Unbound", "Binding*.Call*.Command", "Binding*.Call*.Digest",
		"Rule", "Where", "GrantID", "Key", "KeyRefused", "Signs[0]", "Approvers[0]", "ExcludeRequester", "OnTimeout", "EscalateAt",
		"EscalateTo[0]", "Votes[0].Party.DeviceID", "Votes[0].Party.Principal", "Votes[0].Party.Paired")
	votes := []string{"Quorum", "Escalated", "Votes[0].Subject", "Votes[0].Name", "Votes[0].Decision", "Votes[0].At"}
	changed := slices.Concat(asked, ours)
	asked = slices.Concat(asked, ours, votes)
	resolved := []string{
		"State", "CreatedAt", "ExpiresAt", "ResolvedBySubject", "Uses", "LastUsedAt",
		"Requester.DeviceID", "Requester.ConnID", "Requester.Principal", "Requester.ClientID", "Requester.Paired", "Requester.Tenant",
	}
	resolved = slices.Concat(resolved, ours, votes)
	// What else is known of a session is told by sessions.patch.
	unlisted := append(prefixed("Sessions[0].Entry.", "SessionFile", "SpawnedBy", "ExecHost", "ExecSecurity", "ExecAsk", "ExecNode",
		"GroupActivation", "ProviderOverride", "ModelOverride", "ModelProvider", "Model", "AuthProfileOverride", "AuthProfileOverrideSource",
		"DisplayName", "Channel", "GroupID", "DeliveryContext*.Channel", "DeliveryContext*.To", "DeliveryContext*.AccountID",
		"DeliveryContext*.ThreadID", "LastChannel", "LastTo", "LastAccountID", "LastThreadID", "Rest[k]"), "Sessions[0].Ref.AgentID")
	for _, c := range []codec{
		to("cron.add", CronJobToLegacy, cronOurs("")...),
		to("cron alert", func(a cron.FailureAlert) any { a.Off = false; return CronJobToLegacy(cron.Job{FailureAlert: &a}) }, "Off"),
		to("cron.list", CronListToLegacy, cronOurs("Jobs[0].")...), to("cron.status", CronStatusToLegacy, "Running"),
		to("cron.remove", CronRemoveToLegacy), to("cron.run", CronRunToLegacy),
		to("cron.runs", CronRunsToLegacy, prefixed("Entries[0].", slices.Clone(cronRows)...)...),
		to("cron finished", func(e cron.Entry) any { return CronChangedToLegacy(cron.Changed{Entry: &e}) }, append(cronRows, "ExitCode", "AtMs", "JobName")...),
		to("node.list", NodeListToLegacy, linked("Nodes[0].")...), to("node.describe", NodeDescribeToLegacy, linked("Node.")...), to("node.rename", NodeRenameToLegacy),
		to("node.invoke", NodeInvokeToLegacy), to("node.invoke.result", NodeResultToLegacy),
		to("node.invoke.request", InvokeRequestToLegacy), to("node changes", NodeChangedToLegacy, linked("Node.")...), to("node reports", NodeReportedToLegacy, "Link"),
		to("node.pair.request", NodePairRequestToLegacy), to("node.pair.list", NodePairListToLegacy),
		to("node.pair.approve", NodePairApproveToLegacy), to("node.pair.reject", NodePairRejectToLegacy),
		to("node.pair.verify", NodePairVerifyToLegacy), to("node.pair.requested", NodePairRequestedToLegacy),
		to("node.pair.resolved", NodePairResolvedToLegacy),
		to("push.test", PushTestToLegacy),
		to("sessions.list", listToLegacy, unlisted...), to("sessions.patch", SessionsPatchToLegacy, "Ref.AgentID"),
		to("sessions.reset", SessionsResetToLegacy, "Ref.AgentID"), to("sessions.delete", SessionsDeleteToLegacy, "Ref.AgentID"),
		// Either there was something to cut or a reason why not.
		to("sessions.compact", SessionsCompactToLegacy, "Ref.AgentID", "Kept"),
		to("chat", ChatToLegacy),
		to("chat.history", ChatHistoryToLegacy), to("sessions.get", SessionsGetToLegacy), to("sessions.preview", SessionsPreviewToLegacy),
		to("usage.cost", UsageCostToLegacy), to("usage.status", UsageStatusToLegacy),
		to("sessions.usage", sessionsUsageToLegacy, append(prefixed("Sessions[0].Entry*.", otherEntryFields(t)...), "ContextWeight")...),
		to("sessions.usage.timeseries", UsageSeriesToLegacy), to("sessions.usage.logs", UsageLogsToLegacy),
		to("agents.list", AgentsToLegacy, prefixed("Agents[0].", "Default", "Node", "Configured", "Workspace", "Model")...),
		to("agents.create", AgentCreateToLegacy), to("agents.update", AgentUpdateToLegacy), to("agents.delete", AgentDeleteToLegacy, "Trash", "Kept[0]"),
		to("agent.identity.get", AgentIdentityToLegacy), to("agents.files.list", AgentFilesToLegacy), to("agents.files.get", AgentFileToLegacy),
		to("agents.files.set", AgentFileSetToLegacy), to("skills.status", SkillStatusToLegacy), to("skills.install", SkillInstallToLegacy),
		to("models.list", ModelsToLegacy), to("tools.catalog", ToolsToLegacy),
		to("voicewake.get", VoiceWakeToLegacy), to("voicewake.changed", VoiceWakeChangedToLegacy), to("skills.bins", SkillBinsToLegacy),
		to("exec.approval.requested", ApprovalRequestedToLegacy, prefixed("Approval.", asked...)...),
		to("exec.approval.changed", ApprovalChangedToLegacy, prefixed("Approval.", changed...)...),
		to("exec.approval.resolved", ApprovalResolvedToLegacy, prefixed("Approval.", resolved...)...),
		to("exec.approvals", PolicyFileToLegacy),
		to("device.pair.requested", PairingRequestedToLegacy, "Pairing.Tenant"), to("device.pair.resolved", PairingResolvedToLegacy, "Tenant"),
		// Neither what bounds rotation nor the tokens are shown; one that has a name is never silent.
		to("device.pair.list", DeviceListToLegacy, "Devices[0].ApprovedScopes[0]", "Devices[0].Tenant", "Pending[0].Tenant"),
		to("device.pair.approve", DeviceApproveToLegacy, "Device.ApprovedScopes[0]", "Device.Tenant"),
		to("device.pair.reject", DeviceRejectToLegacy), to("device.pair.remove", DeviceRemoveToLegacy),
		to("device.token.rotate", TokenRotateToLegacy), to("device.token.revoke", TokenRevokeToLegacy),
		// Health says the path and the count of the default agent once more.
		// A summary names sessions and says when they changed.
		to("health", HealthToLegacy, prefixed("Agents[0].Recent[0].", "AgentID", "Kind", "ID", "Thinking", "Verbose", "Reasoning", "Elevated", "SystemSent", "Aborted", "Input", "Output", "CacheRead", "CacheWrite", "Total", "TotalFresh", "Model", "Context")...),
		to("status", StatusToLegacy,
			// The original's status says nothing of the daemon itself; our own RPC does.
			"Version", "PID", "Uptime", "StateDir", "ConfigPath", "Socket", "Listen[0]", "GRPCListen", "TLSFingerprint", "AuthMode", "Connections", "NodesConnected", "PolicyFault", "ConfigFault", "ConfigPending",
			"NodesKnown", "ApprovalsPending", "At", "HeartbeatsOn", "Agents[0].Name", "Agents[0].Default", "Agents[0].Heartbeat.Prompt",
			"Agents[0].Heartbeat.Target", "Agents[0].Heartbeat.Model", "Agents[0].Heartbeat.AckMaxChars"),
		to("secrets.reload", SecretsReloadToLegacy), to("secrets.resolve", SecretsResolveToLegacy),
		to("wizard.start", WizardStartToLegacy, "Step*.Key"), to("wizard.next", WizardNextToLegacy, "SessionID", "Step*.Key"), to("wizard.status", WizardStatusToLegacy),
		to("system-presence", PresenceToLegacy, "[0].Rev", "[0].Key", "[0].Tenant"),
		to("presence", PresenceChangedToLegacy, "Entries[0].Rev", "Entries[0].Key", "Entries[0].Tenant", "Versions.Presence", "Versions.Health"),
		to("channels.status", ChannelsStatusToLegacy), to("channels.logout", ChannelsLogoutToLegacy), to("web.login.start", WebLoginStartToLegacy),
		to("web.login.wait", WebLoginWaitToLegacy), to("send", SendToLegacy), to("poll", PollToLegacy),
		to("chat.send", ChatSendToLegacy), to("chat.abort", ChatAbortToLegacy), to("agent", AgentToLegacy), to("agent.wait", AgentWaitToLegacy),
		to("talk.mode", TalkModeToLegacy), to("tts.status", TTSStatusToLegacy), to("tts.providers", TTSProvidersToLegacy), to("tts.enable", TTSEnabledToLegacy),
		to("tts.setProvider", TTSSetProviderToLegacy), to("tts.convert", TTSConvertToLegacy),
		// It says which provider it is.
		to("talk.config", TalkConfigToLegacy, "Talk*.Active.ID"),
		to("heartbeat", HeartbeatToLegacy), to("doctor.memory.status", MemoryToLegacy), to("set-heartbeats", SetHeartbeatsToLegacy),
		to("logs.tail", TailToLegacy), to("tick", TickToLegacy), to("shutdown", ShutdownToLegacy),
	} {
		t.Run(c.name, func(t *testing.T) {
			make := func(clear string) string {
				v := reflect.New(reflect.TypeOf(c.in)).Elem()
				n := 0
				fill(t, v, "", clear, &n)
				return string(wire.MustMarshal(c.convert(v.Interface())))
			}
			full := make("-")
			dropped := map[string]bool{}
			for _, d := range c.dropped {
				dropped[d] = true
			}
			v := reflect.New(reflect.TypeOf(c.in)).Elem()
			fill(t, v, "", "-", new(int))
			for _, path := range leaves(v, "") {
				if carried := make(path) != full; carried == dropped[path] {
					t.Errorf("%s: carried %v, named as dropped %v", path, carried, dropped[path])
				}
				delete(dropped, path)
			}
			for path := range dropped {
				t.Errorf("%s is named as dropped and is not there", path)
			}
		})
	}
}

// fill sets every field to something else, but for the one to clear.
func fill(t *testing.T, v reflect.Value, path, clear string, n *int) {
	*n++
	if path == clear {
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.UnixMilli(int64(*n) * 1000)))
		return
	case []byte, sessions.Raw:
		v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
		return
	case config.Secret:
		v.Set(reflect.ValueOf(config.NewSecret(fmt.Sprint("secret", *n))))
		return
	case approvals.Decision:
		v.SetString(string(approvals.Deny))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("s", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(float64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n) * int64(time.Second))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), path+"*", clear, n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), path+"[0]", clear, n)
		if path+"[0]" == clear {
			v.SetLen(0)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		item := reflect.New(v.Type().Elem()).Elem()
		fill(t, item, path+"[k]", clear, n)
		if path+"[k]" != clear {
			v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), item)
		}
	case reflect.Interface:
		v.Set(reflect.ValueOf(fmt.Sprint("any", *n)))
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if path != "" {
				name = path + "." + name
			}
			fill(t, v.Field(i), name, clear, n)
		}
	default:
		t.Fatalf("%s: fill knows no %s", path, v.Kind())
	}
}

// leaves are the paths of everything that can be cleared.
func leaves(v reflect.Value, path string) []string {
	if _, ok := reflect.TypeAssert[time.Time](v); ok {
		return []string{path}
	}
	if _, ok := reflect.TypeAssert[[]byte](v); ok {
		return []string{path}
	}
	if _, ok := reflect.TypeAssert[config.Secret](v); ok {
		return []string{path}
	}
	if _, ok := reflect.TypeAssert[sessions.Raw](v); ok {
		return []string{path}
	}
	switch v.Kind() {
	case reflect.Struct:
		var out []string
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if path != "" {
				name = path + "." + name
			}
			out = append(out, leaves(v.Field(i), name)...)
		}
		return out
	case reflect.Slice:
		return leaves(v.Index(0), path+"[0]")
	case reflect.Map:
		return []string{path + "[k]"}
	case reflect.Pointer:
		if v.Elem().Kind() == reflect.Struct {
			return leaves(v.Elem(), path+"*")
		}
		return []string{path}
	default:
		return []string{path}
	}
}

// inbound is a codec from the wire: every key of the parameters must change what the domain gets.
// cronParams is a job with all that one may have.
const cronParams = `{"name":"n","agentId":"a","sessionKey":"s","description":"d","enabled":true,"deleteAfterRun":true,
	"schedule":{"kind":"every","everyMs":5},"sessionTarget":"main","wakeMode":"now","payload":{"kind":"systemEvent","text":"t"},
	"delivery":{"mode":"none"},"failureAlert":{"after":1}}`

func TestFromLegacyCarriesEveryKey(t *testing.T) {
	from := func(f any) func(wire.Value) string {
		return func(p wire.Value) string {
			out := reflect.ValueOf(f).Call([]reflect.Value{reflect.ValueOf(p)})
			if err, _ := reflect.TypeAssert[error](out[len(out)-1]); err != nil {
				return "error: " + err.Error()
			}
			var b strings.Builder
			for _, o := range out[:len(out)-1] {
				show(&b, o)
			}
			return b.String()
		}
	}
	for _, c := range []struct {
		name    string
		convert func(wire.Value) string
		params  string
		drops   string
	}{
		{"node.list", from(NodeListFromLegacy), `{"connectedOnly":true}`, ""},
		{"node.describe", from(NodeDescribeFromLegacy), `{"nodeId":"n"}`, ""},
		{"node.rename", from(NodeRenameFromLegacy), `{"nodeId":"n","displayName":"x"}`, ""},
		{"node.invoke", from(NodeInvokeFromLegacy), `{"nodeId":"n","command":"c","params":{"a":1},"timeoutMs":5,"idempotencyKey":"k"}`, ""},
		{"node.invoke.result", from(NodeResultFromLegacy), `{"id":"i","nodeId":"n","ok":true,"payload":{"a":1},"payloadJSON":"x","error":{"code":"c","message":"m"}}`, ""},
		{"node.event", from(NodeEventFromLegacy), `{"event":"e","payload":1,"payloadJSON":"x"}`, ""},
		{"node.pair.request", from(NodePairRequestFromLegacy), `{"nodeId":"n","displayName":"d","platform":"p","version":"v","coreVersion":"c",
			"uiVersion":"u","deviceFamily":"f","modelIdentifier":"m","caps":["c"],"commands":["x"],"remoteIp":"r","silent":false}`, ""},
		{"agents.create", from(AgentCreateFromLegacy), `{"name":"n","workspace":"w","emoji":"e","avatar":"a"}`, ""},
		{"agents.update", from(AgentUpdateFromLegacy), `{"agentId":"i","name":"n","workspace":"w","model":"m","avatar":"a"}`, ""},
		{"agents.delete", from(AgentDeleteFromLegacy), `{"agentId":"i","deleteFiles":false}`, ""},
		{"agent.identity.get", from(AgentIdentityFromLegacy), `{"agentId":"i","sessionKey":"k"}`, ""},
		{"agents.files.list", from(AgentFilesFromLegacy), `{"agentId":"i"}`, ""},
		{"agents.files.get", from(AgentFileFromLegacy), `{"agentId":"i","name":"n"}`, ""},
		{"agents.files.set", from(AgentFileSetFromLegacy), `{"agentId":"i","name":"n","content":"c"}`, ""},
		{"skills.status", from(SkillStatusFromLegacy), `{"agentId":"i"}`, ""},
		{"skills.update", from(SkillUpdateFromLegacy), `{"skillKey":"s","enabled":false,"apiKey":"k","env":{"A":"1"}}`, ""},
		{"skills.install", from(SkillInstallFromLegacy), `{"name":"n","installId":"i","timeoutMs":5000}`, ""},
		{"tools.catalog", from(ToolsFromLegacy), `{"agentId":"i"}`, ""},
		{"sessions.list", from(SessionsListFromLegacy), `{"limit":1,"activeMinutes":2,"includeGlobal":true,"includeUnknown":true,"includeDerivedTitles":true,
			"includeLastMessage":true,"label":"l","spawnedBy":"s","agentId":"a","search":"t"}`, ""},
		{"sessions.resolve", from(SessionsResolveFromLegacy), `{"key":"k","sessionId":"i","label":"l","agentId":"a","spawnedBy":"s","includeGlobal":true,"includeUnknown":true}`, ""},
		{"sessions.patch", from(SessionsPatchFromLegacy), `{"key":"k","label":"l","thinkingLevel":null,"verboseLevel":"on","reasoningLevel":null,"responseUsage":"on",
			"elevatedLevel":"x","execHost":"h","execSecurity":null,"execAsk":"a","execNode":"n","model":null,"spawnedBy":"s","spawnDepth":1,"sendPolicy":null,"groupActivation":"g"}`, ""},
		{"sessions.reset", from(SessionsResetFromLegacy), `{"key":"k","reason":"new"}`, ""},
		{"sessions.delete", from(SessionsDeleteFromLegacy), `{"key":"k","deleteTranscript":false}`, ""},
		{"sessions.compact", from(SessionsCompactFromLegacy), `{"key":"k","maxLines":3}`, ""},
		{"chat.inject", from(ChatInjectFromLegacy), `{"sessionKey":"k","message":"m","label":"l"}`, ""},
		{"chat.history", from(ChatHistoryFromLegacy), `{"sessionKey":"k","limit":3}`, ""},
		{"sessions.get", from(SessionsGetFromLegacy), `{"sessionKey":"k","limit":3}`, ""},
		{"sessions.preview", from(SessionsPreviewFromLegacy), `{"keys":["k"],"limit":3,"maxChars":40}`, ""},
		{"usage.cost", from(UsageCostFromLegacy), `{"startDate":"2026-01-01","endDate":"2026-01-02","mode":"utc","utcOffset":"UTC+1","days":"3"}`, ""},
		{"sessions.usage", from(SessionsUsageFromLegacy), `{"key":"k","startDate":"2026-01-01","endDate":"2026-01-02","mode":"utc","utcOffset":"UTC+1","limit":3,
			"includeContextWeight":true}`, ""},
		{"sessions.usage.timeseries", from(UsageSeriesFromLegacy), `{"key":"k"}`, ""},
		{"sessions.usage.logs", from(UsageLogsFromLegacy), `{"key":"k","limit":3}`, ""},
		{"push.test", from(PushTestFromLegacy), `{"nodeId":"n","title":"t","body":"b","environment":"sandbox"}`, ""},
		{"voicewake.set", from(SetVoiceWakeFromLegacy), `{"triggers":["hey"]}`, ""},
		{"node.pair.approve", from(NodePairDecideFromLegacy), `{"requestId":"r"}`, ""},
		{"node.pair.verify", from(NodePairVerifyFromLegacy), `{"nodeId":"n","token":"t"}`, ""},
		{"exec.approval.request", from(ApprovalRequestFromLegacy), `{"id":"i","command":"c","commandArgv":["a"],
			"systemRunPlan":{"argv":["b"],"cwd":"c","rawCommand":"r","agentId":"g","sessionKey":"k"},"env":{"A":"1"},"cwd":"w","nodeId":"n",
			"host":"node","security":"full","ask":"off","agentId":"a","resolvedPath":"p","sessionKey":"s","turnSourceChannel":"ch",
			"turnSourceTo":"to","turnSourceAccountId":"ac","turnSourceThreadId":7,"timeoutMs":5,"twoPhase":true}`, ""},
		{"exec.approval.waitDecision", from(ApprovalWaitFromLegacy), `{"id":" i "}`, ""},
		{"exec.approval.resolve", from(ApprovalResolveFromLegacy), `{"id":"i","decision":"deny"}`, ""},
		{"exec.approvals.set", from(PolicySetFromLegacy), `{"file":{"version":1},"baseHash":"h"}`, ""},
		{"exec.approvals.node.set", from(NodePolicySetFromLegacy), `{"nodeId":"n","file":{"version":1},"baseHash":"h"}`, ""},
		{"exec.approvals.node.get", from(NodePolicyGetFromLegacy), `{"nodeId":"n"}`, ""},
		{"device.pair.approve", from(DeviceApproveFromLegacy), `{"requestId":"r"}`, ""},
		{"device.pair.reject", from(DeviceRejectFromLegacy), `{"requestId":"r"}`, ""},
		{"device.pair.remove", from(DeviceRemoveFromLegacy), `{"deviceId":"d"}`, ""},
		{"device.token.rotate", from(TokenRotateFromLegacy), `{"deviceId":"d","role":"node","scopes":["x"]}`, ""},
		{"device.token.revoke", from(TokenRevokeFromLegacy), `{"deviceId":"d","role":"node"}`, ""},
		{"logs.tail", from(TailFromLegacy), `{"cursor":1,"limit":2,"maxBytes":3}`, ""},
		{"health", from(HealthFromLegacy), `{"probe":true}`, ""},
		{"cron.list", from(CronListFromLegacy), `{"includeDisabled":true,"limit":2,"offset":1,"query":"q","enabled":"all","sortBy":"name","sortDir":"desc"}`, ""},
		{"cron.runs", from(CronRunsFromLegacy), `{"scope":"all","id":"i","limit":2,"offset":1,"statuses":["ok"],"deliveryStatuses":["unknown"],"query":"q","sortDir":"asc"}`, ""},
		{"cron.runs words", from(CronRunsFromLegacy), `{"jobId":"i","status":"ok","deliveryStatus":"unknown"}`, ""},
		{"cron.run", from(CronRunFromLegacy), `{"jobId":"i","mode":"due"}`, ""}, {"cron.remove", from(CronIDFromLegacy), `{"id":"i"}`, ""},
		{"cron.update", from(CronUpdateFromLegacy), `{"id":"i","patch":{"name":"n"}}`, ""},
		{"cron patch", func(p wire.Value) string {
			return from(CronUpdateFromLegacy)(wire.MustParse(`{"id":"i","patch":` + string(wire.Stringify(p)) + `}`))
		}, cronParams[:len(cronParams)-1] + `,"state":{"nextRunAtMs":1}}`, ""},
		{"cron.add", from(CronAddFromLegacy), cronParams, ""},
		{"cron payload", func(p wire.Value) string {
			return from(CronAddFromLegacy)(wire.MustParse(`{"payload":` + string(wire.Stringify(p)) + `}`))
		}, `{"kind":"agentTurn","message":"m","model":"o","fallbacks":["f"],"thinking":"t","timeoutSeconds":1,"allowUnsafeExternalContent":true,
			"lightContext":true,"deliver":true,"channel":"c","to":"t","bestEffortDeliver":true}`, ""},
		{"cron delivery", func(p wire.Value) string {
			return from(CronUpdateFromLegacy)(wire.MustParse(`{"patch":{"delivery":` + string(wire.Stringify(p)) + `}}`))
		}, `{"mode":"none","channel":"c","to":"t","accountId":"a","bestEffort":true,"failureDestination":{"to":"x"}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			full := wire.MustParse(c.params)
			want := c.convert(full)
			if strings.HasPrefix(want, "error") {
				t.Fatal(want)
			}
			for key := range full.Members() {
				out := []byte{'{'}
				for k, v := range full.Members() {
					if k == key {
						continue
					}
					if len(out) > 1 {
						out = append(out, ',')
					}
					out = append(wire.AppendString(out, k), ':')
					out = wire.AppendStringify(out, v)
				}
				if got := c.convert(wire.MustParse(string(append(out, '}')))); got == want {
					t.Errorf("%s changes nothing", key)
				}
			}
		})
	}
}

// show writes a value with what its pointers point to.
func show(b *strings.Builder, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil;")
			return
		}
		b.WriteByte('&')
		show(b, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fmt.Fprintf(b, "%s=", v.Type().Field(i).Name)
			show(b, v.Field(i))
		}
	default:
		fmt.Fprintf(b, "%v;", v)
	}
}

// What is absent, null and empty on the wire (nodes-approvals.md §2.4, §3.16).
func TestAbsentNullEmpty(t *testing.T) {
	text := func(v any) string { return string(wire.MustMarshal(v)) }
	zero := time.Duration(0)
	for _, c := range []struct{ got, want string }{
		{text(InvokeRequestToLegacy(nodes.Request{ID: "i", NodeID: "n", Command: "c"})), `{"id":"i","nodeId":"n","command":"c","paramsJSON":null}`},
		{text(InvokeRequestToLegacy(nodes.Request{Params: []byte("null"), Timeout: &zero})), `{"id":"","nodeId":"","command":"","paramsJSON":"null","timeoutMs":0}`},
		{text(NodeInvokeToLegacy(nodes.InvokeOut{NodeID: "n", Command: "c"})), `{"ok":true,"nodeId":"n","command":"c","payloadJSON":null}`},
		{text(NodeListToLegacy(nodes.ListOut{At: time.UnixMilli(0)})), `{"ts":0,"nodes":[]}`},
		{text(NodeListToLegacy(nodes.ListOut{At: time.UnixMilli(0), Nodes: []nodes.Node{{ID: "n"}}})), `{"ts":0,"nodes":[{"nodeId":"n","caps":[],"commands":[],"paired":false,"connected":false}]}`},
		{text(ApprovalDecidedToLegacy(approvals.Approval{ID: "i", CreatedAt: time.UnixMilli(1), ExpiresAt: time.UnixMilli(2)})), `{"id":"i","decision":null,"createdAtMs":1,"expiresAtMs":2}`},
		{text(ShutdownToLegacy(system.Shutdown{Reason: "r"})), `{"reason":"r","restartExpectedMs":null}`},
		{text(PresenceToLegacy([]system.Presence{{Text: "t", At: time.UnixMilli(1)}})), `[{"text":"t","ts":1}]`},
		{text(PresenceToLegacy(nil)), `[]`},
		{text(PolicyFileToLegacy(policy.Snapshot{Path: "p", Hash: "h", File: []byte(`{"a":"<&>"}`)})), `{"path":"p","exists":false,"hash":"h","file":{"a":"<&>"}}`},
		{text(NodeResultToLegacy(nodes.ResultOut{})), `{"ok":true}`},
		{text(NodeResultToLegacy(nodes.ResultOut{Ignored: true})), `{"ok":true,"ignored":true}`},
		{text(DeviceListToLegacy(identity.ListOut{})), `{"pending":[],"paired":[]}`},
		{text(DeviceListToLegacy(identity.ListOut{Devices: []identity.Device{{
			ID: "d", CreatedAt: time.UnixMilli(1), ApprovedAt: time.UnixMilli(2), Tokens: map[identity.Role]identity.DeviceToken{
				"operator": {Role: "operator", Token: "secret", CreatedAt: time.UnixMilli(3)},
				"node":     {Role: "node", Token: "secret", CreatedAt: time.UnixMilli(4), RevokedAt: time.UnixMilli(5)},
			},
		}}})), `{"pending":[],"paired":[{"deviceId":"d","publicKey":"","role":"","scopes":[],"createdAtMs":1,"approvedAtMs":2,` +
			`"tokens":[{"role":"node","scopes":[],"createdAtMs":4,"revokedAtMs":5},{"role":"operator","scopes":[],"createdAtMs":3}]}]}`},
		{text(PairingResolvedToLegacy(identity.PairingResolved{RequestID: "r", DeviceID: "d", Decision: "approved", At: time.UnixMilli(3)})), `{"requestId":"r","deviceId":"d","decision":"approved","ts":3}`},
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
	if NodePolicyToLegacy(nil) != nil {
		t.Error("no answer of a node is something")
	}
}

// What the original forgives in node.invoke.result (nodes-approvals.md §2.4).
func TestNormalizeNodeResult(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`[]`, `{}`}, {`[1,{"a":2}]`, `{"0":1,"1":{"a":2}}`}, {`7`, `7`},
		{`{"id":"i","payloadJSON":null}`, `{"id":"i"}`},
		{`{"payloadJSON":{"a":1}}`, `{"payload":{"a":1}}`},
		{`{"payloadJSON":7,"payload":8}`, `{"payload":8}`},
		{`{"error":null,"payloadJSON":"x"}`, `{"payloadJSON":"x"}`},
		{`{"error":{"code":"c"}}`, `{"error":{"code":"c"}}`},
		{`{}`, `{}`},
	} {
		if got := string(wire.Stringify(NormalizeNodeResult(wire.MustParse(c.in)))); got != c.want {
			t.Errorf("%s: %s", c.in, got)
		}
	}
}

// Numbers at the edge of what can be said.
func TestTimeouts(t *testing.T) {
	in, err := NodeInvokeFromLegacy(wire.MustParse(`{"nodeId":"n","command":"c","timeoutMs":9007199254740991,"idempotencyKey":"k"}`))
	if err != nil || *in.Timeout <= 0 {
		t.Errorf("%v %v", in.Timeout, err)
	}
	req, _, err := ApprovalRequestFromLegacy(wire.MustParse(`{"command":"c","timeoutMs":9007199254740991}`))
	if err != nil || req.Timeout != approvals.MaxTimeout {
		t.Errorf("%v %v", req.Timeout, err)
	}
}
