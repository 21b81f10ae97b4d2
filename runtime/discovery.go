package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/client"
)

const (
	// announceEvery is how often the discovery files are looked after: one that somebody removed is
	// written again, a new certificate is named, and the place of a daemon that is gone is taken.
	announceEvery = 20 * time.Second
	// answerWait bounds the question whether the daemon of the shared file is still there.
	answerWait = time.Second
	// temporaryDiscovery begins the name of a discovery file that is being written.
	temporaryDiscovery = "." + client.DiscoveryName + "."
)

// discovery is what this daemon says of itself.
func (d *Daemon) discovery() client.Discovery {
	f := client.Discovery{
		Format: client.DiscoveryFormat, PID: os.Getpid(), StartedAt: d.started, Version: Version, Service: d.service,
		StateDir: fullPath(d.cfg.StateDir), Socket: d.socket, Port: d.Port(), Addresses: d.Addresses(),
		GRPCAddress: d.GRPCAddress(), TLSFingerprint: d.TLSFingerprint(),
	}
	if exe, err := os.Executable(); err == nil {
		f.Executable = exe
	}
	if _, port, err := net.SplitHostPort(f.GRPCAddress); err == nil {
		f.GRPCPort, _ = strconv.Atoi(port) // a number: the listener says so
	}
	return f
}

// shares reports whether this daemon belongs into the shared discovery file: clients that look into the
// usual state directory find it without.
func (d *Daemon) shares() bool {
	return d.shared != "" && fullPath(d.cfg.StateDir) != fullPath(client.HomeStateDir(os.Getenv))
}

func fullPath(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// announce writes the discovery files, where they are not as they should be. A daemon that cannot write
// them works, and is found by its state directory.
func (d *Daemon) announce() {
	d.announcing.Lock()
	defer d.announcing.Unlock()
	if d.State() != ready {
		return
	}
	now := d.discovery()
	err := writeDiscovery(client.DiscoveryFile(d.cfg.StateDir), now)
	if d.shares() && !d.taken(now) {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(d.shared), 0o700), writeDiscovery(d.shared, now))
	}
	if err != nil {
		d.log.Warn("the discovery file was not written; clients find this daemon by its state directory only", "error", err)
	}
}

// clearStale removes what a daemon that was killed left in the state directory, which is ours alone.
func (d *Daemon) clearStale() {
	left, _ := filepath.Glob(filepath.Join(d.cfg.StateDir, temporaryDiscovery+"*")) // the pattern is well formed but for odd directories
	for _, path := range append(left, client.DiscoveryFile(d.cfg.StateDir)) {
		_ = os.Remove(path) // a stale file is believed by nobody who looks at the socket
	}
}

// taken reports whether the shared file is that of another daemon which is still there.
func (d *Daemon) taken(now client.Discovery) bool {
	other, err := client.ReadDiscovery(d.shared)
	if err != nil || other.Socket == now.Socket {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	return !errors.Is(client.Answers(ctx, other.Socket), client.ErrNobody)
}

// keepAnnounced looks after the discovery files until ctx ends.
func (d *Daemon) keepAnnounced(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.announce()
		case <-ctx.Done():
			return
		}
	}
}

// withdraw removes the discovery files that are this daemon's. It comes while the daemon still listens, so
// that no other one takes the place of the shared file between the look and the removal.
func (d *Daemon) withdraw() {
	d.announcing.Lock()
	defer d.announcing.Unlock()
	for _, path := range []string{client.DiscoveryFile(d.cfg.StateDir), d.shared} {
		if path == "" {
			continue
		}
		f, err := client.ReadDiscovery(path)
		if err != nil || f.PID != os.Getpid() || f.Socket != d.socket || !f.StartedAt.Equal(d.started) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("the discovery file was not removed", "error", err)
		}
	}
}

// writeDiscovery replaces a discovery file as a whole, unless it says the same already. It is not synced:
// what a crash of the machine leaves of it is not believed.
func writeDiscovery(path string, f client.Discovery) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
		if _, err := client.ReadDiscovery(path); err == nil {
			return nil
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), temporaryDiscovery+"*") // with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // best effort, after a failure that is told
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
