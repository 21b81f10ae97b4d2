package runs

import "time"

const (
	// maxLive bounds the runs that have not ended, maxLiveEach those of one caller. Each has a
	// goroutine, and a parked one a question: approvals take 1,000 of them.
	maxLive     = 1000
	maxLiveEach = 200
	// maxLiveBytes bounds the commands and environments of them together.
	maxLiveBytes = 64 << 20
	// maxForeign bounds the runs of other doors that are followed while they run, foreignFor how long
	// one is known after its end, for those who come to see it.
	maxForeign = 1000
	foreignFor = time.Minute
	// maxWaiters bounds those who wait for or watch runs.
	maxWaiters = 1024
	// maxBytes bounds the command, its directory and its environment: what an approval takes.
	maxBytes = 256 << 10
	// maxIDBytes bounds the id of a run, which is that of its approval.
	maxIDBytes = 128
	// maxTimeout, maxApprovalTimeout and maxNodeWait bound what a caller may ask for (the bounds of
	// node hosts, approvals and nodes).
	maxTimeout         = 24 * time.Hour
	maxApprovalTimeout = 7 * 24 * time.Hour
	maxNodeWait        = time.Hour
	// timeoutGrace is how much longer than the command itself its answer is waited for, so that a
	// command that reaches its own limit is reported by the node.
	timeoutGrace = 10 * time.Second
	// nodeReturn is how long at least a node is waited for when an approved run is to go out, or when
	// the daemon has just started: a node that lost the daemon comes back in this time.
	nodeReturn = 30 * time.Second
	// retryEvery is the pause before something is tried again that was refused for want of room.
	retryEvery = time.Second
	// decisionGrace is how long past its end the outcome of a question is waited for.
	decisionGrace = 5 * time.Second
	// refusalTime is how long a command that went out without an approval counts as starting: a node that
	// wants one says so at once.
	refusalTime = 500 * time.Millisecond
	// killTime bounds the question to a node to end a command.
	killTime = 10 * time.Second
	// keepFor, keepMax and keepBytes bound what is kept of ended runs: their time, their number, and the
	// bytes of what they wrote. pruneEvery is how often that is looked at.
	keepFor    = 7 * 24 * time.Hour
	keepMax    = 1000
	keepBytes  = 32 << 20
	pruneEvery = time.Hour
	// pruneAfter is how many runs may end before it is looked at earlier: that much more is kept at the
	// most.
	pruneAfter = 100
	// DefaultListed and MaxListed bound a listing.
	DefaultListed = 200
	MaxListed     = 1000

	// tailBytes bounds what is kept of the output of a run while it runs, for those who come late or are
	// slow; tailRuns bounds the runs of which something is kept. Together 64 MiB.
	tailBytes = 256 << 10
	tailRuns  = 256
	// maxChunk bounds one piece of output.
	maxChunk = 64 << 10
	// maxErrorText bounds the text of a node that is kept as a failure.
	maxErrorText = 4 << 10
)
