package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/system"
)

// systemEventRecord is one thing that an agent is to be told.
type systemEventRecord struct {
	Text   string    `json:"text,omitzero"`
	Source string    `json:"source,omitzero"`
	At     time.Time `json:"at,omitzero"`
}

// sessionPrefix begins the keys of a session's events. A NUL ends the session, so it may hold none.
func sessionPrefix(session string) ([]byte, error) {
	key, err := keyOf(session)
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(key, 0) >= 0 {
		return nil, ErrKey
	}
	return append(key, 0), nil
}

// QueueEvent implements system.EventQueue.
func (s *Store) QueueEvent(ctx context.Context, session string, e system.QueuedEvent, keep int) error {
	prefix, err := sessionPrefix(session)
	if err != nil {
		return err
	}
	value, err := encode(systemEventRecord{Text: e.Text, Source: e.Source, At: utc(e.At)})
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		var keys [][]byte
		var last []byte
		cur := t.tx.Bucket(bucketSystemEvents).Cursor()
		for k, v := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cur.Next() {
			keys, last = append(keys, bytes.Clone(k)), v
		}
		if last != nil {
			var rec systemEventRecord
			if err := decode(bucketSystemEvents, keys[len(keys)-1], last, &rec); err != nil {
				return err
			}
			if rec.Text == e.Text {
				return nil
			}
		}
		seq, err := t.next(bucketSystemEvents)
		if err != nil {
			return err
		}
		for ; len(keys) > 0 && len(keys) >= keep; keys = keys[1:] {
			if err := t.delete(bucketSystemEvents, keys[0]); err != nil {
				return err
			}
		}
		return t.put(bucketSystemEvents, binary.BigEndian.AppendUint64(bytes.Clone(prefix), seq), value)
	})
}

// QueuedEvents implements system.EventQueue.
func (s *Store) QueuedEvents(session string) ([]system.QueuedEvent, error) {
	prefix, err := sessionPrefix(session)
	if err != nil {
		return nil, err
	}
	var out []system.QueuedEvent
	err = s.view(func(tx *bolt.Tx) error {
		cur := tx.Bucket(bucketSystemEvents).Cursor()
		for k, v := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cur.Next() {
			var rec systemEventRecord
			if err := decode(bucketSystemEvents, k, v, &rec); err != nil {
				return err
			}
			out = append(out, system.QueuedEvent{Text: rec.Text, Source: rec.Source, At: utc(rec.At)})
		}
		return nil
	})
	return out, err
}
