package asciicast

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	now := time.Unix(1700000000, 0)
	var file bytes.Buffer
	w, err := NewWriter(&file, Header{Width: 80, Height: 24, Env: map[string]string{"TERM": "xterm-256color"}}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	euro := "€"
	for _, b := range []string{"a<b\r\n", euro[:1], euro[1:] + "x\xff", "\xe2\x82"} {
		now = now.Add(250 * time.Millisecond)
		if err := w.Output([]byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(-time.Hour)
	if err := errors.Join(w.Resize(100, 30), w.Marker("here"), w.Close()); err != nil {
		t.Fatal(err)
	}
	want := `{"version":2,"width":80,"height":24,"timestamp":1700000000,"env":{"TERM":"xterm-256color"}}
[0.250000,"o","a<b\r\n"]
[0.750000,"o","€x` + "\uFFFD" + `"]
[0.750000,"r","100x30"]
[0.750000,"m","here"]
[0.750000,"o","` + "\uFFFD" + `"]
`
	if file.String() != want {
		t.Errorf("got\n%s\nwant\n%s", file.String(), want)
	}
	r, h, err := NewReader(&file)
	if err != nil || h.Width != 80 || h.Env["TERM"] != "xterm-256color" {
		t.Fatal(h, err)
	}
	e, err := r.Next()
	if err != nil || e.At != 250*time.Millisecond || e.Kind != Output || e.Data != "a<b\r\n" {
		t.Fatal(e, err)
	}
	for n := 1; ; n++ {
		if e, err = r.Next(); errors.Is(err, io.EOF) {
			if n != 5 {
				t.Errorf("%d events", n)
			}
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if cols, rows, ok := Size(e.Data); e.Kind == Resize && (!ok || cols != 100 || rows != 30) {
			t.Error(cols, rows)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(`{"version":2,"width":80,"height":24}` + "\n[1,\"o\",\"x\"]\n[1e400,\"o\",\"x\"]")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		r, h, err := NewReader(strings.NewReader(text))
		if err != nil {
			return
		}
		if h.Version != 2 {
			t.Fatal(h)
		}
		for {
			e, err := r.Next()
			if err != nil {
				return
			}
			if e.At < 0 {
				t.Fatal(e)
			}
		}
	})
}
