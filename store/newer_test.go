package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// nextMigration is one that only adds: a bucket with an index of the devices, and a field of devices, of
// their tokens and of approvals.
func nextMigration(tx *bolt.Tx) error {
	index, err := tx.CreateBucketIfNotExists([]byte("next_index"))
	if err != nil {
		return err
	}
	add := func(bucket []byte, field string) error {
		b := tx.Bucket(bucket)
		all := map[string][]byte{}
		if err := b.ForEach(func(k, v []byte) error { all[string(k)] = bytes.Clone(v); return nil }); err != nil {
			return err
		}
		for k, v := range all {
			var rec map[string]any
			if err := json.Unmarshal(v[1:], &rec); err != nil {
				return err
			}
			if _, ok := rec[field]; !ok {
				rec[field] = map[string]any{"of": k}
			}
			if tokens, ok := rec["tokens"].(map[string]any); ok {
				for _, token := range tokens {
					token.(map[string]any)["next_use"] = "kept"
				}
			}
			text, err := json.Marshal(rec)
			if err != nil {
				return err
			}
			if err := b.Put([]byte(k), append([]byte{recordVersion}, text...)); err != nil {
				return err
			}
			if err := index.Put([]byte(k), []byte{1}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(bucketDevices, "next_field"); err != nil {
		return err
	}
	return add(bucketApprovals, "next_field")
}

// asNext runs f as a hanzod of the next schema would.
func asNext(t *testing.T, dir string, f func(*Store)) {
	t.Helper()
	old := migrations
	migrations = append(slices.Clip(old), nextMigration)
	defer func() { migrations = old }()
	s, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNewerThatAdds: a database that a newer hanzod has brought to its schema serves the older one, which
// writes to it and destroys nothing that it does not know; when the newer one comes back, its indexes
// hold what the older one has written.
func TestNewerThatAdds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put := func(s *Store, id, name string, tokens bool) {
		t.Helper()
		if _, err := updateDevice(t.Context(), s, id, func(d *identity.Device, _ bool) error {
			d.DisplayName = name
			if tokens {
				d.Tokens = map[identity.Role]identity.DeviceToken{
					identity.RoleOperator: {Token: "t-" + id, Role: identity.RoleOperator, CreatedAt: start},
					identity.RoleNode:     {Token: "n-" + id, Role: identity.RoleNode, CreatedAt: start},
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	put(s, "d1", "Laptop", true)
	create(t, s, pending("a1", 0))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	asNext(t, dir, func(s *Store) { put(s, "d2", "Phone", true) }) // acknowledged by the newer one

	s = open(t, dir)
	check(t, s)
	for _, id := range []string{"d1", "d2"} {
		if d, ok, err := s.Device(id); !ok || err != nil || d.Tokens[identity.RoleOperator].Token != "t-"+id || d.Tokens[identity.RoleNode].Token != "n-"+id {
			t.Fatalf("%s: %+v, %v, %v", id, d, ok, err)
		}
	}
	// The older one writes over what it knows, ends a token, decides an approval and adds a device.
	if _, err := updateDevice(t.Context(), s, "d1", func(d *identity.Device, _ bool) error {
		d.DisplayName = ""
		delete(d.Tokens, identity.RoleNode)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	put(s, "d3", "Tablet", true)
	if _, err := s.UpdateApproval(t.Context(), "a1", decide(approvals.Denied, approvals.Deny, start)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, func(tx *bolt.Tx) error {
		if n, _ := schemaOf(tx); n != uint64(len(migrations))+1 {
			t.Errorf("the schema is %d", n)
		}
		d1, a1 := string(tx.Bucket(bucketDevices).Get([]byte("d1"))), ""
		if err := tx.Bucket(bucketApprovals).ForEach(func(_, v []byte) error { a1 = string(v); return nil }); err != nil {
			return err
		}
		for what, ok := range map[string]bool{
			"the field of a device":           strings.Contains(d1, `"next_field":{"of":"d1"}`),
			"the field of a token":            strings.Count(d1, `"next_use":"kept"`) == 1,
			"the name that was taken away":    !strings.Contains(d1, "Laptop"),
			"the token that was taken away":   !strings.Contains(d1, "n-d1"),
			"the field of an approval":        strings.Contains(a1, `"next_field":`),
			"the new state of the approval":   strings.Contains(a1, string(approvals.Denied)),
			"the bucket of the newer one":     tx.Bucket([]byte("next_index")) != nil,
			"the mark that it was touched":    touchedBy(tx) == uint64(len(migrations)),
			"no index of what the older made": tx.Bucket([]byte("next_index")).Get([]byte("d3")) == nil,
		} {
			if !ok {
				t.Errorf("wrong: %s\n%s\n%s", what, d1, a1)
			}
		}
		return nil
	})
	asNext(t, dir, func(s *Store) { check(t, s) })
	edit(t, dir, func(tx *bolt.Tx) error {
		if touchedBy(tx) != 0 || tx.Bucket([]byte("next_index")).Get([]byte("d3")) == nil {
			t.Error("the newer hanzod did not take in what the older one has written")
		}
		return nil
	})
}

// TestNewerThatChanges: a schema that says nothing of older ones, or excludes this one, is refused.
func TestNewerThatChanges(t *testing.T) {
	for name, readable := range map[string]uint64{"says nothing": 0, "excludes this one": 99} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir).Close()
			edit(t, dir, func(tx *bolt.Tx) error {
				meta := tx.Bucket(bucketMeta)
				if err := meta.Put(keySchema, number(99)); err != nil {
					return err
				}
				if readable == 0 {
					return meta.Delete(keyReadable)
				}
				return meta.Put(keyReadable, number(readable))
			})
			wantRefused(t, dir, ErrNewer, "schema 99")
			_, err := Open(t.Context(), dir, Options{})
			wantClass(t, err, errs.Conflict)
		})
	}
}

// TestRecordTypes: every record that is written over has its struct among recordTypes, and a field that
// is not known is carried wherever such a record stands.
func TestRecordTypes(t *testing.T) {
	exempt := map[string]string{
		"meta": "", "audit": "is never written over", "audit_meta": "has no fields", "audit_open": "has no fields",
		"approvals_live": "has no values", "approval_ids": "has no fields", "system_events": "is never written over",
		"settings": "holds nothing yet",

		"session_moves": "is never written over",

		"cron_runs": "is never written over",

		"tech_holds": "has no fields", "tech_order": "has no values", "tech_audit": "is never written over", "tech_audit_of": "has no values",
	}
	for _, b := range buckets {
		typ, ok := recordTypes[string(b)]
		if _, free := exempt[string(b)]; ok == free {
			t.Errorf("%s: in recordTypes %v, exempt %v", b, ok, free)
		}
		if !ok {
			continue
		}
		old := []byte("\x01" + `{"zz_new":{"a":[1,2]}}`)
		if got := carry(b, old, []byte("\x01{}")); string(got) != string(old) {
			t.Errorf("%s: %s", b, got)
		}
		if got := carry(b, old, []byte("\x02{}")); string(got) != "\x02{}" {
			t.Errorf("%s: another version was merged: %s", b, got)
		}
		for name := range fieldsOf(typ) { // what is known goes when it is taken away
			old := fmt.Appendf(nil, "\x01{%q:null}", name)
			if got := carry(b, old, []byte("\x01{}")); string(got) != "\x01{}" {
				t.Errorf("%s.%s came back: %s", b, name, got)
			}
		}
	}
	for _, bad := range []string{"", "\x01", "\x01nonsense", "\x01[]", "\x01null"} {
		if got := carry(bucketDevices, []byte(bad), []byte("\x01{}")); string(got) != "\x01{}" {
			t.Errorf("%q: %s", bad, got)
		}
	}
}
