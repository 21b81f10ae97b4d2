package listen

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// certificateYears is how long a generated certificate holds: clients pin it, so a new one is
	// work for each of them (protocol.md §1.5).
	certificateYears = 10
	// expiresSoon is how long before its end a certificate is warned about at a start.
	expiresSoon = 30 * 24 * time.Hour
	// maxCertificate bounds each file of a certificate, in bytes; the longest chains have some ten
	// kilobytes.
	maxCertificate = 1 << 20
	// lookAgain is how often at most the files are looked at for a newer certificate, when clients
	// connect.
	lookAgain = 10 * time.Second
)

// TLSFiles say where the certificate of the daemon is (gateway.tls).
type TLSFiles struct {
	// Cert and Key are files in PEM.
	Cert, Key string
	// CA, if not empty, holds certificates that issued Cert; those that lead to it are shown to
	// clients with it.
	CA string
	// Generate makes a self-signed certificate when neither Cert nor Key is there.
	Generate bool
	// Names are further names and addresses for a generated certificate.
	Names []string
}

// DefaultTLSFiles are the files in a state directory.
func DefaultTLSFiles(stateDir string) (cert, key string) {
	dir := filepath.Join(stateDir, "gateway", "tls")
	return filepath.Join(dir, "gateway-cert.pem"), filepath.Join(dir, "gateway-key.pem")
}

// Certificate is what the daemon shows to clients. It is read again when its files change, so that a
// tool that renews it needs no restart. Its methods may be called concurrently.
type Certificate struct {
	// Made says that LoadCertificate generated it.
	Made bool

	files TLSFiles
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex
	cur    *tls.Certificate
	stamp  string
	looked time.Time
}

// LoadCertificate reads the certificate, or makes it the first time. It is never replaced by a new
// one silently: clients pin it. log is told what a person should know.
func LoadCertificate(f TLSFiles, now func() time.Time, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{files: f, log: log, now: now}
	certThere, err := there(f.Cert)
	if err != nil {
		return nil, err
	}
	keyThere, err := there(f.Key)
	if err != nil {
		return nil, err
	}
	switch {
	case certThere && keyThere:
	case certThere:
		return nil, fmt.Errorf("the TLS certificate %s is there, but its key %s is not; put the key back, or remove the certificate to get a new one, which clients have to pin anew", f.Cert, f.Key)
	case keyThere:
		return nil, fmt.Errorf("the TLS key %s is there, but its certificate %s is not; put the certificate back, or remove the key to get a new one, which clients have to pin anew", f.Key, f.Cert)
	case !f.Generate:
		return nil, fmt.Errorf("there is no TLS certificate at %s; put one there, or let hanzod make one with gateway.tls.autoGenerate=true", f.Cert)
	default:
		if err := Generate(f, now()); err != nil {
			return nil, err
		}
		c.Made = true
	}
	if st, err := os.Stat(f.Key); err == nil && st.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		log.Warn("others on this machine may read the TLS key; restrict it with chmod 600", "file", f.Key)
	}
	cert, err := read(f)
	if err != nil {
		return nil, err
	}
	c.cur, c.stamp, c.looked = cert, stamp(f), now()
	switch left := cert.Leaf.NotAfter.Sub(now()); {
	case left <= 0:
		log.Warn("the TLS certificate has expired: clients that pin it go on, others refuse it", "file", f.Cert, "until", cert.Leaf.NotAfter)
	case left < expiresSoon:
		log.Warn("the TLS certificate expires soon: clients that pin it go on, others will refuse it", "file", f.Cert, "until", cert.Leaf.NotAfter)
	}
	if c.Made {
		log.Info("a TLS certificate was made", "file", f.Cert, "fingerprint", c.Fingerprint())
	}
	return c, nil
}

func there(file string) (bool, error) {
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the TLS files: %w", err)
	}
	return true, nil
}

// Fingerprint is the SHA-256 of the certificate in hex, by which clients pin it.
func (c *Certificate) Fingerprint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := sha256.Sum256(c.cur.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// Leaf is the certificate itself. It must not be changed.
func (c *Certificate) Leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur.Leaf
}

// Config is TLS 1.3 with this certificate for an application protocol ("h2", "http/1.1").
func (c *Certificate) Config(protocol string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

// current looks at the files from time to time. What cannot be used changes nothing.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if d := now.Sub(c.looked); d >= 0 && d < lookAgain {
		return c.cur
	}
	c.looked = now
	s := stamp(c.files)
	if s == c.stamp {
		return c.cur
	}
	cert, err := read(c.files)
	if err != nil {
		// Perhaps one of the two files is still being written: it is tried again.
		c.log.Error("the TLS files have changed and cannot be used; the certificate stays what it was", "error", err)
		return c.cur
	}
	c.stamp = s
	if !bytes.Equal(cert.Certificate[0], c.cur.Certificate[0]) {
		sum := sha256.Sum256(cert.Certificate[0])
		c.log.Warn("the TLS certificate was replaced: clients that pin the old one refuse it", "file", c.files.Cert, "fingerprint", hex.EncodeToString(sum[:]))
	}
	c.cur = cert
	return cert
}

// stamp changes when one of the files does.
func stamp(f TLSFiles) string {
	var b strings.Builder
	for _, file := range []string{f.Cert, f.Key, f.CA} {
		if st, err := os.Stat(file); err == nil {
			fmt.Fprintf(&b, "%d %d\n", st.Size(), st.ModTime().UnixNano())
		}
	}
	return b.String()
}

// read reads the files and checks that they belong together.
func read(f TLSFiles) (*tls.Certificate, error) {
	certPEM, err := readPEM(f.Cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM(f.Key)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil { // its texts show nothing of the key
		return nil, fmt.Errorf("the TLS certificate %s and its key %s cannot be used: %w", f.Cert, f.Key, err)
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, fmt.Errorf("the TLS certificate %s cannot be read: %w", f.Cert, err)
		}
	}
	if f.CA == "" {
		return &cert, nil
	}
	caPEM, err := readPEM(f.CA)
	if err != nil {
		return nil, err
	}
	issuers, err := parse(caPEM)
	if err != nil {
		return nil, fmt.Errorf("%s (gateway.tls.caPath) cannot be used: %w", f.CA, err)
	}
	return complete(&cert, issuers)
}

// complete appends the certificates that lead from the last of a chain towards its root.
func complete(cert *tls.Certificate, issuers []*x509.Certificate) (*tls.Certificate, error) {
	last, err := x509.ParseCertificate(cert.Certificate[len(cert.Certificate)-1])
	if err != nil {
		return nil, fmt.Errorf("the chain of the TLS certificate cannot be read: %w", err)
	}
	for range issuers {
		found := false
		for _, i := range issuers {
			self := bytes.Equal(i.RawIssuer, i.RawSubject) // clients have their roots
			if !self && bytes.Equal(i.RawSubject, last.RawIssuer) && !bytes.Equal(i.Raw, last.Raw) && last.CheckSignatureFrom(i) == nil {
				cert.Certificate = append(cert.Certificate, i.Raw)
				last, found = i, true
				break
			}
		}
		if !found {
			break
		}
	}
	return cert, nil
}

func parse(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return out, nil
}

func readPEM(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the TLS files: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCertificate+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the TLS files: %w", err)
	case len(text) > maxCertificate:
		return nil, fmt.Errorf("%s is no TLS file: it is larger than %d bytes", file, maxCertificate)
	}
	return text, nil
}

// Generate makes a self-signed certificate and its key, mode 0600, in place of what may be there.
func Generate(f TLSFiles, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a TLS key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("make a TLS certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "hanzod"},
		// Clocks differ a little.
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(certificateYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names(f.Names) {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make a TLS certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make a TLS key: %w", err)
	}
	// The key comes first: a certificate without it is never left behind by a crash between the two.
	if err := writePEM(f.Key, "PRIVATE KEY", private); err != nil {
		return err
	}
	return writePEM(f.Cert, "CERTIFICATE", der)
}

// names are what a generated certificate is good for: this machine by its names and addresses.
func names(more []string) []string {
	all := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil && host != "" && net.ParseIP(host) == nil {
		short, _, _ := strings.Cut(host, ".")
		all = append(all, host, short, short+".local")
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				all = append(all, n.IP.String())
			}
		}
	}
	var out []string
	seen := map[string]bool{}
	for _, n := range append(all, more...) {
		if n = strings.ToLower(strings.TrimSpace(n)); n != "" && !seen[n] && printable(n) {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// printable keeps names out that a certificate cannot carry.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// writePEM writes a file in one step, mode 0600 in a directory with mode 0700.
func writePEM(path, kind string, der []byte) (err error) {
	fail := func(err error) error { return fmt.Errorf("write the TLS file %s: %w", path, err) }
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(tmp.Name())
	err = pem.Encode(tmp, &pem.Block{Type: kind, Bytes: der})
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}
