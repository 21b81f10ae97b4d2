package mux_test

import (
	"testing"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/mux/muxtest"
)

func TestPipe(t *testing.T) {
	muxtest.Suite(t, func(*testing.T) (client, server mux.Carrier) { return mux.Pipe() })
}
