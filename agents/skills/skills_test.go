package skills

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

var admin = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}

type world struct {
	*Service
	home, state, file string
	live              *live.Service
	env               map[string]string
}

func newWorld(t testing.TB, text string) *world {
	t.Helper()
	home := t.TempDir()
	w := &world{home: home, state: filepath.Join(home, "state"), env: map[string]string{}}
	w.file = filepath.Join(w.state, "config.json")
	if err := os.MkdirAll(w.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.file, []byte(strings.ReplaceAll(text, "$home", filepath.ToSlash(home))), 0o600); err != nil {
		t.Fatal(err)
	}
	load := config.Options{Path: w.file, StateDir: w.state, Env: func(k string) string {
		return map[string]string{"HOME": home, "HANZOD_TOKEN": "test-token-0123456789"}[k]
	}}
	cfg, err := config.Load(load)
	if err != nil {
		t.Fatal(err)
	}
	w.live = live.New(live.Config{
		Load: load, Initial: cfg, Bus: events.New(time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler), Version: "1",
		Record: func(context.Context, live.Change) error { return nil },
	})
	w.Service = New(Config{Current: w.live.Current, File: w.live, Env: func(k string) string { return w.env[k] }, Bundled: filepath.Join(home, "bundled")})
	return w
}

func (w *world) skill(t testing.TB, dir, front string) {
	t.Helper()
	dir = filepath.Join(w.home, dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("---\n"+front+"\n---\nBody.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) status(t testing.TB) map[string]Skill {
	t.Helper()
	out, err := w.Status(context.Background(), admin, StatusIn{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]Skill{}
	for _, s := range out.Skills {
		all[s.Name] = s
	}
	return all
}

// Of one name the nearest root wins.
func TestRoots(t *testing.T) {
	w := newWorld(t, `{agents: {defaults: {workspace: "$home/ws"}}, skills: {load: {extraDirs: ["~/extra"]}}}`)
	roots := []string{"extra", "bundled", "state/skills", ".agents/skills", "ws/.agents/skills", "ws/skills"}
	sources := []string{sourceExtra, sourceBundled, sourceManaged, sourcePersonal, sourceProject, sourceWorkspace}
	for i, r := range roots {
		w.skill(t, r+"/same", "name: same\ndescription: from "+r)
		w.skill(t, r+"/own"+fmt.Sprint(i), "description: only here")
		all := w.status(t)
		if s := all["same"]; s.Source != sources[i] || s.Description != "from "+r || s.Bundled != (s.Source == sourceBundled) ||
			s.FilePath != filepath.Join(w.home, r, "same", fileName) || s.BaseDir != filepath.Join(w.home, r, "same") {
			t.Errorf("%s: %+v", r, s)
		}
		if s := all["own"+fmt.Sprint(i)]; s.Source != sources[i] || !s.Eligible {
			t.Errorf("%s: %+v", r, s)
		}
	}
	if _, err := w.Status(context.Background(), admin, StatusIn{AgentID: "nobody"}); !errors.Is(err, ErrAgent) {
		t.Error(err)
	}
	if out, err := w.Status(context.Background(), admin, StatusIn{AgentID: "MAIN"}); err != nil || out.Workspace != filepath.Join(w.home, "ws") || out.ManagedDir != filepath.Join(w.state, "skills") {
		t.Errorf("%+v %v", out, err)
	}
}

func TestRequirements(t *testing.T) {
	w := newWorld(t, `{browser: {enabled: false}, env: {vars: {FROM_CONFIG: "x"}}, skills: {allowBundled: ["kept"], entries: {
		off: {enabled: false}, keyed: {apiKey: "k"}, "k-2": {env: {B: "1", EMPTY: ""}}}}}`)
	bin := filepath.Join(w.home, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"have", "have.exe"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+"relative")
	w.env["A"] = "1"
	for name, front := range map[string]string{
		"off":    "description: d",
		"bins":   "description: d\nmetadata: {openclaw: {requires: {bins: [have, lack, plain, ../have], anyBins: [lack, have]}}}",
		"any":    "description: d\nmetadata:\n  openclaw:\n    requires:\n      anyBins: [lack, gone]",
		"envs":   "description: d\nmetadata: '{\"openclaw\":{\"skillKey\":\"k-2\",\"requires\":{\"env\":[\"A\",\"B\",\"C\",\"EMPTY\",\"FROM_CONFIG\"]}}}'",
		"keyed":  "description: d\nmetadata: {openclaw: {primaryEnv: KEY, requires: {env: [KEY]}}}",
		"config": "description: d\nmetadata: {openclaw: {requires: {config: [browser.enabled, browser.evaluateEnabled, channels.x]}}}",
		"os":     "description: d\nmetadata: {openclaw: {os: [plan9]}}",
		"always": "description: d\nmetadata: {openclaw: {always: true, emoji: '☔', homepage: https://x, requires: {bins: [lack]}}}",
	} {
		w.skill(t, "state/skills/"+name, front)
	}
	w.skill(t, "bundled/blocked", "description: d")
	w.skill(t, "bundled/kept", "description: d")
	all := w.status(t)
	for name, want := range map[string]Needs{
		"off": {}, "bins": {Bins: []string{"lack", "plain", "../have"}}, "any": {AnyBins: []string{"lack", "gone"}}, "envs": {Env: []string{"C", "EMPTY"}},
		"keyed": {}, "config": {Config: []string{"browser.enabled", "channels.x"}}, "os": {OS: []string{"plan9"}}, "always": {}, "blocked": {}, "kept": {},
	} {
		s, ok := all[name]
		if !ok || !reflect.DeepEqual(s.Missing, want) {
			t.Errorf("%s: %+v, want %+v", name, s.Missing, want)
		}
		if ready := s.Eligible; ready != (want.none() && name != "off" && name != "blocked") {
			t.Errorf("%s: eligible %v", name, ready)
		}
	}
	if s := all["always"]; s.Emoji != "☔" || s.Homepage != "https://x" || !s.Always {
		t.Errorf("%+v", s)
	}
	if s := all["config"]; !slices.Equal(s.Checks, []Check{{"browser.enabled", false}, {"browser.evaluateEnabled", true}, {"channels.x", false}}) {
		t.Errorf("%+v", s.Checks)
	}
	if s := all["envs"]; s.Key != "k-2" {
		t.Errorf("%+v", s)
	}
	if !all["off"].Disabled || !all["blocked"].Blocked || all["kept"].Blocked {
		t.Error("switches")
	}
}

// Bins are those of all agents, named once.
func TestBins(t *testing.T) {
	w := newWorld(t, `{agents: {list: [{id: "main", workspace: "$home/a"}, {id: "b", workspace: "$home/b"}]}}`)
	w.skill(t, "a/skills/x", "description: d\nmetadata: {openclaw: {requires: {bins: [zz, rg], anyBins: [fd]}}}")
	w.skill(t, "b/skills/y", "description: d\nmetadata: {openclaw: {install: [{kind: brew, formula: j, bins: [jq, rg, ../evil]}]}}")
	w.skill(t, "state/skills/y", "description: d\nmetadata: {openclaw: {requires: {bins: [aa]}}}")
	if got, want := w.Bins(), []string{"aa", "fd", "jq", "rg", "zz"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t, `{skills: {limits: {maxCandidatesPerRoot: 5, maxSkillsLoadedPerSource: 3, maxSkillFileBytes: 200}}}`)
	for i := range 10 {
		w.skill(t, fmt.Sprintf("state/skills/s%d", i), "description: d")
		w.skill(t, fmt.Sprintf("bundled/b%d", i), "descr: none")
	}
	w.skill(t, "state/skills/a-big", "description: "+strings.Repeat("x", 300))
	all := w.status(t)
	if len(all) != 3 || all["s0"].Name == "" || all["s2"].Name == "" {
		t.Errorf("%v", all)
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t, `{skills: {install: {nodeManager: "pnpm"}}}`)
	t.Setenv("PATH", "")
	other := "win32"
	if platform() == other {
		other = "linux"
	}
	all := func(install string) []Option {
		w.skill(t, "state/skills/s", "name: s\ndescription: d\nmetadata: {openclaw: {install: "+install+"}}")
		return w.status(t)["s"].Install
	}
	for _, c := range []struct {
		install string
		want    []Option
	}{
		{`[{kind: brew, formula: f, bins: [b]}, {kind: node, package: p}, {kind: uv, package: u, id: x, label: L}]`, []Option{{"x", "uv", "L", nil}}},
		{`[{kind: go, module: m.io/x}, {kind: node, package: p, label: L}]`, []Option{{"node-1", "node", "Install p (pnpm)", nil}}},
		{`[{kind: go, module: m.io/x}]`, []Option{{"go-0", "go", "Install m.io/x (go)", nil}}},
		{`[{kind: download, url: "https://x/a.zip"}, {kind: download, url: "https://x/b.zip", os: [` + other + `]}, {kind: download, url: "https://x/c/"}]`,
			[]Option{{"download-0", "download", "Download a.zip", nil}, {"download-2", "download", "Download https://x/c/", nil}}},
		{`[{kind: magic}, {kind: 7}, nothing]`, nil},
		{`[{kind: brew, formula: f, os: [` + other + `]}]`, nil},
	} {
		if got := all(c.install); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.install, got, c.want)
		}
	}
}

// The entry is written beside what others wrote, and told without its secrets.
func TestUpdate(t *testing.T) {
	w := newWorld(t, "{\n  // keys\n  skills: {entries: {a: {apiKey: 'old', env: {X: 'x', Y: '${HOME}'}, config: {accessToken: 't', size: 3}}}},\n}\n")
	ctx := context.Background()
	on, key, none := true, " sk-1\n", ""
	out, err := w.Update(ctx, admin, UpdateIn{Key: "a", Enabled: &on, APIKey: &key, Env: map[string]string{"X": " ", "Z ": " z ", "": "q"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := json5.Stringify(out.Entry), "{\n  apiKey: '__OPENCLAW_REDACTED__',\n  env: {\n    Y: '${HOME}',\n    Z: '__OPENCLAW_REDACTED__',\n  },\n  config: {\n    accessToken: '__OPENCLAW_REDACTED__',\n    size: 3,\n  },\n  enabled: true,\n}"; got != want {
		t.Errorf("got %s", got)
	}
	text, _ := os.ReadFile(w.file)
	if s := string(text); !strings.Contains(s, "// keys") || !strings.Contains(s, "sk-1") || strings.Contains(s, "old") || !strings.Contains(s, "accessToken: 't'") {
		t.Errorf("the file is\n%s", s)
	}
	if out, err = w.Update(ctx, admin, UpdateIn{Key: "a", APIKey: &none}); err != nil || out.Entry.Get("apiKey") != nil {
		t.Errorf("%v %v", out, err)
	}
	if out, err = w.Update(ctx, admin, UpdateIn{Key: "new.one", Env: map[string]string{}}); err != nil || json5.Stringify(out.Entry) != "{\n  env: {},\n}" {
		t.Errorf("%v %v", json5.Stringify(out.Entry), err)
	}
	long := strings.Repeat("x", maxValue+1)
	for _, in := range []UpdateIn{{}, {Key: strings.Repeat("k", 300)}, {Key: "a", APIKey: &long}, {Key: "a", Env: map[string]string{"A": long}}} {
		if _, err := w.Update(ctx, admin, in); !errors.Is(err, ErrKey) && !errors.Is(err, ErrValue) {
			t.Errorf("%v", err)
		}
	}
}

// A front matter as many are written, and as nobody should.
func TestFrontMatter(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Meta
		ok         bool
	}{
		{"plain", "---\nname: a\ndescription: b\n---\nrest", Meta{Name: "a", Description: "b"}, true},
		{"windows", "\xef\xbb\xbf---\r\nname: a\r\ndescription: b\r\n---\r\n", Meta{Name: "a", Description: "b"}, true},
		{"colons", "---\nname: a\ndescription: Use when: always\nhomepage: \"https://x\"\n---\n", Meta{Name: "a", Description: "Use when: always", Homepage: "https://x"}, true},
		{"folded", "---\nname: a\ndescription: >\n  b\n  c\n---\n", Meta{Name: "a", Description: "b c"}, true},
		{"number", "---\nname: 7\ndescription: b\n---\n", Meta{Description: "b"}, true},
		{"none", "# Title", Meta{}, false},
		{"open", "---\nname: a\n", Meta{}, false},
		{"empty", "---\n---\n", Meta{}, true},
		{"bytes", "---\nname: \xff\n---\n", Meta{}, false},
		{"control", "---\nname: &a b\nx:@\x00\x00\x00---\n\n---\n", Meta{}, false},
		{"json lines", "---\nname: a\ndescription: x: y\nmetadata:\n  {\n    \"openclaw\": { \"skillKey\": \"k\" },\n  }\n---\n", Meta{Name: "a", Description: "x: y", SkillKey: "k"}, true},
	} {
		m, ok := ParseFrontMatter([]byte(c.text))
		if ok != c.ok || !reflect.DeepEqual(m, c.want) {
			t.Errorf("%s: %+v %v", c.name, m, ok)
		}
	}
	bomb := "---\nname: a\ndescription: b\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nmetadata: *c\n---\n"
	began := time.Now()
	if m, ok := ParseFrontMatter([]byte(bomb)); !ok || m.Name != "a" || time.Since(began) > time.Second {
		t.Errorf("%+v %v after %v", m, ok, time.Since(began))
	}
	for _, deep := range []string{strings.Repeat("[", 30_000), strings.Repeat("{a: ", 15_000), strings.Repeat("- ", 30_000), strings.Repeat("? ", 30_000)} {
		began := time.Now()
		ParseFrontMatter([]byte("---\nname: a\nx: " + deep + "\n---\n"))
		ParseFrontMatter([]byte("---\n" + deep + "\n---\n"))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%.10q took %v", deep, took)
		}
	}
}

func FuzzParseFrontMatter(f *testing.F) {
	for _, s := range []string{
		"---\nname: a\ndescription: b\nmetadata: {openclaw: {requires: {bins: [x]}, install: [{kind: brew, formula: f, stripComponents: 2}]}}\n---\n",
		"---\nname: &a b\nx: *a\n---\n", "---\nmetadata: '{\"openclaw\":{}}'\n---\n", "---\n? [a\n: b\n---\n", "---\na: !!binary x\n---\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		began := time.Now()
		m, ok := ParseFrontMatter(data)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if !ok && !reflect.DeepEqual(m, Meta{}) {
			t.Errorf("%+v", m)
		}
		if len(m.Install) > maxItems || len(m.Requires.Bins) > maxItems || len(m.Description) > maxShort {
			t.Error("beyond the bounds")
		}
		for _, i := range m.Install {
			if argv, problem := command(i, "npm"); problem == "" && (argv == nil || strings.HasPrefix(argv[len(argv)-1], "-")) {
				t.Errorf("%q", argv)
			}
		}
	})
}

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		spec Installer
		want string
	}{
		{Installer{Kind: kindBrew, Formula: "org/tap/f@2"}, "brew install org/tap/f@2"},
		{Installer{Kind: kindNode, Package: "@scope/p@1.2.3"}, "npm install -g --ignore-scripts @scope/p@1.2.3"},
		{Installer{Kind: kindGo, Module: "example.com/x/y@latest"}, "go install example.com/x/y@latest"},
		{Installer{Kind: kindUV, Package: "p[extra]==1.0"}, "uv tool install p[extra]==1.0"},
		{Installer{Kind: kindBrew}, "missing brew formula"},
		{Installer{Kind: kindBrew, Formula: "--force"}, "invalid brew formula: --force"},
		{Installer{Kind: kindBrew, Formula: "f; rm -rf /"}, "invalid brew formula: f; rm -rf /"},
		{Installer{Kind: kindNode, Package: "../x"}, "invalid node package: ../x"},
		{Installer{Kind: kindNode, Package: "https://evil/x.tgz"}, "invalid node package: https://evil/x.tgz"},
		{Installer{Kind: kindNode, Package: "git+ssh://x"}, "invalid node package: git+ssh://x"},
		{Installer{Kind: kindGo, Module: "./local"}, "invalid go module: ./local"},
		{Installer{Kind: kindUV, Package: "-r x"}, "invalid uv package: -r x"},
	} {
		argv, problem := command(c.spec, "npm")
		got := problem
		if got == "" {
			got = strings.Join(argv, " ")
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.spec, got, c.want)
		}
	}
}

// archive makes an archive of names and contents; a name with a slash at its end is a directory, one with
// "->" a link.
func archive(t *testing.T, kind string, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if kind == "zip" {
		z := zip.NewWriter(&b)
		for _, m := range members {
			name, link, isLink := strings.Cut(m, "->")
			h := &zip.FileHeader{Name: name, Method: zip.Deflate}
			h.SetMode(0o755)
			if isLink {
				h.SetMode(os.ModeSymlink | 0o777)
			} else if strings.HasSuffix(name, "/") {
				h.SetMode(os.ModeDir | 0o755)
			}
			f, err := z.CreateHeader(h)
			must(err)
			if !strings.HasSuffix(name, "/") {
				_, err = f.Write([]byte("of " + name + link))
				must(err)
			}
		}
		must(z.Close())
		return b.Bytes()
	}
	g := gzip.NewWriter(&b)
	w := tar.NewWriter(g)
	for _, m := range members {
		name, link, isLink := strings.Cut(m, "->")
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len("of " + name))}
		if isLink {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, link, 0
		} else if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		must(w.WriteHeader(h))
		if h.Size > 0 {
			_, err := w.Write([]byte("of " + name))
			must(err)
		}
	}
	must(w.Close())
	must(g.Close())
	return b.Bytes()
}

func TestDownload(t *testing.T) {
	files := map[string][]byte{
		"/a.tar.gz": archive(t, "tgz", "pkg/", "pkg/bin/tool", "pkg/README"), "/a.zip": archive(t, "zip", "bin/", "bin/tool"), "/plain": []byte("x"),
		"/up.tar.gz": archive(t, "tgz", "ok", "../../evil"), "/abs.tar.gz": archive(t, "tgz", "/evil"), "/link.tar.gz": archive(t, "tgz", "l->/etc", "l/x"),
		"/link.zip": archive(t, "zip", "l->/etc"), "/up.zip": archive(t, "zip", "../evil"), "/twice.tar.gz": archive(t, "tgz", "a", "a"),
		"/back.zip": archive(t, "zip", `..\evil`), "/broken.zip": []byte("PK"), "/file.tar.gz": archive(t, "tgz", "a", "a/b"),
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	defer srv.Close()
	w := newWorld(t, `{}`)
	w.cfg.Client = srv.Client()
	sum := sha256.Sum256(files["/plain"])
	install := func(spec string) InstallOut {
		t.Helper()
		w.skill(t, "state/skills/s", "name: s\ndescription: d\nmetadata: {openclaw: {install: [{kind: download, id: i, "+spec+"}]}}")
		out, err := w.Install(context.Background(), admin, InstallIn{Name: "s", InstallID: "i"})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tools := filepath.Join(w.state, "tools", "s")
	has := func(path, text string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(tools, path)); err != nil || string(b) != text {
			t.Errorf("%s: %q %v", path, b, err)
		}
	}
	for range 2 { // again over what is there
		if out := install(`url: "` + srv.URL + `/a.tar.gz", stripComponents: 1`); !out.OK || out.Message != "Downloaded to "+tools {
			t.Fatalf("%+v", out)
		}
	}
	has("bin/tool", "of pkg/bin/tool")
	if out := install(`url: "` + srv.URL + `/a.zip", targetDir: "z/y"`); !out.OK {
		t.Errorf("%+v", out)
	}
	has("z/y/bin/tool", "of bin/tool")
	if out := install(`url: "` + srv.URL + `/plain", sha256: ` + hex.EncodeToString(sum[:])); !out.OK {
		t.Errorf("%+v", out)
	}
	has("plain", "x")
	for spec, want := range map[string]string{
		`url: "` + srv.URL + `/plain", sha256: "00"`:     "its SHA-256 is another one",
		`url: "` + srv.URL + `/plain", targetDir: "../"`: "targetDir leads out",
		`url: "` + srv.URL + `/none"`:                    "404",
		`url: "http://example.com/x"`:                    "only https is taken",
		`url: "file:///etc/passwd"`:                      "invalid download url",
		`url: ""`:                                        "missing download url",
		`url: "` + srv.URL + `/up.tar.gz"`:               "leads out of it",
		`url: "` + srv.URL + `/abs.tar.gz"`:              "leads out of it",
		`url: "` + srv.URL + `/link.tar.gz"`:             "something that is no file",
		`url: "` + srv.URL + `/link.zip"`:                "something that is no file",
		`url: "` + srv.URL + `/up.zip"`:                  "leads out of it",
		`url: "` + srv.URL + `/back.zip"`:                "leads out of it",
		`url: "` + srv.URL + `/twice.tar.gz"`:            "cannot be unpacked",
		`url: "` + srv.URL + `/file.tar.gz"`:             "cannot be unpacked",
		`url: "` + srv.URL + `/broken.zip"`:              "cannot be unpacked",
	} {
		if out := install(spec); out.OK || !strings.Contains(out.Message, want) {
			t.Errorf("%s: %+v, want %q", spec, out, want)
		}
	}
	if _, err := os.Stat(filepath.Join(w.state, "evil")); err == nil {
		t.Error("an archive wrote beside its place")
	}
	left, _ := os.ReadDir(tools)
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".new-") {
			t.Errorf("%s is left", e.Name())
		}
	}
	// The usual client reaches no machine of the own network, by name or redirect.
	w.cfg.Client = publicClient()
	if out := install(`url: "` + srv.URL + `/plain"`); out.OK || !strings.Contains(out.Message, "not public") {
		t.Errorf("%+v", out)
	}
	for _, in := range []InstallIn{{Name: "nobody"}, {Name: "s", InstallID: "none"}} {
		if out, err := w.Install(context.Background(), admin, in); err != nil || out.OK || !strings.Contains(out.Message, "not found") {
			t.Errorf("%+v %v", out, err)
		}
	}
}
