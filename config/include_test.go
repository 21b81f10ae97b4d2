package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// loadTree writes the files below a new directory and loads config.json there.
func loadTree(t testing.TB, files map[string]string, env ...string) (*Config, error) {
	t.Helper()
	dir := realDir(t)
	for name, text := range files {
		write(t, filepath.Join(dir, "conf", filepath.FromSlash(name)), text)
	}
	v := vars{"HOME": dir}
	for i := 0; i+1 < len(env); i += 2 {
		v[env[i]] = env[i+1]
	}
	return Load(Options{Path: filepath.Join(dir, "conf", "config.json"), Env: v.get})
}

func TestInclude(t *testing.T) {
	c, err := loadTree(t, map[string]string{
		"config.json": `{$include: ['a.json', './sub/b.json'],
			gateway: {port: 3, auth: {$include: 'auth.json', mode: 'token'}, nodes: {allowCommands: ['own']}}}`,
		"a.json":          `{gateway: {port: 1, bind: 'lan', nodes: {allowCommands: ['a']}}, logging: {level: 'warn'}}`,
		"sub/b.json":      `{gateway: {port: 2, nodes: {$include: 'deep/n.json'}}, logging: {$include: '../log.json'}}`,
		"sub/deep/n.json": `{allowCommands: ['b']}`,
		"log.json":        `{consoleLevel: 'error'}`,
		"auth.json":       `{token: '${T}', mode: 'password'}`,
	}, "T", "secret")
	if err != nil {
		t.Fatal(err)
	}
	g := c.Gateway
	if g.Port != 3 || g.Bind != "lan" || g.Auth.Token.Reveal() != "secret" || g.Auth.Mode != "token" ||
		c.Logging.Level != "warn" || c.Logging.ConsoleLevel != "error" {
		t.Errorf("%d %s %s %+v", g.Port, g.Bind, g.Auth.Mode, c.Logging)
	}
	if d := cmp.Diff([]string{"a", "b", "own"}, g.Nodes.AllowCommands); d != "" {
		t.Error(d)
	}
}

func TestIncludeRefused(t *testing.T) {
	deep := map[string]string{"config.json": `{$include:'0.json'}`}
	for i := range maxIncludeDepth + 1 {
		deep[fmt.Sprintf("%d.json", i)] = fmt.Sprintf(`{$include:'%d.json'}`, i+1)
	}
	deep[fmt.Sprintf("%d.json", maxIncludeDepth+1)] = "{}"
	fits := map[string]string{"config.json": `{$include:'0.json'}`, fmt.Sprintf("%d.json", maxIncludeDepth-1): "{}"}
	for i := range maxIncludeDepth - 1 {
		fits[fmt.Sprintf("%d.json", i)] = fmt.Sprintf(`{$include:'%d.json'}`, i+1)
	}
	if _, err := loadTree(t, fits); err != nil {
		t.Errorf("the greatest depth: %v", err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"outside", map[string]string{"config.json": "{\n gateway:{$include:'../x.json'}}"}, `- gateway.$include: Include path escapes config directory: "../x.json" (line 2)`},
		{"outside, absolute", map[string]string{"config.json": `{$include:'/etc/passwd'}`}, `- $include: Include path escapes config directory: "/etc/passwd" (line 1)`},
		{"outside, from below", map[string]string{"config.json": `{$include:'a/b.json'}`, "a/b.json": `{$include:'../../x'}`}, `- $include: Include path escapes config directory: "../../x" (b.json line 1)`},
		{"missing", map[string]string{"config.json": `{$include:'no.json'}`}, `- $include: Include file not found: "no.json" (line 1)`},
		{"directory", map[string]string{"config.json": `{$include:'d'}`, "d/x": ""}, `- $include: Include file is not a regular file: "d" (line 1)`},
		{"number", map[string]string{"config.json": `{$include:1}`}, `- $include: Expected a file name or a list of file names, got number (line 1)`},
		{"list of numbers", map[string]string{"config.json": `{$include:[1]}`}, `- $include: Expected a file name or a list of file names, got number (line 1)`},
		{"itself", map[string]string{"config.json": `{$include:'config.json'}`}, `- $include: "config.json" includes itself (line 1)`},
		{"circle", map[string]string{"config.json": `{$include:'a.json'}`, "a.json": `{$include:'b.json'}`, "b.json": "\n{$include:'a.json'}"}, `- $include: "a.json" includes itself (b.json line 2)`},
		{"depth", deep, `- $include: Files include each other more than 10 deep at "10.json" (9.json line 1)`},
		{"no object", map[string]string{"config.json": `{gateway:{$include:'l.json',port:1}}`, "l.json": "[]"}, `- gateway.$include: Keys beside $include need an included object, but the file holds array (line 1)`},
		{"syntax", map[string]string{"config.json": `{$include:'l.json'}`, "l.json": "{\n]"}, `- $include: JSON5 parse failed: SyntaxError: JSON5: invalid character ']' at 2:1 (l.json line 2)`},
		{"fault inside", map[string]string{"config.json": `{gateway:{$include:'l.json'}}`, "l.json": "{\n\n port:'x'}"}, `- gateway.port: Invalid input: expected number, received string (l.json line 3)`},
		{"size", map[string]string{"config.json": `{$include:'l.json'}`, "l.json": "{}" + strings.Repeat(" ", maxIncludeBytes)}, `- $include: Cannot read include file "l.json": l.json is larger than 2097152 bytes (line 1)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := loadTree(t, c.files)
			if d := cmp.Diff([]string{c.want}, issues(t, err)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestIncludeLinks(t *testing.T) {
	dir := realDir(t)
	outside := write(t, filepath.Join(dir, "secret.json"), "{}")
	inside := write(t, filepath.Join(dir, "conf", "real.json"), "{gateway:{port:7}}")
	for name, to := range map[string]string{"out.json": outside, "in.json": inside, "dir": dir} {
		if err := os.Symlink(to, filepath.Join(dir, "conf", name)); err != nil {
			t.Skip("no symbolic links here:", err)
		}
	}
	for _, c := range []struct {
		include string
		escapes bool
	}{{"in.json", false}, {"out.json", true}, {"dir/secret.json", true}} {
		path := write(t, filepath.Join(dir, "conf", "config.json"), "{$include:'"+c.include+"'}")
		got, err := Load(Options{Path: path, Env: vars{"HOME": dir}.get})
		if escaped := err != nil && strings.Contains(err.Error(), "Include path escapes config directory"); escaped != c.escapes {
			t.Errorf("%s: %v", c.include, err)
		}
		if err == nil && got.Gateway.Port != 7 {
			t.Errorf("%s: port %d", c.include, got.Gateway.Port)
		}
	}
}
