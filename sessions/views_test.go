package sessions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestUserTextIsCleaned(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain",
		"Sender (untrusted metadata):\n```json\n{\n  \"label\": \"cli\"\n}\n```\n\n[Wed 2026-03-18 14:05 UTC] Say hello":         "Say hello",
		"Conversation info (untrusted metadata):\n```json\n{}\n```\n\nSender (untrusted metadata):\n```json\n{}\n```\n\nhi\nyou": "hi\nyou",
		"Sender (untrusted metadata):\nno fence":             "Sender (untrusted metadata):\nno fence",
		"Sender (untrusted metadata):\n```json\nnever ended": "Sender (untrusted metadata):\n```json\nnever ended",
		"Senders (untrusted metadata):\n```json\n{}\n```":    "Senders (untrusted metadata):\n```json\n{}\n```",
		"[Telegram Ann +2m] yes":                             "yes",
		"[2026-03-18T14:05Z] yes":                            "yes",
		"[a note] yes":                                       "[a note] yes",
		"[Telegrams] yes":                                    "[Telegrams] yes",
		"yes\n [message_id: 12 ] \nno":                       "yes\nno",
		"a [message_id: 12] b":                               "a [message_id: 12] b",
		"[[reply_to_current]]yes[[ audio_as_voice ]]":        "yes",
		"[[reply_to: x1]]yes [[other]]":                      "yes [[other]]",
	} {
		if got := cleanUser(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func line(message string) string {
	return `{"type":"message","id":"00000000","parentId":null,"timestamp":"2026-01-01T00:00:00.000Z","message":` + message + "}\n"
}

func history(t *testing.T, text string, limit int) []string {
	t.Helper()
	got, err := recent(strings.NewReader(text), int64(len(text)), limit, maxHistoryBytes, shown)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range got {
		if !json.Valid(v) {
			t.Errorf("no JSON: %s", v)
		}
		out = append(out, string(v))
	}
	return out
}

func TestHistoryShowsWhatPeopleMayRead(t *testing.T) {
	const user = `{"role":"user","content":"[2026-01-01 10:00] hi","timestamp":5}`
	for message, want := range map[string]string{
		user: `{"role":"user","content":"hi","timestamp":5}`,
		`{"role":"assistant","content":[{"type":"thinking","thinking":"t","thinkingSignature":"s"},{"type":"text","text":"[[reply_to_current]]a"}],"usage":{"input":1},"cost":1,"model":"m"}`: `{"role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"text","text":"a"}],"model":"m"}`,
		`{"role":"toolResult","toolName":"x","content":[{"type":"text","text":"[2026-01-01 10:00] kept"}],"details":{"a":1},"isError":false}`:                                                 `{"role":"toolResult","toolName":"x","content":[{"type":"text","text":"[2026-01-01 10:00] kept"}],"isError":false}`,
		`{"role":"user","content":[{"type":"image","data":"QUJD","mimeType":"image/png"}]}`:                                                                                                   `{"role":"user","content":[{"type":"image","mimeType":"image/png","omitted":true,"bytes":4}]}`,
		`{"role":"assistant","content":[{"type":"text","text":"NO_REPLY"}]}`:                                                                                                                  ``,
		`{"role":"assistant","content":" NO_REPLY\n"}`:                                                                                                                                        ``,
		`{"role":"assistant","content":[{"type":"text","text":"NO_REPLY"},{"type":"toolCall","name":"x"}]}`:                                                                                   `{"role":"assistant","content":[{"type":"text","text":"NO_REPLY"},{"type":"toolCall","name":"x"}]}`,
		`{"role":"user","content":"NO_REPLY"}`:                                                                                                                                                `{"role":"user","content":"NO_REPLY"}`,
		`{"role":"assistant","content":"` + strings.Repeat("é", 12_001) + `"}`:                                                                                                                `{"role":"assistant","content":"` + strings.Repeat("é", 12_000) + `\n...(truncated)..."}`,
		`{"role":"assistant","content":"` + strings.Repeat("a", 12_000) + `"}`:                                                                                                                `{"role":"assistant","content":"` + strings.Repeat("a", 12_000) + `"}`,
		`{"role":"user","content":"x","timestamp":7,"extra":"` + strings.Repeat("z", maxHistoryMessage) + `"}`:                                                                                `{"role":"user","timestamp":7,"content":[{"type":"text","text":"[chat.history omitted: message too large]"}],"__openclaw":{"truncated":true,"reason":"oversized"}}`,
	} {
		var all []string
		if want != "" {
			all = []string{want}
		}
		if got := history(t, "{\"type\":\"session\",\"id\":\"s\"}\nnot JSON\n\n"+line(message), 200); fmt.Sprint(got) != fmt.Sprint(all) {
			t.Errorf("%.200s\n got %.400s\nwant %.400s", message, got, all)
		}
	}
	compaction := `{"type":"compaction","id":"0a0b0c0d","parentId":null,"timestamp":"2026-01-01T00:00:00.000Z","summary":"s","firstKeptEntryId":"x","tokensBefore":1}` + "\n"
	got := history(t, line(user)+compaction+line(`{"role":"assistant","content":"NO_REPLY"}`)+line(user), 3)
	if len(got) != 2 || got[0] != `{"role":"system","content":[{"type":"text","text":"Compaction"}],"timestamp":1767225600000,"__openclaw":{"kind":"compaction","id":"0a0b0c0d"}}` {
		t.Errorf("the limit counts what is not shown: %s", got)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var text strings.Builder
	for i := range 100 {
		text.WriteString(line(fmt.Sprintf(`{"role":"user","content":"%d","extra":"%s"}`, i, strings.Repeat("z", 100<<10))))
	}
	got := history(t, text.String(), 1000)
	total := 1 + len(got)
	for _, v := range got {
		total += len(v)
	}
	if total > maxHistoryBytes || total < maxHistoryBytes-200<<10 || !strings.Contains(got[len(got)-1], `"content":"99"`) {
		t.Errorf("%d messages of %d bytes, the last %.60s", len(got), total, got[len(got)-1])
	}
}

func TestPreview(t *testing.T) {
	text := line(`{"role":"user","content":"[2026-01-01 10:00] as stored"}`) +
		line(`{"role":"assistant","content":[{"type":"toolCall","name":"a"},{"type":"toolCall","name":"b"},{"type":"toolCall","name":"c"}]}`) +
		line(`{"role":"toolResult","content":[{"type":"text","text":"0123456789012345678901234"}]}`) +
		line(`{"role":"assistant","content":[{"type":"text","text":"look"},{"type":"toolCall","name":"a"}]}`) +
		line(`{"role":"assistant","content":[]}`) + line(`{"role":"custom","content":"note"}`)
	got, err := previewOf(strings.NewReader(text), int64(len(text)), 10, 20)
	want := "[{user [2026-01-01 10:00...} {tool call a, b +1} {tool 01234567890123456...} {tool look} {other note}]"
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v %v\nwant %s", got, err, want)
	}
	if got, _ := previewOf(strings.NewReader(text), int64(len(text)), 1, 20); fmt.Sprint(got) != "[{other note}]" {
		t.Error(got)
	}
}

func TestTitles(t *testing.T) {
	at := time.Date(2026, 3, 18, 1, 0, 0, 0, time.UTC)
	words := "one two three four five six seven eight nine ten eleven twelve thirteen"
	for _, c := range []struct{ name, subject, id, first, want string }{
		{"Name", "S", "0123456789", "q", "Name"},
		{" ", "S", "0123456789", "q", "S"},
		{"", "", "0123456789", " a\n b ", "a b"},
		{"", "", "0123456789", words, "one two three four five six seven eight nine ten eleven…"},
		{"", "", "0123456789", strings.Repeat("x", 61), strings.Repeat("x", 59) + "…"},
		{"", "", "0123456789", strings.Repeat("x", 60), strings.Repeat("x", 60)},
		{"", "", "0123456789", "y " + strings.Repeat("x", 60), "y " + strings.Repeat("x", 57) + "…"},
		{"", "", "0123456789", "", "01234567 (2026-03-18)"},
		{"", "", "", "", ""},
	} {
		if got := titleOf(c.name, c.subject, c.id, at, func() string { return c.first }); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	text := "{\"type\":\"session\",\"id\":\"s\"}\n" + line(`{"role":"assistant","content":"x"}`) + line(`{"role":"user","content":[{"type":"text","text":"first"}]}`) +
		line(`{"role":"user","content":"second"}`) + line(`{"role":"toolResult","content":"t"}`)
	r := bytes.NewReader([]byte(text))
	if q, l := firstQuestion(r, r.Size()), lastMessage(r, r.Size()); q != "first" || l != "second" {
		t.Errorf("%q, %q", q, l)
	}
}

func BenchmarkHistoryOfALargeTranscript(b *testing.B) {
	one := line(`{"role":"assistant","content":[{"type":"text","text":"` + strings.Repeat("some words of an answer. ", 40) + `"}],"usage":{"input":1}}`)
	text := []byte(strings.Repeat(one, 100<<20/len(one)))
	r := bytes.NewReader(text)
	for b.Loop() {
		got, err := recent(r, r.Size(), historyLimit, maxHistoryBytes, shown)
		if err != nil || len(got) != historyLimit {
			b.Fatal(len(got), err)
		}
	}
}
