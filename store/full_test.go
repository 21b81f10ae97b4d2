package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/approvals"
)

// maxFill ends a filling whose disk never gets full.
const maxFill = 100_000

// fillUp writes approvals until one fails and prints what was acknowledged and what was not. It
// returns the exit code of the child.
func fillUp(s *Store) int {
	fatal := make(chan error, 9)
	s.w.onFatal = func(err error) { fatal <- err }
	ctx := context.Background()
	for i := range maxFill {
		a := pending(fmt.Sprintf("a%06d", i), i)
		a.Command = strings.Repeat("x", 2000)
		err := s.CreateApproval(ctx, a, row("request", a.ID))
		if err == nil {
			fmt.Println("ack", a.ID)
			continue
		}
		fmt.Println("failed", a.ID, err)
		switch {
		case errors.Is(err, ErrNotWritten):
			fmt.Println("class not-written")
		case errors.Is(err, ErrUnknown):
			fmt.Println("class unknown")
		default:
			fmt.Println("class none")
		}
		<-fatal
		if err := s.AppendAudit(ctx, approvals.Audit{}); !errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), "free disk space") {
			fmt.Println("a later write:", err)
			return 1
		}
		if _, err := s.RecentApprovals(10); err != nil {
			fmt.Println("a read:", err)
			return 1
		}
		if err := s.Close(); err != nil {
			fmt.Println("close:", err)
			return 1
		}
		return 0
	}
	fmt.Println("the disk is never full")
	return 1
}

// wantFull reads what fillUp printed. With more space the store must hold what was acknowledged,
// and of the failed write what its error promised.
func wantFull(t *testing.T, dir string, out []byte) {
	t.Helper()
	s := open(t, dir)
	check(t, s)
	acked, failed, class := 0, "", ""
	for line := range strings.Lines(string(out)) {
		w := strings.Fields(line)
		switch w[0] {
		case "ack":
			acked++
			if _, err := s.Approval(w[1]); err != nil {
				t.Errorf("%s was acknowledged: %v", w[1], err)
			}
		case "failed":
			failed = w[1]
			t.Log(strings.TrimSpace(line))
		case "class":
			class = w[1]
		}
	}
	if acked < 10 || failed == "" {
		t.Fatalf("%d acknowledged, failed %q:\n%s", acked, failed, tail(out))
	}
	_, err := s.Approval(failed)
	switch {
	case class == "none":
		t.Errorf("the error does not say what became of the write")
	case class == "not-written" && !errors.Is(err, approvals.ErrUnknown):
		t.Errorf("%s was not written, and yet: %v", failed, err)
	}
	all, err := s.RecentApprovals(maxFill)
	if extra := len(all) - acked; err != nil || extra < 0 || extra > 1 {
		t.Errorf("%d approvals for %d acknowledged, %v", len(all), acked, err)
	}
	// What is not recorded was not done, and the other way round.
	rows, err := s.Audit(0, maxFill)
	if err != nil || len(rows) != len(all) {
		t.Errorf("%d rows for %d approvals, %v", len(rows), len(all), err)
	}
	wantOK(t, s)
	create(t, s, pending("more", 0))
	t.Logf("%d acknowledged writes, the next one was refused as %s", acked, class)
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// TestFullDisk fills a small file system.
func TestFullDisk(t *testing.T) {
	small, large := smallDisk(t)
	// The file grows in powers of two and then by 16 MiB, without taking the space at once; the
	// sizes make the disk full at different places.
	for _, kib := range []int{512, 900, 1333, 3000} {
		t.Run(fmt.Sprint(kib, " KiB"), func(t *testing.T) {
			dir := small(t, kib)
			var out bytes.Buffer
			cmd := start2(t, dir, "fill")
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, tail(out.Bytes()))
			}
			large(t, dir)
			wantFull(t, dir, out.Bytes())
		})
	}
}

// TestFullFromTheStart: no database is made, and none is half made.
func TestFullFromTheStart(t *testing.T) {
	small, large := smallDisk(t)
	dir := small(t, 64)
	if err := os.WriteFile(dir+"/ballast", make([]byte, 52<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir, Options{})
	wantIs(t, err, ErrOpen)
	t.Log(err)
	large(t, dir)
	create(t, open(t, dir), pending("a", 0))
}
