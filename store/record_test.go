package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// fill gives every field below v a value of its own.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, n)
		fill(e, n)
		v.SetMapIndex(k, e)
	case reflect.Interface:
		v.Set(reflect.ValueOf(json.Number("12345678901234567890")))
	case reflect.Struct:
		if v.Type() == timeType {
			v.Set(reflect.ValueOf(start.Add(time.Duration(*n) * time.Second)))
			return
		}
		for _, field := range v.Fields() {
			fill(field, n)
		}
	default:
		panic(v.Kind())
	}
}

// TestEveryFieldIsKept fails when a domain type gets a field that its record does not carry.
func TestEveryFieldIsKept(t *testing.T) {
	n := 0
	t.Run("approval", func(t *testing.T) {
		var want approvals.Approval
		fill(reflect.ValueOf(&want).Elem(), &n)
		v, err := encodeApproval(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeApproval([]byte(want.ID), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
	t.Run("grant", func(t *testing.T) {
		var want approvals.Grant
		fill(reflect.ValueOf(&want).Elem(), &n)
		v, err := encodeGrant(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeGrant([]byte(want.ID), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
	t.Run("device", func(t *testing.T) {
		var want identity.Device
		fill(reflect.ValueOf(&want).Elem(), &n)
		v, err := encodeDevice(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeDevice([]byte(want.ID), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
	t.Run("pairing request", func(t *testing.T) {
		var want identity.Pairing
		fill(reflect.ValueOf(&want).Elem(), &n)
		v, err := encodeRequest(want)
		if err != nil {
			t.Fatal(err)
		}
		want.Silent = false // one that nobody is asked about is not kept
		got, err := decodeRequest([]byte(want.RequestID), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
	t.Run("invite", func(t *testing.T) {
		var want identity.Invite
		fill(reflect.ValueOf(&want).Elem(), &n)
		v, err := encodeInvite(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeInvite([]byte(want.ID), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
	t.Run("audit", func(t *testing.T) {
		var want AuditRow
		fill(reflect.ValueOf(&want).Elem(), &n)
		v, err := encodeAudit(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeAudit(seqKey(want.Seq), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}

// TestNothingAndEmpty: nil and empty mean different things in an approval.
func TestNothingAndEmpty(t *testing.T) {
	for name, want := range map[string]approvals.Approval{
		"nothing": {ID: "a"},
		"empty": {
			ID: "a", CommandArgv: []string{}, EnvKeys: []string{}, Cwd: ptr(""),
			Binding: &approvals.Binding{Argv: []string{}, EnvHash: ptr("")},
			Plan:    &approvals.Plan{Argv: []string{""}}, TurnSource: approvals.TurnSource{ThreadID: ""},
		},
		"markup": {ID: "a", Command: "a <b> & \u2028 \ufffd \\ufffd \x00", TurnSource: approvals.TurnSource{ThreadID: "<&>"}},
	} {
		v, err := encodeApproval(want)
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := decodeApproval([]byte("a"), v)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Error(name, err, diff)
		}
	}
	// Numbers of any Go type come back with their digits; local time comes back as UTC.
	a := approvals.Approval{ID: "a", CreatedAt: start.In(time.FixedZone("x", 3600)), TurnSource: approvals.TurnSource{ThreadID: 42}}
	v, err := encodeApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeApproval([]byte("a"), v)
	if err != nil || got.TurnSource.ThreadID != json.Number("42") || got.CreatedAt != start {
		t.Fatalf("%+v, %v", got, err)
	}
}

// TestDamagedRecord: a record that cannot be read names its bucket and key, not its contents, and
// does not hide the others.
func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	create(t, s, pending("bad", 0), pending("good", 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, func(tx *bolt.Tx) error {
		return errors.Join(
			tx.Bucket(bucketApprovals).Put(timeKey(nanos(start), []byte("bad")), []byte("\x01{\"command\":12 secret")),
			tx.Bucket(bucketDevices).Put([]byte("d\x00"), []byte("\x02{}")),
			tx.Bucket(bucketNodeNames).Put([]byte("n"), nil),
		)
	})
	s = open(t, dir)
	if _, err := s.Approval("good"); err != nil {
		t.Fatal(err)
	}
	_, one := s.Approval("bad")
	_, listed := s.LiveApprovals()
	_, recent := s.RecentApprovals(9)
	_, devices := s.Devices()
	_, name := s.NodeName("n")
	_, changed := s.UpdateApproval(t.Context(), "bad", func(*approvals.Approval) (approvals.Audit, error) {
		t.Error("a change of a record that cannot be read")
		return approvals.Audit{}, nil
	})
	for _, c := range []struct {
		err         error
		bucket, key string
	}{
		{one, "approvals", `"bad"`}, {listed, "approvals", `"bad"`}, {recent, "approvals", `"bad"`},
		{changed, "approvals", `"bad"`}, {devices, "devices", "0x6400"}, {name, "node_names", `"n"`},
	} {
		wantIs(t, c.err, ErrRecord)
		wantClass(t, c.err, errs.Internal)
		e, _ := errs.As(c.err)
		if e.Field("bucket") != c.bucket || e.Field("key") != c.key || !strings.Contains(c.err.Error(), c.key) {
			t.Errorf("%v: fields %v, want %s %s", c.err, e.Fields, c.bucket, c.key)
		}
		if strings.Contains(c.err.Error(), "secret") {
			t.Errorf("the error shows the record: %v", c.err)
		}
	}
	err := s.Check(t.Context())
	for _, want := range []string{`"bad" in approvals`, "0x6400 in devices", `"n" in node_names`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check: %v\nlacks %s", err, want)
		}
	}
}

// TestCheckFindsWrongIndexes makes every kind of disagreement.
func TestCheckFindsWrongIndexes(t *testing.T) {
	at := timeKey(nanos(start), []byte("a"))
	for name, c := range map[string]struct {
		spoil func(*bolt.Tx) error
		want  string
	}{
		"no id":         {func(tx *bolt.Tx) error { return tx.Bucket(bucketApprovalIDs).Delete([]byte("a")) }, "not found by its id"},
		"other time":    {func(tx *bolt.Tx) error { return tx.Bucket(bucketApprovalIDs).Put([]byte("a"), seqKey(1)) }, "not found by its id"},
		"not live":      {func(tx *bolt.Tx) error { return tx.Bucket(bucketApprovalsLive).Delete(at) }, "approvals_live says otherwise"},
		"gone but live": {func(tx *bolt.Tx) error { return tx.Bucket(bucketApprovals).Delete(at) }, "approvals_live has 1 entries for 0"},
		"lost row":      {func(tx *bolt.Tx) error { return tx.Bucket(bucketAudit).Delete(seqKey(1)) }, "from row 0 to row 2"},
		"lost end":      {func(tx *bolt.Tx) error { return tx.Bucket(bucketAudit).Delete(seqKey(2)) }, "from row 1 to row 3"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			create(t, s, pending("a", 0))
			if err := s.AppendAudit(t.Context(), row("policy", "")); err != nil {
				t.Fatal(err)
			}
			check(t, s)
			s.Close()
			edit(t, dir, c.spoil)
			err := open(t, dir).Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}
