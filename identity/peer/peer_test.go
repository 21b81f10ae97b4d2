package peer

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/identity"
)

// request is one with header lines "Name: value".
func request(from, host string, lines ...string) *http.Request {
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, RemoteAddr: from, Host: host, Header: http.Header{}}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

const near, far = "127.0.0.1:5000", "198.51.100.9:5000"

// protocol.md §1.3, and beyond it what a proxy may not make of a client.
func TestPeer(t *testing.T) {
	none, local, proxy := &Rules{}, &Rules{Trusted: prefixes("127.0.0.1/32")}, &Rules{Trusted: prefixes("10.0.0.0/8", "fd00::/8")}
	fallback := &Rules{Trusted: prefixes("10.0.0.0/8"), RealIPFallback: true}
	here := "127.0.0.1:18789"
	for _, c := range []struct {
		name   string
		rules  *Rules
		from   string
		host   string
		lines  []string
		client string // "" when it is not known
		local  bool
		told   string
	}{
		// No proxy.
		{"direct, near", none, near, here, nil, "127.0.0.1", true, ""},
		{"direct, near, version 6", none, "[::1]:5000", "[::1]:18789", nil, "::1", true, ""},
		{"direct, near, mapped", none, "[::ffff:127.0.0.1]:5000", here, nil, "127.0.0.1", true, ""},
		{"direct, all of 127/8", none, "127.9.9.9:1", "127.1.2.3", nil, "127.9.9.9", true, ""},
		{"localhost", none, near, "LocalHost:18789", nil, "127.0.0.1", true, ""},
		{"tailnet name", none, near, "box.tail1.TS.net", nil, "127.0.0.1", true, ""},
		{"foreign name", none, near, "evil.example", nil, "127.0.0.1", false, ""},
		{"looks like localhost", none, near, "localhost.evil.example", nil, "127.0.0.1", false, ""},
		{"looks like the tailnet", none, near, "ts.net.evil.example", nil, "127.0.0.1", false, ""},
		{"looks like an address", none, near, "127.0.0.1.evil.example:80", nil, "127.0.0.1", false, ""},
		{"trailing dot", none, near, "localhost.", nil, "127.0.0.1", false, ""},
		{"user in the host", none, near, "localhost@evil.example", nil, "127.0.0.1", false, ""},
		{"no host", none, near, "", nil, "127.0.0.1", false, ""},
		{"direct, far", none, far, here, nil, "198.51.100.9", false, "198.51.100.9"},
		{"far, mapped", none, "[::ffff:198.51.100.9]:1", here, nil, "198.51.100.9", false, "198.51.100.9"},
		{"far, with a zone", none, "[fe80::1%eth0]:1", here, nil, "fe80::1", false, "fe80::1"},
		{"no address", none, "@", here, nil, "", false, ""},
		// Headers of proxies that are not trusted make the client remote and hide its address.
		{"near, forwarded", none, near, here, []string{"X-Forwarded-For: 203.0.113.7"}, "127.0.0.1", false, ""},
		{"near, real ip", none, near, here, []string{"X-Real-IP: 203.0.113.7"}, "127.0.0.1", false, ""},
		{"near, forwarded host", none, near, here, []string{"X-Forwarded-Host: x"}, "127.0.0.1", false, ""},
		{"near, forwarded for itself", none, near, here, []string{"X-Forwarded-For: 127.0.0.1"}, "127.0.0.1", false, ""},
		{"near, empty header", none, near, here, []string{"X-Forwarded-For: "}, "127.0.0.1", false, ""},
		{"near, forwarded proto", none, near, here, []string{"X-Forwarded-Proto: https"}, "127.0.0.1", false, ""},
		{"near, RFC 7239", none, near, here, []string{"Forwarded: for=203.0.113.7"}, "127.0.0.1", false, ""},
		{"near, via", none, near, here, []string{"Via: 1.1 proxy"}, "127.0.0.1", false, ""},
		{"far, forwarded", proxy, far, here, []string{"X-Forwarded-For: 203.0.113.7"}, "198.51.100.9", false, ""},
		{"far claims to be near", none, far, here, []string{"X-Forwarded-For: 127.0.0.1"}, "198.51.100.9", false, ""},
		// A trusted proxy.
		{"one hop", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 203.0.113.7"}, "203.0.113.7", false, "203.0.113.7"},
		{"right to left", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 6.6.6.6, 203.0.113.7 , 10.0.0.2"}, "203.0.113.7", false, "203.0.113.7"},
		{"all trusted", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 10.0.0.3, 10.0.0.2"}, "", false, ""},
		{"with ports", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 203.0.113.7:99, [fd00::2]:5"}, "203.0.113.7", false, "203.0.113.7"},
		{"mapped", proxy, "[::ffff:10.0.0.1]:1", "gw.example", []string{"X-Forwarded-For: ::ffff:203.0.113.7, ::ffff:10.0.0.2"}, "203.0.113.7", false, "203.0.113.7"},
		{"with a zone", proxy, "[fd00::1%eth0]:1", "gw.example", []string{"X-Forwarded-For: 203.0.113.7"}, "203.0.113.7", false, "203.0.113.7"},
		{"two lines are one list", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.7"}, "203.0.113.7", false, "203.0.113.7"},
		{"trusted last line", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 10.0.0.2"}, "203.0.113.7", false, "203.0.113.7"},
		{"unknown in between", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.2"}, "", false, ""},
		{"rubbish", proxy, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: ,,"}, "", false, ""},
		{"no header", proxy, "10.0.0.1:1", "gw.example", nil, "", false, ""},
		{"real ip without the fallback", proxy, "10.0.0.1:1", "gw.example", []string{"X-Real-IP: 203.0.113.7"}, "", false, ""},
		{"real ip", fallback, "10.0.0.1:1", "gw.example", []string{"X-Real-IP: 203.0.113.7"}, "203.0.113.7", false, "203.0.113.7"},
		{"two real ips", fallback, "10.0.0.1:1", "gw.example", []string{"X-Real-IP: 6.6.6.6", "X-Real-IP: 203.0.113.7"}, "", false, ""},
		{"forwarded wins over real ip", fallback, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 203.0.113.7", "X-Real-IP: 6.6.6.6"}, "203.0.113.7", false, "203.0.113.7"},
		{"forwarded for nobody", fallback, "10.0.0.1:1", "gw.example", []string{"X-Forwarded-For: 10.0.0.2", "X-Real-IP: 6.6.6.6"}, "", false, ""},
		// A proxy on this machine, and what proxies say of this machine.
		{"near proxy", local, near, here, []string{"X-Forwarded-For: 203.0.113.7"}, "203.0.113.7", false, "203.0.113.7"},
		{"near proxy says near", local, near, here, []string{"X-Forwarded-For: 127.0.0.1"}, "", false, ""},
		{"near proxy says otherwise near", local, near, here, []string{"X-Forwarded-For: 127.0.0.2"}, "127.0.0.2", false, ""},
		{"near proxy says nothing", local, near, here, nil, "", false, ""},
		{"far proxy says near", proxy, "10.0.0.1:1", here, []string{"X-Forwarded-For: 127.0.0.1"}, "127.0.0.1", false, ""},
		{"far proxy says ::1", proxy, "10.0.0.1:1", here, []string{"X-Forwarded-For: ::1"}, "::1", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.rules.Peer(request(c.from, c.host, c.lines...))
			if got := fmt.Sprintf("%s local=%t told=%s", p.IP(), p.Local, p.ReportedIP()); got != fmt.Sprintf("%s local=%t told=%s", c.client, c.local, c.told) {
				t.Errorf("%s", got)
			}
		})
	}
}

func TestHeadersOfTheMode(t *testing.T) {
	r := &Rules{Headers: []string{"X-User", "x-group"}, Tailscale: true}
	p := r.Peer(request(near, "gw", "x-user:  ann ", "X-Group: a", "X-Group: b", "X-Other: c", "X-Forwarded-For: 100.64.0.9, 127.0.0.1"))
	if len(p.Headers) != 1 || p.Headers["x-user"] != "ann" || p.Claimed.String() != "100.64.0.9" || p.Client.String() != "127.0.0.1" {
		t.Errorf("%+v", p)
	}
	if p := r.Peer(request(near, "gw", "X-User: "+strings.Repeat("a", maxHeader+1))); p.Headers != nil {
		t.Error("a long header is kept")
	}
	if p := r.Peer(request(far, "gw", "X-Forwarded-For: 100.64.0.9")); p.Claimed.IsValid() {
		t.Error("a claim from afar counts")
	}
}

// Whose page a request is, in the three places where it matters: connections of browser clients,
// connections of others, and REST.
func TestOrigin(t *testing.T) {
	strict := &Rules{}
	named := &Rules{Origins: []string{" https://UI.example/ ", "http://10.0.0.5:8080", "https://bücher.example", "null", "*.evil.example", "https://a.example/path"}}
	proxied := &Rules{Trusted: prefixes("10.0.0.0/8"), Origins: []string{"https://ui.example"}}
	header := &Rules{HostHeader: true}
	for _, c := range []struct {
		rules  *Rules
		from   string
		host   string
		origin string
		lines  []string
		want   string // connects, writes
	}{
		{strict, near, "127.0.0.1:18789", "http://127.0.0.1:18789", nil, "connects writes"},
		{strict, near, "127.0.0.1:18789", "http://localhost:3000", nil, "connects"},
		{strict, near, "127.0.0.1:18789", "http://[::1]:3000", nil, "connects"},
		{strict, near, "127.0.0.1:18789", "HTTP://LOCALHOST", nil, "connects"},
		{strict, near, "127.0.0.1:18789", "http://[::ffff:127.0.0.1]", nil, "connects"},
		{strict, near, "evil.example", "http://localhost:3000", nil, ""},     // not local: the host is foreign
		{strict, near, "evil.example", "http://evil.example", nil, "writes"}, // the Host header is REST's to check
		{strict, far, "gw.example", "http://localhost:3000", nil, ""},        // a local page of another machine
		{strict, far, "gw.example", "https://gw.example", nil, "writes"},     //
		{strict, far, "gw.example", "http://gw.example:18789", nil, ""},      // another port
		{strict, far, "gw.example:443", "https://gw.example", nil, "writes"}, // the default port
		{strict, far, "GW.example", "https://gw.EXAMPLE:443", nil, "writes"}, //
		{strict, far, "gw.example.", "https://gw.example", nil, ""},          // a trailing dot is another name
		{strict, far, "gw.example", "https://gw.example.", nil, ""},          //
		{header, far, "gw.example", "https://gw.example", nil, "connects writes"},
		{header, far, "gw.example", "https://gw.example.evil.example", nil, ""},
		{header, far, "", "https://", nil, ""},
		{strict, near, "127.0.0.1", "http://127.0.0.1.evil.example", nil, ""},
		{strict, near, "127.0.0.1", "http://localhost.evil.example", nil, ""},
		{strict, near, "127.0.0.1", "http://localhost.", nil, ""},
		{strict, near, "127.0.0.1", "http://user@localhost", nil, ""},
		{strict, near, "127.0.0.1", "http://evil.example#@localhost", nil, ""},
		{strict, near, "127.0.0.1", "http://localhost/", nil, ""},
		{strict, near, "127.0.0.1", "http://localhost:0x50", nil, ""},
		{strict, near, "127.0.0.1", "http://localhost:99999", nil, ""},
		{strict, near, "127.0.0.1", "http://localhost:", nil, ""},
		{strict, near, "127.0.0.1", "http://ⓛocalhost", nil, ""},
		{strict, near, "127.0.0.1", "http://127。0。0。1", nil, ""},
		{strict, near, "127.0.0.1", "http://2130706433", nil, ""},
		{strict, near, "127.0.0.1", "http://0177.0.0.1", nil, ""},
		{strict, near, "127.0.0.1", "http://::1", nil, ""},
		{strict, near, "127.0.0.1", "http://[::1%25lo]", nil, ""},
		{strict, near, "127.0.0.1", "file://", nil, ""},
		{strict, near, "127.0.0.1", "null", nil, ""},
		{strict, near, "127.0.0.1", "", nil, ""},
		{strict, near, "127.0.0.1", "://localhost", nil, ""},
		{named, far, "gw", "https://ui.example", nil, "connects writes"},
		{named, far, "gw", "HTTPS://ui.example:443", nil, "connects writes"},
		{named, far, "gw", "http://ui.example", nil, ""},
		{named, far, "gw", "https://ui.example:8443", nil, ""},
		{named, far, "gw", "https://ui.example.evil.example", nil, ""},
		{named, far, "gw", "https://evil.example/https://ui.example", nil, ""},
		{named, far, "gw", "https://ui.example\\.evil.example", nil, ""},
		{named, far, "gw", "http://10.0.0.5:8080", nil, "connects writes"},
		{named, far, "gw", "null", nil, ""},
		{named, far, "gw", "https://bücher.example", nil, ""},
		{named, far, "gw", "https://x.evil.example", nil, ""},
		{named, far, "gw", "https://a.example", nil, ""},
		{&Rules{Origins: []string{"*"}}, far, "gw", "https://anything.example", nil, "connects writes"},
		{&Rules{Origins: []string{"*"}}, far, "gw", "null", nil, ""},
		// Through proxies.
		{proxied, "10.0.0.1:1", "backend:18789", "https://gw.example", []string{"X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: gw.example"}, "app writes"},
		{proxied, "10.0.0.1:1", "backend:18789", "https://evil.example", []string{"X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: gw.example"}, ""},
		{proxied, "10.0.0.1:1", "gw.example", "https://gw.example", []string{"X-Forwarded-For: 203.0.113.7"}, "app writes"},
		{proxied, "10.0.0.1:1", "gw.example", "https://ui.example", []string{"X-Forwarded-For: 203.0.113.7"}, "connects writes"},
		{proxied, far, "gw.example", "https://evil.example", []string{"X-Forwarded-Host: evil.example", "X-Forwarded-For: 203.0.113.7"}, ""},
		// What browsers say of themselves.
		{strict, far, "gw.example", "https://gw.example", []string{"Sec-Fetch-Site: same-origin"}, "writes"},
		{strict, far, "gw.example", "https://gw.example", []string{"Sec-Fetch-Site: same-site"}, ""},
		{strict, far, "gw.example", "https://gw.example", []string{"Sec-Fetch-Site: cross-site"}, ""},
		{named, far, "gw.example", "https://ui.example", []string{"Sec-Fetch-Site: cross-site"}, "connects writes"},
	} {
		t.Run(c.origin+" at "+c.host, func(t *testing.T) {
			req := request(c.from, c.host, append(c.lines, "Origin: "+c.origin)...)
			p := c.rules.Peer(req)
			page := c.rules.Page(req, p)
			var got []string
			if page.MayConnect() {
				got = append(got, "connects")
			} else if page.SameHost && p.Forwarded {
				got = append(got, "app")
			}
			if c.rules.MayWrite(req, p) {
				got = append(got, "writes")
			}
			if s := strings.Join(got, " "); s != c.want || !page.Present {
				t.Errorf("%q, want %q", s, c.want)
			}
		})
	}
	two := request(near, "127.0.0.1", "Origin: http://localhost", "Origin: http://localhost")
	if p := strict.Peer(two); strict.Page(two, p).MayConnect() || strict.MayWrite(two, p) {
		t.Error("two origins pass")
	}
	none := request(near, "127.0.0.1")
	if strict.Page(none, identity.Peer{}).Present || !strict.MayWrite(none, identity.Peer{}) {
		t.Error("a request without a page does not pass")
	}
	if hidden := request(near, "127.0.0.1", "Sec-Fetch-Site: cross-site"); strict.MayWrite(hidden, identity.Peer{}) {
		t.Error("an image of a foreign page passes")
	}
}

func FuzzPeer(f *testing.F) {
	f.Add("127.0.0.1:1", "localhost", "203.0.113.7, 10.0.0.1", "http://localhost")
	f.Add("[::1]:1", "[::1]:80", "::ffff:1.2.3.4", "https://[::1]:8443")
	f.Add("10.0.0.1:1", "a.ts.net", "unknown,,10.0.0.2", "null")
	f.Add("10.0.0.1:1", "localhost:", " [fd00::1%x]:5 ", "http://localhost:")
	f.Add("", "", "", "://")
	rules := &Rules{Trusted: prefixes("10.0.0.0/8"), Origins: []string{"https://ui.example"}}
	f.Fuzz(func(t *testing.T, from, host, xff, text string) {
		req := request(from, host)
		req.Header["X-Forwarded-For"] = []string{xff}
		req.Header["Origin"] = []string{text}
		p := rules.Peer(req)
		if p.Local {
			t.Error("a forwarded client is local")
		}
		if p.Trusted && p.Client.IsValid() && rules.Trusts(p.Client) {
			t.Errorf("the client %s is a proxy", p.Client)
		}
		if !p.Trusted && p.Client != p.Direct {
			t.Errorf("%s speaks for %s", p.Direct, p.Client)
		}
		delete(req.Header, "X-Forwarded-For")
		p = rules.Peer(req)
		page := rules.Page(req, p)
		if page.Allowed && !strings.EqualFold(strings.TrimSuffix(text, ":443"), "https://ui.example") {
			t.Errorf("%q is allowed", text)
		}
		if page.Loopback {
			u, err := url.Parse(text)
			if err != nil || u.User != nil || u.Path != "" || !LoopbackName(u.Hostname()) {
				t.Errorf("%q is a page of this machine", text)
			}
		}
		if name, ok := Hostname(host); ok {
			if u, err := url.Parse("http://" + host + "/"); err == nil && !strings.EqualFold(u.Hostname(), name) {
				t.Errorf("%q names %q, not %q", host, u.Hostname(), name)
			}
		}
	})
}
