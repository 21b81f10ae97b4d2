package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestTailnet(t *testing.T) {
	c, err := load(t, `{gateway:{port:7000,tailnet:{enabled:true,hostname:"Box",controlUrl:"https://hs.example",ephemeral:true,tags:["tag:hanzod"],grants:[
		{users:["ann@example.com"],scopes:["operator.read"]},{tags:["tag:w"],role:"node"}]}}}`)
	if err != nil {
		t.Fatal(err)
	}
	want := Tailnet{Enabled: true, Hostname: "box", ControlURL: "https://hs.example", Ephemeral: true, Tags: []string{"tag:hanzod"}, Grants: []TailnetGrant{
		{Users: []string{"ann@example.com"}, Role: "operator", Scopes: []string{"operator.read"}}, {Tags: []string{"tag:w"}, Role: "node"},
	}}
	if got := c.Gateway.Tailnet; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if a, b := c.TailnetPorts(); a != 7000 || b != 7001 {
		t.Errorf("%d %d", a, b)
	}
	c, err = load(t, "{}", "HANZOD_TAILNET", "true", "HANZOD_TS_HOSTNAME", "cloud", "TS_CONTROL_URL", "http://10.0.0.1:8080")
	if got := c.Gateway.Tailnet; err != nil || !got.Enabled || got.Hostname != "cloud" || got.ControlURL != "http://10.0.0.1:8080" || len(got.Grants) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTailnetIssues(t *testing.T) {
	for text, part := range map[string]string{
		`{grants:[{scopes:["operator.read"]}]}`:                          "names whom it is for",
		`{grants:[{users:["a"]}]}`:                                       "at least one scope",
		`{grants:[{users:["*"],scopes:["operator.read"]}]}`:              "without patterns",
		`{grants:[{users:[" "],scopes:["operator.read"]}]}`:              "full logins",
		`{grants:[{tags:["ci"],scopes:["operator.read"]}]}`:              "Expected tag:name",
		`{grants:[{users:["a"],role:"node",scopes:["operator.read"]}]}`:  "a node has none",
		`{grants:[{users:["a"],scopes:["root"]}]}`:                       "root",
		`{grants:[{users:["a"],role:"admin",scopes:["operator.read"]}]}`: "admin",
		`{grants:[{user:["a"],scopes:["operator.read"]}]}`:               "user",
		`{grants:{}}`:                         "expected array",
		`{grants:["a"]}`:                      "expected object",
		`{hostname:"a b"}`:                    "hyphens",
		`{controlUrl:"hs.example"}`:           "https://",
		`{controlUrl:"https://k@hs.example"}`: "https://",
		`{tags:["x"]}`:                        "Expected tag:name",
		`{authKey:"tskey-secret"}`:            "authKey",
	} {
		_, err := load(t, `{gateway:{tailnet:`+text+`}}`)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "tskey-secret") {
			t.Error("an error shows a key")
		}
	}
}

func TestTailnetAuthKey(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := write("good", "tskey-file\n"), write("bad", "two lines\nhere\n")
	for _, c := range []struct {
		file string
		env  vars
		want string
	}{
		{"", nil, ""},
		{good, nil, "tskey-file"},
		{good, vars{"TS_AUTHKEY": "tskey-env"}, "tskey-env"},
		{"", vars{"HANZOD_TS_AUTHKEY": "a", "TS_AUTHKEY": "b"}, "a"},
		{"", vars{"HANZOD_TS_AUTHKEY_FILE": good}, "tskey-file"},
		{bad, nil, "!"},
		{filepath.Join(dir, "none"), nil, "!"},
	} {
		cfg := &Config{}
		cfg.Gateway.Tailnet.AuthKeyFile = c.file
		got, err := cfg.TailnetAuthKey(func(k string) string { return c.env[k] })
		if c.want == "!" && err == nil || c.want != "!" && (err != nil || got != c.want) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

func TestTailnetHostname(t *testing.T) {
	name := (&Config{}).TailnetHostname()
	if !strings.HasPrefix(name, "hanzod") || !hostLabel.MatchString(name) {
		t.Errorf("%q", name)
	}
}
