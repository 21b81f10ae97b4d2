//go:build unix

package interop

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// photoBytes is the size of a picture that a phone sends.
const photoBytes = 4 << 20

// TestCLIPhone drives what a phone offers with the client's commands for it: pictures, the canvas, the
// place. The phone is a node of ours that answers as the apps do (nodes-approvals.md §5), and hanzod
// hands everything through, whatever its size.
func TestCLIPhone(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested, Config: map[string]any{"gateway": map[string]any{
		"auth":  map[string]any{"mode": "token", "token": token},
		"nodes": map[string]any{"allowCommands": []string{"camera.snap"}},
	}}})
	photo := make([]byte, photoBytes)
	_, _ = rand.Read(photo)
	image := func(format string) map[string]any {
		return map[string]any{"format": format, "base64": base64.StdEncoding.EncodeToString(photo), "width": 1, "height": 1}
	}
	var mu sync.Mutex
	asked := map[string]string{} // the last parameters of each command
	answers := map[string]any{
		"camera.list":     map[string]any{"devices": []any{map[string]any{"id": "cam-1", "name": "Back Camera", "position": "back"}}},
		"camera.snap":     image("jpg"),
		"canvas.snapshot": image("png"),
		"canvas.eval":     map[string]any{"result": "the title — ünïcode"},
		"canvas.present":  map[string]any{}, "canvas.navigate": map[string]any{}, "canvas.hide": map[string]any{},
		"canvas.a2ui.reset": map[string]any{}, "canvas.a2ui.pushJSONL": map[string]any{},
		"location.get": map[string]any{
			"lat": 47.1, "lon": 8.2, "accuracyMeters": 12.5, "timestamp": "2026-11-22T00:00:00Z", "isPrecise": true, "source": "gps",
		},
		"system.notify": map[string]any{},
	}
	o := dial.Options{
		URL: d.WS(), Client: dial.Client{ID: "openclaw-ios", Mode: "node", Platform: "iOS 26.1", DeviceFamily: "iPhone", DisplayName: "phone"},
		Role: identity.RoleNode, Caps: []string{"canvas", "camera", "location"}, Auth: dial.Auth{Token: token}, Device: proc.Device(t),
		OnEvent: func(c *dial.Conn, e dial.Event) {
			var i proc.Invocation
			if e.Name != "node.invoke.request" || json.Unmarshal(e.Payload, &i) != nil {
				return
			}
			mu.Lock()
			asked[i.Command] = i.ParamsJSON
			mu.Unlock()
			proc.Answer(c, i, answers[i.Command])
		},
	}
	for c := range answers {
		o.Commands = append(o.Commands, c)
	}
	proc.Connect(t, o)
	u := userOf(t, d.Port, token, nil)

	media := regexp.MustCompile(`MEDIA:(\S+)`)
	// picture demands that what a call saved is what the phone took.
	picture := func(t *testing.T, a answer) {
		t.Helper()
		m := media.FindStringSubmatch(a.stdout)
		if m == nil {
			t.Fatalf("it names no file\n%s", a)
		}
		path := strings.Replace(m[1], "~", u.home, 1)
		saved, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path)
		if string(saved) != string(photo) {
			t.Errorf("the picture of %d bytes was saved as other %d bytes", len(photo), len(saved))
		}
	}
	for _, tc := range []struct {
		name    string
		args    []string
		texts   []string
		command string // what the phone is asked
		param   string // a text of its parameters
		check   func(*testing.T, answer)
	}{
		{"camera list", []string{"nodes", "camera", "list", "--node", "phone"}, []string{"Back Camera"}, "camera.list", "", nil},
		{"camera snap", []string{"nodes", "camera", "snap", "--node", "phone", "--facing", "back", "--max-width", "800"}, nil, "camera.snap", `"maxWidth":800`, picture},
		{"canvas snapshot", []string{"nodes", "canvas", "snapshot", "--node", "phone", "--format", "png"}, nil, "canvas.snapshot", `"png"`, picture},
		{"canvas eval", []string{"nodes", "canvas", "eval", "--node", "phone", "--js", "document.title < 1 && '\u2028'"}, []string{"the title — ünïcode"}, "canvas.eval", "document.title < 1 && '", nil},
		{"canvas present", []string{"nodes", "canvas", "present", "--node", "phone", "--target", "/", "--x", "10", "--y", "20"}, nil, "canvas.present", `"x":10`, nil},
		{"canvas navigate", []string{"nodes", "canvas", "navigate", "--node", "phone", "https://example.com/"}, nil, "canvas.navigate", "https://example.com/", nil},
		{"canvas a2ui", []string{"nodes", "canvas", "a2ui", "push", "--node", "phone", "--text", "hello there"}, nil, "canvas.a2ui.pushJSONL", "hello there", nil},
		{"canvas hide", []string{"nodes", "canvas", "hide", "--node", "phone"}, nil, "canvas.hide", "", nil},
		{"location", []string{"nodes", "location", "get", "--node", "phone", "--accuracy", "precise"}, []string{"47.1"}, "location.get", "precise", nil},
		{"notify", []string{"nodes", "notify", "--node", "phone", "--title", "Hello", "--body", "there"}, nil, "system.notify", "Hello", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := u.ok(t, tc.texts, tc.args...)
			mu.Lock()
			params, ok := asked[tc.command]
			mu.Unlock()
			if !ok || !strings.Contains(params, tc.param) {
				t.Errorf("the phone was asked %s %s, want %s in it\n%s", tc.command, params, tc.param, a)
			}
			if tc.check != nil {
				tc.check(t, a)
			}
		})
	}
	t.Run("not allowed", func(t *testing.T) {
		t.Parallel()
		u.refused(t, []string{`node command not allowed: "screen.record" is not in the allowlist`},
			"nodes", "screen", "record", "--node", "phone", "--duration", "1s")
	})
	t.Run("push", func(t *testing.T) {
		t.Parallel()
		u.refused(t, []string{"has no APNs registration (connect iOS node first)"}, "nodes", "push", "--node", "phone")
	})
}
