package clienttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// Remote is the door of a Daemon for other machines: TLS with a certificate of its own. Its tokens are
// Secret and those of devices that enrolled here.
type Remote struct {
	// Address is host:port.
	Address string
	// Fingerprint is the SHA-256 of the certificate, CertFile a file with it in PEM.
	Fingerprint string
	CertFile    string

	mu    sync.Mutex
	roles []string
}

// Roles is what callers have asked for in x-hanzo-role, "" for nothing, one for each call let in.
func (r *Remote) Roles() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.roles...)
}

// Remote opens the door for other machines on a free port. It closes with the test and outlasts Stop.
func (d *Daemon) Remote(t testing.TB) *Remote {
	t.Helper()
	cert := Certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.Certificate[0])
	r := &Remote{
		Address: l.Addr().String(), Fingerprint: hex.EncodeToString(sum[:]),
		CertFile: filepath.Join(filepath.Dir(d.Socket), "cert.pem"),
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	if err := os.WriteFile(r.CertFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(pings),
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if in, ok := req.(*devicesv1.EnrollRequest); ok {
				return d.enroll(bearer(ctx), in)
			}
			if err := r.admit(ctx, d); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(s any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := r.admit(stream.Context(), d); err != nil {
				return err
			}
			return next(s, stream)
		}),
	)
	systemv1.RegisterSystemServiceServer(srv, d)
	nodesv1.RegisterNodeServiceServer(srv, nodeService{d})
	approvalsv1.RegisterApprovalServiceServer(srv, d)
	devicesv1.RegisterDeviceServiceServer(srv, deviceService{d: d})
	runsv1.RegisterRunServiceServer(srv, runService{d: d})
	auditv1.RegisterAuditServiceServer(srv, auditService{d: d})
	d.mu.Lock()
	d.remote = r
	d.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // it ends with Stop
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return r
}

// bearer is the token of a call, "" without exactly one.
func bearer(ctx context.Context) string {
	got := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(got) != 1 {
		return ""
	}
	token, _ := strings.CutPrefix(got[0], "Bearer ")
	return token
}

func (r *Remote) admit(ctx context.Context, d *Daemon) error {
	token := bearer(ctx)
	d.mu.Lock()
	known := token == Secret || d.tokens[token]
	d.mu.Unlock()
	if !known {
		st, err := status.New(codes.Unauthenticated, "the bearer token is not valid").
			WithDetails(&errdetails.ErrorInfo{Reason: "identity.bearer", Domain: "hanzod"})
		if err != nil {
			return err
		}
		return st.Err()
	}
	role := ""
	if v := metadata.ValueFromIncomingContext(ctx, "x-hanzo-role"); len(v) > 0 {
		role = v[0]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roles = append(r.roles, role)
	return nil
}

// Certificate is a self-signed one for localhost and 127.0.0.1.
func Certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "hanzod"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
