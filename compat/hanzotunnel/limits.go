package hanzotunnel

import "time"

const (
	// registerTime is how long an instance may take to register (tunnel.md §2.2; frozen), admitTime how long its
	// token may take to be judged.
	registerTime = 10 * time.Second
	admitTime    = 10 * time.Second
	// maxFirst is the largest message of an instance that has not registered, in bytes.
	maxFirst = 64 << 10
	// smallMessage is what a message may take without asking. Larger ones share maxRoom bytes while they arrive
	// and are handled; who finds no room waits for roomWait, looking every roomRetry. One may be on its way for
	// arriveTime, which is for 0.7 Mbit/s.
	smallMessage = 64 << 10
	maxRoom      = 128 << 20
	roomWait     = 10 * time.Second
	roomRetry    = 20 * time.Millisecond
	arriveTime   = 2 * time.Minute
	// maxQueue and maxQueueBytes bound what waits for one instance; a further command fails at once.
	maxQueue      = 256
	maxQueueBytes = 16 << 20
	// maxTechQueue and maxTechBytes are what may wait for an instance before technician sessions wait, too.
	maxTechQueue = maxQueue / 4
	maxTechBytes = 2 << 20
	// maxToOther is the largest message to an instance that is no bridge, in bytes: the libraries of the
	// originals take 16 MiB.
	maxToOther = 10 << 20
	// writeTime is how long an instance may take to take what is written to it at once.
	writeTime = 30 * time.Second
	// pingAfter is how long an instance may be silent before it is pinged, and how long until the next ping;
	// deadAfter is when it counts as gone (tunnel.md §1.4; frozen). Both are looked at every lookEvery.
	pingAfter = 20 * time.Second
	deadAfter = 60 * time.Second
	lookEvery = time.Second
	// eventRate is how many events a second an instance may send for long, eventBurst how many at once. Who
	// sends more is read more slowly: nothing is left out.
	eventRate  = 2000
	eventBurst = 2000
	// closeWait is how long a closing handshake may take, strangerWait that with who was not let in.
	closeWait    = 2 * time.Second
	strangerWait = 500 * time.Millisecond
	// The texts of a registration, in bytes, and its lists.
	maxInstanceID = 200
	maxText       = 256
	maxCwd        = 4096
	maxList       = 512
	maxItem       = 128
	maxMetadata   = 16 << 10
)

// The codes of a close that the protocol has of its own (tunnel.md §2.2, §2.5).
const (
	closeTimeout = 4001
	closeInUse   = 4409
)
