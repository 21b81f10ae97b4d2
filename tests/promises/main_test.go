// Package promises holds what the daemon and the command line promise to the people who run them,
// each promise a test with real processes: memory, speed of the command line, one owner of the
// state, approvals that outlive a restart, a stop that is quick and clean, and clear refusals.
//
// It is nothing but tests and may import everything. The longer suites are in tests/robustness.
package promises

import (
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

func TestMain(m *testing.M) { proc.Main(m) }
