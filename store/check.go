package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals/audit"
)

// maxComplaints bounds what Check reports; a damaged file may have one for every page.
const maxComplaints = 20

// Check reads the whole database: the pages, every record, and whether the indexes say what the
// records say. Writes wait meanwhile. Nil means that all is well.
func (s *Store) Check(ctx context.Context) error {
	return s.w.do(ctx, func(t *txn) error {
		var found []error
		complain := func(err error) {
			if err != nil && len(found) < maxComplaints {
				found = append(found, err)
			}
		}
		for err := range t.tx.Check() {
			complain(err)
		}
		complain(checkRecords(t.tx, complain, func() error { return nil }))
		return errors.Join(found...)
	})
}

// checkRecords decodes every record and compares the indexes with them. It ends early with the error of stop,
// which it asks with each record.
func checkRecords(tx *bolt.Tx, complain func(error), stop func() error) error {
	err := errors.Join(
		tx.Bucket(bucketDevices).ForEach(func(k, v []byte) error {
			_, err := decodeDevice(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketDeviceRequests).ForEach(func(k, v []byte) error {
			_, err := decodeRequest(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketInvites).ForEach(func(k, v []byte) error {
			_, err := decodeInvite(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketNodeNames).ForEach(func(k, v []byte) error {
			complain(decode(bucketNodeNames, k, v, &nodeNameRecord{}))
			return stop()
		}),
		tx.Bucket(bucketNodeRequests).ForEach(func(k, v []byte) error {
			_, err := decodeNodeRequest(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketNodePairings).ForEach(func(k, v []byte) error {
			_, err := decodeNodePairing(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketSystemEvents).ForEach(func(k, v []byte) error {
			complain(decode(bucketSystemEvents, k, v, &systemEventRecord{}))
			return stop()
		}),
		tx.Bucket(bucketPushRegistrations).ForEach(func(k, v []byte) error {
			_, err := decodePush(k, v)
			complain(err)
			return stop()
		}),
		tx.Bucket(bucketGrants).ForEach(func(k, v []byte) error {
			_, err := decodeGrant(k, v)
			complain(err)
			return stop()
		}),
		checkVoiceWake(tx, complain),
		checkApprovals(tx, complain, stop),
		checkRuns(tx, complain, stop),
		checkSessions(tx, complain, stop),
		checkCron(tx, complain, stop),
		checkAudit(tx, complain, stop),
	)
	return err
}

func checkVoiceWake(tx *bolt.Tx, complain func(error)) error {
	if v := tx.Bucket(bucketMeta).Get(keyVoiceWake); v != nil {
		complain(decode(bucketMeta, keyVoiceWake, v, &voiceWakeRecord{}))
	}
	return nil
}

// checkApprovals compares the indexes with the records: each record is where it belongs, and nothing
// else is there.
func checkApprovals(tx *bolt.Tx, complain func(error), stop func() error) error {
	ids, liveOnes := tx.Bucket(bucketApprovalIDs), tx.Bucket(bucketApprovalsLive)
	all, alive := 0, 0
	err := tx.Bucket(bucketApprovals).ForEach(func(k, v []byte) error {
		id := idIn(k)
		all++
		if !bytes.Equal(ids.Get(id), k[:len(k)-len(id)]) {
			complain(fmt.Errorf("approval %s is not found by its id", printable(id)))
		}
		a, err := decodeApproval(id, v)
		if err != nil {
			complain(err)
			return nil
		}
		if !bytes.HasPrefix(k, nanos(a.CreatedAt)) {
			complain(fmt.Errorf("approval %s has a key of another time", printable(id)))
		}
		if live(a.State) {
			alive++
		}
		if has(liveOnes, k) != live(a.State) {
			complain(fmt.Errorf("approval %s is %s, and %s says otherwise", printable(id), a.State, bucketApprovalsLive))
		}
		return stop()
	})
	if err != nil {
		return err
	}
	if n := ids.Stats().KeyN; n != all {
		complain(fmt.Errorf("%s has %d entries for %d approvals", bucketApprovalIDs, n, all))
	}
	if n := liveOnes.Stats().KeyN; n != alive {
		complain(fmt.Errorf("%s has %d entries for %d live approvals", bucketApprovalsLive, n, alive))
	}
	return err
}

// checkAudit demands that every row is chained to the one before, from the last that was removed up
// to the head.
func checkAudit(tx *bolt.Tx, complain func(error), stop func() error) error {
	base, err := auditEndAt(tx, keyAuditBase)
	complain(err)
	head, err2 := auditEndAt(tx, keyAuditHead)
	complain(err2)
	if err != nil || err2 != nil {
		return nil
	}
	last, size := base, uint64(0)
	err = tx.Bucket(bucketAudit).ForEach(func(k, v []byte) error {
		hash, record, err := splitAudit(k, v)
		if err != nil {
			complain(err)
			return nil
		}
		row, err := decodeAudit(k, record)
		if err != nil {
			complain(err)
		}
		if len(k) != 8 {
			return nil
		}
		if row.Seq = binary.BigEndian.Uint64(k); row.Seq != last.seq+1 {
			complain(fmt.Errorf("the audit log goes from row %d to row %d", last.seq, row.Seq))
		} else if hash != audit.Link(row.Seq, last.hash, record) {
			complain(fmt.Errorf("row %d of the audit log is not the one that was written after row %d", row.Seq, last.seq))
		}
		last, size = auditEnd{seq: row.Seq, hash: hash}, size+uint64(len(record))
		return stop()
	})
	if err != nil {
		return err
	}
	if last.seq != head.seq || last.hash != head.hash {
		complain(fmt.Errorf("the audit log ends at row %d and its head is row %d", last.seq, head.seq))
	}
	if size != head.size {
		complain(fmt.Errorf("the audit log has %d bytes and counts %d", size, head.size))
	}
	return err
}

func has(b *bolt.Bucket, key []byte) bool {
	k, _ := b.Cursor().Seek(key)
	return bytes.Equal(k, key)
}
