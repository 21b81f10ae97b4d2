package agent

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// tail keeps the end of what is written to it.
type tail struct {
	most int // bytes

	mu    sync.Mutex
	buf   []byte
	total int64
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total += int64(len(p))
	n := len(p)
	if len(p) > t.most {
		p = p[len(p)-t.most:]
	}
	// Room for twice as much saves moving it at each write.
	if len(t.buf)+len(p) > 2*t.most {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-(t.most-len(p)):]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// text is the last most characters of the end, and whether something of the whole is missing.
func (t *tail) text(most int) (text string, cut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if len(b) > t.most {
		b = b[len(b)-t.most:]
	}
	cut = int64(len(b)) < t.total
	if cut { // the first bytes may be the rest of a character
		for i := 0; i < utf8.UTFMax-1 && len(b) > 0 && !utf8.RuneStart(b[0]); i++ {
			b = b[1:]
		}
	}
	text = decode(b)
	if short := lastChars(text, most); len(short) < len(text) {
		return short, true
	}
	return text, cut
}

func (t *tail) bytes() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// lastChars is the end of s, n characters of it.
func lastChars(s string, n int) string {
	if len(s) <= n {
		return s
	}
	i := len(s)
	for ; n > 0 && i > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:i])
		i -= size
	}
	return s[i:]
}

// decode makes valid UTF-8 as Python does (errors="replace"): one U+FFFD for each longest beginning of a character
// that goes wrong, which is not one for each byte, nor one for each run of them.
func decode(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	out.Grow(len(b))
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r != utf8.RuneError || size > 1 {
			out.Write(b[:size])
			b = b[size:]
			continue
		}
		out.WriteRune(utf8.RuneError)
		b = b[badPrefix(b):]
	}
	return out.String()
}

// badPrefix is how many bytes at the beginning of b, which is no character, could have begun one.
func badPrefix(b []byte) int {
	low, high, need := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		need = 1
	case c >= 0xe0 && c <= 0xef:
		need = 2
		switch c {
		case 0xe0:
			low = 0xa0
		case 0xed:
			high = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		need = 3
		switch c {
		case 0xf0:
			low = 0x90
		case 0xf4:
			high = 0x8f
		}
	}
	n := 1
	for ; need > 0 && n < len(b) && b[n] >= low && b[n] <= high; need-- {
		low, high = 0x80, 0xbf
		n++
	}
	return n
}

// repr is a text as Python quotes it in its errors.
func repr(s string) string {
	quote := "'"
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = `"`
	}
	return quote + strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`, quote, `\`+quote).Replace(s) + quote
}

// withoutTelemetry cuts what the telemetry of the CLI prints to the console: blocks from a line that begins with
// "{" up to the line "}" that mention what only it mentions (tunnel.md §1.5).
func withoutTelemetry(s string) string {
	lines := strings.Split(s, "\n")
	var out []string
	for i := 0; i < len(lines); i++ {
		if strings.HasPrefix(lines[i], "{") {
			if end := blockEnd(lines, i); end > i && telemetry(lines[i:end+1]) {
				i = end
				continue
			}
		}
		out = append(out, lines[i])
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// blockEnd is the line "}" that ends a block, 0 when there is none.
func blockEnd(lines []string, from int) int {
	for i := from; i < len(lines); i++ {
		if strings.TrimRight(lines[i], " \t\r") == "}" {
			return i
		}
	}
	return 0
}

func telemetry(block []string) bool {
	for _, l := range block {
		for _, word := range []string{"resource:", "descriptor:", "instrumentationScope:"} {
			if strings.Contains(l, word) {
				return true
			}
		}
	}
	return false
}
