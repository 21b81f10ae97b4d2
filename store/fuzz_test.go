package store

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/errs"
)

// FuzzRecords gives every decoder any bytes. It never panics; what it refuses it names; what it
// takes it can write again, and reads the same.
func FuzzRecords(f *testing.F) {
	a, _ := encodeApproval(schema1Approval())
	d, _ := encodeDevice(schema1Device())
	r, _ := encodeAudit(row("request", "first"))
	for _, seed := range [][]byte{a, d, r, nil, {1}, {2, '{', '}'}, []byte("\x01{}"), []byte("\x01null"),
		[]byte("\x01{\"turn_source\":{\"thread_id\":{\"a\":[1,2]}}}"),
		[]byte("\x01{\"created_at\":\"9999-12-31T23:59:59.999999999+14:00\"}"),
		[]byte("\x01{\"tokens\":{\"x\":{}},\"scopes\":[],\"uses\":-1}"),
		[]byte("\x01{\"command\":\"\xff\\ud800\"}"),
		append([]byte("\x01"), bytes.Repeat([]byte("["), 20000)...)} {
		f.Add([]byte("12345678"), seed)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		refused := func(err error) {
			e, ok := errs.As(err)
			if !ok || e.Code != ErrRecord.Code || e.Field("bucket") == "" || e.Field("key") != printable(key) {
				t.Errorf("%v does not name the record", err)
			}
		}
		if x, err := decodeApproval(key, value); err != nil {
			refused(err)
		} else if again, err := encodeApproval(x); err == nil {
			y, err := decodeApproval(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("approval: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeGrant(key, value); err != nil {
			refused(err)
		} else if again, err := encodeGrant(x); err == nil {
			y, err := decodeGrant(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("grant: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeDevice(key, value); err != nil {
			refused(err)
		} else if again, err := encodeDevice(x); err == nil {
			y, err := decodeDevice(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("device: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeRequest(key, value); err != nil {
			refused(err)
		} else if again, err := encodeRequest(x); err == nil {
			y, err := decodeRequest(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("pairing request: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeNodeRequest(key, value); err != nil {
			refused(err)
		} else if again, err := encodeNodeRequest(x); err == nil {
			y, err := decodeNodeRequest(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("node request: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeNodePairing(key, value); err != nil {
			refused(err)
		} else if again, err := encodeNodePairing(x); err == nil {
			y, err := decodeNodePairing(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("node pairing: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodePush(key, value); err != nil {
			refused(err)
		} else if again, err := encodePush(x); err == nil {
			y, err := decodePush(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("registration for pushes: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeInvite(key, value); err != nil {
			refused(err)
		} else if again, err := encodeInvite(x); err == nil {
			y, err := decodeInvite(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("invite: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		if x, err := decodeAudit(key, value); err != nil {
			refused(err)
		} else if again, err := encodeAudit(x); err == nil {
			y, err := decodeAudit(key, again)
			if err != nil || !cmp.Equal(x, y) {
				t.Errorf("audit: %v\n%s", err, cmp.Diff(x, y))
			}
		}
		var n nodeNameRecord
		if err := decode(bucketNodeNames, key, value, &n); err != nil {
			refused(err)
		}
	})
}
