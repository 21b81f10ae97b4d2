package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/config/json5"
)

func TestEditKeepsIncludes(t *testing.T) {
	b := newBench(t, "// main\n{\n  $include: './base.json', // the rest\n  logging: { level: 'info' },\n  gateway: { $include: ['gw.json'], port: 7 },\n"+
		"  commands: {native: 'auto', nativeSkills: 'auto', restart: true, ownerDisplay: 'raw'},\n}\n")
	dir := filepath.Dir(b.path)
	write(t, filepath.Join(dir, "base.json"), "{agents:{list:[{id:'a'}]},ui:{seamColor:'00ff00'},logging:{file:'/x.log'}}")
	write(t, filepath.Join(dir, "gw.json"), "{bind:'loopback',auth:{mode:'token',token:'in-the-include'}}")
	original, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Look(b.opts)
	if err != nil || !v.Valid {
		t.Fatal(err, v.Issues)
	}
	e := b.edit(EditSet, json5.Format(v.Config))
	if d := cmp.Diff(string(original), b.saved()); d != "" || e.Flattened || len(e.Changed) > 0 {
		t.Fatalf("%s %+v", d, e.Changed)
	}
	e = b.edit(EditPatch, "{ui:{seamColor:'ff0000'},agents:{list:[{id:'b'}]},gateway:{auth:{token:'__OPENCLAW_REDACTED__'},port:8}}")
	text := b.saved()
	for _, part := range []string{"$include: './base.json', // the rest", "$include: ['gw.json']", "ff0000", "id: 'b'", "port: 8", "// main"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %s in\n%s", part, text)
		}
	}
	if strings.Contains(text, "id: 'a'") || strings.Contains(text, "in-the-include") || e.Flattened {
		t.Errorf("%s", text)
	}
	c, err := Load(b.opts)
	if err != nil || len(c.AgentIDs()) != 2 || c.Gateway.Port != 8 || c.Gateway.Auth.Token.Reveal() != "in-the-include" {
		t.Fatalf("%v %v", c.AgentIDs(), err)
	}
	// What an included file says cannot be taken away beside it: then it becomes part of the file.
	e = b.edit(EditPatch, "{ui:null}")
	if !e.Flattened || strings.Contains(b.saved(), "$include") || !strings.Contains(b.saved(), "in-the-include") {
		t.Errorf("%v\n%s", e.Flattened, b.saved())
	}
	if c, err = Load(b.opts); err != nil || c.Section("ui") != nil || c.Gateway.Auth.Token.Reveal() != "in-the-include" {
		t.Error(err)
	}
}

func TestEditText(t *testing.T) {
	b := newBench(t, "{gateway:{auth:{mode:'token',token:'${T}'}},hooks:{token:'plain-secret'}}", "T", "value")
	raw := "// by hand\n{\n  gateway: {auth: {mode: 'token', token: '${T}'}}, // door\n  hooks: {token: '__OPENCLAW_REDACTED__'},\n}\n"
	e := b.edit(EditText, raw)
	if d := cmp.Diff(strings.Replace(raw, "__OPENCLAW_REDACTED__", "plain-secret", 1), b.saved()); d != "" {
		t.Fatal(d)
	}
	if strings.Contains(json5.Format(e.View), "plain-secret") || strings.Contains(json5.Format(e.View), "value") {
		t.Error("the view shows a secret")
	}
	var refused *EditError
	if _, err := b.try(EditText, "{gateway:{port:'x'}}"); !errors.As(err, &refused) || refused.Issues[0].Line != 1 {
		t.Errorf("%v", err)
	}
	if _, err := b.try(EditText, "{$include:'nope.json'}"); !errors.As(err, &refused) || !strings.Contains(refused.Issues[0].Message, "not found") {
		t.Errorf("%v", err)
	}
}

func TestEditWithCommentsOfItsOwn(t *testing.T) {
	b := newBench(t, "{logging:{level:'info'}, // old\n}", "T", "x")
	b.edit(EditSet, "// new\n{ logging: { level: 'debug' }, // mine\n commands: {native:'auto',nativeSkills:'auto',restart:true,ownerDisplay:'raw'} }")
	if got := b.saved(); !strings.Contains(got, "// new") || !strings.Contains(got, "// mine") || strings.Contains(got, "// old") {
		t.Error(got)
	}
}

func TestStampMovesOnce(t *testing.T) {
	b := newBench(t, "{gateway:{port:5},logging:{level:'info'}}")
	keys := func() string {
		v, err := Look(b.opts)
		if err != nil || !v.Valid {
			t.Fatal(err, v.Issues)
		}
		var out []string
		for _, m := range v.Parsed.Members {
			out = append(out, m.Key)
		}
		return strings.Join(out, " ")
	}
	if d := cmp.Diff("gateway logging", keys()); d != "" {
		t.Error(d)
	}
	b.edit(EditPatch, "{ui:{seamColor:'00ff00'}}")
	if d := cmp.Diff("logging ui commands gateway meta", keys()); d != "" {
		t.Error(d)
	}
	b.edit(EditPatch, "{ui:null}")
	if d := cmp.Diff("meta logging commands gateway", keys()); d != "" {
		t.Error(d)
	}
	b.edit(EditPatch, "{gateway:{port:6}}")
	if d := cmp.Diff("meta logging commands gateway", keys()); d != "" {
		t.Error(d)
	}
}

func TestPatchSemantics(t *testing.T) {
	for _, c := range []struct{ base, patch, want string }{
		{"{a:1,b:{c:1,d:2}}", "{a:null,b:{c:3},e:{f:null,g:1}}", "{b:{c:3,d:2},e:{g:1}}"},
		{"{l:[{id:'a',v:1,w:1},{id:'b'}]}", "{l:[{id:'b',v:2},{id:'a',v:null},{id:'c'}]}", "{l:[{id:'a',w:1},{id:'b',v:2},{id:'c'}]}"},
		{"{l:[{id:'a'},{x:1}]}", "{l:[{id:'c'}]}", "{l:[{id:'c'}]}"},
		{"{l:[1,2]}", "{l:[3]}", "{l:[3]}"},
		{"{l:[]}", "{l:[{id:'a'}]}", "{l:[{id:'a'}]}"},
		{"{l:[{id:'a'}]}", "{l:[{no:1},{id:'a',v:1}]}", "{l:[{id:'a',v:1},{no:1}]}"},
		{"{a:{b:1}}", "{a:[1]}", "{a:[1]}"},
		{"{a:1}", "{a:{b:null}}", "{a:{}}"},
		{"{}", "{a:null}", "{}"},
	} {
		parse := func(s string) *json5.Node {
			n, err := json5.Parse([]byte(s))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		base := parse(c.base)
		if got := mergePatch(base, parse(c.patch)); !json5.Equal(got, parse(c.want)) || !json5.Equal(base, parse(c.base)) {
			t.Errorf("%s with %s: %s", c.base, c.patch, json5.Format(got))
		}
	}
}

func TestDefaultsStayOutOfTheFile(t *testing.T) {
	b := newBench(t, "{logging:{level:'info'}}")
	v, err := Look(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	b.edit(EditSet, json5.Format(v.Config))
	for _, key := range []string{"maxConcurrent", "ackReactionScope", "redactSensitive", "subagents"} {
		if strings.Contains(b.saved(), key) {
			t.Errorf("%s is in the file: %s", key, b.saved())
		}
	}
	b.edit(EditPatch, "{agents:{defaults:{maxConcurrent:9}}}")
	if !strings.Contains(b.saved(), "maxConcurrent: 9") {
		t.Error(b.saved())
	}
}

func TestShownDefaults(t *testing.T) {
	b := newBench(t, `{session:{mainKey:'x'},talk:{voiceId:'v',apiKey:'k'},agents:{defaults:{models:{'openai/gpt-5.2':{},'x/y':{}}}},
		models:{providers:{anthropic:{baseUrl:'u',models:[{id:'a',name:'A',contextWindow:100}]}}},channels:{telegram:{botToken:'b'}}}`)
	v, err := Look(b.opts)
	if err != nil || !v.Valid {
		t.Fatal(err, v.Issues)
	}
	want, err := json5.Parse([]byte(`{session:{mainKey:'main'},
		talk:{provider:'elevenlabs',providers:{elevenlabs:{voiceId:'v',apiKey:'__OPENCLAW_REDACTED__'}},voiceId:'v',apiKey:'__OPENCLAW_REDACTED__'},
		agents:{defaults:{models:{'openai/gpt-5.2':{alias:'gpt'},'x/y':{}},maxConcurrent:4,subagents:{maxConcurrent:8}}},
		models:{providers:{anthropic:{baseUrl:'u',api:'anthropic-messages',models:[{id:'a',name:'A',api:'anthropic-messages',contextWindow:100,
			reasoning:false,input:['text'],cost:{input:0,output:0,cacheRead:0,cacheWrite:0},maxTokens:100}]}}},
		channels:{telegram:{botToken:'__OPENCLAW_REDACTED__',dmPolicy:'pairing',groupPolicy:'allowlist'}},
		messages:{ackReactionScope:'group-mentions'},commands:{native:'auto',nativeSkills:'auto',restart:true,ownerDisplay:'raw'}}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.Value(), v.Config.Value()); d != "" {
		t.Error(d)
	}
	// Of all that only what the description itself shows gets into the file.
	b.edit(EditSet, json5.Format(v.Config))
	for _, part := range []string{"elevenlabs", "contextWindow: 100,\n", "alias", "maxTokens"} {
		if strings.Contains(b.saved(), part) {
			t.Errorf("%s is in the file: %s", part, b.saved())
		}
	}
	if !strings.Contains(b.saved(), "dmPolicy: 'pairing'") {
		t.Error(b.saved())
	}
}

// TestHostileIncludes names files that must not be read, or not be read on.
func TestHostileIncludes(t *testing.T) {
	b := newBench(t, "{}")
	dir := filepath.Dir(b.path)
	write(t, filepath.Join(dir, "..", "outside.json"), "{gateway:{port:1}}")
	write(t, filepath.Join(dir, "loop.json"), "{$include:'loop.json'}")
	write(t, filepath.Join(dir, "ping.json"), "{$include:'pong.json'}")
	write(t, filepath.Join(dir, "pong.json"), "{$include:'ping.json'}")
	write(t, filepath.Join(dir, "bomb.json"), "{"+strings.Repeat("a:[0,0,0,0,0,0,0,0,0,0],", 2)+"$include:["+strings.Repeat("'leaf.json',", 300)+"]}")
	write(t, filepath.Join(dir, "leaf.json"), "{}")
	huge, err := os.Create(filepath.Join(dir, "huge.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(huge.Truncate(maxIncludeBytes+1), huge.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	names := []string{"../outside.json", "loop.json", "ping.json", "bomb.json", "huge.json", "folder.json", "nope.json", filepath.Join(dir, "..", "outside.json")}
	if runtime.GOOS != "windows" {
		if err := os.Symlink(filepath.Join(dir, "..", "outside.json"), filepath.Join(dir, "link.json")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("round.json", filepath.Join(dir, "round.json")); err != nil {
			t.Fatal(err)
		}
		pipe := filepath.Join(dir, "pipe.json")
		if err := mkfifo(pipe); err != nil {
			t.Fatal(err)
		}
		names = append(names, "link.json", "round.json", "pipe.json")
	}
	for _, name := range names {
		write(t, b.path, "{$include:'"+filepath.ToSlash(name)+"'}")
		_, err := Load(b.opts)
		var inv *Invalid
		if !errors.As(err, &inv) || !strings.Contains(err.Error(), "$include") {
			t.Errorf("%s: %v", name, err)
		}
		if v, err := Look(b.opts); err != nil || v.Valid || v.Raw != nil {
			t.Errorf("%s: %v %v", name, v.Valid, err)
		}
		// Such a file can still be replaced.
		if _, err := b.try(EditSet, "{gateway:{port:5}}"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRedactionRoundTrip sends back what config.get shows: nothing of the file may change but the stamp.
func FuzzRedactionRoundTrip(f *testing.F) {
	for _, s := range []string{
		commented, "{}", "{env:{K:'secret',vars:{T:'${A}'}}}", "{gateway:{auth:{token:{source:'env',id:'A'}}},hooks:{token:'x',mappings:[{sessionKey:'k'}]}}",
		"{models:{providers:{x:{baseUrl:'u',apiKey:'$${A}',headers:{a:'b'},models:[]}}}}", "{channels:{slack:{botToken:'a-${A}',accounts:{b:{botToken:'c'}}}}}",
		"{skills:{entries:{a:{apiKey:'k',config:{token:5,tokens:['a','b']}}}},logging:{}}", "{plugins:{entries:{p:{config:{password:['',0,null,{x:'y'}]}}}}}",
		"{tools:{web:{search:{apiKey:'__OPENCLAW_REDACTED__'}}}}",
	} {
		f.Add(s)
	}
	home := realDir(f)
	path := filepath.Join(home, "config.json")
	opts := Options{Path: path, Env: vars{"HOME": home, "A": "value-of-a", "TOKEN": "value"}.get, Unresolved: true}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := Look(opts)
		if err != nil || !v.Valid || v.Raw == nil || strings.Contains(text, Sentinel) {
			return
		}
		for _, raw := range []string{*v.Raw, json5.Format(v.Config)} {
			e, err := Prepare(opts, EditIn{Kind: EditSet, Raw: raw, BaseHash: v.Hash})
			if err != nil {
				t.Fatalf("%s: %s: %v", text, raw, err)
			}
			before, err := json5.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			after, err := json5.Parse(e.Text)
			if err != nil {
				t.Fatal(err)
			}
			// The defaults of the description get into the file.
			for _, c := range e.Changed {
				if c.Old != nil {
					t.Fatalf("%s: %s changed: %s", text, c.Path, e.Text)
				}
			}
			if len(e.Changed) == 0 && !json5.Equal(before, after) {
				t.Fatalf("%s became %s", text, e.Text)
			}
			if strings.Contains(string(e.Text), Sentinel) {
				t.Fatalf("%s became %s", text, e.Text)
			}
		}
	})
}

// FuzzPatch patches: what is refused changes nothing, and what is taken can be read back.
func FuzzPatch(f *testing.F) {
	for _, s := range []string{"{gateway:{port:5}}", "{gateway:null}", "{agents:{list:[{id:'a'},{id:'b',name:null}]}}", "{telegram:{}}", "{$include:'x'}", "{meta:{}}", "{ui:{seamColor:'${A}'}}"} {
		f.Add(commented, s)
	}
	home := realDir(f)
	path := filepath.Join(home, "config.json")
	opts := Options{Path: path, Env: vars{"HOME": home, "TOKEN": "value", "A": "00ff00"}.get}
	f.Fuzz(func(t *testing.T, text, patch string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := Look(opts)
		if err != nil {
			return
		}
		e, err := Prepare(opts, EditIn{Kind: EditPatch, Raw: patch, BaseHash: v.Hash, Version: "1"})
		if err != nil {
			_ = err.Error()
			return
		}
		if err := os.WriteFile(path, e.Text, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Look(opts)
		if err != nil || !again.Valid || again.Hash != e.Hash {
			t.Fatalf("%q with %q became %q: %v %v", text, patch, e.Text, again.Issues, err)
		}
	})
}

// TestMadeTokenIsNoChange: the token that a start has written is in force, and an edit of something else neither takes
// a restart nor writes defaults down where the client is none of the original's.
func TestMadeTokenIsNoChange(t *testing.T) {
	home := realDir(t)
	opts := Options{Path: filepath.Join(home, "config.json"), StateDir: home, Env: vars{"HOME": home}.get}
	c, err := Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	if made, err := EnsureToken(c); !made || err != nil {
		t.Fatal(made, err)
	}
	again, err := Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	if paths := Changed(c, again); len(paths) > 0 {
		t.Errorf("what was written counts as changed: %v", paths)
	}
	for _, bare := range []bool{true, false} {
		e, err := Prepare(opts, EditIn{Kind: EditPatch, Raw: "{session:{idleMinutes:3}}", BaseHash: again.Hash, Bare: bare})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(e.Text), "ownerDisplay"); got == bare {
			t.Errorf("bare %v: defaults in the file %v:\n%s", bare, got, e.Text)
		}
		if paths := Changed(c, e.Config); !slices.Equal(paths, []string{"session.idleMinutes"}) {
			t.Errorf("bare %v: %v", bare, paths)
		}
	}
}
