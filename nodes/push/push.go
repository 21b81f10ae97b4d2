// Package push sends pushes to phones through the Apple Push Notification service.
//
// It imports errs and a JOSE library. A Client owns the goroutines of its HTTP connections and ends
// them in Close. Neither the private key nor a phone's token is in any error or log.
package push

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// tokenFor is how long a provider token is used. The service refuses those older than an hour, and
	// those renewed more than once in twenty minutes (nodes-approvals.md §1.6; frozen).
	tokenFor = 50 * time.Minute
	// requestTimeout bounds one push (frozen).
	requestTimeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer: it is a reason in JSON.
	maxAnswer = 4 << 10
	// idleTimeout is how long an unused connection is kept: the service wants them reused.
	idleTimeout = 5 * time.Minute
	// pingAfter and pingTimeout find a connection that died silently.
	pingAfter   = 30 * time.Second
	pingTimeout = 5 * time.Second
)

// Environment is one of the two services, which know different phones.
type Environment string

// The environments.
const (
	Sandbox    Environment = "sandbox"
	Production Environment = "production"
)

var hosts = map[Environment]string{
	Sandbox:    "https://api.sandbox.push.apple.com",
	Production: "https://api.push.apple.com",
}

// The errors of this package.
var (
	ErrNoCredentials = errs.Define(errs.Conflict, "push.no_credentials",
		"pushes need credentials of Apple's service: set HANZOD_APNS_TEAM_ID and HANZOD_APNS_KEY_ID")
	ErrNoKey = errs.Define(errs.Conflict, "push.no_key",
		"pushes need a private key of Apple's service: set HANZOD_APNS_PRIVATE_KEY_PATH or HANZOD_APNS_PRIVATE_KEY_P8")
	ErrKey = errs.Define(errs.Conflict, "push.key",
		"the private key for pushes is no P-256 key in PKCS #8 and PEM, as Apple hands it out in a .p8 file")
	ErrEnvironment = errs.Define(errs.Invalid, "push.environment", "the environment of a push is sandbox or production")
	ErrUnreachable = errs.Define(errs.Unavailable, "push.unreachable", "the push service did not answer")
)

// Config is what a Client needs. All of it is secret or private.
type Config struct {
	TeamID string
	KeyID  string
	// Key is the private key as PEM text; line feeds may be written as \n.
	Key string
	// KeyErr says why there is no Key although one was named.
	KeyErr error
	// Now is the clock, time.Now when nil.
	Now func() time.Time

	// Hosts and Roots take the place of Apple's service in tests.
	Hosts map[Environment]string
	Roots *x509.CertPool
}

// Client sends pushes. Its methods may be called concurrently.
type Client struct {
	cfg   Config
	ready error
	key   *ecdsa.PrivateKey
	http  *http.Client

	mu    sync.Mutex
	token string
	made  time.Time
}

// New returns a client. Missing or wrong credentials show in Ready, not here: a gateway without
// them works, but for pushes.
func New(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Hosts == nil {
		cfg.Hosts = hosts
	}
	var only http.Protocols
	only.SetHTTP2(true)
	c := &Client{cfg: cfg, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, Protocols: &only, IdleConnTimeout: idleTimeout,
			TLSClientConfig: &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
			HTTP2:           &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		},
		// A push goes to the service and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch {
	case cfg.TeamID == "" || cfg.KeyID == "":
		c.ready = ErrNoCredentials
	case cfg.KeyErr != nil:
		c.ready = ErrKey.Wrap(cfg.KeyErr)
	case cfg.Key == "":
		c.ready = ErrNoKey
	default:
		c.key, c.ready = parseKey(cfg.Key)
	}
	c.cfg.Key = ""
	return c
}

// parseKey says nothing of what it was given.
func parseKey(text string) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(strings.ReplaceAll(text, `\n`, "\n")))
	if block == nil {
		return nil, ErrKey
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, ErrKey
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	return ec, nil
}

// Ready returns why no push can be sent, nil when one can.
func (c *Client) Ready() error { return c.ready }

// Close ends the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Alert is what a push shows to the user.
type Alert struct {
	Title string
	Body  string
}

// Message is one push to one phone.
type Message struct {
	// Token is the phone's, in hex; Topic the app's bundle id.
	Token       string
	Topic       string
	Environment Environment
	// Alert is nil for a push in the background.
	Alert *Alert
	// Kind, NodeID, At and Reason tell the app what it is about; Reason may be empty.
	Kind   string
	NodeID string
	At     time.Time
	Reason string
}

// Result is the service's answer.
type Result struct {
	// Status is 200 when the push was taken.
	Status int
	ID     string
	// Reason says why it was not, in the service's words.
	Reason string
}

// OK reports whether the push was taken.
func (r Result) OK() bool { return r.Status == http.StatusOK }

// Gone reports whether the phone's token is not in use any more.
func (r Result) Gone() bool { return r.Status == http.StatusGone }

// Hopeless reports whether sending the same again cannot help.
func (r Result) Hopeless() bool {
	return r.Status >= 400 && r.Status < 500 && r.Status != http.StatusTooManyRequests
}

type aps struct {
	Alert   *alert `json:"alert,omitempty"`
	Sound   string `json:"sound,omitempty"`
	Content int    `json:"content-available,omitempty"`
}

type alert struct {
	Title string `json:"title"`
	Body  string `json:"body"`
}

type about struct {
	Kind   string `json:"kind"`
	NodeID string `json:"nodeId"`
	TS     int64  `json:"ts"`
	Reason string `json:"reason,omitempty"`
}

type payload struct {
	APS   aps   `json:"aps"`
	About about `json:"openclaw"`
}

// Send hands a push to the service and returns its answer, within 10 s. The error says that there is
// none (ErrUnreachable), or that no push can be sent.
func (c *Client) Send(ctx context.Context, m Message) (Result, error) {
	if c.ready != nil {
		return Result{}, c.ready
	}
	host, ok := c.cfg.Hosts[m.Environment]
	if !ok {
		return Result{}, ErrEnvironment
	}
	p := payload{APS: aps{Content: 1}, About: about{m.Kind, m.NodeID, m.At.UnixMilli(), m.Reason}}
	kind, priority := "background", "5"
	if m.Alert != nil {
		p.APS = aps{Alert: &alert{m.Alert.Title, m.Alert.Body}, Sound: "default"}
		kind, priority = "alert", "10"
	}
	body, err := json.Marshal(p)
	if err != nil {
		return Result{}, errs.Wrap(errs.Internal, "write a push", err)
	}
	bearer, err := c.bearer()
	if err != nil {
		return Result{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, host+"/3/device/"+url.PathEscape(m.Token), bytes.NewReader(body))
	if err != nil {
		return Result{}, errs.New(errs.Internal, "make a push")
	}
	for k, v := range map[string]string{
		"Authorization": "bearer " + bearer, "Content-Type": "application/json", "Apns-Topic": m.Topic,
		"Apns-Push-Type": kind, "Apns-Priority": priority, "Apns-Expiration": "0",
	} {
		req.Header.Set(k, v)
	}
	res, err := c.http.Do(req)
	if err != nil {
		// The error of the HTTP client names the address, which has the phone's token in it.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return Result{}, ErrUnreachable.Wrap(err)
	}
	defer res.Body.Close()
	out := Result{Status: res.StatusCode, ID: res.Header.Get("Apns-Id")}
	var answer struct {
		Reason string `json:"reason"`
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil && json.Unmarshal(text, &answer) == nil {
		out.Reason = answer.Reason
	}
	return out, nil
}

// bearer is the provider token, made anew when it is too old.
func (c *Client) bearer() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	if age := now.Sub(c.made); c.token != "" && age >= 0 && age < tokenFor {
		return c.token, nil
	}
	opts := (&jose.SignerOptions{}).WithHeader("kid", c.cfg.KeyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.key}, opts)
	if err != nil {
		return "", errs.Wrap(errs.Internal, "sign for the push service", err)
	}
	claims, err := json.Marshal(struct {
		Issuer string `json:"iss"`
		Issued int64  `json:"iat"`
	}{c.cfg.TeamID, now.Unix()})
	if err != nil {
		return "", errs.Wrap(errs.Internal, "sign for the push service", err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", errs.Wrap(errs.Internal, "sign for the push service", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return "", errs.Wrap(errs.Internal, "sign for the push service", err)
	}
	c.token, c.made = token, now
	return token, nil
}
