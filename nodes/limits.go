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
	// maxSerialQueue bounds the calls that wait for a node that handles one at a time (tunnel.md §5.2;
	// frozen).
	maxSerialQueue = 64
	// maxHeld bounds the calls that are held for nodes that are not connected, over all nodes and callers,
	// maxHeldNode those for one node and maxHeldCaller those of one caller. Each has a goroutine.
	maxHeld       = 1000
	maxHeldNode   = 64
	maxHeldCaller = 256
	// maxRegistrations bounds the nodes that registered for pushes, minPushToken and maxPushToken the
	// phones' tokens in hex digits, maxPushTopic the bundle id, and maxPushText the texts of a test in
	// characters: the service takes 4 KiB. tokenSuffix is how much of a token is shown.
	maxRegistrations = 10_000
	minPushToken     = 32
	maxPushToken     = 512
	maxPushTopic     = 255
	maxPushText      = 1000
	tokenSuffix      = 8
	// maxThrottled bounds the nodes whose last pushes are remembered.
	maxThrottled = 10_000
	// maxNodes bounds the registry. A gateway has tens of nodes; 10,000 is what it promises to hold.
	maxNodes = 10_000
	// maxPending bounds the invokes that wait at one time, over all nodes.
	maxPending = 10_000
	// maxOrphans bounds those of them whose caller is gone and which go on for a repetition, for at most
	// keptFor.
	maxOrphans = 1000
	// maxName bounds a display name, in characters.
	maxName = 200
	// maxEventPayload bounds what a node may report in one event, in bytes, maxAgentRequest an
	// agent.request, whose attachments may have 5 MB before they are text. Of all that, watchers are
	// sent maxShownPayload: a slow one has 256 events waiting.
	maxEventPayload = 256 << 10
	maxAgentRequest = 8 << 20
	maxShownPayload = 16 << 10
	// maxPrompt bounds a voice transcript and the message of an agent.request, in characters
	// (nodes-approvals.md §2.5; frozen).
	maxPrompt = 20_000
	// maxSubscriptions bounds the sessions that a node may subscribe to, maxSessionKey their names in
	// bytes.
	maxSubscriptions = 64
	maxSessionKey    = 512
	// maxTriggers and maxTrigger bound the voice wake words, in number and in UTF-16 units (frozen).
	maxTriggers = 32
	maxTrigger  = 64
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
	// seenEvery is how often the times at which paired nodes connected are written, and what removed
	// devices left is forgotten.
	seenEvery = 5 * time.Second
)
