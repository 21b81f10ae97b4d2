package answer

import (
	"strings"
	"testing"
)

func TestAnswersOfTheBridge(t *testing.T) {
	c, err := ReadCheckpoint([]byte(`{"checkpoint_id":"i","checkpoint_url":"s3://b/a/i.json","key":"a/i.json","session_stats":{"conversation_count":4,"command_count":6,"scrollback_count":11}}`))
	if err != nil || c.ID != "i" || c.URL != "s3://b/a/i.json" || c.Key != "a/i.json" || c.Stats != (Stats{4, 6, 11}) {
		t.Errorf("%+v %v", c, err)
	}
	r, err := ReadRestore([]byte(`{"restored_from":"a","source_platform":"linux-x86_64","checkpoint_id":"i","timestamp":"t","conversation_count":4,"command_count":6,"scrollback_count":11,"git_restore":{"attempted":true,"clone":"ok","apply_diff":"error: corrupt patch at line 7\n"}}`))
	if err != nil || r.From != "a" || r.Commands != 6 || r.Git.Clone != "ok" || !strings.HasPrefix(*r.Git.Apply, "error") || r.OK != nil {
		t.Errorf("%+v %v", r, err)
	}
	if got := string(RestoreParams("s3://b/<&>.json")); got != `{"checkpoint_url":"s3://b/<&>.json"}` {
		t.Error(got)
	}
	m, err := ReadMeta(Meta{Format: 1, SHA256: strings.Repeat("a", 64), Owner: "local:0"}.Marshal())
	if err != nil || m.Owner != "local:0" {
		t.Errorf("%+v %v", m, err)
	}
}

func FuzzAnswers(f *testing.F) {
	for _, s := range []string{"null", "{}", "[]", `{"key":1}`, `{"git_restore":null}`, `{"format":1}`, `{"steps":[{}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := ReadCheckpoint(raw); err == nil && c.URL == "" && c.Key == "" {
			t.Error("a checkpoint without a place")
		}
		_, _ = ReadRestore(raw)
		_, _ = ReadStatus(raw)
		if m, err := ReadMeta(raw); err == nil && (m.Format != 1 || len(m.SHA256) != 64) {
			t.Errorf("%+v", m)
		}
	})
}
