// Package tailnet asks the Tailscale service of this machine whose machine an address of the tailnet
// is, which machines there are, and for connections to them. It speaks to the service's local socket
// only.
//
// It imports the standard library, and on Windows that of named pipes, and owns no goroutine. A
// Client is safe for concurrent use.
package tailnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"
)

const (
	// askTimeout bounds one question; the service answers from memory.
	askTimeout = 2 * time.Second
	// cacheLife is how long an answer is used: machines change hands rarely, but a browser opens many
	// connections at once.
	cacheLife = 30 * time.Second
	// failLife is how long no answer is one: whoever claims addresses is not to keep the service busy.
	failLife = 2 * time.Second
	// maxCached bounds the answers that are kept.
	maxCached = 1024
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 256 << 10
	// maxAsking is how many questions are asked at a time; others wait.
	maxAsking = 4
	// taggedDevices is the login of machines that belong to no user.
	taggedDevices = "tagged-devices"
)

// networks are the addresses of tailnets: what is not among them is nobody's there.
var networks = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a:115c:a1e0::/48")}

// Client asks the service.
type Client struct {
	http   *http.Client
	dial   func(context.Context) (net.Conn, error)
	now    func() time.Time
	asking chan struct{}

	mu    sync.Mutex
	cache map[netip.Addr]answer
}

type answer struct {
	login string
	err   error
	at    time.Time
}

// New returns a client of the service's socket at path, "" for where it is on this system. It does
// not look whether the service runs.
func New(path string, now func() time.Time) *Client {
	if path == "" {
		path = socketPath
	}
	here := func(ctx context.Context) (net.Conn, error) { return dial(ctx, path) }
	return &Client{
		dial: here,
		http: &http.Client{
			Timeout: askTimeout,
			Transport: &http.Transport{
				DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return here(ctx) },
				DisableKeepAlives: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		now: now, asking: make(chan struct{}, maxAsking), cache: map[netip.Addr]answer{},
	}
}

// Login implements identity.Tailnet.
func (c *Client) Login(ctx context.Context, addr netip.Addr) (string, error) {
	addr = addr.Unmap()
	if !inTailnet(addr) {
		return "", fmt.Errorf("%s is no address of a tailnet", addr)
	}
	if a, ok := c.cached(addr); ok {
		return a.login, a.err
	}
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if a, ok := c.cached(addr); ok { // asked for meanwhile
		return a.login, a.err
	}
	login, err := c.whois(ctx, addr)
	if ctx.Err() == nil { // who hung up says nothing about the address
		c.keep(addr, answer{login, err, c.now()})
	}
	return login, err
}

func inTailnet(a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (c *Client) cached(addr netip.Addr) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.cache[addr]
	life := cacheLife
	if a.err != nil {
		life = failLife
	}
	age := c.now().Sub(a.at)
	return a, ok && age >= 0 && age < life
}

func (c *Client) keep(addr netip.Addr, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cache) >= maxCached {
		clear(c.cache) // it lives for seconds anyway
	}
	c.cache[addr] = a
}

func (c *Client) whois(ctx context.Context, addr netip.Addr) (string, error) {
	at := url.URL{
		Scheme: "http", Host: "local-tailscaled.sock", Path: "/localapi/v0/whois",
		// The port is that of the client, which the proxy does not tell; the service looks at the address.
		RawQuery: url.Values{"addr": {netip.AddrPortFrom(addr, 1).String()}}.Encode(),
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask the Tailscale service of this machine: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the Tailscale service answers %s for %s", resp.Status, addr)
	}
	var out struct {
		UserProfile struct{ LoginName string }
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the answer of the Tailscale service: %w", err)
	case len(body) > maxAnswer:
		return "", errors.New("the answer of the Tailscale service is too long")
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return "", fmt.Errorf("read the answer of the Tailscale service: %w", err)
	}
	if login := out.UserProfile.LoginName; login != "" && login != taggedDevices {
		return login, nil
	}
	return "", fmt.Errorf("%s belongs to no user of the tailnet", addr)
}
