package sessions

import (
	"cmp"
	"context"
	"maps"
	"strings"

	"github.com/hanzoai/hanzod/identity"
)

// Set is a field of a patch: left as it is, cleared, or given a value.
type Set[T any] struct {
	Given bool
	// Value is nil to clear.
	Value *T
}

// SetTo gives a value.
func SetTo[T any](v T) Set[T] { return Set[T]{true, &v} }

// Clear takes the value away.
func Clear[T any]() Set[T] { return Set[T]{Given: true} }

// PatchIn changes what is set for a session.
type PatchIn struct {
	Key string

	Label, ThinkingLevel, VerboseLevel, ReasoningLevel, ResponseUsage, ElevatedLevel Set[string]
	ExecHost, ExecSecurity, ExecAsk, ExecNode                                        Set[string]
	Model, SpawnedBy, SendPolicy, GroupActivation                                    Set[string]
	SpawnDepth                                                                       Set[int64]
}

// PatchOut is the session after it.
type PatchOut struct {
	// Path is the file of the agent's entries, as clients know it.
	Path  string
	Ref   Ref
	Entry Entry
	Model Model
}

// Patch changes what is set for a session, and makes the session when there is none (sessions-chat.md §3).
func (s *Service) Patch(ctx context.Context, c identity.Caller, in PatchIn) (PatchOut, error) {
	r, err := s.find(in.Key)
	if err != nil {
		return PatchOut{}, err
	}
	if err := notWebchat(c, "patch"); err != nil {
		return PatchOut{}, err
	}
	defer s.lock(r)()
	// The entry can be changed only by who holds the lock, so that all may be decided before the transaction,
	// where the store's writer does not wait for it.
	old, exists, err := s.cfg.Store.Session(r)
	if err != nil {
		return PatchOut{}, err
	}
	def := s.cfg.Models.Default(r.AgentID)
	next, err := s.patched(r, old, exists, def, in)
	if err != nil {
		return PatchOut{}, err
	}
	release, err := s.reserve(r, next.Label)
	if err != nil {
		return PatchOut{}, err
	}
	defer release()
	e, err := s.update(ctx, r, func(e *Entry, _ bool) (Change, error) {
		*e = next
		return Change{}, nil
	})
	if err != nil {
		return PatchOut{}, err
	}
	return PatchOut{Path: s.StorePath(r.AgentID), Ref: r, Entry: e, Model: modelOf(&e, def)}, nil
}

// patched is an entry after a patch. The order of the checks is the original's.
func (s *Service) patched(r Ref, old Entry, exists bool, def Model, in PatchIn) (Entry, error) {
	e := old
	now := s.now()
	if !exists {
		e = Entry{SessionID: s.cfg.NewID()}
	}
	if e.UpdatedAt.Before(now) {
		e.UpdatedAt = now
	}
	if err := patchSpawn(&e, r.Key, in); err != nil {
		return e, err
	}
	if in.Label.Given {
		e.Label = ""
		if in.Label.Value != nil {
			label, err := checkLabel(*in.Label.Value)
			if err != nil {
				return e, err
			}
			if err := s.labelFree(r, label); err != nil {
				return e, err
			}
			e.Label = label
		}
	}
	if in.ThinkingLevel.Given {
		e.ThinkingLevel = ""
		if v := in.ThinkingLevel.Value; v != nil {
			if e.ThinkingLevel = thinkLevel(*v); e.ThinkingLevel == "" {
				hint := Model{cmp.Or(strings.TrimSpace(old.ProviderOverride), def.Provider), cmp.Or(strings.TrimSpace(old.ModelOverride), def.Name)}
				return e, ErrValue.With("name", "thinkingLevel", "use", strings.Join(ThinkingLevels(hint), "|"))
			}
		}
	}
	for _, f := range []struct {
		in    Set[string]
		to    *string
		words map[string]string
		name  string
		use   string
	}{
		{in.VerboseLevel, &e.VerboseLevel, verboseWords, "verboseLevel", `"on"|"off"`},
		{in.ReasoningLevel, &e.ReasoningLevel, reasoningWords, "reasoningLevel", `"on"|"off"|"stream"`},
		{in.ResponseUsage, &e.ResponseUsage, usageWords, "responseUsage", `"off"|"tokens"|"full"`},
		{in.ElevatedLevel, &e.ElevatedLevel, elevatedWords, "elevatedLevel", `"on"|"off"|"ask"|"full"`},
		{in.ExecHost, &e.ExecHost, hostWords, "execHost", `"sandbox"|"gateway"|"node"`},
		{in.ExecSecurity, &e.ExecSecurity, securityWords, "execSecurity", `"deny"|"allowlist"|"full"`},
		{in.ExecAsk, &e.ExecAsk, askWords, "execAsk", `"off"|"on-miss"|"always"`},
	} {
		if err := choose(f.in, f.to, f.words, f.name, f.use); err != nil {
			return e, err
		}
	}
	if e.ResponseUsage == "off" {
		e.ResponseUsage = ""
	}
	if in.ExecNode.Given {
		e.ExecNode = ""
		if v := in.ExecNode.Value; v != nil {
			if e.ExecNode = strings.TrimSpace(*v); e.ExecNode == "" {
				return e, ErrExecNode
			}
		}
	}
	if in.Model.Given {
		chosen := def
		if v := in.Model.Value; v != nil {
			text := strings.TrimSpace(*v)
			if text == "" {
				return e, ErrModelEmpty
			}
			var err error
			if chosen, err = s.cfg.Models.Choose(r.AgentID, text); err != nil {
				return e, err
			}
		}
		override(&e, chosen, chosen == def)
	}
	if e.ThinkingLevel == "xhigh" && !thinksXHigh(Model{cmp.Or(e.ProviderOverride, def.Provider), cmp.Or(e.ModelOverride, def.Name)}) {
		if in.ThinkingLevel.Given {
			return e, ErrXHigh.With("models", xhighHint())
		}
		e.ThinkingLevel = "high"
	}
	if err := choose(in.SendPolicy, &e.SendPolicy, policyWords, "sendPolicy", `"allow"|"deny"`); err != nil {
		return e, err
	}
	return e, choose(in.GroupActivation, &e.GroupActivation, activationWords, "groupActivation", `"mention"|"always"`)
}

// choose sets a field to one of the words that it may have.
func choose(in Set[string], to *string, words map[string]string, name, use string) error {
	if !in.Given {
		return nil
	}
	*to = ""
	if in.Value == nil {
		return nil
	}
	w, ok := words[strings.ToLower(strings.TrimSpace(*in.Value))]
	if !ok {
		return ErrValue.With("name", name, "use", use)
	}
	*to = w
	return nil
}

// patchSpawn sets who spawned a session: once, for sub-agents only.
func patchSpawn(e *Entry, key string, in PatchIn) error {
	fault := func(name, why string) error { return ErrSpawn.With("name", name, "why", why) }
	if in.SpawnedBy.Given {
		const name = "spawnedBy"
		if in.SpawnedBy.Value == nil {
			if e.SpawnedBy != "" {
				return fault(name, "cleared")
			}
		} else {
			by := strings.TrimSpace(*in.SpawnedBy.Value)
			switch {
			case by == "":
				return fault(name, "empty")
			case !subagent(key):
				return fault(name, "only")
			case e.SpawnedBy != "" && e.SpawnedBy != by:
				return fault(name, "changed")
			}
			e.SpawnedBy = by
		}
	}
	if in.SpawnDepth.Given {
		const name = "spawnDepth"
		if in.SpawnDepth.Value == nil {
			if e.SpawnDepth != nil {
				return fault(name, "cleared")
			}
			return nil
		}
		depth := *in.SpawnDepth.Value
		switch {
		case !subagent(key):
			return fault(name, "only")
		case depth < 0:
			return ErrSpawnDepth
		case e.SpawnDepth != nil && *e.SpawnDepth != depth:
			return fault(name, "changed")
		}
		e.SpawnDepth = &depth
	}
	return nil
}

// override makes a session use a model. What was used last, and what came with the model before, is forgotten.
func override(e *Entry, m Model, isDefault bool) {
	to := m
	if isDefault {
		to = Model{}
	}
	changed := e.ProviderOverride != to.Provider || e.ModelOverride != to.Name
	e.ProviderOverride, e.ModelOverride = to.Provider, to.Name
	aligned := e.Model == m.Name && (e.ModelProvider == "" || e.ModelProvider == m.Provider)
	if (e.Model != "" || e.ModelProvider != "") && (changed || !aligned) {
		e.Model, e.ModelProvider = "", ""
	}
	e.AuthProfileOverride, e.AuthProfileOverrideSource = "", ""
	e.Rest = without(e.Rest, "authProfileOverrideCompactionCount")
	if changed {
		e.Rest = without(e.Rest, "fallbackNoticeSelectedModel", "fallbackNoticeActiveModel", "fallbackNoticeReason")
	}
}

// without is the other fields but for some.
func without(rest map[string]Raw, names ...string) map[string]Raw {
	out := maps.Clone(rest)
	for _, n := range names {
		delete(out, n)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// labelFree looks whether a label is another session's of the agent.
func (s *Service) labelFree(r Ref, label string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of, taken := s.labels[Ref{r.AgentID, label}]; taken && of != r {
		return ErrLabelTaken.With("label", label)
	}
	return nil
}

// notWebchat refuses clients for visitors of a web page; the dashboard is one for operators.
func notWebchat(c identity.Caller, action string) error {
	if c.ClientMode != "webchat" && c.ClientID != "webchat-ui" {
		return nil
	}
	if c.ClientID == "openclaw-control-ui" || c.ClientID == "bot-control-ui" {
		return nil
	}
	return ErrWebchat.With("action", action)
}
