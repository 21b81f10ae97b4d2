package identity

import "context"

// EndRestored removes what a restored store would let in a second time: open invites, each of which lets one
// device in, and devices that wait for an answer. It returns how many invites; nobody else may use the store.
func EndRestored(ctx context.Context, store Store) (int, error) {
	invites, err := store.Invites()
	if err != nil {
		return 0, err
	}
	requests, err := store.Requests()
	if err != nil {
		return 0, err
	}
	if len(invites)+len(requests) == 0 {
		return 0, nil
	}
	return len(invites), store.ChangeDevices(ctx, func(tx Tx) error {
		for _, i := range invites {
			if err := tx.DeleteInvite(i.ID); err != nil {
				return err
			}
		}
		for _, r := range requests {
			if err := tx.DeleteRequest(r.RequestID); err != nil {
				return err
			}
		}
		return nil
	})
}
