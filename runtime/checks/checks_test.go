package checks_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/config"
	daemon "github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/checks"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
	"github.com/hanzoai/hanzod/system/doctor"
)

// stateDir makes a state that a daemon has used and left, with a port that nobody uses.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hd") // short: t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "xdg"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	if err := storetest.OpenDir(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	write(t, filepath.Join(dir, "config.json"), `{gateway: {port: `+strconv.Itoa(port)+`, auth: {token: "0123456789abcdef"}}}`)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func place(t *testing.T, dir string) checks.Place {
	t.Helper()
	p, err := daemon.CheckPlace(config.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	p.Environ = nil
	return p
}

func look(t *testing.T, p checks.Place) []doctor.Finding {
	t.Helper()
	began := time.Now()
	found := checks.Machine(t.Context(), p)
	if took := time.Since(began); took > doctor.MaxTime {
		t.Errorf("it took %v", took)
	}
	for _, f := range found {
		if !slices.ContainsFunc(doctor.Checks, func(c doctor.Check) bool { return c.ID == f.Check }) {
			t.Errorf("%q is not in the table of checks", f.Check)
		}
		if f.Severity >= doctor.Warning && f.Next == "" {
			t.Errorf("%s says what is wrong (%s), and not what to do", f.Check, f.What)
		}
		if strings.Contains(f.What+f.Next, "0123456789abcdef") {
			t.Errorf("a secret is shown: %+v", f)
		}
	}
	return found
}

// worst is the worst finding of a check.
func worst(found []doctor.Finding, check string) (w doctor.Finding) {
	for _, f := range found {
		if f.Check == check && f.Severity > w.Severity {
			w = f
		}
	}
	return w
}

// TestFine: nothing is wrong with a state that was used and left.
func TestFine(t *testing.T) {
	for _, f := range look(t, place(t, stateDir(t))) {
		if f.Severity >= doctor.Warning {
			t.Errorf("%+v", f)
		}
	}
}

// TestFound: what is wrong is found, as bad as it is, and said with what to do.
func TestFound(t *testing.T) {
	ends := time.Now().Add(100 * 24 * time.Hour)
	cases := map[string]struct {
		spoil    func(t *testing.T, dir string, p *checks.Place)
		check    string
		severity doctor.Severity
		what     string
	}{
		"no directory": {func(t *testing.T, dir string, _ *checks.Place) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, "state.dir", doctor.Note, "there is no state directory"},
		"a file for the directory": {func(t *testing.T, dir string, _ *checks.Place) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			write(t, dir, "x")
		}, "state.dir", doctor.Error, "is no directory"},
		"a damaged database": {func(t *testing.T, dir string, _ *checks.Place) {
			path := filepath.Join(dir, store.FileName)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 3 * os.Getpagesize(); i < len(text); i += 7 {
				text[i] ^= 0xff
			}
			write(t, path, string(text))
		}, "store", doctor.Error, "is damaged"},
		"an empty database": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, store.FileName), "")
		}, "store", doctor.Error, "it is empty"},
		"something else for a database": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, store.FileName), strings.Repeat("SQLite format 3\x00", 4096))
		}, "store", doctor.Error, "no database of hanzod"},
		"a log that was cut": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, "audit.head"), "99:"+strings.Repeat("ab", 32)+"\n")
		}, "audit", doctor.Error, "row 99 was written"},
		"a configuration that is no JSON5": {func(t *testing.T, dir string, p *checks.Place) {
			write(t, filepath.Join(dir, "config.json"), "{\n\n  gateway: }")
			*p = place(t, dir)
		}, "config", doctor.Error, "config.json:3: "},
		"a configuration with a wrong key": {func(t *testing.T, dir string, p *checks.Place) {
			write(t, filepath.Join(dir, "config.json"), "{\n  gateway: {prot: 1}}")
			*p = place(t, dir)
		}, "config", doctor.Error, "config.json:2: "},
		"a configuration that no daemon starts with": {func(t *testing.T, dir string, p *checks.Place) {
			write(t, filepath.Join(dir, "config.json"), "{gateway: {mode: 'remote', auth: {token: 'x'}}}")
			*p = place(t, dir)
		}, "config", doctor.Error, "gateway.mode"},
		"a variable that means nothing": {func(_ *testing.T, _ string, p *checks.Place) {
			p.Environ = []string{"HANZOD_TOKN=0123456789abcdef"}
		}, "config.env", doctor.Warning, "HANZOD_TOKN"},
		"a policy file that cannot be used": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, "exec-approvals.json"), "{")
		}, "policy.file", doctor.Error, "cannot be used"},
		"a file in the place of the socket": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, client.SocketPath(dir), "x")
		}, "socket", doctor.Error, "is in the way"},
		"a port that is taken": {func(t *testing.T, _ string, p *checks.Place) {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p.Config.Gateway.Port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "port", doctor.Error, "another program"},
		"a discovery file of one that is gone": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, client.DiscoveryFile(dir), `{"format":1,"pid":1,"version":"1","startedAt":"2026-01-01T00:00:00Z","stateDir":"`+dir+`","socket":"`+dir+`/gone.sock","port":1,"addresses":[]}`)
		}, "discovery", doctor.Note, "is gone"},
		"a restore that was cut off": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, ".restore", "plan.json"), "{}")
		}, "state.restore", doctor.Warning, "cut off"},
		"a restore that began": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, ".restore", "new", "x"), "{}")
		}, "state.restore", doctor.Note, "before anything changed"},
		"a replaced state": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, "replaced-1", "x"), "{}")
		}, "state.size", doctor.Note, "replaced"},
		"a clock before the certificate": {func(t *testing.T, dir string, p *checks.Place) {
			makeCertificate(t, dir)
			p.Now = func() time.Time { return time.Now().Add(-1000 * time.Hour) }
		}, "tls", doctor.Error, "holds from"},
		"a certificate that ended": {func(t *testing.T, dir string, p *checks.Place) {
			makeCertificate(t, dir)
			p.Now = func() time.Time { return ends.AddDate(30, 0, 0) }
		}, "tls", doctor.Error, "ended on"},
		"a certificate that is none": {func(t *testing.T, dir string, _ *checks.Place) {
			write(t, filepath.Join(dir, "gateway", "tls", "gateway-cert.pem"), "x")
		}, "tls", doctor.Error, "holds no certificate"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && tc.check == "socket" {
				t.Skip("a named pipe is no file")
			}
			dir := stateDir(t)
			p := place(t, dir)
			tc.spoil(t, dir, &p)
			f := worst(look(t, p), tc.check)
			if f.Severity != tc.severity || !strings.Contains(f.What, tc.what) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func makeCertificate(t *testing.T, dir string) {
	t.Helper()
	cfg, err := config.Load(config.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.RenewTLS(cfg, nil); err != nil {
		t.Fatal(err)
	}
}

// TestBesideDaemon: a database that a daemon has open is left to it, and who holds it is named.
func TestBesideDaemon(t *testing.T) {
	dir := stateDir(t)
	st, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	p := place(t, dir)
	p.Ask = func(context.Context) (string, int, error) { return "0.0.1", os.Getpid(), nil }
	found := look(t, p)
	if f := worst(found, "store"); f.Check != "" {
		t.Errorf("%+v", f)
	}
	if f := worst(found, "lock"); f.Severity != doctor.OK || !strings.Contains(f.What, strconv.Itoa(os.Getpid())) {
		t.Errorf("%+v", f)
	}
	if f := worst(found, "daemon.version"); f.Severity != doctor.Warning || !strings.Contains(f.What, "0.0.1") {
		t.Errorf("%+v", f)
	}
	p.Ask = func(ctx context.Context) (string, int, error) {
		<-ctx.Done() // as with one that hangs
		return "", 0, ctx.Err()
	}
	if f := worst(look(t, p), "daemon"); f.Severity != doctor.Error || !strings.Contains(f.What, "does not answer") {
		t.Errorf("%+v", f)
	}
}

// TestHangs: a look that hangs is left behind in time, and not started again while it does.
func TestHangs(t *testing.T) {
	dir := stateDir(t)
	p := place(t, dir)
	let := make(chan struct{})
	var calls atomic.Int32
	p.Examine = func(context.Context) (store.Exam, error) {
		calls.Add(1)
		<-let
		return store.Exam{}, errors.New("x")
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		found := checks.Machine(ctx, p)
		cancel()
		if f := worst(found, "store"); f.Severity != doctor.Warning || !strings.Contains(f.What, "could not be looked at within") {
			t.Errorf("%+v", f)
		}
	}
	close(let)
	if n := calls.Load(); n != 1 {
		t.Errorf("it was started %d times", n)
	}
}
