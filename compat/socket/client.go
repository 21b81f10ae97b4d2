package socket

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/hanzoai/hanzod/compat/gather"
	"github.com/hanzoai/hanzod/errs"
)

// ErrPin is the refusal of a certificate other than the pinned one.
var ErrPin = errors.New("the certificate of the server is not the pinned one; if it was renewed, pin its new SHA-256 fingerprint")

// Transport returns a transport for upgrades. base is a configuration of TLS, nil for the system's; a fingerprint,
// the SHA-256 of the server's certificate in hex, takes the place of its authorities. It fails with the class
// errs.Invalid for what is no fingerprint.
func Transport(base *tls.Config, fingerprint string) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ForceAttemptHTTP2 = false
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return gather.New(c), nil
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		t.TLSClientConfig = base.Clone()
	}
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	if fingerprint == "" {
		return t, nil
	}
	want, err := hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(strings.TrimPrefix(strings.ToLower(fingerprint), "sha256:")))
	if err != nil || len(want) != sha256.Size {
		return nil, errs.New(errs.Invalid, "the TLS fingerprint must be the SHA-256 of the certificate: 64 hex digits")
	}
	t.TLSClientConfig.InsecureSkipVerify = true // VerifyConnection pins the leaf instead
	t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
		sum := sha256.Sum256(s.PeerCertificates[0].Raw)
		if subtle.ConstantTimeCompare(sum[:], want) != 1 {
			return ErrPin
		}
		return nil
	}
	return t, nil
}

// Loopback reports whether the name in a URL is of this machine, where a secret may travel without TLS.
func Loopback(name string) bool {
	ip := net.ParseIP(name)
	return strings.EqualFold(name, "localhost") || ip != nil && ip.IsLoopback()
}

// Clean takes the address out of an error of Dial, which may hold a secret.
func Clean(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
