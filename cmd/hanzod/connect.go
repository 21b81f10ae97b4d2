package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/config"
)

const (
	exitUnavailable = 69 // "connect": no daemon answers
	exitForeign     = 77 // "connect": the socket belongs to another user

	// connectTime bounds reaching the daemon of this machine.
	connectTime = 5 * time.Second
	// lingerTime is how long the way to the daemon stays open after the daemon has ended its own half.
	lingerTime = time.Minute
	// maxGreeting bounds the greeting, in bytes.
	maxGreeting = 128
)

// unavailableError says that no daemon answers, foreignError that somebody else's does.
type (
	unavailableError struct{ error }
	foreignError     struct{ error }
)

type connectFlags struct {
	stdio    bool
	stateDir string
	socket   string
	port     int
	gateway  bool
	greet    string
}

func connectCmd(in io.Reader, out io.Writer) *cobra.Command {
	var f connectFlags
	c := &cobra.Command{
		Use:   "connect --stdio",
		Short: "Carry standard input and output to the daemon of this machine",
		Long: `connect carries its standard input to the daemon of this machine and the daemon's answers to
its standard output, until both have ended. hanzoctl runs it over SSH on machines whose
sshd forwards no sockets; whoever runs it is for the daemon the user that it runs as.

It finds the daemon as hanzoctl does: HANZOD_SOCKET, HANZOD_STATE_DIR, ~/.hanzo/hanzod, the
well-known discovery file. With --port or --gateway it carries to a TCP port of this
machine instead, on the loopback address.

Nothing but the daemon's bytes goes to standard output, and before them the line that
--greet names, once the daemon is reached. Errors go to standard error.

Exit codes: 0 both directions have ended, 1 the connection broke, 2 wrong flags, 69 no
daemon answers, 77 the socket belongs to another user.`,
		Example: `  ssh box hanzod connect --stdio
  ssh box hanzod connect --stdio --gateway`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd.Flags().Changed("port")); err != nil {
				return usageError{err}
			}
			conn, err := f.dial(cmd.Context(), os.Getenv)
			if err != nil {
				return err
			}
			defer conn.Close()
			if f.greet != "" {
				if _, err := io.WriteString(out, f.greet+"\n"); err != nil {
					return fmt.Errorf("write the greeting: %w", err)
				}
			}
			defer context.AfterFunc(cmd.Context(), func() { _ = conn.Close() })() // told to stop
			if err := carry(conn, in, out); err != nil {
				return errors.Join(cmd.Context().Err(), err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&f.stdio, "stdio", false, "carry standard input and output (the only way there is)")
	c.Flags().StringVar(&f.stateDir, "state-dir", "", "state directory of the daemon (default ~/.hanzo/hanzod)")
	c.Flags().StringVar(&f.socket, "socket", "", "socket of the daemon")
	c.Flags().IntVar(&f.port, "port", 0, "carry to this TCP port of the loopback address")
	c.Flags().BoolVar(&f.gateway, "gateway", false, "carry to the daemon's own TCP port")
	c.Flags().StringVar(&f.greet, "greet", "", "print this line first, once the daemon is reached")
	return c
}

func (f *connectFlags) check(portSet bool) error {
	ways := 0
	for _, set := range []bool{f.socket != "", portSet, f.gateway} { // where it goes
		if set {
			ways++
		}
	}
	switch {
	case !f.stdio:
		return errors.New("say --stdio: connect carries standard input and output")
	case ways > 1:
		return errors.New("--socket, --port and --gateway exclude each other")
	case f.stateDir != "" && (portSet || f.socket != ""):
		return errors.New("--state-dir and --port or --socket exclude each other")
	case portSet && (f.port < 1 || f.port > 65535):
		return fmt.Errorf("--port %d must be from 1 to 65535", f.port)
	case len(f.greet) > maxGreeting || strings.ContainsFunc(f.greet, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("--greet takes one line of at most %d plain characters", maxGreeting)
	}
	return nil
}

// dial reaches the daemon.
func (f *connectFlags) dial(ctx context.Context, getenv func(string) string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	found := client.Found{Socket: f.socket}
	if dir := f.stateDir; dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		found = client.FindIn(abs)
	} else if f.socket == "" && f.port == 0 {
		var err error
		if found, err = client.Find(getenv); err != nil {
			return nil, usageError{err}
		}
	}
	port := f.port
	if f.gateway {
		if port = config.DefaultPort; found.Daemon != nil && found.Daemon.Port != 0 {
			port = found.Daemon.Port
		}
	}
	if port != 0 {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return nil, unavailableError{fmt.Errorf("nothing answers on port %d of this machine (%w); look whether the daemon runs: hanzod service status", port, err)}
		}
		return conn, nil
	}
	conn, err := client.DialSocket(ctx, found.Socket)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == client.CodeForeignSocket {
		return nil, foreignError{err}
	}
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, context.DeadlineExceeded):
		return nil, unavailableError{fmt.Errorf(`no daemon answers at %s; start it with "hanzod run" or "hanzod service start"`, found.Socket)}
	}
	return nil, fmt.Errorf("connect to %s: %w", found.Socket, err)
}

// carry copies both directions until both have ended. When the daemon ends first, its end is passed on, and
// what is still to come for it is taken for a while.
func carry(conn net.Conn, in io.Reader, out io.Writer) error {
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, in)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		up <- err
	}()
	_, err := io.Copy(out, conn)
	if c, ok := out.(io.Closer); ok {
		err = errors.Join(err, c.Close()) // that is how the other side learns of it
	}
	if err != nil {
		return fmt.Errorf("the connection broke: %w", err)
	}
	linger := time.NewTimer(lingerTime)
	defer linger.Stop()
	select {
	case err := <-up:
		if err != nil && !gone(err) {
			return fmt.Errorf("the connection broke: %w", err)
		}
	case <-linger.C:
	}
	return nil
}

// gone says that the daemon takes no more, which is its right after it has ended.
func gone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN)
}
