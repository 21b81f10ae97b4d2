package store

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// The buckets; see the package comment for what is in them.
var (
	bucketMeta              = []byte("meta")
	bucketDevices           = []byte("devices")
	bucketNodeNames         = []byte("node_names")
	bucketApprovals         = []byte("approvals")
	bucketApprovalsLive     = []byte("approvals_live")
	bucketApprovalIDs       = []byte("approval_ids")
	bucketAudit             = []byte("audit")
	bucketDeviceRequests    = []byte("device_requests")
	bucketInvites           = []byte("invites")
	bucketNodePairings      = []byte("node_pairings")
	bucketNodeRequests      = []byte("node_requests")
	bucketPushRegistrations = []byte("push_registrations")
	bucketSystemEvents      = []byte("system_events")
	bucketGrants            = []byte("grants")
	bucketRuns              = []byte("runs")
	bucketRunOutput         = []byte("run_output")
	bucketAuditMeta         = []byte("audit_meta")
	bucketAuditOpen         = []byte("audit_open")

	keySchema    = []byte("schema")
	keyVoiceWake = []byte("voice_wake")

	keyAuditBase = []byte("base")
	keyAuditHead = []byte("head")

	// buckets are all that a database of the newest schema has.
	buckets = [][]byte{
		bucketMeta, bucketDevices, bucketNodeNames, bucketApprovals, bucketApprovalsLive,
		bucketApprovalIDs, bucketAudit, bucketDeviceRequests, bucketInvites,
		bucketNodePairings, bucketNodeRequests, bucketPushRegistrations, bucketSystemEvents,
		bucketGrants, bucketRuns, bucketRunOutput, bucketAuditMeta, bucketAuditOpen,
	}
)

// migrations bring a database from schema i to i+1. An entry is never changed once it is released:
// add the next one.
var migrations = []func(*bolt.Tx) error{
	migrateTo1,
	migrateTo2,
	migrateTo3,
	migrateTo4,
}

// migrateTo1 makes the buckets of the first schema.
func migrateTo1(tx *bolt.Tx) error {
	for _, name := range []string{
		"meta", "devices", "node_names", "approvals", "approvals_live", "approval_ids", "audit",
	} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// migrateTo2 makes room for pairing requests, invites, node pairings and push registrations.
func migrateTo2(tx *bolt.Tx) error {
	for _, name := range []string{
		"device_requests", "invites", "node_pairings", "node_requests", "push_registrations",
	} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// migrateTo3 makes room for system events.
func migrateTo3(tx *bolt.Tx) error {
	_, err := tx.CreateBucket([]byte("system_events"))
	return err
}

// schemaOf reads the schema number of a database; known is false when it is none of ours. An empty
// database has schema 0.
func schemaOf(tx *bolt.Tx) (n uint64, known bool) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		k, _ := tx.Cursor().First()
		return 0, k == nil
	}
	v := meta.Get(keySchema)
	if len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

// migrate runs what is missing, in one transaction: all of it or nothing. It returns the schema it
// found, and makes sure that every bucket is there afterwards.
func migrate(db *bolt.DB) (from uint64, err error) {
	to := uint64(len(migrations))
	err = db.View(func(tx *bolt.Tx) error {
		from, _ = schemaOf(tx)
		return nil
	})
	if err == nil && from < to {
		err = db.Update(func(tx *bolt.Tx) error {
			for i, step := range migrations[from:] {
				if err := step(tx); err != nil {
					return fmt.Errorf("migration to schema %d: %w", from+uint64(i)+1, err)
				}
			}
			return tx.Bucket(bucketMeta).Put(keySchema, binary.BigEndian.AppendUint64(nil, to))
		})
	}
	if err != nil {
		return from, err
	}
	return from, db.View(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: the bucket %s is missing", errDamaged, name)
			}
		}
		return nil
	})
}
