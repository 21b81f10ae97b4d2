package hanzotunnel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/wire"
)

// recordings are the recorded links: those of the repository, and those that LINK_FIXTURES names.
func recordings(t testing.TB) []string {
	t.Helper()
	out := []string{"../../fixtures/tunnel/agent-bridge.jsonl"}
	if more := os.Getenv("LINK_FIXTURES"); more != "" {
		out = append(out, filepath.SplitList(more)...)
	}
	return out
}

// recorded are the frames of a file.
func recorded(t testing.TB, file string) (out [][]byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, MaxFromInstance)
	for lines.Scan() {
		var line struct {
			Frame json.RawMessage `json:"frame"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(line.Frame) > 0 {
			out = append(out, line.Frame)
		}
	}
	return out
}

// What was recorded is written again as it was: every member, absent or null.
func TestRecordedFrames(t *testing.T) {
	for _, file := range recordings(t) {
		for _, frame := range recorded(t, file) {
			f, err := Parse(frame)
			if err != nil {
				t.Errorf("%s: %s: %v", file, frame, err)
				continue
			}
			want, err := wire.Parse(frame)
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.Parse(Append(nil, f))
			if err != nil {
				t.Fatal(err)
			}
			if g, w := wire.Stringify(got), wire.Stringify(want); !bytes.Equal(g, w) {
				t.Errorf("%s:\n got %s\nwant %s", file, g, w)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Frame{
		`{"type":"ping","more":[1]}`: Ping{},
		`{"type":"pong"}`:            Pong{},
		`{"type":"register"}`:        &Register{},
		`{"type":"register","instance_id":null,"capabilities":null,"cwd":null,"metadata":null}`: &Register{Cwd: wire.NullOf[string](), Metadata: wire.Raw("null")},
		`{"type":"registered","instance_id":"a"}`:                                               &Registered{InstanceID: "a"},
		`{"type":"registered","instance_id":"a","session_url":null}`:                            &Registered{InstanceID: "a", SessionURL: wire.NullOf[string]()},
		`{"type":"command","id":"1","method":"m"}`:                                              &Command{ID: "1", Method: "m"},
		`{"type":"command","id":"1","method":"m","params":null}`:                                &Command{ID: "1", Method: "m", Params: wire.Raw("null")},
		`{"type":"response","id":"1","ok":false}`:                                               &Response{ID: "1"},
		`{"type":"response","id":"1","ok":true,"data":0,"error":null}`:                          &Response{ID: "1", OK: true, Data: wire.Raw("0"), Error: wire.NullOf[string]()},
		`{"type":"event","event":"x"}`:                                                          &Event{Event: "x"},
		`{"type":"tunnel_open","payload":{"session_id":"s","tech_id":"t","more":1}}`:            &TunnelOpen{SessionID: "s", TechID: "t"},
		`{"payload":{"session_id":"s"},"type":"tunnel_open"}`:                                   &TunnelOpen{SessionID: "s"},
		`{"type":"tunnel_close","payload":{"session_id":"s"}}`:                                  &TunnelClose{SessionID: "s"},
		`{"type":"tunnel_ready","payload":{"session_id":"s"}}`:                                  &TunnelReady{SessionID: "s"},
		`{"type":"tunnel_data","payload":{"channel_id":"c","data":{"type":"terminal"}}}`:        &TunnelData{ChannelID: "c", Data: wire.Raw(`{"type":"terminal"}`)},
		`{"type":"tunnel_error","payload":{"channel_id":"c","error":"no"}}`:                     &TunnelError{ChannelID: "c", Error: "no"},
	} {
		got, err := Parse([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v, want %#v", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		``:                                    wire.ErrSyntax,
		`nonsense`:                            wire.ErrSyntax,
		`[]`:                                  ErrFrame,
		`null`:                                ErrFrame,
		`{}`:                                  ErrFrame,
		`{"type":1}`:                          ErrFrame,
		`{"type":"Register"}`:                 ErrUnknownType,
		`{"type":"tunnel_opened"}`:            ErrUnknownType,
		`{"type":"tunnel_open"}`:              ErrFrame,
		`{"type":"tunnel_open","payload":[]}`: ErrFrame,
		`{"type":"tunnel_ready","payload":{"session_id":1}}`:              ErrFrame,
		`{"type":"tunnel_close","session_id":"s"}`:                        ErrFrame,
		`{"type":"tunnel_data","payload":{"channel_id":"c"}}`:             ErrFrame,
		`{"type":"tunnel_data","payload":{"channel_id":"c","data":"x"}}`:  ErrFrame,
		`{"type":"tunnel_data","payload":{"data":{}}}`:                    ErrFrame,
		`{"type":"tunnel_error","payload":{"channel_id":"c","error":{}}}`: ErrFrame,
		`{"type":"register","instance_id":1}`:                             ErrFrame,
		`{"type":"register","commands":[1]}`:                              ErrFrame,
		`{"type":"register","commands":"x"}`:                              ErrFrame,
		`{"type":"registered"}`:                                           ErrFrame,
		`{"type":"command","id":1}`:                                       ErrFrame,
		`{"type":"response","id":"1"}`:                                    ErrFrame,
		`{"type":"response","ok":true}`:                                   ErrFrame,
		`{"type":"event","data":{}}`:                                      ErrFrame,
		strings.Repeat("[", 600):                                          wire.ErrLimit,
		`{"type":"x","a":` + strings.Repeat("[", 600):                     wire.ErrLimit,
	} {
		if got, err := Parse([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.60s: got %#v, %v, want %v", text, got, err, want)
		}
	}
}

func TestAppend(t *testing.T) {
	for want, f := range map[string]Frame{
		`{"type":"register","instance_id":"","app_kind":"","display_name":"","capabilities":[],"commands":[],"version":"","platform":""}`: &Register{},
		`{"type":"registered","instance_id":"a\"b"}`:                                   &Registered{InstanceID: `a"b`},
		`{"type":"event","event":"x","data":null}`:                                     &Event{Event: "x"},
		`{"type":"tunnel_open","payload":{"session_id":"s","tech_id":"t"}}`:            &TunnelOpen{"s", "t"},
		`{"type":"tunnel_close","payload":{"session_id":"s"}}`:                         &TunnelClose{"s"},
		`{"type":"tunnel_ready","payload":{"session_id":"s"}}`:                         &TunnelReady{"s"},
		`{"type":"tunnel_data","payload":{"channel_id":"c","data":{"type":"x"}}}`:      &TunnelData{"c", wire.Raw(`{"type":"x"}`)},
		`{"type":"tunnel_error","payload":{"channel_id":"c","error":"\"unsupported"}}`: &TunnelError{"c", `"unsupported`},
	} {
		if got := string(Append(nil, f)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// FuzzParse: nothing panics, and what was understood is understood the same once written.
func FuzzParse(f *testing.F) {
	for _, file := range recordings(f) {
		for _, frame := range recorded(f, file) {
			f.Add(frame)
		}
	}
	f.Add([]byte(`{"type":"register","instance_id":"\ud800","capabilities":null,"metadata":{"1":[{}]}}`))
	for _, text := range []string{
		`{"type":"tunnel_open","payload":{"session_id":"s","tech_id":"t"}}`, `{"type":"tunnel_close","payload":{"session_id":"s"}}`,
		`{"type":"tunnel_ready","payload":{"session_id":"s"}}`, `{"type":"tunnel_error","payload":{"channel_id":"c","error":"\u0000"}}`,
		`{"type":"tunnel_data","payload":{"channel_id":"c","data":{"type":"terminal","payload":{"command":"ls -la"}}}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := Parse(data)
		if err != nil {
			return
		}
		text := Append(nil, frame)
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if twice := Append(nil, again); !bytes.Equal(twice, text) {
			t.Fatalf("got %s, want %s", twice, text)
		}
	})
}
