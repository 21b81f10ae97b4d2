package runs

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// EndRestored ends the runs of a restored store that had not ended: after the backup they may have left, and
// a run leaves once. They are lost. It returns how many; nobody else may use the store.
func EndRestored(ctx context.Context, store Store, at time.Time) (int, error) {
	all, err := store.Runs()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, r := range all {
		if r.State.Ended() {
			continue
		}
		_, err := store.UpdateRun(ctx, r.ID, func(r *Run) (*Audit, error) {
			r.State, r.Env, r.EndedAt = Lost, nil, at
			r.Failure = &Failure{Code: ErrLost.Code, Class: errs.Unknown,
				Text: "the state of the daemon was put back from a backup in which this had not ended; it may have run since: look before you repeat it"}
			return nil, nil
		})
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
