package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"sync"
	"time"
)

// maxUnchallenged bounds the signatures without a nonce that are remembered. When there are as many,
// no further one is accepted until some are too old to be used again.
const maxUnchallenged = 4096

// onceSet remembers the texts of signatures without a nonce, so that each lets its device in once.
// Without the nonce of the connection a signature that somebody has seen could be used again while it
// is not too old (protocol.md §4.5).
type onceSet struct {
	mu     sync.Mutex
	since  time.Time // older signatures may have been used before this set was made
	latest time.Time // what is too old at this time stays so, when the clock goes back
	seen   map[[sha256.Size]byte]time.Time
}

func newOnceSet(now time.Time) *onceSet {
	return &onceSet{since: now, seen: map[[sha256.Size]byte]time.Time{}}
}

// use reports whether a text, signed at a time, is used for the first time, and remembers it.
func (o *onceSet) use(text string, signedAt, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.After(o.latest) {
		o.latest = now
	}
	if signedAt.Before(o.since) || o.latest.Sub(signedAt) > SignatureSkew {
		return false
	}
	sum := sha256.Sum256([]byte(text))
	if _, used := o.seen[sum]; used {
		return false
	}
	if len(o.seen) >= maxUnchallenged {
		for k, at := range o.seen {
			if o.latest.Sub(at) > SignatureSkew {
				delete(o.seen, k)
			}
		}
		if len(o.seen) >= maxUnchallenged {
			return false
		}
	}
	o.seen[sum] = signedAt
	return true
}

// verify checks the proof of an attempt. A client of a kind that signs without the nonce of the
// challenge may do so on this machine, once with each signature.
func (s *Service) verify(a Attempt, f Signed) (ed25519.PublicKey, error) {
	p := *a.Device
	if !a.Unchallenged || p.Nonce != "" || !a.Peer.Local {
		return p.Verify(f, a.Nonce, s.now())
	}
	key, ok := ParseKey(p.PublicKey)
	if !ok || DeviceID(key) != p.ID {
		return nil, ErrDeviceID
	}
	now, signedAt := s.now(), time.UnixMilli(p.SignedAt)
	if age := now.Sub(signedAt); age > SignatureSkew || age < -SignatureSkew {
		return nil, ErrSignatureStale
	}
	f.DeviceID, f.SignedAt, f.Nonce = p.ID, p.SignedAt, ""
	text := f.Payload("v1")
	sig, ok := decodeBase64(p.Signature)
	if !ok || len(sig) != ed25519.SignatureSize || f.ambiguous() || !ed25519.Verify(key, []byte(text), sig) {
		return nil, ErrSignature
	}
	if !s.once.use(text, signedAt, now) {
		return nil, ErrNonceMissing
	}
	return key, nil
}
