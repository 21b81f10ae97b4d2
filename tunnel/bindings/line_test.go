package bindings

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestLines checks that raw streams carry one request after the other, and none after what ended badly.
func TestLines(t *testing.T) {
	var answer atomic.Pointer[string]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // answers each request with the text, and ends the connection behind one with a !
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					text, end := strings.CutSuffix(*answer.Load(), "!")
					_, _ = io.WriteString(c, text)
					if end {
						return
					}
				}
			}()
		}
	}()
	s := tunnels(t, nil)
	p := &peerOf{target: l.Addr().String(), raw: true}
	out := bindHTTP(t, s, p, nil)
	huge := "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", maxResponseHead) + "\r\nContent-Length: 0\r\n\r\n"
	for _, c := range []struct {
		name, answer string
		status       int
		body         string // "!" for one that is cut off
		again        bool   // the stream carries the next request
	}{
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok", true},
		{"nothing", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		{"hints first", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true},
		{"more than said", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok?", 200, "ok", false},
		{"the last one", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		{"up to the end", "HTTP/1.1 200 OK\r\n\r\nok!", 200, "ok", false},
		{"an old target", "HTTP/1.0 200 OK\r\n\r\nok!", 200, "ok", false},
		{"less than said", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok!", 200, "!", false},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-!", 502, "", false},
		{"nonsense", "hello\r\n\r\n", 502, "", false},
		{"nothing at all", "!", 502, "", false},
		{"switched unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", 502, "", false},
		{"hints only", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxHeads+1), 502, "", false},
		{"a huge head", huge, 502, "", false},
	} {
		s.evict(s.share("S-1"))
		answer.Store(&c.answer)
		before := p.opened.Load()
		for range 2 {
			res, err := client.Get(out.url("/"))
			if err != nil {
				t.Fatal(c.name, err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.status || c.body == "!" && err == nil || c.body != "!" && c.status < 300 && (err != nil || string(got) != c.body) {
				t.Errorf("%s: %d %q %v", c.name, res.StatusCode, got, err)
			}
		}
		if n := p.opened.Load() - before; n != 1 && c.again || n != 2 && !c.again {
			t.Errorf("%s: two requests took %d streams", c.name, n)
		}
	}
	s.evict(s.share("S-1"))
	eventually(t, "the streams have ended", func() bool { return s.Share("S-1").Used == 1 && p.open() == 0 })
}

// TestStaleLines checks that a target which ends idle connections fails no visitor.
func TestStaleLines(t *testing.T) {
	for _, goodbye := range []string{"", "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ended := make(chan struct{}, 8)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
						time.Sleep(10 * time.Millisecond)
						_, _ = io.WriteString(c, goodbye)
					}
					c.Close()
					ended <- struct{}{}
				}()
			}
		}()
		s := tunnels(t, nil)
		p := &peerOf{target: l.Addr().String(), raw: true}
		out := bindHTTP(t, s, p, nil)
		for range 3 {
			res, err := client.Get(out.url("/"))
			if got := body(t, res, err); res.StatusCode != 200 || got != "ok" {
				t.Errorf("%d %q", res.StatusCode, got)
			}
			<-ended
			time.Sleep(20 * time.Millisecond)
		}
		if n := p.opened.Load(); n != 3 {
			t.Errorf("%d streams", n)
		}
		s.evict(s.share("S-1"))
	}
}
