package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

const (
	// maxViewers bounds the VNC viewers that one relay carries: what the daemon shows of one screen.
	maxViewers = 8
	// viewerPiece is how many bytes of a viewer travel at once.
	viewerPiece = 64 << 10
)

func (a *app) screenCmd() *cobra.Command {
	var listen, address string
	var approval time.Duration
	c := &cobra.Command{Use: "screen [NODE]", Short: "Look at the screen of a node, or of the daemon's machine",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeNode,
		Long: `Print the address of a page that shows the screen of a node over VNC, or that of the daemon's
machine without NODE. The token behind the # lets one browser in, once, within a minute; no
server sees it in an address.

With --listen, carry VNC viewers of this machine there instead: connect one to that address.
Whoever can connect to it sees the screen, so it has to be one of this machine alone.

The screen of the daemon's machine takes the scope operator.admin. A node shows its screen
when it was started with --vnc, and to whom is decided as for any privileged command.`,
		Example: `  hanzoctl screen build-box
  hanzoctl screen build-box --listen 127.0.0.1:5901
  hanzoctl screen --address https://gateway.example.com
  hanzoctl screen show build-box`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if listen != "" {
				if address != "" || a.output != "table" || a.quiet {
					return usagef("--listen prints no address: leave --address, -o and -q away")
				}
				return a.screenListen(cmd, args, listen, approval)
			}
			return a.screenAddress(cmd, args, address)
		}}
	f := c.Flags()
	f.StringVar(&listen, "listen", "", "loopback address, host:port, at which VNC viewers are carried to the screen")
	f.StringVar(&address, "address", "", "how browsers reach the gateway, as https://host[:port] (default where it listens)")
	f.DurationVar(&approval, "approval-timeout", 2*time.Minute, "with --listen, how long to wait for an approval")
	c.AddCommand(a.screenShowCmd())
	return c
}

// screenNode is the id of the node that is named; empty for the daemon's machine.
func screenNode(ctx context.Context, c *client.Client, args []string) (id, label string, err error) {
	if len(args) == 0 {
		return "", "the daemon's machine", nil
	}
	n, err := c.ResolveNode(ctx, args[0])
	if err != nil {
		return "", "", err
	}
	return n.GetNodeId(), client.Label(n), nil
}

func (a *app) screenShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show [NODE]", Short: "Say whether there is a screen", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeNode,
		Example: `  hanzoctl screen show
  hanzoctl screen show build-box -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, label, err := screenNode(ctx, c, args)
				if err != nil {
					return err
				}
				out, err := c.Screens.Get(ctx, &tunnelv1.ScreenServiceGetRequest{NodeId: id})
				if err != nil {
					return err
				}
				s := out.GetScreen()
				state := "there is no screen"
				if s.GetAvailable() {
					state = "there is a screen"
				}
				lines := []string{Text(fmt.Sprintf("%s: %s, %d look at it", label, state, s.GetViewers()))}
				for _, i := range s.GetInstructions() {
					lines = append(lines, "  "+Text(i))
				}
				return a.printOne(s, s.GetNodeId(), lines...)
			})
		}}
}

// screenAddress prints where a browser sees a screen.
func (a *app) screenAddress(cmd *cobra.Command, args []string, address string) error {
	if address != "" {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return usagef("--address %q must have the form https://host[:port]", address)
		}
		address = strings.TrimRight(address, "/")
	}
	return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
		id, _, err := screenNode(ctx, c, args)
		if err != nil {
			return err
		}
		out, err := c.Screens.CreateToken(ctx, &tunnelv1.ScreenServiceCreateTokenRequest{NodeId: id})
		if err != nil {
			return err
		}
		if address != "" {
			out.ViewerUrl = address + out.GetViewerPath()
		}
		link := out.GetViewerUrl() + "#token=" + out.GetToken()
		return a.printOne(out, link, Text(link))
	})
}

// screenListen carries VNC viewers to a screen until this program is ended.
func (a *app) screenListen(cmd *cobra.Command, args []string, at string, wait time.Duration) error {
	host, _, err := net.SplitHostPort(at)
	if ip, bad := netip.ParseAddr(host); err != nil || host != "localhost" && (bad != nil || !ip.IsLoopback()) {
		return usagef("--listen %q must be a loopback address with a port, such as 127.0.0.1:5901: whoever connects to it sees the screen", at)
	}
	a.timeoutSet = false // there is no limit to how long one looks
	return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
		id, label, err := screenNode(ctx, c, args)
		if err != nil {
			return err
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
		if err != nil {
			return &codeError{code: exitConflict, text: err.Error()}
		}
		defer l.Close()
		defer context.AfterFunc(ctx, func() { _ = l.Close() })()
		fmt.Fprintf(a.stderr, "the screen of %s is at %s; connect a VNC viewer there, and end this with Ctrl-C\n", Text(label), l.Addr())
		places := make(chan struct{}, maxViewers)
		var all sync.WaitGroup
		defer all.Wait()
		for {
			conn, err := l.Accept()
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			select {
			case places <- struct{}{}:
			default:
				_ = conn.Close() // nothing was read
				fmt.Fprintln(a.stderr, "too many viewers are connected; one was refused")
				continue
			}
			all.Go(func() {
				defer func() { <-places }()
				if err := a.carryScreen(ctx, c, id, label, conn, wait); err != nil && ctx.Err() == nil {
					fmt.Fprintln(a.stderr, Text("the screen is not shown: "+err.Error()))
				}
			})
		}
	})
}

// carryScreen carries one viewer.
func (a *app) carryScreen(ctx context.Context, c *client.Client, id, label string, conn net.Conn, wait time.Duration) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	open := func() (tunnelv1.ScreenService_ConnectClient, error) {
		stream, err := c.Screens.Connect(ctx)
		if err != nil {
			return nil, err
		}
		first := &tunnelv1.ScreenServiceConnectRequest{Message: &tunnelv1.ScreenServiceConnectRequest_Connect{Connect: &tunnelv1.ScreenConnect{NodeId: id}}}
		if err := stream.Send(first); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		_, err = stream.Recv()
		return stream, err
	}
	stream, err := open()
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == codeCallRequired {
		if err = a.askScreen(ctx, c, id, label, wait); err == nil {
			stream, err = open()
		}
	}
	if err != nil {
		return err
	}
	go func() { // ends with the connection
		defer cancel()
		buf := make([]byte, viewerPiece)
		for {
			n, err := conn.Read(buf)
			if n > 0 && stream.Send(&tunnelv1.ScreenServiceConnectRequest{Message: &tunnelv1.ScreenServiceConnectRequest_Data{Data: buf[:n]}}) != nil {
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(m.GetData()); err != nil {
			return nil //nolint:nilerr // the viewer has left
		}
	}
}

// askScreen asks for the approval that a screen takes, and waits for it.
func (a *app) askScreen(ctx context.Context, c *client.Client, id, label string, wait time.Duration) error {
	none := structpb.NewStructValue(&structpb.Struct{})
	ask := &approvalsv1.RequestApprovalRequest{NodeId: &id, Call: &approvalsv1.Call{Command: "screen.open", Params: none}}
	if wait > 0 {
		ask.Timeout = durationpb.New(wait)
	}
	got, err := c.Approvals.RequestApproval(ctx, ask)
	if err != nil {
		return err
	}
	p := got.GetApproval()
	fmt.Fprintf(a.stderr, "waiting for approval %s to see the screen of %s\n", Text(p.GetId()), Text(label))
	fmt.Fprintf(a.stderr, "answer with: %s approve %s once\n", a.again(), Text(p.GetId()))
	decided, err := c.Approvals.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: p.GetId()})
	if err != nil {
		return err
	}
	switch p = decided.GetApproval(); p.GetDecision() {
	case approvalsv1.Decision_DECISION_ALLOW_ONCE, approvalsv1.Decision_DECISION_ALLOW_ALWAYS:
		return nil
	case approvalsv1.Decision_DECISION_DENY:
		return &codeError{code: exitDenied, text: "the screen was denied by " + Text(p.GetResolvedBy())}
	}
	return &codeError{code: exitLater, text: fmt.Sprintf("nobody answered approval %s in time", Text(p.GetId()))}
}
