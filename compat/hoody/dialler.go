package hoody

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/mux"
)

// dialTime is how long connecting may take.
const dialTime = 10 * time.Second

// DialOptions of Dial. The zero value is good.
type DialOptions struct {
	// AllowInsecure lets a secret travel to another machine without TLS.
	AllowInsecure bool
	// Fingerprint is the SHA-256 of the server's certificate in hex, instead of its authorities. TLS is a base
	// configuration; nil is the system's.
	Fingerprint string
	TLS         *tls.Config
	UserAgent   string
}

// RefusedError is an answer to the upgrade that is none.
type RefusedError struct {
	Status int
	err    error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
}

func (e *RefusedError) Unwrap() error { return e.err }

// Dial opens a carrier of the version, wire.V1 or wire.V2, at a server: a URL of ws or wss, whose path is Path where
// it has none. The credential goes with the upgrade; none is left for HELLO. ctx covers the opening alone.
//
// It fails with the class errs.Invalid for options that nothing mends, and with a *RefusedError when the server has
// answered otherwise. No error holds the credential.
func Dial(ctx context.Context, server, credential, version string, o DialOptions) (mux.Carrier, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "ws" && u.Scheme != "wss" {
		return nil, errs.New(errs.Invalid, "the address of the server must look like wss://host or ws://127.0.0.1:18789")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = Path
	}
	secret := credential != "" || u.User != nil || u.RawQuery != ""
	if u.Scheme == "ws" && secret && !o.AllowInsecure && !socket.Loopback(u.Hostname()) {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("refusing to send a secret over plain ws:// to %s; use wss://, or allow insecure connections explicitly", u.Host))
	}
	t, err := socket.Transport(o.TLS, o.Fingerprint)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	if credential != "" && u.User == nil {
		header.Set("Authorization", "Bearer "+credential)
	}
	if o.UserAgent != "" {
		header.Set("User-Agent", o.UserAgent)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, answer, err := socket.Dial(ctx, u.String(), socket.Options{ //nolint:bodyclose // there is nothing left to close
		Subprotocols: []string{version}, Header: header,
		Client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	})
	switch {
	case err != nil && answer != nil && answer.StatusCode != http.StatusSwitchingProtocols:
		t.CloseIdleConnections()
		return nil, &RefusedError{answer.StatusCode, socket.Clean(err)}
	case err != nil:
		t.CloseIdleConnections()
		return nil, socket.Clean(err)
	case c.Subprotocol() != version:
		return nil, errors.Join(fmt.Errorf("the server does not speak %s", version), c.Close(0, ""))
	}
	return c, nil
}
