package contract

import "time"

// Limits of the harness. Every wait is bounded: what does not come in time is a failure.
const (
	recvTimeout   = 5 * time.Second  // an ordinary answer or event
	tickTimeout   = 40 * time.Second // the tick event: one each 30 s (protocol.md §0)
	closeTimeout  = 15 * time.Second // a close by the server: the handshake timeout alone is 10 s
	sendTimeout   = 15 * time.Second // writing one message, 26 MiB at most
	dialTimeout   = 5 * time.Second
	httpTimeout   = 10 * time.Second
	quietWindow   = 300 * time.Millisecond // noResponse: how long nothing may come
	maxWait       = 60 * time.Second       // wait and silent steps longer than this are a mistake in the file
	readyTimeout  = 10 * time.Second
	readyInterval = 20 * time.Millisecond
	stopTimeout   = 5 * time.Second
	buildTimeout  = 5 * time.Minute

	maxMessage  = 64 << 20 // bytes of one received message
	maxBody     = 8 << 20  // bytes of one HTTP answer
	maxQueued   = 10000    // frames waiting on one connection; more ends the connection
	maxDepth    = 500      // nesting of a JSON value
	maxDiffs    = 5        // differences shown per frame
	maxShown    = 2000     // bytes of one value shown in a report
	maxLog      = 64 << 10 // bytes of the daemon's output that are kept: the last ones
	maxParallel = 4        // daemons running at the same time
	maxStarts   = 3        // attempts to start a daemon when its port was taken meanwhile
)
