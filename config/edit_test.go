package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/config/json5"
)

// bench is a config file of its own and what changes it.
type bench struct {
	t    testing.TB
	opts Options
	path string
}

func newBench(t testing.TB, text string, env ...string) *bench {
	t.Helper()
	home := realDir(t)
	v := vars{"HOME": home}
	for i := 0; i+1 < len(env); i += 2 {
		v[env[i]] = env[i+1]
	}
	b := &bench{t: t, path: filepath.Join(home, "c", "config.json")}
	b.opts = Options{Path: b.path, Env: v.get}
	if text != "" {
		write(t, b.path, text)
	}
	return b
}

func (b *bench) hash() string {
	b.t.Helper()
	v, err := Look(b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	return v.Hash
}

func (b *bench) try(kind EditKind, raw string) (Edited, error) {
	b.t.Helper()
	return Prepare(b.opts, EditIn{Kind: kind, Raw: raw, BaseHash: b.hash(), Version: "1.2.3", Now: time.UnixMilli(1_700_000_000_123)})
}

// edit makes a change and writes it.
func (b *bench) edit(kind EditKind, raw string) Edited {
	b.t.Helper()
	e, err := b.try(kind, raw)
	if err != nil {
		b.t.Fatal(err)
	}
	write(b.t, b.path, string(e.Text))
	return e
}

// saved is the file without the stamp.
func (b *bench) saved() string {
	b.t.Helper()
	text, err := os.ReadFile(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	for {
		next, err := json5.Delete(text, []string{"meta"})
		if err != nil {
			return string(text)
		}
		text = next
	}
}

const commented = `// my machine
{
  gateway: { // the door
    port: 19001, // not the usual one
    auth: { mode: 'token', token: '${TOKEN}' },
  },
  /* what it says */
  logging: { level: 'info' }, // enough
  commands: {native: 'auto', nativeSkills: 'auto', restart: true, ownerDisplay: 'raw'},
}
`

func TestEditKeepsComments(t *testing.T) {
	b := newBench(t, commented, "TOKEN", "secret-value")
	v, err := Look(b.opts)
	if err != nil || !v.Valid {
		t.Fatal(v.Issues, err)
	}
	// What clients were shown, sent back, changes nothing.
	for _, shown := range []string{*v.Raw, json5.Format(v.Config), json5.Format(v.Parsed), json5.Format(v.Resolved)} {
		e := b.edit(EditSet, shown)
		if d := cmp.Diff(commented, b.saved()); d != "" {
			t.Fatal(d)
		}
		if len(e.Changed) > 0 {
			t.Errorf("%+v", e.Changed)
		}
		write(t, b.path, commented)
	}
	b.edit(EditPatch, "{logging:{level:'debug'},gateway:{auth:{token:'__OPENCLAW_REDACTED__'}},ui:{seamColor:'00ff00'}}")
	want := strings.Replace(commented, "'info'", "'debug'", 1)
	want = strings.Replace(want, "// enough\n", "// enough\n  ui: {\n    seamColor: '00ff00'\n  },\n", 1)
	if d := cmp.Diff(want, b.saved()); d != "" {
		t.Fatal(d)
	}
	e := b.edit(EditPatch, "{ui:null,gateway:{port:null}}")
	paths := []string{}
	for _, c := range e.Changed {
		paths = append(paths, c.Path)
	}
	if d := cmp.Diff([]string{"gateway.port", "ui.seamColor"}, paths); d != "" {
		t.Fatal(d)
	}
	if strings.Contains(b.saved(), "19001") || !strings.Contains(b.saved(), "// not the usual one") {
		t.Errorf("%s", b.saved())
	}
}

func TestEditChecksInOrder(t *testing.T) {
	b := newBench(t, "{gateway:{port:5,auth:{mode:'token',token:'t'}}}")
	try := func(kind EditKind, raw, hash string) error {
		_, err := Prepare(b.opts, EditIn{Kind: kind, Raw: raw, BaseHash: hash})
		return err
	}
	h := b.hash()
	for _, c := range []struct {
		kind      EditKind
		raw, hash string
		reason    EditReason
		text      string
	}{
		{EditSet, "{ nonsense", "", EditHashNeeded, "config base hash required; re-run config.get and retry"},
		{EditSet, "{ nonsense", "0", EditConflict, "config changed since last load; re-run config.get and retry"},
		{EditSet, "{ nonsense", h, EditSyntax, "SyntaxError: JSON5: invalid end of input at 1:11"},
		{EditApply, "{ a: ] }", h, EditSyntax, "SyntaxError: JSON5: invalid character ']' at 1:6"},
		{EditPatch, "[1]", h, EditNoObject, "config.patch raw must be an object"},
		{EditSet, "{ unknownTop: 1 }", h, EditInvalid, "invalid config"},
		{EditSet, "[1]", h, EditInvalid, "invalid config"},
		{EditSet, "1", h, EditInvalid, "invalid config"},
		{EditSet, "{hooks:{token:'__OPENCLAW_REDACTED__'},unknownTop:1}", h, EditSentinel, `Sentinel value "__OPENCLAW_REDACTED__" in key hooks.token is not valid as real data`},
		{EditPatch, "{gateway:{port:'x'}}", h, EditInvalid, "invalid config"},
	} {
		err := try(c.kind, c.raw, c.hash)
		var e *EditError
		if !errors.As(err, &e) || e.Reason != c.reason || e.Text != c.text {
			t.Errorf("%s: %v", c.raw, err)
		}
		if c.raw == "{ unknownTop: 1 }" {
			if d := cmp.Diff([]Issue{{Message: `Unrecognized key: "unknownTop"`}}, e.Issues); d != "" {
				t.Error(d)
			}
		}
	}
	write(t, b.path, "{ broken")
	var e *EditError
	if err := try(EditPatch, "{", b.hash()); !errors.As(err, &e) || e.Text != "invalid config; fix before patching" {
		t.Errorf("%v", err)
	}
	if _, err := b.try(EditSet, "{gateway:{port:7}}"); err != nil {
		t.Errorf("a broken file cannot be replaced: %v", err)
	}
	if err := os.Remove(b.path); err != nil {
		t.Fatal(err)
	}
	if err := try(EditSet, "{}", ""); err != nil {
		t.Errorf("no file: %v", err)
	}
}
