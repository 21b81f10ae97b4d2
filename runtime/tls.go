package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime/listen"
)

// maxRemoteAddresses bounds how many addresses of this machine an invite names.
const maxRemoteAddresses = 8

// TLSFiles are where the certificate of a daemon with this configuration is.
func TLSFiles(cfg *config.Config) listen.TLSFiles {
	t := cfg.Gateway.TLS
	cert, key := listen.DefaultTLSFiles(cfg.StateDir)
	f := listen.TLSFiles{Cert: t.CertPath, Key: t.KeyPath, CA: t.CAPath, Generate: t.AutoGenerate}
	if f.Cert == "" {
		f.Cert = cert
	}
	if f.Key == "" {
		f.Key = key
	}
	if host := cfg.Gateway.CustomBindHost; host != "" {
		f.Names = append(f.Names, host)
	}
	return f
}

// loadCertificate refuses the start over files that cannot be used: a restart does not mend them.
func loadCertificate(cfg *config.Config, now func() time.Time, log *slog.Logger) (*listen.Certificate, error) {
	c, err := listen.LoadCertificate(TLSFiles(cfg), now, log)
	if err != nil {
		return nil, &config.Refused{Text: err.Error()}
	}
	return c, nil
}

// ErrNoCertificate says that there is no certificate yet.
var ErrNoCertificate = errors.New("there is no TLS certificate yet; hanzod makes one when it starts with gateway.tls.enabled or a bind beyond this machine, and \"hanzod tls renew\" makes one now")

// LoadTLS reads the certificate of a daemon with this configuration and makes none.
func LoadTLS(cfg *config.Config, log *slog.Logger) (*listen.Certificate, error) {
	f := TLSFiles(cfg)
	f.Generate = false
	if _, err := os.Stat(f.Cert); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(f.Key); errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNoCertificate
		}
	}
	return listen.LoadCertificate(f, time.Now, log)
}

// RenewTLS puts a new generated certificate in place of the old one, which is kept beside it with
// the ending ".old". Clients that pin the old one have to pin the new one. Files that the
// configuration names are somebody else's to renew.
func RenewTLS(cfg *config.Config, log *slog.Logger) (*listen.Certificate, error) {
	if t := cfg.Gateway.TLS; t.CertPath != "" || t.KeyPath != "" {
		return nil, &config.Refused{Text: "gateway.tls.certPath and keyPath name files that hanzod did not make; renew them with the tool that did, and the daemon takes them up by itself"}
	}
	f := TLSFiles(cfg)
	for _, file := range []string{f.Cert, f.Key} {
		if err := os.Rename(file, file+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("keep the old TLS files: %w", err)
		}
	}
	if err := listen.Generate(f, time.Now()); err != nil {
		return nil, err
	}
	return listen.LoadCertificate(f, time.Now, log)
}

// GRPCAddress is the address of the gRPC door for other machines, as host:port, "" when it is closed.
func (d *Daemon) GRPCAddress() string {
	if d.far == nil {
		return ""
	}
	return d.far.Addr().String()
}

// TLSFingerprint is the SHA-256 of the certificate that this daemon shows, in hex, "" when nothing
// speaks TLS.
func (d *Daemon) TLSFingerprint() string {
	if d.cert == nil {
		return ""
	}
	return d.cert.Fingerprint()
}

// RemoteAddresses are host:port of the gRPC door for other machines, the most useful first, and
// nothing when it is closed.
func (d *Daemon) RemoteAddresses() []string {
	if d.far == nil {
		return nil
	}
	ap, err := netip.ParseAddrPort(d.far.Addr().String())
	if err != nil || !ap.Addr().IsUnspecified() {
		return []string{d.far.Addr().String()}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	return remoteAddresses(addrs, ap.Port(), ap.Addr().Is4())
}

// remoteAddresses puts the addresses of the local network first, then others, those of version 6
// last.
func remoteAddresses(addrs []net.Addr, port uint16, only4 bool) []string {
	var all []netip.Addr
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() || only4 && !p.Addr().Unmap().Is4() {
			continue
		}
		all = append(all, p.Addr().Unmap())
	}
	rank := func(a netip.Addr) int {
		switch {
		case a.Is4() && a.IsPrivate():
			return 0
		case a.Is4():
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	var out []string
	for _, a := range all {
		if len(out) < maxRemoteAddresses {
			out = append(out, netip.AddrPortFrom(a, port).String())
		}
	}
	return out
}
