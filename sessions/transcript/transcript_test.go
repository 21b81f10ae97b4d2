package transcript

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type kept struct {
	offset, size    int64
	data            string
	oversized, torn bool
}

func keep(l Line) kept { return kept{l.Offset, l.Size, string(l.Data), l.Oversized, l.Torn} }

func forward(t testing.TB, data []byte) (out []kept) {
	t.Helper()
	s := NewScanner(bytes.NewReader(data), 0)
	for s.Next() {
		out = append(out, keep(s.Line()))
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return out
}

func backward(t testing.TB, data []byte) (out []kept) {
	t.Helper()
	if err := Backward(bytes.NewReader(data), int64(len(data)), func(l Line) bool {
		out = append(out, keep(l))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(out)
	return out
}

func TestLinesAreTheSameFromBothEnds(t *testing.T) {
	long := strings.Repeat("x", 3*firstChunk+7)
	for _, text := range []string{
		"", "\n", "\n\n", "a", "a\n", "\na", "\na\n", "a\nb\nc", "a\r\n\n\nb\n", long, long + "\n" + long, "\n" + long + "\n\na",
	} {
		want := []kept(nil)
		for at, rest := int64(0), text; rest != ""; {
			line, after, ended := strings.Cut(rest, "\n")
			want = append(want, kept{at, int64(len(line)), line, false, !ended})
			at, rest = at+int64(len(line))+1, after
		}
		if got := forward(t, []byte(text)); !slices.Equal(got, want) {
			t.Errorf("forward %.20q: got %.200v\nwant %.200v", text, got, want)
		}
		if got := backward(t, []byte(text)); !slices.Equal(got, want) {
			t.Errorf("backward %.20q: got %.200v\nwant %.200v", text, got, want)
		}
	}
}

func TestLongLinesAreCut(t *testing.T) {
	huge := `{"type":"message","id":"0badcafe","x":"` + strings.Repeat("y", MaxLine) + `"}`
	data := []byte("first\n" + huge + "\nlast\n")
	f, b := forward(t, data), backward(t, data)
	if !slices.Equal(f, b) || len(f) != 3 {
		t.Fatalf("%d lines from the front, %d from the back", len(f), len(b))
	}
	if l := f[1]; !l.oversized || l.data != huge[:MaxPrefix] || l.size != int64(len(huge)) || l.offset != 6 {
		t.Errorf("got %d bytes at %d, oversized %v", l.size, l.offset, l.oversized)
	}
	exact := []byte(strings.Repeat("z", MaxLine) + "\n")
	if f, b := forward(t, exact), backward(t, exact); f[0].oversized || b[0].oversized || b[0].size != MaxLine {
		t.Error("a line of exactly MaxLine bytes is read")
	}
	head := Header{ID: "s", Timestamp: time.UnixMilli(0)}.Build()
	file := append(head, data[6:len(data)-5]...)
	if id, ok, err := Leaf(bytes.NewReader(file), int64(len(file))); id != "0badcafe" || !ok || err != nil {
		t.Errorf("leaf %q %v %v", id, ok, err)
	}
}

func TestBackwardStopsEarly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.jsonl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 30 // sparse: reading it all would be seen
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("\n{\"id\":\"11111111\"}\n"), size); err != nil {
		t.Fatal(err)
	}
	c := &counting{r: f}
	n := 0
	if err := Backward(c, size+19, func(Line) bool { n++; return false }); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if c.bytes > 2*firstChunk {
		t.Errorf("read %d bytes for one line", c.bytes)
	}
}

type counting struct {
	r     *os.File
	bytes int
}

func (c *counting) ReadAt(p []byte, at int64) (int, error) {
	c.bytes += len(p)
	return c.r.ReadAt(p, at)
}

func TestHeader(t *testing.T) {
	at := time.Date(2026, 3, 18, 14, 5, 6, 7_000_000, time.UTC)
	line := Header{ID: "f81d4fae", Timestamp: at, CWD: `/srv/"ws"`, Parent: "/old.jsonl"}.Build()
	want := `{"type":"session","version":3,"id":"f81d4fae","timestamp":"2026-03-18T14:05:06.007Z","cwd":"/srv/\"ws\"","parentSession":"/old.jsonl"}` + "\n"
	if string(line) != want {
		t.Errorf("built %s", line)
	}
	h, ok := ParseHeader(line)
	if !ok || h != (Header{3, "f81d4fae", at, `/srv/"ws"`, "/old.jsonl"}) {
		t.Errorf("read %+v %v", h, ok)
	}
	for _, bad := range []string{"", "{", "[]", `{"type":"session"}`, `{"type":"message","id":"x"}`, `{"type":"session","id":7}`, "null"} {
		if _, ok := ParseHeader([]byte(bad)); ok {
			t.Errorf("%s is no header", bad)
		}
		if _, ok, err := Leaf(strings.NewReader(bad+"\n"+`{"id":"aaaaaaaa"}`), int64(len(bad)+18)); ok || err != nil {
			t.Errorf("a file that begins with %s is empty: %v %v", bad, ok, err)
		}
	}
}

func TestInjectedMessage(t *testing.T) {
	at := time.UnixMilli(1768435200123)
	line, message := Injected{ID: "0a1b2c3d", Parent: "99999999", Text: "<a> & b", Label: "note", At: at}.Build()
	const m = `{"role":"assistant","content":[{"type":"text","text":"[note]\n\n<a> & b"}],"timestamp":1768435200123,"stopReason":"stop",` +
		`"usage":{"input":0,"output":0,"cacheRead":0,"cacheWrite":0,"totalTokens":0,"cost":{"input":0,"output":0,"cacheRead":0,"cacheWrite":0,"total":0}},` +
		`"api":"openai-responses","provider":"openclaw","model":"gateway-injected"}`
	if string(message) != m {
		t.Errorf("message %s", message)
	}
	if want := `{"type":"message","id":"0a1b2c3d","parentId":"99999999","timestamp":"2026-01-15T00:00:00.123Z","message":` + m + "}\n"; string(line) != want {
		t.Errorf("line %s", line)
	}
	e, ok := ParseEntry(line)
	if !ok || e.ID != "0a1b2c3d" || e.Parent != "99999999" || !e.Timestamp.Equal(at) {
		t.Fatalf("%+v", e)
	}
	got, ok := e.Message()
	u, stated := got.Usage()
	if !ok || got.Role != RoleAssistant || got.Text() != "[note]\n\n<a> & b" || !got.Timestamp.Equal(at) || got.Model != OwnModel ||
		!stated || !u.Priced || u.Total != 0 || !bytes.Equal(got.Raw, message) {
		t.Errorf("%+v %+v %v", got, u, stated)
	}
	first, _ := Injected{ID: "0a1b2c3d", Text: "x", At: at}.Build()
	if !bytes.Contains(first, []byte(`"parentId":null`)) {
		t.Errorf("the first entry has no parent: %s", first)
	}
}

func TestEntries(t *testing.T) {
	e, ok := ParseEntry([]byte(`{"type":"compaction","id":"12345678","parentId":null,"timestamp":"2026-01-01T00:00:00Z","summary":"s","firstKeptEntryId":"87654321","tokensBefore":9}`))
	if !ok || e.Type != TypeCompaction || e.Summary != "s" || e.FirstKept != "87654321" || e.Parent != "" {
		t.Errorf("%+v", e)
	}
	if _, is := e.Message(); is {
		t.Error("a compaction has no message")
	}
	for _, bad := range []string{"", "x", "7", "[1]", `{"a":}`, `{"a":1`, `{"a":01}`, "{\"a\":\"\t\"}", `{} {}`, `{"a":1,}`} {
		if _, ok := ParseEntry([]byte(bad)); ok {
			t.Errorf("%s is no entry", bad)
		}
	}
	e, _ = ParseEntry([]byte(`{"message":{"role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"toolCall","name":"exec"},{"type":"tool_use","name":"exec"},{"type":"text","text":" "},{"type":"text","text":"a\ud800"},{"type":"text","text":"b "}],` +
		`"usage":{"input_tokens":5,"output":7,"cacheRead":1.0,"cost":{"input":0.25,"output":0.5}},"timestamp":"2026-01-01T00:00:00Z","durationMs":1500}}`))
	m, _ := e.Message()
	u, ok := m.Usage()
	if m.Text() != "a\uFFFD\nb" || !slices.Equal(m.Tools(), []string{"exec", "exec"}) || !ok || u.Total != 13 || !u.Priced || u.Cost.Total != 0.75 {
		t.Errorf("%q %v %+v", m.Text(), m.Tools(), u)
	}
	if d, ok := m.Duration(); !ok || d != 1500*time.Millisecond || m.Timestamp.Year() != 2026 {
		t.Error(d, m.Timestamp)
	}
	e, _ = ParseEntry([]byte("{\"message\":{\"role\":\"user\",\"content\":\"h\xffi\"}}"))
	if m, _ := e.Message(); m.Text() != "h\uFFFDi" {
		t.Errorf("%q", m.Text())
	}
}

func TestFreshID(t *testing.T) {
	id, err := FreshID(strings.NewReader(""), 0)
	if err != nil || len(id) != 8 || strings.Trim(id, "0123456789abcdef") != "" {
		t.Error(id, err)
	}
	text := strings.Repeat("x", 256<<10-5) + `"deadbeef"` // over the seam of two reads
	for needle, want := range map[string]bool{`"deadbeef"`: true, `"deadbee0"`: false} {
		if got, err := holds(strings.NewReader(text), int64(len(text)), []byte(needle)); got != want || err != nil {
			t.Errorf("%s: %v %v", needle, got, err)
		}
	}
}

func FuzzTranscript(f *testing.F) {
	head := string(Header{ID: "s", Timestamp: time.UnixMilli(0)}.Build())
	line, _ := Injected{ID: "0a1b2c3d", Text: "x", Label: "l", At: time.UnixMilli(1)}.Build()
	f.Add([]byte(head + string(line)))
	f.Add([]byte(head + "{bad\n\n[1,2]\n{\"message\":{\"content\":[{}],\"usage\":{\"input\":1e999}}}"))
	f.Add([]byte(`{"timestamp":"","message":{"timestamp":""}}`))
	f.Add([]byte(`{"a":"\ud800","a":[[[]]],"b":-0.1e+5,"c":nul}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, b := forward(t, data), backward(t, data); !slices.Equal(a, b) {
			t.Fatalf("lines differ:\n%v\n%v", a, b)
		}
		r := bytes.NewReader(data)
		if _, _, err := Leaf(r, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		for _, l := range forward(t, data) {
			e, ok := ParseEntry([]byte(l.data))
			valid := json.Valid([]byte(l.data)) && strings.HasPrefix(strings.TrimLeft(l.data, " \t\r\n\v\f\u0085\u00a0"), "{")
			if ok != valid && strings.Trim(l.data, " \t\r\n") == strings.TrimSpace(l.data) {
				t.Fatalf("entry %v, JSON %v: %q", ok, valid, l.data)
			}
			if !ok {
				continue
			}
			if !json.Valid(e.Raw) {
				t.Fatalf("raw bytes are no JSON: %q", e.Raw)
			}
			m, _ := e.Message()
			_, _ = m.Text(), m.Tools()
			if u, _ := m.Usage(); u.Total < 0 || u.Cost.Total < 0 {
				t.Fatalf("negative usage: %+v", u)
			}
			_, _ = ParseHeader([]byte(l.data))
			_ = prefixString([]byte(l.data), "id")
		}
	})
}

func BenchmarkParseEntry(b *testing.B) {
	line := fmt.Appendf(nil, `{"type":"message","id":"0a1b2c3d","parentId":"0a1b2c3c","timestamp":"2026-01-15T00:00:00.123Z","message":{"role":"assistant","content":[{"type":"text","text":%q}],"usage":{"input":1,"output":2,"cost":{"total":0.1}}}}`,
		strings.Repeat("some words of an answer. ", 40))
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		e, _ := ParseEntry(line)
		m, _ := e.Message()
		_, _ = m.Usage()
	}
}

func TestEdit(t *testing.T) {
	v := Value(`{"a":1,"b":[1, 2,3],"c":{"d":null}}`)
	got := v.Edit(func(key string, old Value) Value {
		switch key {
		case "a":
			return nil
		case "b":
			return old.EditItems(func(i Value) Value {
				if i.Int() == 2 {
					return nil
				}
				return i
			})
		}
		return old
	})
	if string(got) != `{"b":[1,3],"c":{"d":null}}` {
		t.Errorf("%s", got)
	}
	if kept := v.Edit(func(_ string, old Value) Value { return old }); &kept[0] != &v[0] {
		t.Error("nothing changed, and it was copied")
	}
	if all := v.Edit(func(string, Value) Value { return nil }); string(all) != "{}" {
		t.Errorf("%s", all)
	}
}
