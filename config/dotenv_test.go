package config

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestParseDotenv(t *testing.T) {
	got := parseDotenv("\ufeffA=1\r\n export B = two words # said\nC='s # i\\n'\nD=\"d\\\"q\\n\"\n#E=1\nF=#no\nG=a#b\nH=\"over\ntwo\"\n1X=2\nno\nI=\nJ=\"open\n")
	want := map[string]string{"A": "1", "B": "two words", "C": `s # i\n`, "D": "d\"q\n", "F": "", "G": "a#b", "H": "over\ntwo", "I": ""}
	if !maps.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func FuzzDotenv(f *testing.F) {
	f.Add("A='x\nB=\"\\\"")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range parseDotenv(text) {
			if !variableName(name) {
				t.Fatalf("%q is no name", name)
			}
		}
	})
}

// TestDotenvCounts has the token of the gateway in the file, which the environment beats.
func TestDotenvCounts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		".env": "OPENCLAW_GATEWAY_TOKEN=of-the-file\nELEVEN=el\nPATH=/evil\n", "config.json": `{talk:{apiKey:"${ELEVEN}"}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"HOME": dir}
	load := func() *Config {
		c, err := Load(Options{StateDir: dir, Env: func(k string) string { return env[k] }})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := load()
	if got := c.Gateway.Auth.Token.Reveal(); got != "of-the-file" {
		t.Fatalf("the token is %q", got)
	}
	if v := c.EnvVars["ELEVEN"]; v.Reveal() != "el" {
		t.Fatalf("commands get %q", v.Reveal())
	}
	if _, ok := c.EnvVars["PATH"]; ok {
		t.Fatal("the file sets PATH")
	}
	env["OPENCLAW_GATEWAY_TOKEN"] = "of-the-process"
	if got := load().Gateway.Auth.Token.Reveal(); got != "of-the-process" {
		t.Fatalf("the token is %q", got)
	}
}
