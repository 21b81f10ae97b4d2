//go:build !race

package approvals_test

const raceBuilt = false
