// Package hooks decides which agent run a webhook may start: which agent, in which session, and
// where the answer goes (protocol.md §1.7, channels-plugins.md §5).
//
// It imports leaves only and owns no goroutine. The door has proved the hook token before it asks;
// the token stands for no operator, so its caller has neither role nor scope.
package hooks

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The refusals, in the words of the original.
var (
	ErrMessage = errs.Define(errs.Invalid, "hooks.message", "message required")
	ErrModel   = errs.Define(errs.Invalid, "hooks.model", "model required")
	// ErrChannel names the channels there are.
	ErrChannel    = errs.Define(errs.Invalid, "hooks.channel", "channel must be last")
	ErrAgent      = errs.Define(errs.Invalid, "hooks.agent", "agentId is not allowed by hooks.allowedAgentIds")
	ErrSessionKey = errs.Define(errs.Invalid, "hooks.session_key", "sessionKey is disabled for external /hooks/agent payloads; set hooks.allowRequestSessionKey=true to enable")
	// ErrSessionPrefix names the prefixes that are allowed.
	ErrSessionPrefix = errs.Define(errs.Invalid, "hooks.session_prefix", "sessionKey must start with one of the allowed prefixes")
	ErrNoAgents      = errs.Define(errs.Unavailable, "hooks.no_agents", "this version of hanzod runs no agents yet, so nothing was started; use wake, which is kept until one does")
)

// KeySource says who chose a session key.
type KeySource uint8

// The sources. A key that a template made of the request counts as chosen from outside.
const (
	KeyFromRequest KeySource = iota
	KeyFromConfig
	KeyFromTemplate
)

// AgentIn is a run that a webhook wants.
type AgentIn struct {
	Message string
	Name    string // "Hook" when empty
	AgentID string // empty for the default agent
	// SessionKey is empty for the configured default, or a new session.
	SessionKey string
	KeySource  KeySource
	// WakeNow runs a heartbeat after the run.
	WakeNow bool
	Deliver bool
	// Channel is nil for the one used last.
	Channel *string
	To      string
	// Model is nil for the agent's own.
	Model    *string
	Thinking string
	Timeout  time.Duration // 0 for the agent's own
	// Trusted leaves out the notice that the message comes from outside.
	Trusted bool
}

// Run is what a Runner starts: checked, and with every choice made.
type Run struct {
	AgentIn
	AgentID, SessionKey, Channel, Model string
}

// AgentOut is the result of Agent.
type AgentOut struct{ RunID string }

// Runner starts a run of an agent and returns once it is sure to happen.
type Runner interface {
	StartHookRun(ctx context.Context, c identity.Caller, r Run) (runID string, err error)
}

// Config is what the service needs.
type Config struct {
	Hooks config.Hooks
	// Agents are the ids of all agents, DefaultAgent is one of them.
	Agents       []string
	DefaultAgent string
	// Channels returns the ids of the channels that are there; nil when there are none.
	Channels func() []string
	// Runner is nil while nothing runs agents.
	Runner Runner
}

// Service starts runs for webhooks. Its methods are safe for concurrent use.
type Service struct{ cfg Config }

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg} }

// Agent starts a run after every check, and returns its id. The run itself goes on after that.
func (s *Service) Agent(ctx context.Context, c identity.Caller, in AgentIn) (AgentOut, error) {
	r, err := s.check(in)
	if err != nil {
		return AgentOut{}, err
	}
	if s.cfg.Runner == nil {
		return AgentOut{}, ErrNoAgents
	}
	id, err := s.cfg.Runner.StartHookRun(ctx, c, r)
	return AgentOut{RunID: id}, err
}

// check makes the choices of a run. The order is that of the original.
func (s *Service) check(in AgentIn) (Run, error) {
	r := Run{AgentIn: in}
	if r.Message = strings.TrimSpace(in.Message); r.Message == "" {
		return Run{}, ErrMessage
	}
	if r.Name = strings.TrimSpace(in.Name); r.Name == "" {
		r.Name = "Hook"
	}
	var err error
	if r.Channel, err = s.channel(in.Channel); err != nil {
		return Run{}, err
	}
	if in.Model != nil {
		if r.Model = strings.TrimSpace(*in.Model); r.Model == "" {
			return Run{}, ErrModel
		}
	}
	if r.AgentID, err = s.agent(in.AgentID); err != nil {
		return Run{}, err
	}
	if r.SessionKey, err = s.session(strings.TrimSpace(in.SessionKey), in.KeySource); err != nil {
		return Run{}, err
	}
	target := r.AgentID
	if target == "" {
		target = s.cfg.DefaultAgent
	}
	// The session belongs to the agent anyway.
	if rest, ok := cutPrefixFold(r.SessionKey, "agent:"+target+":"); ok && rest != "" {
		r.SessionKey = rest
	}
	return r, nil
}

func (s *Service) channel(name *string) (string, error) {
	known := []string{"last"}
	if s.cfg.Channels != nil {
		known = append(known, s.cfg.Channels()...)
	}
	if name == nil {
		return "last", nil
	}
	if id := strings.ToLower(strings.TrimSpace(*name)); slices.Contains(known, id) {
		return id, nil
	}
	return "", ErrChannel.WithText("channel must be " + strings.Join(known, "|"))
}

// agent resolves the agent that a hook names: one that is not there means the default one.
func (s *Service) agent(name string) (string, error) {
	if strings.TrimSpace(name) == "" {
		return "", nil
	}
	id := config.AgentID(name)
	if !slices.Contains(s.cfg.Agents, id) {
		id = s.cfg.DefaultAgent
	}
	if allowed := s.cfg.Hooks.AllowedAgentIDs; allowed != nil && !slices.ContainsFunc(allowed, func(a string) bool {
		a = strings.TrimSpace(a)
		return a == "*" || (a != "" && config.AgentID(a) == id)
	}) {
		return "", ErrAgent
	}
	return id, nil
}

// defaultPrefix begins the sessions that are made for hooks.
const defaultPrefix = "hook:"

// session chooses the session of a run.
func (s *Service) session(key string, from KeySource) (string, error) {
	h := &s.cfg.Hooks
	prefixes := h.AllowedSessionKeyPrefixes
	switch {
	case key == "" && strings.TrimSpace(h.DefaultSessionKey) != "":
		return strings.TrimSpace(h.DefaultSessionKey), nil // the configuration was checked at the start
	case key == "":
		key = defaultPrefix + uuid.NewString()
	case from == KeyFromRequest && !h.AllowRequestSessionKey:
		return "", ErrSessionKey
	case from == KeyFromTemplate && !h.AllowRequestSessionKey && len(prefixes) == 0:
		// Nobody said which sessions a request may choose through a template: those of hooks.
		prefixes = []string{defaultPrefix}
	}
	if len(prefixes) > 0 && !slices.ContainsFunc(prefixes, func(p string) bool {
		p = strings.TrimSpace(p)
		_, ok := cutPrefixFold(key, p)
		return ok && p != ""
	}) {
		return "", ErrSessionPrefix.WithText("sessionKey must start with one of: " + strings.Join(prefixes, ", "))
	}
	return key, nil
}

// cutPrefixFold is strings.CutPrefix for ASCII letters of either case.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
