package store

import (
	"encoding/binary"
	"errors"
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
	bucketSettings          = []byte("settings")

	bucketSessions     = []byte("sessions")
	bucketSessionRest  = []byte("session_rest")
	bucketSessionMoves = []byte("session_moves")

	bucketCronJobs = []byte("cron_jobs")
	bucketCronRuns = []byte("cron_runs")

	bucketLinkKeys = []byte("link_keys")
	bucketLinks    = []byte("links")

	bucketTerminals = []byte("terminals")

	bucketTechSessions = []byte("tech_sessions")
	bucketTechHolds    = []byte("tech_holds")
	bucketTechOrder    = []byte("tech_order")
	bucketTechAudit    = []byte("tech_audit")
	bucketTechAuditOf  = []byte("tech_audit_of")

	keySchema    = []byte("schema")
	keyReadable  = []byte("readable_from")
	keyTouched   = []byte("touched_by")
	keyVoiceWake = []byte("voice_wake")

	keyAuditBase = []byte("base")
	keyAuditHead = []byte("head")

	// buckets are all that a database of the newest schema has.
	buckets = [][]byte{
		bucketMeta, bucketDevices, bucketNodeNames, bucketApprovals, bucketApprovalsLive,
		bucketApprovalIDs, bucketAudit, bucketDeviceRequests, bucketInvites,
		bucketNodePairings, bucketNodeRequests, bucketPushRegistrations, bucketSystemEvents,
		bucketGrants, bucketRuns, bucketRunOutput, bucketAuditMeta, bucketAuditOpen,
		bucketSettings,
		bucketSessions, bucketSessionRest, bucketSessionMoves,
		bucketCronJobs, bucketCronRuns,
		bucketLinkKeys, bucketLinks,
		bucketTerminals,
		bucketTechSessions, bucketTechHolds, bucketTechOrder, bucketTechAudit, bucketTechAuditOf,
	}
)

// migrations bring a database from schema i to i+1. An entry is never changed once it is released:
// add the next one.
var migrations = []func(*bolt.Tx) error{
	migrateTo1,
	migrateTo2,
	migrateTo3,
	migrateTo4,
	migrateTo5,
	migrateTo6,
	migrateTo7,
}

// readableFrom is the oldest schema whose hanzod may open a database of the newest one. It stays as it is
// when a migration only adds, see the rules in doc.go; otherwise it becomes the new schema's number, and
// an upgrade across it has no way back.
const readableFrom = 4

// Schema is the newest schema that this hanzod writes, and the oldest whose hanzod opens it as well.
func Schema() (newest, readable uint64) {
	return uint64(len(migrations)), min(readableFrom, uint64(len(migrations)))
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

// migrateTo5 makes room for sessions, scheduled jobs and small settings.
func migrateTo5(tx *bolt.Tx) error {
	for _, name := range []string{
		"settings",
		"sessions", "session_rest", "session_moves",
		"cron_jobs", "cron_runs",
	} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// migrateTo6 makes room for what links, terminals and checkpoints keep.
func migrateTo6(tx *bolt.Tx) error {
	for _, name := range []string{
		"link_keys", "links",
		"terminals",
	} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// migrateTo7 makes room for technician sessions and their audit.
func migrateTo7(tx *bolt.Tx) error {
	for _, name := range []string{"tech_sessions", "tech_holds", "tech_order", "tech_audit", "tech_audit_of"} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
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

// readableBy reads the oldest schema whose hanzod may open a database: its own where nothing says
// otherwise.
func readableBy(tx *bolt.Tx, schema uint64) uint64 {
	if v := tx.Bucket(bucketMeta).Get(keyReadable); len(v) == 8 {
		return min(binary.BigEndian.Uint64(v), schema)
	}
	return schema
}

// migrate runs what is missing, in one transaction: all of it or nothing. It returns the schema it
// found, and makes sure that every bucket is there afterwards.
//
// A database of a newer schema that may be read is marked with the schema of this program: the newer
// one runs its migrations again when it comes back, over what was written meanwhile.
func migrate(db *bolt.DB) (from uint64, err error) {
	to := uint64(len(migrations))
	var touched uint64
	err = db.View(func(tx *bolt.Tx) error {
		from, _ = schemaOf(tx)
		touched = touchedBy(tx)
		return nil
	})
	switch {
	case err != nil:
	case from > to:
		if touched == 0 || touched > to {
			err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyTouched, number(to)) })
		}
	case from < to, touched != 0 && touched < to:
		err = db.Update(func(tx *bolt.Tx) error { return migrateFrom(tx, from, touched) })
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

// migrateFrom brings a database of a schema to the newest. touched is the schema of an older hanzod that
// has written to it since, 0 for none.
func migrateFrom(tx *bolt.Tx, from, touched uint64) error {
	if touched != 0 {
		from = min(from, touched)
	}
	to := uint64(len(migrations))
	for i, step := range migrations[from:] {
		if err := step(tx); err != nil {
			return fmt.Errorf("migration to schema %d: %w", from+uint64(i)+1, err)
		}
	}
	_, readable := Schema()
	meta := tx.Bucket(bucketMeta)
	return errors.Join(meta.Put(keySchema, number(to)), meta.Put(keyReadable, number(readable)), meta.Delete(keyTouched))
}

// touchedBy is the schema of the oldest hanzod that wrote to a newer database, 0 for none.
func touchedBy(tx *bolt.Tx) uint64 {
	if meta := tx.Bucket(bucketMeta); meta != nil {
		if v := meta.Get(keyTouched); len(v) == 8 {
			return binary.BigEndian.Uint64(v)
		}
	}
	return 0
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
