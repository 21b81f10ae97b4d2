//go:build tailnet

package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/logtail"
	"tailscale.com/tsnet"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/identity/tailnet"
)

// Built says that this build can be a machine of a tailnet by itself.
const Built = true

const (
	// lockWait is how long another program may use the state of the machine before that is an error:
	// somebody else's command is over soon.
	lockWait = 10 * time.Second
	// rewatch is the pause before the state of the machine is watched anew after that failed.
	rewatch = time.Second
	// settle is how long a connection may take from its first packet to an address of its own, and
	// maxSettling how many may be that far.
	settle      = 5 * time.Second
	settleEvery = 2 * time.Millisecond
	maxSettling = 256
	// ownWait bounds how long hanzoctl waits for a machine of its own, and loginWait how long when somebody
	// has to open the login address first.
	ownWait   = time.Minute
	loginWait = 5 * time.Minute
)

// Join makes the program a machine of a tailnet and waits until it is one. Nothing that it logs is
// sent to anybody, and it does not update itself. Its errors are *client.Error, or of ctx.
func Join(ctx context.Context, o MachineOptions) (Machine, error) {
	if o.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	m := &machine{opts: o, up: make(chan struct{}), failed: make(chan error, 1)}
	if m.opts.Log == nil {
		m.opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the machine on the tailnet: %w", err)
	}
	if err := os.Chmod(o.StateDir, 0o700); err != nil { //nolint:gosec // a directory is entered
		return nil, fmt.Errorf("restrict the directory of the machine on the tailnet: %w", err)
	}
	var err error
	if m.unlock, err = lock(ctx, filepath.Join(o.StateDir, "lock")); err != nil {
		return nil, err
	}
	// Both are for the whole process: nothing goes to the log service of Tailscale.
	envknob.SetNoLogsNoSupport()
	logtail.Disable()
	m.srv = &tsnet.Server{
		Dir: filepath.Join(o.StateDir, "tsnet"), Hostname: o.Name, AuthKey: o.AuthKey, ControlURL: o.ControlURL,
		AdvertiseTags: o.Tags, Ephemeral: o.Ephemeral, Logf: m.logf, UserLogf: m.logf,
	}
	if err := m.srv.Start(); err != nil {
		m.unlock()
		return nil, failure("the network code does not start: " + err.Error())
	}
	if m.local, err = m.srv.LocalClient(); err != nil {
		return nil, errors.Join(failure(err.Error()), m.Close())
	}
	//nolint:contextcheck // the machine's own lifetime, ended by Close
	life, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.watch(life) })
	select {
	case <-m.up:
		return m, nil
	case err = <-m.failed:
	case <-ctx.Done():
		if err = ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			err = m.late()
		}
	}
	return nil, errors.Join(err, m.Close())
}

type machine struct {
	opts   MachineOptions
	srv    *tsnet.Server
	local  *local.Client
	unlock func()
	cancel context.CancelFunc
	wg     sync.WaitGroup

	up     chan struct{}
	once   sync.Once
	failed chan error
	closed sync.Once

	mu    sync.Mutex
	login string // the address that was told last
}

func failure(text string) error {
	return &client.Error{Code: CodeLogin, Class: client.Unavailable, Message: "this machine cannot join the tailnet: " + redact(text)}
}

// late says why the machine is not in the tailnet yet.
func (m *machine) late() error {
	m.mu.Lock()
	login := m.login
	m.mu.Unlock()
	if login != "" {
		return &client.Error{Code: CodeLogin, Class: client.Deadline, Message: "nobody let this machine into the tailnet in time; open " + login + " in a browser, or start with an auth key"}
	}
	why := ""
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if st, err := m.local.StatusWithoutPeers(ctx); err == nil {
		why = " (" + strings.Join(append([]string{st.BackendState}, st.Health...), "; ") + ")"
	}
	return &client.Error{Code: CodeLogin, Class: client.Deadline, Message: "this machine did not get into the tailnet in time" + redact(why)}
}

// watch follows the state of the machine until ctx ends.
func (m *machine) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := m.local.WatchIPNBus(ctx, ipn.NotifyInitialState)
		if err == nil {
			for {
				n, err := w.Next()
				if err != nil {
					break
				}
				m.note(n)
			}
			_ = w.Close() // it has ended
		}
		pause := time.NewTimer(rewatch)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

func (m *machine) note(n ipn.Notify) {
	if n.ErrMessage != nil && *n.ErrMessage != "" {
		select {
		case m.failed <- failure(*n.ErrMessage):
		default:
		}
	}
	if n.BrowseToURL != nil && *n.BrowseToURL != "" {
		m.mu.Lock()
		fresh := *n.BrowseToURL != m.login
		m.login = *n.BrowseToURL
		m.mu.Unlock()
		if fresh && m.opts.Login != nil {
			m.opts.Login(*n.BrowseToURL)
		}
	}
	if n.State == nil {
		return
	}
	m.opts.Log.Info("the machine on the tailnet changed its state", "state", n.State.String())
	switch *n.State {
	case ipn.Running:
		m.mu.Lock()
		m.login = ""
		m.mu.Unlock()
		m.once.Do(func() { close(m.up) })
	case ipn.NeedsMachineAuth:
		m.opts.Log.Warn("an admin of the tailnet has to approve this machine")
	}
}

// Close implements network. The machine stays known to the tailnet, unless it is ephemeral.
func (m *machine) Close() error {
	var err error
	m.closed.Do(func() {
		if m.cancel != nil {
			m.cancel()
		}
		err = m.srv.Close()
		m.wg.Wait()
		m.unlock()
	})
	return err
}

func (m *machine) Addrs() []netip.Addr {
	var out []netip.Addr
	a4, a6 := m.srv.TailscaleIPs()
	for _, a := range []netip.Addr{a4, a6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

func (m *machine) Name() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // it answers from memory
	defer cancel()
	st, err := m.local.StatusWithoutPeers(ctx)
	if err != nil || st.Self == nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(st.Self.DNSName, "."))
}

func (m *machine) Status(ctx context.Context) (tailnet.Status, error) {
	st, err := m.local.Status(ctx)
	if err != nil {
		return tailnet.Status{}, err
	}
	peer := func(p *ipnstate.PeerStatus) tailnet.Peer {
		return tailnet.Peer{Name: strings.ToLower(strings.TrimSuffix(p.DNSName, ".")), Addrs: p.TailscaleIPs, Online: p.Online}
	}
	out := tailnet.Status{State: st.BackendState}
	if st.CurrentTailnet != nil {
		out.Suffix = strings.ToLower(st.CurrentTailnet.MagicDNSSuffix)
	}
	if st.Self != nil {
		out.Self = peer(st.Self)
	}
	for _, p := range st.Peer {
		out.Peers = append(out.Peers, peer(p))
	}
	return out, nil
}

func (m *machine) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if !tailnet.Contains(to.Addr()) {
		return nil, fmt.Errorf("%s is no address of a tailnet", to.Addr())
	}
	return m.srv.Dial(ctx, "tcp", to.String())
}

func (m *machine) WhoIs(ctx context.Context, from netip.AddrPort) (Identity, error) {
	who, err := m.local.WhoIs(ctx, from.String())
	if err != nil {
		return Identity{}, fmt.Errorf("the tailnet does not know who is at %s: %w", from.Addr(), err)
	}
	n, u := who.Node, who.UserProfile
	switch {
	case n == nil || u == nil:
		return Identity{}, fmt.Errorf("the tailnet does not know who is at %s", from.Addr())
	case n.Expired || n.UnsignedPeerAPIOnly:
		return Identity{}, fmt.Errorf("the machine at %s is not let in by the tailnet any more", from.Addr())
	}
	id := Identity{Machine: strings.ToLower(strings.TrimSuffix(n.Name, ".")), ID: string(n.StableID)}
	if len(n.Tags) > 0 { // it belongs to nobody, whoever made it
		id.Tags = n.Tags
		return id, nil
	}
	id.Login, id.Groups = u.LoginName, u.Groups
	return id, nil
}

func (m *machine) Members(ctx context.Context) ([]Identity, error) {
	st, err := m.local.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []Identity
	add := func(p *ipnstate.PeerStatus) {
		if p == nil || p.Expired {
			return
		}
		id := Identity{Machine: strings.ToLower(strings.TrimSuffix(p.DNSName, ".")), ID: string(p.ID)}
		if p.Tags != nil && p.Tags.Len() > 0 {
			id.Tags = p.Tags.AsSlice()
		} else {
			u := st.User[p.UserID]
			id.Login, id.Groups = u.LoginName, u.Groups
		}
		out = append(out, id)
	}
	add(st.Self)
	for _, p := range st.Peer {
		add(p)
	}
	return out, nil
}

func (m *machine) Listen(port int) (net.Listener, error) {
	l, err := m.srv.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, fmt.Errorf("listen on port %d of the tailnet: %w", port, err)
	}
	s := &settling{Listener: l, out: make(chan net.Conn), done: make(chan struct{}), room: make(chan struct{}, maxSettling)}
	m.wg.Go(s.run)
	return s, nil
}

// settling hands on connections once they have their addresses: the network code tells of them
// earlier.
type settling struct {
	net.Listener
	out  chan net.Conn
	done chan struct{}
	once sync.Once
	room chan struct{}
	wg   sync.WaitGroup
}

func (s *settling) run() {
	defer s.wg.Wait()
	defer s.once.Do(func() { close(s.done) })
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			return
		}
		select {
		case s.room <- struct{}{}:
			s.wg.Go(func() { s.hand(c) })
		default:
			_ = c.Close() // too many strangers at once
		}
	}
}

func (s *settling) hand(c net.Conn) {
	defer func() { <-s.room }()
	for end := time.Now().Add(settle); remote(c) == nil || c.LocalAddr() == nil; {
		select {
		case <-s.done:
			end = time.Time{}
		case <-time.After(settleEvery):
		}
		if time.Now().After(end) {
			_ = c.Close() // it never came to be
			return
		}
	}
	select {
	case s.out <- c:
	case <-s.done:
		_ = c.Close()
	}
}

func remote(c net.Conn) net.Addr {
	a := c.RemoteAddr()
	if t, ok := a.(*net.TCPAddr); ok && t == nil {
		return nil
	}
	return a
}

func (s *settling) Accept() (net.Conn, error) {
	select {
	case c := <-s.out:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *settling) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.Listener.Close()
}

// secrets are what the network code may say that nobody else is to read: keys, and the addresses that
// let whoever opens them take this machine.
var secrets = regexp.MustCompile(`(tskey-)[A-Za-z0-9_-]+|(privkey:)[0-9a-fA-F]+|(https?://[^\s"]+/(?:a|auth|register)/)[^\s"]+`)

func redact(s string) string { return secrets.ReplaceAllString(s, "$1$2$3[redacted]") }

// maxLine bounds a line of the network code in the log.
const maxLine = 2 << 10

func (m *machine) logf(format string, args ...any) {
	if !m.opts.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	line := redact(fmt.Sprintf(format, args...))
	if len(line) > maxLine {
		line = line[:maxLine]
	}
	m.opts.Log.Debug(strings.TrimSpace(line))
}

// join is the way in of a client that has no service to go through.
func join(ctx context.Context, o Options, why string) (network, error) {
	if o.Own.StateDir == "" {
		return nil, &client.Error{Code: CodeNoService, Class: client.Unavailable, Message: why}
	}
	own := o.Own.defaults()
	o.Progress(why + "; joining the tailnet as " + own.Name)
	var mu sync.Mutex
	asked := make(chan string, 1)
	own.Login = func(url string) {
		mu.Lock()
		defer mu.Unlock()
		select { // the last one counts
		case <-asked:
		default:
		}
		asked <- url
	}
	own.Wait = 0
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type joined struct {
		m   Machine
		err error
	}
	done := make(chan joined, 1)
	go func() {
		m, err := Join(ctx, own)
		done <- joined{m, err}
	}()
	limit := time.NewTimer(ownWait)
	defer limit.Stop()
	last := ""
	for {
		select {
		case j := <-done:
			if j.err != nil {
				return nil, j.err
			}
			o.Progress("joined the tailnet")
			return j.m, nil
		case last = <-asked:
			limit.Reset(loginWait)
			if tell := o.Own.Login; tell != nil {
				tell(last)
			} else {
				o.Progress("to let this machine into the tailnet, open " + last)
			}
		case <-limit.C:
			cancel(nil)
			<-done
			text := "this machine did not get into the tailnet in time"
			if last != "" {
				text = "nobody let this machine into the tailnet in time; open " + last + " in a browser, or set HANZOD_TS_AUTHKEY to an auth key"
			}
			return nil, &client.Error{Code: CodeLogin, Class: client.Deadline, Message: text}
		}
	}
}

// defaults fills in what is empty from the environment.
func (o MachineOptions) defaults() MachineOptions {
	for _, name := range []string{"HANZOD_TS_AUTHKEY", "TS_AUTHKEY"} {
		if o.AuthKey == "" {
			o.AuthKey = os.Getenv(name)
		}
	}
	if o.ControlURL == "" {
		o.ControlURL = os.Getenv("HANZOD_TS_CONTROL_URL")
	}
	if o.Name == "" {
		o.Name = "hanzoctl"
		if host, err := os.Hostname(); err == nil {
			host, _, _ = strings.Cut(host, ".")
			o.Name += "-" + host
		}
	}
	return o
}

// lock keeps a second program from being the same machine.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the machine on the tailnet: %w", err)
	}
	for {
		ok, err := tryLock(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock the machine on the tailnet: %w", err), f.Close())
		}
		if ok {
			return func() { _ = f.Close() }, nil // closing gives it back
		}
		again := time.NewTimer(50 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, &client.Error{Code: CodeBusy, Class: client.Exhausted, Message: "another program is this machine on the tailnet right now; try again when it has ended (" + path + ")"}
		}
	}
}
