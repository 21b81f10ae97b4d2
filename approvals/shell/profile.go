package shell

// A Profile says which arguments of a safe bin are harmless (nodes-approvals.md §3.9).
type Profile struct {
	MinPositional int
	// MaxPositional is nil for any number.
	MaxPositional     *int
	AllowedValueFlags []string
	DeniedFlags       []string
}
