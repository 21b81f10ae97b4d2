//go:build hanzod_nextschema

package store

import (
	"bytes"
	"encoding/json"

	bolt "go.etcd.io/bbolt"
)

// A program that is built with this tag stands for the next one in tests of upgrades: it has one migration
// more, which only adds. It is never shipped.
func init() {
	migrations = append(migrations, func(tx *bolt.Tx) error {
		index, err := tx.CreateBucketIfNotExists([]byte("next_schema"))
		if err != nil {
			return err
		}
		devices := tx.Bucket(bucketDevices)
		all := map[string][]byte{}
		if err := devices.ForEach(func(k, v []byte) error { all[string(k)] = bytes.Clone(v); return nil }); err != nil {
			return err
		}
		for id, v := range all {
			var rec map[string]any
			if err := json.Unmarshal(v[1:], &rec); err != nil {
				return err
			}
			rec["next_schema"] = "kept"
			text, err := json.Marshal(rec)
			if err != nil {
				return err
			}
			if err := devices.Put([]byte(id), append([]byte{recordVersion}, text...)); err != nil {
				return err
			}
			if err := index.Put([]byte(id), []byte{1}); err != nil {
				return err
			}
		}
		return nil
	})
}
