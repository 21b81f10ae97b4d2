//go:build unix

package local

import (
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

func TestMain(m *testing.M) { proc.Main(m) }
