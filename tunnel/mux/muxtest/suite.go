// Package muxtest is one suite for carriers: what streams over a pair of them must do, whatever carries them.
package muxtest

import (
	"testing"

	"github.com/hanzoai/hanzod/tunnel/mux"
)

// Pair returns a new pair of carriers: the end that dialled and the end that was dialled. What it needs is cleaned
// up with t.
type Pair func(t *testing.T) (client, server mux.Carrier)

// Suite runs all checks over the carriers of pair.
func Suite(t *testing.T, pair Pair) {}
