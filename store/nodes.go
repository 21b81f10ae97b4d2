package store

import (
	"bytes"
	"context"

	bolt "go.etcd.io/bbolt"
)

// nodeNameRecord is the name that people gave to a node.
type nodeNameRecord struct {
	Name string `json:"name"`
}

// NodeName implements nodes.Store.
func (s *Store) NodeName(id string) (string, error) {
	var rec nodeNameRecord
	err := s.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketNodeNames).Get([]byte(id))
		if v == nil {
			return nil
		}
		return decode(bucketNodeNames, []byte(id), v, &rec)
	})
	return rec.Name, err
}

// SetNodeName implements nodes.Store. An empty name removes the given one.
func (s *Store) SetNodeName(ctx context.Context, id, name string) error {
	key, err := keyOf(id)
	if err != nil {
		return err
	}
	value, err := encode(nodeNameRecord{Name: name})
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		old := t.get(bucketNodeNames, key)
		switch {
		case name == "" && old == nil, name != "" && bytes.Equal(old, value):
			return nil
		case name == "":
			return t.delete(bucketNodeNames, key)
		}
		return t.put(bucketNodeNames, key, value)
	})
}
