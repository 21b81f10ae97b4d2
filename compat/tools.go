package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/sessions"
)

// deniedTools are those that POST /tools/invoke does not run unless gateway.tools.allow names them: they act, and who
// has the gateway's token is not thereby at the keyboard.
var deniedTools = []string{"sessions_spawn", "sessions_send", "cron", "gateway", "whatsapp_login"}

// tool is what POST /tools/invoke runs.
type tool struct {
	// method is the operation that decides who may run it.
	method string
	// groups are the names of group:<id> that it belongs to, profiles those that have it.
	groups, profiles []string
	// run returns the result, and the text for people when it is not the result as JSON.
	run func(ctx context.Context, c identity.Caller, call web.ToolCall) (details any, text string, err error)
}

// ToolsConfig is what the tools stand on.
type ToolsConfig struct {
	Catalogue *ops.Catalogue
	Gate      *gate.Gate
	Sessions  *sessions.Service
	Agents    *agents.Service
	// Current is the configuration in force.
	Current func() *config.Config
}

// Tools are the agent tools that only read state, for POST /tools/invoke. Its methods are safe for concurrent use.
type Tools struct {
	cfg   ToolsConfig
	tools map[string]tool
}

// NewTools returns them.
func NewTools(cfg ToolsConfig) *Tools {
	t := &Tools{cfg: cfg}
	t.tools = map[string]tool{
		"sessions_list":    {"sessions.list", []string{"sessions"}, []string{"coding", "messaging"}, t.sessionsList},
		"sessions_history": {"chat.history", []string{"sessions"}, []string{"coding", "messaging"}, t.sessionsHistory},
		"session_status":   {"sessions.list", []string{"sessions"}, []string{"minimal", "coding", "messaging"}, t.sessionStatus},
		"agents_list":      {"agents.list", []string{"agents"}, nil, t.agentsList},
	}
	return t
}

// Invoke implements web.Tools.
func (t *Tools) Invoke(ctx context.Context, c identity.Caller, call web.ToolCall) (any, error) {
	tool, ok := t.tools[call.Name]
	if !ok || !t.available(call, tool) {
		return nil, web.ErrNoTool
	}
	op, ok := t.cfg.Catalogue.ByLegacy(tool.method)
	if !ok {
		return nil, web.ErrNoTool
	}
	if err := t.cfg.Gate.Admit(c, op); err != nil {
		return nil, worded(err)
	}
	details, text, err := tool.run(ctx, c, call)
	if err != nil {
		return nil, worded(err)
	}
	raw, err := wire.Marshal(details)
	if err != nil {
		return nil, errs.Wrap(errs.Internal, "encode the result of a tool", err)
	}
	if text == "" {
		text = indented(raw)
	}
	return toolResult{Content: []toolContent{{"text", text}}, Details: raw}, nil
}

type toolContent struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type toolResult struct {
	Content []toolContent `json:"content"`
	Details wire.Raw      `json:"details"`
}

// worded gives an error that the caller is told the words of the legacy door.
func worded(err error) error {
	switch class := errs.ClassOf(err); class {
	case errs.Invalid, errs.NotFound, errs.Conflict, errs.Exists, errs.Exhausted, errs.Denied:
		return errs.New(class, shapeOf(err).Message)
	}
	return err
}

// available reports whether the configuration lets a tool be run this way: the list of gateway.tools, then the tool
// policies (config.md §7) of everybody and of the agent. What denies wins.
func (t *Tools) available(call web.ToolCall, tool tool) bool {
	c := t.cfg.Current()
	own := c.Gateway.Tools
	if slices.Contains(deniedTools, call.Name) && !slices.Contains(own.Allow, call.Name) || slices.Contains(own.Deny, call.Name) {
		return false
	}
	agent := sessions.Canonical(c, mainOr(call.SessionKey)).AgentID
	policies := []*json5.Node{c.Section("tools")}
	if list := c.Section("agents").Get("list"); list != nil {
		for _, a := range list.Items {
			if id := a.Get("id"); id != nil && config.AgentID(id.Str) == agent {
				policies = append(policies, a.Get("tools"))
			}
		}
	}
	for _, p := range policies {
		if !allows(p, call.Name, tool) {
			return false
		}
	}
	return true
}

// allows judges a tool by one policy.
func allows(policy *json5.Node, name string, tool tool) bool {
	if named(policy.Get("deny"), name, tool) {
		return false
	}
	also := named(policy.Get("alsoAllow"), name, tool)
	if p := policy.Get("profile"); p != nil && p.Str != "full" && p.Str != "" && !also && !slices.Contains(tool.profiles, p.Str) {
		return false
	}
	allow := policy.Get("allow")
	return allow == nil || len(allow.Items) == 0 || also || named(allow, name, tool)
}

// named reports whether a list names a tool, by its name, a pattern or a group.
func named(list *json5.Node, name string, tool tool) bool {
	if list == nil || list.Kind != json5.Array {
		return false
	}
	for _, item := range list.Items {
		text := strings.ToLower(strings.TrimSpace(item.Str))
		if group, ok := strings.CutPrefix(text, "group:"); ok {
			if slices.Contains(tool.groups, group) {
				return true
			}
			continue
		}
		if ok, err := path.Match(text, name); ok && err == nil {
			return true
		}
	}
	return false
}

func mainOr(key string) string {
	if strings.TrimSpace(key) == "" {
		return "main"
	}
	return key
}

// argument is a text of the arguments, trimmed.
func argument(args wire.Value, name string) string {
	v, _ := args.Get(name)
	if v.Kind() != wire.String {
		return ""
	}
	return wire.Trim(v.Str())
}

// number is a number of the arguments, 0 for none; what is below 1 counts as none.
func number(args wire.Value, name string, most int) int {
	v, _ := args.Get(name)
	n := v.Num()
	if v.Kind() != wire.Number || !(n >= 1) {
		return 0
	}
	return int(min(n, float64(most)))
}

type toolSessions struct {
	Count    int                    `json:"count"`
	Sessions wire.List[toolSession] `json:"sessions"`
}

type toolSession struct {
	Key            string                        `json:"key"`
	Kind           string                        `json:"kind"`
	Channel        string                        `json:"channel"`
	Label          wire.Opt[string]              `json:"label,omitzero"`
	DisplayName    wire.Opt[string]              `json:"displayName,omitzero"`
	UpdatedAt      wire.Opt[int64]               `json:"updatedAt,omitzero"`
	SessionID      wire.Opt[string]              `json:"sessionId,omitzero"`
	Model          string                        `json:"model"`
	ContextTokens  wire.Opt[int64]               `json:"contextTokens,omitzero"`
	TotalTokens    wire.Opt[int64]               `json:"totalTokens,omitzero"`
	ThinkingLevel  wire.Opt[string]              `json:"thinkingLevel,omitzero"`
	VerboseLevel   wire.Opt[string]              `json:"verboseLevel,omitzero"`
	SystemSent     wire.Opt[bool]                `json:"systemSent,omitzero"`
	AbortedLastRun wire.Opt[bool]                `json:"abortedLastRun,omitzero"`
	SendPolicy     wire.Opt[string]              `json:"sendPolicy,omitzero"`
	TranscriptPath wire.Opt[string]              `json:"transcriptPath,omitzero"`
	Messages       wire.Opt[wire.List[wire.Raw]] `json:"messages,omitzero"`
}

// maxToolMessages is how many messages of each session a list of sessions holds at most, maxToolSessions how many
// sessions.
const (
	maxToolMessages = 20
	maxToolSessions = 1000
)

func (t *Tools) sessionsList(ctx context.Context, c identity.Caller, call web.ToolCall) (any, string, error) {
	limit := number(call.Args, "limit", maxToolSessions)
	if limit == 0 {
		limit = maxToolSessions
	}
	list, err := t.cfg.Sessions.List(ctx, c, sessions.ListIn{
		Limit: limit, ActiveMinutes: number(call.Args, "activeMinutes", 1<<31-1), IncludeGlobal: true,
	})
	if err != nil {
		return nil, "", err
	}
	kinds, _ := call.Args.Get("kinds")
	messages := number(call.Args, "messageLimit", maxToolMessages)
	var out toolSessions
	for _, l := range list.Sessions {
		kind := toolKind(l)
		if kinds.Kind() == wire.Array && kinds.Len() > 0 && !holdsText(kinds, kind) {
			continue
		}
		e := l.Entry
		row := toolSession{
			Key: l.Ref.Key, Kind: kind, Channel: l.Channel, Label: wire.NonZero(e.Label), DisplayName: wire.NonZero(l.Name),
			SessionID: wire.NonZero(e.SessionID), Model: l.Model.Name, ContextTokens: number64(e.ContextTokens), TotalTokens: number64(e.TotalTokens),
			ThinkingLevel: wire.NonZero(e.ThinkingLevel), VerboseLevel: wire.NonZero(e.VerboseLevel), SystemSent: truth(e.SystemSent),
			AbortedLastRun: truth(e.AbortedLastRun), SendPolicy: wire.NonZero(e.SendPolicy), TranscriptPath: wire.NonZero(t.cfg.Sessions.TranscriptPath(l.Ref.AgentID, e)),
		}
		if row.Channel == "" {
			row.Channel = "unknown"
		}
		if !e.UpdatedAt.IsZero() {
			row.UpdatedAt = wire.Some(e.UpdatedAt.UnixMilli())
		}
		if messages > 0 {
			h, err := t.cfg.Sessions.History(ctx, c, sessions.HistoryIn{Key: l.Ref.Key, Limit: messages})
			if err != nil {
				return nil, "", err
			}
			row.Messages = wire.Some(withoutTools(h.Messages))
		}
		out.Sessions = append(out.Sessions, row)
	}
	out.Count = len(out.Sessions)
	return out, "", nil
}

// toolKind is how agents are told what a session is for.
func toolKind(l sessions.Listed) string {
	switch {
	case l.Ref.Key == sessions.GlobalKey, strings.HasSuffix(l.Ref.Key, ":main"):
		return "main"
	case strings.Contains(l.Ref.Key, ":cron:"):
		return "cron"
	case strings.Contains(l.Ref.Key, "hook:"):
		return "hook"
	case strings.HasPrefix(l.Ref.Key, "node-"), strings.Contains(l.Ref.Key, ":node-"):
		return "node"
	case l.Kind == "group":
		return "group"
	}
	return "other"
}

func holdsText(list wire.Value, text string) bool {
	for v := range list.Items() {
		if v.Kind() == wire.String && strings.EqualFold(wire.Trim(v.Str()), text) {
			return true
		}
	}
	return false
}

func number64(n *int64) wire.Opt[int64] {
	if n == nil {
		return wire.Opt[int64]{}
	}
	return wire.Some(*n)
}

func truth(b *bool) wire.Opt[bool] {
	if b == nil {
		return wire.Opt[bool]{}
	}
	return wire.Some(*b)
}

// withoutTools leaves out what tools answered.
func withoutTools(in []sessions.Raw) wire.List[wire.Raw] {
	var out wire.List[wire.Raw]
	for _, m := range in {
		v, err := wire.Parse(m)
		if err != nil {
			continue
		}
		if role, _ := v.Get("role"); role.Str() == "toolResult" || role.Str() == "tool" {
			continue
		}
		out = append(out, wire.Raw(m))
	}
	return out
}

type toolHistory struct {
	SessionKey string              `json:"sessionKey"`
	Messages   wire.List[wire.Raw] `json:"messages"`
}

func (t *Tools) sessionsHistory(ctx context.Context, c identity.Caller, call web.ToolCall) (any, string, error) {
	key := argument(call.Args, "sessionKey")
	if key == "" {
		return nil, "", errs.New(errs.Invalid, "sessionKey required")
	}
	ref, _, ok := t.cfg.Sessions.Lookup(key)
	if !ok {
		// Agents know sessions by their ids too.
		found, err := t.cfg.Sessions.Resolve(ctx, c, sessions.ResolveIn{SessionID: key, IncludeGlobal: true})
		if err != nil {
			return nil, "", err
		}
		ref.Key = found
	}
	h, err := t.cfg.Sessions.History(ctx, c, sessions.HistoryIn{Key: ref.Key, Limit: number(call.Args, "limit", 1000)})
	if err != nil {
		return nil, "", err
	}
	out := toolHistory{SessionKey: ref.Key}
	if with, _ := call.Args.Get("includeTools"); with.Bool() {
		for _, m := range h.Messages {
			out.Messages = append(out.Messages, wire.Raw(m))
		}
	} else {
		out.Messages = withoutTools(h.Messages)
	}
	return out, "", nil
}

type toolStatus struct {
	OK         bool   `json:"ok"`
	SessionKey string `json:"sessionKey"`
	StatusText string `json:"statusText"`
}

func (t *Tools) sessionStatus(_ context.Context, _ identity.Caller, call web.ToolCall) (any, string, error) {
	if argument(call.Args, "model") != "" {
		return nil, "", errs.New(errs.Denied, "this route only reads; set the model with sessions.patch")
	}
	asked := argument(call.Args, "sessionKey")
	key := asked
	if key == "" {
		key = mainOr(call.SessionKey)
	}
	ref, e, ok := t.cfg.Sessions.Lookup(key)
	if !ok && asked != "" {
		return nil, "", errs.New(errs.NotFound, "Unknown sessionKey: "+asked)
	}
	m := t.cfg.Sessions.ModelOf(ref.AgentID, &e)
	lines := []string{"Session: " + ref.Key}
	add := func(name, text string) {
		if text != "" {
			lines = append(lines, name+": "+text)
		}
	}
	add("Id", e.SessionID)
	add("Label", e.Label)
	add("Model", m.Provider+"/"+m.Name)
	if e.TotalTokens != nil {
		text := strconv.FormatInt(*e.TotalTokens, 10)
		if e.ContextTokens != nil && *e.ContextTokens > 0 {
			text += fmt.Sprintf(" of %d tokens", *e.ContextTokens)
		}
		add("Context", text)
	}
	add("Thinking", e.ThinkingLevel)
	add("Verbose", e.VerboseLevel)
	if !e.UpdatedAt.IsZero() {
		add("Updated", e.UpdatedAt.UTC().Format(time.RFC3339))
	}
	text := strings.Join(lines, "\n")
	return toolStatus{true, ref.Key, text}, text, nil
}

type toolAgents struct {
	Requester string               `json:"requester"`
	AllowAny  bool                 `json:"allowAny"`
	Agents    wire.List[toolAgent] `json:"agents"`
}

type toolAgent struct {
	ID         string           `json:"id"`
	Name       wire.Opt[string] `json:"name,omitzero"`
	Configured bool             `json:"configured"`
}

// agentsList lists the agents that the agent of the session may hand work to: itself, and those of its
// subagents.allowAgents.
func (t *Tools) agentsList(ctx context.Context, c identity.Caller, call web.ToolCall) (any, string, error) {
	list, err := t.cfg.Agents.List(ctx, c, struct{}{})
	if err != nil {
		return nil, "", err
	}
	current := t.cfg.Current()
	out := toolAgents{Requester: sessions.Canonical(current, mainOr(call.SessionKey)).AgentID}
	var allowed []string
	if of := current.Section("agents").Get("list"); of != nil {
		for _, a := range of.Items {
			if id := a.Get("id"); id == nil || config.AgentID(id.Str) != out.Requester {
				continue
			}
			if may := a.Get("subagents").Get("allowAgents"); may != nil {
				for _, x := range may.Items {
					out.AllowAny = out.AllowAny || strings.TrimSpace(x.Str) == "*"
					allowed = append(allowed, config.AgentID(x.Str))
				}
			}
		}
	}
	for _, a := range list.Agents {
		if !a.Node && (a.ID == out.Requester || out.AllowAny || slices.Contains(allowed, a.ID)) {
			out.Agents = append(out.Agents, toolAgent{a.ID, wire.NonZero(a.Name), a.Configured})
		}
	}
	return out, "", nil
}

// indented is JSON with two blanks of indentation.
func indented(raw []byte) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}
