package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/push"
	"github.com/hanzoai/hanzod/system"
)

// stores is what the domains demand of a store. The suite below is written against it alone.
type stores interface {
	nodes.Store
	approvals.Store
	identity.Store
	system.EventQueue
	Audit(after uint64, n int) ([]AuditRow, error)
}

// TestSuite runs every rule of the Store interfaces on a store, and then looks at what another
// process would find.
func TestSuite(t *testing.T) {
	for name, test := range map[string]func(*testing.T, func(*testing.T) stores){
		"node names":          testNodeNames,
		"node pairings":       testNodePairings,
		"registrations":       testRegistrations,
		"voice wake":          testVoiceWake,
		"devices":             testDevices,
		"device change fails": testDeviceChangeFails,
		"pairing and invites": testPairingAndInvites,
		"approval life":       testApprovalLife,
		"approval taken":      testApprovalTaken,
		"approval order":      testApprovalOrder,
		"approval refusals":   testApprovalRefusals,
		"audit":               testAudit,
		"prune by age":        testPruneByAge,
		"prune by number":     testPruneByNumber,
		"prune many":          testPruneMany,
		"system events":       testSystemEvents,
		"grants":              testGrants,
		"earlier approvals":   testEarlier,
		"bad ids and text":    testBadText,
		"ended context":       testEndedContext,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// reopened gives the same store to a new daemon.
			var s *Store
			reopened := func(t *testing.T) stores {
				if s != nil {
					check(t, s)
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				s = open(t, dir)
				return s
			}
			test(t, reopened)
			check(t, s)
		})
	}
}

func testNodeNames(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	want := func(id, name string) {
		t.Helper()
		if got, err := s.NodeName(id); got != name || err != nil {
			t.Fatalf("name of %q: %q, %v; want %q", id, got, err, name)
		}
	}
	want("n1", "")
	want("", "")
	for _, name := range []string{"Kitchen", "Küche 🍳 <b>&", "Küche 🍳 <b>&"} {
		if err := s.SetNodeName(ctx, "n1", name); err != nil {
			t.Fatal(err)
		}
		want("n1", name)
	}
	s = reopened(t)
	want("n1", "Küche 🍳 <b>&")
	for range 2 {
		if err := s.SetNodeName(ctx, "n1", ""); err != nil {
			t.Fatal(err)
		}
		want("n1", "")
	}
}

func testRegistrations(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	r := nodes.Registration{
		NodeID: "n1", Token: "00aa", Topic: "ai.hanzo", Environment: push.Production, Platform: "ios", DeviceFamily: "iPhone", UpdatedAt: start,
	}
	want := func(ok bool) {
		t.Helper()
		got, there, err := s.Registration("n1")
		if err != nil || there != ok || (ok && !cmp.Equal(got, r)) {
			t.Fatalf("%+v, %t, %v", got, there, err)
		}
	}
	want(false)
	for range 2 {
		if err := s.PutRegistration(ctx, r, 1); err != nil {
			t.Fatal(err)
		}
		r.Topic = "ai.hanzo.app"
	}
	r.Topic = "ai.hanzo.app"
	if err := s.PutRegistration(ctx, nodes.Registration{NodeID: "n2"}, 1); !errors.Is(err, nodes.ErrTooManyPushes) {
		t.Fatal(err)
	}
	if err := s.PutRegistration(ctx, nodes.Registration{}, 5); err == nil {
		t.Fatal("a registration of nobody is taken")
	}
	s = reopened(t)
	want(true)
	for token, left := range map[string]bool{"00bb": true, "": true} {
		if err := s.DropRegistration(ctx, "n1", token); err != nil {
			t.Fatal(err)
		}
		want(left)
	}
	for range 2 {
		if err := s.DropRegistration(ctx, "n1", "00aa"); err != nil {
			t.Fatal(err)
		}
		want(false)
	}
}

func testVoiceWake(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	for _, words := range [][]string{nil, {"hey", "Küche"}, nil, {"x"}} {
		if err := s.SetVoiceWake(t.Context(), words); err != nil {
			t.Fatal(err)
		}
		s = reopened(t)
		if got, err := s.VoiceWake(); err != nil || !cmp.Equal(got, words) {
			t.Fatalf("%v, %v; want %v", got, err, words)
		}
	}
}

func testNodePairings(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	silent := false
	r := nodes.PairingRequest{
		RequestID: "r1", Silent: &silent, Repair: true, At: start,
		Info: nodes.PairingInfo{
			NodeID: "n1", DisplayName: "Küche", Platform: "ios", Version: "1", CoreVersion: "2", UIVersion: "3", DeviceFamily: "iPad",
			ModelIdentifier: "m", Caps: []string{}, Commands: []string{"canvas.present"}, RemoteIP: "10.0.0.1",
		},
	}
	p := nodes.Pairing{Info: r.Info, Token: "secret", CreatedAt: start, ApprovedAt: start.Add(1), LastConnectedAt: start.Add(2)}
	mine := errors.New("mine")
	write := func(fail error) error {
		return s.UpdatePairings(ctx, func(tx nodes.PairingTx) error {
			if _, paired, err := tx.Pairing("n1"); paired || err != nil || tx.CountPairings() != 0 {
				t.Errorf("paired before: %t, %v", paired, err)
			}
			for _, err := range []error{
				tx.PutRequest(r), tx.PutRequest(nodes.PairingRequest{RequestID: "r0", Info: nodes.PairingInfo{NodeID: "n0"}, At: start}),
				tx.DeleteRequest("r0"), tx.DeleteRequest("nothing"), tx.PutPairing(p),
				tx.AppendAudit(nodes.Audit{At: start, Kind: "node-pairing", Subject: "device:d", NodeID: "n1", Decision: "approved"}),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if open, err := tx.Requests(); err != nil || len(open) != 1 || tx.CountPairings() != 1 {
				t.Errorf("inside: %+v, %v", open, err)
			}
			return fail
		})
	}
	if err := write(mine); !errors.Is(err, mine) {
		t.Fatal(err)
	}
	if open, paired, err := s.Pairings(); len(open)+len(paired) != 0 || err != nil {
		t.Fatalf("after a failed change: %v, %v, %v", open, paired, err)
	}
	if err := write(nil); err != nil {
		t.Fatal(err)
	}
	s = reopened(t)
	open, paired, err := s.Pairings()
	if err != nil || !cmp.Equal(open, []nodes.PairingRequest{r}) || !cmp.Equal(paired, []nodes.Pairing{p}) {
		t.Fatalf("%s%s %v", cmp.Diff([]nodes.PairingRequest{r}, open), cmp.Diff([]nodes.Pairing{p}, paired), err)
	}
	if got, ok, err := s.Pairing("n1"); !ok || err != nil || !cmp.Equal(got, p) {
		t.Fatalf("%+v, %t, %v", got, ok, err)
	}
	if _, ok, err := s.Pairing("n0"); ok || err != nil {
		t.Fatalf("a node out of nothing: %t, %v", ok, err)
	}
	rows, err := s.Audit(0, 10)
	want := []AuditRow{{Seq: 1, At: start, Kind: "node-pairing", Subject: "device:d", NodeID: "n1", Decision: "approved"}}
	if d := cmp.Diff(want, rows); err != nil || d != "" {
		t.Errorf("%s %v", d, err)
	}
	for _, bad := range []string{"", strings.Repeat("x", maxID+1), "\xff"} {
		err := s.UpdatePairings(ctx, func(tx nodes.PairingTx) error {
			return tx.PutRequest(nodes.PairingRequest{RequestID: "r2", Info: nodes.PairingInfo{NodeID: bad}})
		})
		if err == nil {
			t.Errorf("the node %.10q is taken", bad)
		}
	}
}

// updateDevice changes one device in a transaction of its own.
func updateDevice(ctx context.Context, s stores, id string, change func(d *identity.Device, exists bool) error) (d identity.Device, err error) {
	err = s.ChangeDevices(ctx, func(tx identity.Tx) error {
		var exists bool
		if d, exists, err = tx.Device(id); err != nil {
			return err
		}
		if err := change(&d, exists); err != nil {
			return err
		}
		return tx.PutDevice(d)
	})
	return d, err
}

func deleteDevice(ctx context.Context, s stores, id string) (had bool, err error) {
	err = s.ChangeDevices(ctx, func(tx identity.Tx) error {
		if _, had, err = tx.Device(id); err != nil {
			return err
		}
		return tx.DeleteDevice(id)
	})
	return had, err
}

func testDevices(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	if _, ok, err := s.Device("d1"); ok || err != nil {
		t.Fatalf("a device out of nothing: %t, %v", ok, err)
	}
	for _, id := range []string{"d2", "d1"} {
		d, err := updateDevice(ctx, s, id, func(d *identity.Device, exists bool) error {
			if exists || d.ID != id {
				t.Errorf("a new device: exists %t, %+v", exists, d)
			}
			d.DisplayName, d.CreatedAt = "name of "+id, start
			d.Tokens = map[identity.Role]identity.DeviceToken{identity.RoleNode: {Token: "secret-" + id, Role: identity.RoleNode}}
			return nil
		})
		if err != nil || d.DisplayName != "name of "+id {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	s = reopened(t)
	d, err := updateDevice(ctx, s, "d1", func(d *identity.Device, exists bool) error {
		if !exists || d.Tokens[identity.RoleNode].Token != "secret-d1" {
			t.Errorf("a known device: exists %t, %+v", exists, d)
		}
		tok := d.Tokens[identity.RoleNode]
		tok.RevokedAt = start.Add(time.Hour)
		d.Tokens[identity.RoleNode] = tok
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, ok, err := s.Device("d1")
	if !ok || err != nil || !cmp.Equal(got, d) || got.Tokens[identity.RoleNode].RevokedAt.IsZero() {
		t.Fatalf("%+v, %t, %v", got, ok, err)
	}
	all, err := s.Devices()
	if err != nil || len(all) != 2 || all[0].ID != "d1" || all[1].ID != "d2" {
		t.Fatalf("%+v, %v", all, err)
	}
	for i, want := range []bool{true, false} {
		if had, err := deleteDevice(ctx, s, "d1"); had != want || err != nil {
			t.Fatalf("deletion %d: %t, %v", i, had, err)
		}
	}
	if had, err := deleteDevice(ctx, s, ""); had || err != nil {
		t.Fatalf("deletion without an id: %t, %v", had, err)
	}
	if _, ok, err := s.Device("d1"); ok || err != nil {
		t.Fatalf("a deleted device: %t, %v", ok, err)
	}
}

func testDeviceChangeFails(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	mine := errors.New("mine")
	_, err := updateDevice(ctx, s, "d1", func(d *identity.Device, _ bool) error {
		d.DisplayName = "x"
		return mine
	})
	if err != mine {
		t.Fatalf("error %v, want the change's own", err)
	}
	_, err = updateDevice(ctx, s, "d1", func(*identity.Device, bool) error { panic("at the change") })
	wantClass(t, err, errs.Internal)
	if all, err := s.Devices(); len(all) != 0 || err != nil {
		t.Fatalf("%+v, %v", all, err)
	}
}

// What one transaction of a device writes is kept whole, with its row in the audit log, or not at all.
func testPairingAndInvites(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	p := identity.Pairing{RequestID: "r1", DeviceID: "d1", Role: identity.RoleNode, At: start}
	i := identity.Invite{ID: "i1", Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}, CreatedAt: start}
	write := func(fail error) error {
		return s.ChangeDevices(t.Context(), func(tx identity.Tx) error {
			if tx.HasRequest("r1") || tx.HasInvite("i1") {
				t.Error("there before it was written")
			}
			err := errors.Join(tx.PutDevice(identity.Device{ID: "d1"}), tx.PutRequest(p), tx.PutInvite(i),
				tx.Audit(identity.Audit{At: start, Kind: "device.approve", Subject: "local:1", DeviceID: "d1", RequestID: "r1"}))
			if !tx.HasRequest("r1") || !tx.HasInvite("i1") {
				t.Error("not there after it was written")
			}
			return errors.Join(err, fail)
		})
	}
	mine := errors.New("mine")
	if err := write(mine); !errors.Is(err, mine) {
		t.Fatal(err)
	}
	if err := write(nil); err != nil {
		t.Fatal(err)
	}
	s = reopened(t)
	requests, err := s.Requests()
	if err != nil || !cmp.Equal(requests, []identity.Pairing{p}) {
		t.Errorf("%+v, %v", requests, err)
	}
	invites, err := s.Invites()
	if err != nil || !cmp.Equal(invites, []identity.Invite{i}) {
		t.Errorf("%+v, %v", invites, err)
	}
	rows, err := s.Audit(0, 10)
	want := []AuditRow{{Seq: 1, At: start, Kind: "device.approve", Subject: "local:1", DeviceID: "d1", RequestID: "r1"}}
	if err != nil || !cmp.Equal(rows, want) {
		t.Errorf("%+v, %v", rows, err)
	}
	for range 2 { // what is gone may be deleted again
		err := s.ChangeDevices(t.Context(), func(tx identity.Tx) error {
			return errors.Join(tx.DeleteRequest("r1"), tx.DeleteInvite("i1"), tx.DeleteDevice("d1"))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s = reopened(t)
	requests, _ = s.Requests()
	invites, _ = s.Invites()
	if len(requests)+len(invites) != 0 {
		t.Errorf("%+v %+v", requests, invites)
	}
}

// pending makes a question, created so many seconds after the start.
func pending(id string, second int) approvals.Approval {
	return approvals.Approval{
		ID: id, State: approvals.Pending, Command: "uname -a", CommandArgv: []string{"uname", "-a"},
		CreatedAt: start.Add(time.Duration(second) * time.Second),
		ExpiresAt: start.Add(time.Duration(second)*time.Second + time.Minute),
		Requester: approvals.Requester{Principal: "local:1000"},
	}
}

func row(kind, id string) approvals.Audit {
	return approvals.Audit{At: start, Kind: kind, Subject: "local:1000", ApprovalID: id}
}

// decide returns a change that answers.
func decide(state approvals.State, d approvals.Decision, at time.Time) func(*approvals.Approval) (approvals.Audit, error) {
	return func(a *approvals.Approval) (approvals.Audit, error) {
		if a.State != approvals.Pending {
			return approvals.Audit{}, approvals.ErrGone
		}
		a.State, a.Decision, a.ResolvedAt = state, d, at
		r := row("decision", a.ID)
		r.Decision = d
		return r, nil
	}
}

func ids(as []approvals.Approval) string {
	var out []string
	for _, a := range as {
		out = append(out, a.ID)
	}
	return strings.Join(out, " ")
}

func create(tb testing.TB, s stores, as ...approvals.Approval) {
	tb.Helper()
	for _, a := range as {
		if err := s.CreateApproval(tb.Context(), a, row("request", a.ID)); err != nil {
			tb.Fatal(err)
		}
	}
}

func wantLive(tb testing.TB, s stores, want string) {
	tb.Helper()
	all, err := s.LiveApprovals()
	if got := ids(all); got != want || err != nil {
		tb.Fatalf("live: %q, %v; want %q", got, err, want)
	}
}

func wantRecent(tb testing.TB, s stores, n int, want string) {
	tb.Helper()
	all, err := s.RecentApprovals(n)
	if got := ids(all); got != want || err != nil {
		tb.Fatalf("the last %d: %q, %v; want %q", n, got, err, want)
	}
}

func testApprovalLife(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	_, err := s.Approval("a")
	wantClass(t, err, errs.NotFound)
	_, err = s.UpdateApproval(ctx, "a", decide(approvals.Allowed, approvals.AllowOnce, start))
	wantClass(t, err, errs.NotFound)

	a := pending("a", 0)
	create(t, s, a)
	s = reopened(t)
	got, err := s.Approval("a")
	if err != nil || !cmp.Equal(got, a) {
		t.Fatalf("%v\n%s", err, cmp.Diff(a, got))
	}
	wantLive(t, s, "a")

	got, err = s.UpdateApproval(ctx, "a", decide(approvals.Allowed, approvals.AllowOnce, start.Add(time.Second)))
	if err != nil || got.State != approvals.Allowed || got.Decision != approvals.AllowOnce {
		t.Fatalf("%+v, %v", got, err)
	}
	wantLive(t, s, "a")
	_, err = s.UpdateApproval(ctx, "a", decide(approvals.Denied, approvals.Deny, start))
	if err != error(approvals.ErrGone) {
		t.Fatalf("error %v, want the change's own", err)
	}
	got, err = s.UpdateApproval(ctx, "a", func(a *approvals.Approval) (approvals.Audit, error) {
		a.State, a.Uses, a.LastUsedAt = approvals.Consumed, 1, start.Add(2*time.Second)
		return row("use", "a"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s = reopened(t)
	wantLive(t, s, "")
	stored, err := s.Approval("a")
	if err != nil || !cmp.Equal(got, stored) || stored.Uses != 1 {
		t.Fatalf("%v\n%s", err, cmp.Diff(got, stored))
	}
	// Back to life: the indexes follow the record whatever the change does.
	if _, err := s.UpdateApproval(ctx, "a", func(a *approvals.Approval) (approvals.Audit, error) {
		a.State = approvals.Pending
		return row("request", "a"), nil
	}); err != nil {
		t.Fatal(err)
	}
	wantLive(t, s, "a")
	rows, err := s.Audit(0, 10)
	var kinds []string
	for _, r := range rows {
		kinds = append(kinds, r.Kind)
	}
	if want := []string{"request", "decision", "use", "request"}; err != nil || !slices.Equal(kinds, want) {
		t.Fatalf("audit %v, %v; want %v", kinds, err, want)
	}
}

func testApprovalTaken(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	create(t, s, pending("a", 0))
	other := pending("a", 5)
	other.Command = "rm -rf /"
	err := s.CreateApproval(t.Context(), other, row("request", "a"))
	wantClass(t, err, errs.Exists)
	wantIs(t, err, approvals.ErrTaken)
	if got, err := s.Approval("a"); err != nil || got.Command != "uname -a" {
		t.Fatalf("%+v, %v", got, err)
	}
	if rows, err := s.Audit(0, 10); len(rows) != 1 || err != nil {
		t.Fatalf("%+v, %v", rows, err)
	}
}

func testApprovalOrder(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	wantRecent(t, s, 5, "")
	create(t, s, pending("z", 1), pending("a", 2), pending("m", 0), pending("b", 2))
	if _, err := s.UpdateApproval(t.Context(), "a", decide(approvals.Denied, approvals.Deny, start)); err != nil {
		t.Fatal(err)
	}
	wantLive(t, s, "m z b")
	wantRecent(t, s, 10, "b a z m")
	wantRecent(t, s, 2, "b a")
	wantRecent(t, s, 0, "")
	s = reopened(t)
	wantLive(t, s, "m z b")
}

func testApprovalRefusals(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	create(t, s, pending("a", 0))
	for name, change := range map[string]func(*approvals.Approval){
		"other id":   func(a *approvals.Approval) { a.ID = "b" },
		"other time": func(a *approvals.Approval) { a.CreatedAt = start.Add(time.Hour) },
		"panic":      func(*approvals.Approval) { panic("at the change") },
	} {
		_, err := s.UpdateApproval(ctx, "a", func(a *approvals.Approval) (approvals.Audit, error) {
			change(a)
			return row("decision", "a"), nil
		})
		if err == nil || errs.ClassOf(err) != errs.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := s.Approval("a"); err != nil || !cmp.Equal(got, pending("a", 0)) {
		t.Fatalf("%+v, %v", got, err)
	}
	if rows, _ := s.Audit(0, 10); len(rows) != 1 {
		t.Fatalf("a refused change left a row: %+v", rows)
	}
}

func testAudit(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	full := approvals.Audit{
		Seq: 99, At: start, Kind: "refusal", Subject: "device:d", ApprovalID: "a", NodeID: "n",
		Command: "system.run", Decision: approvals.Deny, Reason: "another node",
	}
	for range 3 {
		if err := s.AppendAudit(t.Context(), full); err != nil {
			t.Fatal(err)
		}
	}
	s = reopened(t)
	if err := s.AppendAudit(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Audit(1, 2)
	if err != nil || len(rows) != 2 {
		t.Fatalf("%+v, %v", rows, err)
	}
	for i, r := range rows {
		want := AuditRow{
			Seq: uint64(i) + 2, At: full.At, Kind: full.Kind, Subject: full.Subject, ApprovalID: full.ApprovalID,
			NodeID: full.NodeID, Command: full.Command, Decision: full.Decision, Reason: full.Reason,
		}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Error(diff)
		}
	}
	if rows, err := s.Audit(4, 10); len(rows) != 0 || err != nil {
		t.Fatalf("%+v, %v", rows, err)
	}
}

// ended makes an approval that is over since a second after the start.
func ended(id string, created, end int) approvals.Approval {
	a := pending(id, created)
	a.State, a.Decision, a.ResolvedAt = approvals.Denied, approvals.Deny, start.Add(time.Duration(end)*time.Second)
	return a
}

func prune(tb testing.TB, s stores, second, max, want int) {
	tb.Helper()
	n, err := s.PruneApprovals(tb.Context(), start.Add(time.Duration(second)*time.Second), max)
	if n != want || err != nil {
		tb.Fatalf("pruned %d, %v; want %d", n, err, want)
	}
}

func testPruneByAge(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	expired := pending("expired", 2)
	expired.State = approvals.Expired
	create(t, s, ended("old", 0, 10), pending("live", 1), expired, ended("late", 3, 500), ended("new", 100, 101))
	prune(t, s, 10, 100, 0)
	prune(t, s, 11, 100, 1)
	wantRecent(t, s, 10, "new late expired live")
	prune(t, s, 63, 100, 1)
	wantRecent(t, s, 10, "new late live")
	s = reopened(t)
	prune(t, s, 9999, 100, 2)
	wantRecent(t, s, 10, "live")
	wantLive(t, s, "live")
}

func testPruneByNumber(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	create(t, s, pending("l1", 0), ended("e1", 1, 1), ended("e2", 2, 2), pending("l2", 3), ended("e3", 4, 4))
	prune(t, s, 0, 5, 0)
	prune(t, s, 0, 4, 1)
	wantRecent(t, s, 10, "e3 l2 e2 l1")
	prune(t, s, 0, 1, 2)
	wantRecent(t, s, 10, "l2 l1")
	prune(t, s, 9999, -1, 0)
	wantLive(t, s, "l1 l2")
	if rows, err := s.Audit(0, 10); len(rows) != 5 || err != nil {
		t.Fatalf("the audit log lost rows: %d, %v", len(rows), err)
	}
}

func testPruneMany(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	for i := range 3*pruneChunk + 5 {
		create(t, s, ended(fmt.Sprintf("e%04d", i), i, i))
	}
	create(t, s, pending("live", 1))
	prune(t, s, 0, 7, 3*pruneChunk+5+1-7)
	if all, err := s.RecentApprovals(100); len(all) != 7 || err != nil {
		t.Fatalf("%d, %v", len(all), err)
	}
	wantLive(t, s, "live")
}

func testBadText(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	bad := "\xff"
	with := func(change func(*approvals.Approval)) error {
		a := pending("a", 0)
		change(&a)
		return s.CreateApproval(ctx, a, row("request", a.ID))
	}
	for name, err := range map[string]error{
		"approval id":      with(func(a *approvals.Approval) { a.ID = bad }),
		"argument":         with(func(a *approvals.Approval) { a.CommandArgv = []string{"echo", bad} }),
		"bound argument":   with(func(a *approvals.Approval) { a.Binding = &approvals.Binding{Argv: []string{bad}} }),
		"directory":        with(func(a *approvals.Approval) { a.Cwd = &bad }),
		"thread":           with(func(a *approvals.Approval) { a.TurnSource.ThreadID = bad }),
		"no approval id":   with(func(a *approvals.Approval) { a.ID = "" }),
		"long approval id": with(func(a *approvals.Approval) { a.ID = strings.Repeat("x", maxID+1) }),
		"thread of a kind": with(func(a *approvals.Approval) { a.TurnSource.ThreadID = func() {} }),
		"node name":        s.SetNodeName(ctx, "n", bad),
		"no node":          s.SetNodeName(ctx, "", "x"),
		"audit row":        s.AppendAudit(ctx, approvals.Audit{Reason: bad}),
	} {
		if err == nil || errs.ClassOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := updateDevice(ctx, s, "d", func(d *identity.Device, _ bool) error {
		d.Roles = []identity.Role{identity.Role(bad)}
		return nil
	})
	wantClass(t, err, errs.Invalid)
	_, err = updateDevice(ctx, s, "", func(*identity.Device, bool) error { return nil })
	wantClass(t, err, errs.Invalid)
	wantRecent(t, s, 10, "")
}

func testEndedContext(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.CreateApproval(ctx, pending("a", 0), row("request", "a"))
	wantClass(t, err, errs.Deadline)
	wantIs(t, err, context.Canceled)
	wantRecent(t, s, 10, "")
}

func testSystemEvents(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	texts := func(session string) (out []string) {
		t.Helper()
		list, err := s.QueuedEvents(session)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			out = append(out, e.Text)
		}
		return out
	}
	queue := func(session, text string) {
		t.Helper()
		if err := s.QueueEvent(t.Context(), session, system.QueuedEvent{Text: text, Source: "hook", At: start}, 3); err != nil {
			t.Fatal(err)
		}
	}
	if got := texts("main"); got != nil {
		t.Errorf("an empty queue: %q", got)
	}
	for _, text := range []string{"a", "b", "b", "c", "b", "d"} {
		queue("main", text)
	}
	queue("mai", "other")
	queue("main2", "other")
	s = reopened(t)
	if diff := cmp.Diff([]string{"c", "b", "d"}, texts("main")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"other"}, texts("mai")); diff != "" {
		t.Error(diff)
	}
	list, err := s.QueuedEvents("main")
	if want := (system.QueuedEvent{Text: "c", Source: "hook", At: start}); err != nil || list[0] != want {
		t.Errorf("%+v, %v", list, err)
	}
	for _, session := range []string{"", "a\x00b", "\xff"} {
		wantClass(t, s.QueueEvent(t.Context(), session, system.QueuedEvent{Text: "x"}, 3), errs.Invalid)
	}
	wantClass(t, s.QueueEvent(t.Context(), "main", system.QueuedEvent{Text: "\xff"}, 3), errs.Invalid)
}
