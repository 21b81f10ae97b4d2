package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions"
)

var _ sessions.Store = (*Store)(nil)

// sessionRecord is one session entry, without what is large.
type sessionRecord struct {
	SessionID                 string           `json:"session_id,omitzero"`
	UpdatedAt                 int64            `json:"updated_at,omitzero"` // milliseconds since 1970
	SessionFile               string           `json:"session_file,omitzero"`
	SpawnedBy                 string           `json:"spawned_by,omitzero"`
	SpawnDepth                *int64           `json:"spawn_depth,omitzero"`
	SystemSent                *bool            `json:"system_sent,omitzero"`
	AbortedLastRun            *bool            `json:"aborted_last_run,omitzero"`
	ChatType                  string           `json:"chat_type,omitzero"`
	ThinkingLevel             string           `json:"thinking_level,omitzero"`
	VerboseLevel              string           `json:"verbose_level,omitzero"`
	ReasoningLevel            string           `json:"reasoning_level,omitzero"`
	ElevatedLevel             string           `json:"elevated_level,omitzero"`
	ExecHost                  string           `json:"exec_host,omitzero"`
	ExecSecurity              string           `json:"exec_security,omitzero"`
	ExecAsk                   string           `json:"exec_ask,omitzero"`
	ExecNode                  string           `json:"exec_node,omitzero"`
	ResponseUsage             string           `json:"response_usage,omitzero"`
	GroupActivation           string           `json:"group_activation,omitzero"`
	SendPolicy                string           `json:"send_policy,omitzero"`
	ProviderOverride          string           `json:"provider_override,omitzero"`
	ModelOverride             string           `json:"model_override,omitzero"`
	ModelProvider             string           `json:"model_provider,omitzero"`
	Model                     string           `json:"model,omitzero"`
	AuthProfileOverride       string           `json:"auth_profile_override,omitzero"`
	AuthProfileOverrideSource string           `json:"auth_profile_override_source,omitzero"`
	InputTokens               *int64           `json:"input_tokens,omitzero"`
	OutputTokens              *int64           `json:"output_tokens,omitzero"`
	TotalTokens               *int64           `json:"total_tokens,omitzero"`
	CacheRead                 *int64           `json:"cache_read,omitzero"`
	CacheWrite                *int64           `json:"cache_write,omitzero"`
	TotalTokensFresh          *bool            `json:"total_tokens_fresh,omitzero"`
	ContextTokens             *int64           `json:"context_tokens,omitzero"`
	CompactionCount           *int64           `json:"compaction_count,omitzero"`
	Label                     string           `json:"label,omitzero"`
	DisplayName               string           `json:"display_name,omitzero"`
	Channel                   string           `json:"channel,omitzero"`
	GroupID                   string           `json:"group_id,omitzero"`
	Subject                   string           `json:"subject,omitzero"`
	GroupChannel              string           `json:"group_channel,omitzero"`
	Space                     string           `json:"space,omitzero"`
	Origin                    *sessionOrigin   `json:"origin,omitzero"`
	DeliveryContext           *sessionDelivery `json:"delivery_context,omitzero"`
	LastChannel               string           `json:"last_channel,omitzero"`
	LastTo                    string           `json:"last_to,omitzero"`
	LastAccountID             string           `json:"last_account_id,omitzero"`
	LastThreadID              json.RawMessage  `json:"last_thread_id,omitzero"`
}

type sessionOrigin struct {
	Label     string                     `json:"label,omitzero"`
	Provider  string                     `json:"provider,omitzero"`
	Surface   string                     `json:"surface,omitzero"`
	ChatType  string                     `json:"chat_type,omitzero"`
	From      string                     `json:"from,omitzero"`
	To        string                     `json:"to,omitzero"`
	AccountID string                     `json:"account_id,omitzero"`
	ThreadID  json.RawMessage            `json:"thread_id,omitzero"`
	Rest      map[string]json.RawMessage `json:"rest,omitzero"`
}

type sessionDelivery struct {
	Channel   string          `json:"channel,omitzero"`
	To        string          `json:"to,omitzero"`
	AccountID string          `json:"account_id,omitzero"`
	ThreadID  json.RawMessage `json:"thread_id,omitzero"`
}

// sessionRest is the other fields of an entry, by their names in the legacy format: they may be large, and lists
// do not need them.
type sessionRest struct {
	Fields map[string]json.RawMessage `json:"fields,omitzero"`
}

// sessionMove is a transcript that is to be put aside.
type sessionMove struct {
	AgentID string `json:"agent_id,omitzero"`
	From    string `json:"from,omitzero"`
	To      string `json:"to,omitzero"`
	With    string `json:"with,omitzero"`
}

func encodeSession(e sessions.Entry) (record, rest []byte, err error) {
	r := sessionRecord{
		SessionID: e.SessionID, SessionFile: e.SessionFile, SpawnedBy: e.SpawnedBy, SpawnDepth: e.SpawnDepth, SystemSent: e.SystemSent,
		AbortedLastRun: e.AbortedLastRun, ChatType: e.ChatType, ThinkingLevel: e.ThinkingLevel, VerboseLevel: e.VerboseLevel,
		ReasoningLevel: e.ReasoningLevel, ElevatedLevel: e.ElevatedLevel, ExecHost: e.ExecHost, ExecSecurity: e.ExecSecurity, ExecAsk: e.ExecAsk,
		ExecNode: e.ExecNode, ResponseUsage: e.ResponseUsage, GroupActivation: e.GroupActivation, SendPolicy: e.SendPolicy,
		ProviderOverride: e.ProviderOverride, ModelOverride: e.ModelOverride, ModelProvider: e.ModelProvider, Model: e.Model,
		AuthProfileOverride: e.AuthProfileOverride, AuthProfileOverrideSource: e.AuthProfileOverrideSource, InputTokens: e.InputTokens,
		OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens, CacheRead: e.CacheRead, CacheWrite: e.CacheWrite,
		TotalTokensFresh: e.TotalTokensFresh, ContextTokens: e.ContextTokens, CompactionCount: e.CompactionCount, Label: e.Label,
		DisplayName: e.DisplayName, Channel: e.Channel, GroupID: e.GroupID, Subject: e.Subject, GroupChannel: e.GroupChannel, Space: e.Space,
		LastChannel: e.LastChannel, LastTo: e.LastTo, LastAccountID: e.LastAccountID, LastThreadID: json.RawMessage(e.LastThreadID),
	}
	if !e.UpdatedAt.IsZero() {
		r.UpdatedAt = e.UpdatedAt.UnixMilli()
	}
	if o := e.Origin; o != nil {
		r.Origin = &sessionOrigin{
			Label: o.Label, Provider: o.Provider, Surface: o.Surface, ChatType: o.ChatType, From: o.From, To: o.To, AccountID: o.AccountID,
			ThreadID: json.RawMessage(o.ThreadID), Rest: rawsOf(o.Rest),
		}
	}
	if d := e.DeliveryContext; d != nil {
		r.DeliveryContext = &sessionDelivery{Channel: d.Channel, To: d.To, AccountID: d.AccountID, ThreadID: json.RawMessage(d.ThreadID)}
	}
	if record, err = encode(r); err != nil || len(e.Rest) == 0 {
		return record, nil, err
	}
	rest, err = encode(sessionRest{rawsOf(e.Rest)})
	return record, rest, err
}

func rawsOf(in map[string]sessions.Raw) map[string]json.RawMessage {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]json.RawMessage, len(in))
	for k, v := range in {
		out[k] = json.RawMessage(v)
	}
	return out
}

func restOf(in map[string]json.RawMessage) map[string]sessions.Raw {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]sessions.Raw, len(in))
	for k, v := range in {
		out[k] = sessions.Raw(v)
	}
	return out
}

// decodeSession reads a record, without the rest.
func decodeSession(key, value []byte) (e sessions.Entry, err error) {
	var r sessionRecord
	if err := decode(bucketSessions, key, value, &r); err != nil {
		return e, err
	}
	e = sessions.Entry{
		SessionID: r.SessionID, SessionFile: r.SessionFile, SpawnedBy: r.SpawnedBy, SpawnDepth: r.SpawnDepth, SystemSent: r.SystemSent,
		AbortedLastRun: r.AbortedLastRun, ChatType: r.ChatType, ThinkingLevel: r.ThinkingLevel, VerboseLevel: r.VerboseLevel,
		ReasoningLevel: r.ReasoningLevel, ElevatedLevel: r.ElevatedLevel, ExecHost: r.ExecHost, ExecSecurity: r.ExecSecurity, ExecAsk: r.ExecAsk,
		ExecNode: r.ExecNode, ResponseUsage: r.ResponseUsage, GroupActivation: r.GroupActivation, SendPolicy: r.SendPolicy,
		ProviderOverride: r.ProviderOverride, ModelOverride: r.ModelOverride, ModelProvider: r.ModelProvider, Model: r.Model,
		AuthProfileOverride: r.AuthProfileOverride, AuthProfileOverrideSource: r.AuthProfileOverrideSource, InputTokens: r.InputTokens,
		OutputTokens: r.OutputTokens, TotalTokens: r.TotalTokens, CacheRead: r.CacheRead, CacheWrite: r.CacheWrite,
		TotalTokensFresh: r.TotalTokensFresh, ContextTokens: r.ContextTokens, CompactionCount: r.CompactionCount, Label: r.Label,
		DisplayName: r.DisplayName, Channel: r.Channel, GroupID: r.GroupID, Subject: r.Subject, GroupChannel: r.GroupChannel, Space: r.Space,
		LastChannel: r.LastChannel, LastTo: r.LastTo, LastAccountID: r.LastAccountID, LastThreadID: sessions.Raw(r.LastThreadID),
	}
	if r.UpdatedAt != 0 {
		e.UpdatedAt = time.UnixMilli(r.UpdatedAt).UTC()
	}
	if o := r.Origin; o != nil {
		e.Origin = &sessions.Origin{
			Label: o.Label, Provider: o.Provider, Surface: o.Surface, ChatType: o.ChatType, From: o.From, To: o.To, AccountID: o.AccountID,
			ThreadID: sessions.Raw(o.ThreadID), Rest: restOf(o.Rest),
		}
	}
	if d := r.DeliveryContext; d != nil {
		e.DeliveryContext = &sessions.Delivery{Channel: d.Channel, To: d.To, AccountID: d.AccountID, ThreadID: sessions.Raw(d.ThreadID)}
	}
	return e, nil
}

// wholeSession reads an entry with its rest.
func wholeSession(tx *bolt.Tx, key []byte) (e sessions.Entry, ok bool, err error) {
	v := tx.Bucket(bucketSessions).Get(key)
	if v == nil {
		return e, false, nil
	}
	if e, err = decodeSession(key, v); err != nil {
		return e, false, err
	}
	if v := tx.Bucket(bucketSessionRest).Get(key); v != nil {
		var rest sessionRest
		if err := decode(bucketSessionRest, key, v, &rest); err != nil {
			return e, false, err
		}
		e.Rest = restOf(rest.Fields)
	}
	return e, true, nil
}

// sessionKey is the key of a session's records.
func sessionKey(r sessions.Ref) ([]byte, error) {
	if r.AgentID == "" || r.Key == "" || len(r.AgentID)+len(r.Key) >= maxID || strings.ContainsRune(r.AgentID+r.Key, 0) {
		return nil, ErrKey
	}
	if !utf8.ValidString(r.AgentID) || !utf8.ValidString(r.Key) {
		return nil, ErrText
	}
	return []byte(r.AgentID + "\x00" + r.Key), nil
}

// Sessions implements sessions.Store.
func (s *Store) Sessions(each func(sessions.Ref, sessions.Entry)) error {
	return s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketSessions).ForEach(func(k, v []byte) error {
			agent, key, ok := bytes.Cut(k, []byte{0})
			if !ok {
				return recordError(bucketSessions, k, "its key names no agent")
			}
			e, err := decodeSession(k, v)
			if err == nil {
				each(sessions.Ref{AgentID: string(agent), Key: string(key)}, e)
			}
			return err
		})
	})
}

// Session implements sessions.Store.
func (s *Store) Session(r sessions.Ref) (e sessions.Entry, ok bool, err error) {
	key, err := sessionKey(r)
	if err != nil {
		return e, false, err
	}
	err = s.view(func(tx *bolt.Tx) (err error) {
		e, ok, err = wholeSession(tx, key)
		return err
	})
	return e, ok, err
}

// WholeSessions hands over every entry with its Rest, in the order of the keys. each must not call the store; its
// error ends the walk and is returned.
func (s *Store) WholeSessions(each func(sessions.Stored) error) error {
	return s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketSessions).ForEach(func(k, _ []byte) error {
			agent, key, ok := bytes.Cut(k, []byte{0})
			if !ok {
				return recordError(bucketSessions, k, "its key names no agent")
			}
			e, _, err := wholeSession(tx, k)
			if err == nil {
				err = each(sessions.Stored{Ref: sessions.Ref{AgentID: string(agent), Key: string(key)}, Entry: e})
			}
			return err
		})
	})
}

// ReplaceSessions writes entries as they are and removes others, all in one transaction: what is moved in bulk while
// no daemon runs. Transcripts are left alone.
func (s *Store) ReplaceSessions(ctx context.Context, put []sessions.Stored, remove []sessions.Ref) error {
	keys := make([][]byte, 0, len(put)+len(remove))
	for _, p := range put {
		key, err := sessionKey(p.Ref)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, r := range remove {
		key, err := sessionKey(r)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil
	}
	return s.w.do(ctx, func(t *txn) error {
		for i, p := range put {
			if err := putSession(t, keys[i], p.Entry); err != nil {
				return err
			}
		}
		for _, key := range keys[len(put):] {
			if err := errors.Join(t.delete(bucketSessions, key), t.delete(bucketSessionRest, key)); err != nil {
				return err
			}
		}
		return nil
	})
}

// UpdateSession implements sessions.Store.
func (s *Store) UpdateSession(ctx context.Context, r sessions.Ref, change func(*sessions.Entry, bool) (sessions.Change, error)) (sessions.Entry, error) {
	key, err := sessionKey(r)
	if err != nil {
		return sessions.Entry{}, err
	}
	var out sessions.Entry
	var move *sessions.Move
	var seq []byte
	err = s.w.do(ctx, func(t *txn) error {
		move, seq = nil, nil
		e, exists, err := wholeSession(t.tx, key)
		if err != nil {
			return err
		}
		c, err := change(&e, exists)
		out = e
		if err != nil || c.Same {
			return err
		}
		if c.Delete {
			if exists {
				err = errors.Join(t.delete(bucketSessions, key), t.delete(bucketSessionRest, key))
			}
		} else {
			err = putSession(t, key, e)
		}
		if err != nil || c.Move == nil {
			return err
		}
		for _, name := range []string{c.Move.From.Name, c.Move.To} {
			if _, err := relOf(sessions.File{AgentID: c.Move.From.AgentID, Name: name}); err != nil {
				return err
			}
		}
		value, err := encode(sessionMove{AgentID: c.Move.From.AgentID, From: c.Move.From.Name, To: c.Move.To, With: c.Move.With})
		if err != nil {
			return err
		}
		n, err := t.next(bucketSessionMoves)
		if err != nil {
			return err
		}
		move, seq = c.Move, seqKey(n)
		return t.put(bucketSessionMoves, seq, value)
	})
	if err != nil {
		return out, err
	}
	if move != nil {
		testStep("committed")
		if err := s.finishMove(ctx, seq, *move); err != nil {
			return out, sessions.ErrMove.Wrap(err)
		}
	}
	return out, nil
}

// finishMove carries out a move that is committed, and forgets it.
func (s *Store) finishMove(ctx context.Context, seq []byte, m sessions.Move) error {
	if err := s.transcripts.move(m); err != nil {
		return err
	}
	testStep("moved")
	// Whoever called may have gone meanwhile. The files are in their places, and the rest is ours.
	return s.w.do(context.WithoutCancel(ctx), func(t *txn) error { return t.delete(bucketSessionMoves, seq) })
}

func putSession(t *txn, key []byte, e sessions.Entry) error {
	if e.SessionID == "" {
		return errs.New(errs.Internal, "a session entry has an id")
	}
	record, rest, err := encodeSession(e)
	if err != nil {
		return err
	}
	if !bytes.Equal(t.get(bucketSessions, key), record) {
		if err := t.put(bucketSessions, key, record); err != nil {
			return err
		}
	}
	old := t.get(bucketSessionRest, key)
	switch {
	case rest == nil && old != nil:
		return t.delete(bucketSessionRest, key)
	case rest != nil && !bytes.Equal(old, rest):
		return t.put(bucketSessionRest, key, rest)
	}
	return nil
}

// Transcripts are the transcripts of the sessions.
func (s *Store) Transcripts() *Transcripts { return s.transcripts }

// finishMoves does what a crash left undone, and removes what no move is going to use.
func (s *Store) finishMoves(ctx context.Context) error {
	type pending struct {
		seq  []byte
		move sessions.Move
	}
	var all []pending
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketSessionMoves).ForEach(func(k, v []byte) error {
			var r sessionMove
			if err := decode(bucketSessionMoves, k, v, &r); err != nil {
				return err
			}
			all = append(all, pending{bytes.Clone(k), sessions.Move{From: sessions.File{AgentID: r.AgentID, Name: r.From}, To: r.To, With: r.With}})
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := s.finishMove(ctx, p.seq, p.move); err != nil {
			return fmt.Errorf("put %s aside: %w", s.transcripts.Path(p.move.From), err)
		}
	}
	return s.transcripts.sweep()
}

// sweep removes files that Shorten left.
func (t *Transcripts) sweep() error {
	left, err := filepath.Glob(filepath.Join(t.dir, agentsDir, "*", sessionsDir, "*.jsonl"+newSuffix))
	if err != nil {
		return err
	}
	for _, p := range left {
		if rel, err := filepath.Rel(t.dir, p); err == nil {
			_ = t.root.Remove(rel) // the next Shorten does it again
		}
	}
	return nil
}

// checkSessions reads every entry, and demands that what is large belongs to one.
func checkSessions(tx *bolt.Tx, complain func(error), stop func() error) error {
	all := tx.Bucket(bucketSessions)
	return errors.Join(
		all.ForEach(func(k, v []byte) error {
			if bytes.IndexByte(k, 0) <= 0 {
				complain(recordError(bucketSessions, k, "its key names no agent"))
			}
			e, err := decodeSession(k, v)
			if err == nil && e.SessionID == "" {
				err = recordError(bucketSessions, k, "it has no session id")
			}
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketSessionRest).ForEach(func(k, v []byte) error {
			complain(decode(bucketSessionRest, k, v, &sessionRest{}))
			if all.Get(k) == nil {
				complain(fmt.Errorf("there are fields of session %s, which does not exist", printable(k)))
			}
			return stop()
		}),
		tx.Bucket(bucketSessionMoves).ForEach(func(k, v []byte) error {
			complain(decode(bucketSessionMoves, k, v, &sessionMove{}))
			return stop()
		}),
	)
}
