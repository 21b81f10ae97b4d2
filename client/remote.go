package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc/credentials"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// RemotePort is the port of a daemon's remote gRPC door when nothing names another.
	RemotePort = 18790
	// scheme begins the address of a daemon on another machine.
	scheme = "hanzod"
	// maxTokenFile bounds the file of a token, in bytes; the largest tokens have a few kilobytes.
	maxTokenFile = 64 << 10
	// maxCAFile bounds a file of certificates; the whole set of a system has some hundred kilobytes.
	maxCAFile = 4 << 20
)

// Codes of failures on the way to a daemon on another machine. Nothing secret was sent when a call
// fails with one of them.
const (
	CodeBadHost       = "client.bad_host"        // the address is not understood
	CodeBadPin        = "client.bad_fingerprint" // the fingerprint is not understood
	CodeNoToken       = "client.no_token"        // no token was given, or its file cannot be read
	CodeWrongPin      = "client.tls_pin"         // the daemon's certificate is not the pinned one
	CodeUnknownDaemon = "client.tls_unknown"     // nobody vouches for the daemon's certificate
	CodeNotTLS        = "client.not_tls"         // what answers does not speak TLS
	CodeNotDaemon     = "client.not_grpc"        // what answers speaks TLS but no gRPC
)

// ParseHost reads the address of a daemon on another machine, hanzod://host[:port] or host[:port],
// and returns it as host:port. Secrets do not belong in it: one with a user, a path or a query is
// refused without being repeated.
func ParseHost(host string) (string, error) {
	bad := &Error{Code: CodeBadHost, Class: errs.Invalid,
		Message: "the address of the daemon must look like hanzod://host or hanzod://host:port"}
	host = strings.TrimSpace(host)
	if !strings.Contains(host, "://") {
		host = scheme + "://" + host
	}
	u, err := url.Parse(host)
	if err != nil {
		return "", bad
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		bad.Message += "; a token does not belong in it, give it in a file"
		return "", bad
	}
	if strings.Contains(u.Hostname(), ":") && net.ParseIP(strings.SplitN(u.Hostname(), "%", 2)[0]) == nil {
		return "", bad // an address of IPv6 stands in brackets
	}
	if u.Scheme != scheme || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.Opaque != "" {
		return "", bad
	}
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "", bad
		}
		port = strconv.Itoa(RemotePort)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", bad
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// ParseFingerprint reads the SHA-256 of a certificate: 64 hex digits in either case, colons, spaces and the
// prefix "sha256:" allowed (protocol.md §1.5). It returns the digits in lower case.
func ParseFingerprint(s string) (string, error) {
	s = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(s)), "sha256:")
	s = strings.NewReplacer(":", "", " ", "", "-", "").Replace(s)
	if raw, err := hex.DecodeString(s); err != nil || len(raw) != sha256.Size {
		return "", &Error{Code: CodeBadPin, Class: errs.Invalid,
			Message: `the TLS fingerprint must be the SHA-256 of the daemon's certificate, 64 hex digits, as "hanzod tls fingerprint" prints it`}
	}
	return s, nil
}

// ReadToken reads a token from a file, or without one from the first variable of the environment
// that is set. A token never comes from the command line or a URL, where others see it. It is ""
// when neither names one.
func ReadToken(file string, getenv func(string) string, names ...string) (string, error) {
	if file == "" {
		for _, name := range names {
			if v := strings.TrimSpace(getenv(name)); v != "" {
				return v, nil
			}
		}
		return "", nil
	}
	text, err := readBounded(file, maxTokenFile)
	token := string(bytes.TrimSpace(text))
	switch {
	case err != nil:
		return "", &Error{Code: CodeNoToken, Class: errs.Invalid, Message: "the file of the token cannot be read: " + err.Error(), Err: err}
	case token == "":
		return "", &Error{Code: CodeNoToken, Class: errs.Invalid, Message: "the file of the token, " + file + ", is empty"}
	case strings.ContainsAny(token, "\r\n\x00"):
		return "", &Error{Code: CodeNoToken, Class: errs.Invalid, Message: "the file of the token, " + file + ", must hold the token and nothing else"}
	}
	return token, nil
}

// ReadRoots reads certificates in PEM, to know daemons by.
func ReadRoots(file string) (*x509.CertPool, error) {
	text, err := readBounded(file, maxCAFile)
	if err != nil {
		return nil, &Error{Code: CodeBadHost, Class: errs.Invalid, Message: "the file of certificates cannot be read: " + err.Error(), Err: err}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &Error{Code: CodeBadHost, Class: errs.Invalid, Message: file + " holds no certificate in PEM"}
	}
	return pool, nil
}

func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return text, err
}

// remote is a daemon on another machine.
type remote struct {
	address string // host:port
	pin     string // "" checks the chain instead
	token   string
}

func newRemote(o Options) (*remote, *tls.Config, error) {
	address, err := ParseHost(o.Host)
	if err != nil {
		return nil, nil, err
	}
	r := &remote{address: address, token: o.Token}
	if o.TLSFingerprint != "" {
		if r.pin, err = ParseFingerprint(o.TLSFingerprint); err != nil {
			return nil, nil, err
		}
	}
	if strings.ContainsFunc(r.token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, nil, &Error{Code: CodeNoToken, Class: errs.Invalid, Message: "the token holds characters that no token has; look at its file"}
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	cfg := &tls.Config{ // the name of the server is that of the authority
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		// verify does all of it: it also has to name the certificate that it refuses.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   func(s tls.ConnectionState) error { return r.verify(s, host, o) },
	}
	return r, cfg, nil
}

// Fingerprint is the SHA-256 of a certificate in hex, by which it is pinned.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// verify knows the daemon by its pin, or else by a chain to the roots. A certificate that is met for
// the first time is never trusted for that.
func (r *remote) verify(s tls.ConnectionState, host string, o Options) error {
	if len(s.PeerCertificates) == 0 {
		return &refused{code: CodeUnknownDaemon, text: "the daemon at " + r.address + " shows no certificate"}
	}
	leaf := s.PeerCertificates[0]
	got := Fingerprint(leaf.Raw)
	if r.pin != "" {
		if subtle.ConstantTimeCompare([]byte(got), []byte(r.pin)) == 1 {
			return nil
		}
		return &refused{code: CodeWrongPin, text: fmt.Sprintf(
			"the certificate of %s is not the pinned one (pinned %s, presented %s): either the daemon there got a new one, or somebody else answers; nothing was sent",
			r.address, r.pin, got)}
	}
	if err := vouch(s, host, o.Roots); err != nil {
		return &refused{code: CodeUnknownDaemon, text: fmt.Sprintf(
			"nothing vouches for the certificate of %s (%v), so who answers there is not known; nothing was sent. Its SHA-256 fingerprint is %s",
			r.address, err, got)}
	}
	return nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials: every call carries the token.
func (r *remote) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if r.token == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + r.token}, nil
}

// RequireTransportSecurity keeps the token off a connection without TLS.
func (r *remote) RequireTransportSecurity() bool { return true }

// tlsCredentials is TLS whose failures carry the marks that translate knows.
type tlsCredentials struct {
	credentials.TransportCredentials
	r *remote
}

func (t *tlsCredentials) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, c)
	if err != nil {
		return nil, nil, t.explain(err)
	}
	return conn, info, nil
}

func (t *tlsCredentials) Clone() credentials.TransportCredentials {
	return &tlsCredentials{t.TransportCredentials.Clone(), t.r}
}

func (t *tlsCredentials) explain(err error) error {
	if no := t.r.stranger(err); no != nil {
		return fmt.Errorf("%s%w", refusedMark, no)
	}
	return fmt.Errorf("%s%w", dialMark, err)
}

// stranger says why a failed handshake means that something else answers, nil when it does not.
func (r *remote) stranger(err error) *refused {
	var no *refused
	var record tls.RecordHeaderError
	switch text := err.Error(); { // the alerts of TLS have no type that could be asked for
	case errors.As(err, &no):
		return no
	case errors.As(err, &record):
		return &refused{code: CodeNotTLS, text: "what answers at " + r.address + " does not speak TLS; the remote door of hanzod is usually port " + strconv.Itoa(RemotePort)}
	case strings.Contains(text, "ALPN"), strings.Contains(text, "no application protocol"):
		return &refused{code: CodeNotDaemon, text: "what answers at " + r.address + " speaks TLS but no gRPC; the remote door of hanzod is usually port " + strconv.Itoa(RemotePort)}
	case strings.Contains(text, "protocol version not supported"):
		return &refused{code: CodeNotDaemon, text: "what answers at " + r.address + " speaks no TLS 1.3, so it is no hanzod"}
	}
	return nil
}

// refused is a connection that this side gives up before a call is sent.
type refused struct {
	code  string
	class errs.Class // Internal, the zero value, stands for Denied
	text  string
}

// Error is the form in which it passes through gRPC; parseRefused reads it.
func (e *refused) Error() string { return fmt.Sprintf("%s/%d %s", e.code, e.class, e.text) }

func parseRefused(s string) *refused {
	head, text, _ := strings.Cut(s, " ")
	code, number, _ := strings.Cut(head, "/")
	e := &refused{code: code, class: errs.Denied, text: text}
	if n, err := strconv.ParseUint(number, 10, 8); err == nil && n > 0 {
		e.class = errs.Class(n)
	}
	return e
}
