//go:build !race

package contract

const raceBuilt = false
