package nodes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

var pairer = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopePairing}, DeviceID: "d1"}

// pairWorld is a service with a clock of its own.
type pairWorld struct {
	*Service
	store *names
	at    time.Time
	sub   *events.Subscription
}

func newPairWorld(t *testing.T) *pairWorld {
	w := &pairWorld{store: &names{m: map[string]string{}}, at: time.UnixMilli(1_000_000)}
	w.Service = New(Config{
		Policy: NewPolicy(nil, nil), Guard: guardFunc(pass), Paired: pairedList(nil), Store: w.store,
		Bus: events.New(time.Now), Now: func() time.Time { return w.at },
	})
	w.sub = w.bus.Subscribe(func(e events.Event) bool { return strings.HasPrefix(e.Name, "node.pair.") })
	t.Cleanup(w.sub.Close)
	return w
}

func (w *pairWorld) ask(t *testing.T, id string) PairingRequest {
	t.Helper()
	out, err := w.RequestPairing(context.Background(), pairer, RequestPairingIn{Info: PairingInfo{NodeID: id}})
	if err != nil || !out.Created {
		t.Fatalf("%+v %v", out, err)
	}
	return out.Request
}

func (w *pairWorld) told() (out []any) {
	for e, ok := w.sub.TryNext(); ok; e, ok = w.sub.TryNext() {
		out = append(out, e.Payload)
	}
	return out
}

// The life of a pairing (protocol.md §4.9): one open request, its first content, a fresh token at each
// approval, rows in the audit log, events after the commit.
func TestPairingLife(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	silent := true
	in := RequestPairingIn{Info: PairingInfo{NodeID: " ipad ", DisplayName: "iPad", Caps: []string{}}, Silent: &silent}
	first, err := w.RequestPairing(ctx, pairer, in)
	if err != nil || !first.Created || first.Request.Info.NodeID != "ipad" || first.Request.Repair {
		t.Fatalf("%+v %v", first, err)
	}
	w.at = w.at.Add(PairingTTL)
	again, err := w.RequestPairing(ctx, pairer, RequestPairingIn{Info: PairingInfo{NodeID: "ipad", DisplayName: "other"}})
	if d := cmp.Diff(RequestPairingOut{Request: first.Request}, again); err != nil || d != "" {
		t.Errorf("the second request: %v %s", err, d)
	}
	ok, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{RequestID: first.Request.RequestID})
	if err != nil || len(ok.Node.Token) != 43 || !ok.Node.CreatedAt.Equal(w.at) {
		t.Fatalf("%+v %v", ok, err)
	}
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{RequestID: first.Request.RequestID}); !errors.Is(err, ErrRequestUnknown) {
		t.Errorf("the second approval: %v", err)
	}
	made := w.at
	w.at = w.at.Add(time.Hour)
	r := w.ask(t, "ipad")
	if !r.Repair {
		t.Error("a paired node asks again, and the request does not say so")
	}
	renewed, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{RequestID: r.RequestID})
	if err != nil || renewed.Node.Token == ok.Node.Token || !renewed.Node.CreatedAt.Equal(made) || !renewed.Node.ApprovedAt.Equal(w.at) {
		t.Errorf("%+v %v", renewed, err)
	}
	for token, want := range map[string]bool{renewed.Node.Token: true, ok.Node.Token: false, "": false, renewed.Node.Token + "x": false} {
		if out, err := w.VerifyPairing(ctx, pairer, VerifyPairingIn{NodeID: " ipad", Token: token}); err != nil || out.OK != want {
			t.Errorf("%q: %+v %v", token, out, err)
		}
	}
	if out, err := w.VerifyPairing(ctx, pairer, VerifyPairingIn{NodeID: "nobody"}); err != nil || out.OK {
		t.Errorf("a node that is not there: %+v %v", out, err)
	}
	no := w.ask(t, "tv")
	if out, err := w.RejectPairing(ctx, pairer, DecidePairingIn{RequestID: no.RequestID}); err != nil || out.NodeID != "tv" {
		t.Errorf("%+v %v", out, err)
	}
	want := []any{
		PairingRequested{first.Request}, PairingResolved{first.Request.RequestID, "ipad", "approved", made},
		PairingRequested{r}, PairingResolved{r.RequestID, "ipad", "approved", w.at},
		PairingRequested{no}, PairingResolved{no.RequestID, "tv", "rejected", w.at},
	}
	if d := cmp.Diff(want, w.told()); d != "" {
		t.Error(d)
	}
	rows := []Audit{
		{made, "node-pairing", "device:d1", "ipad", "approved"}, {w.at, "node-pairing", "device:d1", "ipad", "approved"},
		{w.at, "node-pairing", "device:d1", "tv", "rejected"},
	}
	if d := cmp.Diff(rows, w.store.audit); d != "" {
		t.Error(d)
	}
}

// Tokens are for those who may do everything anyway.
func TestPairingTokensAreForAdmins(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	made, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{RequestID: w.ask(t, "ipad").RequestID})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		scopes []identity.Scope
		want   string
	}{
		{[]identity.Scope{identity.ScopePairing}, ""}, {nil, ""}, {[]identity.Scope{identity.ScopeAdmin}, made.Node.Token},
		{[]identity.Scope{identity.ScopePairing, identity.ScopeWrite, identity.ScopeRead, identity.ScopeApprovals}, ""},
	} {
		out, err := w.ListPairings(ctx, identity.Caller{Role: identity.RoleOperator, Scopes: c.scopes}, ListPairingsIn{})
		if err != nil || out.Paired[0].Token != c.want {
			t.Errorf("%v: %q, %v", c.scopes, out.Paired[0].Token, err)
		}
	}
}

// Five minutes and no more; a clock that was set back loses nothing and holds nothing for ever.
func TestPairingRequestsExpire(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	old := w.ask(t, "old")
	w.at = w.at.Add(PairingTTL + time.Millisecond)
	for _, act := range []func() error{
		func() error { return second(w.ApprovePairing(ctx, pairer, DecidePairingIn{old.RequestID})) },
		func() error { return second(w.RejectPairing(ctx, pairer, DecidePairingIn{old.RequestID})) },
	} {
		if err := act(); !errors.Is(err, ErrRequestUnknown) {
			t.Errorf("an old request: %v", err)
		}
	}
	if out, err := w.ListPairings(ctx, pairer, ListPairingsIn{}); err != nil || len(out.Pending) != 0 {
		t.Errorf("%+v %v", out, err)
	}
	if r := w.ask(t, "old"); r.RequestID == old.RequestID {
		t.Error("an old request came back")
	}
	if n := len(w.store.requests); n != 1 {
		t.Errorf("%d requests are kept", n)
	}
	w.at = w.at.Add(-PairingTTL)
	b := w.ask(t, "b")
	if out, err := w.ListPairings(ctx, pairer, ListPairingsIn{}); err != nil || len(out.Pending) != 2 || out.Pending[1].RequestID != b.RequestID {
		t.Errorf("newest first: %+v %v", out, err)
	}
	w.at = w.at.Add(-time.Hour)
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{b.RequestID}); !errors.Is(err, ErrRequestUnknown) {
		t.Errorf("an hour before it was made: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestPairingBounds(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	for _, c := range []struct {
		info PairingInfo
		want error
	}{
		{PairingInfo{NodeID: " "}, ErrNodeIDRequired},
		{PairingInfo{NodeID: strings.Repeat("x", maxPairingText+1)}, ErrPairingTooLarge},
		{PairingInfo{NodeID: "n", DisplayName: strings.Repeat("x", maxPairingText+1)}, ErrPairingTooLarge},
		{PairingInfo{NodeID: "n", Caps: make([]string, maxPairingList+1)}, ErrPairingTooLarge},
		{PairingInfo{NodeID: "n", Commands: []string{strings.Repeat("x", maxPairingText+1)}}, ErrPairingTooLarge},
	} {
		if _, err := w.RequestPairing(ctx, pairer, RequestPairingIn{Info: c.info}); !errors.Is(err, c.want) {
			t.Errorf("%.40v: %v", c.info, err)
		}
	}
	for i := range maxPairingRequests {
		w.ask(t, fmt.Sprint("n", i))
	}
	if _, err := w.RequestPairing(ctx, pairer, RequestPairingIn{Info: PairingInfo{NodeID: "one more"}}); !errors.Is(err, ErrTooManyRequests) {
		t.Errorf("one request too many: %v", err)
	}
	if out, err := w.RequestPairing(ctx, pairer, RequestPairingIn{Info: PairingInfo{NodeID: "n7"}}); err != nil || out.Created {
		t.Errorf("a repetition while it is full: %+v %v", out, err)
	}
	w.at = w.at.Add(time.Hour)
	last := w.ask(t, "one more")
	for i := range maxPairings {
		id := fmt.Sprint("p", i)
		w.store.paired[id] = Pairing{Info: PairingInfo{NodeID: id}}
	}
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{last.RequestID}); !errors.Is(err, ErrTooManyPairings) {
		t.Errorf("one pairing too many: %v", err)
	}
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{w.ask(t, "p7").RequestID}); err != nil {
		t.Errorf("a paired node while it is full: %v", err)
	}
}

// What was not written did not happen: no event, no change.
func TestPairingIsWrittenFirst(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	r := w.ask(t, "a")
	w.told()
	w.store.full = errors.New("disk full")
	if _, err := w.RequestPairing(ctx, pairer, RequestPairingIn{Info: PairingInfo{NodeID: "b"}}); !errors.Is(err, w.store.full) {
		t.Error(err)
	}
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{r.RequestID}); !errors.Is(err, w.store.full) {
		t.Error(err)
	}
	if e := w.told(); len(e) != 0 {
		t.Errorf("told of what did not happen: %v", e)
	}
	w.store.full = nil
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{r.RequestID}); err != nil {
		t.Error(err)
	}
}

// A node that is paired in the older store can be renamed, and its name is shown there.
func TestRenamePairing(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{w.ask(t, "ipad").RequestID}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Rename(ctx, pairer, RenameIn{NodeID: "ipad", DisplayName: "Kitchen"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Rename(ctx, pairer, RenameIn{NodeID: "tv", DisplayName: "Kitchen"}); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	out, err := w.ListPairings(ctx, pairer, ListPairingsIn{})
	if err != nil || out.Paired[0].Info.DisplayName != "Kitchen" {
		t.Errorf("%+v %v", out, err)
	}
}

// Connecting notes the time without waiting for the disk; it is shown at once and on disk soon, or
// when the daemon stops.
func TestLastConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPairWorld(t)
		w.now = time.Now
		ctx, cancel := context.WithCancel(context.Background())
		for _, id := range []string{"ipad", "tv"} {
			if _, err := w.ApprovePairing(ctx, pairer, DecidePairingIn{w.ask(t, id).RequestID}); err != nil {
				t.Fatal(err)
			}
		}
		shown := func() (n int) {
			out, err := w.ListPairings(ctx, pairer, ListPairingsIn{})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range out.Paired {
				if p.LastConnectedAt.Equal(time.Now()) {
					n++
				}
			}
			return n
		}
		stored := func(id string) time.Time {
			p, _, _ := w.store.Pairing(id)
			return p.LastConnectedAt
		}
		done := make(chan struct{})
		go func() {
			w.Run(ctx)
			close(done)
		}()
		w.attach(t, "ipad", &link{}, "system.which")
		w.Saw("tv")
		w.Saw("nobody")
		w.Saw("")
		if shown() != 2 || !stored("ipad").IsZero() || len(w.seen.all()) != 2 {
			t.Errorf("shown %d, stored %v", shown(), stored("ipad"))
		}
		at := time.Now()
		time.Sleep(seenEvery)
		synctest.Wait()
		if !stored("ipad").Equal(at) || !stored("tv").Equal(at) || len(w.seen.all()) != 0 {
			t.Errorf("stored %v, %v; %d are left", stored("ipad"), stored("tv"), len(w.seen.all()))
		}
		w.Saw("tv")
		cancel()
		<-done
		if !stored("tv").Equal(time.Now()) {
			t.Errorf("at the end: %v", stored("tv"))
		}
	})
}

// What who has a tenant pairs is of that tenant, and of other tenants' it finds and decides nothing.
func TestPairingOfTenants(t *testing.T) {
	w := newPairWorld(t)
	ctx := context.Background()
	acme, beta := pairer, pairer
	acme.Tenant, beta.Tenant = "acme", "beta"
	w.ask(t, "ipad")
	out, err := w.RequestPairing(ctx, acme, RequestPairingIn{Info: PairingInfo{NodeID: "ipad"}})
	if err != nil || !out.Created || out.Request.Info.NodeID != "acme/ipad" {
		t.Fatalf("%+v %v", out, err)
	}
	id := out.Request.RequestID
	for c, want := range map[*identity.Caller]int{&acme: 1, &beta: 0, &pairer: 2} {
		if l, err := w.ListPairings(ctx, *c, ListPairingsIn{}); err != nil || len(l.Pending) != want {
			t.Errorf("%q: %+v %v", c.Tenant, l, err)
		}
		for _, payload := range w.told() {
			if events.Concerns(beta, payload) {
				t.Errorf("beta is told %+v", payload)
			}
		}
	}
	if _, err := w.RejectPairing(ctx, beta, DecidePairingIn{RequestID: id}); !errors.Is(err, ErrRequestUnknown) {
		t.Error(err)
	}
	if _, err := w.ApprovePairing(ctx, beta, DecidePairingIn{RequestID: id}); !errors.Is(err, ErrRequestUnknown) {
		t.Error(err)
	}
	ok, err := w.ApprovePairing(ctx, acme, DecidePairingIn{RequestID: id})
	if err != nil {
		t.Fatal(err)
	}
	for c, want := range map[*identity.Caller]bool{&acme: true, &beta: false} {
		if v, err := w.VerifyPairing(ctx, *c, VerifyPairingIn{NodeID: "ipad", Token: ok.Node.Token}); err != nil || v.OK != want {
			t.Errorf("%q: %+v %v", c.Tenant, v, err)
		}
		if l, _ := w.ListPairings(ctx, *c, ListPairingsIn{}); (len(l.Paired) == 1) != want {
			t.Errorf("%q: %+v", c.Tenant, l.Paired)
		}
	}
}
