package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

func mustRules(t testing.TB, text string) *Rules {
	t.Helper()
	r, err := ParseRules("policy.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sh(text string) []string { return []string{"sh", "-c", text} }

const someRules = `{
  version: 1,
  rules: [
    {name: "git read", effect: "allow", argv: [["git", "status"], ["git", "log", "**"], ["git", "diff", "*"]]},
    {name: "srv", effect: "allow", argv: ["make", "**"], cwd: "/srv/**"},
    {name: "deploy", effect: "ask", argv: ["make", "deploy*"], timeout: "10m", onTimeout: "deny", approvers: ["device:a", "device:b"], quorum: 2, excludeRequester: true},
    {name: "echo", effect: "allow", argv: [["echo", "**"], ["cd", "**"], ["/usr/bin/tool", "**"]]},
    {name: "spelled", effect: "allow", argv: ["timeout", "5", "git", "fetch"]},
    {name: "no rm", effect: "deny", argv: [["rm", "**"], ["/opt/old/bin/tool", "**"]]},
    {name: "ask curl", effect: "ask", argv: ["curl", "**"]},
  ],
}`

func TestDecide(t *testing.T) {
	r := mustRules(t, someRules)
	for _, c := range []struct {
		what string
		argv []string
		cwd  string
		want Effect
		rule string
	}{
		{"words", []string{"git", "status"}, "", "allow", "git read"},
		{"one more word", []string{"git", "status", "-s"}, "", "", ""},
		{"any further", []string{"git", "log", "-p", "x"}, "", "allow", "git read"},
		{"none further", []string{"git", "log"}, "", "allow", "git read"},
		{"star is one word", []string{"git", "diff"}, "", "", ""},
		{"star is one word", []string{"git", "diff", "a b/c"}, "", "allow", "git read"},
		{"a path is another program", []string{"/tmp/git", "status"}, "", "", ""},
		{"a path is another program", []string{"./git", "status"}, "", "", ""},
		{"the path of the system", []string{"/usr/bin/git", "status"}, "", "allow", "git read"},
		{"under the path of the system", []string{"/usr/bin/x/git", "status"}, "", "", ""},
		{"another case", []string{"GIT", "status"}, "", "", ""},
		{"a path", []string{"/usr/bin/tool"}, "", "allow", "echo"},
		{"through ..", []string{"/usr/bin/../bin/tool"}, "", "", ""},
		{"through .. under a star", []string{"/usr/bin/tool/../../x"}, "", "", ""},
		{"in its directory", []string{"make", "all"}, "/srv/app", "allow", "srv"},
		{"the directory itself", []string{"make"}, "/srv", "allow", "srv"},
		{"first match decides", []string{"make", "deploy"}, "/srv/app", "allow", "srv"},
		{"in another directory", []string{"make", "all"}, "/tmp", "", ""},
		{"a sibling", []string{"make", "all"}, "/srvx", "", ""},
		{"no directory", []string{"make", "all"}, "", "", ""},
		{"relative directory", []string{"make", "all"}, "srv/app", "", ""},
		{"through ..", []string{"make", "all"}, "/srv/../etc", "", ""},
		{"later rule", []string{"make", "deploy-all"}, "/tmp", "ask", "deploy"},
		{"a wrapper spelled out", []string{"timeout", "5", "git", "fetch"}, "", "allow", "spelled"},
		{"a wrapper with more", []string{"timeout", "5", "git", "fetch", "x"}, "", "", ""},
		{"no wrapper for allow", []string{"env", "git", "status"}, "", "", ""},
		{"no wrapper for allow", []string{"nice", "git", "status"}, "", "", ""},

		{"deny", []string{"rm", "-rf", "/"}, "", "deny", "no rm"},
		{"deny by any path", []string{"/bin/rm", "x"}, "", "deny", "no rm"},
		{"deny by any path", []string{"../../bin/rm", "x"}, "", "deny", "no rm"},
		{"deny in any case", []string{"RM", "x"}, "", "deny", "no rm"},
		{"deny a Windows name", []string{`C:\x\rm.exe`, "x"}, "", "deny", "no rm"},
		{"deny through sudo", []string{"sudo", "-u", "root", "rm", "x"}, "", "deny", "no rm"},
		{"deny through env", []string{"env", "-i", "A=b", "rm", "x"}, "", "deny", "no rm"},
		{"deny through env -S", []string{"env", "-S", "rm x"}, "", "deny", "no rm"},
		{"deny through env -S", []string{"env", "-Srm x"}, "", "deny", "no rm"},
		{"deny through env -S", []string{"env", "--split-string=rm x"}, "", "deny", "no rm"},
		{"deny through four wrappers", []string{"env", "nice", "timeout", "5", "nohup", "stdbuf", "-oL", "rm", "x"}, "", "deny", "no rm"},
		{"deny through busybox", []string{"busybox", "rm", "x"}, "", "deny", "no rm"},
		{"deny through busybox sh", []string{"busybox", "sh", "-c", "rm x"}, "", "deny", "no rm"},
		{"deny through xargs", []string{"xargs", "-0", "rm"}, "", "deny", "no rm"},
		{"deny through find", []string{"find", ".", "-exec", "rm", "{}", ";"}, "", "deny", "no rm"},
		{"deny the old tool", []string{"/opt/old/bin/tool"}, "", "deny", "no rm"},
		{"deny the old tool around", []string{"/opt/old/x/../bin/tool"}, "", "deny", "no rm"},
		{"deny what may be the old tool", []string{"tool"}, "", "deny", "no rm"},

		{"a line", sh("git status && git log -1"), "", "allow", "git read"},
		{"a line of two rules", sh("echo hi; git status | echo x"), "", "allow", "echo"},
		{"a part that no rule allows", sh("git status && id"), "", "", ""},
		{"a part that is asked", sh("git status; curl http://x"), "", "ask", "ask curl"},
		{"a part that is denied", sh("git status; rm x"), "", "deny", "no rm"},
		{"a substitution", sh("echo $(git status)"), "", "", ""},
		{"a denied substitution", sh("echo $(rm x)"), "", "deny", "no rm"},
		{"a denied backtick", sh("echo `rm x`"), "", "deny", "no rm"},
		{"a denied function", sh("f() { rm x; }; f"), "", "deny", "no rm"},
		{"a denied condition", sh("if true; then rm x; fi"), "", "deny", "no rm"},
		{"a denied assignment prefix", sh("A=1 rm x"), "", "deny", "no rm"},
		{"a denied escape", sh(`r\m x`), "", "deny", "no rm"},
		{"a denied quote", sh(`"r"'m' x`), "", "deny", "no rm"},
		{"a denied ANSI quote", sh(`$'\x72\x6d' x`), "", "deny", "no rm"},
		{"a denied octal quote", sh(`$'\162m' x`), "", "deny", "no rm"},
		{"a denied empty expansion", sh(`r${x}m y`), "", "deny", "no rm"},
		{"a denied glob", sh(`/bin/r? y`), "", "deny", "no rm"},
		{"a denied brace", sh(`{rm,x}`), "", "deny", "no rm"},
		{"a denied heredoc", sh("sh <<EOF\nrm x\nEOF"), "", "deny", "no rm"},
		{"a denied print into a shell", sh("echo 'rm x' | sh"), "", "deny", "no rm"},
		{"printing is no running", sh("git log --grep 'rm x'"), "", "allow", "git read"},
		{"a denied eval", sh(`eval "rm x"`), "", "deny", "no rm"},
		{"a denied trap", sh(`trap 'rm x' EXIT`), "", "deny", "no rm"},
		{"a denied line that cannot be read", sh("((( rm x"), "", "deny", "no rm"},
		{"a denied shell in a shell", sh("bash -c 'sh -c \"rm x\"'"), "", "deny", "no rm"},
		{"a denied login shell", []string{"/bin/bash", "-lc", "rm x"}, "", "deny", "no rm"},
		{"a denied long shell", []string{"bash", "--norc", "-c", "rm x"}, "", "deny", "no rm"},
		{"a denied cmd", []string{"cmd.exe", "/d", "/s", "/c", "echo a&rm x"}, "", "deny", "no rm"},
		{"a denied PowerShell", []string{"pwsh", "-Command", "echo a; rm x"}, "", "deny", "no rm"},
		{"a variable", sh("echo $HOME"), "", "", ""},
		{"a pattern of files", sh("echo *"), "", "", ""},
		{"a home", sh("echo ~"), "", "", ""},
		{"a redirection", sh("echo x > /etc/passwd"), "", "", ""},
		{"a background", sh("git status &"), "", "", ""},
		{"an assignment", sh("GIT_PAGER=evil git log"), "", "", ""},
		{"an alias", sh("alias git=id; git status"), "", "", ""},
		{"a path cached", sh("hash -p /tmp/evil git; git status"), "", "", ""},
		{"quotes", sh(`git log --format="%h %s" 'a b'`), "", "allow", "git read"},
		{"a cd before", sh("cd /tmp && make all"), "/srv/app", "", ""},
		{"no cd before", sh("make all && cd /tmp"), "/srv/app", "allow", "srv"},
		{"another shell", []string{"fish", "-c", "git status"}, "", "", ""},
		{"a shell from elsewhere", []string{"/tmp/sh", "-c", "git status"}, "", "", ""},
		{"the system's shell", []string{"/bin/sh", "-lc", "git status"}, "", "allow", "git read"},
		{"a shell with more words", []string{"sh", "-c", "git status", "x"}, "", "", ""},
		{"a shell with an rc file", []string{"bash", "--rcfile", "/tmp/x", "-ic", "git status"}, "", "", ""},
		{"a control character", sh("git status\rrm x"), "", "", ""},
		{"an unseen character", sh("git status\u200b"), "", "", ""},
		{"nothing", nil, "", "", ""},
		{"empty", []string{""}, "", "", ""},
	} {
		got := r.Decide(Query{Argv: c.argv, Cwd: c.cwd, Host: "node"})
		if got.Effect != c.want || got.Rule != c.rule {
			_, steps := r.Explain(Query{Argv: c.argv, Cwd: c.cwd, Host: "node"})
			t.Errorf("%s: %q in %q: %q by %q (%s), want %q by %q\n%v", c.what, c.argv, c.cwd, got.Effect, got.Rule, got.Reason, c.want, c.rule, steps)
		}
		if got.Rules != r.Hash() {
			t.Errorf("%s: the ruling names the rules %q", c.what, got.Rules)
		}
		if got.Rule != "" && !strings.HasPrefix(got.Where, "policy.json:") {
			t.Errorf("%s: where is %q", c.what, got.Where)
		}
	}
	got := r.Decide(Query{Argv: []string{"make", "deploy"}})
	if got.Timeout != 10*time.Minute || got.OnTimeout != EffectDeny || got.Quorum != 2 || len(got.Approvers) != 2 || !got.ExcludeRequester || got.Where != "policy.json:6" {
		t.Errorf("terms of asking: %+v", got)
	}
}

// A rule that forbids fits what is not known: the directory, or the words that the run makes.
func TestForbidWhatIsNotKnown(t *testing.T) {
	r := mustRules(t, `{version: 1, rules: [
		{name: "d", effect: "deny", argv: ["chmod", "-R", "777", "**"], cwd: "/srv/**"},
		{name: "f", effect: "deny", argv: ["git", "push", "--force"]},
	]}`)
	for _, c := range []struct {
		argv []string
		cwd  string
		want Effect
	}{
		{[]string{"chmod", "-R", "777", "."}, "/srv/x", "deny"},
		{[]string{"chmod", "-R", "777", "."}, "/SRV/x", "deny"},
		{[]string{"chmod", "-R", "777", "."}, "", "deny"},
		{[]string{"chmod", "-R", "777", "."}, "/tmp/../srv", "deny"},
		{[]string{"chmod", "-R", "777", "."}, "/tmp", ""},
		{sh("cd /srv && chmod -R 777 ."), "/tmp", "deny"},
		{sh("chmod $X ."), "/srv", "deny"},
		{sh("chmod -R $X"), "/srv", "deny"},
		{sh("chmod +x $X"), "/srv", ""},
		{sh("git push $X"), "", "deny"},
		{sh("git push --force $X"), "", "deny"},
		{sh("git push origin $X"), "", ""},
		{sh("git push --f${X}"), "", "deny"},
		{sh("$X push --force"), "", ""},
	} {
		if got := r.Decide(Query{Argv: c.argv, Cwd: c.cwd}); got.Effect != c.want {
			t.Errorf("%q in %q: %q, want %q", c.argv, c.cwd, got.Effect, c.want)
		}
	}
}

func TestConditions(t *testing.T) {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	base := Query{Argv: []string{"x"}, AgentID: "a1", SessionKey: "agent:a1:main", NodeID: "n1", NodeName: "build-1", Host: "node", Cwd: "/w", At: at}
	for _, c := range []struct {
		rule string
		fits bool
	}{
		{`agent: "a1"`, true}, {`agent: "a*"`, true}, {`agent: ["b", "a1"]`, true}, {`agent: "b"`, false},
		{`session: "agent:a1:*"`, true}, {`session: "agent:a2:*"`, false},
		{`node: "n1"`, true}, {`node: "build-*"`, true}, {`node: "prod-*"`, false},
		{`host: "node"`, true}, {`host: "gateway"`, false},
		{`expires: "2026-03-04T12:00:01Z"`, true}, {`expires: "2026-03-04T12:00:00Z"`, false},
		{`during: {days: ["wed"], zone: "UTC"}`, true}, {`during: {days: ["mon-tue"], zone: "UTC"}`, false},
		{`during: [{days: ["mon"], zone: "UTC"}, {from: "11:00", to: "12:01", zone: "UTC"}]`, true},
		{`during: {from: "11:00", to: "12:00", zone: "UTC"}`, false},
	} {
		for _, effect := range []Effect{EffectAllow, EffectAsk, EffectDeny} {
			r := mustRules(t, `{version: 1, rules: [{name: "r", effect: "`+string(effect)+`", argv: ["x"], `+c.rule+`}]}`)
			if got := r.Decide(base).Effect == effect; got != c.fits {
				t.Errorf("%s %s: fits %v", effect, c.rule, got)
			}
		}
	}
}

func TestSettings(t *testing.T) {
	const rules = `rules: [{name: "ok", effect: "allow", argv: ["ok"]}, {name: "q", effect: "ask", argv: ["q"]}]`
	for _, c := range []struct {
		set, cmd string
		want     Effect
		rule     string
		timeout  Effect
	}{
		{``, "x", "", "", ""},
		{`defaults: {security: "deny"},`, "ok", "deny", "defaults.security", ""},
		{`defaults: {security: "allowlist"},`, "ok", "allow", "ok", ""},
		{`defaults: {security: "allowlist"},`, "x", "ask", "defaults.security", ""},
		{`defaults: {security: "allowlist", ask: "off"},`, "x", "deny", "defaults.security", ""},
		{`defaults: {security: "allowlist", ask: "off"},`, "q", "ask", "q", ""},
		{`defaults: {security: "allowlist", ask: "always"},`, "ok", "ask", "defaults.ask", ""},
		{`defaults: {ask: "always", fallback: "full"},`, "x", "ask", "defaults.ask", "allow"},
		{`defaults: {ask: "always", fallback: "allowlist"},`, "x", "ask", "defaults.ask", "deny"},
		{`defaults: {ask: "always", fallback: "allow-list"},`, "ok", "ask", "defaults.ask", "allow"},
		{`defaults: {fallback: "deny"},`, "q", "ask", "q", "deny"},
		{`defaults: {security: "full"},`, "x", "", "", ""},
		{`defaults: {security: "deny"}, agents: {main: {security: "full"}},`, "x", "", "", ""},
		{`defaults: {security: "deny"}, nodes: {n1: {security: "allowlist"}},`, "x", "ask", "nodes.n1.security", ""},
		{`defaults: {security: "full"}, nodes: {n1: {security: "allowlist", ask: "off"}}, agents: {main: {security: "full"}},`, "x", "deny", "nodes.n1.security", ""},
		{`nodes: {name: {security: "deny"}},`, "x", "deny", "nodes.name.security", ""},
		{`agents: {other: {security: "deny"}},`, "x", "", "", ""},
	} {
		r := mustRules(t, "{version: 1, "+c.set+rules+"}")
		got := r.Decide(Query{Argv: []string{c.cmd}, NodeID: "n1", NodeName: "name"})
		if got.Effect != c.want || got.Rule != c.rule || got.OnTimeout != c.timeout {
			t.Errorf("%s %s: %q by %q, on timeout %q; want %q by %q, %q", c.set, c.cmd, got.Effect, got.Rule, got.OnTimeout, c.want, c.rule, c.timeout)
		}
	}
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		window, at string
		in         bool
	}{
		{`days: ["fri"], from: "22:00", to: "06:00", zone: "UTC"`, "2026-03-06T23:00:00Z", true},
		{`days: ["fri"], from: "22:00", to: "06:00", zone: "UTC"`, "2026-03-07T05:59:59Z", true},
		{`days: ["fri"], from: "22:00", to: "06:00", zone: "UTC"`, "2026-03-07T06:00:00Z", false},
		{`days: ["fri"], from: "22:00", to: "06:00", zone: "UTC"`, "2026-03-06T05:00:00Z", false},
		{`days: ["sun"], from: "22:00", to: "06:00", zone: "UTC"`, "2026-03-09T01:00:00Z", true},
		{`days: ["fri-mon"], zone: "UTC"`, "2026-03-08T01:00:00Z", true},
		{`days: ["fri-mon"], zone: "UTC"`, "2026-03-10T01:00:00Z", false},
		{`from: "09:00", to: "24:00", zone: "UTC"`, "2026-03-10T23:59:59Z", true},
		{`from: "22:00", to: "00:00", zone: "UTC"`, "2026-03-10T23:59:59Z", true},
		{`from: "22:00", to: "00:00", zone: "UTC"`, "2026-03-10T00:00:00Z", false},
		// Clocks go from 02:00 to 03:00: what begins at 02:30 begins at 03:00.
		{`from: "02:30", to: "04:00", zone: "Europe/Berlin"`, "2026-03-29T00:59:59Z", false},
		{`from: "02:30", to: "04:00", zone: "Europe/Berlin"`, "2026-03-29T01:00:00Z", true},
		{`from: "02:00", to: "03:00", zone: "Europe/Berlin"`, "2026-03-29T01:00:00Z", false},
		// Clocks go from 03:00 back to 02:00: that hour comes twice.
		{`from: "02:00", to: "03:00", zone: "Europe/Berlin"`, "2026-10-25T00:30:00Z", true},
		{`from: "02:00", to: "03:00", zone: "Europe/Berlin"`, "2026-10-25T01:30:00Z", true},
		{`from: "02:00", to: "03:00", zone: "Europe/Berlin"`, "2026-10-25T02:00:00Z", false},
		{`days: ["mon"], zone: "Pacific/Auckland"`, "2026-03-08T12:00:00Z", true},
	} {
		r := mustRules(t, `{version: 1, rules: [{name: "r", effect: "allow", argv: ["x"], during: {`+c.window+`}}]}`)
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Decide(Query{Argv: []string{"x"}, At: at}).Effect == EffectAllow; got != c.in {
			t.Errorf("{%s} at %s: %v", c.window, c.at, got)
		}
	}
}

func TestWrongRules(t *testing.T) {
	rule := func(s string) string { return "{version: 1, rules: [\n{name: \"r\", effect: \"ask\", " + s + "}]}" }
	for _, c := range []struct{ text, want string }{
		{`{`, "policy.json:1: this is not JSON5"},
		{`[]`, "policy.json:1: the file must be one object"},
		{`{}`, "write version: 1"},
		{`{version: 2}`, "policy.json:1: version 2 is of a newer release"},
		{`{version: "1"}`, "write version: 1"},
		{"{version: 1,\n\nrule: []}", `policy.json:3: the file has no key "rule"; write "rules"`},
		{"{version: 1, defaults: {\nsecurity: 'on'}}", `policy.json:2: defaults.security must be one of`},
		{"{version: 1, version: 1}", `has "version" twice`},
		{"{version: 1, agents: {'*': {}}}", `must be one name`},
		{"{version: 1, rules: {}}", `rules must be a list`},
		{"{version: 1, rules: [1]}", `a rule must be an object`},
		{"{version: 1, rules: [{effect: 'ask'}]}", `a rule needs a name`},
		{"{version: 1, rules: [{name: 'x'}]}", `rule "x" needs an effect; write effect: "allow", "ask" or "deny"`},
		{"{version: 1, rules: [{name: 'x', effect: 'yes'}]}", `must be one of`},
		{"{version: 1, rules: [{name: 'x', effect: 'ask'},\n{name: 'x', effect: 'ask'}]}", `policy.json:2: the rule "x" is there already, at policy.json:1`},
		{"{version: 1, rules: [{name: 'agents.x', effect: 'ask'}]}", `would look like a setting`},
		{"{version: 1, rules: [{name: 'x', effect: 'deny', timeout: '1m'}]}", `only rules with effect "ask" have`},
		{rule(`time_out: "1m"`), `policy.json:2: a rule has no key "time_out"; write "timeout"`},
		{rule(`argv: "git log"`), `write a list of words`},
		{rule(`argv: []`), `write a list of words`},
		{rule(`argv: ["git log"]`), `write ["git", "log"]`},
		{rule(`argv: ["git", "**", "x"]`), `** may be the last word only`},
		{rule(`argv: ["git", "a**"]`), `inside a word write a single *`},
		{rule(`argv: ["./git"]`), `depends on where it runs`},
		{rule(`argv: ["~/bin/x"]`), `depends on where it runs`},
		{rule(`argv: ["/usr/../bin/x"]`), `goes through . or ..`},
		{rule(`argv: ["git", 1]`), `each word must be a text, not a number`},
		{rule(`cwd: "srv"`), `must be a full path`},
		{rule(`cwd: "/srv/../x"`), `goes through . or ..`},
		{rule(`cwd: "/srv/a**"`), `** must stand alone`},
		{rule(`agent: []`), `is empty and would fit nothing`},
		{rule(`host: "mac"`), `must be "node" or "gateway"`},
		{rule(`during: {days: ["monday"]}`), `"monday" is no day`},
		{rule(`during: {from: "25:00"}`), `must be a time of the day`},
		{rule(`during: {from: "9:00"}`), `must be a time of the day`},
		{rule(`during: {from: "09:60"}`), `must be a time of the day`},
		{rule(`during: {from: "09:00", to: "09:00"}`), `begins when it ends`},
		{rule(`during: {zone: "Mars"}`), `is no time zone`},
		{rule(`expires: "tomorrow"`), `must be a date with time and zone`},
		{rule(`timeout: 5`), `must be a time from "1s" to "7d"`},
		{rule(`timeout: "8d"`), `must be a time from`},
		{rule(`timeout: "-5m"`), `must be a time from`},
		{rule(`onTimeout: "ask"`), `must be one of`},
		{rule(`quorum: 0`), `must be a whole number`},
		{rule(`quorum: 1.5`), `must be a whole number`},
		{rule(`quorum: 3, approvers: ["a", "b"]`), `wants 3 approvers of 2`},
		{rule(`approvers: ["*"]`), `* stands for nobody`},
		{rule(`excludeRequester: "yes"`), `must be true or false`},
		{rule(`escalateAfter: "1m"`), `needs escalateAfter and escalateTo together`},
		{rule(`timeout: "1m", escalateAfter: "1m", escalateTo: ["a"]`), `make it shorter`},
		{`{version: 1, rules: [{name: "e", effect: "allow", argv: ["env", "**"]}]}`, `would allow whatever env is told to run`},
		{`{version: 1, rules: [{name: "e", effect: "allow", argv: ["/bin/bash", "*"]}]}`, `would allow whatever /bin/bash is told to run`},
		{"\xff", "not valid UTF-8"},
		{strings.Repeat(" ", MaxRules+1), "larger than 1 MiB"},
	} {
		_, err := ParseRules("/x/policy.json", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(c.want, "policy.json:", "/x/policy.json:")) && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s:\n got %v\nwant %s", c.text, err, c.want)
		}
		if errs.ClassOf(err) != errs.Invalid {
			t.Errorf("%.80s: class %v", c.text, errs.ClassOf(err))
		}
	}
}

// Every fault is told, in the order of the lines.
func TestEveryFaultIsTold(t *testing.T) {
	_, err := ParseRules("p", []byte("{version: 1,\nx: 1,\nrules: [\n{name: 'a', effect: 'b'},\n{name: 'c'}]}"))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Fatalf("%v", err)
	}
	for _, line := range []string{"p:2: ", "p:4: ", "p:5: "} {
		if !strings.Contains(err.Error(), line) {
			t.Errorf("no fault at %s:\n%v", line, err)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte(someRules), "git status && rm $x", "/srv")
	f.Add([]byte(`{version:1,rules:[{name:"a",effect:"deny",argv:["*a*b","**"]}]}`), "env -S 'x' {a,b}", `C:\x`)
	f.Fuzz(func(t *testing.T, text []byte, line, cwd string) {
		r, err := ParseRules("f", text)
		if err != nil {
			return
		}
		for _, argv := range [][]string{{"sh", "-c", line}, strings.Fields(line), {line}} {
			q := Query{Argv: argv, Cwd: cwd, At: time.Unix(0, 0)}
			got := r.Decide(q)
			again, steps := r.Explain(q)
			if got.Effect != again.Effect || got.Rule != again.Rule {
				t.Fatalf("decided %v, explained %v", got, again)
			}
			if got.Effect != Abstain && len(steps) == 0 {
				t.Fatal("no step says why")
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	var rules strings.Builder
	rules.WriteString("{version: 1, rules: [\n")
	for i := range 50 {
		n := string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		rules.WriteString(`{name: "deny ` + n + `", effect: "deny", argv: [["tool-` + n + `", "**"], ["/opt/` + n + `/bin/x", "--force", "**"]]},` + "\n")
		rules.WriteString(`{name: "allow ` + n + `", effect: "allow", argv: [["cmd-` + n + `", "sub", "*", "**"]], cwd: "/srv/**", agent: "m*"},` + "\n")
	}
	rules.WriteString(`{name: "git", effect: "allow", argv: [["git", "**"], ["grep", "**"], ["head", "**"]]}]}`)
	r := mustRules(b, rules.String())
	q := Query{Argv: sh(`git log --oneline -n 20 | grep "fix: " | head -n 3 && git status`), Cwd: "/srv/app", At: time.Now(), NodeID: "n"}
	if got := r.Decide(q); got.Effect != EffectAllow {
		b.Fatalf("%+v", got)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Decide(q)
	}
}
