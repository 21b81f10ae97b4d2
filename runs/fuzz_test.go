package runs

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzNodeAnswers gives everything that a node may say to what reads it: nothing panics, and what is kept is
// text that can be stored, of a bounded size.
func FuzzNodeAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"exitCode":0,"timedOut":false,"success":true,"stdout":"o","stderr":"e","error":null}`,
		`{"success":false,"signal":"SIGKILL","error":"x"}`, `{"exitCode":1e300,"signal":9}`, `{"exitCode":null}`, `[]`, `null`, ``, `{"stdout":"\ud800"}`,
		`{"cmdText":"a","plan":{"argv":["/bin/a"],"cwd":null,"rawCommand":"a"}}`, `{"plan":{"argv":"a"}}`,
		`{"command":["a"],"rawCommand":"a","runId":"r","approved":true,"env":{"A":"1"}}`, `{"command":"a","runId":"r","approved":true}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, err := range []error{nil, &NodeError{Text: string(payload)}, ErrStopping} {
			for _, left := range []bool{false, true} {
				var r Run
				conclude(&r, payload, err, left)
				if !r.State.Ended() || (r.Result == nil) == (r.Failure == nil) {
					t.Fatalf("%+v", r)
				}
				texts := []string{}
				if r.Result != nil {
					texts = append(texts, r.Result.Stdout, r.Result.Stderr, r.Result.Error, r.Result.Signal)
				} else {
					texts = append(texts, r.Failure.Text)
				}
				if slices.ContainsFunc(texts, func(s string) bool { return !utf8.ValidString(s) || len(s) > maxOutput+100 }) {
					t.Errorf("%q is kept as %q", payload, texts)
				}
			}
		}
		if p, ok := parsePlan(payload); ok && (len(p.Argv) == 0 || !json.Valid(payload)) {
			t.Errorf("%q is a plan", payload)
		}
		s := &Service{live: map[string]*live{}, foreign: map[string]*live{}, now: time.Now}
		if l := s.follow(Sent{InvokeID: "i", Params: payload}); l != nil && (l.run.ID == "" || !l.run.Foreign) {
			t.Errorf("%+v", l.run)
		}
	})
}
