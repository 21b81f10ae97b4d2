package robustness

import (
	"os"
	"strconv"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const mib = 1 << 20

func TestMain(m *testing.M) { proc.Main(m) }

// long says that the long forms are wanted.
func long() bool { return os.Getenv("ROBUST") != "" }

// longOnly skips a test that has no quick form.
func longOnly(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("takes minutes; ROBUST=1 runs it")
	}
}

// rounds is how often to do something: quick, or what ROBUST_ROUNDS says in the long form.
func rounds(t *testing.T, quick int) int {
	t.Helper()
	v := os.Getenv(roundsEnv)
	if !long() || v == "" {
		return quick
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of rounds", roundsEnv, v)
	}
	return n
}
