//go:build !race

package proc

// Race says that this test has the race detector.
const Race = false
