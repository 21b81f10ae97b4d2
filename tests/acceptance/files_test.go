//go:build unix

package acceptance

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

// filePatience is how long a copy may take here.
const filePatience = 3 * time.Minute

// fileHouse is a daemon with a node, whose files are below root.
type fileHouse struct {
	*proc.Daemon
	t    *testing.T // the test of the moment
	all  *testing.T // the one with which everything ends
	root string
	here string // files of this machine
	args []string
	env  []string
	node *proc.Command
}

// filesOf starts a daemon and a node named box; through is the address by which the node reaches the daemon over a
// WebSocket, which has no channels, empty for its socket.
func filesOf(t *testing.T, link bool) (*fileHouse, *proc.Link) {
	t.Helper()
	if os.Getenv("ACCEPTANCE") == "" {
		t.Skip("one of `make acceptance`")
	}
	var o proc.Options
	if link {
		// What a node offers by the protocol of the original passes as it does there.
		o.Config = object{"gateway": object{
			"auth":  object{"mode": "token", "token": proc.Token},
			"nodes": object{"allowCommands": []string{"file.list", "file.stat", "file.read", "file.write", "file.hash", "file.remove", "file.mkdir"}},
		}}
	}
	d := proc.Start(t, o)
	h := &fileHouse{Daemon: d, t: t, all: t, root: proc.Dir(t), here: proc.Dir(t), env: []string{"HANZOD_STATE_DIR=" + d.State}}
	h.args = []string{"node", "--state-dir", filepath.Join(proc.Dir(t), "n"), "--files-root", h.root, "--display-name", "box", "--host", "127.0.0.1"}
	var l *proc.Link
	port := strconv.Itoa(d.Port)
	if link {
		l = proc.NewLink(t, d.Addr())
		_, port, _ = strings.Cut(l.Addr(), ":")
		h.args = append(h.args, "--link", "websocket")
		h.env = append(h.env, "HANZOD_TOKEN="+proc.Token)
	}
	h.args = append(h.args, "--port", port)
	h.offer()
	return h, l
}

// offer starts the node and waits until it is there.
func (h *fileHouse) offer() {
	h.t.Helper()
	h.node = proc.Run(h.all, h.here, proc.Build(h.t, "hanzod", proc.Tested), h.env, h.args...)
	node := h.node
	h.all.Cleanup(func() {
		if h.all.Failed() {
			h.all.Logf("output of the node:\n%s", node.Stderr)
		}
	})
	h.connected()
}

func (h *fileHouse) connected() {
	h.t.Helper()
	var said string
	h.t.Cleanup(func() {
		if h.t.Failed() && said != "" {
			h.t.Log(said)
		}
	})
	proc.Until(h.t, "the node is connected", func() bool {
		c := h.Ctl("files", "ls", "box:", "-q").Wait(h.t, proc.Patience)
		said = c.Stderr.String()
		return c.Code == 0
	})
}

func (h *fileHouse) cp(args ...string) *proc.Command {
	return h.Ctl(append([]string{"cp", "--json"}, args...)...)
}

// random writes a file and returns its checksum.
func (h *fileHouse) random(path string, size int64) [sha256.Size]byte {
	h.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	var seed [32]byte
	seed[0] = byte(rand.N(256))
	sum := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8(seed), size)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

func sumFile(t *testing.T, path string) (out [sha256.Size]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

// arrived waits until a partial file in dir has so many bytes, and reports whether it came to that before the
// copy ended.
func arrived(t *testing.T, dir string, n int64, c *proc.Command) bool {
	t.Helper()
	for end := time.Now().Add(filePatience); time.Now().Before(end); time.Sleep(500 * time.Microsecond) {
		if c.Ended() {
			return false
		}
		parts, _ := filepath.Glob(filepath.Join(dir, ".hanzo-part-*"))
		for _, p := range parts {
			if info, err := os.Stat(p); err == nil && info.Size() >= n {
				return true
			}
		}
	}
	t.Fatal("the copy does not get on")
	return false
}

// A copy that is cut at 20 random points, by the end of the client, of the node, of the daemon or of the link,
// goes on, and the checksums are equal each time.
func TestFilesGoOnAfterACut(t *testing.T) {
	const size = 64 << 20
	near, _ := filesOf(t, false)
	far, link := filesOf(t, true)
	cuts := []string{"client", "node", "daemon", "link"}
	missed, resumed := 0, 0
	for i := range 20 {
		cut, up := cuts[i%len(cuts)], (i/len(cuts))%2 == 0
		point := 1<<20 + rand.Int64N(size*3/4)
		t.Run(fmt.Sprintf("%s at %d MiB, up %v", cut, point>>20, up), func(t *testing.T) {
			h := near
			if cut == "link" {
				h = far
			}
			h.t = t
			name := fmt.Sprintf("f%d", i)
			from, to, dir := filepath.Join(h.here, name), "box:"+name, h.root
			target := filepath.Join(h.root, name)
			if !up {
				from, to, dir = "box:"+name, filepath.Join(h.here, name), h.here
				target = to
			}
			source := filepath.Join(h.here, name)
			if !up {
				source = filepath.Join(h.root, name)
			}
			want := h.random(source, size)
			c := h.cp(from, to)
			if !arrived(t, dir, point, c) {
				missed++
			} else {
				switch cut {
				case "client":
					c.End(syscall.SIGKILL)
				case "node":
					h.node.End(syscall.SIGKILL)
				case "daemon":
					h.Kill()
				case "link":
					link.Cut()
				}
				if _, err := os.Stat(target); err == nil && !c.Ended() {
					missed++ // it was done in the moment
				}
			}
			switch cut {
			case "client":
				h.connected()
				c = h.cp(from, to)
			case "node":
				if h.node.Ended() {
					h.offer()
				}
			case "daemon":
				if h.Ended() {
					h.Start()
				}
			}
			c.Wait(t, filePatience)
			if c.Code != 0 {
				t.Fatalf("exit code %d: %s", c.Code, c.Stderr)
			}
			if got := sumFile(t, target); got != want {
				t.Fatal("another file has arrived")
			}
			var out struct{ ResumedBytes int64 }
			if err := json.Unmarshal([]byte(c.Stdout.String()), &out); err != nil {
				t.Fatal(err)
			}
			if out.ResumedBytes > 0 {
				resumed++
			}
			h.connected()
			if parts, _ := filepath.Glob(filepath.Join(dir, ".hanzo-part-*")); len(parts) > 0 {
				t.Errorf("left behind: %v", parts)
			}
			_ = os.Remove(source) // room
			_ = os.Remove(target)
		})
	}
	t.Logf("%d copies went on where they were cut, %d were done before the cut", resumed, missed)
	if resumed < 10 {
		t.Errorf("only %d of 20 copies went on", resumed)
	}
}

// A copy of 1 GiB reaches 60 % of what scp does in the same run, in both directions.
func TestFilesAgainstScp(t *testing.T) {
	h, _ := filesOf(t, false)
	scp, err := exec.LookPath("scp")
	if err != nil {
		t.Skip("not possible here: there is no scp")
	}
	server := sshtest.Start(t, sshtest.Options{Lines: []string{"Subsystem sftp internal-sftp"}})
	const size = 1 << 30
	source := filepath.Join(h.here, "big")
	want := h.random(source, size)
	far := filepath.Join(h.root, "big")
	best := map[string]time.Duration{}
	took := func(what string, f func()) {
		begin := time.Now()
		f()
		if d := time.Since(begin); best[what] == 0 || d < best[what] {
			best[what] = d
		}
	}
	options := []string{"-q", "-i", server.Key, "-P", strconv.Itoa(server.Port), "-o", "UserKnownHostsFile=" + server.KnownHosts, "-o", "IdentitiesOnly=yes", "-F", "none"}
	remote := func(path string) string { return server.User + "@" + server.Host + ":" + path }
	secure := func(from, to string) {
		if out, err := exec.Command(scp, append(options, from, to)...).CombinedOutput(); err != nil {
			t.Fatalf("scp: %v\n%s", err, out)
		}
	}
	own := func(from, to string) {
		if c := h.Ctl("cp", from, to).Wait(t, filePatience); c.Code != 0 {
			t.Fatalf("exit code %d: %s", c.Code, c.Stderr)
		}
	}
	for range 3 {
		took("scp up", func() { secure(source, remote(far)) })
		_ = os.Remove(far)
		took("own up", func() { own(source, "box:big") })
		if sumFile(t, far) != want {
			t.Fatal("another file has arrived")
		}
		back := filepath.Join(h.here, "back")
		took("scp down", func() { secure(remote(far), back) })
		_ = os.Remove(back)
		took("own down", func() { own("box:big", back) })
		if sumFile(t, back) != want {
			t.Fatal("another file has arrived")
		}
		_ = os.Remove(back)
		_ = os.Remove(far)
	}
	for _, way := range []string{"up", "down"} {
		ratio := float64(best["scp "+way]) / float64(best["own "+way])
		t.Logf("%s: %.0f MB/s, scp %.0f MB/s: %.0f %%", way, size/1e6/best["own "+way].Seconds(), size/1e6/best["scp "+way].Seconds(), 100*ratio)
		if ratio < 0.6 {
			t.Errorf("%s: %.0f %% of scp", way, 100*ratio)
		}
	}
}
