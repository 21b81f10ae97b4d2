package door

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/system/doctor"
)

// TestBackupIsLocal: a backup goes to the local operator and to nobody else, whatever they hold, one at a time,
// and each leaves a row.
func TestBackupIsLocal(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	far, err := client.Dial(ctx, client.Options{Host: "hanzod://" + d.GRPCAddress(), TLSFingerprint: d.TLSFingerprint(), Token: d.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := far.System.Diagnose(ctx, &systemv1.DiagnoseRequest{}); err != nil {
		t.Errorf("the shared secret may diagnose: %v", err)
	}
	s, err := far.System.Backup(ctx, &systemv1.BackupRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != "system.backup_local" {
		t.Errorf("a backup for another machine: %v", err)
	}
	near, err := client.Dial(ctx, client.Options{Socket: d.Socket(), AsNode: true})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	s, err = near.System.Backup(ctx, &systemv1.BackupRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Class != client.Denied {
		t.Errorf("a backup for a node: %v", err)
	}
	for _, path := range []string{"/v1/backup", "/v1/system:backup", "/hanzo.system.v1.SystemService/Backup"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addresses()[0]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+d.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode == http.StatusOK {
			t.Errorf("%s answers %s", path, res.Status)
		}
	}
	var b bytes.Buffer
	if err := runtime.FetchBackup(ctx, d.StateDir, &b, func(_, _ int64) {}); err != nil || b.Len() == 0 {
		t.Errorf("a backup for the local operator: %d bytes, %v", b.Len(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.StateDir, ".backup-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestBackupReaderStops: a reader that stops reading holds up its own backup and nobody else's writes.
func TestBackupReaderStops(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	// Noise that does not compress, so that the archive is larger than what is sent without being read.
	noise := make([]byte, 8<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		noise[i] = byte(x)
	}
	if err := os.WriteFile(filepath.Join(d.StateDir, "node.json"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	slow, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	s, err := slow.System.Backup(ctx, &systemv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	other, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	began := time.Now()
	for range 20 {
		if _, err := other.System.GetSharedSecret(ctx, &systemv1.GetSharedSecretRequest{}); err != nil { // leaves a row
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("20 writes took %v", took)
	}
	err = runtime.FetchBackup(ctx, d.StateDir, io.Discard, func(_, _ int64) {})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != "system.backup_busy" {
		t.Errorf("a second one meanwhile: %v", err)
	}
	_ = slow.Close()
	for deadline := time.Now().Add(patience); ; {
		if err = runtime.FetchBackup(ctx, d.StateDir, io.Discard, func(_, _ int64) {}); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the first reader went away: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestDiagnose: the daemon says what is wrong with itself, by gRPC and by REST alike, and many who ask at once
// cost one look.
func TestDiagnose(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found, err := runtime.FetchFindings(ctx, d.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Severity >= doctor.Warning {
			t.Errorf("%+v", f)
		}
	}
	if err := os.WriteFile(filepath.Join(d.StateDir, "exec-approvals.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.StateDir, "config.json"), []byte("{\ngateway: {prot: 1}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			found, err := runtime.FetchFindings(ctx, d.StateDir)
			if err != nil {
				t.Error(err)
			}
			text := ""
			for _, f := range found {
				text += f.Check + ": " + f.What + "\n"
			}
			for _, want := range []string{"policy.file: the exec approvals file cannot be used", "config.json:2: "} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
		})
	}
	all.Wait()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addresses()[0]+"/v1/doctor", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"policy.file"`)) || bytes.Contains(body, []byte(d.Token)) {
		t.Errorf("%s %s %v", res.Status, body, err)
	}
}
