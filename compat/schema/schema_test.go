package schema

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/wire"
)

// recording is the part of a fixture that these tests read.
type recording struct {
	Name  string `json:"name"`
	Steps []struct {
		Send  string          `json:"send"`
		Recv  string          `json:"recv"`
		Frame json.RawMessage `json:"frame"`
	} `json:"steps"`
}

func recordings(t testing.TB) []recording {
	t.Helper()
	var out []recording
	err := filepath.WalkDir(filepath.Join("..", "..", "fixtures", "gateway"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var r recording
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// handlerText are recorded "invalid … params" texts that depend on the daemon's state, not on the parameters.
func handlerText(msg string) bool {
	return strings.Contains(msg, "unknown agent id") || strings.Contains(msg, "does not match session key agent")
}

// TestRecordings sends every recorded request through ParseRequest and Check and compares with the recorded answer.
func TestRecordings(t *testing.T) {
	refused, clean := 0, 0
	for _, r := range recordings(t) {
		type key struct{ conn, id string }
		sent := map[key][]byte{}
		for _, s := range r.Steps {
			if s.Send != "" {
				if v, err := wire.Parse(s.Frame); err == nil {
					id, _ := v.Get("id")
					sent[key{s.Send, id.Raw()}] = s.Frame
					if !id.Exists() {
						sent[key{s.Send, `"invalid"`}] = s.Frame
					}
				}
				continue
			}
			if s.Recv == "" {
				continue
			}
			v, err := wire.Parse(s.Frame)
			if err != nil {
				t.Fatal(err)
			}
			id, _ := v.Get("id")
			frame := sent[key{s.Recv, id.Raw()}]
			if kind, _ := v.Get("type"); kind.Str() != "res" || frame == nil {
				continue
			}
			ok, _ := v.Get("ok")
			fault, _ := v.Get("error")
			text, _ := fault.Get("message")
			msg := text.Str()

			req, bad := ParseRequest(frame)
			if bad != nil {
				refused++
				if bad.Text != msg || string(bad.ID) != id.Raw() {
					t.Errorf("%s: %s\n got %s %s\nwant %s %s", r.Name, frame, bad.ID, bad.Text, id.Raw(), msg)
				}
				continue
			}
			params := req.ParamsOrEmpty()
			if req.Method == "connect" {
				if strings.Contains(string(frame), `"$sign"`) {
					continue // the device block is built by the player
				}
				params = req.Params
			}
			got := Check(req.Method, params)
			switch {
			case strings.HasPrefix(msg, "invalid ") && strings.Contains(msg, " params: ") && !handlerText(msg):
				refused++
				if got != msg {
					t.Errorf("%s: %s\n got %q\nwant %q", r.Name, frame, got, msg)
				}
			case ok.Bool() || handlerText(msg):
				clean++
				if got != "" && !strings.Contains(string(frame), `"$`) {
					t.Errorf("%s: %s was accepted, got %q", r.Name, frame, got)
				}
			}
		}
	}
	if refused < 100 || clean < 200 {
		t.Errorf("only %d refused and %d accepted requests in the recordings", refused, clean)
	}
	t.Logf("%d refused, %d accepted", refused, clean)
}

func TestHelloLists(t *testing.T) {
	for _, r := range recordings(t) {
		if r.Name != "handshake/hello-features" {
			continue
		}
		for _, s := range r.Steps {
			var f struct {
				Payload struct {
					Features struct{ Methods, Events []string }
				}
			}
			if s.Recv == "" || json.Unmarshal(s.Frame, &f) != nil || f.Payload.Features.Methods == nil {
				continue
			}
			if got := HelloMethods(); !slices.Equal(got, f.Payload.Features.Methods) {
				t.Errorf("methods differ: %q", got)
			}
			if got := HelloEvents(); !slices.Equal(got, f.Payload.Features.Events) {
				t.Errorf("events differ: %q", got)
			}
			return
		}
	}
	t.Fatal("recording of hello-features not found")
}

// TestValidator compares with what a JSON Schema validator in JavaScript says about generated parameters of every
// method, worded by protocol.md §2.3: testdata/validator.json holds method, parameters and text.
func TestValidator(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "validator.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases [][3]string
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	refused, wrong := 0, 0
	for _, c := range cases {
		v, err := wire.Parse([]byte(c[1]))
		if err != nil {
			t.Fatal(err)
		}
		if c[2] != "" {
			refused++
		}
		if got := Validate(c[0], v); got != c[2] {
			if wrong++; wrong <= 10 {
				t.Errorf("%s %s\n got %s\nwant %s", c[0], c[1], got, c[2])
			}
		}
	}
	t.Logf("%d cases, %d refused, %d wrong", len(cases), refused, wrong)
	if refused < len(cases)/5 {
		t.Error("too few refusals")
	}
}
