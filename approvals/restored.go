package approvals

import (
	"context"
	"fmt"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// AuditRestore is a state that was put back from a backup: what came after the backup is not in the log.
const AuditRestore = "restore"

// RestoredIn says where a restored state comes from.
type RestoredIn struct {
	// At is the time of the restore, Taken that of the backup.
	At, Taken time.Time
	// Backup names the backup in the log, such as the SHA-256 of its manifest.
	Backup string
	// Others says in the log what else was ended, "" for nothing.
	Others string
}

// RestoredOut counts what EndRestored ended.
type RestoredOut struct{ Approvals, Grants int }

// EndRestored makes a restored store unable to let anything happen twice: between the backup and the restore
// an approval may have been given and used, and a use of a grant taken, which the store no longer knows. Open
// approvals expire, and grants with a number of uses are revoked; others stand as they stood. It is one
// transaction, with a row for each and one for the restore. Nobody else may use the store.
func EndRestored(ctx context.Context, store Store, c identity.Caller, in RestoredIn) (RestoredOut, error) {
	open, err := store.LiveApprovals()
	if err != nil {
		return RestoredOut{}, err
	}
	grants, err := store.Grants()
	if err != nil {
		return RestoredOut{}, err
	}
	s := &Service{now: func() time.Time { return in.At }}
	var out RestoredOut
	err = store.Transact(ctx, func(tx Tx) error {
		out = RestoredOut{}
		for _, a := range open {
			a.State = Expired
			row := s.row(AuditExpiry, c, a)
			row.Reason, row.Detail = "restore", "whether it was used after the backup is not known"
			if err := tx.UpdateApproval(a); err != nil {
				return err
			}
			if err := tx.Audit(row); err != nil {
				return err
			}
			out.Approvals++
		}
		for _, g := range grants {
			if g.MaxUses == 0 || g.State(in.At) != GrantLive {
				continue
			}
			g.RevokedAt, g.RevokedBy = in.At, c.Subject()
			if err := tx.PutGrant(g); err != nil {
				return err
			}
			row := s.grantRow(AuditGrant, c.Subject(), g, "revoked")
			row.Detail = "by a restore: how often it was used after the backup is not known; " + row.Detail
			if err := tx.Audit(row); err != nil {
				return err
			}
			out.Grants++
		}
		row := Audit{
			At: in.At, Kind: AuditRestore, Subject: c.Subject(), Reason: in.Backup,
			Detail: fmt.Sprintf("the state of %s was put back; %d approvals expired, %d grants were revoked", in.Taken.UTC().Format(time.RFC3339), out.Approvals, out.Grants),
		}
		if in.Others != "" {
			row.Detail += ", " + in.Others
		}
		return tx.Audit(row)
	})
	if err != nil {
		return RestoredOut{}, err
	}
	return out, nil
}
