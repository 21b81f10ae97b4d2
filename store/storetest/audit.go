package storetest

import (
	"testing"

	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/store"
)

// VerifyAudit verifies the audit log of a store from its beginning to its head, and against the file
// beside the database. It fails the test when something is not as it was written.
func VerifyAudit(tb testing.TB, s *store.Store) audit.Report {
	tb.Helper()
	ends, err := s.AuditEnds()
	if err != nil {
		tb.Fatal(err)
	}
	var marks []audit.Mark
	if ends.Anchor != nil {
		marks = append(marks, *ends.Anchor)
	}
	v := audit.NewVerifier(marks...)
	v.From(ends.Base, true)
	for v.Last().Seq < ends.Head.Seq {
		rows, _, err := s.AuditLinks(v.Last().Seq, 1000)
		if err != nil {
			tb.Fatal(err)
		}
		if len(rows) == 0 {
			break
		}
		for _, row := range rows {
			v.Add(row)
		}
	}
	r := v.Report(&ends.Head)
	for _, f := range r.Faults {
		tb.Errorf("the audit log: %s: %s", f.Kind, f.Text)
	}
	if ends.Head.Seq > 0 && ends.Anchor == nil {
		tb.Error("the head file of the audit log cannot be read")
	}
	return r
}
