package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/structpb"

	wizardv1 "github.com/hanzoai/hanzod/gen/hanzo/wizard/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/wizard"
)

// Wizard is what the door needs of wizard.Service.
type Wizard interface {
	Start(context.Context, identity.Caller, wizard.StartIn) (wizard.StepOut, error)
	Next(context.Context, identity.Caller, wizard.NextIn) (wizard.StepOut, error)
	Cancel(context.Context, identity.Caller, wizard.SessionIn) (wizard.StatusOut, error)
	Status(context.Context, identity.Caller, wizard.SessionIn) (wizard.StatusOut, error)
}

type wizardServer struct {
	wizardv1.UnimplementedWizardServiceServer
	s *Server
}

func (y *wizardServer) StartWizard(ctx context.Context, req *wizardv1.StartWizardRequest) (*wizardv1.StartWizardResponse, error) {
	return call(ctx, req, startWizardFromProto, y.s.d.Wizard.Start, startWizardToProto)
}

func (y *wizardServer) NextStep(ctx context.Context, req *wizardv1.NextStepRequest) (*wizardv1.NextStepResponse, error) {
	return call(ctx, req, nextStepFromProto, y.s.d.Wizard.Next, nextStepToProto)
}

func (y *wizardServer) CancelWizard(ctx context.Context, req *wizardv1.CancelWizardRequest) (*wizardv1.CancelWizardResponse, error) {
	return call(ctx, req, cancelWizardFromProto, y.s.d.Wizard.Cancel, cancelWizardToProto)
}

func (y *wizardServer) GetWizard(ctx context.Context, req *wizardv1.GetWizardRequest) (*wizardv1.GetWizardResponse, error) {
	return call(ctx, req, getWizardFromProto, y.s.d.Wizard.Status, getWizardToProto)
}

var stepTypes = map[wizard.Type]wizardv1.StepType{
	wizard.Note: wizardv1.StepType_STEP_TYPE_NOTE, wizard.Select: wizardv1.StepType_STEP_TYPE_SELECT, wizard.Text: wizardv1.StepType_STEP_TYPE_TEXT,
	wizard.Confirm: wizardv1.StepType_STEP_TYPE_CONFIRM, wizard.MultiSelect: wizardv1.StepType_STEP_TYPE_MULTISELECT,
}

var wizardStates = map[wizard.Status]wizardv1.WizardStatus{
	wizard.Running: wizardv1.WizardStatus_WIZARD_STATUS_RUNNING, wizard.Done: wizardv1.WizardStatus_WIZARD_STATUS_DONE,
	wizard.Cancelled: wizardv1.WizardStatus_WIZARD_STATUS_CANCELLED, wizard.Failed: wizardv1.WizardStatus_WIZARD_STATUS_ERROR,
}

func startWizardFromProto(r *wizardv1.StartWizardRequest) (wizard.StartIn, error) {
	return wizard.StartIn{Mode: r.GetMode(), Workspace: r.GetWorkspace()}, nil
}

func startWizardToProto(out wizard.StepOut) (*wizardv1.StartWizardResponse, error) {
	step, err := stepToProto(out.Step)
	return &wizardv1.StartWizardResponse{SessionId: out.SessionID, Done: out.Done, Step: step, Status: wizardStates[out.Status], Error: cleanText(out.Error)}, err
}

func nextStepFromProto(r *wizardv1.NextStepRequest) (wizard.NextIn, error) {
	in := wizard.NextIn{SessionID: r.GetSessionId()}
	if a := r.GetAnswer(); a != nil {
		in.Answer = &wizard.Answer{StepID: a.GetStepId(), Value: a.GetValue().AsInterface()}
	}
	return in, nil
}

func nextStepToProto(out wizard.StepOut) (*wizardv1.NextStepResponse, error) {
	step, err := stepToProto(out.Step)
	return &wizardv1.NextStepResponse{Done: out.Done, Step: step, Status: wizardStates[out.Status], Error: cleanText(out.Error)}, err
}

func cancelWizardFromProto(r *wizardv1.CancelWizardRequest) (wizard.SessionIn, error) {
	return wizard.SessionIn{SessionID: r.GetSessionId()}, nil
}

func cancelWizardToProto(out wizard.StatusOut) (*wizardv1.CancelWizardResponse, error) {
	return &wizardv1.CancelWizardResponse{Status: wizardStates[out.Status], Error: cleanText(out.Error)}, nil
}

func getWizardFromProto(r *wizardv1.GetWizardRequest) (wizard.SessionIn, error) {
	return wizard.SessionIn{SessionID: r.GetSessionId()}, nil
}

func getWizardToProto(out wizard.StatusOut) (*wizardv1.GetWizardResponse, error) {
	return &wizardv1.GetWizardResponse{Status: wizardStates[out.Status], Error: cleanText(out.Error)}, nil
}

func stepToProto(s *wizard.Step) (*wizardv1.Step, error) {
	if s == nil {
		return nil, nil
	}
	p := &wizardv1.Step{Id: s.ID, Key: s.Key, Type: stepTypes[s.Type], Title: cleanText(s.Title), Placeholder: cleanText(s.Placeholder), Sensitive: s.Sensitive}
	if s.Message != nil {
		p.Message = new(cleanText(*s.Message))
	}
	for _, o := range s.Options {
		p.Options = append(p.Options, &wizardv1.Option{Value: cleanText(o.Value), Label: cleanText(o.Label), Hint: cleanText(o.Hint)})
	}
	switch v := s.Initial.(type) {
	case nil:
	case string:
		p.Initial = structpb.NewStringValue(cleanText(v))
	case []string:
		list := &structpb.ListValue{}
		for _, item := range v {
			list.Values = append(list.Values, structpb.NewStringValue(cleanText(item)))
		}
		p.Initial = structpb.NewListValue(list)
	default:
		value, err := structpb.NewValue(v)
		if err != nil {
			return nil, errValue.Wrap(err)
		}
		p.Initial = value
	}
	return p, nil
}
