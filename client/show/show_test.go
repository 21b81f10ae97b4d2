package show_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/client/show"
)

// hostile are texts that would steer a terminal, hide, or fool the eye.
var hostile = []string{
	"\x1b[2J\x1b]0;owned\x07", "a\rb\nc\td", "\u202egpj.exe", "\u200b\u2066x\u2069", "\u0085\u009b31m", "\xff\xfe", "\x00\x7f", "\u3164\u115f\u2800", "\U000e0041",
}

func TestTextShowsEverythingAndSteersNothing(t *testing.T) {
	for _, s := range append(hostile, "plain text", "caf\u00e9 \u65e5\u672c \U0001f600", "") {
		for name, got := range map[string]string{"Text": show.Text(s), "Lines": show.Lines(s)} {
			if !utf8.ValidString(got) {
				t.Errorf("%s(%q) is %q", name, s, got)
			}
			for _, r := range got {
				if !show.Visible(r) && (name == "Text" || r != '\n' && r != '\t') {
					t.Errorf("%s(%q) keeps %q", name, s, r)
				}
			}
		}
	}
	if got := show.Text("caf\u00e9 \U0001f600"); got != "caf\u00e9 \U0001f600" {
		t.Errorf("what is visible stays: %q", got)
	}
	if got := show.Text("a\x1b[1m\u202e\xff"); got != `a\x1b[1m\u202e\xff` {
		t.Errorf("%s", got)
	}
}

func TestQuoteIsPrintableASCIIAndTellsArgvApart(t *testing.T) {
	seen := map[string]string{}
	for _, a := range hostile {
		for _, argv := range [][]string{{a}, {a, ""}, {"", a}, {"x", a}, {"x " + a}, {a + "'"}} {
			q := show.Quote(argv)
			if strings.ContainsFunc(q, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q: %q", argv, q)
			}
			key := strings.Join(argv, "\x00|")
			if old, ok := seen[q]; ok && old != key {
				t.Errorf("%q and %q are both %s", old, key, q)
			}
			seen[q] = key
		}
	}
	if show.Word("A=1", false) != "A=1" || show.Word("A=1", true) != "'A=1'" {
		t.Error("an assignment is a word of the command anywhere but first")
	}
}
