package audit

import (
	"crypto/sha256"
	"testing"
)

// TestLink compares with the bytes written out by hand.
func TestLink(t *testing.T) {
	prev := Hash(sha256.Sum256([]byte("before")))
	text := "hanzod audit row 1\x00" + "\x00\x00\x00\x00\x00\x00\x01\x02" + string(prev[:]) + "\x00\x00\x00\x00\x00\x00\x00\x03" + "\x01{}"
	want := Hash(sha256.Sum256([]byte(text)))
	if got := Link(0x102, prev, []byte("\x01{}")); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	again, err := ParseHash(want.String())
	if err != nil || again != want {
		t.Errorf("%s, %v", again, err)
	}
	for _, bad := range []string{"", "00", want.String() + "0", "x" + want.String()[1:]} {
		if h, err := ParseHash(bad); err == nil || h != (Hash{}) {
			t.Errorf("%q: %s, %v", bad, h, err)
		}
	}
}
