package checkpoint

// StepState is where a step stands.
type StepState string

// The states.
const (
	StepRunning StepState = "running"
	StepOK      StepState = "ok"
	StepSkipped StepState = "skipped"
	StepFailed  StepState = "failed"
)

// Step is one of a capture or of a restore.
type Step struct {
	Name   string    `json:"name"`
	State  StepState `json:"state"`
	Detail string    `json:"detail,omitempty"`
}
