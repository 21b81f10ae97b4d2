// Package dial is the client half of the legacy JSON WebSocket dialect: it connects to a gateway as an operator or a
// node, calls methods and receives events (protocol.md §2 to §4), and runs the node host's side of a connection
// (nodes-approvals.md §4).
//
// It imports leaves, compat/wire, nodes/host and the WebSocket library. A Conn owns two goroutines, a reader and a
// watchdog for ticks; Close waits for both.
package dial

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Protocol is the version that this package speaks.
const Protocol = 3

// Limits.
const (
	// MaxFrame is the largest message that is read or sent, in bytes (protocol.md §0).
	MaxFrame = 25 << 20
	// handshakeTimeout is how long the gateway may take for the challenge, and again for its answer (protocol.md §0).
	handshakeTimeout = 10 * time.Second
	// closeWait is how long a refused connection is read for its close code.
	closeWait = 2 * time.Second
	// maxEarly is how many events may come before the hello; a gateway that sends more is hung up on.
	maxEarly = 64
	// defaultTick is the tick interval of a gateway that names none; minTick and maxTick bound what it may name.
	defaultTick = 30 * time.Second
	minTick     = 10 * time.Millisecond
	maxTick     = 10 * time.Minute
)

// Client is what a connection says of itself. Version and Platform are filled in when empty.
type Client struct {
	ID, Version, Platform, Mode, DisplayName, DeviceFamily, ModelIdentifier, InstanceID string
}

// Auth is the secrets of a connection; empty ones are left out.
type Auth struct{ Token, DeviceToken, Password string }

// Options of Dial. URL and Client.ID and Client.Mode are required.
type Options struct {
	// URL is ws:// or wss://. Plain ws:// is refused for other machines unless AllowInsecure is set, because secrets
	// travel in it.
	URL           string
	AllowInsecure bool
	Header        http.Header
	Client        Client
	// Role is operator when empty.
	Role        identity.Role
	Scopes      []identity.Scope
	Caps        []string
	Commands    []string
	Permissions map[string]bool
	PathEnv     string
	Auth        Auth
	// Device signs the connection; nil connects without one. SignatureVersion is v3 when empty.
	Device           *Identity
	SignatureVersion string
	// TLSFingerprint is the SHA-256 of the gateway's certificate in hex, colons allowed. It replaces the check by
	// certificate authorities.
	TLSFingerprint string
	// TLS is a base configuration; nil is the system's.
	TLS *tls.Config
	// OnEvent is called for every event, in order, by the reader: it must not block and not call Close or Call. With
	// it, Events stays empty.
	OnEvent func(*Conn, Event)
	// Now is the clock for signatures; time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Hello is the gateway's welcome (protocol.md §3.3).
type Hello struct {
	ServerVersion string
	ConnID        string
	CanvasURL     string
	// DeviceToken is empty unless the device is paired.
	DeviceToken  string
	Role         identity.Role
	Scopes       []identity.Scope
	TickInterval time.Duration
	Raw          json.RawMessage
}

// RefusedError says that the gateway did not let the connection in.
type RefusedError struct {
	Code    string
	Message string
	// Details is JSON text, nil when there are none.
	Details json.RawMessage
	// CloseCode is the WebSocket close code, -1 when none was seen.
	CloseCode int
}

func (e *RefusedError) Error() string { return "the gateway refused the connection: " + e.Message }

// Detail returns a text member of the details, "" when there is none. "code" is the finer code (protocol.md §4.3).
func (e *RefusedError) Detail(name string) string {
	var d map[string]any
	_ = json.Unmarshal(e.Details, &d)
	s, _ := d[name].(string)
	return s
}

// Dial connects and returns when the gateway has said hello. It fails with a *RefusedError when the gateway refuses, and
// with an error of the class errs.Invalid when the options hold what no retry mends.
// ctx covers the handshake alone.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Role == "" {
		o.Role = identity.RoleOperator
	}
	if o.Client.Version == "" {
		o.Client.Version = "dev"
	}
	if o.Client.Platform == "" {
		o.Client.Platform = Platform()
	}
	if err := checkURL(o.URL, o.AllowInsecure); err != nil {
		return nil, err
	}
	transport, err := socket.Transport(o.TLS, o.TLSFingerprint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, o.URL, &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport: transport,
			// A redirect could lead a secret elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader: o.Header,
	})
	if err != nil {
		transport.CloseIdleConnections()
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("%s answered with HTTP %d instead of a WebSocket; is a gateway listening there?", redact(o.URL), resp.StatusCode)
		}
		return nil, fmt.Errorf("connect to the gateway at %s: %w", redact(o.URL), err)
	}
	ws.SetReadLimit(MaxFrame)
	hello, early, err := handshake(ctx, ws, o)
	if err != nil {
		ws.CloseNow()
		return nil, err
	}
	return start(context.WithoutCancel(ctx), ws, o, hello, early), nil
}

// Platform is this system's name in the dialect.
func Platform() string {
	if runtime.GOOS == "windows" {
		return "win32"
	}
	return runtime.GOOS
}

// Check fails with an error of the class errs.Invalid when the address or the fingerprint cannot be right.
func (o Options) Check() error {
	if err := checkURL(o.URL, o.AllowInsecure); err != nil {
		return err
	}
	_, err := socket.Transport(o.TLS, o.TLSFingerprint)
	return err
}

func checkURL(raw string, insecure bool) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "ws" && u.Scheme != "wss" {
		return errs.New(errs.Invalid, "the gateway's address must look like wss://host:port or ws://127.0.0.1:port")
	}
	if u.User != nil {
		return errs.New(errs.Invalid, "the gateway's address must not hold a user or password; give the token or password on its own")
	}
	if u.Scheme == "ws" && !insecure && !socket.Loopback(u.Hostname()) {
		return errs.New(errs.Invalid, fmt.Sprintf("refusing to send secrets over plain ws:// to %s; use wss://, a tunnel to a local port, or allow insecure connections explicitly", u.Host))
	}
	return nil
}

// redact leaves out what may hold a secret.
func redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the given address"
	}
	return u.Scheme + "://" + u.Host
}

// ErrFingerprint is the refusal of a certificate other than the pinned one.
var ErrFingerprint = socket.ErrPin

// handshake is protocol.md §3.1 from the client's side. early are the events that came before the hello.
func handshake(ctx context.Context, ws *websocket.Conn, o Options) (h Hello, early []Event, err error) {
	nonce, err := challenge(ctx, ws)
	if err != nil {
		return h, nil, err
	}
	const id = "connect"
	frame := wire.AppendRequest(nil, id, "connect", wire.MustMarshal(connectParams(o, nonce)))
	if err := ws.Write(ctx, websocket.MessageText, frame); err != nil {
		return h, nil, closed("send connect", err)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	for {
		f, err := readFrame(ctx, ws)
		if err != nil {
			return h, nil, closed("wait for the gateway's hello", err)
		}
		switch {
		case f.Type == "event":
			if len(early) == maxEarly {
				return h, nil, errors.New("the gateway sent too many events before its hello")
			}
			early = append(early, eventOf(f))
		case f.ID != id:
		case !f.OK:
			return h, nil, refusal(ctx, ws, f)
		default:
			h, err = parseHello(f.Payload)
			return h, early, err
		}
	}
}

func challenge(ctx context.Context, ws *websocket.Conn) (nonce string, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	for range maxEarly {
		f, err := readFrame(ctx, ws)
		if err != nil {
			return "", closed("wait for the gateway's challenge", err)
		}
		if f.Event == "connect.challenge" {
			n, _ := f.Payload.Get("nonce")
			if nonce = strings.TrimSpace(n.Str()); nonce == "" {
				ws.Close(websocket.StatusPolicyViolation, "connect challenge missing nonce")
				return "", errors.New("the gateway's challenge has no nonce")
			}
			return nonce, nil
		}
	}
	return "", errors.New("the gateway sent other events instead of a challenge")
}

// readFrame returns the next frame that is one; others are skipped.
func readFrame(ctx context.Context, ws *websocket.Conn) (wire.Frame, error) {
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return wire.Frame{}, err
		}
		if f, err := wire.ParseFrame(data); err == nil {
			return f, nil
		}
	}
}

// refusal reads on for the close code, which the gateway sends after its answer.
func refusal(ctx context.Context, ws *websocket.Conn, f wire.Frame) error {
	e := &RefusedError{Code: f.Error.Code, Message: f.Error.Message, Details: json.RawMessage(f.Error.Details), CloseCode: -1}
	ctx, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	for range maxEarly {
		if _, err := readFrame(ctx, ws); err != nil {
			e.CloseCode = int(websocket.CloseStatus(err))
			break
		}
	}
	return e
}

func parseHello(p wire.Value) (Hello, error) {
	var w struct {
		Server struct {
			Version string `json:"version"`
			ConnID  string `json:"connId"`
		} `json:"server"`
		CanvasHostURL string `json:"canvasHostUrl"`
		Auth          struct {
			DeviceToken string           `json:"deviceToken"`
			Role        identity.Role    `json:"role"`
			Scopes      []identity.Scope `json:"scopes"`
		} `json:"auth"`
		Policy struct {
			TickIntervalMs wire.Int `json:"tickIntervalMs"`
		} `json:"policy"`
	}
	if t, _ := p.Get("type"); t.Str() != "hello-ok" {
		return Hello{}, errors.New("the gateway's answer to connect is no hello; it may be too old or too new")
	}
	if err := wire.Decode(p, &w); err != nil {
		return Hello{}, fmt.Errorf("the gateway's hello cannot be read: %w", err)
	}
	if n, _ := p.Get("protocol"); n.Num() != Protocol {
		return Hello{}, fmt.Errorf("the gateway speaks protocol %s, this client %d", n.Raw(), Protocol)
	}
	h := Hello{
		ServerVersion: w.Server.Version, ConnID: w.Server.ConnID, CanvasURL: w.CanvasHostURL,
		DeviceToken: w.Auth.DeviceToken, Role: w.Auth.Role, Scopes: w.Auth.Scopes,
		TickInterval: defaultTick, Raw: json.RawMessage(p.Raw()),
	}
	if ms := w.Policy.TickIntervalMs; ms > 0 {
		h.TickInterval = min(max(time.Duration(min(int64(ms), int64(maxTick/time.Millisecond)))*time.Millisecond, minTick), maxTick)
	}
	return h, nil
}
