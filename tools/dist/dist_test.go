package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// make builds for this machine alone, as one version, and returns the directory of the result.
func build(t *testing.T, version, variant string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	t.Setenv("VERSION", version)
	if err := run([]string{"-out", dir, "-only", "linux/amd64", "-variant", variant}, io.Discard); err != nil {
		t.Fatal(err)
	}
	return dir
}

// need skips a test whose program is missing.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not here", name)
		}
	}
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestVersions: a version is that of a tag, or comes before the next one.
func TestVersions(t *testing.T) {
	need(t, "git")
	for _, name := range []string{"VERSION", "REVISION", "SOURCE_DATE_EPOCH"} {
		t.Setenv(name, "")
	}
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		command(t, dir, "git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
	}
	version := func() string {
		t.Helper()
		s, err := readSource(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s.version
	}
	if _, err := readSource(dir); err == nil || !strings.Contains(err.Error(), "set VERSION") {
		t.Errorf("without a history: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "runtime"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "runtime", "version.go"), []byte(`var Version = "0.3.0"`), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_COMMITTER_DATE", "2026-01-02T03:04:05+0100")
	git("init", "-q")
	git("add", ".")
	git("commit", "-qm", "one")
	early := regexp.MustCompile(`^0\.3\.0-dev\.20260102020405\.g[0-9a-f]{12}$`)
	if v := version(); !early.MatchString(v) {
		t.Errorf("without a tag it is %s", v)
	}
	git("tag", "v1.2.3")
	if v := version(); v != "1.2.3" {
		t.Errorf("with a tag it is %s", v)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if v := version(); !strings.HasPrefix(v, "1.2.4-dev.") || !strings.HasSuffix(v, ".changed") {
		t.Errorf("with changes it is %s", v)
	}
	git("add", ".")
	git("commit", "-qm", "two")
	if v := version(); !strings.HasPrefix(v, "1.2.4-dev.20260102020405.g") {
		t.Errorf("after the tag it is %s", v)
	}
	git("tag", "v1.3.0-rc.1")
	git("commit", "-qm", "three", "--allow-empty")
	if v := version(); !strings.HasPrefix(v, "1.3.0-dev.") {
		t.Errorf("after the early tag it is %s", v)
	}
	t.Setenv("VERSION", "one")
	if _, err := readSource(dir); err == nil {
		t.Error("a version that is none is taken")
	}
}

// TestClear: what is no result of ours is not removed.
func TestClear(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := clear(dir); err == nil {
		t.Error("it was cleared")
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

// TestSameBytes builds one commit twice: from two directories, with time zones, umasks and host names of their
// own, at different times. The second time it compiles everything anew, which takes minutes. DIST_ONLY and
// DIST_VARIANT are what -only and -variant are.
func TestSameBytes(t *testing.T) {
	need(t, "git", "unshare", "sh")
	if os.Getenv("DIST_SAME") == "" {
		t.Skip("it takes minutes; DIST_SAME=1 runs it")
	}
	only := os.Getenv("DIST_ONLY")
	if only == "" {
		only = "linux/amd64"
	}
	var results [2]string
	for i := range results {
		dir := t.TempDir()
		root := filepath.Join(dir, strings.Repeat("deep/", i*3), "src")
		command(t, ".", "git", "clone", "-q", "--no-hardlinks", "../..", root)
		results[i] = filepath.Join(dir, "out")
		script := fmt.Sprintf("umask %s; hostname builder%d 2>/dev/null || true; exec go run . -out '%s' -only '%s' -variant '%s'",
			[]string{"022", "077"}[i], i, results[i], only, os.Getenv("DIST_VARIANT"))
		cmd := exec.CommandContext(t.Context(), "unshare", "--uts", "--map-root-user", "sh", "-c", script)
		cmd.Dir = filepath.Join(root, "tools", "dist")
		cmd.Env = append(os.Environ(), "VERSION=", "REVISION=", "SOURCE_DATE_EPOCH=", "TZ="+[]string{"Asia/Tokyo", "America/New_York"}[i],
			"LANG="+[]string{"C", "de_DE.UTF-8"}[i], "USER=builder"+fmt.Sprint(i), "TMPDIR="+dir)
		if i > 0 {
			cmd.Env = append(cmd.Env, "GOCACHE="+filepath.Join(dir, "cache"))
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		time.Sleep(1100 * time.Millisecond) // another second for whatever would write the time down
	}
	first, second := read(t, results[0]), read(t, results[1])
	if len(first) < 5 || len(first) != len(second) {
		t.Fatalf("%d and %d files", len(first), len(second))
	}
	for name, text := range first {
		if !bytes.Equal(text, second[name]) {
			t.Errorf("%s is another one the second time", name)
		}
	}
}

func read(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out[path[len(dir):]], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// systemctl stands in for the one of systemd in the root where packages are tried: it writes down what it
// is asked, and knows four services, of which two run the program of the package.
const systemctl = `#!/bin/sh
echo "systemctl $*" >> /systemctl.log
case "$*" in
list-units*) printf '%s\n' 'hanzod.service loaded active running x' 'hanzod@alice.service loaded active running x' 'hanzod@bob.service loaded active running x' ;;
*ExecStart*hanzod.service) echo 'ExecStart={ path=/usr/local/bin/hanzod ; argv[]=/usr/local/bin/hanzod run }' ;;
*ExecStart*) echo 'ExecStart={ path=/usr/bin/hanzod ; argv[]=/usr/bin/hanzod run --node }' ;;
try-restart*bob*) exit 1 ;;
esac
`

// TestDeb installs, upgrades and removes the package by dpkg itself, over this machine's files and away from
// them: in a root that lies over them.
func TestDeb(t *testing.T) {
	need(t, "dpkg", "unshare", "chroot", "mount")
	if os.Geteuid() != 0 {
		t.Skip("a root of its own needs root")
	}
	dir := t.TempDir()
	for i, v := range []string{"1.0.0", "1.1.0-rc.1"} {
		packages, err := filepath.Glob(filepath.Join(build(t, v, "hanzod"), "*.deb"))
		if err != nil || len(packages) != 1 {
			t.Fatalf("%v, %v", packages, err)
		}
		if err := os.Rename(packages[0], filepath.Join(dir, fmt.Sprintf("%d.deb", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	const prepare = `
mkdir -p "$DIR/over"
mount -t tmpfs tmpfs "$DIR/over"
mkdir "$DIR/over/upper" "$DIR/over/work" "$DIR/over/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/over/upper,workdir=$DIR/over/work" "$DIR/over/root"
cd "$DIR/over/root"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p mnt && mount --bind "$DIR" mnt
exec chroot . sh -eu -c "$INSIDE"
`
	const inside = `
export DEBIAN_FRONTEND=noninteractive
cp /mnt/systemctl /usr/bin/systemctl
rm -f /usr/sbin/policy-rc.d
mkdir -p /home/alice/.hanzo/hanzod && echo state > /home/alice/.hanzo/hanzod/hanzod.db
ask() { echo "== $1"; shift; "$@"; }
ask install dpkg -i /mnt/0.deb
ask version hanzod version
ask ctl hanzoctl version
ask quiet cat /systemctl.log || true
ask man man --path --where 1 hanzod-service-install
ask page man --warnings 7 hanzod-environment
# Growing pauses came with systemd 254; older ones say so and keep the first.
if command -v systemd-analyze >/dev/null; then
  ask verify sh -c 'XDG_RUNTIME_DIR=/tmp systemd-analyze verify --man=no --generators=no --user /usr/lib/systemd/user/hanzod.service 2>&1 | grep hanzod | grep -v -e RestartSteps -e RestartMaxDelaySec || true'
  ask verify sh -c 'systemd-analyze verify --man=no --generators=no hanzod@root.service 2>&1 | grep hanzod | grep -v -e RestartSteps -e RestartMaxDelaySec || true'
fi
if [ -f /usr/share/bash-completion/bash_completion ]; then ask complete bash --norc -c '. /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/hanzoctl; COMP_WORDS=(hanzoctl nodes de); COMP_CWORD=2 COMP_LINE="hanzoctl nodes de" COMP_POINT=17; __start_hanzoctl 2>/dev/null || true; echo "reply ${COMPREPLY[*]}"'; fi
if command -v fish >/dev/null; then ask fish fish --no-config -c 'source /usr/share/fish/vendor_completions.d/hanzoctl.fish; complete -C "hanzoctl nodes de"'; fi
mkdir -p /run/systemd/system
ask upgrade dpkg -i /mnt/1.deb
ask version hanzod version
ask log cat /systemctl.log
rm /systemctl.log
ask audit dpkg --verify hanzod
ask conffiles dpkg-query -W -f '${Conffiles}' hanzod
ask remove dpkg -r hanzod
ask log cat /systemctl.log
ask left sh -c 'ls -d /usr/bin/hanzod /usr/lib/systemd/user/hanzod.service /usr/share/doc/hanzod /usr/share/man/man1/hanzod.1.gz 2>/dev/null || true'
ask install dpkg -i /mnt/1.deb
ask purge dpkg -P hanzod
ask state cat /home/alice/.hanzo/hanzod/hanzod.db
ask end true
`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", prepare)
	cmd.Env = append(os.Environ(), "DIR="+dir, "INSIDE="+inside, "LC_ALL=C.UTF-8", "MANPAGER=cat")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("%v\n%s", time.Since(began), out)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string][]string{}
	for _, part := range strings.Split("\n"+string(out), "\n== ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		said[name] = append(said[name], text)
	}
	for _, x := range []struct {
		step string
		nth  int
		want []string
		not  []string
	}{
		{"install", 0, []string{"nothing runs yet", "hanzod service install --node", "hanzod@ACCOUNT"}, nil},
		{"version", 0, []string{"hanzod 1.0.0"}, nil},
		{"ctl", 0, []string{"hanzoctl 1.0.0 go"}, nil},
		{"quiet", 0, nil, []string{"systemctl "}}, // without systemd nobody is asked
		{"man", 0, []string{"hanzod-service-install.1"}, nil},
		{"page", 0, []string{"HANZOD_TOKEN"}, []string{"warning"}},
		{"verify", 0, nil, []string{"hanzod"}},
		{"verify", 1, nil, []string{"hanzod"}},
		{"complete", 0, []string{"describe"}, nil},
		{"fish", 0, []string{"describe"}, nil},
		{"upgrade", 0, []string{"hanzod@bob.service did not come back", "hanzod service restart"}, []string{"nothing runs yet"}},
		{"version", 1, []string{"hanzod 1.1.0-rc.1"}, nil},
		{"log", 0, []string{"systemctl daemon-reload", "try-restart hanzod@alice.service", "try-restart hanzod@bob.service"},
			[]string{"try-restart hanzod.service", " start ", " enable ", " stop ", "disable"}},
		{"audit", 0, nil, []string{"usr"}},
		{"conffiles", 0, nil, []string{"/"}},
		{"log", 1, []string{"disable --now hanzod@alice.service", "disable --now hanzod@bob.service", "daemon-reload"}, []string{"disable --now hanzod.service", "start "}},
		{"left", 0, nil, []string{"/usr"}},
		{"purge", 0, []string{"stays in ~/.hanzo"}, nil},
		{"state", 0, []string{"state"}, nil},
	} {
		if x.nth >= len(said[x.step]) {
			if x.step != "verify" && x.step != "fish" && x.step != "complete" { // who would be asked is not here
				t.Errorf("there was no step %s", x.step)
			}
			continue
		}
		got := said[x.step][x.nth]
		for _, w := range x.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s says\n%s\nwant %q", x.step, got, w)
			}
		}
		for _, n := range x.not {
			if strings.Contains(got, n) {
				t.Errorf("%s says\n%s\nand should not say %q", x.step, got, n)
			}
		}
	}
	if len(said["end"]) != 1 {
		t.Error("it did not come to its end")
	}
}

// TestRPM: rpm reads the package, and what it says of itself is right.
func TestRPM(t *testing.T) {
	need(t, "rpm")
	packages, err := filepath.Glob(filepath.Join(build(t, "1.1.0-rc.1", "hanzod"), "*.rpm"))
	if err != nil || len(packages) != 1 || filepath.Base(packages[0]) != "hanzod-1.1.0~rc.1-1.x86_64.rpm" {
		t.Fatalf("%v, %v", packages, err)
	}
	about := command(t, ".", "rpm", "-qip", packages[0])
	for _, want := range []string{"hanzod", "1.1.0~rc.1", "x86_64", "MIT", "localhost", "Runtime of a personal AI assistant"} {
		if !strings.Contains(about, want) {
			t.Errorf("it says\n%s\nwithout %q", about, want)
		}
	}
	list := command(t, ".", "rpm", "-qlp", packages[0])
	for _, want := range []string{"/usr/bin/hanzod\n", "/usr/bin/hanzoctl\n", "/usr/lib/systemd/system/hanzod@.service\n", "/usr/lib/systemd/user/hanzod.service\n",
		"/usr/share/man/man1/hanzoctl-approve.1.gz\n", "/usr/share/zsh/site-functions/_hanzod\n", "/usr/share/licenses/hanzod/LICENSE\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("it has no %q", want)
		}
	}
	if out := command(t, ".", "rpm", "-qp", "--scripts", packages[0]); strings.Count(out, "scriptlet (using /bin/sh)") != 3 {
		t.Errorf("its scripts are\n%s", out)
	}
	if out := command(t, ".", "rpm", "-qcp", packages[0]); strings.TrimSpace(out) != "" {
		t.Errorf("it has configuration files:\n%s", out)
	}
	if out := command(t, ".", "rpm", "-K", packages[0]); !strings.Contains(out, "digests OK") {
		t.Error(out)
	}
	// Into a root of its own, without its scripts, which want a shell there.
	root := t.TempDir()
	command(t, ".", "rpm", "--root", root, "--nodeps", "--noscripts", "--ignorearch", "-i", packages[0])
	if out := command(t, ".", filepath.Join(root, "usr", "bin", "hanzod"), "version"); out != "hanzod 1.1.0-rc.1\n" {
		t.Errorf("hanzod says %q", out)
	}
	if out := command(t, ".", "rpm", "--root", root, "-V", "--nodeps", "hanzod"); strings.TrimSpace(out) != "" {
		t.Errorf("rpm finds\n%s", out)
	}
}

// known are the complaints of lintian that are meant: the programs are static, the scripts ask systemctl by
// themselves since they serve RPM too, a text in hanzod names a program that it does not call, and the address
// of the maintainer is for who hands them out to say.
var known = regexp.MustCompile(`: (statically-linked-binary|maintainer-script-calls-systemctl|missing-depends-on-sensible-utils|initial-upload-closes-no-bugs|no-changelog|bogus-mail-host|mail-address-loops-or-bogus) |running with root privileges`)

// TestLintian: Debian's checker finds nothing but what is meant.
func TestLintian(t *testing.T) {
	need(t, "lintian")
	packages, err := filepath.Glob(filepath.Join(build(t, "1.0.0", "hanzod"), "*.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("%v, %v", packages, err)
	}
	out, _ := exec.CommandContext(t.Context(), "lintian", "--fail-on=none", packages[0]).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !known.MatchString(line) {
			t.Error(strings.TrimSpace(line))
		}
	}
}
