package checks

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system/doctor"
)

const (
	// askTime bounds a question to a daemon or a port of this machine.
	askTime = 1500 * time.Millisecond
	// certSoon is when a certificate that ends is a problem. Those that hanzod makes are renewed by a command.
	certSoon = 21 * 24 * time.Hour
	// maxCert bounds what is read of a certificate.
	maxCert = 1 << 20
)

// daemon looks at who holds the state directory, and whether it answers.
func daemon(ctx context.Context, p Place) []doctor.Finding {
	h, err := store.WhoHolds(p.StateDir)
	if err != nil {
		return one("lock", doctor.Warning, "the lock cannot be looked at: "+err.Error(), "run this as the user of the daemon")
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	version, pid, err := p.Ask(ctx)
	var out []doctor.Finding
	switch {
	case !h.Held && err == nil:
		// The socket may be that of another directory, where a path is too long.
		return one("lock", doctor.Error, fmt.Sprintf("a daemon (pid %d) answers, and does not hold %s: its directory was moved or removed under it", pid, p.StateDir),
			"restart it: hanzod service restart, or end it and: hanzod run")
	case !h.Held:
		return append(ok("lock", "nobody uses the state directory"), one("daemon", doctor.Note, "no daemon runs", "hanzod service start, or: hanzod run")...)
	case h.PID == 0:
		out = ok("lock", "a daemon holds the state directory")
	case !alive(h.PID):
		out = one("lock", doctor.Warning, fmt.Sprintf("somebody holds the state directory, and process %d, which is named, is gone", h.PID),
			"see who has "+quote(filepath.Join(p.StateDir, "hanzod.lock"))+" open, for example with lsof")
	default:
		out = ok("lock", fmt.Sprintf("held by process %d, started %s", h.PID, h.Started))
	}
	if err != nil {
		return append(out, one("daemon", doctor.Error, fmt.Sprintf("the daemon (pid %d) does not answer: %v", h.PID, err),
			"when it has just started, look again; else: hanzod service restart, and see why with: hanzod service logs")...)
	}
	out = append(out, ok("daemon", fmt.Sprintf("hanzod %s answers, process %d", version, pid))...)
	if version != p.Version {
		return append(out, one("daemon.version", doctor.Warning, fmt.Sprintf("the daemon is hanzod %s, this program is %s", version, p.Version),
			"after an upgrade: hanzod service restart")...)
	}
	return append(out, ok("daemon.version", version)...)
}

func socket(ctx context.Context, p Place) []doctor.Finding {
	path := client.SocketPath(p.StateDir)
	if runtime.GOOS == "windows" {
		return nil
	}
	moved := ""
	if filepath.Dir(path) != filepath.Clean(p.StateDir) {
		moved = "; the path of the state directory is too long for one in it"
	}
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("socket", "no socket at "+path+moved)
	case err != nil:
		return one("socket", doctor.Warning, "cannot be looked at: "+err.Error(), "run this as the user of the daemon")
	case fi.Mode().Type() != fs.ModeSocket:
		return one("socket", doctor.Error, path+" is in the way of the socket and is none", "move it away: mv "+quote(path)+" "+quote(path+".old"))
	}
	if uid, mine, known := ownerOf(fi); known && !mine {
		return one("socket", doctor.Error, fmt.Sprintf("the socket %s belongs to user %s", path, uid), "run this as that user, or remove it as that user")
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	switch err := client.Answers(ctx, path); {
	case err == nil:
		return ok("socket", path+moved)
	case !errors.Is(err, client.ErrNobody):
		return one("socket", doctor.Warning, fmt.Sprintf("whether anybody answers on %s cannot be told: %v", path, err), "see whether the daemon hangs: hanzod service logs")
	}
	return []doctor.Finding{doctor.Of("socket", doctor.Note, "the socket "+path+" is left over: nobody answers on it", "the next start replaces it; or: hanzod doctor --fix").
		WithMend(func() (string, error) { return removeStale(p.StateDir, path) })}
}

// removeStale removes a socket while no daemon can be on it: it holds the lock meanwhile.
func removeStale(stateDir, path string) (string, error) {
	if fi, err := os.Stat(stateDir); err == nil && fi.IsDir() {
		release, err := store.Lock(stateDir)
		if err != nil {
			return "", err
		}
		defer func() { _ = release() }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != fs.ModeSocket {
		return "it is gone already", nil //nolint:nilerr // or no socket any more, which is not ours to remove
	}
	if err := client.Answers(ctx, path); !errors.Is(err, client.ErrNobody) {
		return "", errors.New("somebody answers on it now")
	}
	return "removed " + path, os.Remove(path)
}

func discovery(ctx context.Context, p Place) []doctor.Finding {
	var out []doctor.Finding
	for _, path := range []string{client.DiscoveryFile(p.StateDir), client.SharedDiscoveryFile(os.Getenv)} {
		if path == "" {
			continue
		}
		d, err := client.ReadDiscovery(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			out = append(out, one("discovery", doctor.Warning, fmt.Sprintf("%s is not believed: %v", path, err), "remove it; a daemon that runs writes it anew: rm "+quote(path))...)
			continue
		}
		ask, cancel := context.WithTimeout(ctx, askTime)
		err = client.Answers(ask, d.Socket)
		cancel()
		if errors.Is(err, client.ErrNobody) {
			out = append(out, doctor.Of("discovery", doctor.Note, fmt.Sprintf("%s names a daemon (pid %d) that is gone", path, d.PID),
				"the next start replaces it; or: hanzod doctor --fix").WithMend(func() (string, error) { return forget(path) }))
			continue
		}
		out = append(out, ok("discovery", path)...)
	}
	return out
}

// forget removes a discovery file whose daemon is gone.
func forget(path string) (string, error) {
	d, err := client.ReadDiscovery(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "it is gone already", nil
	}
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if err := client.Answers(ctx, d.Socket); !errors.Is(err, client.ErrNobody) {
		return "", errors.New("its daemon answers now")
	}
	return "removed " + path, os.Remove(path)
}

// port asks whoever listens where the daemon wants to.
func port(ctx context.Context, p Place) []doctor.Finding {
	if p.Config == nil || p.Config.Gateway.Port == 0 {
		return nil
	}
	number := p.Config.Gateway.Port
	var running *client.Discovery
	if h, err := store.WhoHolds(p.StateDir); err == nil && h.Held {
		if d, err := client.ReadDiscovery(client.DiscoveryFile(p.StateDir)); err == nil && d.PID == h.PID {
			running = d
			number = d.Port
		} else {
			return nil // it is starting, or an older one: daemon says whether it answers
		}
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(number))
	if running != nil && len(running.Addresses) > 0 {
		address = running.Addresses[0]
		if host, port, err := net.SplitHostPort(address); err == nil && (host == "0.0.0.0" || host == "::") {
			address = net.JoinHostPort("127.0.0.1", port)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		// Another check may hold the lock for a moment, with the name of the last daemon in it: a daemon that runs
		// has a socket.
		if running != nil && !errors.Is(client.Answers(ctx, running.Socket), client.ErrNobody) {
			return one("port", doctor.Error, fmt.Sprintf("the daemon runs, and nobody answers on %s: %v", address, err), "hanzod service restart, and see why with: hanzod service logs")
		}
		return ok("port", fmt.Sprintf("%d is free", number))
	}
	_ = conn.Close()
	if running != nil {
		return ok("port", address+" is the daemon's")
	}
	who := "another program"
	if IsGateway(ctx, address) {
		who = "another gateway (the older one, or a hanzod of another state directory)"
	}
	if pid, name := Listener(number); pid != 0 {
		who += fmt.Sprintf(", process %d (%s),", pid, name)
	}
	return one("port", doctor.Error, fmt.Sprintf("%s listens on port %d", who, number), "stop it, or choose another port with gateway.port or --port")
}

// remote dials the way in for other machines, and compares who answers with what the daemon says of itself.
func remote(ctx context.Context, p Place) []doctor.Finding {
	h, err := store.WhoHolds(p.StateDir)
	if err != nil || !h.Held {
		return nil
	}
	d, err := client.ReadDiscovery(client.DiscoveryFile(p.StateDir))
	if err != nil || d.PID != h.PID || d.GRPCAddress == "" {
		return nil
	}
	address := d.GRPCAddress
	if host, port, err := net.SplitHostPort(address); err == nil && net.ParseIP(host).IsUnspecified() {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	// Who it is, is told by the fingerprint; nothing is sent.
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}} //nolint:gosec // see above
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return one("remote", doctor.Error, fmt.Sprintf("nobody answers with TLS on %s: %v", d.GRPCAddress, err), "hanzod service restart, and see why with: hanzod service logs")
	}
	defer conn.Close()
	certs := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if sum := sha256.Sum256(certs[0].Raw); hex.EncodeToString(sum[:]) != d.TLSFingerprint {
		return one("remote", doctor.Error, "another certificate than the daemon's answers on "+d.GRPCAddress, "find out who listens there, before other machines enrol")
	}
	return ok("remote", fmt.Sprintf("hanzod://%s, sha256:%s", d.GRPCAddress, d.TLSFingerprint))
}

// IsGateway reports whether something answers as gateways do.
func IsGateway(ctx context.Context, address string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/health", nil)
	if err != nil {
		return false
	}
	c := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := c.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096)) // what came tells
	return res.StatusCode == http.StatusOK && strings.Contains(string(text), `"ok"`)
}

func certificate(_ context.Context, p Place) []doctor.Finding {
	path, _ := listen.DefaultTLSFiles(p.StateDir)
	theirs := p.Config != nil && p.Config.Gateway.TLS.CertPath != ""
	if theirs {
		path = p.Config.Gateway.TLS.CertPath
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if theirs {
			return one("tls", doctor.Error, "there is no "+path+", which gateway.tls.certPath names", "put it there, or take it out of the configuration")
		}
		return nil // nothing speaks TLS yet
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, maxCert))
		_ = f.Close()
	}
	if err != nil {
		return one("tls", doctor.Warning, "the certificate cannot be read: "+err.Error(), "run this as the user of the daemon")
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return one("tls", doctor.Error, path+" holds no certificate", "hanzod tls renew")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return one("tls", doctor.Error, path+" holds no certificate that can be read: "+err.Error(), "hanzod tls renew")
	}
	next := "hanzod tls renew; machines that pin it have to pin the new one"
	if theirs {
		next = "renew it with the tool that made it; the daemon takes it up by itself"
	}
	left := leaf.NotAfter.Sub(p.Now())
	until := leaf.NotAfter.Local().Format(time.DateOnly)
	switch {
	case left <= 0:
		return one("tls", doctor.Error, "the certificate ended on "+until, next)
	case left < certSoon:
		return one("tls", doctor.Warning, "the certificate ends on "+until, next)
	case p.Now().Before(leaf.NotBefore):
		return one("tls", doctor.Error, "the certificate holds from "+leaf.NotBefore.Local().Format(time.DateTime)+" on only", "set the clock right, or: "+next)
	}
	return ok("tls", "the certificate holds until "+until)
}

func clock(_ context.Context, p Place) []doctor.Finding {
	now := p.Now()
	if built, known := buildTime(); known && now.Before(built.Add(-24*time.Hour)) {
		return one("clock", doctor.Error, fmt.Sprintf("it is %s by the clock, before this program was built", now.Local().Format(time.DateTime)), "set the clock: approvals and certificates go by it")
	}
	if synced, known := synchronized(); known && !synced {
		return one("clock", doctor.Note, "the system says that nothing keeps the clock right", "turn on time synchronisation, for example: timedatectl set-ntp true")
	}
	return ok("clock", now.Local().Format(time.DateTime))
}

// buildTime is the time of the commit that this program was built from.
func buildTime() (time.Time, bool) {
	info, read := debug.ReadBuildInfo()
	if !read {
		return time.Time{}, false
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, err := time.Parse(time.RFC3339, s.Value)
			return t, err == nil
		}
	}
	return time.Time{}, false
}
