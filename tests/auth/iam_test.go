package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-jose/go-jose/v4"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// identityService is an OpenID Connect issuer on loopback.
type identityService struct {
	*httptest.Server
	tb testing.TB

	mu   sync.Mutex
	keys []jose.JSONWebKey
	down bool
}

func newService(tb testing.TB) *identityService {
	s := &identityService{tb: tb}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		var v any
		switch {
		case s.down:
		case r.URL.Path == "/.well-known/openid-configuration":
			v = map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/jwks"}
		case r.URL.Path == "/jwks":
			v = jose.JSONWebKeySet{Keys: s.keys}
		}
		if v == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	tb.Cleanup(s.Close)
	return s
}

// key makes the service sign with a new key, beside the others.
func (s *identityService) key(kid string, alg jose.SignatureAlgorithm) jose.Signer {
	s.tb.Helper()
	var private, public any
	if alg == jose.ES256 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			s.tb.Fatal(err)
		}
		private, public = k, k.Public()
	} else {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			s.tb.Fatal(err)
		}
		private, public = k, k.Public()
	}
	s.mu.Lock()
	s.keys = append(s.keys, jose.JSONWebKey{Key: public, KeyID: kid, Algorithm: string(alg), Use: "sig"})
	s.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: private}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		s.tb.Fatal(err)
	}
	return signer
}

func (s *identityService) token(signer jose.Signer, sub string, change map[string]any) string {
	s.tb.Helper()
	claims := map[string]any{"iss": s.URL, "aud": []string{"gw"}, "sub": sub, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, change)
	text, err := json.Marshal(claims)
	if err != nil {
		s.tb.Fatal(err)
	}
	jws, err := signer.Sign(text)
	if err != nil {
		s.tb.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		s.tb.Fatal(err)
	}
	return out
}

// Mode iam over all doors that take a token.
func TestIAM(t *testing.T) {
	s := newService(t)
	rs, es := s.key("r", jose.RS256), s.key("e", jose.ES256)
	d := start(t, map[string]any{"auth": map[string]any{
		"mode": "iam", "token": hanzodtest.Token,
		"iam": map[string]any{"serverUrl": s.URL + "/", "clientId": "gw", "superAdmins": []string{"root"}},
	}})
	ann, root := s.token(rs, "ann", nil), s.token(es, "root", nil)

	in := hello{scopes: allScopes, token: ann}.connect(t, d)
	if in.refused != "" || in.get(t, "snapshot", "authMode") != "iam" || in.get(t, "auth") != nil {
		t.Fatalf("%s %s", in.refused, in.payload)
	}
	has(t, "ann", may(t, in), "reads")
	in = hello{scopes: allScopes, token: root}.connect(t, d)
	has(t, "root", may(t, in), "reads", "approves", "administers")
	in = hello{scopes: []string{"operator.read"}, token: root}.connect(t, d)
	has(t, "root asking for less", may(t, in), "reads")
	in = hello{scopes: allScopes, token: d.Token}.connect(t, d)
	has(t, "the gateway token", may(t, in), "reads", "approves", "administers")

	for name, c := range map[string]struct {
		h    hello
		want string
	}{
		"expired":                {hello{token: s.token(rs, "ann", map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})}, "AUTH_UNAUTHORIZED"},
		"another audience":       {hello{token: s.token(rs, "root", map[string]any{"aud": "other"})}, "AUTH_UNAUTHORIZED"},
		"another issuer":         {hello{token: s.token(rs, "root", map[string]any{"iss": "https://evil.example"})}, "AUTH_UNAUTHORIZED"},
		"unsigned":               {hello{token: "eyJhbGciOiJub25lIn0." + "eyJzdWIiOiJyb290In0" + "."}, "AUTH_UNAUTHORIZED"},
		"no token":               {hello{}, "DEVICE_IDENTITY_REQUIRED"},
		"node of ann":            {hello{role: "node", id: "node-host", mode: "node", token: ann}, "DEVICE_IDENTITY_REQUIRED"},
		"node of root":           {hello{role: "node", id: "node-host", mode: "node", token: root}, "in"},
		"ann's device, all":      {hello{device: "annie", scopes: allScopes, token: ann}, "PAIRING_REQUIRED"},
		"ann's device, her part": {hello{device: "anna", scopes: []string{"operator.read", "operator.write"}, token: ann}, "in"},
		"in the password":        {hello{password: root}, "AUTH_UNAUTHORIZED"},
	} {
		if got := c.h.verdict(t, d); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if a, b, c := nodes(t, d, bearer(ann)), nodes(t, d, bearer(root)), nodes(t, d, bearer(ann+"x")); a != 200 || b != 200 || c != 401 {
		t.Errorf("REST: %d %d %d", a, b, c)
	}
	if resp, _ := ask(t, d, "PUT", "/v1/policy", `{}`, bearer(ann), "Content-Type: application/json"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("ann sets the policy: %d", resp.StatusCode)
	}
}

// What only a token let in ends with it: connections, nodes that are not paired, and streams. A device that was paired with
// it has a credential of its own by then.
func TestIAMExpires(t *testing.T) {
	s := newService(t)
	rs := s.key("r", jose.RS256)
	d := start(t, map[string]any{"auth": map[string]any{
		"mode": "iam", "token": hanzodtest.Token, "iam": map[string]any{"serverUrl": s.URL, "clientId": "gw", "superAdmins": []string{"root"}},
	}})
	part := []string{"operator.read", "operator.write"}
	end := time.Now().Add(5 * time.Second).Truncate(time.Second)
	ann, root := s.token(rs, "ann", map[string]any{"exp": end.Unix()}), s.token(rs, "root", map[string]any{"exp": end.Unix()})
	owner, paired := (hello{scopes: allScopes, token: d.Token}).connect(t, d), (hello{device: "anna", scopes: part, token: ann}).connect(t, d)
	var ending sync.WaitGroup
	for name, h := range map[string]hello{"ann": {scopes: part, token: ann}, "a node of root": {role: "node", id: "node-host", mode: "node", token: root}} {
		c := h.connect(t, d)
		if c.refused != "" {
			t.Fatalf("%s: %s", name, c.refused)
		}
		ending.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var err error
			for err == nil {
				_, _, err = c.ws.Read(ctx)
			}
			var closed websocket.CloseError
			if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation || !strings.Contains(closed.Reason, "expired") {
				t.Errorf("%s: %v", name, err)
			}
			if now := time.Now(); now.Before(end) || now.After(end.Add(patience/2)) {
				t.Errorf("%s: ended at %v, the token at %v", name, now, end)
			}
		})
	}
	ending.Go(func() {
		if resp, text, err := request(d, "GET", "/v1/events", "", bearer(ann)); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(text, `"code":"rpc.expired"`) {
			t.Errorf("%v, %s", err, text)
		}
		if now := time.Now(); now.Before(end) {
			t.Errorf("the stream ended at %v, the token at %v", now, end)
		}
	})
	ending.Wait()
	for name, c := range map[string]*conn{"the owner": owner, "the paired device": paired} {
		if _, failed := c.call(t, "health", struct{}{}); failed != "" {
			t.Errorf("%s: %s", name, failed)
		}
	}
}

// A service that is down lets nobody new in, is no reason to lock anybody out, and leaves the gateway
// token and the devices to work.
func TestIAMDown(t *testing.T) {
	s := newService(t)
	rs := s.key("r", jose.RS256)
	s.down = true
	d := start(t, map[string]any{"auth": map[string]any{
		"mode": "iam", "token": hanzodtest.Token, "iam": map[string]any{"serverUrl": s.URL, "clientId": "gw"},
		"rateLimit": map[string]any{"maxAttempts": 3, "exemptLoopback": false},
	}})
	token := s.token(rs, "ann", nil)
	in := hello{device: "d", scopes: allScopes, token: d.Token}.connect(t, d)
	device, _ := in.get(t, "auth", "deviceToken").(string)
	if got := (hello{device: "d", scopes: allScopes, deviceToken: device}).verdict(t, d); got != "in" {
		t.Errorf("the device: %s", got)
	}
	if got := (hello{token: token}).verdict(t, d); got != "AUTH_UNAUTHORIZED" {
		t.Errorf("%s", got)
	}
}
