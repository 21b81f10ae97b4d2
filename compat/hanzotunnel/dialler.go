package hanzotunnel

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
)

// Limits of the instance half.
const (
	// dialTime is how long connecting may take, registeredTime how long the answer to register (tunnel.md §1.2).
	dialTime       = 10 * time.Second
	registeredTime = 10 * time.Second
	// dialPing is how often the server is pinged, dialDead how long until it counts as gone.
	dialPing = 20 * time.Second
	dialDead = 60 * time.Second
	// dialWrite is how long the server may take to take a message.
	dialWrite = 60 * time.Second
	// maxToInstance is the largest message that is read, in bytes; MaxFromInstance the largest that is sent.
	maxToInstance = 16 << 20
	// maxEarlyFrames is how many frames may come before the answer to register.
	maxEarlyFrames = 64
)

// Instance is what an instance says of itself (tunnel.md §1.3).
type Instance struct {
	ID, AppKind, DisplayName, Version, Platform, Cwd string
	Capabilities                                     []string
}

// DialOptions of NewDialler. URL, or Open, is required.
type DialOptions struct {
	// URL is ws:// or wss://. User information in it and a query go to the server as they stand, as the bridge
	// sends them.
	URL string
	// Token is shown as a bearer where the URL holds no user information.
	Token string
	// AllowInsecure lets a secret travel to another machine without TLS.
	AllowInsecure bool
	// Fingerprint is the SHA-256 of the server's certificate in hex, instead of TLS.RootCAs. TLS is a base
	// configuration; nil is the system's.
	Fingerprint string
	TLS         *tls.Config
	Instance    Instance
	// Commands are those that are offered; nil offers all of the host.
	Commands []string
	// Open makes the carrier in place of dialling.
	Open func(ctx context.Context) (Carrier, error)
	// Carry opens a carrier for tunnels to the server; nil opens none.
	Carry func(ctx context.Context, version string) (host.Carrier, error)
	// Technician serves the technician sessions of a link until ended is closed; nil ignores them.
	Technician func(to TechSender, ended <-chan struct{}) Technician
	// OnRegistered is told of the answer to each register; nil tells nobody.
	OnRegistered func(instanceID, sessionURL string)
	Log          *slog.Logger
}

// Dialler makes links as an instance. It implements host.Connector.
type Dialler struct {
	o      DialOptions
	header http.Header
	client *http.Client
}

// NewDialler fails with the class errs.Invalid for options that nothing mends. No error holds the token.
func NewDialler(o DialOptions) (*Dialler, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Dialler{o: o, header: http.Header{"User-Agent": {"hanzod/" + o.Instance.Version}}}
	if o.Open != nil {
		return d, nil
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "ws" && u.Scheme != "wss" {
		return nil, errs.New(errs.Invalid, "the address of the server must look like wss://host/v1/tunnel or ws://127.0.0.1:18789/v1/tunnel")
	}
	secret := o.Token != "" || u.User != nil || u.RawQuery != ""
	if u.Scheme == "ws" && secret && !o.AllowInsecure && !socket.Loopback(u.Hostname()) {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("refusing to send a secret over plain ws:// to %s; use wss://, or allow insecure connections explicitly", u.Host))
	}
	if o.Token != "" && u.User == nil {
		d.header.Set("Authorization", "Bearer "+o.Token)
	}
	t, err := socket.Transport(o.TLS, o.Fingerprint)
	if err != nil {
		return nil, err
	}
	d.client = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the server sends us elsewhere, which a link does not follow")
	}}
	return d, nil
}

// Server is where it dials, without what may be a secret.
func (d *Dialler) Server() string {
	u, err := url.Parse(d.o.URL)
	if err != nil || d.o.URL == "" {
		return "a carrier"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

func (d *Dialler) open(ctx context.Context) (Carrier, error) {
	if d.o.Open != nil {
		return d.o.Open(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	ws, answer, err := websocket.Dial(ctx, d.o.URL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		HTTPClient: d.client, HTTPHeader: d.header, CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err == nil:
		return OverWebSocket(ws, maxToInstance), nil
	case answer != nil && answer.StatusCode != http.StatusSwitchingProtocols:
		return nil, &refusedUpgrade{answer.StatusCode, socket.Clean(err)}
	}
	return nil, socket.Clean(err)
}

// Connect implements host.Connector: it returns when the server has answered to register.
func (d *Dialler) Connect(ctx context.Context, offer host.Offer, invoke func(host.Link, host.Request)) (host.Link, error) {
	c, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	l := &uplink{
		d: d, c: c, invoke: invoke, known: map[string]bool{}, writing: make(chan struct{}, 1), done: make(chan struct{}),
		info: host.Info{Via: "tunnel", Gateway: d.Server()},
	}
	var commands []string
	for _, name := range offer.Commands {
		if d.o.Commands == nil || slices.Contains(d.o.Commands, name) {
			l.known[name] = true
			commands = append(commands, name)
		}
	}
	if err := l.register(ctx, BridgeFirst(commands)); err != nil {
		_ = c.Close(0, "") // it is of no use
		return nil, err
	}
	if d.o.Technician != nil {
		l.tech = d.o.Technician(techSender{l}, l.done)
	}
	l.life, l.kill = context.WithCancel(context.Background())
	l.wg.Go(l.read)
	l.wg.Go(l.watch)
	return l, nil
}

// bridgeCommands are those of the Python bridge, in its order.
var bridgeCommands = []string{"chat.send", "exec.run", "status.get", "session.checkpoint", "session.restore", "session.list"}

// BridgeFirst puts the commands of the bridge first, in its order.
func BridgeFirst(commands []string) []string {
	out := make([]string, 0, len(commands))
	for _, name := range bridgeCommands {
		if slices.Contains(commands, name) {
			out = append(out, name)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(commands), func(name string) bool { return slices.Contains(out, name) })
	slices.Sort(rest)
	return append(out, rest...)
}

// Explain implements host.Connector.
func (d *Dialler) Explain(log *slog.Logger, err error) {
	log = log.With("server", d.Server())
	var refused *refusedUpgrade
	var closed *CloseError
	switch {
	case errors.Is(err, socket.ErrPin):
		log.Error("it is not known who answers for the server; check its fingerprint", "err", err)
	case errors.As(err, &refused) && (refused.status == http.StatusUnauthorized || refused.status == http.StatusForbidden):
		log.Warn("the server refused the token; give it a token that is valid there", "status", refused.status)
	case errors.As(err, &refused):
		log.Warn("the server has no link here; check the path of its address, which ends in /v1/tunnel or /v1/relay as a rule", "status", refused.status)
	case errors.As(err, &closed) && closed.Code == int(websocket.StatusPolicyViolation):
		log.Warn("the server refused this instance; check its token", "reason", closed.Reason)
	case errors.As(err, &closed) && closed.Code == closeInUse:
		log.Warn("the server has this instance id from somebody else; choose another INSTANCE_ID", "reason", closed.Reason)
	case errors.As(err, &closed):
		log.Info("the server closed the link", "code", closed.Code, "reason", closed.Reason)
	default:
		log.Warn("no link to the server", "err", err)
	}
}

// uplink is a live link of an instance. It implements host.Link. It owns two goroutines.
type uplink struct {
	d      *Dialler
	c      Carrier
	invoke func(host.Link, host.Request)
	info   host.Info
	known  map[string]bool // the commands that were offered
	tech   Technician      // nil without one

	life    context.Context
	kill    context.CancelFunc
	writing chan struct{} // holds one token while a message is written
	ponging atomic.Bool
	wg      sync.WaitGroup
	once    sync.Once
	done    chan struct{}
	err     error
}

// register sends the first frame and waits for its answer.
func (l *uplink) register(ctx context.Context, commands []string) error {
	ctx, cancel := context.WithTimeout(ctx, registeredTime)
	defer cancel()
	i := l.d.o.Instance
	f := &Register{
		InstanceID: i.ID, AppKind: i.AppKind, DisplayName: i.DisplayName, Capabilities: i.Capabilities, Commands: commands,
		Version: i.Version, Platform: i.Platform,
	}
	if i.Cwd != "" {
		f.Cwd = wire.Some(i.Cwd)
	}
	if err := l.c.Write(ctx, Append(nil, f)); err != nil {
		return fmt.Errorf("send register: %w", err)
	}
	for range maxEarlyFrames {
		data, err := l.c.Read(ctx)
		if errors.Is(err, errNotText) {
			continue
		}
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return errs.New(errs.Deadline, fmt.Sprintf("the server has not answered to register within %s", registeredTime))
			}
			return fmt.Errorf("wait for the answer to register: %w", err)
		}
		switch f, _ := Parse(data); f := f.(type) { // what is no frame is ignored
		case Ping:
			if err := l.c.Write(ctx, Append(nil, Pong{})); err != nil {
				return fmt.Errorf("answer a ping: %w", err)
			}
		case *Registered:
			l.info.ConnID = f.InstanceID
			view := f.SessionURL.Or("")
			l.d.o.Log.Info("this instance is registered", "instance", f.InstanceID, "view", view)
			if l.d.o.OnRegistered != nil {
				l.d.o.OnRegistered(f.InstanceID, view)
			}
			return nil
		}
	}
	return errs.New(errs.Unavailable, "the server sends, and does not answer to register")
}

// read is the reader: it starts what it is asked for and never waits for it, because pings are answered only while
// it reads.
func (l *uplink) read() {
	for {
		data, err := l.c.Read(l.life)
		if errors.Is(err, errNotText) {
			l.d.o.Log.Debug("the server sent what is no text; it is ignored")
			continue
		}
		if err != nil {
			l.end(err)
			return
		}
		switch f, err := Parse(data); f := f.(type) {
		case Ping:
			l.pong()
		case *Command:
			l.command(f)
		case *TunnelOpen, *TunnelClose, *TunnelData:
			l.technician(f)
		case *Event:
			l.told(f)
		case nil:
			l.d.o.Log.Debug("the server sent what is no frame for an instance; it is ignored", "err", err)
		}
	}
}

// told logs what became of what the instance exposes (tunnel.md §1.12). Other events are not for instances.
func (l *uplink) told(f *Event) {
	switch f.Event {
	case "expose.assigned":
		var a assigned
		if json.Unmarshal(f.Data, &a) == nil {
			l.d.o.Log.Info("a service is exposed", "event", f.Event, "name", short(a.Name), "url", short(a.URL), "protocol", short(a.Protocol))
		}
	case "expose.failed":
		var x failed
		if json.Unmarshal(f.Data, &x) == nil {
			l.d.o.Log.Warn("the server does not expose a service", "event", f.Event, "name", short(x.Name), "code", short(x.Code), "reason", short(x.Message))
		}
	}
}

// maxTold bounds what a log has of one text of the server, in bytes.
const maxTold = 500

func short(text string) string {
	if len(text) > maxTold {
		text = strings.ToValidUTF8(text[:maxTold], "") + "…"
	}
	return text
}

// pong answers a ping beside the reader. While one is on its way, the next needs none of its own.
func (l *uplink) pong() {
	if l.ponging.Swap(true) {
		return
	}
	l.wg.Go(func() {
		defer l.ponging.Store(false)
		_ = l.write(Append(nil, Pong{})) // a link that is gone says so to its reader
	})
}

// command hands a command to the host.
func (l *uplink) command(f *Command) {
	r := host.Request{ID: f.ID, NodeID: l.d.o.Instance.ID, Command: f.Method, Exact: slices.Contains(bridgeCommands, f.Method)}
	params := string(f.Params)
	switch {
	case !f.Params.IsZero() && (params != "null" || r.Exact):
		r.ParamsJSON = &params
	case !r.Exact:
		empty := "{}"
		r.ParamsJSON = &empty
	}
	if !l.known[f.Method] {
		l.wg.Go(func() {
			_ = l.Answer(r, host.Result{Error: &host.Error{Code: "UNKNOWN_COMMAND", Message: "unknown command: " + f.Method}}) // as above
		})
		return
	}
	l.invoke(l.asLink(), r)
}

// asLink is the link as the host sees it: with carriers where there are some.
func (l *uplink) asLink() host.Link {
	if l.d.o.Carry == nil {
		return l
	}
	return &carryingLink{l}
}

// carryingLink is an uplink whose server takes carriers.
type carryingLink struct{ *uplink }

// Carry implements host.Carrying.
func (l *carryingLink) Carry(ctx context.Context, version string) (host.Carrier, error) {
	return l.d.o.Carry(ctx, version)
}

// codeRaised is agent.CodeRaised: the handler of the bridge raised, and its failure has no data.
const codeRaised = "RAISED"

// Answer implements host.Link, in the dialect of the command (tunnel.md §1.3, §1.7).
func (l *uplink) Answer(r host.Request, result host.Result) error {
	bridge := r.Exact || !l.known[r.Command]
	f := &Response{ID: r.ID, OK: result.OK}
	switch {
	case result.OK:
		if result.PayloadJSON != nil {
			f.Data = wire.Raw(*result.PayloadJSON)
		}
		if bridge {
			f.Error = wire.NullOf[string]()
		}
	default:
		text, code := "the command failed", ""
		if result.Error != nil {
			text, code = result.Error.Message, result.Error.Code
		}
		f.Error = wire.Some(text)
		if bridge && code != codeRaised {
			f.Data = append(wire.AppendString([]byte(`{"error":`), text), '}')
		}
	}
	data := Append(nil, f)
	if len(data) > MaxFromInstance {
		data = Append(nil, &Response{ID: r.ID, Error: wire.Some(fmt.Sprintf("the answer has %d bytes, and a link takes %d; ask for less at once", len(data), MaxFromInstance))})
	}
	return l.write(data)
}

// Emit implements host.Link. It waits for a slow server, so that whoever makes the events is slowed, not cut.
func (l *uplink) Emit(event, payloadJSON string) error {
	data := Append(nil, &Event{Event: event, Data: wire.Raw(payloadJSON)})
	if len(data) > MaxFromInstance {
		return errs.New(errs.Exhausted, "the event is larger than a link takes")
	}
	return l.write(data)
}

// write sends a message; others wait. A server that does not take it for too long is gone.
func (l *uplink) write(data []byte) error {
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
	case <-l.done:
		return l.gone()
	}
	ctx, cancel := context.WithTimeout(l.life, dialWrite)
	defer cancel()
	if err := l.c.Write(ctx, data); err != nil {
		l.end(err)
		return l.gone()
	}
	return nil
}

func (l *uplink) gone() error { return errs.New(errs.Unavailable, "the link is gone") }

// watch pings the server.
func (l *uplink) watch() {
	t := time.NewTicker(dialPing)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-l.done:
			return
		}
		ctx, cancel := context.WithTimeout(l.life, dialDead-dialPing)
		err := l.c.Ping(ctx)
		cancel()
		if err != nil {
			l.end(fmt.Errorf("the server does not answer to pings: %w", err))
			return
		}
	}
}

// end ends the link.
func (l *uplink) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
		l.kill()
	})
}

// Info implements host.Link.
func (l *uplink) Info() host.Info { return l.info }

// Done implements host.Link.
func (l *uplink) Done() <-chan struct{} { return l.done }

// Err implements host.Link.
func (l *uplink) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// closeGrace is how long the other side may take to answer a close.
const closeGrace = time.Second

// Close implements host.Link.
func (l *uplink) Close() error {
	select {
	case <-l.done: // there is nobody to say it to
		_ = l.c.Close(0, "")
	default:
		said := make(chan struct{})
		go func() {
			defer close(said)
			_ = l.c.Close(int(websocket.StatusNormalClosure), "") // the other side may be gone already
		}()
		t := time.NewTimer(closeGrace)
		select {
		case <-said:
		case <-t.C:
		}
		t.Stop()
		l.end(errs.New(errs.Unavailable, "closed here")) // ends a reading, which ends the rest
		<-said
	}
	_ = l.c.Close(0, "") // for good
	l.wg.Wait()
	return nil
}
