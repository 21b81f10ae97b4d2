package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/tests/sshtest"
)

const (
	// copySize is what is copied in each direction, in bytes, and copyRounds how often.
	copySize   = 1 << 30
	copyRounds = 3
	// copyNodeTime is how long the node may take to be there.
	copyNodeTime = 20 * time.Second
)

// copies measures "hanzoctl cp" to and from a node of this machine beside scp with a real server. The checksum of
// each copy was compared when the program ends.
func (b *bench) copies(ctx context.Context) error {
	scp, err := exec.LookPath("scp")
	if err != nil {
		b.rep.Notes = append(b.rep.Notes, "no copies were measured: there is no scp")
		return nil
	}
	t := &stand{}
	err = t.during(func() error { return b.copiesBeside(ctx, t, scp) })
	if why, ok := errors.AsType[*skipped](err); ok {
		b.rep.Notes = append(b.rep.Notes, "no copies were measured: "+why.text)
		return nil
	}
	return err
}

func (b *bench) copiesBeside(ctx context.Context, t *stand, scp string) error {
	dir := filepath.Join(b.dir, "files")
	d, err := startDaemon(ctx, b.prog.hanzod, dir)
	if err != nil {
		return err
	}
	defer d.kill()
	root := filepath.Join(dir, "offered")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(d.addr)
	if err != nil {
		return err
	}
	node := exec.CommandContext(ctx, b.prog.hanzod, "node", "--state-dir", filepath.Join(dir, "n"), "--files-root", root, "--display-name", "box", "--host", "127.0.0.1", "--port", port)
	node.Env = append(cleanEnv(), "HANZOD_STATE_DIR="+dir)
	if err := node.Start(); err != nil {
		return err
	}
	defer func() {
		_ = node.Process.Kill() // Wait says how it ended
		_ = node.Wait()
	}()
	own := func(args ...string) (time.Duration, error) {
		return run(ctx, b.prog.hanzoctl, append([]string{"--state-dir", dir}, args...)...)
	}
	for end := time.Now().Add(copyNodeTime); ; time.Sleep(50 * time.Millisecond) {
		if _, err = own("files", "ls", "box:"); err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the node did not come: %w", err)
		}
	}
	source, far, back := filepath.Join(dir, "source"), filepath.Join(root, "far"), filepath.Join(dir, "back")
	f, err := os.Create(source)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), copySize)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	s := sshtest.Start(t, sshtest.Options{Lines: []string{"Subsystem sftp internal-sftp"}})
	secure := func(from, to string) (time.Duration, error) {
		return run(ctx, scp, "-q", "-F", "none", "-i", s.Key, "-P", strconv.Itoa(s.Port), "-o", "UserKnownHostsFile="+s.KnownHosts, "-o", "IdentitiesOnly=yes", from, to)
	}
	there := s.User + "@" + s.Host + ":" + far
	rates := map[string][]float64{}
	for range copyRounds {
		for _, step := range []struct {
			name string
			gone string
			run  func() (time.Duration, error)
		}{
			{"scp/up", far, func() (time.Duration, error) { return secure(source, there) }},
			{"up", "", func() (time.Duration, error) { return own("cp", source, "box:far") }},
			{"scp/down", back, func() (time.Duration, error) { return secure(there, back) }},
			{"down", back, func() (time.Duration, error) { return own("cp", "box:far", back) }},
		} {
			took, err := step.run()
			if err != nil {
				return err
			}
			rates[step.name] = append(rates[step.name], copySize/1e6/took.Seconds())
			if step.gone != "" {
				if err := os.Remove(step.gone); err != nil {
					return err
				}
			}
		}
		if err := os.Remove(far); err != nil {
			return err
		}
	}
	for _, way := range []string{"up", "down"} {
		b.rep.set("files/"+way+"/rate", median(rates[way]))
		b.rep.set("files/"+way+"/scp", median(rates["scp/"+way]))
		b.rep.set("files/"+way+"/ratio", median(rates[way])/median(rates["scp/"+way]))
	}
	return nil
}
