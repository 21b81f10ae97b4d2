package cron

import "time"

const (
	// maxJobs bounds the jobs, maxJobBytes the texts of one.
	maxJobs     = 10_000
	maxJobBytes = 1 << 20
	// maxQueue bounds the changes that wait to be written, maxGroup those that one transaction writes.
	maxQueue = 4096
	maxGroup = 512
	// MaxPage bounds a page of jobs or rows, DefaultRuns is a page of rows (control-plane.md §12; frozen).
	MaxPage     = 200
	DefaultRuns = 50
	defaultPage = 50
	// maxPreview bounds the moments of Preview, defaultPreview is how many it tells.
	maxPreview     = 100
	defaultPreview = 5

	// maxSleep is how long the scheduler sleeps at the most, so that a clock that was set is noticed
	// (control-plane.md §12; frozen).
	maxSleep = time.Minute
	// refireGap is the least time between the end of a run and the next one of a cron expression
	// (control-plane.md §12; frozen).
	refireGap = 2 * time.Second
	// onTime is how late a slot may be and still not count as missed: the longest sleep, and a little for a
	// busy machine.
	onTime = maxSleep + 5*time.Second
	// setBack is how far beyond what its schedule says the next slot of a job may lie after clocks were put
	// back; past that the clock was wrong before, and slots are counted from now. It is more than a day, so
	// that no change of daylight saving time comes near.
	setBack = 26 * time.Hour

	// maxSlots bounds the missed slots that are counted one by one, maxRows those that get a row each;
	// the others share one row. maxRunAll is how many missed slots are run after each other.
	maxSlots  = 1000
	maxRows   = 24
	maxRunAll = 100

	// maxEvents bounds the system events that run at a time: they wait for the agent, which takes them one
	// by one, and must not keep each other from starting. maxCommands bounds the commands; runs hold 200 of
	// one caller.
	maxEvents   = 2000
	maxCommands = 150

	// eventTime and turnTime bound a run (control-plane.md §12; frozen). commandTime bounds a command that
	// says nothing, commandGrace what comes on top of its own limits.
	eventTime    = 10 * time.Minute
	turnTime     = time.Hour
	commandTime  = time.Hour
	commandGrace = time.Minute
	// maxCommandTime, maxApproval and maxNodeWait bound what a command may ask for, approvalTime is how long
	// its question stands when it says nothing.
	maxCommandTime = 24 * time.Hour
	maxApproval    = 24 * time.Hour
	maxNodeWait    = time.Hour
	approvalTime   = 2 * time.Minute
	maxCommand     = 256 << 10
	// maxSummary cuts the output of a command in the run log, in bytes; maxError cuts errors.
	maxSummary = 2 << 10
	maxError   = 2 << 10

	// scheduleErrors is how many times in a row a schedule may fail before its job is disabled
	// (control-plane.md §12; frozen).
	scheduleErrors = 3

	// allRows bounds the run log of all jobs, those that are gone included; pruneAfter is how many rows may
	// come on top before it is looked at, pruneEvery how often that is done anyway.
	allRows    = 100_000
	pruneAfter = 500
	pruneEvery = time.Hour

	// hookWorkers post at a time, hookQueue wait for them; more are dropped and logged. hookTime bounds a
	// post (control-plane.md §12; frozen), hookHops its redirects, which stay on their host.
	hookWorkers = 4
	hookQueue   = 256
	hookTime    = 10 * time.Second
	hookHops    = 3

	// tenYears is how far ahead a moment may lie, pastGrace how far behind (control-plane.md §12; frozen).
	yearMs    = 31_557_600_000 // ms, 365.25 days
	tenYears  = 10 * yearMs
	pastGrace = 60_000 // ms
)

// errorBackoff is how long a recurring job waits at least after so many failures in a row
// (control-plane.md §12; frozen).
var errorBackoff = []time.Duration{30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}
