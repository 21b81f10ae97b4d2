package nodes

import "time"

const (
	// DefaultTimeout is how long an invoke waits when the caller names no time (protocol.md §0;
	// frozen).
	DefaultTimeout = 30 * time.Second
	// MaxTimeout bounds every wait, also the one that asked for no limit.
	MaxTimeout = 24 * time.Hour
	// MaxNodeWait bounds how long a call is held for a node that is not connected.
	MaxNodeWait = time.Hour
	// maxNodes bounds the registry. A gateway has tens of nodes; 10,000 is what it promises to hold.
	maxNodes = 10_000
	// maxPending bounds the invokes that wait at one time, over all nodes.
	maxPending = 10_000
	// maxOrphans bounds those of them whose caller is gone and which go on for a repetition, for at most
	// keptFor.
	maxOrphans = 1000
	// maxName bounds a display name, in characters.
	maxName = 200
	// maxEventPayload bounds what a node may report in one event, in bytes.
	maxEventPayload = 256 << 10
	// keptFor and keptEachCaller bound the answers kept for repetitions for each caller (protocol.md §0,
	// dedupe), keptMax their number and keptBytes their size in all; the answer of a call over keptEach
	// is not kept, only that it ran.
	keptFor        = 5 * time.Minute
	keptEachCaller = 1000
	keptMax        = 20_000
	keptBytes      = 16 << 20
	keptEach       = 256 << 10
	// PairingTTL is how long a request to pair a node waits for an answer (protocol.md §0; frozen).
	PairingTTL = 5 * time.Minute
	// maxPairingRequests bounds the open requests, maxPairings the paired nodes of that older store,
	// maxPairingText each text of a request in bytes, and maxPairingList each of its lists.
	maxPairingRequests = 200
	maxPairings        = 10_000
	maxPairingText     = 256
	maxPairingList     = 256
	// seenEvery is how often the times at which paired nodes connected are written.
	seenEvery = 5 * time.Second
)
