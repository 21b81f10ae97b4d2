package discover

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

func full() claim {
	c := newClaim(Announcement{
		Name: "Büro (2. Stock)", Port: 18789, GRPCPort: 18790, TLS: true, Fingerprint: strings.Repeat("0f", 32), CanvasPort: 18789, SSHPort: 22, Version: "1.2.3",
	}, 99)
	for i := range byte(maxAddresses) {
		c.addrs = append(c.addrs, netip.AddrFrom4([4]byte{198, 18, 0, i + 1}))
	}
	return c
}

// TestPack: what is written is read by another implementation, and fits into one packet.
func TestPack(t *testing.T) {
	c := full()
	for f, want := range map[form]struct{ answers, claims, extra int }{
		announce: {8 + maxAddresses, 0, 1}, plain: {8 + maxAddresses, 0, 0}, goodbye: {6, 0, 0}, probe: {0, 2 + maxAddresses, 0},
	} {
		asked := []dnsmessage.Question{{Name: dnsmessage.MustNewName("_hanzo._tcp.local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}
		if f != plain {
			asked = nil
		}
		b, err := c.pack(f, 7, asked)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 1440 {
			t.Errorf("form %d has %d bytes", f, len(b))
		}
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if len(m.Answer) != want.answers || len(m.Ns) != want.claims || len(m.Extra) != want.extra || m.Response == (f == probe) || m.Id != 7 {
			t.Errorf("form %d: %s", f, m.String())
		}
		for _, rr := range append(m.Answer, m.Ns...) {
			h := rr.Header()
			shared := h.Rrtype == dns.TypePTR
			if flush := h.Class&topBit != 0; flush != (!shared && (f == announce || f == goodbye)) {
				t.Errorf("form %d: %s", f, rr)
			}
			if (h.Ttl == 0) != (f == goodbye) || f == plain && h.Ttl != ttlPlain {
				t.Errorf("form %d: %s", f, rr)
			}
		}
		if got, ok := parse(b); !ok || len(got.records) != want.answers+want.claims || got.response != m.Response {
			t.Errorf("form %d: %+v", f, got)
		}
	}
	b, err := c.pack(announce, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if n, ok := m.Extra[0].(*dns.NSEC); !ok || len(n.TypeBitMap) != 1 || n.TypeBitMap[0] != dns.TypeA || n.NextDomain != c.host {
		t.Errorf("%s", m.Extra[0])
	}
	c.addrs = []netip.Addr{netip.MustParseAddr("fe80::1")}
	if b, err = c.pack(announce, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if n, ok := m.Extra[0].(*dns.NSEC); !ok || len(n.TypeBitMap) != 1 || n.TypeBitMap[0] != dns.TypeAAAA {
		t.Errorf("%s", m.Extra[0])
	}
}

// TestTexts: the keys of the older record are those that older apps read (protocol.md §1.5), and empty
// values are left out.
func TestTexts(t *testing.T) {
	a := Announcement{Name: "box", Port: 18789}
	own, legacy := a.texts("box", "box-hanzod.local.")
	if got := strings.Join(own, " "); got != "v=1 kind=hanzod path=/v1/tunnel gatewayPort=18789 tls=0" {
		t.Error(got)
	}
	if got := strings.Join(legacy, " "); got != "role=gateway gatewayPort=18789 lanHost=box-hanzod.local displayName=box transport=gateway" {
		t.Error(got)
	}
	a.GRPCPort, a.Fingerprint = 18790, "ab" // of the gRPC door only
	own, legacy = a.texts("box", "box-hanzod.local.")
	if got := strings.Join(own, " "); got != "v=1 kind=hanzod path=/v1/tunnel gatewayPort=18789 grpcPort=18790 tls=0 tlsSha256=ab" {
		t.Error(got)
	}
	if got := strings.Join(legacy, " "); strings.Contains(got, "Tls") {
		t.Error(got)
	}
	a.TLS, a.CanvasPort, a.SSHPort = true, 18789, 22
	_, legacy = a.texts(strings.Repeat("x", 300), "box-hanzod.local.")
	if got := strings.Join(legacy, " "); strings.Contains(got, "displayName") || !strings.HasSuffix(got, "transport=gateway gatewayTls=1 gatewayTlsSha256=ab canvasPort=18789 sshPort=22") {
		t.Error(got)
	}
}

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		name     string
		n        int
		instance string
		host     string
	}{
		{"box", 1, "box", "box-hanzod"},
		{"box", 2, "box (2)", "box-hanzod-2"},
		{"", 1, "hanzod", "hanzod"},
		{"...", 3, "hanzod (3)", "hanzod-3"},
		{"My.Box_é\n\x1b", 1, "My Box_é", "my-box-hanzod"},
		{"-x-", 1, "-x-", "x-hanzod"},
		{strings.Repeat("é", 80), 99, strings.Repeat("é", 29) + " (99)", "hanzod-99"},
		{strings.Repeat("a", 80), 99, strings.Repeat("a", 58) + " (99)", strings.Repeat("a", 51) + "-hanzod-99"},
		{"\xff\xfe", 1, "hanzod", "hanzod"},
	} {
		if i, h := instanceLabel(c.name, c.n), hostLabel(c.name, c.n); i != c.instance || h != c.host || len(i) > maxLabel || len(h) > maxLabel {
			t.Errorf("%q %d: %q %q", c.name, c.n, i, h)
		}
	}
}

func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		texts string
		want  Daemon
	}{
		{"GatewayPort=1 gatewayport=2", Daemon{GatewayPort: 1}},
		{"gatewayPort=0 grpcPort=65536 sshPort=-1", Daemon{}},
		{"gatewayPort=1e3 grpcPort=65535 =x noequals tls=1", Daemon{GRPCPort: 65535, TLS: true}},
		{"tlsSha256=" + strings.Repeat("AB", 32), Daemon{Fingerprint: strings.Repeat("ab", 32)}},
		{"tlsSha256=" + strings.Repeat("ag", 32), Daemon{}},
		{"gatewayTls=1 gatewayTlsSha256=" + strings.Repeat("1", 63), Daemon{TLS: true}},
		{strings.Repeat("k=1 ", 3) + "version=2", Daemon{Version: "2"}},
	} {
		var d Daemon
		if describe(&d, strings.Split(c.texts, " ")); d.GatewayPort != c.want.GatewayPort || d.GRPCPort != c.want.GRPCPort || d.SSHPort != c.want.SSHPort ||
			d.TLS != c.want.TLS || d.Fingerprint != c.want.Fingerprint || d.Version != c.want.Version {
			t.Errorf("%s: %+v", c.texts, d)
		}
	}
	var texts []string
	for i := range maxKeys {
		texts = append(texts, strings.Repeat("k", i+1)+"=")
	}
	var d Daemon
	if describe(&d, append(texts, "version=1")); d.Version != "" {
		t.Error("more keys count than are bounded")
	}
}

// FuzzMessage: whatever comes from the network, reading it ends, and what is kept of it is bounded.
func FuzzMessage(f *testing.F) {
	for _, form := range []form{announce, goodbye, probe, plain} {
		b, err := full().pack(form, 1, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte("\x00\x00\x84\x00\x00\x00\xff\xff\x00\x00\x00\x00\xc0\x0c\x00\x0c\x80\x01\xff\xff\xff\xff\x00\x02\xc0\x0c"))
	here := network{prefixes: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24")}}
	here.Index, here.Name = 1, "eth0"
	from := netip.MustParseAddrPort("198.18.0.2:5353")
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parse(b)
		if !ok {
			return
		}
		if len(m.records) > maxRecords || len(m.questions) > maxRecords {
			t.Fatalf("%d questions, %d records", len(m.questions), len(m.records))
		}
		now := time.Now()
		br := &browser{networks: []network{here}, instances: map[string]*instance{}, hosts: map[string]*host{}}
		for range 2 {
			br.hear(packet{m, from, 1, true}, now)
		}
		if len(br.instances) > maxPerSender || len(br.hosts) > maxHosts {
			t.Fatalf("%d instances, %d hosts", len(br.instances), len(br.hosts))
		}
		for _, d := range br.result(now).Daemons {
			if d.Name == "" && !utf8.ValidString(d.Name) || len(d.Addresses) == 0 || len(d.Addresses) > maxAddresses || d.GatewayPort < 0 || d.GatewayPort > 65535 {
				t.Fatalf("%+v", d)
			}
		}
		r := &responder{about: Announcement{Name: "box", Port: 1}, n: 1, places: map[int]*place{}, claim: newClaim(Announcement{Name: "box", Port: 1}, 1), sent: 1}
		p := &place{network: here, addrs: []netip.Addr{netip.MustParseAddr("198.18.0.1")}}
		r.contradicts(packet{m, from, 1, true})
		r.beats(packet{m, from, 1, true}, p)
		r.known(packet{m, from, 1, true})
		for _, q := range m.questions {
			r.ofOurs(q)
		}
	})
}
