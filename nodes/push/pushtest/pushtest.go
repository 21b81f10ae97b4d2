// Package pushtest is a push service for tests: HTTP/2 over TLS on the loopback, with the checks that
// Apple's makes. It may import push and is imported by tests only. A Service owns the goroutines of its
// server and ends them with the test.
package pushtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hanzoai/hanzod/nodes/push"
)

// TeamID and KeyID are the credentials that a Service takes.
const (
	TeamID = "TEAM012345"
	KeyID  = "KEY0123456"
)

// Push is one request that arrived.
type Push struct {
	Token string
	// Kind is the push type: background or alert.
	Kind     string
	Topic    string
	Priority string
	Expires  string
	Bearer   string
	Body     string
	At       time.Time
}

// Answer is what a Service says to a push.
type Answer struct {
	Status int
	Reason string
	// After delays the answer; it ends with the request or the service.
	After time.Duration
}

// Service is a push service.
type Service struct {
	Key string // PEM text

	srv    *httptest.Server
	public *ecdsa.PublicKey
	done   chan struct{}

	mu     sync.Mutex
	got    []Push
	answer func(Push) Answer
	seen   func(Push)
}

// Start runs a service until the test ends.
func Start(tb testing.TB) *Service {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	s := &Service{
		Key:    string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		public: &key.PublicKey, done: make(chan struct{}),
	}
	s.srv = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.srv.EnableHTTP2 = true
	s.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.srv.StartTLS()
	tb.Cleanup(func() {
		close(s.done)
		s.srv.Close()
	})
	return s
}

// Hosts and Roots are for push.Config.
func (s *Service) Hosts() map[push.Environment]string {
	return map[push.Environment]string{push.Sandbox: s.srv.URL, push.Production: s.srv.URL + "/production"}
}

// Roots are what a client has to trust.
func (s *Service) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.srv.Certificate())
	return pool
}

// Config is that of a client of the service.
func (s *Service) Config() push.Config {
	return push.Config{TeamID: TeamID, KeyID: KeyID, Key: s.Key, Hosts: s.Hosts(), Roots: s.Roots()}
}

// Env is what a daemon has to be told for that.
func (s *Service) Env() map[string]string {
	return map[string]string{"HANZOD_APNS_TEAM_ID": TeamID, "HANZOD_APNS_KEY_ID": KeyID, "HANZOD_APNS_PRIVATE_KEY_P8": s.Key}
}

// Say makes the service answer so; 200 until then.
func (s *Service) Say(answer func(Push) Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// OnPush is called for each push before it is answered.
func (s *Service) OnPush(seen func(Push)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = seen
}

// Got is what arrived and was let in.
func (s *Service) Got() []Push {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/production")
	token, ok := strings.CutPrefix(path, "/3/device/")
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<10))
	p := Push{
		Token: token, Kind: r.Header.Get("Apns-Push-Type"), Topic: r.Header.Get("Apns-Topic"), Priority: r.Header.Get("Apns-Priority"),
		Expires: r.Header.Get("Apns-Expiration"), Body: string(body), At: time.Now(),
	}
	bearer, okBearer := strings.CutPrefix(r.Header.Get("Authorization"), "bearer ")
	p.Bearer = bearer
	_, hexErr := hex.DecodeString(token)
	switch {
	case r.ProtoMajor != 2:
		refuse(w, http.StatusHTTPVersionNotSupported, "HTTP2Required")
		return
	case r.Method != http.MethodPost || !ok || err != nil:
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed")
		return
	case !okBearer || !s.signed(bearer):
		refuse(w, http.StatusForbidden, "InvalidProviderToken")
		return
	case hexErr != nil:
		refuse(w, http.StatusBadRequest, "BadDeviceToken")
		return
	case len(body) > 4096:
		refuse(w, http.StatusRequestEntityTooLarge, "PayloadTooLarge")
		return
	}
	s.mu.Lock()
	s.got = append(s.got, p)
	answer, seen := s.answer, s.seen
	s.mu.Unlock()
	if seen != nil {
		seen(p)
	}
	a := Answer{}
	if answer != nil {
		a = answer(p)
	}
	if a.After > 0 {
		timer := time.NewTimer(a.After)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		}
	}
	w.Header().Set("Apns-Id", "E621E1F8-C36C-495A-93FC-0C247A3E6E5F")
	if a.Status != 0 && a.Status != http.StatusOK {
		refuse(w, a.Status, a.Reason)
	}
}

func refuse(w http.ResponseWriter, status int, reason string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"reason": reason}) // a client that is gone needs none
}

// signed reports whether a provider token is ours, young and by the key.
func (s *Service) signed(token string) bool {
	sig, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil || len(sig.Signatures) != 1 || sig.Signatures[0].Header.KeyID != KeyID {
		return false
	}
	claims, err := sig.Verify(s.public)
	var c struct {
		Issuer string `json:"iss"`
		Issued int64  `json:"iat"`
	}
	return err == nil && json.Unmarshal(claims, &c) == nil && c.Issuer == TeamID && c.Issued > 0
}
