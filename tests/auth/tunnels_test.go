package auth

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// A tunnel and its bindings are their tenant's: by no door does another tenant see, end or learn of them (tunnel.md
// §2.5). The owner of the gateway has all.
func TestTunnelsOfTenantsAreApart(t *testing.T) {
	s := newService(t)
	key := s.key("k", jose.ES256)
	d := start(t, map[string]any{"auth": map[string]any{
		"mode": "iam", "token": hanzodtest.Token,
		"iam": map[string]any{"serverUrl": s.URL + "/", "clientId": "gw", "superAdmins": []string{"root"}},
	}})
	tokens := map[string]string{"owner": d.Token}
	for name, org := range map[string]string{"ann": "acme", "ada": "acme", "bea": "beta"} {
		tokens[name] = s.token(key, name, map[string]any{"owner": org})
	}
	ids, all := map[string]string{}, map[string]*driver.Session{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, name := range []string{"ann", "bea", "owner"} {
		session, err := driver.Connect(ctx, driver.Options{Grace: -1, Dial: func(ctx context.Context, _ int) (mux.Carrier, error) {
			return hoody.Dial(ctx, "ws://"+d.Addr(), tokens[name], wire.V1, hoody.DialOptions{})
		}})
		if err != nil {
			t.Fatal(name, err)
		}
		t.Cleanup(func() { _ = session.Close() })
		if _, err := session.Expose(ctx, driver.ExposeIn{Target: "1", TCP: true, Label: "of-" + name}); err != nil {
			t.Fatal(name, err)
		}
		ids[name], all[name] = session.ID(), session
	}
	for name, sees := range map[string][]string{"ann": {"ann"}, "ada": {"ann"}, "bea": {"bea"}, "owner": {"ann", "bea", "owner"}} {
		for _, path := range []string{
			"/v1/tunnels", "/v1/bindings", "/api/v1/tunnel/tunnels", "/api/v1/tunnel/sessions", "/api/v1/tunnel/bindings", "/api/v1/tunnel/tunnels?shape=kit",
			"/api/v1/tunnel/sessions?shape=kit", "/api/v1/tunnel/bindings?shape=kit",
		} {
			r, text := ask(t, d, "GET", path, "", bearer(tokens[name]))
			if r.StatusCode != http.StatusOK {
				t.Fatalf("%s as %s: %s %s", path, name, r.Status, text)
			}
			for of, id := range ids {
				want := strings.Contains(strings.Join(sees, " "), of)
				if strings.Contains(text, id) != want {
					t.Errorf("%s, %s: the tunnel of %s must be seen: %v\n%s", name, path, of, want, text)
				}
			}
		}
		_, text := ask(t, d, "GET", "/v1/tunnels:health", "", bearer(tokens[name]))
		var h struct{ Totals struct{ Tunnels int } }
		if err := json.Unmarshal([]byte(text), &h); err != nil || h.Totals.Tunnels != len(sees) {
			t.Errorf("%s: %s", name, text)
		}
		// The network of the gateway is its owner's.
		if r, _ := ask(t, d, "GET", "/v1/discovery/peers?wait=11s", "", bearer(tokens[name])); (r.StatusCode == http.StatusForbidden) != (name != "owner") {
			t.Errorf("%s looks for peers: %s", name, r.Status)
		}
	}
	// What is another tenant's is refused in the words of what is not there.
	for _, c := range []struct{ verb, path string }{{"GET", "/v1/tunnels/ID"}, {"DELETE", "/v1/tunnels/ID"}, {"DELETE", "/api/v1/tunnel/sessions/ID"}} {
		for _, of := range []string{"ann", "owner"} {
			at := func(id string) (int, string) {
				r, text := ask(t, d, c.verb, strings.ReplaceAll(c.path, "ID", id), "", bearer(tokens["bea"]))
				return r.StatusCode, strings.ReplaceAll(text, id, "ID")
			}
			a, atext := at(ids[of])
			b, btext := at("S-nothing")
			if a != http.StatusNotFound || a != b || atext != btext {
				t.Errorf("%s %s: %d %s\nbut of none %d %s", c.verb, c.path, a, atext, b, btext)
			}
		}
	}
	var bound struct {
		Bindings []struct{ BindingID, Name string }
	}
	_, text := ask(t, d, "GET", "/v1/bindings", "", bearer(tokens["owner"]))
	if err := json.Unmarshal([]byte(text), &bound); err != nil || len(bound.Bindings) != 3 {
		t.Fatal(text, err)
	}
	for _, b := range bound.Bindings {
		if r, text := ask(t, d, "DELETE", "/v1/bindings/"+b.BindingID, "", bearer(tokens["bea"])); (r.StatusCode == http.StatusOK) != (b.Name == "of-bea") {
			t.Errorf("bea ends the binding %s: %s %s", b.Name, r.Status, text)
		}
	}
	// Another of the same organisation may end it as an administrator alone.
	for _, c := range []struct {
		who, of string
		want    int
	}{{"owner", "ann", 202}, {"bea", "bea", 202}, {"bea", "bea", 404}} {
		if r, text := ask(t, d, "DELETE", "/api/v1/tunnel/sessions/"+ids[c.of], "", bearer(tokens[c.who])); r.StatusCode != c.want {
			t.Errorf("%s ends the tunnel of %s: %s %s", c.who, c.of, r.Status, text)
		}
	}
	for _, name := range []string{"ann", "bea"} {
		select {
		case <-all[name].Done():
		case <-ctx.Done():
			t.Errorf("%s does not learn of the end", name)
		}
	}
}
