package main

import "testing"

// The commands to this program are found at the start of a line only, wherever reads end.
func TestEscapes(t *testing.T) {
	for _, c := range []struct {
		in   []string
		text string
		act  int
	}{
		{[]string{"ls\r"}, "ls\r", escapeNone},
		{[]string{"~."}, "", escapeLeave},
		{[]string{"ls\r~.rest"}, "ls\r", escapeLeave},
		{[]string{"ls\r", "~", "."}, "ls\r", escapeLeave},
		{[]string{"a~.b\r"}, "a~.b\r", escapeNone},
		{[]string{"~~.\r"}, "~.\r", escapeNone},
		{[]string{"~x\r"}, "~x\r", escapeNone},
		{[]string{"~", "?"}, "", escapeHelp},
		{[]string{"~?", "~."}, "", escapeLeave},
		{[]string{"x\n~", "~", "~."}, "x\n~~.", escapeNone},
	} {
		e := escapes{char: '~', fresh: true}
		text, act := "", escapeNone
		for _, in := range c.in {
			b, a := e.take([]byte(in))
			text += string(b)
			if a != escapeNone {
				act = a
			}
		}
		if text != c.text || act != c.act {
			t.Errorf("%q: %q and %d, want %q and %d", c.in, text, act, c.text, c.act)
		}
	}
	if b, act := (&escapes{fresh: true}).take([]byte("~.")); string(b) != "~." || act != escapeNone {
		t.Errorf("without an escape: %q, %d", b, act)
	}
}

func TestScreenState(t *testing.T) {
	var s screenState
	for _, c := range []struct {
		in   string
		want bool
	}{{"plain", false}, {"x\x1b[?1049hdraw", true}, {"more\x1b[1m", true}, {"\x1b[?10", true}, {"49l$ ", false}, {"\x1b[?1049l\x1b[?47h", true}} {
		s.see([]byte(c.in))
		if s.alternate != c.want {
			t.Errorf("after %q: %v", c.in, s.alternate)
		}
	}
}
