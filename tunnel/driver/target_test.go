package driver_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tunnel/driver"
)

func TestTarget(t *testing.T) {
	for in, want := range map[string]string{
		"8080": "127.0.0.1:8080", ":8080": "127.0.0.1:8080", "localhost:80": "localhost:80", "db.lan:5432": "db.lan:5432", "[::1]:8080": "[::1]:8080",
		"10.0.0.1:1": "10.0.0.1:1", "my_host:22": "my_host:22",
		"": "", "0": "", "65536": "", ":": "", "host": "", "host:": "", "host:x": "", "host:-1": "", "::1:8080": "", "[::1]": "", "[::1]8080": "", "[host]:80": "",
		"user@host:80": "", "user:pw@host:80": "", "http://host:80": "", "host:80/path": "", "ho st:80": "", "-a:80": "", "a..b:80": "", "host:080808": "",
		"host:80\n": "", "[::1%lo]:80": "",
	} {
		got, err := driver.Target(in)
		var bad *driver.TargetError
		if got != want || (want == "") != errors.As(err, &bad) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("the error shows user info: %v", err)
		}
	}
	for in, want := range map[string]int{"": 0, "random": 0, "auto": 0, "0": 0, "8080": 8080, "65535": 65535, "65536": -1, "-1": -1, "x": -1} {
		got, err := driver.Port(in)
		if (want < 0) != (err != nil) || want >= 0 && got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for in, want := range map[string]bool{"localhost": true, "LOCALHOST.": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "10.0.0.1": false, "localhost.example": false, "0.0.0.0": false, "": false} {
		if driver.Loopback(in) != want {
			t.Errorf("%q", in)
		}
	}
}

// FuzzTarget: what is taken can be dialled and is taken again; nothing of it hides user info, a path or a line's end.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"8080", ":8080", "host:1", "[::1]:8080", "a@b:1", "[", "]:1", "[::]:0", "١٢"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := driver.Target(text)
		if err != nil {
			return
		}
		if strings.ContainsAny(at, "@/\\ \r\n?#") {
			t.Fatalf("%q is taken as %q", text, at)
		}
		host, port, err := net.SplitHostPort(at)
		if err != nil || host == "" || port == "" || port == "0" {
			t.Fatalf("%q is taken as %q: %v", text, at, err)
		}
		if again, err := driver.Target(at); err != nil || again != at {
			t.Fatalf("%q is taken as %q, and that as %q: %v", text, at, again, err)
		}
	})
}
