package runtime

import (
	"net/netip"
	"testing"
)

func TestPublicName(t *testing.T) {
	for _, c := range [][3]string{
		{"build-box", "anna", "build-box"},
		{"annas-laptop", "anna", anonymous},
		{"Anna-Maria", "anna.maria", anonymous},
		{"box", "root", "box"},
		{"rooter", "root", "rooter"},
		{"hanzod-7", "hanzod", "hanzod-7"},
		{"box", "", "box"},
	} {
		if got := publicName(c[0], c[1]); got != c[2] {
			t.Errorf("%s of %s: %s", c[0], c[1], got)
		}
	}
}

func TestReaches(t *testing.T) {
	ip := netip.MustParseAddr
	for _, c := range []struct {
		host, at string
		want     bool
	}{
		{"0.0.0.0", "198.18.0.1", true}, {"0.0.0.0", "fe80::1", false}, {"::", "fe80::1", true},
		{"198.18.0.1", "198.18.0.1", true}, {"198.18.0.1", "198.18.0.2", false},
	} {
		if reaches([]netip.Addr{ip("203.0.113.1"), ip(c.host)}, ip(c.at)) != c.want {
			t.Error(c)
		}
	}
}
