package methods

import (
	"encoding/json"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/wizard"
)

type wizardStart struct {
	Mode      wire.Opt[string] `json:"mode"`
	Workspace wire.Opt[string] `json:"workspace"`
}

type wizardAnswer struct {
	StepID string   `json:"stepId"`
	Value  wire.Raw `json:"value"`
}

type wizardNext struct {
	SessionID string                 `json:"sessionId"`
	Answer    wire.Opt[wizardAnswer] `json:"answer"`
}

type wizardSession struct {
	SessionID string `json:"sessionId"`
}

type wizardOption struct {
	Value string           `json:"value"`
	Label string           `json:"label"`
	Hint  wire.Opt[string] `json:"hint,omitzero"`
}

type wizardStep struct {
	ID           string           `json:"id"`
	Type         string           `json:"type"`
	Title        wire.Opt[string] `json:"title,omitzero"`
	Message      wire.Opt[string] `json:"message,omitzero"`
	Options      []wizardOption   `json:"options,omitempty"`
	InitialValue any              `json:"initialValue,omitempty"`
	Placeholder  wire.Opt[string] `json:"placeholder,omitzero"`
	Sensitive    bool             `json:"sensitive,omitempty"`
	Executor     string           `json:"executor"`
}

type wizardMoved struct {
	SessionID wire.Opt[string]     `json:"sessionId,omitzero"`
	Done      bool                 `json:"done"`
	Step      wire.Opt[wizardStep] `json:"step,omitzero"`
	Status    string               `json:"status"`
	Error     wire.Opt[string]     `json:"error,omitzero"`
}

type wizardStatus struct {
	Status string           `json:"status"`
	Error  wire.Opt[string] `json:"error,omitzero"`
}

// WizardStartFromLegacy reads wizard.start.
func WizardStartFromLegacy(p wire.Value) (wizard.StartIn, error) {
	var in wizardStart
	if err := wire.Decode(p, &in); err != nil {
		return wizard.StartIn{}, err
	}
	return wizard.StartIn{Mode: in.Mode.Or(""), Workspace: in.Workspace.Or("")}, nil
}

// WizardNextFromLegacy reads wizard.next.
func WizardNextFromLegacy(p wire.Value) (wizard.NextIn, error) {
	var in wizardNext
	if err := wire.Decode(p, &in); err != nil {
		return wizard.NextIn{}, err
	}
	out := wizard.NextIn{SessionID: in.SessionID}
	if a, ok := in.Answer.Get(); ok {
		out.Answer = &wizard.Answer{StepID: a.StepID}
		if len(a.Value) > 0 {
			if err := json.Unmarshal(a.Value, &out.Answer.Value); err != nil {
				return wizard.NextIn{}, err
			}
		}
	}
	return out, nil
}

// WizardSessionFromLegacy reads wizard.cancel and wizard.status.
func WizardSessionFromLegacy(p wire.Value) (wizard.SessionIn, error) {
	var in wizardSession
	if err := wire.Decode(p, &in); err != nil {
		return wizard.SessionIn{}, err
	}
	return wizard.SessionIn{SessionID: in.SessionID}, nil
}

// WizardStartToLegacy writes the result of wizard.start.
func WizardStartToLegacy(out wizard.StepOut) any {
	r := wizardMovedOf(out)
	r.SessionID = wire.Some(out.SessionID)
	return r
}

// WizardNextToLegacy writes the result of wizard.next.
func WizardNextToLegacy(out wizard.StepOut) any { return wizardMovedOf(out) }

func wizardMovedOf(out wizard.StepOut) wizardMoved {
	r := wizardMoved{Done: out.Done, Status: string(out.Status), Error: wire.NonZero(out.Error)}
	if s := out.Step; s != nil {
		step := wizardStep{
			ID: s.ID, Type: string(s.Type), Title: wire.NonZero(s.Title), InitialValue: s.Initial,
			Placeholder: wire.NonZero(s.Placeholder), Sensitive: s.Sensitive, Executor: "client",
		}
		if s.Message != nil {
			step.Message = wire.Some(*s.Message)
		}
		for _, o := range s.Options {
			step.Options = append(step.Options, wizardOption{o.Value, o.Label, wire.NonZero(o.Hint)})
		}
		r.Step = wire.Some(step)
	}
	return r
}

// WizardStatusToLegacy writes the result of wizard.cancel and wizard.status.
func WizardStatusToLegacy(out wizard.StatusOut) any {
	return wizardStatus{string(out.Status), wire.NonZero(out.Error)}
}
