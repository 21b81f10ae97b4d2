package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// recorder keeps what is told of changes; it fails while fail is set.
type recorder struct {
	mu   sync.Mutex
	rows []string
	fail error
}

func (r *recorder) record(_ context.Context, by, before, after string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.rows = append(r.rows, by+"|"+short(before)+"|"+short(after))
	return nil
}

func short(hash string) string {
	if len(hash) < 4 {
		return hash
	}
	return hash[:4]
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.rows, " ")
}

const (
	denyRM  = `{version: 1, rules: [{name: "no rm", effect: "deny", argv: ["rm", "**"]}]} // a`
	allowRM = `{version: 1, rules: [{name: "rm", effect: "allow", argv: ["rm", "**"]}]} // b`
	wrong   = `{version: 1, rules: [{name: "no rm"}]}`
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *RulesFile) effect(argv ...string) string {
	r := f.Decide(Query{Argv: argv, Host: "node"})
	return string(r.Effect) + " " + r.Rule
}

func TestRulesFile(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "policy.json")
	rec := &recorder{}
	f := OpenRules(path, RulesOptions{Record: rec.record})
	expect := func(what, want string) {
		t.Helper()
		if got := f.effect("rm", "x"); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("no file", " ")
	if s := f.State(); s.Hash != "" || s.Fault != "" || s.Closed {
		t.Errorf("no file: %+v", s)
	}

	write(t, path, denyRM)
	f.look(ctx)
	expect("a file", "deny no rm")
	h1 := f.State().Hash

	// A wrong one leaves what was, and says so.
	write(t, path, wrong)
	f.look(ctx)
	expect("a wrong file", "deny no rm")
	if s := f.State(); s.Hash != h1 || s.Closed || !strings.Contains(s.Fault, path+`:1: rule "no rm" needs an effect`) || string(s.Text) != denyRM {
		t.Errorf("a wrong file: %+v", s)
	}
	// The same text again is no change.
	write(t, path, denyRM)
	f.look(ctx)
	if s := f.State(); s.Fault != "" || s.Hash != h1 {
		t.Errorf("repaired: %+v", s)
	}
	if rec.all() != "||"+short(h1) {
		t.Errorf("recorded %s", rec.all())
	}

	// A change of the same size within the grain of the clock is seen.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Replace(denyRM, "no rm", "no RM", 1))
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	f.look(ctx)
	expect("the same time and size", "deny no RM")

	// What cannot be recorded does not happen, and is tried again.
	rec.fail = errors.New("disk full")
	write(t, path, allowRM)
	f.look(ctx)
	expect("not recorded", "deny no RM")
	rec.fail = nil
	f.look(ctx)
	expect("recorded later", "allow rm")

	// Editors take a file away for a moment.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.look(ctx)
	expect("gone for a moment", "allow rm")
	f.look(ctx)
	expect("gone", " ")
	if rec.fail = nil; !strings.HasSuffix(rec.all(), "|") {
		t.Errorf("recorded %s", rec.all())
	}

	// A rename onto it, and a link to another place.
	other := filepath.Join(t.TempDir(), "dotfiles.json")
	write(t, other, denyRM)
	if err := os.Symlink(other, path); err == nil { // not everywhere
		f.look(ctx)
		expect("a link", "deny no rm")
		if err := f.Set(ctx, "me", []byte(allowRM), f.State().Hash); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("the link is gone: %v %v", info, err)
		}
		expect("set through a link", "allow rm")
	}
	tmp := path + ".new"
	write(t, tmp, denyRM)
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
	f.look(ctx)
	expect("renamed onto", "deny no rm")

	// A directory in its place cannot be read: the rules stay.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f.look(ctx)
	expect("a directory", "deny no rm")
	if f.State().Fault == "" {
		t.Error("a directory is no fault")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, denyRM)
	f.look(ctx)
	if s := f.State(); s.Fault != "" {
		t.Errorf("the fault stays: %s", s.Fault)
	}
}

// A daemon that starts with a wrong file lets nothing run, says why, and follows the repair.
func TestRulesFailClosed(t *testing.T) {
	for name, text := range map[string]string{
		"wrong": wrong, "no JSON5": "{", "newer": "{version: 2}", "large": strings.Repeat(" ", MaxRules+1), "binary": "\x00\xff",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.json")
			write(t, path, text)
			rec := &recorder{}
			f := OpenRules(path, RulesOptions{Record: rec.record})
			for _, argv := range [][]string{{"true"}, {"sh", "-c", "true"}, nil} {
				r := f.Decide(Query{Argv: argv})
				if r.Effect != EffectDeny || r.Rule != "policy.json" || !strings.HasPrefix(r.Where, "policy.json:") || !strings.Contains(r.Reason, "nothing may run") {
					t.Errorf("%v: %+v", argv, r)
				}
			}
			if s := f.State(); !s.Closed || s.Fault == "" {
				t.Errorf("%+v", s)
			}
			write(t, path, allowRM)
			f.look(context.Background())
			if got := f.effect("rm"); got != "allow rm" || f.State().Closed {
				t.Errorf("repaired: %q, %+v", got, f.State())
			}
			if rec.all() == "" {
				t.Error("the repair is not recorded")
			}
		})
	}
}

func TestSetRules(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "policy.json")
	rec := &recorder{}
	f := OpenRules(path, RulesOptions{Record: rec.record})
	code := func(err error) string {
		if e, ok := errs.As(err); ok {
			return e.Code
		}
		return fmt.Sprint(err)
	}
	set := func(text, base, want string) {
		t.Helper()
		before, _ := os.ReadFile(path)
		if got := code(f.Set(ctx, "me", []byte(text), base)); got != want {
			t.Errorf("%.20s: %s, want %s", text, got, want)
		}
		if after, _ := os.ReadFile(path); want != "<nil>" && string(after) != string(before) {
			t.Errorf("%.20s: refused, and the file changed", text)
		}
	}
	set(denyRM, "0000", ErrRulesChanged.Code)
	set(wrong, "", ErrRules.Code)
	set(denyRM, "", "<nil>")
	if got, _ := os.ReadFile(path); string(got) != denyRM {
		t.Errorf("the file is %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("%v %v", info.Mode(), err)
	}
	hash := f.State().Hash
	set(allowRM, "", ErrRulesHash.Code)
	set(allowRM, "0000", ErrRulesChanged.Code)
	rec.fail = errors.New("disk full")
	set(allowRM, hash, "disk full")
	rec.fail = nil
	write(t, path, denyRM+"\n") // somebody else, not looked at yet
	set(allowRM, hash, ErrRulesChanged.Code)
	text, hash, err := f.FileText()
	if err != nil || string(text) != denyRM+"\n" {
		t.Fatalf("%q %v", text, err)
	}
	set(allowRM, hash, "<nil>")
	if f.effect("rm") != "allow rm" {
		t.Error("not in force")
	}
	f.look(ctx) // finds nothing new
	if n := strings.Count(rec.all(), "me|"); n != 2 || len(rec.rows) != 2 {
		t.Errorf("recorded %s", rec.all())
	}
	if _, err := os.Stat(path + ".tmp"); !os.IsNotExist(err) {
		t.Error("a temporary file is left")
	}
}

// Decisions while the rules change are those of one text or the other.
func TestRulesChangeAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	text := func(effect string) string {
		var b strings.Builder
		b.WriteString("{version: 1, rules: [")
		for i := range 20 {
			fmt.Fprintf(&b, "{name: %q, effect: %q, argv: [\"c%d\"]},", fmt.Sprintf("%s %d", effect, i), effect, i)
		}
		return b.String() + "]}"
	}
	write(t, path, text("allow"))
	f := OpenRules(path, RulesOptions{})
	hashes := map[string]string{f.State().Hash: "allow"}
	r, err := ParseRules("p", []byte(text("deny")))
	if err != nil {
		t.Fatal(err)
	}
	hashes[r.Hash()] = "deny"
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				got := f.Decide(Query{Argv: []string{fmt.Sprintf("c%d", n%20)}})
				if string(got.Effect) != hashes[got.Rules] || got.Effect == Abstain {
					t.Errorf("%+v", got)
					return
				}
			}
		})
	}
	for effect := "deny"; ctx.Err() == nil; {
		base := f.State().Hash
		if err := f.Set(ctx, "me", []byte(text(effect)), base); err != nil {
			t.Errorf("%v", err)
			break
		}
		if effect == "deny" {
			effect = "allow"
		} else {
			effect = "deny"
		}
	}
	wg.Wait()
}
