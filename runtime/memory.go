package runtime

import (
	"math"
	"runtime/debug"

	"github.com/hanzoai/hanzod/events"
)

const (
	// heapShare is how much of the memory of its control group the daemon takes before it collects
	// garbage harder, in percent: the rest is for stacks, sockets and what the kernel keeps for it.
	heapShare = 80
	// heldShare is how much of it may wait for slow readers, and minHeld how much may in any case: one
	// large answer.
	heldShare = 20
	minHeld   = 8 << 20
)

// fitMemory makes the daemon fit into the memory that it may use, when that is limited, and returns
// how many bytes may wait for slow readers. A limit that the environment gives (GOMEMLIMIT) stands.
func fitMemory() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		group, ok := groupLimit()
		if !ok {
			return events.MaxHeld
		}
		debug.SetMemoryLimit(group / 100 * heapShare)
		limit = group
	}
	return min(events.MaxHeld, max(minHeld, limit/100*heldShare))
}
