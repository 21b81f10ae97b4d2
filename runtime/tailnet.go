package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/hanzoai/hanzod/client/tailnet"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runtime/listen"
)

const (
	// rejoinFirst and rejoinMax bound the pauses between attempts to join the tailnet.
	rejoinFirst = 5 * time.Second
	rejoinMax   = 5 * time.Minute
	// joinLate is how long joining may take before the log says that it still goes on, again and again.
	joinLate = time.Minute
	// standsFor is how long the list of those whom the tailnet knows is used.
	standsFor = 2 * time.Second
)

// TailnetBuilt says that this build can be a machine of a tailnet.
const TailnetBuilt = tailnet.Built

// ErrNoTailnet is for builds that can be no machine of a tailnet.
var ErrNoTailnet = errors.New(`this hanzod is built without the tailnet, which costs 18 MB: take the one with the build tag "tailnet" ("make dist" makes both). With Tailscale installed on this machine, "hanzod run --bind tailnet" listens on its address instead, with TLS and tokens`)

// tailnetDoor is the daemon as a machine of a tailnet. It joins while everything else serves already,
// and again when that failed.
type tailnetDoor struct {
	cfg     *config.Config
	log     *slog.Logger
	console io.Writer
	now     func() time.Time
	grants  []identity.MemberGrant
	conns   *listen.Tailnet

	mu      sync.Mutex
	machine tailnet.Machine // nil while it is on no tailnet
	known   map[string]bool // principals that the tailnet knows and grants name
	knownAt time.Time
}

func newTailnetDoor(cfg *config.Config, log *slog.Logger, console io.Writer, now func() time.Time) *tailnetDoor {
	t := &tailnetDoor{cfg: cfg, log: log, console: console, now: now}
	for _, g := range cfg.Gateway.Tailnet.Grants {
		out := identity.MemberGrant{Users: g.Users, Groups: g.Groups, Tags: g.Tags, Role: identity.Role(g.Role)}
		for _, s := range g.Scopes {
			out.Scopes = append(out.Scopes, identity.Scope(s))
		}
		t.grants = append(t.grants, out)
	}
	t.conns = listen.NewTailnet(t.who, log)
	return t
}

// at is the machine, nil while there is none.
func (t *tailnetDoor) at() tailnet.Machine {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.machine
}

func (t *tailnetDoor) set(m tailnet.Machine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.machine, t.known = m, nil
}

func (t *tailnetDoor) mapped(id tailnet.Identity, addr string) *identity.Member {
	return identity.Map(t.grants, identity.Member{Login: id.Login, Tags: id.Tags, Groups: id.Groups, Machine: id.Machine, Addr: addr})
}

// who asks the tailnet who is at an address.
func (t *tailnetDoor) who(ctx context.Context, from netip.AddrPort) (*identity.Member, error) {
	m := t.at()
	if m == nil {
		return nil, errors.New("this machine is on no tailnet now")
	}
	id, err := m.WhoIs(ctx, from)
	if err != nil {
		return nil, err
	}
	return t.mapped(id, from.Addr().String()), nil
}

// Stands implements identity.Members. While this machine is on no tailnet, nobody does.
func (t *tailnetDoor) Stands(principal string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.machine == nil {
		return false
	}
	if age := t.now().Sub(t.knownAt); t.known == nil || age < 0 || age >= standsFor {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		all, err := t.machine.Members(ctx)
		if err != nil {
			t.log.Warn("the tailnet does not say who is in it", "error", err)
			return false
		}
		t.known, t.knownAt = make(map[string]bool, len(all)), t.now()
		for _, id := range all {
			if m := t.mapped(id, ""); m.May(identity.RoleOperator) || m.May(identity.RoleNode) {
				t.known[m.Principal()] = true
			}
		}
	}
	return t.known[principal]
}

// name is the full name of the machine, "" while it is on no tailnet.
func (t *tailnetDoor) name() string {
	if m := t.at(); m != nil {
		return m.Name()
	}
	return ""
}

// addresses are where the older door is on the tailnet.
func (t *tailnetDoor) addresses() []string {
	m := t.at()
	if m == nil {
		return nil
	}
	port, _ := t.cfg.TailnetPorts()
	var out []string
	for _, a := range m.Addrs() {
		out = append(out, net.JoinHostPort(a.String(), strconv.Itoa(port)))
	}
	return out
}

// login tells people that somebody has to let this machine in.
func (t *tailnetDoor) login(url string) {
	t.log.Warn("somebody has to let this machine into the tailnet: open the address in a browser", "url", url)
	fmt.Fprintf(t.console, "\nTo let this machine into the tailnet, open\n  %s\n\n", url) // a closed terminal is no reason to stop
}

// join makes this machine one of the tailnet.
func (t *tailnetDoor) join(ctx context.Context) (tailnet.Machine, error) {
	key, err := t.cfg.TailnetAuthKey(nil)
	if err != nil {
		return nil, err
	}
	c := t.cfg.Gateway.Tailnet
	began := t.now()
	late := time.NewTicker(joinLate)
	defer late.Stop()
	done := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		for {
			select {
			case <-late.C:
				t.log.Warn("still joining the tailnet", "for", t.now().Sub(began).Round(time.Second).String(), "control", c.ControlURL)
			case <-done:
				return
			}
		}
	})
	defer telling.Wait()
	defer close(done)
	return tailnet.Join(ctx, tailnet.MachineOptions{
		StateDir: filepath.Join(t.cfg.StateDir, "tailnet"), Name: t.cfg.TailnetHostname(), AuthKey: key,
		ControlURL: c.ControlURL, Tags: c.Tags, Ephemeral: c.Ephemeral, Log: t.log, Login: t.login,
	})
}

// run is on the tailnet until ctx ends. serve is called with the listeners of the two doors and returns
// when they are closed; serve closes them.
func (t *tailnetDoor) run(ctx context.Context, serve func(ctx context.Context, gateway, grpc net.Listener)) {
	if len(t.grants) == 0 {
		t.log.Warn("gateway.tailnet.grants is empty: nobody on the tailnet may do anything; name logins or tags there")
	}
	pause := rejoinFirst
	for ctx.Err() == nil {
		m, err := t.join(ctx)
		if err == nil {
			pause = rejoinFirst
			err = t.serve(ctx, m, serve)
		}
		if ctx.Err() != nil {
			return
		}
		t.log.Error("the tailnet is not served", "error", err, "again", pause.String())
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		pause = min(2*pause, rejoinMax)
	}
}

func (t *tailnetDoor) serve(ctx context.Context, m tailnet.Machine, serve func(ctx context.Context, gateway, grpc net.Listener)) (err error) {
	defer func() {
		t.set(nil)
		err = errors.Join(err, m.Close())
	}()
	port, grpcPort := t.cfg.TailnetPorts()
	gateway, err := m.Listen(port)
	if err != nil {
		return err
	}
	grpcListener, err := m.Listen(grpcPort)
	if err != nil {
		return errors.Join(err, gateway.Close())
	}
	t.set(m)
	t.log.Info("hanzod is on the tailnet", "name", m.Name(), "listen", t.addresses(), "grpcPort", grpcPort)
	life, end := context.WithCancel(ctx)
	defer end()
	var looking sync.WaitGroup
	looking.Go(func() { t.conns.Run(life) })
	defer looking.Wait()
	defer end()
	serve(ctx, t.conns.Listener(gateway), t.conns.Listener(grpcListener))
	return errors.New("a listener on the tailnet ended")
}

// runTailnet serves the doors of the daemon on the tailnet until ctx ends.
func (d *Daemon) runTailnet(ctx context.Context) {
	d.tailnet.run(ctx, func(ctx context.Context, gateway, far net.Listener) {
		limited := listen.Limit(far)
		guarded := d.guard.Listener(gateway)
		d.onTailnet(guarded, limited)
		var serving sync.WaitGroup
		ended := make(chan struct{}, 2)
		serving.Go(func() {
			if err := d.members.Serve(limited); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				d.tailnet.log.Warn("the gRPC door on the tailnet ended", "error", err)
			}
			ended <- struct{}{}
		})
		serving.Go(func() {
			_ = d.http.Serve(guarded) // it says nothing but that it was closed
			ended <- struct{}{}
		})
		select {
		case <-ended:
			if d.State() == stopping {
				<-ctx.Done() // what is under way may end on the tailnet too
			}
		case <-ctx.Done():
		}
		_, _ = limited.Close(), guarded.Close() // closed already after a stop
		serving.Wait()
	})
}

// onTailnet remembers the listeners for a stop. They are closed at once where that has begun.
func (d *Daemon) onTailnet(ls ...net.Listener) {
	d.tailnetMu.Lock()
	defer d.tailnetMu.Unlock()
	d.tailnetListeners = ls
	if d.State() == stopping {
		closeAll(ls)
	}
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close() // there is nobody to tell
	}
}
