package approvals

import "time"

const (
	// DefaultTimeout is how long a question stands when the caller names no time (protocol.md §0;
	// frozen). It counts from the request, not from the decision.
	DefaultTimeout = 2 * time.Minute
	// MaxTimeout bounds every question and with it every waiter.
	MaxTimeout = 7 * 24 * time.Hour
	// endedFor is how long an ended approval still answers those who wait for it (protocol.md §0;
	// frozen).
	endedFor = 15 * time.Second
	// maxPending bounds the open questions. A person cannot answer more; a program that asks more is
	// at fault.
	maxPending = 1000
	// maxLive bounds what is held in memory: open questions, decisions that may still be used, and
	// what ended a moment ago. Past it the oldest ended ones are forgotten first.
	maxLive = 20_000
	// sweepGap is the least time between two looks at all of them when they are many.
	sweepGap = 100 * time.Millisecond
	// maxIDBytes and maxCommandBytes bound what one question may hold.
	maxIDBytes      = 200
	maxCommandBytes = 256 << 10
	// MaxListed bounds a listing of past approvals.
	MaxListed = 200
	// keepEnded and keepMax bound the records of ended approvals on disk. The audit log has its own
	// rows, and the store bounds them.
	keepEnded = 30 * 24 * time.Hour
	keepMax   = 10_000
	// pruneEvery is how often they are swept.
	pruneEvery = time.Hour
	// maxResults and maxResultBytes bound the runs that ended and wait for their row. It is as many as
	// can be on their way to nodes at one time; only a disk that hangs lets them gather.
	maxResults     = 10_000
	maxResultBytes = 64 << 20
	// resultDelay is how long a result waits for others to share a commit, so that the next run of the
	// same caller seldom waits for the row of the one before. It is also what a kill of the daemon may
	// lose. resultChunk bounds the rows of one commit, lastResults how long those of a stop may take.
	resultDelay = 100 * time.Millisecond
	resultChunk = 256
	lastResults = 2 * time.Second
	// maxGrants and maxGrantsEach bound the grants that may be used, of all and of one maker. A list that
	// people still look through is shorter.
	maxGrants     = 2000
	maxGrantsEach = 500
	// keepGrants and keepGrantsMax bound the records of those that ended.
	keepGrants    = 30 * 24 * time.Hour
	keepGrantsMax = 2000
	// maxGrantUses bounds the uses of a grant that has so many; maxPatternUses those of a pattern that an
	// approver may let run without being an admin.
	maxGrantUses   = 1_000_000
	maxPatternUses = 1000
	// maxKeyBytes bounds a command that a grant can be made for: grants are kept in memory.
	maxKeyBytes     = 4 << 10
	maxPatternWords = 64
	maxNoteBytes    = 500
	// maxApprovers bounds the subjects that a rule may name and the votes that it may want.
	maxVotes = 32
	// graceUse is how long a run may wait for its requester when the time of the question allowed it, and
	// how late the daemon may be to say so.
	graceUse = DefaultTimeout
	// maxLike and scanLike bound a search for earlier approvals of the same program.
	maxLike  = 20
	scanLike = 2000
	// cutAbove is the size from which an approval is cut in lists, and cutTo that of each of its texts: a
	// full list of the largest approvals stays below 16 MiB.
	cutAbove = 4 << 10
	cutTo    = 1 << 10
)
