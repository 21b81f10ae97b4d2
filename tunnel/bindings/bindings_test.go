package bindings

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

func node(tenant, id string) identity.Caller {
	return identity.Caller{Role: identity.RoleNode, NodeID: id, Tenant: tenant}
}

func service(pattern *string) (*Service, map[string][]Binding) {
	shown := map[string][]Binding{}
	return New(Config{
		Pattern: func() string { return *pattern }, Base: func() string { return "https://box:18789" }, Host: func() string { return "box" },
		Listen:   func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
		Reserved: func(host string) bool { return host == "gw.example.com" },
		Changed:  func(id string, all []Binding) { shown[id] = all }, Now: time.Now,
	}), shown
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		pattern, tenant string
		in              CreateIn
		url, host, path string
	}{
		{"", "", CreateIn{Name: "Web Site", Protocol: HTTP, Subdomain: "site"}, "https://box:18789/exposed/site/", "box", "/exposed/site/x"},
		{"", "acme", CreateIn{Name: "ws", Protocol: WebSocket, Subdomain: "site"}, "wss://box:18789/exposed/acme/site/", "box", "/exposed/acme/site"},
		{"https://{subdomain}.{tenant}.example.com", "acme", CreateIn{Name: "ws", Protocol: WebSocket, Subdomain: "site"}, "wss://site.acme.example.com", "SITE.acme.example.com", "/"},
		{"http://{subdomain}.example.com/", "", CreateIn{Name: "a", Protocol: HTTP, Subdomain: "a"}, "http://a.example.com/", "a.example.com", "/v1/nodes"},
	} {
		s, shown := service(&c.pattern)
		c.in.LocalAddr = "127.0.0.1:80"
		out, err := s.Create(context.Background(), node(c.tenant, "n"), c.in)
		if err != nil || out.Binding.URL != c.url || len(shown["n"]) != 1 {
			t.Errorf("%+v: %+v, %v", c.in, out, err)
		}
		if b, _, ours := s.find(c.host, c.path); !ours || b == nil {
			t.Errorf("%s: its visitors are %v, %v", c.url, ours, b)
		}
		if _, _, ours := s.find("other.example.org", "/v1/nodes"); ours {
			t.Error("everybody is a visitor")
		}
		if b, _, ours := s.find("box", "/exposed/none"); !ours || b != nil {
			t.Error("what is not exposed is known")
		}
		s.Close()
	}
}

func TestRefusals(t *testing.T) {
	pattern := "https://{subdomain}.example.com"
	s, _ := service(&pattern)
	defer s.Close()
	ok := CreateIn{Name: "a", LocalAddr: "127.0.0.1:80", Protocol: HTTP, Subdomain: "site"}
	if _, err := s.Create(context.Background(), node("acme", "n1"), ok); err != nil {
		t.Fatal(err)
	}
	with := func(f func(*CreateIn)) CreateIn { in := ok; f(&in); return in }
	for name, c := range map[string]struct {
		who  identity.Caller
		in   CreateIn
		want error
	}{
		"no name":                                {node("", "n"), with(func(in *CreateIn) { in.Name = "" }), ErrName},
		"a long name":                            {node("", "n"), with(func(in *CreateIn) { in.Name = strings.Repeat("x", 201) }), ErrName},
		"another protocol":                       {node("", "n"), with(func(in *CreateIn) { in.Protocol = "udp" }), ErrProtocol},
		"no port":                                {node("", "n"), with(func(in *CreateIn) { in.LocalAddr = "127.0.0.1" }), ErrLocalAddr},
		"port 0":                                 {node("", "n"), with(func(in *CreateIn) { in.LocalAddr = "127.0.0.1:0" }), ErrLocalAddr},
		"capitals":                               {node("", "n"), with(func(in *CreateIn) { in.Subdomain = "Site" }), ErrSubdomain},
		"two labels":                             {node("", "n"), with(func(in *CreateIn) { in.Subdomain = "a.b" }), ErrSubdomain},
		"a dash at the end":                      {node("", "n"), with(func(in *CreateIn) { in.Subdomain = "a-" }), ErrSubdomain},
		"taken by another node":                  {node("acme", "n2"), ok, ErrTaken},
		"taken, and one address for all tenants": {node("other", "n2"), ok, ErrTaken},
		"the daemon's own name":                  {node("", "n"), with(func(in *CreateIn) { in.Subdomain = "gw" }), ErrTaken},
		"an operator":                            {identity.Internal(), ok, ErrNoNode},
	} {
		if out, err := s.Create(context.Background(), c.who, c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
	pattern = "https://example.com/{subdomain}"
	if _, err := s.Create(context.Background(), node("", "n"), with(func(in *CreateIn) { in.Subdomain = "x" })); err == nil {
		t.Error("a pattern whose host is one for all is taken")
	}
	pattern = ""
	for i := range maxPerNode + 1 {
		_, err := s.Create(context.Background(), node("", "many"), CreateIn{Name: fmt.Sprint(i), LocalAddr: "a:1", Protocol: HTTP})
		if (err != nil) != (i == maxPerNode) {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pattern := ""
		s, shown := service(&pattern)
		defer s.Close()
		n := node("", "n")
		in := CreateIn{Name: "a", LocalAddr: "a:1", Protocol: HTTP}
		first, err := s.Create(context.Background(), n, in)
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.Create(context.Background(), n, in)
		if err != nil || again.Binding.URL != first.Binding.URL || s.count != 1 {
			t.Errorf("%+v %+v %v", first, again, err)
		}
		s.Gone("n")
		time.Sleep(Grace - time.Second)
		if len(s.Back("n")) != 1 {
			t.Error("who comes back in time has nothing")
		}
		time.Sleep(2 * Grace)
		if len(s.Back("n")) != 1 {
			t.Error("a binding of a linked node goes")
		}
		s.Gone("n")
		time.Sleep(Grace + time.Second)
		if len(s.Back("n")) != 0 || s.count != 0 || len(s.places)+len(s.subs)+len(s.gone) != 0 {
			t.Errorf("%+v", s)
		}
		if _, err := s.Create(context.Background(), n, in); err != nil {
			t.Fatal(err)
		}
		acme := identity.Internal()
		acme.Tenant = "acme"
		if out, _ := s.List(context.Background(), acme, ListIn{}); len(out.Bindings) != 1 {
			t.Errorf("%+v", out)
		}
		if _, err := s.Delete(context.Background(), acme, DeleteIn{first.Binding.ID}); !errors.Is(err, ErrUnknown) {
			t.Errorf("a tenant ends what is the gateway's: %v", err)
		}
		if _, err := s.Delete(context.Background(), identity.Internal(), DeleteIn{first.Binding.ID}); err != nil || len(shown["n"]) != 0 {
			t.Errorf("%v %v", shown, err)
		}
		s.Stop(n, "none") // is no error
	})
}

// Own bindings are one's own; what others made takes operator.admin (tunnel.md §5.4).
func TestOwners(t *testing.T) {
	pattern := ""
	s, _ := service(&pattern)
	defer s.Close()
	s.cfg.Admit = func(context.Context, identity.Caller, Binding) (Upstream, error) { return nil, nil }
	operator := func(name string, scope identity.Scope) identity.Caller {
		return identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{scope}, Principal: name}
	}
	anna, bert, boss := operator("anna", identity.ScopeWrite), operator("bert", identity.ScopeWrite), operator("boss", identity.ScopeAdmin)
	in := CreateIn{NodeID: "n", Name: "shop", LocalAddr: "127.0.0.1:80", Protocol: HTTP}
	made, err := s.Create(context.Background(), anna, in)
	if err != nil || made.Binding.Owner != "anna" {
		t.Fatalf("%+v %v", made, err)
	}
	if _, err := s.Create(context.Background(), bert, in); !errors.Is(err, ErrOwner) {
		t.Errorf("another takes the name: %v", err)
	}
	if _, err := s.Delete(context.Background(), bert, DeleteIn{made.Binding.ID}); !errors.Is(err, ErrOwner) {
		t.Errorf("another ends it: %v", err)
	}
	if made, err = s.Create(context.Background(), anna, in); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(context.Background(), anna, DeleteIn{made.Binding.ID}); err != nil {
		t.Error(err)
	}
	own, err := s.Create(context.Background(), node("", "n"), CreateIn{Name: "a", LocalAddr: "a:1", Protocol: HTTP})
	if err != nil || own.Binding.Owner != "" {
		t.Fatalf("%+v %v", own, err)
	}
	if _, err := s.Delete(context.Background(), anna, DeleteIn{own.Binding.ID}); !errors.Is(err, ErrOwner) {
		t.Errorf("an operator ends what a node exposes: %v", err)
	}
	if _, err := s.Delete(context.Background(), boss, DeleteIn{own.Binding.ID}); err != nil {
		t.Error(err)
	}
}
