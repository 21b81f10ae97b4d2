// Package proc runs the real daemon and the real command line as processes, for the tests of what
// they promise: built once per test run, each daemon in a directory and on a port of its own, and
// ended with the test that started it.
//
// It is for tests only and may import everything. A Daemon and a Command each own one goroutine,
// which waits for the process; Cleanup of the test ends the process and waits for it.
package proc

import "time"

const (
	// buildTimeout bounds building a program from a cold cache on a slow machine.
	buildTimeout = 5 * time.Minute
	// buildWait bounds the wait for what a build that was given up has left behind.
	buildWait = time.Second
	// Patience is how long a test waits for something that happens soon on any machine.
	Patience = 20 * time.Second
	// pollEvery is how often a process is looked at.
	pollEvery = 2 * time.Millisecond
	// maxOutput is how much of what a process prints is kept, in bytes.
	maxOutput = 8 << 20
	// The ports of daemons are below those that systems hand out, so that no client takes a port
	// while its daemon is down.
	firstPort, lastPort = 20_000, 32_000
	maxPortTries        = 200
	// Token is the shared token of the daemons that Start starts.
	Token = "proc-shared-token-5b1fd4c77a0e"
)
