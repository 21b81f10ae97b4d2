package approvals_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
)

// fill writes n rows about two nodes, a minute apart.
func (w *world) fill(n int) {
	w.tb.Helper()
	rows := make([]approvals.Audit, n)
	for i := range rows {
		rows[i] = approvals.Audit{
			At: time.Unix(int64(60*i), 0), Kind: []string{"request", "device.pair", "refusal"}[i%3], Subject: fmt.Sprint("s", i%2),
			NodeID: fmt.Sprint("n", i%5), ApprovalID: fmt.Sprint("a", i/10),
		}
	}
	if err := w.store.AppendAudit(context.Background(), rows...); err != nil {
		w.tb.Fatal(err)
	}
}

func TestListAudit(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	if out, err := w.svc.ListAudit(ctx, ann, approvals.ListAuditIn{}); err != nil || len(out.Entries) != 0 || out.Before != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.fill(700)
	seqs := func(in approvals.ListAuditIn) (all []uint64) {
		t.Helper()
		for {
			out, err := w.svc.ListAudit(ctx, ann, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range out.Entries {
				all = append(all, e.Audit.Seq)
			}
			if in.Before = out.Before; in.Before == 0 {
				return all
			}
		}
	}
	if all := seqs(approvals.ListAuditIn{}); len(all) != 700 || all[0] != 700 || all[699] != 1 || !slices.IsSortedFunc(all, func(a, b uint64) int { return int(b) - int(a) }) {
		t.Errorf("%d rows, %v", len(all), all[:3])
	}
	for _, c := range []struct {
		in   approvals.ListAuditIn
		want string
	}{
		{approvals.ListAuditIn{After: 697}, "[700 699 698]"},
		{approvals.ListAuditIn{After: 2, Before: 5}, "[4 3]"},
		{approvals.ListAuditIn{Filter: approvals.AuditFilter{ApprovalID: "a7", Kinds: []string{"device."}}}, "[80 77 74 71]"},
		{approvals.ListAuditIn{Filter: approvals.AuditFilter{ApprovalID: "a7", NodeID: "n0"}}, "[76 71]"},
		{approvals.ListAuditIn{Filter: approvals.AuditFilter{ApprovalID: "a7", Subject: "s1", Kinds: []string{"request", "refusal"}}}, "[78 76 72]"},
		{approvals.ListAuditIn{Filter: approvals.AuditFilter{Since: time.Unix(60*10, 0), Until: time.Unix(60*12, 0)}}, "[12 11]"},
		{approvals.ListAuditIn{Filter: approvals.AuditFilter{RunID: "none"}}, "[]"},
		{approvals.ListAuditIn{Filter: approvals.AuditFilter{DeviceID: "none"}}, "[]"},
	} {
		if got := fmt.Sprint(seqs(c.in)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.in, got, c.want)
		}
		c.in.Limit = 1
		if got := fmt.Sprint(seqs(c.in)); got != c.want {
			t.Errorf("one by one, %+v: %s, want %s", c.in, got, c.want)
		}
	}
	for _, limit := range []int{-1, approvals.MaxAudit + 1} {
		if _, err := w.svc.ListAudit(ctx, ann, approvals.ListAuditIn{Limit: limit}); !errors.Is(err, approvals.ErrAuditLimit) {
			t.Error(err)
		}
	}
	if _, err := w.svc.ListAudit(ctx, ann, approvals.ListAuditIn{Filter: approvals.AuditFilter{Since: time.Unix(9, 0), Until: time.Unix(8, 0)}}); !errors.Is(err, approvals.ErrAuditRange) {
		t.Error(err)
	}
	if e, err := w.svc.GetAudit(ctx, ann, 42); err != nil || e.Audit.Seq != 42 || e.Hash == (audit.Hash{}) || e.Prev == (audit.Hash{}) {
		t.Errorf("%+v, %v", e, err)
	}
	for _, seq := range []uint64{0, 701} {
		if _, err := w.svc.GetAudit(ctx, ann, seq); !errors.Is(err, approvals.ErrAuditUnknown) {
			t.Error(seq, err)
		}
	}
}

// TestExportAudit: what is exported can be verified without the daemon, whole and from a row on, and what
// comes meanwhile is not in it.
func TestExportAudit(t *testing.T) {
	w := newWorld(t)
	w.fill(600)
	for _, after := range []uint64{0, 300, 600, 601} {
		var out bytes.Buffer
		more := true
		head, n, err := w.svc.ExportAudit(t.Context(), ann, after, func(r audit.Row) error {
			if more {
				more = false
				w.fill(1)
			}
			line, err := audit.AppendRow(nil, r)
			out.Write(line)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(audit.AppendEnd(nil, n, head))
		text := out.String()
		r, err := audit.Verify(strings.NewReader(text), head)
		if err != nil || !r.OK() || r.Rows != n || r.Head != head {
			t.Fatalf("after %d: %+v, %v", after, r, err)
		}
		if after >= 600 {
			continue
		}
		lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
		lines[len(lines)-1] += "\n"
		for name, bad := range map[string][]string{
			"changed":  append(append(slices.Clone(lines[:5]), strings.Replace(lines[5], `"subject":"s`, `"subject":"x`, 1)), lines[6:]...),
			"removed":  append(slices.Clone(lines[:5]), lines[6:]...),
			"swapped":  append(append(slices.Clone(lines[:5]), lines[6], lines[5]), lines[7:]...),
			"doubled":  append(append(slices.Clone(lines[:5]), lines[5], lines[5]), lines[6:]...),
			"cut":      lines[:5],
			"last out": append(slices.Clone(lines[:len(lines)-2]), lines[len(lines)-1]),
			"spaced":   append(append(slices.Clone(lines[:5]), strings.Replace(lines[5], `,"v":1`, `, "v":1`, 1)), lines[6:]...),
			"twice":    append(append(slices.Clone(lines[:5]), strings.Replace(lines[5], `,"v":1`, `,"v":1,"v":1`, 1)), lines[6:]...),
			"behind":   append(slices.Clone(lines), lines[3]),
		} {
			if r, err := audit.Verify(strings.NewReader(strings.Join(bad, ""))); err == nil && r.OK() {
				t.Errorf("after %d: %s: not found", after, name)
			}
		}
	}
}

// TestWatchAudit: a reader gets every row that fits once and in order, from the row it names, however
// slow it is.
func TestWatchAudit(t *testing.T) {
	w := newWorld(t)
	w.fill(300)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stop := errors.New("enough")
	after := uint64(290)
	next := after
	err := w.svc.WatchAudit(ctx, ann, &after, approvals.AuditFilter{}, func() error { return nil }, func(e approvals.AuditEntry) error {
		if next++; e.Audit.Seq != next {
			t.Errorf("row %d, want %d", e.Audit.Seq, next)
		}
		switch next {
		case 300:
			go w.fill(400)
		case 500:
			time.Sleep(20 * time.Millisecond)
		case 700:
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	// From now on, and only what fits.
	seen := 0
	err = w.svc.WatchAudit(ctx, ann, nil, approvals.AuditFilter{Kinds: []string{"refusal"}}, func() error { go w.fill(30); return nil }, func(e approvals.AuditEntry) error {
		if e.Audit.Seq <= 700 || e.Audit.Kind != "refusal" {
			t.Errorf("%+v", e.Audit)
		}
		if seen++; seen == 10 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	cancel()
	if err := w.svc.WatchAudit(ctx, ann, nil, approvals.AuditFilter{}, func() error { return nil }, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestUnreadableRunsAreRecorded: a refusal because the parameters say two things leaves a row too.
func TestUnreadableRunsAreRecorded(t *testing.T) {
	w := newWorld(t)
	for _, params := range []string{
		`{"command":["ls"],"rawCommand":"rm -rf /"}`,
		`{"command":["ls"],"approved":true}`,
	} {
		n := uint64(len(w.rows(0)))
		if _, why := w.use(ann, "n1", params); why == "" {
			t.Fatalf("%s passed", params)
		}
		rows := w.rows(n)
		if len(rows) != 1 || rows[0].Kind != approvals.AuditRefusal || rows[0].Reason == "" || len(rows[0].Argv) != 1 || rows[0].NodeID != "n1" {
			t.Errorf("%s: %+v", params, rows)
		}
	}
}
