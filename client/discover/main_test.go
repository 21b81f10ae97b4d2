package discover

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/brutella/dnssd"
	dnssdlog "github.com/brutella/dnssd/log"
	"golang.org/x/net/dns/dnsmessage"
)

// TestMain is also the program that the tests start in other networks: behind "as" stand the role and
// its arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		if err := roles[os.Args[2]](ctx, os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The tests wait for clocks and for each other's networks, and hardly compute.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// advertised is what the role advertise announces, and the only address where it is reached.
type advertised struct {
	Announcement
	Only string
}

var roles = map[string]func(context.Context, []string) error{
	"advertise": func(ctx context.Context, args []string) error {
		var a advertised
		if err := json.Unmarshal([]byte(args[0]), &a); err != nil {
			return err
		}
		o := Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
		if a.Only != "" {
			o.Reach = func(at netip.Addr) bool { return at.String() == a.Only }
		}
		Advertise(ctx, a.Announcement, o)
		return nil
	},
	// browse prints each new state.
	"browse": func(ctx context.Context, _ []string) error {
		out := json.NewEncoder(os.Stdout)
		_, err := Browse(ctx, func(r Result) { _ = out.Encode(r) })
		return err
	},
	// churn starts and stops both often and prints what stays.
	"churn": func(ctx context.Context, _ []string) error {
		before := runtime.NumGoroutine()
		for range 6 {
			for _, f := range []func(context.Context){
				func(ctx context.Context) {
					Advertise(ctx, Announcement{Name: "churn", Port: 1}, Options{Log: slog.New(slog.DiscardHandler)})
				},
				func(ctx context.Context) { _, _ = Browse(ctx, nil) },
			} {
				ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				f(ctx)
				cancel()
			}
		}
		// One that has been told to end counts until it was scheduled once more.
		more := runtime.NumGoroutine() - before
		for end := time.Now().Add(5 * time.Second); more > 0 && time.Now().Before(end); more = runtime.NumGoroutine() - before {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println(more, "more")
		return nil
	},
	// listen prints a line for each message to the group.
	"listen": func(ctx context.Context, _ []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		defer c.close()
		all, err := networks()
		if err != nil {
			return err
		}
		c.join(all)
		fmt.Println("listening")
		for {
			select {
			case <-ctx.Done():
				return nil
			case p := <-c.in:
				fmt.Println(p.from.Addr(), p.response, p.questions, p.records)
			}
		}
	},
	// ask asks one machine from a port of its own, as a plain resolver does, and prints the size of the answer or 0.
	"ask": func(_ context.Context, args []string) error {
		c, err := net.Dial("udp", net.JoinHostPort(args[0], "5353"))
		if err != nil {
			return err
		}
		defer c.Close()
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77}, Questions: []dnsmessage.Question{
			{Name: dnsmessage.MustNewName("_Hanzo._tcp.local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET},
		}}
		b, err := m.Pack()
		if err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		buf := make([]byte, maxMessage)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, _ := c.Read(buf)
		var got dnsmessage.Message
		if n > 0 {
			if err := got.Unpack(buf[:n]); err != nil || got.ID != 77 || len(got.Questions) != 1 {
				return fmt.Errorf("a wrong answer: %v %+v", err, got)
			}
		}
		fmt.Println(n)
		return nil
	},
	// flood answers what nobody asked, thousands of times.
	"flood": func(ctx context.Context, _ []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		defer c.close()
		all, err := networks()
		if err != nil {
			return err
		}
		for i := 0; ctx.Err() == nil; i++ {
			a := Announcement{Name: fmt.Sprintf("\x1b]0;owned\a%d", i), Port: 1, Version: "\x1b[31m", Fingerprint: "zz"}
			cl := newClaim(a, 1)
			cl.instances[0] = fmt.Sprintf("\x1b[2J%d.", i) + types[0]
			cl.addrs = []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
			b, err := cl.pack(announce, 0, nil)
			if err != nil {
				return err
			}
			for _, n := range all {
				_ = c.multicast(b, n)
			}
			time.Sleep(200 * time.Microsecond)
		}
		return nil
	},
	// thief answers for a name that is somebody else's.
	"thief": func(ctx context.Context, args []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		defer c.close()
		all, err := networks()
		if err != nil {
			return err
		}
		for ctx.Err() == nil {
			for n := range maxTries + 1 {
				cl := newClaim(Announcement{Name: args[0], Port: 666}, n+1)
				cl.addrs = []netip.Addr{netip.MustParseAddr("198.18.0.66")}
				b, err := cl.pack(announce, 0, nil)
				if err != nil {
					return err
				}
				for _, n := range all {
					_ = c.multicast(b, n)
				}
			}
			pause(ctx, 50*time.Millisecond)
		}
		return nil
	},
	// their-advertise and their-browse are another implementation.
	"their-advertise": func(ctx context.Context, args []string) error {
		dnssdlog.Info.Disable()
		r, err := dnssd.NewResponder()
		if err != nil {
			return err
		}
		s, err := dnssd.NewService(dnssd.Config{
			Name: args[0], Type: Legacy, Host: "theirs", Port: 18789,
			Text: map[string]string{"role": "gateway", "gatewayPort": "18789", "gatewayTls": "1", "sshPort": "22"},
		})
		if err != nil {
			return err
		}
		if _, err := r.Add(s); err != nil {
			return err
		}
		_ = r.Respond(ctx)
		return nil
	},
	"their-browse": func(ctx context.Context, args []string) error {
		dnssdlog.Info.Disable()
		out := json.NewEncoder(os.Stdout)
		_ = dnssd.LookupType(ctx, args[0]+".local.",
			func(e dnssd.BrowseEntry) { _ = out.Encode(map[string]any{"add": e}) },
			func(e dnssd.BrowseEntry) { _ = out.Encode(map[string]any{"gone": e}) })
		return nil
	},
}
