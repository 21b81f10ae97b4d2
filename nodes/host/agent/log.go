package agent

import "github.com/hanzoai/hanzod/tunnel/checkpoint"

// Log remembers what was said and run here, for status.get and for checkpoints (tunnel.md §1.9). It is satisfied
// by *checkpoint.Log. Its methods may be called concurrently.
type Log interface {
	// Said records one side of an exchange: role is user or assistant, cmdID the id of the command.
	Said(role, content, cmdID string)
	// Ran records a command that has ended, with the ends of what it wrote.
	Ran(cmd string, exitCode int, stdout, stderr string)
	Counts() checkpoint.Counts
	// StartedAt is when the session began, in seconds since 1970.
	StartedAt() int64
}
