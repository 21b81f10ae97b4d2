package store

import (
	"context"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
)

// grantRecord is one grant; its key is its id, which sorts by the time of creation.
type grantRecord struct {
	Key           string        `json:"key,omitzero"`
	Pattern       []string      `json:"pattern,omitzero"`
	Command       string        `json:"command,omitzero"`
	NodeID        string        `json:"node_id,omitzero"`
	AgentID       *string       `json:"agent_id,omitzero"`
	AnyAgent      bool          `json:"any_agent,omitzero"`
	SessionKey    *string       `json:"session_key,omitzero"`
	Cwd           *string       `json:"cwd,omitzero"`
	AnyCwd        bool          `json:"any_cwd,omitzero"`
	EnvHash       *string       `json:"env_hash,omitzero"`
	Requester     string        `json:"requester,omitzero"`
	AnyRequester  bool          `json:"any_requester,omitzero"`
	Tenant        string        `json:"tenant,omitzero"` // since schema 6
	MaxUses       int           `json:"max_uses,omitzero"`
	Until         time.Time     `json:"until,omitzero"`
	Uses          int           `json:"uses,omitzero"`
	LastUsedAt    time.Time     `json:"last_used_at,omitzero"`
	CreatedAt     time.Time     `json:"created_at,omitzero"`
	CreatedBy     string        `json:"created_by,omitzero"`
	CreatedByName string        `json:"created_by_name,omitzero"`
	Makers        []partyRecord `json:"makers,omitzero"`
	ApprovalID    string        `json:"approval_id,omitzero"`
	Rule          string        `json:"rule,omitzero"`
	Note          string        `json:"note,omitzero"`
	RevokedAt     time.Time     `json:"revoked_at,omitzero"`
	RevokedBy     string        `json:"revoked_by,omitzero"`
	// Files is not nil when it is empty: then no file may be opened.
	Files []grantFileRecord `json:"files,omitzero"`
}

type grantFileRecord struct {
	Path   string `json:"path,omitzero"`
	SHA256 string `json:"sha256,omitzero"`
}

type partyRecord struct {
	DeviceID  string `json:"device_id,omitzero"`
	Principal string `json:"principal,omitzero"`
	Paired    bool   `json:"paired,omitzero"`
}

func encodeGrant(g approvals.Grant) ([]byte, error) {
	rec := grantRecord{
		Key: g.Key, Pattern: g.Pattern, Command: g.Command, NodeID: g.NodeID, AgentID: g.AgentID, AnyAgent: g.AnyAgent,
		SessionKey: g.SessionKey, Cwd: g.Cwd, AnyCwd: g.AnyCwd, EnvHash: g.EnvHash, Requester: g.Requester, AnyRequester: g.AnyRequester, Tenant: g.Tenant,
		MaxUses: g.MaxUses, Until: utc(g.Until), Uses: g.Uses, LastUsedAt: utc(g.LastUsedAt),
		CreatedAt: utc(g.CreatedAt), CreatedBy: g.CreatedBy, CreatedByName: g.CreatedByName,
		ApprovalID: g.ApprovalID, Rule: g.Rule, Note: g.Note, RevokedAt: utc(g.RevokedAt), RevokedBy: g.RevokedBy,
	}
	for _, m := range g.Makers {
		rec.Makers = append(rec.Makers, partyRecord(m))
	}
	if g.Files != nil {
		rec.Files = make([]grantFileRecord, len(g.Files))
		for i, f := range g.Files {
			rec.Files[i] = grantFileRecord(f)
		}
	}
	return encode(rec)
}

func decodeGrant(id, value []byte) (approvals.Grant, error) {
	var rec grantRecord
	if err := decode(bucketGrants, id, value, &rec); err != nil {
		return approvals.Grant{}, err
	}
	g := approvals.Grant{
		ID: string(id), Key: rec.Key, Pattern: rec.Pattern, Command: rec.Command, NodeID: rec.NodeID, AgentID: rec.AgentID, AnyAgent: rec.AnyAgent,
		SessionKey: rec.SessionKey, Cwd: rec.Cwd, AnyCwd: rec.AnyCwd, EnvHash: rec.EnvHash, Requester: rec.Requester, AnyRequester: rec.AnyRequester, Tenant: rec.Tenant,
		MaxUses: rec.MaxUses, Until: utc(rec.Until), Uses: rec.Uses, LastUsedAt: utc(rec.LastUsedAt),
		CreatedAt: utc(rec.CreatedAt), CreatedBy: rec.CreatedBy, CreatedByName: rec.CreatedByName,
		ApprovalID: rec.ApprovalID, Rule: rec.Rule, Note: rec.Note, RevokedAt: utc(rec.RevokedAt), RevokedBy: rec.RevokedBy,
	}
	for _, m := range rec.Makers {
		g.Makers = append(g.Makers, approvals.Party(m))
	}
	if rec.Files != nil {
		g.Files = make([]approvals.GrantFile, len(rec.Files))
		for i, f := range rec.Files {
			g.Files[i] = approvals.GrantFile(f)
		}
	}
	return g, nil
}

// Grant implements approvals.Store.
func (s *Store) Grant(id string) (g approvals.Grant, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		g, err = grantIn(tx, id)
		return err
	})
	return g, err
}

func grantIn(tx *bolt.Tx, id string) (approvals.Grant, error) {
	v := tx.Bucket(bucketGrants).Get([]byte(id))
	if v == nil {
		return approvals.Grant{}, approvals.ErrUnknownGrant
	}
	return decodeGrant([]byte(id), v)
}

// Grants implements approvals.Store.
func (s *Store) Grants() ([]approvals.Grant, error) {
	var all []approvals.Grant
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketGrants).ForEach(func(k, v []byte) error {
			g, err := decodeGrant(k, v)
			all = append(all, g)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// PruneGrants implements approvals.Store. The oldest of those that ended go first. It returns how many
// it removed.
func (s *Store) PruneGrants(ctx context.Context, now, endedBefore time.Time, max int) (int, error) {
	all, err := s.Grants()
	if err != nil {
		return 0, err
	}
	ended := make([]approvals.Grant, 0, len(all))
	for _, g := range all {
		if g.State(now) != approvals.GrantLive {
			ended = append(ended, g)
		}
	}
	var gone []string
	for i, g := range ended {
		if len(ended)-i > max || g.EndedAt().Before(endedBefore) {
			gone = append(gone, g.ID)
		}
	}
	removed := 0
	for len(gone) > 0 {
		some := gone[:min(len(gone), pruneChunk)]
		gone = gone[len(some):]
		err := s.w.do(ctx, func(t *txn) error {
			for _, id := range some {
				if err := t.delete(bucketGrants, []byte(id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += len(some)
	}
	return removed, nil
}

// Transact implements approvals.Store.
func (s *Store) Transact(ctx context.Context, change func(approvals.Tx) error) error {
	return s.w.do(ctx, func(t *txn) error { return change(approvalsTx{t}) })
}

// approvalsTx is a transaction as approvals see it.
type approvalsTx struct{ t *txn }

func (x approvalsTx) Approval(id string) (approvals.Approval, error) {
	created := x.t.get(bucketApprovalIDs, []byte(id))
	if created == nil {
		return approvals.Approval{}, approvals.ErrUnknown
	}
	return decodeApproval([]byte(id), x.t.get(bucketApprovals, timeKey(created, []byte(id))))
}

func (x approvalsTx) CreateApproval(a approvals.Approval) error {
	id, err := keyOf(a.ID)
	if err != nil {
		return err
	}
	value, err := encodeApproval(a)
	if err != nil {
		return err
	}
	return x.t.createApproval(id, nanos(a.CreatedAt), value, live(a.State))
}

// UpdateApproval leaves the index of those that matter right, whatever was written there.
func (x approvalsTx) UpdateApproval(a approvals.Approval) error {
	id := []byte(a.ID)
	created := x.t.get(bucketApprovalIDs, id)
	if created == nil {
		return approvals.ErrUnknown
	}
	key := timeKey(created, id)
	if string(created) != string(nanos(a.CreatedAt)) {
		return errs.New(errs.Internal, "a change may not give an approval another time of creation")
	}
	value, err := encodeApproval(a)
	if err != nil {
		return err
	}
	if err := x.t.put(bucketApprovals, key, value); err != nil {
		return err
	}
	if live(a.State) {
		return x.t.put(bucketApprovalsLive, key, nil)
	}
	return x.t.delete(bucketApprovalsLive, key)
}

func (x approvalsTx) Grant(id string) (approvals.Grant, error) { return grantIn(x.t.tx, id) }

func (x approvalsTx) PutGrant(g approvals.Grant) error {
	id, err := keyOf(g.ID)
	if err != nil {
		return err
	}
	value, err := encodeGrant(g)
	if err != nil {
		return err
	}
	return x.t.put(bucketGrants, id, value)
}

func (x approvalsTx) Audit(row approvals.Audit) error {
	link, err := linkOf(row)
	if err != nil {
		return err
	}
	return x.t.appendAudit(link)
}

// EarlierApprovals implements approvals.Store.
func (s *Store) EarlierApprovals(before time.Time, n, scan int, fits func(approvals.Approval) bool) ([]approvals.Approval, error) {
	var all []approvals.Approval
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketApprovals).Cursor()
		step := c.Prev
		if k, _ := c.Seek(nanos(before)); k == nil {
			step = c.Last
		}
		k, v := step()
		for ; k != nil && len(all) < n && scan > 0; k, v = c.Prev() {
			scan--
			a, err := decodeApproval(idIn(k), v)
			if err != nil {
				return err
			}
			if fits(a) {
				all = append(all, a)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
