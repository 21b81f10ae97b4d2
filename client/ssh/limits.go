package ssh

import "time"

const (
	// connectTime bounds reaching one machine by TCP when ConnectTimeout does not, handshakeTime the key
	// exchange and authentication with it. Waiting for a person does not count.
	connectTime   = 15 * time.Second
	handshakeTime = 20 * time.Second
	// askTime bounds one wait for a person: a passphrase, an answer, a touch on a key. It is as long as an
	// sshd waits for a login by default.
	askTime = 2 * time.Minute
	// agentTime bounds an answer of the agent in which nobody is asked.
	agentTime = 10 * time.Second
	// openTime bounds opening a channel and what a program there needs until it is connected.
	openTime = 15 * time.Second
	// Heartbeat is how long a connection may be silent before it is asked for a sign of life. One that is
	// silent for two heartbeats is dead, and ends.
	Heartbeat = 5 * time.Second
	// deafTime bounds how long a machine may take to close a channel that was closed here.
	deafTime = 2 * Heartbeat
	// retryPause is how long after an attempt to connect that failed nobody tries again, and
	// refusedPause the same after a refusal, which a server may count and lock us out for.
	retryPause   = time.Second
	refusedPause = 30 * time.Second
	// readyTime is how long the channel that Connect opened is kept for the first Dial. The daemon ends
	// connections that say nothing for longer.
	readyTime = 3 * time.Second
	// closeTime bounds how long a program may take to end once its input has ended, and what a link carries
	// once its connection has.
	closeTime = 2 * time.Second

	// maxJumps bounds a chain of jump hosts, which may have been written as a circle.
	maxJumps = 8
	// maxLinks bounds the connections to one machine. A server allows some number of programs on each
	// (MaxSessions, 10 by default).
	maxLinks = 8
	// maxPrograms bounds the processes of the user's ssh program.
	maxPrograms = 32
	// maxTries is how often a passphrase or a password is asked for.
	maxTries = 3
	// maxQuestions bounds the questions of one round of keyboard-interactive, maxText one text that a
	// server shows, in bytes.
	maxQuestions = 8
	maxText      = 2 << 10
	// maxNoise bounds what the login shell may print before the program there says that it is connected,
	// in bytes; maxStderr is how much of its error output is kept.
	maxNoise  = 64 << 10
	maxStderr = 4 << 10
	// maxFacts bounds the answer to the question where the daemon is, in bytes: a discovery file and some
	// lines.
	maxFacts = 64 << 10
	// maxConfig bounds a configuration file, maxKnown a file of known hosts and maxKey a file of a key, in
	// bytes. Real files are a hundredth of it.
	maxConfig = 1 << 20
	maxKnown  = 16 << 20
	maxKey    = 64 << 10
	// maxDepth bounds files that include each other, maxFiles all of them together.
	maxDepth = 16
	maxFiles = 256
	// maxSocket is what the address of a Unix socket holds on every system.
	maxSocket = 103
)
