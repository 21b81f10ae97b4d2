package identity_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// unchallenged is an attempt with a signature that does not hold the nonce.
func (w *world) unchallenged(dev string, at time.Time) identity.Attempt {
	a := w.attempt(dev)
	a.Unchallenged = true
	k := key(dev)
	pub := k.Public().(ed25519.PublicKey)
	p := identity.Proof{ID: identity.DeviceID(pub), PublicKey: identity.EncodeKey(pub), SignedAt: at.UnixMilli()}
	text := identity.Signed{
		DeviceID: p.ID, ClientID: a.ClientID, ClientMode: a.ClientMode, Role: a.Role, SignedAt: p.SignedAt, Token: a.Token,
	}.Payload("v1")
	p.Signature = base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, []byte(text)))
	a.Device = &p
	return a
}

func (w *world) in(a identity.Attempt) error {
	_, err := w.svc.Admit(w.tb.Context(), a)
	return err
}

// A signature without a nonce is good once, whatever the clock does and however often the daemon
// starts, and a bounded number of them is good at a time.
func TestSignatureWithoutNonce(t *testing.T) {
	w := newWorld(t, identity.AuthToken)
	w.clock = w.clock.Add(time.Minute)
	first, signed := w.unchallenged("a", w.clock), w.clock
	if err := w.in(first); err != nil {
		t.Fatal(err)
	}
	if err := w.in(first); !errors.Is(err, identity.ErrNonceMissing) {
		t.Errorf("again: %v", err)
	}
	// It stays used when the clock goes on and back, even when room had to be made meanwhile.
	w.clock = w.clock.Add(identity.SignatureSkew + time.Second)
	if err := w.in(first); !errors.Is(err, identity.ErrSignatureStale) {
		t.Errorf("too old: %v", err)
	}
	n := 0
	for ; n < 10_000; n++ {
		if err := w.in(w.unchallenged(fmt.Sprint("device", n%50), w.clock.Add(time.Duration(n)*time.Millisecond))); err != nil {
			if !errors.Is(err, identity.ErrNonceMissing) {
				t.Fatal(err)
			}
			break
		}
	}
	if n == 10_000 {
		t.Error("there is no bound")
	}
	w.clock = signed
	if err := w.in(first); !errors.Is(err, identity.ErrNonceMissing) {
		t.Errorf("when the clock has gone back: %v", err)
	}
	// When those are too old, there is room again.
	w.clock = signed.Add(10 * time.Minute)
	if err := w.in(w.unchallenged("b", w.clock)); err != nil {
		t.Errorf("later: %v", err)
	}
	// A restart forgets what was used, and takes nothing that is older than itself.
	late := w.unchallenged("c", w.clock.Add(time.Second))
	w.clock = w.clock.Add(2 * time.Second)
	if err := w.in(late); err != nil {
		t.Fatal(err)
	}
	w.open()
	if err := w.in(late); !errors.Is(err, identity.ErrNonceMissing) {
		t.Errorf("after a restart: %v", err)
	}
	// Others may not.
	for name, change := range map[string]func(*identity.Attempt){
		"another kind of client": func(a *identity.Attempt) { a.Unchallenged = false },
		"another machine":        func(a *identity.Attempt) { a.Peer.Local = false },
	} {
		a := w.unchallenged("d", w.clock.Add(time.Second))
		change(&a)
		if err := w.in(a); !errors.Is(err, identity.ErrNonceMissing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := w.unchallenged("d", w.clock.Add(time.Second))
	a.Device.ID = identity.DeviceID(key("e").Public().(ed25519.PublicKey))
	if err := w.in(a); !errors.Is(err, identity.ErrDeviceID) {
		t.Errorf("another device: %v", err)
	}
	a = w.unchallenged("d", w.clock.Add(time.Second))
	a.Scopes = []identity.Scope{"operator.admin"}
	if err := w.in(a); !errors.Is(err, identity.ErrSignature) {
		t.Errorf("other scopes: %v", err)
	}
}
