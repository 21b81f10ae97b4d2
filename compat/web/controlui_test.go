package web_test

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// builtUI is a Control UI as it is built.
func builtUI(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"index.html": "<!doctype html><title>control</title>", "favicon.svg": "<svg/>", "assets/index-1.js": "let a", ".hidden": "no", "notes.html": "other",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "leak.txt")); err != nil {
		t.Log("no link to try:", err)
	}
	return dir
}

func withUI(t testing.TB, ui object) *hanzodtest.Daemon {
	t.Helper()
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) { cfg["gateway"] = object{"controlUi": ui} })
	return d
}

// The table is that of protocol.md §1.7 and control-ui.md §1.1.
func TestControlUI(t *testing.T) {
	t.Parallel()
	const html, js, svg, plain = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "image/svg+xml", "text/plain; charset=utf-8"
	type row struct {
		method, path string
		status       int
		kind, body   string
	}
	dir := builtUI(t)
	for base, rows := range map[string][]row{
		"": {
			{"GET", "/", 200, html, "control"}, {"HEAD", "/", 200, html, ""}, {"GET", "/overview", 200, html, "control"}, {"GET", "/nodes/x", 200, html, "control"},
			{"GET", "/assets/index-1.js", 200, js, "let a"}, {"GET", "/nodes/assets/index-1.js", 200, js, "let a"}, {"GET", "/favicon.svg", 200, svg, "<svg/>"},
			{"GET", "/assets/gone.js", 404, plain, "Not Found"}, {"GET", "/gone.png", 404, plain, "Not Found"}, {"GET", "/notes.html", 200, html, "other"},
			{"GET", "/gone.html", 200, html, "control"}, {"GET", "/.hidden", 404, plain, "Not Found"}, {"GET", "/leak.txt", 404, plain, "Not Found"},
			{"GET", "/..%2f..%2fetc/hostname", 404, plain, "Not Found"}, {"GET", "/a%5c..%5cb", 404, plain, "Not Found"},
			{"GET", "/ui", 404, plain, "Not Found"}, {"GET", "/ui/x", 404, plain, "Not Found"}, {"GET", "/api/nope", 404, plain, "Not Found"},
			{"GET", "/plugins/nope", 404, plain, "Not Found"}, {"POST", "/overview", 404, plain, "Not Found"},
			{"GET", "/avatar/nobody", 404, plain, "Not Found"}, {"GET", "/avatar/a%2fb", 404, plain, "Not Found"},
		},
		"/box": {
			{"GET", "/box/", 200, html, "control"}, {"GET", "/box/cron", 200, html, "control"}, {"GET", "/box/assets/index-1.js", 200, js, "let a"},
			{"GET", "/boxes", 404, plain, "Not Found"}, {"GET", "/", 404, plain, "Not Found"}, {"GET", "/box/ui", 200, html, "control"},
			{"POST", "/box/", 404, plain, "Not Found"},
		},
	} {
		d := withUI(t, object{"root": dir, "basePath": base})
		for _, r := range rows {
			a := raw(t, d.Addr(), r.method, r.path, "")
			if a.status != r.status || a.header.Get("Content-Type") != r.kind || !strings.Contains(a.body, r.body) {
				t.Errorf("%s %s below %q: %d %s %.60q, want %d %s %q", r.method, r.path, base, a.status, a.header.Get("Content-Type"), a.body, r.status, r.kind, r.body)
			}
			if r.status == 200 {
				for name, want := range map[string]string{
					"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
				} {
					if got := a.header.Get(name); got != want {
						t.Errorf("%s %s: %s is %q, want %q", r.method, r.path, name, got, want)
					}
				}
				if got := a.header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'self'; base-uri 'none'") {
					t.Errorf("%s: policy %q", r.path, got)
				}
			}
		}
		if base != "" {
			a := raw(t, d.Addr(), "GET", base+"?session=x", "")
			if a.status != http.StatusFound || a.header.Get("Location") != base+"/?session=x" {
				t.Errorf("%s without its slash: %d to %q", base, a.status, a.header.Get("Location"))
			}
		}
		got := raw(t, d.Addr(), "GET", base+"/__bot__/__bot/control-ui-config.json", "").json(t)
		if other := raw(t, d.Addr(), "GET", base+"/__openclaw/control-ui-config.json", "").json(t); !maps.Equal(got, other) {
			t.Errorf("the two bootstraps differ: %v and %v", got, other)
		}
		want := map[string]any{"basePath": base, "assistantName": "Assistant", "assistantAvatar": "A", "assistantAgentId": "main"}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("bootstrap below %q: %s is %v, want %v", base, k, got[k], v)
			}
		}
		if v, _ := got["serverVersion"].(string); v == "" || len(got) != 5 {
			t.Errorf("bootstrap %v", got)
		}
	}
}

func TestControlUIAbsent(t *testing.T) {
	t.Parallel()
	for name, ui := range map[string]object{"unset": {}, "gone": {"root": filepath.Join(t.TempDir(), "gone")}, "empty": {"root": t.TempDir()}} {
		d := withUI(t, ui)
		if a := raw(t, d.Addr(), "GET", "/", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "gateway.controlUi.root") {
			t.Errorf("%s: %d %q", name, a.status, a.body)
		}
	}
	if a := raw(t, withUI(t, object{"enabled": false, "root": builtUI(t)}).Addr(), "GET", "/", ""); a.status != http.StatusNotFound {
		t.Errorf("switched off: %d", a.status)
	}
}

func TestControlUIAvatar(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "me.svg"), []byte("<svg/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(work, "out.svg")); err != nil {
		t.Log("no link to try:", err)
	}
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["gateway"] = object{"controlUi": object{"root": builtUI(t)}}
		cfg["agents"] = object{"list": []object{
			{"id": "main", "default": true, "workspace": work, "identity": object{"avatar": "me.svg"}},
			{"id": "far", "identity": object{"avatar": "https://example.com/a.png"}},
			{"id": "out", "workspace": work, "identity": object{"avatar": "out.svg"}},
		}}
	})
	a := raw(t, d.Addr(), "GET", "/avatar/main", "")
	if a.status != 200 || a.body != "<svg/>" || a.header.Get("Content-Type") != "image/svg+xml" || !strings.Contains(a.header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("avatar: %d %q %v", a.status, a.body, a.header)
	}
	for id, want := range map[string]any{"main": "/avatar/main", "far": "https://example.com/a.png", "out": nil, "nobody": nil} {
		got, there := raw(t, d.Addr(), "GET", "/avatar/"+id+"?meta=1", "").json(t)["avatarUrl"]
		if got != want || !there {
			t.Errorf("avatar of %s: %v, want %v", id, got, want)
		}
	}
	if a := raw(t, d.Addr(), "GET", "/avatar/out", ""); a.status != http.StatusNotFound {
		t.Errorf("an avatar outside of the workspace: %d", a.status)
	}
}
