package companion

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"
)

// Socket is where an app is asked. Path and Token stand in the exec approvals file.
type Socket struct {
	Path, Token string
	// Wait bounds one question; Wait of this package when zero, MaxWait at the most.
	Wait time.Duration
}

// Ask asks the app and waits for the person's answer. Without one it fails with ErrAbsent, ErrUnsafe,
// ErrSilent or ErrUnsupported, and then the question is taken back: an app shows it no longer than the
// connection stands. An empty path or token is ErrAbsent.
func (s Socket) Ask(ctx context.Context, p Prompt) (Decision, error) {
	if s.Path == "" || s.Token == "" {
		return "", ErrAbsent
	}
	if s.Wait <= 0 {
		s.Wait = Wait
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.Wait, MaxWait))
	defer cancel()
	p.ID = newUUID()
	line, err := encode(frame{Type: "request", Token: s.Token, ID: p.ID, Request: p.request()})
	if err != nil {
		return "", fmt.Errorf("%w: the command is too long to be shown", ErrSilent)
	}
	c, err := connect(ctx, s.Path)
	if err != nil {
		return "", err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // ends reads and writes
	defer stop()
	if _, err := c.Write(line); err != nil {
		return "", silent(ctx, err)
	}
	f, err := lines(c, func(f frame) bool { return f.Type == "decision" && f.ID == p.ID && f.Decision.valid() })
	if err != nil {
		return "", silent(ctx, err)
	}
	if ctx.Err() != nil { // an answer that came too late is none
		return "", silent(ctx, ctx.Err())
	}
	return f.Decision, nil
}

// silent words why there is no answer. The end of the caller's own context is told as it is.
func silent(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrSilent, err)
}

// connect reaches the app when socket and app are this user's.
func connect(ctx context.Context, path string) (*net.UnixConn, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, silent(ctx, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close() // nothing was sent
		return nil, fmt.Errorf("%w: %T", ErrUnsafe, c)
	}
	if err := checkPeer(u); err != nil {
		_ = u.Close() // nothing was sent
		return nil, fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	return u, nil
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
