package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
)

// TestNodeEnviron: a node can be told everything by the environment; the command line counts first.
func TestNodeEnviron(t *testing.T) {
	code := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(code, []byte("CODE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() { environ = nil }()
	for _, tc := range []struct {
		name  string
		vars  map[string]string
		flags []string
		in    runtime.NodeOptions
		want  runtime.NodeOptions
		wrong string
	}{
		{name: "nothing", want: runtime.NodeOptions{Link: "auto", LogLevel: "info"}},
		{
			name: "all", vars: map[string]string{
				"HANZOD_GATEWAY": "hanzod://gw:7", "HANZOD_TLS_FINGERPRINT": "AB", "HANZOD_NODE_NAME": "n", "HANZOD_NODE_ID": "i", "HANZOD_LINK": "grpc",
				"HANZOD_CLOUD_NODE": "true", "HANZOD_ALLOW_INSECURE": "1", "HANZOD_EXEC_SECURITY": "full", "BOT_EXEC_SECURITY": "deny", "BOT_EXEC_ASK": "off",
				"HANZOD_COMPANION": "off", "HANZOD_LOG_LEVEL": "debug", "HANZOD_LOG_FORMAT": "json", "HANZOD_SOCKET": "/s",
			},
			want: runtime.NodeOptions{
				Host: "hanzod://gw:7", Fingerprint: "AB", DisplayName: "n", NodeID: "i", Link: "grpc", NoDevice: true, AllowInsecure: true,
				Security: "full", Ask: "off", Companion: "off", LogLevel: "debug", LogStyle: "json", Socket: "/s",
			},
		},
		{name: "older url", vars: map[string]string{"BOT_NODE_GATEWAY_URL": "wss://gw.example/"}, want: runtime.NodeOptions{Host: "gw.example", Port: 443, TLS: true, Link: "websocket", LogLevel: "info"}},
		{name: "older url with port", vars: map[string]string{"BOT_NODE_GATEWAY_URL": "ws://127.0.0.1:18789"}, want: runtime.NodeOptions{Host: "127.0.0.1", Port: 18789, Link: "websocket", LogLevel: "info"}},
		{name: "host and port", vars: map[string]string{"HANZOD_GATEWAY": "[fd00::1]:5"}, want: runtime.NodeOptions{Host: "fd00::1", Port: 5, Link: "auto", LogLevel: "info"}},
		{name: "host", vars: map[string]string{"HANZOD_GATEWAY": "gw"}, want: runtime.NodeOptions{Host: "gw", Link: "auto", LogLevel: "info"}},
		{name: "invite", vars: map[string]string{"HANZOD_ENROLL_FILE": code}, want: runtime.NodeOptions{Enroll: "CODE", Link: "auto", LogLevel: "info"}},
		{
			name: "flags", flags: []string{"host", "log-level"}, in: runtime.NodeOptions{Host: "mine", DisplayName: "mine", LogLevel: "warn"},
			vars: map[string]string{"HANZOD_GATEWAY": "gw", "HANZOD_ENROLL": "X", "HANZOD_TLS_FINGERPRINT": "AB", "HANZOD_NODE_NAME": "n", "HANZOD_LOG_LEVEL": "debug"},
			want: runtime.NodeOptions{Host: "mine", DisplayName: "mine", Link: "auto", LogLevel: "warn"},
		},
		{name: "path", vars: map[string]string{"HANZOD_GATEWAY": "wss://gw/x"}, wrong: "HANZOD_GATEWAY: an address is host and port"},
		{name: "credentials", vars: map[string]string{"HANZOD_GATEWAY": "wss://u:s3cret@gw"}, wrong: "set HANZOD_TOKEN_FILE"},
		{name: "broken", vars: map[string]string{"HANZOD_GATEWAY": "wss://u:s3cret@gw\x01"}, wrong: "not an address"},
		{name: "scheme", vars: map[string]string{"BOT_NODE_GATEWAY_URL": "ftp://gw"}, wrong: "BOT_NODE_GATEWAY_URL: an address begins with"},
		{name: "port", vars: map[string]string{"HANZOD_GATEWAY": "gw:70000"}, wrong: `port "70000"`},
		{name: "switch", vars: map[string]string{"HANZOD_CLOUD_NODE": "ja"}, wrong: "HANZOD_CLOUD_NODE: Expected true or false"},
		{name: "older switch", vars: map[string]string{"BOT_CLOUD_NODE": "ja"}, want: runtime.NodeOptions{Link: "auto", LogLevel: "info"}},
		{name: "level", vars: map[string]string{"HANZOD_LOG_LEVEL": "loud"}, wrong: "HANZOD_LOG_LEVEL must be"},
		{name: "no file", vars: map[string]string{"HANZOD_ENROLL_FILE": code + "x"}, wrong: "HANZOD_ENROLL_FILE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environ = func(name string) string { return tc.vars[name] }
			o := tc.in
			o.Link = "auto"
			if o.LogLevel == "" {
				o.LogLevel = "info"
			}
			err := nodeEnviron(&o, io.Discard, io.Discard, func(name string) bool { return strings.Contains(strings.Join(tc.flags, " "), name) })
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) || strings.Contains(err.Error(), "s3cret") {
					t.Fatalf("error %v, want %q", err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			o.Console = nil
			if diff := cmp.Diff(tc.want, o, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Config" }, cmp.Ignore())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestEnvironmentTopic: help shows every variable.
func TestEnvironmentTopic(t *testing.T) {
	var out bytes.Buffer
	root := rootCmd(&out, io.Discard)
	root.SetArgs([]string{"help", "environment"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, v := range config.Variables() {
		if !strings.Contains(out.String(), "  "+v.Name+" ") {
			t.Errorf("%s is not there", v.Name)
		}
	}
}
