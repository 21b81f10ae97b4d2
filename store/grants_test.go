package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/approvals"
)

func grant(id string, change func(*approvals.Grant)) approvals.Grant {
	g := approvals.Grant{ID: id, Key: "key", Command: "uname -a", NodeID: "n", CreatedAt: start, CreatedBy: "local:1000", MaxUses: 2}
	if change != nil {
		change(&g)
	}
	return g
}

// testGrants holds a store to what approvals demand of grants and of transactions.
func testGrants(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	ctx := t.Context()
	put := func(gs ...approvals.Grant) {
		t.Helper()
		err := s.Transact(ctx, func(tx approvals.Tx) error {
			for _, g := range gs {
				if err := tx.PutGrant(g); err != nil {
					return err
				}
			}
			return tx.Audit(row(approvals.AuditGrant, ""))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Grant("a"); !errors.Is(err, approvals.ErrUnknownGrant) {
		t.Errorf("a grant that is not there: %v", err)
	}
	put(grant("b", nil), grant("a", nil))
	all, err := s.Grants()
	if err != nil || len(all) != 2 || all[0].ID != "a" || all[1].ID != "b" {
		t.Fatalf("%+v %v", all, err)
	}

	// One transaction: what it wrote it reads, and what fails leaves nothing.
	before, _ := s.Audit(0, 1000)
	err = s.Transact(ctx, func(tx approvals.Tx) error {
		g, err := tx.Grant("a")
		if err != nil {
			return err
		}
		g.Uses++
		if err := tx.PutGrant(g); err != nil {
			return err
		}
		if again, err := tx.Grant("a"); err != nil || again.Uses != 1 {
			t.Errorf("%+v %v", again, err)
		}
		if err := tx.CreateApproval(pending("p", 0)); err != nil {
			return err
		}
		if err := tx.Audit(row(approvals.AuditUse, "p")); err != nil {
			return err
		}
		return tx.CreateApproval(pending("p", 1))
	})
	if !errors.Is(err, approvals.ErrTaken) {
		t.Errorf("an id twice: %v", err)
	}
	after, _ := s.Audit(0, 1000)
	if g, err := s.Grant("a"); err != nil || g.Uses != 0 || len(after) != len(before) {
		t.Errorf("a failed transaction left %+v, %d rows more, %v", g, len(after)-len(before), err)
	}
	if _, err := s.Approval("p"); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("and an approval: %v", err)
	}
	err = s.Transact(ctx, func(tx approvals.Tx) error {
		g, err := tx.Grant("a")
		if err != nil {
			return err
		}
		g.Uses++
		a := pending("p", 0)
		a.GrantID, a.State = "a", approvals.Allowed
		if err := errors.Join(tx.PutGrant(g), tx.CreateApproval(a), tx.Audit(row(approvals.AuditUse, "p"))); err != nil {
			return err
		}
		if a, err = tx.Approval("p"); err != nil {
			return err
		}
		a.State = approvals.Consumed
		return tx.UpdateApproval(a)
	})
	if err != nil {
		t.Fatal(err)
	}
	if g, err := s.Grant("a"); err != nil || g.Uses != 1 {
		t.Errorf("%+v %v", g, err)
	}
	if a, err := s.Approval("p"); err != nil || a.State != approvals.Consumed || a.GrantID != "a" {
		t.Errorf("%+v %v", a, err)
	}
	if live, err := s.LiveApprovals(); err != nil || len(live) != 0 {
		t.Errorf("live: %v %v", ids(live), err)
	}
	for name, change := range map[string]func(tx approvals.Tx) error{
		"unknown":    func(tx approvals.Tx) error { return tx.UpdateApproval(pending("nope", 0)) },
		"other time": func(tx approvals.Tx) error { return tx.UpdateApproval(pending("p", 9)) },
		"bad text":   func(tx approvals.Tx) error { return tx.PutGrant(grant("x\xff", nil)) },
		"bad words": func(tx approvals.Tx) error {
			return tx.PutGrant(grant("x", func(g *approvals.Grant) { g.Pattern = []string{"\xff"} }))
		},
		"no id": func(tx approvals.Tx) error { return tx.PutGrant(grant("", nil)) },
	} {
		if err := s.Transact(ctx, change); err == nil {
			t.Errorf("%s was taken", name)
		}
	}

	// Pruning takes the oldest of those that ended, and no live one.
	now := start.Add(100 * time.Hour)
	revoked := func(id string, at time.Duration) approvals.Grant {
		return grant(id, func(g *approvals.Grant) { g.RevokedAt = start.Add(at) })
	}
	put(revoked("c", time.Hour), revoked("d", 80*time.Hour),
		grant("e", func(g *approvals.Grant) { g.Uses, g.LastUsedAt = 2, start.Add(90*time.Hour) }),
		grant("f", func(g *approvals.Grant) { g.Until = start.Add(2 * time.Hour) }),
		grant("g", func(g *approvals.Grant) { g.Until = start.Add(200 * time.Hour) }))
	if n, err := s.PruneGrants(ctx, now, start.Add(50*time.Hour), 100); n != 2 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if n, err := s.PruneGrants(ctx, now, start, 1); n != 1 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	s = reopened(t)
	all, err = s.Grants()
	var left []string
	for _, g := range all {
		left = append(left, g.ID)
	}
	if got := strings.Join(left, " "); err != nil || got != "a b e g" {
		t.Errorf("left: %s %v", got, err)
	}
}

// Earlier approvals come newest first, as far as the search goes.
func testEarlier(t *testing.T, reopened func(*testing.T) stores) {
	s := reopened(t)
	for i := range 10 {
		create(t, s, pending(fmt.Sprint(i), i))
	}
	even := func(a approvals.Approval) bool { return strings.Contains("02468", a.ID) }
	for _, x := range []struct {
		before, n, scan int
		want            string
	}{
		{8, 10, 100, "6 4 2 0"}, {100, 2, 100, "8 6"}, {8, 10, 3, "6"}, {0, 10, 100, ""}, {8, 0, 100, ""},
	} {
		got, err := s.EarlierApprovals(start.Add(time.Duration(x.before)*time.Second), x.n, x.scan, even)
		if err != nil || ids(got) != x.want {
			t.Errorf("%+v: %q %v", x, ids(got), err)
		}
		if !slices.IsSortedFunc(got, func(a, b approvals.Approval) int { return b.CreatedAt.Compare(a.CreatedAt) }) {
			t.Error(cmp.Diff(nil, got))
		}
	}
}
