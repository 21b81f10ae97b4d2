// Package chat is what begins, awaits and ends the turns of agents (sessions-chat.md §4, §5).
//
// No agent runs on this hanzod yet. Everything that is checked before a turn begins is checked here in the order of
// the original, and a call that passes is refused as unavailable: nothing is said to have begun that has not. The
// package imports leaves and sessions and owns no goroutine. Methods of Service are safe for concurrent use.
package chat

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
)

const (
	// defaultWait is how long Wait waits when nothing is said (sessions-chat.md §5; frozen), maxWait the most.
	defaultWait = 30 * time.Second
	maxWait     = 24 * time.Hour
	// maxAttachment is the largest attachment in bytes, decoded (sessions-chat.md §6; frozen).
	maxAttachment = 5_000_000
)

// Sessions finds the session of a key.
type Sessions interface {
	// Lookup returns the canonical name of what a client calls a session and, with ok, its entry.
	Lookup(key string) (r sessions.Ref, e sessions.Entry, ok bool)
}

// Service begins and ends turns.
type Service struct {
	sessions Sessions
	config   func() *config.Config
}

// New returns the service. current is the configuration in force.
func New(s Sessions, current func() *config.Config) *Service {
	return &Service{sessions: s, config: current}
}

// Attachment comes with a message. Content is base64 or a data URL.
type Attachment struct{ Type, FileName, Content string }

// The arguments and results.
type (
	SendIn struct {
		SessionKey, Message string
		Attachments         []Attachment
		// Key is the id of the run.
		Key string
	}
	// SendOut is what came of a message. Stop says that it was a word that ends runs; Runs are those that ended.
	SendOut struct {
		Stop bool
		Runs []string
	}
	AbortIn  struct{ SessionKey, RunID string }
	AbortOut struct{ Runs []string }
	RunIn    struct {
		Message, AgentID, SessionKey string
		Attachments                  []Attachment
		// Channels are those that were named, for the message and for its answer.
		Channels []string
		Deliver  bool
		Key      string
	}
	RunOut struct{ RunID string }
	WaitIn struct {
		RunID string
		// Timeout is 30 s when nil.
		Timeout *time.Duration
	}
	// WaitOut is how a run stands; Status is timeout for one that is not known or goes on.
	WaitOut struct{ RunID, Status string }
)

// The errors of this package.
var (
	ErrNull       = errs.Define(errs.Invalid, "chat.null", "the message must not contain NUL")
	ErrEmpty      = errs.Define(errs.Invalid, "chat.empty", "a message has a text or an attachment")
	ErrAttachment = errs.Define(errs.Invalid, "chat.attachment", "an attachment is base64 of 5000000 bytes at the most")
	ErrBlocked    = errs.Define(errs.Denied, "chat.blocked", "the send policy of the session says deny; change it with sessions.patch or session.sendPolicy")
	ErrChannel    = errs.Define(errs.Invalid, "chat.channel", "no channel of that name is part of this hanzod")
	ErrAgent      = errs.Define(errs.NotFound, "chat.agent", "no agent of that id is configured; see agents.list")
	ErrKey        = errs.Define(errs.Invalid, "chat.key", "the session key names an agent badly; it reads agent:<id>:<rest>")
	ErrOther      = errs.Define(errs.Invalid, "chat.other_agent", "the session is another agent's")
	ErrDelivery   = errs.Define(errs.Invalid, "chat.delivery", "say through which channel the answer goes: the session has none")
	// ErrNoAgents says that nothing was begun.
	ErrNoAgents = errs.Define(errs.Unavailable, "chat.no_agents",
		"agents do not run on this hanzod yet; nothing was sent or started. To leave a note in a session use chat.inject, to run a command node.invoke")
)

// Send gives a message to the agent of a session, or ends its runs where the message is a word for that.
func (s *Service) Send(_ context.Context, _ identity.Caller, in SendIn) (SendOut, error) {
	text := norm.NFC.String(in.Message)
	if strings.ContainsRune(text, 0) {
		return SendOut{}, ErrNull
	}
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7F {
			return -1
		}
		return r
	}, text))
	if text == "" && !anyContent(in.Attachments) {
		return SendOut{}, ErrEmpty
	}
	if err := checkAttachments(in.Attachments); err != nil {
		return SendOut{}, err
	}
	r, e, _ := s.sessions.Lookup(in.SessionKey)
	if !allowed(s.config().Session.SendPolicy, r.Key, e) {
		return SendOut{}, ErrBlocked
	}
	if stops(text) {
		return SendOut{Stop: true}, nil // there is nothing to end
	}
	return SendOut{}, ErrNoAgents
}

// Abort ends the runs of a session, or one of them. It returns those that ended: none, as none runs.
func (s *Service) Abort(context.Context, identity.Caller, AbortIn) (AbortOut, error) {
	return AbortOut{}, nil
}

// Run lets an agent take a turn.
func (s *Service) Run(_ context.Context, _ identity.Caller, in RunIn) (RunOut, error) {
	if err := checkAttachments(in.Attachments); err != nil {
		return RunOut{}, err
	}
	delivers := false
	for _, name := range in.Channels {
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "", "last", "webchat":
		default:
			return RunOut{}, ErrChannel.With("channel", name)
		}
	}
	c := s.config()
	agent := ""
	if given := strings.TrimSpace(in.AgentID); given != "" {
		if agent = config.AgentID(given); !slices.Contains(c.AgentIDs(), agent) {
			return RunOut{}, ErrAgent.With("agent", given)
		}
	}
	key := strings.TrimSpace(in.SessionKey)
	if sessions.Malformed(key) {
		return RunOut{}, ErrKey.With("key", key)
	}
	if agent != "" && key != "" {
		of := config.AgentID("")
		if p, ok := sessions.ParseKey(key); ok {
			of = config.AgentID(p.AgentID)
		}
		if of != agent {
			return RunOut{}, ErrOther.With("agent", strings.TrimSpace(in.AgentID), "of", of)
		}
	}
	if key != "" || agent != "" {
		if key == "" {
			key = "agent:" + agent + ":" + c.MainKey()
		}
		r, e, _ := s.sessions.Lookup(key)
		if !allowed(c.Session.SendPolicy, r.Key, e) {
			return RunOut{}, ErrBlocked
		}
		last := strings.ToLower(e.LastChannel)
		delivers = last != "" && last != "webchat"
	}
	if in.Deliver && !delivers {
		return RunOut{}, ErrDelivery
	}
	return RunOut{}, ErrNoAgents
}

// Wait waits for the end of a run, for as long as was asked for. No run is known, so that its time passes.
func (s *Service) Wait(ctx context.Context, _ identity.Caller, in WaitIn) (WaitOut, error) {
	d := defaultWait
	if in.Timeout != nil {
		d = min(max(*in.Timeout, 0), maxWait)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return WaitOut{}, context.Cause(ctx)
	case <-timer.C:
		return WaitOut{RunID: in.RunID, Status: "timeout"}, nil
	}
}

// allowed reports whether messages may be sent in a session (channels-plugins.md §2.3).
func allowed(p config.SendPolicy, key string, e sessions.Entry) bool {
	if e.SendPolicy != "" {
		return e.SendPolicy != "deny"
	}
	key = strings.ToLower(key)
	rest := key
	if parsed, ok := sessions.ParseKey(key); ok {
		rest = parsed.Rest
	}
	channel, kind := strings.ToLower(first(e.Channel, e.LastChannel)), chatType(e.ChatType)
	if parts := strings.Split(rest, ":"); len(parts) >= 3 && (parts[1] == "group" || parts[1] == "channel") && channel == "" {
		channel = parts[0]
	}
	switch {
	case kind != "":
	case strings.Contains(key, ":group:"):
		kind = "group"
	case strings.Contains(key, ":channel:"):
		kind = "channel"
	}
	fits := func(want, is string) bool { return want == "" || strings.ToLower(strings.TrimSpace(want)) == is }
	starts := func(want string, in ...string) bool {
		want = strings.ToLower(strings.TrimSpace(want))
		for _, s := range in {
			if strings.HasPrefix(s, want) {
				return true
			}
		}
		return false
	}
	allow := false
	for _, r := range p.Rules {
		if !fits(r.Channel, channel) || !fits(chatType(r.ChatType), kind) || !starts(r.RawKeyPrefix, key) || !starts(r.KeyPrefix, key, rest) {
			continue
		}
		if r.Action == "deny" {
			return false
		}
		allow = true
	}
	return allow || p.Default != "deny"
}

func chatType(s string) string {
	if s == "dm" {
		return "direct"
	}
	return s
}

func first(list ...string) string {
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			return s
		}
	}
	return ""
}

// BrowserIn is a request to the browser of an agent.
type BrowserIn struct{ Method, Path string }

// The errors of Browser.
var (
	ErrBrowserParams = errs.Define(errs.Invalid, "chat.browser_params", "method and path are required")
	ErrBrowserMethod = errs.Define(errs.Invalid, "chat.browser_method", "method must be GET, POST, or DELETE")
	ErrBrowser       = errs.Define(errs.Unavailable, "chat.browser", "this hanzod controls no browser; ask a node that has one with node.invoke browser.proxy")
)

// Browser asks the browser of an agent.
func (s *Service) Browser(_ context.Context, _ identity.Caller, in BrowserIn) (struct{}, error) {
	method, path := strings.ToUpper(strings.TrimSpace(in.Method)), strings.TrimSpace(in.Path)
	switch {
	case method == "" || path == "":
		return struct{}{}, ErrBrowserParams
	case method != "GET" && method != "POST" && method != "DELETE":
		return struct{}{}, ErrBrowserMethod
	}
	return struct{}{}, ErrBrowser
}
