package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hidden = "swordfish-0123456789"

func TestSecretsNeverPrint(t *testing.T) {
	c := mustLoad(t, "{gateway:{auth:{token:'"+hidden+"',iam:{serverUrl:'u',clientId:'c',clientSecret:'"+hidden+"'}},remote:{password:'"+hidden+"'}},hooks:{token:'"+hidden+"'},env:{vars:{K:'"+hidden+"'}},skills:{entries:{x:{apiKey:'"+hidden+"'}}}}")
	type wrapped struct {
		S       Secret
		private Secret
		list    []Secret
		m       map[string]Secret
	}
	s := c.Gateway.Auth.Token
	values := []any{
		s, &s, c, *c, c.Gateway, &c.Gateway, c.Gateway.Auth, c.Gateway.Auth.IAM, c.Hooks, []Secret{s},
		map[string]any{"s": s}, wrapped{s, s, []Secret{s}, map[string]Secret{"k": s}},
	}
	for i, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, hidden) || strings.Contains(out, fmt.Sprintf("%x", hidden)) {
				t.Errorf("value %d with %s: %s", i, verb, out)
			}
		}
		out, err := json.Marshal(v)
		if err == nil && bytes.Contains(out, []byte(hidden)) {
			t.Errorf("value %d in JSON: %s", i, out)
		}
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		if strings.Contains(b.String(), hidden) {
			t.Errorf("value %d in a log: %s", i, b.String())
		}
	}
	if fmt.Sprint(s) != "[redacted]" || fmt.Sprint(Secret{}) != "" || s.Reveal() != hidden {
		t.Error("what is shown instead")
	}
}

func TestSecretEqual(t *testing.T) {
	s := NewSecret("abc")
	for candidate, want := range map[string]bool{"abc": true, "": false, "ab": false, "abcd": false, "ABC": false} {
		if s.Equal(candidate) != want {
			t.Errorf("%q", candidate)
		}
	}
	if (Secret{}).Equal("") || NewSecret("").IsSet() {
		t.Error("an unset secret equals something")
	}
}

func TestSecretReferences(t *testing.T) {
	for _, c := range []struct{ name, ref, providers, mode, want, problem string }{
		{"env", "{source:'env',provider:'default',id:'TOK'}", "", "", "from-env", ""},
		{"env, shortest", "{source:'env',id:'TOK'}", "", "", "from-env", ""},
		{"env, named provider", "{source:'env',id:'TOK'}", "{defaults:{env:'e'},providers:{e:{source:'env',allowlist:['TOK']}}}", "", "from-env", ""},
		{"env, not allowed", "{source:'env',provider:'e',id:'TOK'}", "{providers:{e:{source:'env',allowlist:[]}}}", "", "", `Environment variable TOK is not in the allowlist of secret provider "e"`},
		{"env, unset", "{source:'env',id:'NONE'}", "", "", "", `Environment variable NONE of a secret reference is not set`},
		{"env, bad name", "{source:'env',id:'a b'}", "", "", "", `Secret id "a b" is no environment variable name (A-Z, 0-9, _)`},
		{"env, no provider", "{source:'env',provider:'x',id:'TOK'}", "", "", "", `Secret provider "x" is not configured (set secrets.providers.x)`},
		{"file", "{source:'file',provider:'f',id:'/a/0/x~1y'}", "{providers:{f:{source:'file',path:'~/s.json'}}}", "", "from-file", ""},
		{"file, whole", "{source:'file',provider:'f',id:'value'}", "{providers:{f:{source:'file',path:'~/s.txt',mode:'singleValue'}}}", "", "one-value", ""},
		{"file, whole, wrong id", "{source:'file',provider:'f',id:'/a'}", "{providers:{f:{source:'file',path:'~/s.txt',mode:'singleValue'}}}", "", "", `Secret id must be "value" for a file in mode singleValue, got "/a"`},
		{"file, nothing there", "{source:'file',provider:'f',id:'/b'}", "{providers:{f:{source:'file',path:'~/s.json'}}}", "", "", `Secret file s.json has nothing at "/b"`},
		{"file, no string", "{source:'file',provider:'f',id:'/a'}", "{providers:{f:{source:'file',path:'~/s.json'}}}", "", "", `Secret file s.json holds no string at "/a"`},
		{"file, missing", "{source:'file',provider:'f',id:'/a'}", "{providers:{f:{source:'file',path:'~/no.json'}}}", "", "", `Cannot read secret file no.json: `},
		{"file, too large", "{source:'file',provider:'f',id:'/a'}", "{providers:{f:{source:'file',path:'~/s.json',maxBytes:3}}}", "", "", `Cannot read secret file s.json: s.json is larger than 3 bytes`},
		{"file, no provider", "{source:'file',id:'/a'}", "", "", "", `Secret provider "default" is not configured (set secrets.providers.default with source and path)`},
		{"wrong source", "{source:'file',provider:'e',id:'/a'}", "{providers:{e:{source:'env'}}}", "", "", `Secret provider "e" is not of source "file"`},
		{"exec, no provider", "{source:'exec',provider:'v',id:'x'}", "", "", "", `Secret provider "v" is not configured (set secrets.providers.v with source and command)`},
		{"no source", "{id:'x'}", "", "", "", `Secret reference needs "source"`},
		{"other source", "{source:'kms',id:'x'}", "", "", "", `Secret source is "env", "file" or "exec"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := realDir(t)
			write(t, filepath.Join(home, "s.json"), `{"a":[{"x/y":"from-file"}]}`)
			write(t, filepath.Join(home, "s.txt"), "one-value\n")
			text := "{gateway:{auth:{token:" + c.ref + "}}"
			if c.providers != "" {
				text += ",secrets:" + c.providers
			}
			got, err := Load(Options{Path: write(t, filepath.Join(home, "c.json"), text+"}"), Env: vars{"HOME": home, "TOK": "from-env"}.get})
			if c.problem == "" {
				if err != nil || got.Gateway.Auth.Token.Reveal() != c.want {
					t.Fatalf("got %v, %v", got, err)
				}
				return
			}
			if lines := issues(t, err); len(lines) != 1 || !strings.Contains(lines[0], c.problem) {
				t.Fatalf("got %q, want %s", lines, c.problem)
			}
		})
	}
}

// TestSecretPlaces finds references at every place that has an id, and leaves those of what is off.
func TestSecretPlaces(t *testing.T) {
	ref := "{source:'env',id:'TOK'}"
	c := mustLoad(t, `{
		agents:{defaults:{memorySearch:{remote:{apiKey:`+ref+`}}},list:[{id:'a'},{id:'b',memorySearch:{remote:{apiKey:`+ref+`}}}]},
		channels:{slack:{enabled:false,botToken:{source:'env',id:'GONE'}},telegram:{botToken:`+ref+`,accounts:{'a.b':{botToken:`+ref+`},off:{enabled:false,botToken:{source:'env',id:'GONE'}}}}},
		gateway:{auth:{mode:'token',token:`+ref+`,password:{source:'env',id:'GONE'}}},
		tools:{web:{search:{provider:'grok',grok:{apiKey:`+ref+`},kimi:{apiKey:{source:'env',id:'GONE'}}}}},
		talk:{apiKey:'plain'},hooks:{enabled:true,token:`+ref+`}}`, "TOK", "v")
	var got []string
	for _, r := range c.SecretRefs {
		line := r.Path
		for _, target := range SecretTargets() {
			if target.Holds(r) {
				line += " = " + target.ID
			}
		}
		if !r.Active {
			line += " (off)"
		}
		if r.Active != r.Value.IsSet() {
			t.Errorf("%s: active %v, value %v", r.Path, r.Active, r.Value.IsSet())
		}
		got = append(got, line)
	}
	want := []string{
		"gateway.auth.token = gateway.auth.token", "gateway.auth.password = gateway.auth.password (off)", "hooks.token",
		"agents.defaults.memorySearch.remote.apiKey = agents.defaults.memorySearch.remote.apiKey",
		"agents.list.1.memorySearch.remote.apiKey = agents.list[].memorySearch.remote.apiKey",
		"tools.web.search.grok.apiKey = tools.web.search.grok.apiKey", "tools.web.search.kimi.apiKey = tools.web.search.kimi.apiKey (off)",
		"channels.slack.botToken = channels.slack.botToken (off)",
		"channels.telegram.accounts.a.b.botToken = channels.telegram.accounts.*.botToken",
		"channels.telegram.accounts.off.botToken = channels.telegram.accounts.*.botToken (off)", "channels.telegram.botToken = channels.telegram.botToken",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestSecretsReadAnew reads the secrets again and nothing else.
func TestSecretsReadAnew(t *testing.T) {
	home := realDir(t)
	env := vars{"HOME": home, "TOK": "first", "HOOK": "h"}
	path := write(t, filepath.Join(home, "c.json"), "{gateway:{port:4000,auth:{token:{source:'env',id:'TOK'}}},hooks:{enabled:true,token:{source:'env',id:'HOOK'}}}")
	port := 5000
	c, err := Load(Options{Path: path, Env: env.get, Port: &port})
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "{gateway:{port:4001}}")
	env["TOK"] = "second"
	again, err := c.Resolved(t.Context())
	if err != nil || again.Gateway.Auth.Token.Reveal() != "second" || again.Gateway.Port != 5000 || again.Hash != c.Hash || len(again.SecretRefs) != 2 {
		t.Fatalf("got %v, %v", again, err)
	}
	if c.Gateway.Auth.Token.Reveal() != "first" {
		t.Error("the old one has changed")
	}
	delete(env, "TOK")
	_, err = c.Resolved(t.Context())
	if inv, ok := errors.AsType[*Invalid](err); !ok || cmp.Diff([]string{"gateway.auth.token"}, inv.Unresolved) != "" {
		t.Fatalf("got %v", err)
	}
}

// TestMadeTokenStays holds that a token that the start made is not lost when secrets are read anew.
func TestMadeTokenStays(t *testing.T) {
	c := mustLoad(t, "{}")
	if made, err := EnsureToken(c); !made || err != nil {
		t.Fatal(made, err)
	}
	again, err := c.Resolved(t.Context())
	if err != nil || !again.Gateway.Auth.Token.Equal(c.Gateway.Auth.Token.Reveal()) || again.AuthMode() != "token" {
		t.Fatalf("got %v, %v", again, err)
	}
}

// TestLookingResolvesNothing holds that showing the file neither reads secrets nor calls it wrong without.
func TestLookingResolvesNothing(t *testing.T) {
	home := realDir(t)
	v, err := Look(Options{Path: write(t, filepath.Join(home, "c.json"), "{gateway:{auth:{token:{source:'env',id:'GONE'}}}}"), Env: vars{"HOME": home}.get})
	if err != nil || !v.Valid {
		t.Fatalf("got %+v, %v", v.Issues, err)
	}
}

func TestInactiveSecretsMayBeMissing(t *testing.T) {
	c := mustLoad(t, "{gateway:{remote:{token:{source:'env',id:'NO'}}},hooks:{token:{source:'exec',id:'x'}}}")
	if c.Gateway.Remote.Token.IsSet() || c.Hooks.Token.IsSet() {
		t.Error("set")
	}
	_, err := load(t, "{gateway:{mode:'remote',remote:{token:{source:'env',id:'NO'}}}}")
	if d := cmp.Diff([]string{"- gateway.remote.token: Environment variable NO of a secret reference is not set (line 1)"}, issues(t, err)); d != "" {
		t.Error(d)
	}
}
