package hooks

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

type runner struct {
	got []Run
	by  identity.Caller
}

func (r *runner) StartHookRun(_ context.Context, c identity.Caller, run Run) (string, error) {
	r.got, r.by = append(r.got, run), c
	return "run-1", nil
}

func ptr(s string) *string { return &s }

func TestAgent(t *testing.T) {
	open := config.Hooks{}
	keys := config.Hooks{AllowRequestSessionKey: true}
	prefixed := config.Hooks{AllowRequestSessionKey: true, AllowedSessionKeyPrefixes: []string{"hook:", "CI-"}}
	some := config.Hooks{AllowedAgentIDs: []string{"Two", " "}}
	for _, c := range []struct {
		name  string
		hooks config.Hooks
		in    AgentIn
		want  Run
		err   error
		text  string
	}{
		{"least", open, AgentIn{Message: " hi "}, Run{SessionKey: "hook:*", Channel: "last"}, nil, ""},
		{"no message", open, AgentIn{Message: "\n", Model: ptr("")}, Run{}, ErrMessage, "message required"},
		{"channel", open, AgentIn{Message: "m", Channel: ptr(" Telegram ")}, Run{SessionKey: "hook:*", Channel: "telegram"}, nil, ""},
		{"channel before model", open, AgentIn{Message: "m", Channel: ptr("x"), Model: ptr(" ")}, Run{}, ErrChannel, "channel must be last|telegram"},
		{"blank channel", open, AgentIn{Message: "m", Channel: ptr("")}, Run{}, ErrChannel, "channel must be last|telegram"},
		{"blank model", open, AgentIn{Message: "m", Model: ptr(" ")}, Run{}, ErrModel, "model required"},
		{"model", open, AgentIn{Message: "m", Model: ptr(" gpt ")}, Run{SessionKey: "hook:*", Channel: "last", Model: "gpt"}, nil, ""},
		{"agent", open, AgentIn{Message: "m", AgentID: "TWO"}, Run{AgentID: "two", SessionKey: "hook:*", Channel: "last"}, nil, ""},
		{"unknown agent is the default", open, AgentIn{Message: "m", AgentID: "three"}, Run{AgentID: "main", SessionKey: "hook:*", Channel: "last"}, nil, ""},
		{"allowed agent", some, AgentIn{Message: "m", AgentID: "two"}, Run{AgentID: "two", SessionKey: "hook:*", Channel: "last"}, nil, ""},
		{"other agent", some, AgentIn{Message: "m", AgentID: "main"}, Run{}, ErrAgent, ErrAgent.Text},
		{"unknown is not allowed either", some, AgentIn{Message: "m", AgentID: "nope"}, Run{}, ErrAgent, ErrAgent.Text},
		{"no agent named", some, AgentIn{Message: "m"}, Run{SessionKey: "hook:*", Channel: "last"}, nil, ""},
		{"nobody may be named", config.Hooks{AllowedAgentIDs: []string{}}, AgentIn{Message: "m", AgentID: "two"}, Run{}, ErrAgent, ErrAgent.Text},
		{"any may be named", config.Hooks{AllowedAgentIDs: []string{"x", "*"}}, AgentIn{Message: "m", AgentID: "two"}, Run{AgentID: "two", SessionKey: "hook:*", Channel: "last"}, nil, ""},
		{"key refused", open, AgentIn{Message: "m", SessionKey: "k"}, Run{}, ErrSessionKey, ErrSessionKey.Text},
		{"key", keys, AgentIn{Message: "m", SessionKey: " k "}, Run{SessionKey: "k", Channel: "last"}, nil, ""},
		{"key of the agent", keys, AgentIn{Message: "m", SessionKey: "agent:two:k", AgentID: "two"}, Run{AgentID: "two", SessionKey: "k", Channel: "last"}, nil, ""},
		{"key of the default agent", keys, AgentIn{Message: "m", SessionKey: "Agent:Main:k"}, Run{SessionKey: "k", Channel: "last"}, nil, ""},
		{"key of another agent", keys, AgentIn{Message: "m", SessionKey: "agent:two:k"}, Run{SessionKey: "agent:two:k", Channel: "last"}, nil, ""},
		{"prefix", prefixed, AgentIn{Message: "m", SessionKey: "ci-7"}, Run{SessionKey: "ci-7", Channel: "last"}, nil, ""},
		{"other prefix", prefixed, AgentIn{Message: "m", SessionKey: "main"}, Run{}, ErrSessionPrefix, "sessionKey must start with one of: hook:, CI-"},
		{"fixed by the config", open, AgentIn{Message: "m", SessionKey: "main", KeySource: KeyFromConfig}, Run{SessionKey: "main", Channel: "last"}, nil, ""},
		{"fixed, other prefix", config.Hooks{AllowedSessionKeyPrefixes: []string{"hook:"}}, AgentIn{Message: "m", SessionKey: "main", KeySource: KeyFromConfig}, Run{}, ErrSessionPrefix, "sessionKey must start with one of: hook:"},
		{"of a template", open, AgentIn{Message: "m", SessionKey: "hook:gmail:7", KeySource: KeyFromTemplate}, Run{SessionKey: "hook:gmail:7", Channel: "last"}, nil, ""},
		{"of a template, anywhere", open, AgentIn{Message: "m", SessionKey: "agent:main:main", KeySource: KeyFromTemplate}, Run{}, ErrSessionPrefix, "sessionKey must start with one of: hook:"},
		{"of a template, allowed", keys, AgentIn{Message: "m", SessionKey: "x", KeySource: KeyFromTemplate}, Run{SessionKey: "x", Channel: "last"}, nil, ""},
		{"default", config.Hooks{DefaultSessionKey: " d "}, AgentIn{Message: "m"}, Run{SessionKey: "d", Channel: "last"}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &runner{}
			s := New(Config{
				Hooks: c.hooks, Agents: []string{"main", "two"}, DefaultAgent: "main", Runner: r,
				Channels: func() []string { return []string{"telegram"} },
			})
			out, err := s.Agent(t.Context(), identity.Caller{Principal: "hook"}, c.in)
			if !errors.Is(err, c.err) {
				t.Fatal(err)
			}
			if c.err != nil {
				if e, _ := errs.As(err); e.Text != c.text || len(r.got) > 0 {
					t.Errorf("%q; started %v", e.Text, r.got)
				}
				return
			}
			if out.RunID != "run-1" || len(r.got) != 1 || r.by.Principal != "hook" {
				t.Fatalf("%+v %+v", out, r)
			}
			got := r.got[0]
			if c.want.SessionKey == "hook:*" && len(got.SessionKey) == len("hook:")+36 && strings.HasPrefix(got.SessionKey, "hook:") {
				c.want.SessionKey = got.SessionKey
			}
			if got.AgentID != c.want.AgentID || got.SessionKey != c.want.SessionKey || got.Channel != c.want.Channel || got.Model != c.want.Model {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.Message != strings.TrimSpace(c.in.Message) || got.Name != "Hook" {
				t.Errorf("%q %q", got.Message, got.Name)
			}
		})
	}
}

// Nothing says that a run was started while nothing starts runs, and checks come first.
func TestNoAgents(t *testing.T) {
	s := New(Config{Agents: []string{"main"}, DefaultAgent: "main"})
	if _, err := s.Agent(t.Context(), identity.Caller{}, AgentIn{Message: "m"}); !errors.Is(err, ErrNoAgents) || errs.ClassOf(err) != errs.Unavailable {
		t.Error(err)
	}
	if _, err := s.Agent(t.Context(), identity.Caller{}, AgentIn{}); !errors.Is(err, ErrMessage) {
		t.Error(err)
	}
	_, err := s.Agent(t.Context(), identity.Caller{}, AgentIn{Message: "m", Channel: ptr("telegram")})
	if e, _ := errs.As(err); e == nil || e.Text != "channel must be last" {
		t.Error(err)
	}
}
