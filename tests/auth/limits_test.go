package auth

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Who fails too often through a trusted proxy is locked out at every door, alone.
func TestLockOut(t *testing.T) {
	d := start(t, map[string]any{
		"trustedProxies": []string{"127.0.0.1"},
		"auth":           tokenMode("rateLimit", map[string]any{"maxAttempts": 3, "windowMs": 60000, "lockoutMs": 90000}),
	})
	from := func(ip string) string { return "X-Forwarded-For: " + ip }
	bad := []string{from("203.0.113.7"), "Host: gw.example"}
	if got := (hello{token: "x", header: bad[:1]}).verdict(t, d); got != "AUTH_TOKEN_MISMATCH" {
		t.Errorf("the first: %s", got)
	}
	for range 2 {
		if got := nodes(t, d, append(bad, bearer("x"))...); got != http.StatusUnauthorized {
			t.Errorf("REST: %d", got)
		}
	}
	if got := (hello{token: d.Token, header: bad[:1]}).verdict(t, d); got != "AUTH_RATE_LIMITED" {
		t.Errorf("the right token: %s", got)
	}
	resp, text := ask(t, d, "GET", "/v1/nodes", "", append(bad, bearer(d.Token))...)
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != http.StatusTooManyRequests || after < 85 || after > 90 || !strings.Contains(text, "identity.rate_limited") {
		t.Errorf("REST: %d, Retry-After %q, %s", resp.StatusCode, resp.Header.Get("Retry-After"), text)
	}
	resp, _ = ask(t, d, "GET", "/metrics", "", append(bad, bearer(d.Token))...)
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("metrics: %d", resp.StatusCode)
	}
	resp, text = ask(t, d, "POST", "/tools/invoke", `{"tool":"x"}`, append(bad, bearer(d.Token))...)
	if after, _ := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != http.StatusTooManyRequests || after < 85 || !strings.Contains(text, "Too many failed authentication attempts") {
		t.Errorf("tools: %d, %s", resp.StatusCode, text)
	}
	for _, ip := range []string{"203.0.113.8", "2001:db8::1"} {
		if got := (hello{token: d.Token, header: []string{from(ip)}}).verdict(t, d); got != "in" {
			t.Errorf("%s: %s", ip, got)
		}
	}
	// IPv6 neighbours are one.
	for i := range 3 {
		hello{token: "x", header: []string{from(fmt.Sprintf("2001:db8:0:7::%d", i+1))}}.verdict(t, d)
	}
	if a, b := (hello{token: d.Token, header: []string{from("2001:db8:0:7:ffff::1")}}).verdict(t, d), (hello{token: d.Token, header: []string{from("2001:db8:0:8::1")}}).verdict(t, d); a != "AUTH_RATE_LIMITED" || b != "in" {
		t.Errorf("the neighbour: %s, another network: %s", a, b)
	}
	// A client cannot choose whom to be: what it sends itself stands to the left.
	for i := range 3 {
		hello{token: "x", header: []string{from(fmt.Sprintf("192.0.2.%d, 203.0.113.50", i))}}.verdict(t, d)
	}
	if got := (hello{token: d.Token, header: []string{from("192.0.2.99, 203.0.113.50")}}).verdict(t, d); got != "AUTH_RATE_LIMITED" {
		t.Errorf("who names others: %s", got)
	}
}

// A reverse proxy on this machine that nobody named exempts nobody.
func TestUnknownLocalProxyIsNotExempt(t *testing.T) {
	d := start(t, map[string]any{"auth": tokenMode("rateLimit", map[string]any{"maxAttempts": 3})})
	for _, header := range []string{"X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.7", "Via: 1.1 proxy"} {
		hello{token: "x", header: []string{header}}.verdict(t, d)
	}
	if got := (hello{token: d.Token, header: []string{"X-Real-IP: 203.0.113.9"}}).verdict(t, d); got != "AUTH_RATE_LIMITED" {
		t.Errorf("through the proxy: %s", got)
	}
	for range 5 {
		hello{token: "x"}.verdict(t, d)
	}
	if got := (hello{token: d.Token}).verdict(t, d); got != "in" {
		t.Errorf("directly: %s", got)
	}
}

// A web page of this machine that guesses has ten tries, whatever the configuration says, and does
// not lock out programs.
func TestPageGuesses(t *testing.T) {
	d := start(t, map[string]any{"auth": map[string]any{"mode": "password", "password": "a-password-0123456789"}})
	page := []string{origin("http://localhost:3000")}
	for i := range 10 {
		if got := (hello{password: fmt.Sprint("guess", i), header: page}).verdict(t, d); got != "AUTH_PASSWORD_MISMATCH" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	if a, b := (hello{password: "a-password-0123456789", header: page}).verdict(t, d), (hello{password: "a-password-0123456789"}).verdict(t, d); a != "AUTH_RATE_LIMITED" || b != "in" {
		t.Errorf("the page: %s, a program: %s", a, b)
	}
}

// A local program that guesses as fast as it can, by both doors and from many addresses of loopback,
// has a few guesses a second. Meanwhile a paired device gets in, and afterwards everybody.
func TestLoopbackBruteForce(t *testing.T) {
	d := start(t, map[string]any{"auth": map[string]any{"mode": "password", "password": "a-password-0123456789"}})
	in := hello{device: "phone", scopes: []string{"operator.read"}, password: "a-password-0123456789"}.connect(t, d)
	token, _ := in.get(t, "auth", "deviceToken").(string)
	const lasts = 3 * time.Second
	var judged, refused, failed atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	count := func(limited bool) {
		if limited {
			refused.Add(1)
		} else {
			judged.Add(1)
		}
	}
	for w := range 16 {
		wg.Go(func() {
			for i := 0; time.Since(began) < lasts; i++ {
				if w%2 == 0 {
					c, err := hello{password: fmt.Sprint(w, i)}.try(d.WS())
					if err != nil {
						failed.Add(1)
						continue
					}
					count(c.refused == "AUTH_RATE_LIMITED")
					_ = c.ws.CloseNow()
					continue
				}
				resp, _, err := request(d, "GET", "/v1/nodes", "", bearer(fmt.Sprint(w, i)))
				if err != nil {
					failed.Add(1)
					continue
				}
				count(resp.StatusCode == http.StatusTooManyRequests)
			}
		})
	}
	wg.Go(func() {
		for time.Since(began) < lasts {
			if got := (hello{device: "phone", scopes: []string{"operator.read"}, deviceToken: token}).verdict(t, d); got != "in" {
				t.Errorf("the paired device: %s", got)
			}
			if got := nodes(t, d, bearer(token)); got != http.StatusOK {
				t.Errorf("its bearer: %d", got)
			}
			time.Sleep(lasts / 10)
		}
	})
	wg.Wait()
	took := time.Since(began)
	t.Logf("in %s %d guesses were judged, %d refused, %d failed otherwise", took, judged.Load(), refused.Load(), failed.Load())
	if most := 100 + int64(took.Seconds()*10) + 16; judged.Load() > most {
		t.Errorf("%d guesses in %s", judged.Load(), took)
	}
	if judged.Load() < 100 {
		t.Errorf("only %d guesses: it is not told what was measured", judged.Load())
	}
	if got := (hello{password: "a-password-0123456789"}).verdict(t, d); got != "in" {
		t.Errorf("the owner afterwards: %s", got)
	}
}

// A flood of refusals does not fill the log, and what is logged of one is bounded.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	d := start(t, map[string]any{"auth": tokenMode()})
	before := len(d.LogText())
	const floods = 800
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for range floods / 8 {
				h := hello{}
				if w%2 == 0 {
					h.id = strings.Repeat("a\n", 10_000) // the refusal quotes what does not fit
				}
				if c, err := h.try(d.WS()); err == nil {
					_ = c.ws.CloseNow()
				}
				_, _, _ = request(d, "GET", "/v1/nodes?"+strings.Repeat("q", 1000), "")
			}
		})
	}
	wg.Wait()
	log := d.LogText()[before:]
	if n := strings.Count(log, "not let in"); n == 0 || n > 40 {
		t.Errorf("%d of %d refusals are logged", n, floods)
	}
	if len(log) > 64<<10 {
		t.Errorf("%d refusals made %d bytes of log:\n%.2000s", floods, len(log), log)
	}
}

// Strangers who open connections as fast as they can, and say nothing, keep nobody out.
func TestStrangersKeepNobodyOut(t *testing.T) {
	d := start(t, map[string]any{"auth": tokenMode()})
	stop := make(chan struct{})
	var opened atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var open []net.Conn
			defer func() {
				for _, c := range open {
					_ = c.Close()
				}
			}()
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.DialTimeout("tcp", d.Addr(), time.Second)
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				opened.Add(1)
				if open = append(open, c); len(open) > 1500 {
					_ = open[0].Close()
					open = open[1:]
				}
			}
		})
	}
	began := time.Now()
	var slowest time.Duration
	in, tries := 0, 0
	for time.Since(began) < 3*time.Second {
		at := time.Now()
		tries++
		c, err := hello{token: d.Token, scopes: allScopes}.try(d.WS())
		if err == nil && c.refused == "" {
			in++
		}
		if c != nil && c.ws != nil {
			_ = c.ws.CloseNow()
		}
		slowest = max(slowest, time.Since(at))
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	t.Logf("beside %d strangers %d of %d clients got in, the slowest after %s", opened.Load(), in, tries, slowest)
	if in != tries || slowest > 5*time.Second {
		t.Errorf("%d of %d clients got in, the slowest after %s", in, tries, slowest)
	}
}
