package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"
)

// Certificate is what a daemon on another machine shows of itself before anything is sent to it.
type Certificate struct {
	// Address is host:port.
	Address string
	// Fingerprint is its SHA-256 in hex, by which it is pinned.
	Fingerprint string
	// Vouched says that a chain leads to the roots.
	Vouched bool
	// Reason says why not.
	Reason string
	// Until is when it expires.
	Until time.Time
}

// AskCertificate begins a TLS handshake with the daemon at an address as ParseHost takes it, and returns the
// certificate that it shows. Nothing else is sent, and nothing is trusted by that. Roots vouch for it;
// nil is the system's. It fails with *Error or *NotRunning.
func AskCertificate(ctx context.Context, host string, roots *x509.CertPool) (Certificate, error) {
	r, cfg, err := newRemote(Options{Host: host})
	if err != nil {
		return Certificate{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return Certificate{}, &NotRunning{Socket: r.address, Remote: true, Reason: err.Error()}
	}
	defer raw.Close()
	name, _, err := net.SplitHostPort(r.address)
	if err != nil {
		return Certificate{}, err
	}
	out := Certificate{Address: r.address}
	cfg.ServerName = name
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return nil
		}
		leaf := s.PeerCertificates[0]
		out.Fingerprint, out.Until = Fingerprint(leaf.Raw), leaf.NotAfter
		if err := vouch(s, name, roots); err != nil {
			out.Reason = err.Error()
		} else {
			out.Vouched = true
		}
		return nil
	}
	if err := tls.Client(raw, cfg).HandshakeContext(ctx); err != nil {
		if no := r.stranger(err); no != nil {
			return Certificate{}, &Error{Code: no.code, Class: Denied, Message: no.text, Err: err}
		}
		return Certificate{}, &NotRunning{Socket: r.address, Remote: true, Reason: err.Error()}
	}
	if out.Fingerprint == "" {
		return Certificate{}, &Error{Code: CodeUnknownDaemon, Class: Denied, Message: "the daemon at " + r.address + " shows no certificate"}
	}
	return out, nil
}

// vouch looks for a chain from the certificate of a connection to the roots.
func vouch(s tls.ConnectionState, name string, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: x509.NewCertPool()}
	for _, c := range s.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(opts)
	return err
}
