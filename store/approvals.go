package store

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
)

// pruneChunk bounds the approvals removed in one transaction, so that other writes do not wait
// for thousands of them.
const pruneChunk = 256

// approvalRecord is one approval. A slice that is not nil stays so even when it is empty.
type approvalRecord struct {
	State             approvals.State    `json:"state,omitzero"`
	Command           string             `json:"command,omitzero"`
	CommandArgv       []string           `json:"command_argv,omitzero"`
	EnvKeys           []string           `json:"env_keys,omitzero"`
	Binding           *bindingRecord     `json:"binding,omitzero"`
	Plan              *planRecord        `json:"plan,omitzero"`
	Cwd               *string            `json:"cwd,omitzero"`
	NodeID            *string            `json:"node_id,omitzero"`
	Host              *string            `json:"host,omitzero"`
	Security          *string            `json:"security,omitzero"`
	Ask               *string            `json:"ask,omitzero"`
	AgentID           *string            `json:"agent_id,omitzero"`
	ResolvedPath      *string            `json:"resolved_path,omitzero"`
	SessionKey        *string            `json:"session_key,omitzero"`
	TurnSource        turnSourceRecord   `json:"turn_source,omitzero"`
	CreatedAt         time.Time          `json:"created_at,omitzero"`
	ExpiresAt         time.Time          `json:"expires_at,omitzero"`
	Requester         requesterRecord    `json:"requester,omitzero"`
	Decision          approvals.Decision `json:"decision,omitzero"`
	ResolvedAt        time.Time          `json:"resolved_at,omitzero"`
	ResolvedBy        string             `json:"resolved_by,omitzero"`
	ResolvedBySubject string             `json:"resolved_by_subject,omitzero"`
	Uses              int                `json:"uses,omitzero"`
	LastUsedAt        time.Time          `json:"last_used_at,omitzero"`
	Rule              string             `json:"rule,omitzero"`
	Where             string             `json:"where,omitzero"`
	GrantID           string             `json:"grant_id,omitzero"`
	Key               string             `json:"key,omitzero"`
	KeyRefused        string             `json:"key_refused,omitzero"`
	Signs             []string           `json:"signs,omitzero"`
	Quorum            int                `json:"quorum,omitzero"`
	Votes             []voteRecord       `json:"votes,omitzero"`
	Approvers         []string           `json:"approvers,omitzero"`
	ExcludeRequester  bool               `json:"exclude_requester,omitzero"`
	OnTimeout         approvals.Decision `json:"on_timeout,omitzero"`
	EscalateAt        time.Time          `json:"escalate_at,omitzero"`
	EscalateTo        []string           `json:"escalate_to,omitzero"`
	Escalated         bool               `json:"escalated,omitzero"`
}

type voteRecord struct {
	Subject  string             `json:"subject,omitzero"`
	Name     string             `json:"name,omitzero"`
	Decision approvals.Decision `json:"decision,omitzero"`
	At       time.Time          `json:"at,omitzero"`
	Party    partyRecord        `json:"party,omitzero"`
}

type bindingRecord struct {
	Argv       []string        `json:"argv,omitzero"`
	Cwd        *string         `json:"cwd,omitzero"`
	AgentID    *string         `json:"agent_id,omitzero"`
	SessionKey *string         `json:"session_key,omitzero"`
	EnvHash    *string         `json:"env_hash,omitzero"`
	Identity   *identityRecord `json:"identity,omitzero"`
	Unbound    string          `json:"unbound,omitzero"`
	Call       *callRecord     `json:"call,omitzero"`
}

type callRecord struct {
	Command string `json:"command,omitzero"`
	Digest  string `json:"digest,omitzero"`
}

type identityRecord struct {
	Executable *fileIdentityRecord `json:"executable,omitzero"`
	Script     *fileIdentityRecord `json:"script,omitzero"`
	Directory  *fileIdentityRecord `json:"directory,omitzero"`
	Inner      []innerFileRecord   `json:"inner,omitzero"`
	Unbound    []string            `json:"unbound,omitzero"`
}

type innerFileRecord struct {
	Role string             `json:"role,omitzero"`
	File fileIdentityRecord `json:"file,omitzero"`
}

type fileIdentityRecord struct {
	Path   string `json:"path,omitzero"`
	Device uint64 `json:"device,omitzero"`
	Inode  uint64 `json:"inode,omitzero"`
	SHA256 string `json:"sha256,omitzero"`
}

type planRecord struct {
	Argv       []string `json:"argv,omitzero"`
	Cwd        *string  `json:"cwd,omitzero"`
	RawCommand *string  `json:"raw_command,omitzero"`
	AgentID    *string  `json:"agent_id,omitzero"`
	SessionKey *string  `json:"session_key,omitzero"`
}

type turnSourceRecord struct {
	Channel   *string `json:"channel,omitzero"`
	To        *string `json:"to,omitzero"`
	AccountID *string `json:"account_id,omitzero"`
	// ThreadID is JSON text, so that a number keeps its digits.
	ThreadID rawJSON `json:"thread_id,omitzero"`
}

// rawJSON is json.RawMessage as text, which makes the structs that hold it comparable.
type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func (r *rawJSON) UnmarshalJSON(b []byte) error {
	*r = rawJSON(b)
	return nil
}

type requesterRecord struct {
	DeviceID  string `json:"device_id,omitzero"`
	ConnID    string `json:"conn_id,omitzero"`
	Principal string `json:"principal,omitzero"`
	ClientID  string `json:"client_id,omitzero"`
	Paired    bool   `json:"paired,omitzero"`
	Tenant    string `json:"tenant,omitzero"` // since schema 6
}

func encodeApproval(a approvals.Approval) ([]byte, error) {
	rec := approvalRecord{
		State: a.State, Command: a.Command, CommandArgv: a.CommandArgv, EnvKeys: a.EnvKeys,
		Cwd: a.Cwd, NodeID: a.NodeID, Host: a.Host, Security: a.Security, Ask: a.Ask,
		AgentID: a.AgentID, ResolvedPath: a.ResolvedPath, SessionKey: a.SessionKey,
		TurnSource: turnSourceRecord{Channel: a.TurnSource.Channel, To: a.TurnSource.To, AccountID: a.TurnSource.AccountID},
		CreatedAt:  utc(a.CreatedAt), ExpiresAt: utc(a.ExpiresAt),
		Requester: requesterRecord(a.Requester),
		Decision:  a.Decision, ResolvedAt: utc(a.ResolvedAt),
		ResolvedBy: a.ResolvedBy, ResolvedBySubject: a.ResolvedBySubject,
		Uses: a.Uses, LastUsedAt: utc(a.LastUsedAt),
		Rule: a.Rule, Where: a.Where, GrantID: a.GrantID, Key: a.Key, KeyRefused: a.KeyRefused, Signs: a.Signs,
		Quorum: a.Quorum, Approvers: a.Approvers, ExcludeRequester: a.ExcludeRequester, OnTimeout: a.OnTimeout,
		EscalateAt: utc(a.EscalateAt), EscalateTo: a.EscalateTo, Escalated: a.Escalated,
	}
	for _, v := range a.Votes {
		rec.Votes = append(rec.Votes, voteRecord{v.Subject, v.Name, v.Decision, utc(v.At), partyRecord(v.Party)})
	}
	if b := a.Binding; b != nil {
		rec.Binding = &bindingRecord{
			Argv: b.Argv, Cwd: b.Cwd, AgentID: b.AgentID, SessionKey: b.SessionKey, EnvHash: b.EnvHash, Unbound: b.Unbound,
		}
		rec.Binding.Call = (*callRecord)(b.Call)
		if i := b.Identity; i != nil {
			files := &identityRecord{
				Executable: (*fileIdentityRecord)(i.Executable), Script: (*fileIdentityRecord)(i.Script),
				Directory: (*fileIdentityRecord)(i.Directory), Unbound: i.Unbound,
			}
			for _, f := range i.Inner {
				files.Inner = append(files.Inner, innerFileRecord{f.Role, fileIdentityRecord(f.FileIdentity)})
			}
			rec.Binding.Identity = files
		}
	}
	if a.Plan != nil {
		p := planRecord(*a.Plan)
		rec.Plan = &p
	}
	if id := a.TurnSource.ThreadID; id != nil {
		if !validText(reflect.ValueOf(id)) {
			return nil, ErrText
		}
		text, err := json.Marshal(id)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, "the thread id is neither text nor a number", err)
		}
		rec.TurnSource.ThreadID = rawJSON(text)
	}
	return encode(rec)
}

func decodeApproval(id, value []byte) (approvals.Approval, error) {
	var rec approvalRecord
	if err := decode(bucketApprovals, id, value, &rec); err != nil {
		return approvals.Approval{}, err
	}
	a := approvals.Approval{
		ID: string(id), State: rec.State, Command: rec.Command, CommandArgv: rec.CommandArgv,
		EnvKeys: rec.EnvKeys, Cwd: rec.Cwd, NodeID: rec.NodeID, Host: rec.Host,
		Security: rec.Security, Ask: rec.Ask, AgentID: rec.AgentID,
		ResolvedPath: rec.ResolvedPath, SessionKey: rec.SessionKey,
		TurnSource: approvals.TurnSource{
			Channel: rec.TurnSource.Channel, To: rec.TurnSource.To, AccountID: rec.TurnSource.AccountID,
		},
		CreatedAt: utc(rec.CreatedAt), ExpiresAt: utc(rec.ExpiresAt),
		Requester: approvals.Requester(rec.Requester),
		Decision:  rec.Decision, ResolvedAt: utc(rec.ResolvedAt),
		ResolvedBy: rec.ResolvedBy, ResolvedBySubject: rec.ResolvedBySubject,
		Uses: rec.Uses, LastUsedAt: utc(rec.LastUsedAt),
		Rule: rec.Rule, Where: rec.Where, GrantID: rec.GrantID, Key: rec.Key, KeyRefused: rec.KeyRefused, Signs: rec.Signs,
		Quorum: rec.Quorum, Approvers: rec.Approvers, ExcludeRequester: rec.ExcludeRequester, OnTimeout: rec.OnTimeout,
		EscalateAt: utc(rec.EscalateAt), EscalateTo: rec.EscalateTo, Escalated: rec.Escalated,
	}
	for _, v := range rec.Votes {
		a.Votes = append(a.Votes, approvals.Vote{Subject: v.Subject, Name: v.Name, Decision: v.Decision, At: utc(v.At), Party: approvals.Party(v.Party)})
	}
	if b := rec.Binding; b != nil {
		a.Binding = &approvals.Binding{
			Argv: b.Argv, Cwd: b.Cwd, AgentID: b.AgentID, SessionKey: b.SessionKey, EnvHash: b.EnvHash, Unbound: b.Unbound,
			Call: (*approvals.Call)(b.Call),
		}
		if i := b.Identity; i != nil {
			files := &approvals.Identity{
				Executable: (*approvals.FileIdentity)(i.Executable), Script: (*approvals.FileIdentity)(i.Script),
				Directory: (*approvals.FileIdentity)(i.Directory), Unbound: i.Unbound,
			}
			for _, f := range i.Inner {
				files.Inner = append(files.Inner, approvals.InnerFile{Role: f.Role, FileIdentity: approvals.FileIdentity(f.File)})
			}
			a.Binding.Identity = files
		}
	}
	if rec.Plan != nil {
		p := approvals.Plan(*rec.Plan)
		a.Plan = &p
	}
	if rec.TurnSource.ThreadID != "" {
		d := json.NewDecoder(bytes.NewReader([]byte(rec.TurnSource.ThreadID)))
		d.UseNumber()
		if err := d.Decode(&a.TurnSource.ThreadID); err != nil {
			return approvals.Approval{}, recordError(bucketApprovals, id, "its thread id is no JSON")
		}
	}
	return a, nil
}

// live reports whether an approval is in the index of those that may still matter.
func live(s approvals.State) bool { return s == approvals.Pending || s == approvals.Allowed }

// Approval implements approvals.Store.
func (s *Store) Approval(id string) (a approvals.Approval, err error) {
	key := []byte(id)
	err = s.view(func(tx *bolt.Tx) (err error) {
		created := tx.Bucket(bucketApprovalIDs).Get(key)
		if created == nil {
			return approvals.ErrUnknown
		}
		a, err = decodeApproval(key, tx.Bucket(bucketApprovals).Get(timeKey(created, key)))
		return err
	})
	return a, err
}

// LiveApprovals implements approvals.Store.
func (s *Store) LiveApprovals() ([]approvals.Approval, error) {
	var all []approvals.Approval
	err := s.view(func(tx *bolt.Tx) error {
		records := tx.Bucket(bucketApprovals)
		return tx.Bucket(bucketApprovalsLive).ForEach(func(k, _ []byte) error {
			a, err := decodeApproval(idIn(k), records.Get(k))
			all = append(all, a)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// RecentApprovals implements approvals.Store.
func (s *Store) RecentApprovals(n int) ([]approvals.Approval, error) {
	var all []approvals.Approval
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketApprovals).Cursor()
		for k, v := c.Last(); k != nil && len(all) < n; k, v = c.Prev() {
			a, err := decodeApproval(idIn(k), v)
			if err != nil {
				return err
			}
			all = append(all, a)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// CreateApproval implements approvals.Store. The row gets the next sequence number, whatever number
// it came with; so in all methods here.
func (s *Store) CreateApproval(ctx context.Context, a approvals.Approval, row approvals.Audit) error {
	id, err := keyOf(a.ID)
	if err != nil {
		return err
	}
	value, err := encodeApproval(a)
	if err != nil {
		return err
	}
	link, err := linkOf(row)
	if err != nil {
		return err
	}
	created := nanos(a.CreatedAt)
	return s.w.do(ctx, func(t *txn) error {
		if err := t.createApproval(id, created, value, live(a.State)); err != nil {
			return err
		}
		return t.appendAudit(link)
	})
}

// createApproval writes a new record and its index.
func (t *txn) createApproval(id, created, value []byte, live bool) error {
	if t.get(bucketApprovalIDs, id) != nil {
		return approvals.ErrTaken
	}
	if err := t.put(bucketApprovalIDs, id, created); err != nil {
		return err
	}
	key := timeKey(created, id)
	if err := t.put(bucketApprovals, key, value); err != nil || !live {
		return err
	}
	return t.put(bucketApprovalsLive, key, nil)
}

// UpdateApproval implements approvals.Store. Change may run more than once, each time on the
// approval as it is stored, and not in the caller's goroutine; it calls no method of the store. It
// may change neither the id nor the time of creation.
func (s *Store) UpdateApproval(ctx context.Context, id string, change func(*approvals.Approval) (approvals.Audit, error)) (approvals.Approval, error) {
	var out approvals.Approval
	err := s.w.do(ctx, func(t *txn) error {
		created := t.get(bucketApprovalIDs, []byte(id))
		if created == nil {
			return approvals.ErrUnknown
		}
		key := timeKey(created, []byte(id))
		a, err := decodeApproval([]byte(id), t.get(bucketApprovals, key))
		if err != nil {
			return err
		}
		wasLive, createdAt := live(a.State), a.CreatedAt
		row, err := change(&a)
		if err != nil {
			return err
		}
		if a.ID != id || !a.CreatedAt.Equal(createdAt) {
			return errs.New(errs.Internal, "a change may not give an approval another id or time of creation")
		}
		value, err := encodeApproval(a)
		if err != nil {
			return err
		}
		link, err := linkOf(row)
		if err != nil {
			return err
		}
		if err := t.put(bucketApprovals, key, value); err != nil {
			return err
		}
		switch isLive := live(a.State); {
		case wasLive && !isLive:
			err = t.delete(bucketApprovalsLive, key)
		case isLive && !wasLive:
			err = t.put(bucketApprovalsLive, key, nil)
		}
		if err != nil {
			return err
		}
		out = a
		return t.appendAudit(link)
	})
	if err != nil {
		return approvals.Approval{}, err
	}
	return out, nil
}

// PruneApprovals implements approvals.Store: of the approvals that are over it removes those that
// ended before the time, and the oldest of the others as long as more than max approvals are kept.
// It never removes a live one. It returns how many it removed, also with an error. The audit log
// keeps its rows; appending bounds it.
func (s *Store) PruneApprovals(ctx context.Context, endedBefore time.Time, max int) (int, error) {
	removed := 0
	for {
		keys, err := s.prunable(endedBefore, max)
		if err != nil || len(keys) == 0 {
			return removed, err
		}
		n := 0
		err = s.w.do(ctx, func(t *txn) error {
			n = 0
			for _, key := range keys {
				v := t.get(bucketApprovals, key)
				if v == nil {
					continue
				}
				// It was over a moment ago; that it still is, is decided here.
				if a, err := decodeApproval(idIn(key), v); err != nil {
					return err
				} else if live(a.State) {
					continue
				}
				if err := t.delete(bucketApprovals, key); err != nil {
					return err
				}
				if err := t.delete(bucketApprovalIDs, idIn(key)); err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += n
		if len(keys) < pruneChunk || n == 0 {
			return removed, nil
		}
	}
}

// prunable returns the keys of the next approvals to remove, at most pruneChunk, the oldest first.
func (s *Store) prunable(endedBefore time.Time, max int) ([][]byte, error) {
	var keys [][]byte
	err := s.view(func(tx *bolt.Tx) error {
		records, last := tx.Bucket(bucketApprovals), nanos(endedBefore)
		excess := records.Stats().KeyN - max
		c := records.Cursor()
		for k, v := c.First(); k != nil && len(keys) < pruneChunk; k, v = c.Next() {
			// What was created later ended later.
			if excess <= 0 && bytes.Compare(k, last) >= 0 {
				break
			}
			a, err := decodeApproval(idIn(k), v)
			if err != nil {
				return err
			}
			if live(a.State) || (excess <= 0 && !endOf(a).Before(endedBefore)) {
				continue
			}
			keys = append(keys, bytes.Clone(k))
			excess--
		}
		return nil
	})
	return keys, err
}

// endOf is when an approval that is over ended: with its last use, its answer or its time.
func endOf(a approvals.Approval) time.Time {
	end := a.CreatedAt
	if a.State == approvals.Expired {
		end = a.ExpiresAt
	}
	for _, t := range []time.Time{a.ResolvedAt, a.LastUsedAt} {
		if t.After(end) {
			end = t
		}
	}
	return end
}
