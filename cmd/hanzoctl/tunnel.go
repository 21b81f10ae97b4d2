package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/driver"
)

const (
	// bindTimeout is how long a binding may take to make: the node is asked, and perhaps the person at it.
	bindTimeout = 2 * time.Minute
	// endTimeout bounds what is said to the daemon at the end.
	endTimeout = 5 * time.Second
	// copySize is the buffer of each direction of tunnel dial.
	copySize = 64 << 10
)

func (a *app) tunnelCmd() *cobra.Command {
	c := group("tunnel", "Reach services of nodes, and let others reach services", `  hanzoctl tunnel expose build-box 8080
  hanzoctl tunnel expose 3000
  hanzoctl tunnel pull build-box 5432:127.0.0.1:5432
  ssh -o ProxyCommand='hanzoctl tunnel dial build-box 22' build-box
  hanzoctl tunnel list`,
		a.tunnelExposeCmd(), a.tunnelPullCmd(), a.tunnelDialCmd(), a.tunnelListCmd(), a.tunnelBindingsCmd(), a.tunnelUnbindCmd(), a.tunnelKillCmd(), a.tunnelWatchCmd(), a.tunnelHealthCmd())
	c.Aliases = []string{"tunnels"}
	return c
}

const targetHelp = `TARGET is 8080, :8080, host:port or [::1]:8080; without a host it is the loopback address.`

// approvalFlag is how long the commands that ask a node wait for an approval.
func approvalFlag(c *cobra.Command, d *time.Duration) {
	c.Flags().DurationVar(d, "approval-timeout", 2*time.Minute, "how long to wait for an approval")
}

// exposeFlags are those of tunnel expose.
type exposeFlags struct {
	subdomain, port, access, label string
	tcp, takeover, detach          bool
	approval                       time.Duration
}

var accesses = map[string]tunnelv1.BindingAccess{
	"":         tunnelv1.BindingAccess_BINDING_ACCESS_UNSPECIFIED,
	"public":   tunnelv1.BindingAccess_BINDING_ACCESS_PUBLIC,
	"token":    tunnelv1.BindingAccess_BINDING_ACCESS_TOKEN,
	"operator": tunnelv1.BindingAccess_BINDING_ACCESS_OPERATOR,
}

func (a *app) tunnelExposeCmd() *cobra.Command {
	var f exposeFlags
	c := &cobra.Command{Use: "expose [NODE] TARGET", Short: "Let visitors of the daemon reach a service of a node, or of this machine",
		ValidArgsFunction: a.completeNode,
		Long: `Let visitors of the daemon reach a service: one of a node, or of this machine when no node
is named. ` + targetHelp + `
It speaks HTTP, with WebSockets, unless --tcp is given.

The address is printed, and what visitors have to show where it takes that. Then this
program stays, says on stderr what goes through, and takes the address back when it is
interrupted. With --detach the exposure of a node stays instead, until
"hanzoctl tunnel unbind" ends it.

What the policy of the node or of the daemon does not let you reach waits for an approval,
and how to answer is printed.`,
		Example: `  hanzoctl tunnel expose build-box 8080
  hanzoctl tunnel expose build-box 8080 --subdomain demo --access operator --detach
  hanzoctl tunnel expose 3000 --port 23000
  hanzoctl tunnel expose 127.0.0.1:5432 --tcp --json`,
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return errors.New("say what to expose: a target such as 8080, behind the node that has it")
			case 1, 2:
				_, err := driver.Target(args[len(args)-1])
				return err
			}
			return errors.New("give a node and a target")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			port, err := driver.Port(f.port)
			if err != nil {
				return usagef("--%w", err)
			}
			if _, ok := accesses[f.access]; !ok {
				return usagef("--access %q must be public, token or operator", f.access)
			}
			if len(args) == 1 {
				return a.exposeHere(cmd, &f, port, args[0])
			}
			if f.takeover {
				return usagef("--takeover is for services of this machine: unbind the exposure of the node instead")
			}
			return a.exposeNode(cmd, &f, port, args[0], args[1])
		}}
	fl := c.Flags()
	fl.StringVar(&f.subdomain, "subdomain", "", "name in the address, one lower-case DNS label; chosen when empty")
	fl.StringVar(&f.port, "port", "", `port of the daemon: a number, or "random", "auto" or empty for one of its choice`)
	fl.StringVar(&f.access, "access", "", "who may visit: public, token or operator (token for nodes, public for this machine)")
	fl.BoolVar(&f.tcp, "tcp", false, "carry bytes instead of HTTP")
	fl.StringVar(&f.label, "label", "", "what people call it")
	fl.BoolVar(&f.takeover, "takeover", false, "take the port over from another tunnel of yours")
	fl.BoolVar(&f.detach, "detach", false, "print the address of a node's service and leave it there")
	approvalFlag(c, &f.approval)
	must(c.RegisterFlagCompletionFunc("access", cobra.FixedCompletions([]string{"public", "token", "operator"}, cobra.ShellCompDirectiveNoFileComp)))
	must(c.RegisterFlagCompletionFunc("port", cobra.FixedCompletions([]string{"random"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// exposeNode lets visitors reach a service of a node.
func (a *app) exposeNode(cmd *cobra.Command, f *exposeFlags, port int, node, target string) error {
	host, number, err := driver.SplitTarget(target)
	if err != nil {
		return usage(err)
	}
	req := &tunnelv1.CreateBindingRequest{Kind: tunnelv1.BindingKind_BINDING_KIND_HTTP, Name: f.label, Port: uint32(port), Subdomain: f.subdomain, Access: accesses[f.access]}
	req.Target = net.JoinHostPort(host, strconv.Itoa(number))
	if f.tcp {
		req.Kind = tunnelv1.BindingKind_BINDING_KIND_TCP
	} else if f.port != "" {
		req.Listens = true
	}
	a.timeoutSet = false // it bounds the making of it alone
	return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
		n, err := c.ResolveNode(ctx, node)
		if err != nil {
			return err
		}
		req.NodeId = n.GetNodeId()
		var out *tunnelv1.CreateBindingResponse
		err = a.withApproval(ctx, c, call{node: n.GetNodeId(), label: client.Label(n), command: "tunnel.open", params: map[string]any{"host": host, "port": number}, what: "reach " + target}, f.approval, func() error {
			ctx, cancel := context.WithTimeout(ctx, bindTimeout)
			defer cancel()
			var err error
			out, err = c.Tunnels.CreateBinding(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		b := out.GetBinding()
		rows := bindingRows(b)
		if out.GetToken() != "" {
			rows = append(rows, cells("token", out.GetToken()), cells("visit with", tokenHow(b, out.GetToken())))
		}
		if err := a.printOne(out, b.GetBindingId(), rows...); err != nil || f.detach {
			return err
		}
		fmt.Fprintln(a.stderr, "the address ends with this program; interrupt it to take the address back")
		err = a.watchRates(ctx, c, &tunnelv1.TunnelServiceWatchRequest{NodeId: n.GetNodeId()}, func(*tunnelv1.Tunnel) bool { return true })
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if _, gone := c.Tunnels.DeleteBinding(end, &tunnelv1.DeleteBindingRequest{BindingId: b.GetBindingId()}); gone != nil {
			return fmt.Errorf("the exposure is still there, end it with %s tunnel unbind %s: %w", a.again(), b.GetBindingId(), gone)
		}
		if ctx.Err() != nil {
			return nil // that is how it ends
		}
		return err
	})
}

// tokenHow is a command that visits.
func tokenHow(b *tunnelv1.Binding, token string) string {
	if b.GetPublicUrl() == "" || b.GetKind() == tunnelv1.BindingKind_BINDING_KIND_TCP {
		return "Authorization: Bearer " + token
	}
	return Quote([]string{"curl", "-H", "Authorization: Bearer " + token, b.GetPublicUrl()})
}

func bindingRows(b *tunnelv1.Binding) []string {
	rows := []string{cells("binding", b.GetBindingId())}
	if b.GetPublicUrl() != "" {
		rows = append(rows, cells("address", b.GetPublicUrl()))
	}
	if b.GetPort() != 0 {
		rows = append(rows, cells("port", net.JoinHostPort(b.GetHost(), strconv.Itoa(int(b.GetPort())))))
	}
	return append(rows, cells("target", b.GetTarget()), cells("access", accessWord(b.GetAccess())))
}

func accessWord(x tunnelv1.BindingAccess) string {
	for word, v := range accesses {
		if v == x {
			return word
		}
	}
	return ""
}

// carrierSession opens a tunnel of this machine, whose events go to stderr.
func (a *app) carrierSession(ctx context.Context, c *client.Client) (*driver.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	return c.Tunnel(ctx, driver.Options{OnEvent: a.sayTunnel})
}

// sayTunnel tells what happens to a tunnel.
func (a *app) sayTunnel(e driver.Event) {
	switch e.Kind {
	case driver.Reconnecting:
		fmt.Fprintf(a.stderr, "the carrier is gone (%s); trying again in %s\n", Text(fmt.Sprint(e.Err)), e.In)
	case driver.Resumed:
		fmt.Fprintln(a.stderr, "resumed: the addresses are the same")
	case driver.Replaced:
		fmt.Fprintln(a.stderr, "connected again, with a new tunnel")
	case driver.Revoked:
		fmt.Fprintf(a.stderr, "a binding is gone: %s\n", Text(e.Text))
	case driver.GoAway:
		fmt.Fprintf(a.stderr, "the daemon ends the tunnel: %s\n", Text(e.Text))
	case driver.CarrierLost:
		fmt.Fprintln(a.stderr, "one of the carriers is gone")
	}
}

// exposeHere lets visitors reach a service of this machine.
func (a *app) exposeHere(cmd *cobra.Command, f *exposeFlags, port int, target string) error {
	if f.detach {
		return usagef("--detach is for services of nodes: this machine has to stay connected")
	}
	a.timeoutSet = false
	return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
		s, err := a.carrierSession(ctx, c)
		if err != nil {
			return err
		}
		defer s.Close()
		b, err := s.Expose(ctx, driver.ExposeIn{Target: target, Port: port, Label: f.label, Takeover: f.takeover, TCP: f.tcp, Subdomain: f.subdomain, Access: f.access})
		if err != nil {
			return bindFailed(err)
		}
		return a.stay(ctx, c, s, b)
	})
}

// granted is what --json prints of a binding of this machine.
type granted struct {
	Tunnel string `json:"tunnelId"`
	BindID int    `json:"bindId"`
	Kind   string `json:"kind"`
	Mode   string `json:"mode"`
	Port   int    `json:"port"`
	URL    string `json:"publicUrl,omitempty"`
	Target string `json:"target"`
}

// stay prints a binding, and then rates until it or the tunnel ends.
func (a *app) stay(ctx context.Context, c *client.Client, s *driver.Session, b *driver.Binding) error {
	i := b.Info()
	g := granted{s.ID(), i.ID, i.Kind, i.Mode, i.Port, i.PublicURL, i.Target}
	rows := []string{cells("tunnel", g.Tunnel)}
	if g.URL != "" {
		rows = append(rows, cells("address", g.URL))
	}
	rows = append(rows, cells("port of the daemon", strconv.Itoa(g.Port)), cells("target", g.Target))
	if err := a.printOne(g, g.Tunnel, rows...); err != nil {
		return err
	}
	life, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-s.Done():
		case <-life.Done():
		}
	}()
	err := a.watchRates(life, c, &tunnelv1.TunnelServiceWatchRequest{}, func(t *tunnelv1.Tunnel) bool { return t.GetTunnelId() == s.ID() })
	if ctx.Err() != nil {
		return nil // interrupted: that is how it ends
	}
	if ended := s.Err(); ended != nil {
		return tunnelEnded(ended)
	}
	return err
}

func tunnelEnded(err error) error {
	code := exitLater
	if errors.Is(err, driver.ErrRefused) {
		code = exitDenied
	}
	return &codeError{code: code, err: err}
}

// bindFailed gives a refused binding its exit code.
func bindFailed(err error) error {
	if _, ok := errors.AsType[*driver.TargetError](err); ok {
		return usage(err)
	}
	e, ok := errors.AsType[*driver.BindError](err)
	if !ok {
		return err
	}
	code := exitFailed
	switch e.Code {
	case "ALREADY_BOUND", "PORT_IN_USE":
		code = exitConflict
	case "RESERVED_PORT", "PRIVILEGED_PORT", codeBindRequired:
		code = exitDenied
	case "BIND_CAP_EXCEEDED":
		code = exitLater
	case "INVALID_HOST", "INVALID_KIND":
		code = exitUsage
	}
	return &codeError{code: code, err: err}
}

// watchRates says on stderr what goes through tunnels, until ctx ends: when it changes, or on one line of a terminal.
// Losing the daemon does not end it: the tunnel tries to come back.
func (a *app) watchRates(ctx context.Context, c *client.Client, req *tunnelv1.TunnelServiceWatchRequest, mine func(*tunnelv1.Tunnel) bool) error {
	line := isTerminal(a.stderr)
	last, busy := "", false
	defer func() {
		if line && last != "" {
			fmt.Fprintln(a.stderr)
		}
	}()
	for ctx.Err() == nil {
		stream, err := c.Tunnels.Watch(ctx, req)
		for err == nil {
			var m *tunnelv1.TunnelServiceWatchResponse
			if m, err = stream.Recv(); err != nil {
				break
			}
			var streams uint32
			var in, out float64
			for _, t := range m.GetTunnels() {
				if mine(t) {
					streams += t.GetActiveStreams()
					in += t.GetRateIn()
					out += t.GetRateOut()
				}
			}
			text := fmt.Sprintf("%d streams, %s in, %s out", streams, rate(in), rate(out))
			idle := streams == 0 && in+out == 0
			switch {
			case line:
				fmt.Fprintf(a.stderr, "\r\x1b[K%s", text)
			case text != last && (!idle || busy):
				fmt.Fprintln(a.stderr, text)
			}
			last, busy = text, !idle
		}
		if exitCode(err) == exitDenied || exitCode(err) == exitUsage {
			<-ctx.Done() // who may carry, but not look
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return ctx.Err()
}

// rate is bytes a second for people.
func rate(x float64) string {
	units := []string{"B/s", "KiB/s", "MiB/s", "GiB/s"}
	i := 0
	for ; x >= 1000 && i < len(units)-1; i++ {
		x /= 1024
	}
	if i == 0 || x >= 100 {
		return fmt.Sprintf("%.0f %s", x, units[i])
	}
	return fmt.Sprintf("%.1f %s", x, units[i])
}

// amount is bytes for people.
func amount(n uint64) string { return strings.TrimSuffix(rate(float64(n)), "/s") }

// forward is one port of this machine that leads elsewhere.
type forward struct {
	local int
	host  string
	port  int
}

// parseForward reads 5432, 5432:5433, 5432:host:port and 5432:[::1]:port: the port here, and where it leads. The
// port here may be 0 or random, when where it leads is named.
func parseForward(text string) (forward, error) {
	first, rest, more := strings.Cut(text, ":")
	if !more || first == "" {
		host, port, err := driver.SplitTarget(text)
		return forward{port, host, port}, err
	}
	local, err := driver.Port(first)
	if err != nil {
		return forward{}, fmt.Errorf("%q: %w, and a service of a node is given as PORT, LOCALPORT:PORT or LOCALPORT:HOST:PORT", text, err)
	}
	host, port, err := driver.SplitTarget(rest)
	return forward{local, host, port}, err
}

func (a *app) tunnelPullCmd() *cobra.Command {
	var bind, label, port string
	var approval time.Duration
	c := &cobra.Command{Use: "pull NODE LOCALPORT[:[HOST:]PORT]...", Short: "Reach services of a node at ports of this machine",
		ValidArgsFunction: a.completeNode,
		Long: `Listen at ports of this machine, and connect each connection that comes there to a service
of a node: LOCALPORT here leads to HOST:PORT as the node sees it. The forms are 5432 for the
same port on both sides, 5432:5433, 5432:db.example:5432 and 5432:[::1]:5432; LOCALPORT may
be 0 for any free one. Several can be given.

With a single TARGET and no node, it is the other way round: the daemon listens at a loopback
port of its machine, --port or one of its choice, and connections there end at TARGET on this
machine. ` + targetHelp + `

It stays until it is interrupted, and says on stderr what goes through.`,
		Example: `  hanzoctl tunnel pull build-box 5432:127.0.0.1:5432
  hanzoctl tunnel pull build-box 8080 0:9090 2222:10.0.0.7:22
  hanzoctl tunnel pull 127.0.0.1:5432 --port 15432`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("say from which node, and which port")
			}
			if len(args) == 1 {
				if _, err := driver.Target(args[0]); err != nil {
					return fmt.Errorf("say which port of the node: give PORT, LOCALPORT:PORT or LOCALPORT:HOST:PORT (without a node, %w)", err)
				}
				return nil
			}
			for _, text := range args[1:] {
				if _, err := parseForward(text); err != nil {
					return err
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := driver.Port(port)
			if err != nil {
				return usagef("--%w", err)
			}
			a.timeoutSet = false
			if len(args) == 1 {
				return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
					s, err := a.carrierSession(ctx, c)
					if err != nil {
						return err
					}
					defer s.Close()
					b, err := s.Pull(ctx, driver.PullIn{Target: args[0], Port: number, Label: label})
					if err != nil {
						return bindFailed(err)
					}
					return a.stay(ctx, c, s, b)
				})
			}
			if port != "" {
				return usagef("--port goes with a target of this machine; give LOCALPORT:PORT for a node's")
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				return a.pull(ctx, c, args[0], args[1:], bind, label, approval)
			})
		}}
	c.Flags().StringVar(&bind, "bind", "127.0.0.1", "address of this machine to listen at; others than the loopback one let other machines in")
	c.Flags().StringVar(&label, "label", "", "what people call it")
	c.Flags().StringVar(&port, "port", "", `port of the daemon, for a target of this machine: a number, or "random", "auto" or empty`)
	approvalFlag(c, &approval)
	return c
}

// pulled is what --json prints of one port.
type pulled struct {
	Tunnel string `json:"tunnelId"`
	Node   string `json:"nodeId"`
	Listen string `json:"listen"`
	Target string `json:"target"`
}

func (a *app) pull(ctx context.Context, c *client.Client, node string, specs []string, bind, label string, approval time.Duration) error {
	n, err := c.ResolveNode(ctx, node)
	if err != nil {
		return err
	}
	// The ports first: one that is taken is said before anybody is asked.
	var listeners []net.Listener
	closeAll := func() {
		for _, l := range listeners {
			_ = l.Close() // Serve may have done so
		}
	}
	defer closeAll()
	var forwards []forward
	for _, text := range specs {
		f, err := parseForward(text)
		if err != nil {
			return usage(err)
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(strings.Trim(bind, "[]"), strconv.Itoa(f.local)))
		if err != nil {
			return &codeError{code: exitConflict, err: fmt.Errorf("cannot listen here: %w; give another port in front of the colon", err)}
		}
		listeners, forwards = append(listeners, l), append(forwards, f)
	}
	s, err := a.carrierSession(ctx, c)
	if err != nil {
		return err
	}
	defer s.Close()
	life, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	for i, f := range forwards {
		d, err := a.dialBinding(ctx, c, s, n.GetNodeId(), client.Label(n), f.host, f.port, label, approval)
		if err != nil {
			return err
		}
		target := net.JoinHostPort(f.host, strconv.Itoa(f.port))
		p := pulled{s.ID(), n.GetNodeId(), listeners[i].Addr().String(), target}
		if err := a.printItem(p, p.Listen, Text(p.Listen+" leads to "+target+" on "+client.Label(n))); err != nil {
			return err
		}
		serving.Go(func() { _ = d.Serve(life, listeners[i]) }) // the session says why it ended
	}
	go func() {
		defer cancel()
		select {
		case <-s.Done():
		case <-life.Done():
		}
	}()
	err = a.watchRates(life, c, &tunnelv1.TunnelServiceWatchRequest{}, func(t *tunnelv1.Tunnel) bool { return t.GetTunnelId() == s.ID() })
	if ctx.Err() != nil {
		return nil
	}
	if ended := s.Err(); ended != nil {
		return tunnelEnded(ended)
	}
	return err
}

// dialBinding makes the right to open streams to a place, as a node sees it; "" is the machine of the daemon.
func (a *app) dialBinding(ctx context.Context, c *client.Client, s *driver.Session, node, label, host string, port int, name string, approval time.Duration) (*driver.Dialer, error) {
	var d *driver.Dialer
	bind := func() error {
		ctx, cancel := context.WithTimeout(ctx, bindTimeout)
		defer cancel()
		var err error
		d, err = s.DialBinding(ctx, driver.DialIn{Node: node, Host: host, Port: port, Label: name})
		return err
	}
	if node == "" {
		return d, bindFailed(bind())
	}
	err := a.withApproval(ctx, c, call{node: node, label: label, command: "tunnel.open", params: map[string]any{"host": host, "port": port}, what: "reach " + net.JoinHostPort(host, strconv.Itoa(port))}, approval, bind)
	return d, bindFailed(err)
}

func (a *app) tunnelDialCmd() *cobra.Command {
	var approval time.Duration
	c := &cobra.Command{Use: "dial [NODE] [HOST:]PORT", Short: "Connect stdin and stdout to a service of a node",
		ValidArgsFunction: a.completeNode,
		Long: `Connect stdin and stdout to a service as a node sees it, or as the machine of the daemon
does when no node is named. Nothing but the bytes of the service comes to stdout, so that it
can be what another program speaks through, such as ssh with ProxyCommand. The end of stdin
ends that direction alone; it ends when the service ends its own.`,
		Example: `  hanzoctl tunnel dial build-box 22
  ssh -o ProxyCommand='hanzoctl tunnel dial build-box 22' alice@build-box
  printf 'GET / HTTP/1.0\r\n\r\n' | hanzoctl tunnel dial build-box 127.0.0.1:8080`,
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return errors.New("say on which node, and to which port")
			case 1, 2:
				if _, err := driver.Target(args[len(args)-1]); err != nil {
					return fmt.Errorf("say to which port of the node: %w", err)
				}
				return nil
			}
			return errors.New("give a node and a target")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != "table" || a.quiet {
				return usagef("the output is that of the service: -o and -q do not go with dial")
			}
			host, port, err := driver.SplitTarget(args[len(args)-1])
			if err != nil {
				return usage(err)
			}
			a.timeoutSet = false
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				node, label := "", ""
				if len(args) == 2 {
					n, err := c.ResolveNode(ctx, args[0])
					if err != nil {
						return err
					}
					node, label = n.GetNodeId(), client.Label(n)
				}
				s, err := a.carrierSession(ctx, c)
				if err != nil {
					return err
				}
				defer s.Close()
				d, err := a.dialBinding(ctx, c, s, node, label, host, port, "", approval)
				if err != nil {
					return err
				}
				conn, err := d.DialContext(ctx, "tcp", "")
				if err != nil {
					return &codeError{code: exitLater, err: err}
				}
				return a.join(ctx, conn)
			})
		}}
	approvalFlag(c, &approval)
	return c
}

// join copies between a connection and stdin and stdout until the other end has ended its direction.
func (a *app) join(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	go func() { // ends with stdin, or with the process
		_, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{a.stdin}, make([]byte, copySize))
		if w, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = w.CloseWrite() // the other direction says what is wrong
		}
	}()
	if _, err := io.CopyBuffer(struct{ io.Writer }{a.stdout}, struct{ io.Reader }{conn}, make([]byte, copySize)); err != nil {
		return &codeError{code: exitFailed, err: fmt.Errorf("the connection broke off: %w", err)}
	}
	return nil
}

func (a *app) tunnelListCmd() *cobra.Command {
	var node string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the tunnels", Args: cobra.NoArgs,
		Long: `List the tunnels with what they carry. A parked one has lost its connection, and is kept for a
while with its ports, for its client to come back.`,
		Example: `  hanzoctl tunnel list
  hanzoctl tunnel list --node build-box --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := nodeNamed(ctx, c, node)
				if err != nil {
					return err
				}
				out, err := c.Tunnels.List(ctx, &tunnelv1.TunnelServiceListRequest{NodeId: id})
				if err != nil {
					return err
				}
				l := list{whole: out, head: tunnelHead, none: "no tunnels are open"}
				for _, t := range out.GetTunnels() {
					l.items = append(l.items, t)
					l.ids = append(l.ids, t.GetTunnelId())
				}
				l.row = func(i int) string { return tunnelRow(out.GetTunnels()[i]) }
				return a.printList(l)
			})
		}}
	a.addNodeFlag(c, &node, "tunnels of one node only")
	return c
}

const tunnelHead = "ID\tOF\tFROM\tAGE\tBINDINGS\tSTREAMS\tIN\tOUT\tSTATE"

func tunnelRow(t *tunnelv1.Tunnel) string {
	of, state := tunnelOf(t)
	var ports []string
	for _, b := range t.GetBindings() {
		word := modeWord(b.GetMode())
		if b.GetPort() != 0 {
			word += " " + strconv.Itoa(int(b.GetPort()))
		}
		ports = append(ports, word)
	}
	return cells(shortTunnel(t.GetTunnelId()), shortID(of), t.GetPeerAddress(), span(time.Since(t.GetCreatedAt().AsTime())), strings.Join(ports, ", "),
		fmt.Sprintf("%d/%d", t.GetActiveStreams(), t.GetMaxStreams()), amount(t.GetBytesIn()), amount(t.GetBytesOut()), state)
}

// tunnelOf is whose a tunnel is, and how it does.
func tunnelOf(t *tunnelv1.Tunnel) (of, state string) {
	of, state = t.GetNodeId(), "open"
	if of == "" {
		of = t.GetOwner()
	}
	switch {
	case t.GetClosing():
		state = "ending"
	case t.GetParked():
		state = "parked, " + span(time.Until(t.GetParkedUntil().AsTime())) + " left"
	}
	return of, state
}

// shortTunnel is enough of a tunnel's id to tell tunnels apart; it names the tunnel.
func shortTunnel(id string) string { return id[:min(len(id), len("S-")+8)] }

func modeWord(m tunnelv1.BindingMode) string {
	return strings.ToLower(strings.TrimPrefix(m.String(), "BINDING_MODE_"))
}

func kindWord(k tunnelv1.BindingKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "BINDING_KIND_"))
}

// nodeNamed is the id of the node that --node names, "" without one.
func nodeNamed(ctx context.Context, c *client.Client, node string) (string, error) {
	if node == "" {
		return "", nil
	}
	n, err := c.ResolveNode(ctx, node)
	return n.GetNodeId(), err
}

func (a *app) addNodeFlag(c *cobra.Command, node *string, about string) {
	c.Flags().StringVar(node, "node", "", about)
	must(c.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, word)
	}))
}

func (a *app) tunnelBindingsCmd() *cobra.Command {
	var node string
	c := &cobra.Command{Use: "bindings", Short: "List what visitors can reach", Args: cobra.NoArgs,
		Example: `  hanzoctl tunnel bindings
  hanzoctl tunnel bindings --node build-box -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := nodeNamed(ctx, c, node)
				if err != nil {
					return err
				}
				out, err := c.Tunnels.ListBindings(ctx, &tunnelv1.ListBindingsRequest{NodeId: id})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tOF\tKIND\tMODE\tPORT\tTARGET\tADDRESS\tACCESS\tSTREAMS\tSTATE", none: "nothing is exposed or pulled"}
				for _, b := range out.GetBindings() {
					l.items = append(l.items, b)
					l.ids = append(l.ids, b.GetBindingId())
				}
				l.row = func(i int) string {
					b := out.GetBindings()[i]
					of, port, state := b.GetNodeId(), "", "open"
					if of == "" {
						of = shortTunnel(b.GetTunnelId())
					}
					if b.GetPort() != 0 {
						port = strconv.Itoa(int(b.GetPort()))
					}
					if b.GetParked() {
						state = "parked"
					}
					return cells(b.GetBindingId(), shortID(of), kindWord(b.GetKind()), modeWord(b.GetMode()), port, b.GetTarget(), b.GetPublicUrl(), accessWord(b.GetAccess()),
						strconv.Itoa(int(b.GetActiveStreams())), state)
				}
				return a.printList(l)
			})
		}}
	a.addNodeFlag(c, &node, "what one node exposes only")
	return c
}

func (a *app) tunnelUnbindCmd() *cobra.Command {
	return &cobra.Command{Use: "unbind BINDING...", Short: "End bindings with their streams", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeBinding,
		Example:           `  hanzoctl tunnel unbind 5a3c91`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				for _, word := range args {
					id, err := resolveBinding(ctx, c, word)
					if err != nil {
						return err
					}
					out, err := c.Tunnels.DeleteBinding(ctx, &tunnelv1.DeleteBindingRequest{BindingId: id})
					if err != nil {
						return err
					}
					if err := a.printOne(out, id, Text(id+" is gone")); err != nil {
						return err
					}
				}
				return nil
			})
		}}
}

func (a *app) tunnelKillCmd() *cobra.Command {
	grace := 50 * time.Millisecond
	c := &cobra.Command{Use: "kill TUNNEL...", Aliases: []string{"close"}, Short: "End tunnels", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeTunnel,
		Long: `End tunnels: they take no new streams, and streams that run may finish within --grace, at most
5s. Their clients are told, and do not come back by themselves.`,
		Example: `  hanzoctl tunnel kill S-3f2a81
  hanzoctl tunnel kill S-3f2a81 --grace 2s`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if grace < 0 || grace > 5*time.Second {
				return usagef("--grace must be 0 to 5s")
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				for _, word := range args {
					t, err := resolveTunnel(ctx, c, word)
					if err != nil {
						return err
					}
					ms := grace.Milliseconds()
					if _, err := c.Tunnels.Kill(ctx, &tunnelv1.TunnelServiceKillRequest{TunnelId: t.GetTunnelId(), GraceMs: &ms}); err != nil {
						return err
					}
					if err := a.printOne(t, t.GetTunnelId(), Text(shortTunnel(t.GetTunnelId())+" is being ended")); err != nil {
						return err
					}
				}
				return nil
			})
		}}
	c.Flags().DurationVar(&grace, "grace", grace, "how long streams that run may go on, 0 to 5s")
	return c
}

// resolveTunnel finds a tunnel by its id or the beginning of it, with or without S-.
func resolveTunnel(ctx context.Context, c *client.Client, word string) (*tunnelv1.Tunnel, error) {
	out, err := c.Tunnels.List(ctx, &tunnelv1.TunnelServiceListRequest{})
	if err != nil {
		return nil, err
	}
	short := strings.TrimPrefix(word, "S-")
	var found []*tunnelv1.Tunnel
	for _, t := range out.GetTunnels() {
		if t.GetTunnelId() == word {
			return t, nil
		}
		if strings.HasPrefix(strings.TrimPrefix(t.GetTunnelId(), "S-"), short) {
			found = append(found, t)
		}
	}
	switch {
	case len(found) == 1 && len(short) >= 4:
		return found[0], nil
	case len(found) > 1:
		return nil, usagef("%d tunnels begin with %q; give more of the id", len(found), word)
	}
	return nil, &codeError{code: exitNotFound, text: fmt.Sprintf(`there is no tunnel %s; see "hanzoctl tunnel list"`, Text(word))}
}

func resolveBinding(ctx context.Context, c *client.Client, word string) (string, error) {
	out, err := c.Tunnels.ListBindings(ctx, &tunnelv1.ListBindingsRequest{})
	if err != nil {
		return "", err
	}
	var found []string
	for _, b := range out.GetBindings() {
		if id := b.GetBindingId(); id == word {
			return id, nil
		} else if strings.HasPrefix(id, word) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 1 && len(word) >= 4:
		return found[0], nil
	case len(found) > 1:
		return "", usagef("%d bindings begin with %q; give more of the id", len(found), word)
	}
	return "", &codeError{code: exitNotFound, text: fmt.Sprintf(`there is no binding %s; see "hanzoctl tunnel bindings"`, Text(word))}
}

func (a *app) completeTunnel(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) (words []string) {
		out, err := c.Tunnels.List(ctx, &tunnelv1.TunnelServiceListRequest{})
		if err != nil {
			return nil
		}
		for _, t := range out.GetTunnels() {
			if !slices.Contains(args, t.GetTunnelId()) {
				words = append(words, t.GetTunnelId()+"\t"+Text(t.GetOwner())+" from "+Text(t.GetPeerAddress()))
			}
		}
		return words
	})
}

func (a *app) completeBinding(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) (words []string) {
		out, err := c.Tunnels.ListBindings(ctx, &tunnelv1.ListBindingsRequest{})
		if err != nil {
			return nil
		}
		for _, b := range out.GetBindings() {
			if id := b.GetBindingId(); id != "" && !slices.Contains(args, id) {
				words = append(words, Text(id)+"\t"+Text(kindWord(b.GetKind())+" "+modeWord(b.GetMode())+" "+b.GetTarget()))
			}
		}
		return words
	})
}

func (a *app) tunnelWatchCmd() *cobra.Command {
	var node string
	var count int
	every := time.Second
	c := &cobra.Command{Use: "watch", Short: "Show the tunnels with what goes through them, again and again", Args: cobra.NoArgs,
		Long: `Show the tunnels with their streams and rates, once every --interval, until it is interrupted. On a
terminal it is one table that changes; as jsonl it is an object a line each time.`,
		Example: `  hanzoctl tunnel watch
  hanzoctl tunnel watch --interval 5s -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 250*time.Millisecond || every > time.Minute {
				return usagef("--interval must be 250ms to 1m")
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				id, err := nodeNamed(ctx, c, node)
				if err != nil {
					return err
				}
				stream, err := c.Tunnels.Watch(ctx, &tunnelv1.TunnelServiceWatchRequest{NodeId: id, Interval: durationpb.New(every)})
				for n := 0; err == nil && (count <= 0 || n < count); n++ {
					var m *tunnelv1.TunnelServiceWatchResponse
					if m, err = stream.Recv(); err == nil {
						err = a.printWatch(m)
					}
				}
				if ctx.Err() != nil && cmd.Context().Err() != nil {
					return nil // interrupted: that is how it ends
				}
				return err
			})
		}}
	a.addNodeFlag(c, &node, "tunnels of one node only")
	c.Flags().DurationVar(&every, "interval", every, "time between two looks, 250ms to 1m")
	countFlag(c, &count)
	return c
}

func (a *app) printWatch(m *tunnelv1.TunnelServiceWatchResponse) error {
	if a.quiet || a.output != "table" {
		if a.output == "json" {
			a.output = "jsonl"
		}
		return a.printItem(m, "", "")
	}
	if isTerminal(a.stdout) && a.getenv("TERM") != "dumb" {
		fmt.Fprint(a.stdout, "\x1b[H\x1b[J")
	}
	t := m.GetTotals()
	rows := []string{"ID\tOF\tCARRIERS\tSTREAMS\tIN\tOUT\tSTATE"}
	for _, t := range m.GetTunnels() {
		of, state := tunnelOf(t)
		rows = append(rows, cells(shortTunnel(t.GetTunnelId()), shortID(of), strconv.Itoa(int(t.GetConnections())), strconv.Itoa(int(t.GetActiveStreams())), rate(t.GetRateIn()), rate(t.GetRateOut()), state))
	}
	if _, err := fmt.Fprintf(a.stdout, "%s  %d tunnels, %d parked, %d bindings, %d streams, %d descriptors\n", m.GetAt().AsTime().Local().Format(time.TimeOnly),
		t.GetTunnels(), t.GetParked(), t.GetBindings(), t.GetActiveStreams(), t.GetPermitsUsed()); err != nil {
		return err
	}
	if len(rows) == 1 {
		return nil
	}
	return a.printTable(rows)
}

func (a *app) tunnelHealthCmd() *cobra.Command {
	return &cobra.Command{Use: "health", Short: "Say how the tunnels of the daemon do", Args: cobra.NoArgs,
		Example: `  hanzoctl tunnel health
  hanzoctl tunnel health --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Tunnels.Health(ctx, &tunnelv1.TunnelServiceHealthRequest{})
				if err != nil {
					return err
				}
				t := out.GetTotals()
				return a.printOne(out, "", cells("status", out.GetStatus()), cells("version", out.GetUserAgent()), cells("up for", span(time.Since(out.GetStartedAt().AsTime()))),
					cells("tunnels", fmt.Sprintf("%d, %d of them parked", t.GetTunnels(), t.GetParked())), cells("bindings", strconv.Itoa(int(t.GetBindings()))),
					cells("streams", strconv.Itoa(int(t.GetActiveStreams()))), cells("descriptors", fmt.Sprintf("%d in use, %d left", t.GetPermitsUsed(), t.GetPermitsAvailable())),
					cells("address", out.GetIp()))
			})
		}}
}
