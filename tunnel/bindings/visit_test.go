package bindings

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

var owner = identity.Internal()

// target is a local service that does what services do.
func target() http.Handler {
	m := http.NewServeMux()
	echo := func(w http.ResponseWriter, r *http.Request) {
		for name, v := range r.Header {
			w.Header()["Saw-"+name] = v
		}
		w.Header().Set("Saw-Host", r.Host)
		w.Header().Set("Saw-Target", r.RequestURI)
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Service-Worker-Allowed", "/")
		_, _ = io.Copy(w, r.Body)
	}
	m.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
	m.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", n)
			_ = http.NewResponseController(w).Flush()
			if n == 1 {
				<-r.Context().Done() // until the visitor has gone
			}
		}
	})
	m.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "a.bin", time.Unix(1, 0), bytes.NewReader(bytes.Repeat([]byte("0123456789"), 1000)))
	})
	m.HandleFunc("/status/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		w.WriteHeader(n)
	})
	m.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/echo/there", http.StatusFound) })
	m.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\n\r\nhello ", r.Header.Get("Upgrade"))
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/echo/") { // whatever its path looks like
			echo(w, r)
			return
		}
		m.ServeHTTP(w, r)
	})
}

func bindHTTP(t testing.TB, s *Service, p *peerOf, with func(*BindIn)) BindOut {
	t.Helper()
	in := BindIn{TunnelID: "S-1", BindID: 1, Kind: KindHTTP, Mode: ModeExpose, Upstream: p}
	if with != nil {
		with(&in)
	}
	out, err := s.Bind(context.Background(), owner, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// both runs a test with a peer that gives raw streams, and with a published driver.
func bothPeers(t *testing.T, f func(t *testing.T, p *peerOf)) {
	at := listens(t, target())
	for name, raw := range map[string]bool{"raw": true, "driver": false} {
		t.Run(name, func(t *testing.T) { f(t, &peerOf{target: at, raw: raw}) })
	}
}

func TestVisitors(t *testing.T) {
	bothPeers(t, func(t *testing.T, p *peerOf) {
		s := tunnels(t, nil)
		out := bindHTTP(t, s, p, nil)
		if out.Port < randomFrom || out.Port > randomTo || out.PublicURL != "" {
			t.Errorf("%+v", out)
		}
		req, _ := http.NewRequest("GET", out.url("/echo/a%2Fb//c?x=1&&y=%zz;"), nil)
		req.Host = "app.example"
		req.Header.Set("X-Forwarded-For", "1.2.3.4")
		req.Header.Set("Forwarded", "for=1.2.3.4")
		req.Header.Set("X-A", "1")
		req.Header.Set("Connection", "x-hop")
		req.Header.Set("X-Hop", "1")
		res, err := client.Do(req)
		body(t, res, err)
		for name, want := range map[string]string{
			"Saw-Target": "/echo/a%2Fb//c?x=1&&y=%zz;", "Saw-X-A": "1", "Saw-X-Forwarded-For": "127.0.0.1", "Saw-X-Forwarded-Host": "app.example",
			"Saw-X-Forwarded-Proto": "http", "Saw-Forwarded": "", "Saw-X-Hop": "", "Set-Cookie": "a=b",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s is %q, not %q", name, got, want)
			}
		}
		if p.raw && res.Header.Get("Saw-Host") != "localhost" {
			t.Error(res.Header.Get("Saw-Host"))
		}

		// A large body, of known and of unknown length.
		big := bytes.Repeat([]byte("hanzo tunnel"), 10<<20/12)
		want := fmt.Sprintf("%d %x", len(big), sha256.Sum256(big))
		for _, r := range []io.Reader{bytes.NewReader(big), struct{ io.Reader }{bytes.NewReader(big)}} {
			res, err := client.Post(out.url("/sum"), "text/plain", r)
			if got := body(t, res, err); got != want {
				t.Errorf("the target got %q, not %q", got, want)
			}
		}
		req, _ = http.NewRequest("POST", out.url("/sum"), bytes.NewReader(big[:1000]))
		req.Header.Set("Expect", "100-continue")
		res, err = client.Do(req)
		if got := body(t, res, err); !strings.HasPrefix(got, "1000 ") {
			t.Error(got)
		}

		// HEAD, ranges, statuses without a body.
		res, err = client.Head(out.url("/file"))
		if body(t, res, err); res.ContentLength != 10_000 {
			t.Errorf("%+v", res)
		}
		req, _ = http.NewRequest("GET", out.url("/file"), nil)
		req.Header.Set("Range", "bytes=5-8")
		res, err = client.Do(req)
		if got := body(t, res, err); res.StatusCode != 206 || got != "5678" {
			t.Errorf("%d %q", res.StatusCode, got)
		}
		for _, n := range []int{204, 304, 404, 500} {
			res, err = client.Get(out.url("/status/" + strconv.Itoa(n)))
			if body(t, res, err); res.StatusCode != n {
				t.Errorf("%d, not %d", res.StatusCode, n)
			}
		}
		eventually(t, "the streams of requests are closed", func() bool {
			s.evict(s.share("S-1"))
			return p.open() == 0 && s.Share("S-1").Used == 1
		})
	})
}

func TestEventsAreNotHeldBack(t *testing.T) {
	bothPeers(t, func(t *testing.T, p *peerOf) {
		s := tunnels(t, nil)
		out := bindHTTP(t, s, p, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", out.url("/sse"), nil)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		for _, want := range []string{"data: 0", "", "data: 1"} {
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("%q %v, not %q", lines.Text(), lines.Err(), want)
			}
		}
		cancel() // the stream ends with its visitor
		res.Body.Close()
		eventually(t, "the stream has ended", func() bool { return p.open() == 0 && s.Share("S-1").Used == 1 })
	})
}

func TestUpgrades(t *testing.T) {
	bothPeers(t, func(t *testing.T, p *peerOf) {
		s := tunnels(t, nil)
		out := bindHTTP(t, s, p, nil)
		for _, kind := range []string{"websocket", "something/2"} {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(c, "GET /up HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n\r\n", kind)
			r := bufio.NewReader(c)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != kind {
				t.Fatalf("%+v %v", res, err)
			}
			if _, err := io.WriteString(c, "there"); err != nil {
				t.Fatal(err)
			}
			_ = closeWrite(c) // a half-close goes all the way and back
			got, err := io.ReadAll(r)
			if err != nil || string(got) != "hello there" {
				t.Errorf("%q %v", got, err)
			}
		}
		res, err := client.Get(out.url("/echo/"))
		body(t, res, err)
		eventually(t, "the streams have ended", func() bool { s.evict(s.share("S-1")); return s.Share("S-1").Used == 1 })
	})
}

// TestTrailers checks what follows bodies, in both directions, over raw streams.
func TestTrailers(t *testing.T) {
	at := listens(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("Sum", "of "+r.Trailer.Get("Name"))
	}))
	s := tunnels(t, nil)
	out := bindHTTP(t, s, &peerOf{target: at, raw: true}, nil)
	for _, method := range []string{"GET", "POST"} {
		req, _ := http.NewRequest(method, out.url("/"), nil)
		want := "of"
		if method == "POST" {
			req.Body = io.NopCloser(strings.NewReader("hello"))
			req.Trailer = http.Header{"Name": {"x"}}
			want = "of x"
		}
		res, err := client.Do(req)
		body(t, res, err)
		if got := res.Trailer.Get("Sum"); got != want {
			t.Errorf("%s: the trailer is %q, not %q", method, got, want)
		}
	}
	s.evict(s.share("S-1"))
}

// TestHTTP2 checks that a port speaks it too, to visitors who know beforehand.
func TestHTTP2(t *testing.T) {
	bothPeers(t, func(t *testing.T, p *peerOf) {
		s := tunnels(t, nil)
		out := bindHTTP(t, s, p, nil)
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		defer tr.CloseIdleConnections()
		c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				res, err := c.Post(out.url("/echo/"), "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if got, err := io.ReadAll(res.Body); err != nil || string(got) != "hello" || res.ProtoMajor != 2 {
					t.Errorf("%s %q %v", res.Proto, got, err)
				}
			})
		}
		wg.Wait()
		tr.CloseIdleConnections()
		eventually(t, "the permits are back", func() bool { s.evict(s.share("S-1")); return s.Permits().Used == 1 })
	})
}

func TestAnswersOfTheTable(t *testing.T) {
	bothPeers(t, func(t *testing.T, p *peerOf) {
		s := tunnels(t, nil)
		out := bindHTTP(t, s, p, nil)
		for _, c := range []struct {
			err    error
			status int
			retry  string
			body   string
		}{
			{ErrParked, 503, "5", `"code":"parked"`},
			{ErrNoCarrier, 503, "5", `"code":"no_carrier"`},
			{ErrStreams, 503, "1", "max streams exceeded"},
			{ErrRefused, 502, "", `"code":"refused"`},
			{errReset, 502, "", `"code":"refused"`},
		} {
			p.fail.Store(&c.err)
			res, err := client.Post(out.url("/sum"), "", strings.NewReader("x"))
			got := body(t, res, err)
			if res.StatusCode != c.status || res.Header.Get("Retry-After") != c.retry || !strings.Contains(got, c.body) {
				t.Errorf("%v: %d %q %s", c.err, res.StatusCode, res.Header.Get("Retry-After"), got)
			}
		}
		p.fail.Store(nil)
		s.Park("S-1")
		res, err := client.Get(out.url("/echo/"))
		if body(t, res, err); res.StatusCode != 503 || res.Header.Get("Retry-After") != "5" || !s.OfTunnel("S-1")[0].Parked {
			t.Errorf("%+v", res)
		}
		s.Resume("S-1", func(int) Upstream { return p })
		res, err = client.Get(out.url("/echo/"))
		if body(t, res, err); res.StatusCode != 200 {
			t.Errorf("%+v", res)
		}
		s.Park("S-1")
		s.Resume("S-1", func(int) Upstream { return &peerOf{target: "127.0.0.1:1", raw: p.raw} }) // nobody is there
		res, err = client.Get(out.url("/echo/"))
		if body(t, res, err); res.StatusCode != 502 {
			t.Errorf("%+v", res)
		}
	})
}

func TestHeadsOfDrivers(t *testing.T) {
	s := tunnels(t, nil)
	p := &peerOf{}
	out := bindHTTP(t, s, p, nil)
	head := func(status int, headers ...string) wire.ResponseHeadBody {
		h := wire.ResponseHeadBody{Status: status, Final: true}
		for i := 0; i < len(headers); i += 2 {
			h.Headers = append(h.Headers, [2]string{headers[i], headers[i+1]})
		}
		return h
	}
	early := head(103, "link", "</a.css>")
	early.Final = false
	for name, c := range map[string]struct {
		heads  []wire.ResponseHeadBody
		body   string
		status int
		want   string // of the body; "!" for a cut connection
	}{
		"plain":               {[]wire.ResponseHeadBody{head(200, "x", "y")}, "hello", 200, "hello"},
		"with a length":       {[]wire.ResponseHeadBody{head(200, "content-length", "5")}, "hello", 200, "hello"},
		"more than said":      {[]wire.ResponseHeadBody{head(200, "content-length", "5")}, "hello there", 200, "hello"},
		"less than said":      {[]wire.ResponseHeadBody{head(200, "content-length", "9")}, "hello", 200, "!"},
		"chunks of its own":   {[]wire.ResponseHeadBody{head(200, "transfer-encoding", "chunked")}, "hello", 200, "hello"},
		"informational first": {[]wire.ResponseHeadBody{early, head(201)}, "made", 201, "made"},
		"no status":           {[]wire.ResponseHeadBody{head(0)}, "", 502, ""},
		"a status too far":    {[]wire.ResponseHeadBody{head(600)}, "", 502, ""},
		"a bad name":          {[]wire.ResponseHeadBody{head(200, "a b", "c")}, "", 502, ""},
		"a bad value":         {[]wire.ResponseHeadBody{head(200, "a", "b\r\nc: d")}, "", 502, ""},
		"two lengths":         {[]wire.ResponseHeadBody{head(200, "content-length", "1", "content-length", "2")}, "", 502, ""},
		"a bad length":        {[]wire.ResponseHeadBody{head(200, "content-length", "-1")}, "", 502, ""},
		"switched unasked":    {[]wire.ResponseHeadBody{head(101)}, "", 502, ""},
		"never final":         {slices.Repeat([]wire.ResponseHeadBody{early}, maxHeads), "", 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p.driver = func(_ OpenIn, st *fakeStream) {
				for _, h := range c.heads {
					st.heads <- h
				}
				_, _ = io.WriteString(st.peer, c.body)
				_ = closeWrite(st.peer)
			}
			res, err := client.Get(out.url("/"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			switch {
			case res.StatusCode != c.status:
				t.Errorf("%d", res.StatusCode)
			case c.want == "!" && err == nil:
				t.Error("a response that is cut off looks whole")
			case c.want != "!" && c.status < 500 && string(got) != c.want:
				t.Errorf("%q", got)
			}
		})
	}
	p.driver = func(_ OpenIn, st *fakeStream) { // a reset after the head
		st.heads <- head(200)
		_, _ = io.WriteString(st.peer, "hel")
		time.Sleep(50 * time.Millisecond)
		_ = st.Reset(wire.CodeInternal, "")
	}
	res, err := client.Get(out.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a response that was reset looks whole: %q", got)
	}
	res.Body.Close()
	want := "host app.example|accept */*|user-agent x|x-b 1|x-b 2|x-forwarded-for 127.0.0.1|x-forwarded-host app.example|x-forwarded-proto http"
	p.driver = func(_ OpenIn, st *fakeStream) { st.heads <- head(204); _ = closeWrite(st.peer) }
	req, _ := http.NewRequest("GET", out.url("/hello?x=1"), nil)
	req.Host = "app.example"
	req.Header = http.Header{"Accept": {"*/*"}, "User-Agent": {"x"}, "X-B": {"1", "2"}}
	res, err = client.Do(req)
	body(t, res, err)
	var got []string
	for _, h := range p.last.Load().Headers {
		got = append(got, h[0]+" "+h[1])
	}
	if g := strings.Join(got, "|"); g != want || p.last.Load().Target != "/hello?x=1" {
		t.Errorf("%s\n%+v", g, p.last.Load())
	}
	eventually(t, "the streams have ended", func() bool { return s.Share("S-1").Used == 1 })
}

func TestPorts(t *testing.T) {
	own := 0
	s := tunnels(t, func(c *Config) { c.Own = func(p int) bool { return p == own } })
	p := &peerOf{raw: true}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	own = 30_303
	n := 0
	bind := func(in BindIn) (BindOut, error) {
		n++
		in.BindID, in.Upstream = n, p
		if in.TunnelID == "" {
			in.TunnelID = "S-1"
		}
		return s.Bind(context.Background(), owner, in)
	}
	first, err := bind(BindIn{Kind: KindHTTP, Mode: ModeExpose})
	if err != nil {
		t.Fatal(err)
	}
	pull, err := bind(BindIn{Kind: KindTCP, Mode: ModePull})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		in   BindIn
		code string
	}{
		"port 79":             {BindIn{Kind: KindHTTP, Mode: ModeExpose, Port: 79}, wire.ReservedPort},
		"port 1":              {BindIn{Kind: KindTCP, Mode: ModePull, Port: 1}, wire.ReservedPort},
		"port 80":             {BindIn{Kind: KindHTTP, Mode: ModeExpose, Port: 80}, wire.PrivilegedPort},
		"port 1023":           {BindIn{Kind: KindTCP, Mode: ModePull, Port: 1023}, wire.PrivilegedPort},
		"port 65536":          {BindIn{Kind: KindTCP, Mode: ModePull, Port: 65536}, wire.ReservedPort},
		"negative":            {BindIn{Kind: KindTCP, Mode: ModePull, Port: -1}, wire.ReservedPort},
		"the daemon's":        {BindIn{Kind: KindHTTP, Mode: ModeExpose, Port: own}, wire.ReservedPort},
		"a foreign host":      {BindIn{Kind: KindTCP, Mode: ModePull, Host: "0.0.0.0"}, wire.InvalidHost},
		"localhost":           {BindIn{Kind: KindTCP, Mode: ModePull, Host: "localhost"}, wire.InvalidHost},
		"http and pull":       {BindIn{Kind: KindHTTP, Mode: ModePull}, wire.InvalidKind},
		"udp":                 {BindIn{Kind: "udp", Mode: ModeExpose}, wire.InvalidKind},
		"takeover of a pull":  {BindIn{Kind: KindTCP, Mode: ModePull, Takeover: true}, wire.InvalidKind},
		"somebody listens":    {BindIn{Kind: KindHTTP, Mode: ModeExpose, Port: busy.Addr().(*net.TCPAddr).Port}, wire.PortInUse},
		"exposed already":     {BindIn{TunnelID: "S-2", Kind: KindHTTP, Mode: ModeExpose, Port: first.Port}, wire.AlreadyBound},
		"exposed, as tcp":     {BindIn{TunnelID: "S-2", Kind: KindTCP, Mode: ModeExpose, Port: first.Port, Takeover: true}, wire.AlreadyBound},
		"pulled already":      {BindIn{TunnelID: "S-2", Kind: KindTCP, Mode: ModePull, Port: pull.Port}, wire.PortInUse},
		"pulled, now exposed": {BindIn{TunnelID: "S-2", Kind: KindHTTP, Mode: ModeExpose, Port: pull.Port, Takeover: true}, wire.PortInUse},
		"exposed, now pulled": {BindIn{TunnelID: "S-2", Kind: KindTCP, Mode: ModePull, Port: first.Port}, wire.PortInUse},
	} {
		if _, err := bind(c.in); err == nil || Code(err) != c.code {
			t.Errorf("%s: %v, not %s", name, err, c.code)
		}
	}
	if got := s.Stats().Rejected[wire.ReservedPort]; got != 5 {
		t.Errorf("%d", got)
	}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		if out, err := bind(BindIn{Kind: KindTCP, Mode: ModePull, Host: "::1", Port: pull.Port}); err != nil || out.Port != pull.Port {
			t.Errorf("the same port on the other address: %+v %v", out, err)
		}
	}
	for len(s.OfTunnel("S-1")) < MaxPerTunnel {
		if _, err := bind(BindIn{Kind: KindTCP, Mode: ModePull}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bind(BindIn{Kind: KindTCP, Mode: ModePull}); Code(err) != wire.BindCapExceeded {
		t.Errorf("one too many: %v", err)
	}
	if err := s.Unbind("S-1", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", first.Binding.Host+":"+strconv.Itoa(first.Port)); err == nil {
		t.Error("what is unbound still listens")
	}
	if err := s.Unbind("S-1", 1); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	s.End("S-1")
	if got := s.Permits(); got.Used != 0 {
		t.Errorf("%+v", got)
	}
}

func TestPublicURLs(t *testing.T) {
	for _, c := range []struct {
		pattern string
		in      BindIn
		want    string // with P for the port
		host    string
	}{
		{"", BindIn{Kind: KindHTTP, Mode: ModeExpose}, "", ""},
		{"", BindIn{Kind: KindHTTP, Mode: ModeExpose, Subdomain: "site"}, "https://box:18789/exposed/site/", ""},
		{"https://{port}-{name}.example.com", BindIn{Kind: KindHTTP, Mode: ModeExpose, Label: "web"}, "https://P-web.example.com", "P-web.example.com"},
		{"https://{subdomain}.example.com", BindIn{Kind: KindHTTP, Mode: ModeExpose, Subdomain: "site"}, "https://site.example.com", "site.example.com"},
		{"https://{subdomain}.example.com", BindIn{Kind: KindHTTP, Mode: ModeExpose, Subdomain: "gw"}, "!", ""},
		{"http://gw.example.com:{port}/", BindIn{Kind: KindTCP, Mode: ModeExpose}, "tcp://gw.example.com:P/", ""},
		{"http://other.example.com:{port}/", BindIn{Kind: KindHTTP, Mode: ModeExpose}, "http://other.example.com:P/", ""},
		{"https://{port}.example.com", BindIn{Kind: KindTCP, Mode: ModePull}, "", ""},
	} {
		s := tunnels(t, func(cfg *Config) { cfg.Pattern = func() string { return c.pattern } })
		c.in.TunnelID, c.in.BindID, c.in.Upstream = "S-1", 1, &peerOf{raw: true}
		out, err := s.Bind(context.Background(), owner, c.in)
		if c.want == "!" {
			if err == nil {
				t.Errorf("%+v: %+v", c, out)
			}
			continue
		}
		port := strconv.Itoa(out.Port)
		if err != nil || out.PublicURL != strings.ReplaceAll(c.want, "P", port) {
			t.Errorf("%s %+v: %+v %v", c.pattern, c.in, out, err)
		}
		if c.host != "" {
			if b, _, _ := s.find(strings.ReplaceAll(c.host, "P", port), "/"); b == nil {
				t.Errorf("%s leads nowhere", out.PublicURL)
			}
		}
	}
}

// TestTakeover checks that no visitor is turned away while a port goes from one tunnel to the other and back.
func TestTakeover(t *testing.T) {
	bothPeers(t, func(t *testing.T, p *peerOf) {
		s := tunnels(t, nil)
		out := bindHTTP(t, s, p, nil)
		stop := make(chan struct{})
		var (
			wg   sync.WaitGroup
			done atomic.Int64
		)
		for range 4 {
			wg.Go(func() {
				c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
				for {
					select {
					case <-stop:
						return
					default:
					}
					res, err := c.Get(out.url("/echo/"))
					if err != nil {
						t.Error(err)
						return
					}
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err != nil || res.StatusCode != 200 {
						t.Errorf("%d %v", res.StatusCode, err)
						return
					}
					done.Add(1)
				}
			})
		}
		long, err := client.Get(out.url("/sse"))
		if err != nil {
			t.Fatal(err)
		}
		defer long.Body.Close()
		var revoked []string
		var mu sync.Mutex
		for n := range 20 {
			before := done.Load()
			_, err := s.Bind(context.Background(), owner, BindIn{
				TunnelID: "S-" + strconv.Itoa(2+n%2), BindID: n, Kind: KindHTTP, Mode: ModeExpose, Port: out.Port, Takeover: true, Upstream: &peerOf{target: p.target, raw: p.raw},
				Revoked: func(reason string) { mu.Lock(); revoked = append(revoked, reason); mu.Unlock() },
				Bound:   func(BindOut) { time.Sleep(time.Millisecond) },
			})
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "visitors come to the new owner", func() bool { return done.Load() > before+4 })
		}
		close(stop)
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(revoked) != 19 || len(s.OfTunnel("S-1")) != 0 || s.Stats().Takeovers != 20 {
			t.Errorf("%v %+v", revoked, s.Stats())
		}
		if _, err := io.Copy(io.Discard, long.Body); err == nil {
			t.Error("a stream of the old owner goes on")
		}
		acme := owner
		acme.Tenant = "acme"
		in := BindIn{TunnelID: "S-9", BindID: 1, Kind: KindHTTP, Mode: ModeExpose, Port: out.Port, Takeover: true, Upstream: p}
		if _, err := s.Bind(context.Background(), acme, in); Code(err) != wire.AlreadyBound {
			t.Errorf("a tenant takes over what is the gateway's: %v", err)
		}
		if _, err := s.Bind(context.Background(), node("", "n9"), in); Code(err) != wire.AlreadyBound {
			t.Errorf("a node takes over what is an operator's: %v", err)
		}
		eventually(t, "permits are back", func() bool {
			for _, b := range s.OfTunnel("S-3") {
				s.byID(b.ID).idle()
			}
			return s.Permits().Used <= 1+4
		})
	})
}

func TestTCP(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { // answers when it has heard all
				defer c.Close()
				all, err := io.ReadAll(c)
				if err == nil {
					_, _ = c.Write(all)
				}
			}()
		}
	}()
	for _, raw := range []bool{true, false} {
		for _, mode := range []string{ModePull, ModeExpose} {
			s := tunnels(t, nil)
			p := &peerOf{target: echo.Addr().String(), raw: raw}
			out := bindHTTP(t, s, p, func(in *BindIn) { in.Kind, in.Mode = KindTCP, mode })
			big := bytes.Repeat([]byte("x"), 4<<20)
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(15 * time.Second))
			start := time.Now()
			go func() {
				_, _ = c.Write(big)
				_ = closeWrite(c)
			}()
			got, err := io.ReadAll(c)
			c.Close()
			if err != nil || !bytes.Equal(got, big) {
				t.Errorf("%v %s: %d bytes, %v", raw, mode, len(got), err)
			}
			if took := time.Since(start); !raw && took < delayEOF {
				t.Errorf("the end was not held back: %v", took)
			}
			s.Park("S-1")
			c, err = net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if n, err := c.Read(make([]byte, 1)); err == nil {
					t.Errorf("%d bytes of a parked tunnel", n)
				}
				c.Close()
			}
			eventually(t, "the permits are back", func() bool { return s.Share("S-1").Used == 1 && p.open() == 0 })
		}
	}
}

// TestPermits checks that what abusive visitors took is given back.
func TestPermits(t *testing.T) {
	hold := make(chan struct{})
	at := listens(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	for _, raw := range []bool{true, false} {
		s := tunnels(t, nil)
		p := &peerOf{target: at, raw: raw}
		out := bindHTTP(t, s, p, nil)
		var conns []net.Conn
		for range 300 {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		}
		full := 0
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
			line, err := bufio.NewReader(c).ReadString('\n')
			switch {
			case err != nil:
				t.Fatal(err)
			case strings.Contains(line, "503"):
				full++
			case !strings.Contains(line, "200"):
				t.Fatal(line)
			}
		}
		if full != 300-sharePermits+1 {
			t.Errorf("%d of 300 were refused; 99 streams are there", full)
		}
		if got := s.Share("S-1"); got.Used != got.Limit {
			t.Errorf("%+v", got)
		}
		for i, c := range conns { // resets, half-closes, and closes
			switch i % 3 {
			case 0:
				abort(c)
			case 1:
				_ = closeWrite(c)
				c.Close()
			default:
				c.Close()
			}
		}
		eventually(t, "all permits but that of the port are back", func() bool {
			return s.Share("S-1").Used == 1 && s.Permits().Used == 1 && p.open() == 0
		})
	}
	close(hold)
}

// TestStalls checks that visitors who neither read nor go on with what they send hold no stream for ever.
func TestStalls(t *testing.T) {
	at := listens(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for range 500 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	for _, raw := range []bool{true, false} {
		s := tunnels(t, nil)
		s.stall = 200 * time.Millisecond
		out := bindHTTP(t, s, &peerOf{target: at, raw: raw}, nil)
		for _, req := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"} {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			before := s.Stats().Total[StreamResult{KindTCP, "opened"}] + s.Stats().Total[StreamResult{KindHTTP, "opened"}]
			_, _ = io.WriteString(c, req)
			eventually(t, "a stream is open", func() bool {
				return s.Stats().Total[StreamResult{KindTCP, "opened"}]+s.Stats().Total[StreamResult{KindHTTP, "opened"}] > before
			})
			eventually(t, "it is given up", func() bool { s.evict(s.share("S-1")); return s.Permits().Used == 1 })
		}
	}
}

// parkedAs parks a tunnel as soon as it has opened a stream, or when the stream is asked something.
type parkedAs struct {
	*peerOf
	opens bool
	park  func()
}

func (p parkedAs) Open(ctx context.Context, in OpenIn) (Stream, error) {
	st, err := p.peerOf.Open(ctx, in)
	if p.opens {
		p.park()
	} else {
		time.AfterFunc(100*time.Millisecond, p.park)
	}
	return st, err
}

// TestParkedMeanwhile checks that a visitor whose tunnel loses its carrier while a stream is opened for it, or before there
// is a response, is told when to come again, and leaves nothing.
func TestParkedMeanwhile(t *testing.T) {
	place := listens(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // there is no response
	}))
	for _, raw := range []bool{true, false} {
		for _, opens := range []bool{true, false} {
			for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: flood\r\n"} {
				t.Run(fmt.Sprintf("raw %t, opens %t, upgrade %t", raw, opens, upgrade != ""), func(t *testing.T) {
					s := tunnels(t, nil)
					p := &peerOf{target: place, raw: raw}
					out := bindHTTP(t, s, p, func(in *BindIn) { in.Upstream = parkedAs{p, opens, func() { s.Park("S-1") }} })
					c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(10 * time.Second))
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n"+upgrade+"\r\n")
					res, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						t.Fatal(err)
					}
					if got := body(t, res, err); res.StatusCode != 503 || res.Header.Get("Retry-After") != "5" || !strings.Contains(got, `"code":"parked"`) {
						t.Errorf("%d %s", res.StatusCode, got)
					}
					_ = c.Close()
					eventually(t, "the permits are back", func() bool { return s.Permits().Used == 1 && p.open() == 0 })
				})
			}
		}
	}
}

// TestStalledUpgrades checks the same of visitors after 101, whose tunnel is well or has ended: their descriptors, their
// permits and all goroutines are given back.
func TestStalledUpgrades(t *testing.T) {
	var at atomic.Int64
	place := listens(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		at.Add(1)
		defer at.Add(-1)
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	for name, dies := range map[string]bool{"the tunnel is well": false, "the tunnel ends": true} {
		for _, raw := range []bool{true, false} {
			t.Run(name+", raw "+strconv.FormatBool(raw), func(t *testing.T) {
				s := tunnels(t, nil)
				if s.stall = 300 * time.Millisecond; dies {
					s.stall = time.Hour // it is not what ends them
				}
				p := &peerOf{target: place, raw: raw}
				out := bindHTTP(t, s, p, nil)
				before := runtime.NumGoroutine()
				c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
				if head, err := bufio.NewReaderSize(c, 16).ReadString('\n'); !strings.Contains(head, "101") { // and no more
					t.Fatalf("%q, %v", head, err)
				}
				eventually(t, "a stream is open", func() bool { return p.open() == 1 && at.Load() == 1 && s.Permits().Used >= 3 })
				if dies {
					s.Park("S-1")
				}
				eventually(t, "the permits are back", func() bool { return s.Permits().Used == 1 && p.open() == 0 && at.Load() == 0 })
				eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
			})
		}
	}
}

func TestFullProcessPauses(t *testing.T) {
	at := listens(t, target())
	s := tunnels(t, func(c *Config) { c.Settings = func() Settings { return Settings{Permits: 6} } })
	p := &peerOf{target: at, raw: true}
	out := bindHTTP(t, s, p, nil)
	var conns []net.Conn
	for range 6 {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(out.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	eventually(t, "half of the permits are visitors'", func() bool { return s.Permits().Used == 4 })
	for _, c := range conns {
		c.Close()
	}
	res, err := client.Get(out.url("/echo/"))
	if body(t, res, err); res.StatusCode != 200 {
		t.Errorf("%+v", res)
	}
	for _, in := range []BindIn{{BindID: 2}, {BindID: 3}, {BindID: 4}, {BindID: 5}, {BindID: 6}} {
		in.TunnelID, in.Kind, in.Mode, in.Upstream = "S-1", KindTCP, ModePull, p
		_, err = s.Bind(context.Background(), owner, in)
	}
	if Code(err) != wire.BindCapExceeded {
		t.Error(err)
	}
}

func TestAccess(t *testing.T) {
	at := listens(t, target())
	reader := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}}
	s := tunnels(t, func(c *Config) {
		c.Authenticate = func(r *http.Request) (identity.Caller, error) {
			switch r.Header.Get("Authorization") {
			case "Bearer reader":
				return reader, nil
			case "Bearer node":
				return node("", "n"), nil
			case "Bearer nothing":
				return identity.Caller{Role: identity.RoleOperator}, nil
			}
			return identity.Caller{}, identity.ErrBearerRequired
		}
	})
	p := &peerOf{target: at, raw: true}
	get := func(url string, with ...string) *http.Response {
		t.Helper()
		req, _ := http.NewRequest("GET", url, nil)
		for i := 0; i < len(with); i += 2 {
			req.Header.Set(with[i], with[i+1])
		}
		res, err := client.Do(req)
		body(t, res, err)
		return res
	}
	tok := bindHTTP(t, s, p, func(in *BindIn) { in.Access = Token })
	if len(tok.Secret) < 40 {
		t.Fatalf("%q", tok.Secret)
	}
	for _, h := range []string{"", "Bearer x", "Bearer " + tok.Secret + "x", "Basic !!", "Digest " + tok.Secret} {
		if res := get(tok.url("/echo/"), "Authorization", h); res.StatusCode != 401 || len(res.Header["Www-Authenticate"]) != 2 {
			t.Errorf("%q lets in: %d", h, res.StatusCode)
		}
	}
	if res := get(tok.url("/echo/"), "Authorization", "Bearer "+tok.Secret); res.StatusCode != 200 || res.Header.Get("Saw-Authorization") != "" {
		t.Errorf("%+v", res)
	}
	req, _ := http.NewRequest("GET", tok.url("/echo/"), nil)
	req.SetBasicAuth("anybody", tok.Secret)
	if res := get(tok.url("/echo/"), "Authorization", req.Header.Get("Authorization")); res.StatusCode != 200 {
		t.Errorf("%+v", res)
	}
	if res := get(tok.url("/echo/?hanzo_token=wrong")); res.StatusCode != 401 {
		t.Errorf("%+v", res)
	}
	res := get(tok.url("/echo/?a=1&hanzo_token=" + tok.Secret + "&b=2"))
	c := res.Cookies()
	if res.StatusCode != 303 || res.Header.Get("Location") != "/echo/?a=1&b=2" || len(c) != 1 || !c[0].HttpOnly || strings.Contains(fmt.Sprint(res.Header["Location"]), tok.Secret) {
		t.Fatalf("%+v", res)
	}
	res = get(tok.url("/echo/"), "Cookie", "own=1; "+c[0].Name+"="+c[0].Value+"; more=2")
	if res.StatusCode != 200 || res.Header.Get("Saw-Cookie") != "own=1; more=2" {
		t.Errorf("%+v", res)
	}
	op := bindHTTP(t, s, p, func(in *BindIn) { in.Access, in.BindID = Operator, 2 })
	for h, want := range map[string]int{"": 401, "Bearer node": 401, "Bearer nothing": 401, "Bearer x": 401, "Bearer reader": 200} {
		if res := get(op.url("/echo/"), "Authorization", h); res.StatusCode != want || res.Header.Get("Saw-Authorization") != "" {
			t.Errorf("%q: %d", h, res.StatusCode)
		}
	}
	for _, in := range []BindIn{{Access: "all"}, {Access: Token, Secret: "short"}, {Access: Token, Kind: KindTCP}} {
		in.TunnelID, in.BindID, in.Mode, in.Upstream, in.Kind = "S-1", 9, ModeExpose, p, KindTCP
		if _, err := s.Bind(context.Background(), owner, in); Code(err) != wire.InvalidKind {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

// TestPaths checks that what is below the daemon's address has none of the power of its origin.
func TestPaths(t *testing.T) {
	at := listens(t, target())
	p := &peerOf{target: at, raw: true}
	s := tunnels(t, func(c *Config) {
		c.Admit = func(_ context.Context, _ identity.Caller, b Binding) (Upstream, error) { return p, nil }
	})
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.Visit(w, r) {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer daemon.Close()
	made, err := s.Create(context.Background(), owner, CreateIn{NodeID: "n", LocalAddr: at, Protocol: HTTP, Subdomain: "site"})
	if err != nil || made.Secret == "" || made.Binding.Access != Token {
		t.Fatalf("%+v %v", made, err)
	}
	get := func(path string, with ...string) *http.Response {
		t.Helper()
		req, _ := http.NewRequest("GET", daemon.URL+path, nil)
		for i := 0; i < len(with); i += 2 {
			req.Header.Set(with[i], with[i+1])
		}
		res, err := client.Do(req)
		body(t, res, err)
		return res
	}
	if res := get("/v1/nodes"); res.StatusCode != http.StatusTeapot {
		t.Errorf("%+v", res)
	}
	if res := get("/exposed/none/"); res.StatusCode != 404 {
		t.Errorf("%+v", res)
	}
	if res := get("/exposed/site/echo/"); res.StatusCode != 401 {
		t.Errorf("%+v", res)
	}
	auth := "Bearer " + made.Secret
	if res := get("/exposed/site?x=1"); res.StatusCode != 308 || res.Header.Get("Location") != "/exposed/site/?x=1" {
		t.Errorf("%+v", res)
	}
	res := get("/exposed/site/echo/a%2Fb?x=1", "Authorization", auth, "Cookie", "daemon=secret")
	for name, want := range map[string]string{
		"Saw-Target": "/echo/a%2Fb?x=1", "Saw-X-Forwarded-Prefix": "/exposed/site", "Saw-Cookie": "", "Saw-Authorization": "", "Set-Cookie": "",
		"Service-Worker-Allowed": "", "X-Content-Type-Options": "nosniff", "Saw-Host": at,
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	if csp := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "sandbox ") || strings.Contains(csp, "same-origin") {
		t.Error(csp)
	}
	if res := get("/exposed/site/to", "Authorization", auth); res.Header.Get("Location") != "/exposed/site/echo/there" {
		t.Errorf("%+v", res)
	}
	if res := get("/exposed/site/echo/sw.js", "Authorization", auth, "Service-Worker", "script"); res.StatusCode != 403 {
		t.Errorf("%+v", res)
	}
	if out, _ := s.List(context.Background(), owner, ListIn{NodeID: "n"}); len(out.Bindings) != 1 {
		t.Errorf("%+v", out)
	}
	s.Stop(node("", "n"), at) // a node does not end what is an operator's
	if _, err := s.Delete(context.Background(), owner, DeleteIn{made.Binding.ID}); err != nil {
		t.Error(err)
	}
	if res := get("/exposed/site/echo/", "Authorization", auth); res.StatusCode != 404 {
		t.Errorf("%+v", res)
	}
}

// TestLinks checks what links expose, before there is a carrier and with one (tunnel.md §1.12).
func TestLinks(t *testing.T) {
	at := listens(t, target())
	var up atomic.Pointer[peerOf]
	s := tunnels(t, func(c *Config) {
		c.Upstreams = func(string) Upstream {
			if p := up.Load(); p != nil {
				return p
			}
			return nil
		}
	})
	n := node("", "n")
	web, err := s.Create(context.Background(), n, CreateIn{Name: "web", LocalAddr: at, Protocol: HTTP, Subdomain: "web"})
	if err != nil || web.Binding.Access != Public {
		t.Fatalf("%+v %v", web, err)
	}
	raw, err := s.Create(context.Background(), n, CreateIn{Name: "raw", LocalAddr: at, Protocol: TCP})
	if err != nil {
		t.Fatal(err)
	}
	tcp := "http://127.0.0.1:" + strconv.Itoa(raw.Binding.Port)
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/exposed/web/echo/", nil)
		if !s.Visit(w, r) {
			t.Fatal("no visitor")
		}
		return w
	}
	if w := get(); w.Code != 503 || w.Header().Get("Retry-After") != "5" || !strings.Contains(w.Body.String(), `"code":"no_carrier"`) {
		t.Errorf("%+v", w)
	}
	if res, err := client.Get(tcp + "/echo/"); err == nil {
		t.Errorf("%+v", res)
	}
	up.Store(&peerOf{target: at, raw: true})
	if w := get(); w.Code != 200 {
		t.Errorf("%+v", w)
	}
	if in := up.Load().last.Load(); net.JoinHostPort(in.Host, strconv.Itoa(in.Port)) != at {
		t.Errorf("%+v", in)
	}
	res, err := client.Get(tcp + "/echo/")
	if body(t, res, err); res.StatusCode != 200 {
		t.Errorf("%+v", res)
	}
	again, err := s.Create(context.Background(), n, CreateIn{Name: "raw", LocalAddr: at, Protocol: TCP})
	if err != nil || again.Binding.Port != raw.Binding.Port {
		t.Errorf("a node that says it again has another port: %+v %v", again, err)
	}
	s.Stop(n, "raw")
	if _, err := net.Dial("tcp", strings.TrimPrefix(tcp, "http://")); err == nil {
		t.Error("what is stopped is still there")
	}
	s.Stop(n, "web")
	if w := get(); w.Code != 404 {
		t.Errorf("%+v", w)
	}
}
