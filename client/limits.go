package client

import "time"

const (
	// maxMessage bounds an answer: a node's answer may be 25 MiB (the frame limit of the legacy
	// door), and arrives as text and as a value. A longer one fails the call.
	maxMessage = 64 << 20
	// localWindow is the flow control window of streams and connections at the local socket: that of the daemon. A
	// fixed one spares a ping and its answer for every burst of data, which cost a typed key more than the key itself.
	localWindow = 1 << 20
	// dialTimeout bounds one attempt to connect, TLS included; a local socket answers at once or never.
	dialTimeout = 5 * time.Second
	// wayTimeout is the same for a Way, which may go through several machines.
	wayTimeout = 30 * time.Second
	// pingAfter is how long a call under way may see nothing of the daemon before it is asked whether
	// it is there, pingWait how long its answer may take; then the call fails. The daemon allows a
	// ping in ten seconds.
	pingAfter = 20 * time.Second
	pingWait  = 10 * time.Second
	// redialFirst and redialMax bound the pauses between attempts to connect. They are short
	// because a restarting daemon listens again within a second.
	redialFirst = 50 * time.Millisecond
	redialMax   = time.Second
	// reconnectFor is how long a composed flow waits for a daemon that went away, and then for the
	// node to come back to it. After that the flow fails and says so.
	reconnectFor = 30 * time.Second
	// waitGrace is how long past the end of a question its outcome is waited for.
	waitGrace = 15 * time.Second
	// minPrefix is the shortest beginning of a node id that names a node (nodes-approvals.md §1.5).
	minPrefix = 6
	// maxSocketPath is what sun_path holds on every supported system, without the final zero byte
	// (darwin 104, linux 108).
	maxSocketPath = 103
)
