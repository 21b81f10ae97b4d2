package compat

import "time"

const (
	// Protocol is the version this door speaks.
	Protocol = 3
	// maxPayload is the largest message in either direction, announced in hello-ok (protocol.md §0;
	// frozen).
	maxPayload = 25 << 20
	// maxFirst is the largest message of a client that has not connected yet: a connect frame is a
	// few kilobytes, and a stranger gets no more memory than this.
	maxFirst = 64 << 10
	// smallFirst is what a first frame may take without asking: most are below 4 KiB. Of larger ones
	// maxLarge are received at a time; one makes way for another after largeHold, which is looked at
	// every largeRetry.
	smallFirst = 8 << 10
	maxLarge   = 256
	largeHold  = time.Second
	largeRetry = 20 * time.Millisecond
	// smallMessage is what a message may take without asking once its client was let in. Larger ones share
	// maxUploads bytes while they arrive, those of one device maxUploadsEach: two of the largest. Who finds
	// no room waits for uploadWait; one may be on its way for uploadTime, which is for 0.7 Mbit/s.
	smallMessage   = 64 << 10
	maxUploads     = 512 << 20
	maxUploadsEach = 2*maxPayload + 1<<20
	uploadWait     = 10 * time.Second
	uploadTime     = 5 * time.Minute
	// maxReasonLogged is how many bytes of a reason are logged: it may quote what the client sent.
	maxReasonLogged = 200
	// maxBuffered is how many bytes may wait for one client, announced in hello-ok (frozen). Past it
	// an event that may not be left out ends the connection.
	maxBuffered = 50 << 20
	// maxDroppable is past how many bytes droppable events are left out. It leaves room for those that
	// may not be, which are few and small: a client is not closed for the events it may miss.
	maxDroppable = maxBuffered / 2
	// handshakeTimeout counts from the opened socket (frozen).
	handshakeTimeout = 10 * time.Second
	// strangerWait is how long a client that never connected may take for the closing handshake.
	strangerWait = 500 * time.Millisecond
	// lastWords is how long a client that is closed may take for what still waits for it.
	lastWords = 15 * time.Second
	// slowWait is the same for one that is closed because it is slow, the closing handshake included:
	// nothing but the close waits for it.
	slowWait = 10 * time.Second
	// maxInFlight is how many calls of one connection may wait at one time. The next one is refused.
	maxInFlight = 512
	// maxUnauthorized is how many calls outside its role a connection may make in a row (frozen).
	maxUnauthorized = 10
	// pingAfter is how long a node may be silent before it is asked whether it is there, pingWait
	// how long its answer may take. Together with pingEvery they stay below two heartbeats.
	pingAfter = 20 * time.Second
	pingWait  = 20 * time.Second
	pingEvery = time.Second
	// clockJump is how far the clock may run between two looks before it counts as a jump, as after a
	// sleep of the machine. Everybody is asked at once then, and has wakeWait for the answer (R14).
	clockJump = 15 * time.Second
	wakeWait  = 3 * time.Second
	// closeWait is how long a closing handshake may take at shutdown.
	closeWait = 2 * time.Second
	// expelWait is how long the closing handshake with a revoked device may take, answerWait what its own
	// last answer gets before. Together they stay below the second that is promised. A stop waits for answers
	// as long.
	expelWait  = 500 * time.Millisecond
	answerWait = 100 * time.Millisecond
	// capabilityBytes is the entropy of a canvas capability (protocol.md §3.3).
	capabilityBytes = 18
	// capabilityTTL is how long a canvas capability is in force after its last use (frozen).
	capabilityTTL = 10 * time.Minute
)
