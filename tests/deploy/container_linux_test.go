package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

func TestMain(m *testing.M) { proc.Main(m) }

const (
	// nobody is the user that the images name: one without a name, a home and rights.
	nobody = 65532
	token  = "a-token-for-the-test-of-containers"
	// orphanTime bounds how long a dead process may lie about: it is seen twice, two seconds apart.
	orphanTime = 8 * time.Second
)

// container is what an engine would start from an image of the Containerfile: the first process of a process
// namespace, in a root of its own that nobody may write, with an environment of its own.
type container struct {
	*proc.Command
	t   *testing.T
	env []string
	pid int // of the first process, outside
}

// enter prepares the root and becomes the program. The root of an image that begins from nothing is a directory;
// that of one that begins from Debian lies over the files of this machine.
const enter = `
if [ -n "$BASE" ]; then
  mount -t tmpfs tmpfs "$DIR/layer"
  mkdir "$DIR/layer/upper" "$DIR/layer/work"
  cp -a "$DIR/files/." "$DIR/layer/upper/"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/layer/upper,workdir=$DIR/layer/work" "$DIR/root"
  mount -t tmpfs tmpfs "$DIR/root/tmp"
  mkdir -p "$DIR/root/run/secrets/hanzod" "$DIR/root/var/lib/hanzod"
else
  mount --bind "$DIR/files" "$DIR/root"
fi
mount -t proc proc "$DIR/root/proc"
mount --rbind /dev "$DIR/root/dev"
mount --bind "$DIR/secrets" "$DIR/root/run/secrets/hanzod"
mount --bind "$DIR/volume" "$DIR/root/var/lib/hanzod"
mount -o remount,bind,ro "$DIR/root" 2>/dev/null || mount -o remount,ro "$DIR/root"
exec env -i $VARS "$(command -v chroot)" --userspec=65532:65532 --groups=65532 "$DIR/root" "$@"
`

// image makes the files of a stage as the Containerfile says.
func image(t *testing.T, s stage) string {
	t.Helper()
	dir := proc.Dir(t)
	chmod(t, dir, 0o755)
	files := filepath.Join(dir, "files")
	for _, d := range []string{files, "layer", "root", "secrets", "volume", "files/proc", "files/dev", "files/run/secrets/hanzod", "files/var/lib/hanzod"} {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What the first stage leaves behind.
	built := map[string]string{
		"/out/hanzod": proc.Build(t, "hanzod", proc.Shipped), "/out/hanzoctl": proc.Build(t, "hanzoctl", proc.Shipped),
		"/out/state": "", "/out/tmp": "", "/etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
	}
	for _, in := range s.list {
		if in.name != "COPY" {
			continue
		}
		to := in.words[len(in.words)-1]
		for _, from := range in.words[:len(in.words)-1] {
			path, ok := built[from]
			if !ok {
				t.Fatalf("COPY takes %s, which the first stage does not make", from)
			}
			target := filepath.Join(files, to)
			if strings.HasSuffix(to, "/") {
				target = filepath.Join(target, filepath.Base(from))
			}
			if path == "" {
				if err := os.MkdirAll(target, 0o755); err != nil {
					t.Fatal(err)
				}
				if from == "/out/tmp" {
					chmod(t, target, fs.ModeSticky|0o777)
				}
				continue
			}
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && path == from {
				continue // this machine has no certificates; nothing here wants them
			}
			if err == nil {
				err = os.MkdirAll(filepath.Dir(target), 0o755)
			}
			if err == nil {
				err = os.WriteFile(target, text, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	// As Kubernetes has them: a volume belongs to root and is writable for the group, a secret readable for it.
	volume, secret := filepath.Join(dir, "volume"), filepath.Join(dir, "secrets", "token")
	if err := os.WriteFile(secret, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]fs.FileMode{volume: fs.ModeSetgid | 0o775, secret: 0o440} {
		if err := os.Chown(path, 0, nobody); err != nil {
			t.Fatal(err)
		}
		chmod(t, path, mode)
	}
	return dir
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// start starts a container of a stage in the directory that image made, with more variables.
func start(t *testing.T, s stage, dir string, more ...string) *container {
	t.Helper()
	var env []string
	for _, in := range s.list {
		if in.name == "ENV" {
			env = append(env, in.words...)
		}
	}
	env = append(env, more...)
	base := ""
	if s.base != "scratch" {
		base = s.base
		env = append(env, "PATH=/usr/bin:/bin")
	}
	args := []string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-eu", "-c", enter, "sh"}
	args = append(append(args, s.one(t, "ENTRYPOINT").words...), s.one(t, "CMD").words...)
	c := &container{t: t, env: env, Command: proc.Run(t, dir, "/usr/bin/unshare",
		[]string{"DIR=" + dir, "BASE=" + base, "VARS=" + strings.Join(env, " ")}, args...)}
	proc.Until(t, "the first process is there", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.PID(), c.PID()))
		if err == nil {
			c.pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		if c.pid == 0 {
			return c.Ended()
		}
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.pid))
		return strings.TrimSpace(string(name)) == "hanzod" || c.Ended()
	})
	if c.Ended() {
		t.Fatalf("it ended\n%s%s", c.Stdout, c.Stderr)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s%s", s.name, c.Stdout, c.Stderr)
		}
	})
	return c
}

// exec runs a program in the container, as an engine does for probes and people.
func (c *container) exec(args ...string) *proc.Command {
	c.t.Helper()
	enter := append([]string{"-i"}, c.env...)
	enter = append(enter, "/usr/bin/nsenter", "--target", strconv.Itoa(c.pid), "--mount", "--pid", "--root", "--wd",
		"--setuid", strconv.Itoa(nobody), "--setgid", strconv.Itoa(nobody))
	return proc.Run(c.t, "/", "/usr/bin/env", nil, append(enter, args...)...)
}

// must runs a program in the container, demands that it succeeds and returns what it prints.
func (c *container) must(args ...string) string {
	c.t.Helper()
	p := c.exec(args...).Wait(c.t, proc.Patience)
	if p.Code != 0 {
		c.t.Fatalf("%v: %d\n%s%s", args, p.Code, p.Stdout, p.Stderr)
	}
	return strings.TrimSpace(p.Stdout.String())
}

// stop ends the container as an engine does, by telling its first process.
func (c *container) stop() {
	c.t.Helper()
	began := time.Now()
	if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	c.Wait(c.t, proc.Patience)
	if c.Code != 0 || time.Since(began) > 5*time.Second {
		c.t.Errorf("it ended with %d after %v", c.Code, time.Since(began))
	}
}

// children are the processes below the first one, and in which state each is.
func (c *container) children() map[int]string {
	out := map[int]string{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		name, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		pid, _, _ := strings.Cut(name, " ")
		if n, err := strconv.Atoi(pid); err == nil && len(f) > 1 && f[1] == strconv.Itoa(c.pid) {
			out[n] = f[0]
		}
	}
	return out
}

// get asks the gateway over HTTP.
func get(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// outside is an address of this machine that is not its own alone, "" without one.
func outside() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return ""
}

// TestContainers starts a gateway and nodes as the Containerfile and the manifest say: from variables alone, as
// a user without a name, in roots that nobody may write, as the first process. A node lets an approved command
// run, and takes in what the command leaves behind.
func TestContainers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces and a root of its own need root")
	}
	for _, need := range []string{"/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/env", "/usr/bin/setsid"} {
		if _, err := os.Stat(need); err != nil {
			t.Skipf("%s is not here", need)
		}
	}
	t.Parallel()
	stages := containerfile(t)
	port, grpc := proc.FreePort(t), proc.FreePort(t)
	gatewayStage, nodeStage := find(t, stages, "gateway"), find(t, stages, "node")
	gw := start(t, gatewayStage, image(t, gatewayStage), "HANZOD_TOKEN_FILE=/run/secrets/hanzod/token",
		fmt.Sprint("HANZOD_PORT=", port), fmt.Sprint("HANZOD_GRPC_PORT=", grpc), "HANZOD_TOKN=swordfish", "HANZOD_SERVICE_HOST=10.0.0.1")
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	proc.Until(t, "the gateway is ready", func() bool {
		code, _ := get(t, "GET", base+"/readyz", "")
		return code == http.StatusOK || gw.Ended()
	})
	// Its log is for programs, and names the variable that is none, without its value.
	for line := range strings.Lines(gw.Stdout.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("the log holds %q", line)
		}
	}
	log := gw.Stdout.String() + gw.Stderr.String()
	if !strings.Contains(log, `"variable":"HANZOD_TOKN"`) || !strings.Contains(log, `"meant":"HANZOD_TOKEN"`) || strings.Contains(log, "SERVICE_HOST") ||
		strings.Contains(log, "swordfish") || strings.Contains(log, token) || gw.Stderr.String() != "" {
		t.Errorf("the log is %s\nand on stderr %s", gw.Stdout, gw.Stderr)
	}
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", gw.pid)); err != nil || !strings.Contains(string(status), "Uid:\t65532\t65532\t65532\t65532") || !strings.Contains(string(status), "NSpid:\t"+strconv.Itoa(gw.pid)+"\t1\n") {
		t.Errorf("%v, it runs as %s", err, status)
	}
	// The probes of Kubernetes come from elsewhere, with the address of the pod and nothing to prove.
	if ip := outside(); ip != "" {
		for _, path := range []string{"/healthz", "/readyz"} {
			resp, err := http.Get(fmt.Sprintf("http://%s%s", net.JoinHostPort(ip, strconv.Itoa(port)), path))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %v, %v", path, resp, err)
			}
			if err == nil {
				resp.Body.Close()
			}
		}
		http.DefaultClient.CloseIdleConnections()
	}
	gw.must(gatewayStage.one(t, "HEALTHCHECK").words...)
	if got := gw.must("/usr/bin/hanzoctl", "token", "-q"); got != token {
		t.Errorf("the token is %q", got)
	}
	pin := gw.must("/usr/bin/hanzod", "tls", "fingerprint")

	t.Run("cloud", func(t *testing.T) {
		t.Parallel()
		n := start(t, nodeStage, image(t, nodeStage), fmt.Sprint("HANZOD_GATEWAY=hanzod://127.0.0.1:", grpc), "HANZOD_TLS_FINGERPRINT="+pin,
			"HANZOD_TOKEN_FILE=/run/secrets/hanzod/token", "HANZOD_CLOUD_NODE=true", "HANZOD_NODE_ID=cloud-1", "HANZOD_NODE_NAME=cloud-1")
		gw.linked(t, "cloud-1")
		gw.orphans(t, n, "cloud-1", base)
		n.stop()
	})
	t.Run("enrolled", func(t *testing.T) {
		t.Parallel()
		code := gw.must("/usr/bin/hanzoctl", "devices", "invite", "--role", "node", "--address", fmt.Sprint("127.0.0.1:", grpc), "-q")
		dir := image(t, nodeStage)
		for i := range 2 {
			n := start(t, nodeStage, dir, "HANZOD_ENROLL="+code, "HANZOD_NODE_NAME=enrolled-1")
			gw.linked(t, "enrolled-1")
			if i == 1 {
				proc.Until(t, "the invite is left alone", func() bool { return strings.Contains(n.Stdout.String(), "is not used again") })
			}
			n.stop()
			if out := n.Stdout.String() + n.Stderr.String(); strings.Contains(out, code) || n.Stderr.String() != "" {
				t.Errorf("its log is %s", out)
			}
			gw.until(t, "enrolled-1", false)
		}
	})
	t.Cleanup(func() { gw.stop() })
}

// linked waits until a node is linked.
func (c *container) linked(t *testing.T, name string) {
	t.Helper()
	c.until(t, name, true)
}

func (c *container) until(t *testing.T, name string, want bool) {
	t.Helper()
	proc.UntilFor(t, 30*time.Second, fmt.Sprintf("%s is linked: %v", name, want), func() bool {
		var list struct {
			Nodes []struct {
				DisplayName string `json:"displayName"`
				Connected   bool   `json:"connected"`
			}
		}
		text := c.must("/usr/bin/hanzoctl", "nodes", "list", "-o", "json")
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return slices.ContainsFunc(list.Nodes, func(n struct {
			DisplayName string `json:"displayName"`
			Connected   bool   `json:"connected"`
		}) bool {
			return n.DisplayName == name && n.Connected
		}) == want
	})
}

// orphans runs an approved command that leaves others behind, and demands that none of them stays when dead.
func (c *container) orphans(t *testing.T, n *container, node, base string) {
	t.Helper()
	const script = `for i in 1 2 3; do setsid sleep 1 </dev/null >/dev/null 2>&1 & done; id -u; cat /proc/1/comm; touch /root/x 2>/dev/null || echo shut; env`
	run := c.exec("/usr/bin/hanzoctl", "nodes", "run", node, "--", "/bin/sh", "-c", script)
	var id string
	proc.Until(t, "the command asks", func() bool {
		_, text := get(t, "GET", base+"/v1/approvals", "")
		var list struct{ Approvals []struct{ ID string } }
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(list.Approvals) == 0 {
			return run.Ended()
		}
		id = list.Approvals[0].ID
		return true
	})
	if code, text := get(t, "POST", base+"/v1/approvals/"+id+":resolve", `{"decision":"DECISION_ALLOW_ONCE"}`); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	run.Wait(t, proc.Patience)
	out := run.Stdout.String()
	if run.Code != 0 || !strings.HasPrefix(out, "65532\nhanzod\nshut\n") || strings.Contains(out, token) {
		t.Fatalf("the command ended with %d and said\n%s%s", run.Code, out, run.Stderr)
	}
	seen := map[int]bool{}
	proc.UntilFor(t, orphanTime, "its orphans are there", func() bool {
		for pid := range n.children() {
			seen[pid] = true
		}
		return len(seen) >= 3
	})
	proc.UntilFor(t, orphanTime, "its orphans are taken in", func() bool { return len(n.children()) == 0 })
	if bytes.Contains([]byte(n.Stdout.String()), []byte(token)) {
		t.Error("the token is in the log")
	}
}
