package shell

import (
	"maps"
	"slices"
)

// Carriers are the names of the programs that Refusal knows.
func Carriers() []string { return slices.Sorted(maps.Keys(carriers)) }
