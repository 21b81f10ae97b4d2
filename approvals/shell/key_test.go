package shell

import (
	"strings"
	"testing"
	"time"
)

func TestKeysOfTheSameCommand(t *testing.T) {
	for _, same := range [][][]string{
		{{"git", "status"}},
		{{"sh", "-c", "git  status"}, {"sh", "-c", `'git' "status" `}, {"sh", "-c", `gi\t st'at'us`}, {"sh", "-c", "\tgit status"}},
		{{"sh", "-lc", "git status"}},
		{{"/bin/sh", "-c", "git  status"}, {"/bin/sh", "-c", "git status"}},
		{{"./sh", "-c", "git  status"}}, // no shell of the system
		{{"./sh", "-c", "git status"}},
		{{"env", "A=1", "sh", "-c", "a"}},
		{{"sh", "-c", "git status", "x"}},
		{{"bash", "-c", "git status"}},
		{{"sh", "-c", "a 1&&b|c;d"}, {"sh", "-c", "a '1' && b | c ; d"}},
		{{"sh", "-c", "a 1||b|c;d"}},
		{{"sh", "-c", "a 1;b|c;d"}},
		{{"timeout", "5", "sh", "-c", "a  b"}, {"timeout", "5", "sh", "-c", "a b"}},
		{{"timeout", "6", "sh", "-c", "a b"}},
		{{"sh", "-c", "a b", "c"}},
		{{"sh", "-c", "-e", "a b"}},
		{{"sh", "-c", "echo 'a b'"}, {"sh", "-c", `echo a\ b`}},
		{{"sh", "-c", "echo a b"}},
		{{"sh", "-c", "echo $HOME"}},
		{{"sh", "-c", "echo  $HOME"}}, // as it stands: the text is not read alike everywhere
		{{"sh", "-c", "echo '$HOME'"}, {"sh", "-c", `echo \$HOME`}},
		{{"sh", "-c", "A=1 b"}},
		{{"sh", "-c", "'A=1' b"}},
		{{"sh", "-c", "if a; then b; fi"}},
		{{"sh", "-c", "echo a # b"}},
		{{"sh", "-c", "echo a"}},
		{{"sh", "-c", "echo ''"}},
		{{"sh", "-c", "cat <<E\n$x\nE"}},
		{{"sh", "-c", "echo a\u3000b"}},
		{{"sh", "-c", "echo a\vb"}},
		{{"<(\"git\" \"status\")>"}},
		{{`"git" "status"`}},
		{{"python3", "-c", "print(1)"}},
		{{"perl", "-ne", "print"}},
		{{"sudo", "systemctl", "restart", "x"}},
		{{"git", "status", ""}},
		{{"git", "sta\xfftus"}},
		{{"git", "sta\xfetus"}},
		{{"git", "sta\ufffdtus"}},
		{{"sh", "-c", "echo \u212a"}},
		{{"sh", "-c", "echo K"}},
		{{"find", ".", "-name", "python3"}},
	} {
		first, err := Key(same[0])
		if err != nil {
			t.Errorf("%q: %v", same[0], err)
		}
		for _, argv := range same {
			if k, err := Key(argv); k != first || err != nil {
				t.Errorf("%q: %s, want %s (%v)", argv, k, first, err)
			}
			if before, ok := keysSeen[first]; ok && before != &same[0] {
				t.Errorf("%q and %q have the same key %s", *before, same[0], first)
			}
		}
		keysSeen[first] = &same[0]
	}
}

var keysSeen = map[string]*[]string{}

func TestKeysThatCannotBe(t *testing.T) {
	for _, argv := range [][]string{
		nil, {""}, {" ", "x"}, {"a", "b\x00c"}, {strings.Repeat("a", maxKeyText)},
		{"sh"}, {"sh", "-s"}, {"sh", "-"}, {"sh", "--"}, {"bash", "-i"}, {"sh", "-c"}, {"sh", "-e"},
		{"sh", "x.sh"}, {"sh", "-e", "x.sh", "-c", "echo"}, {"sh", "--", "x.sh"}, {"/bin/bash", "--rcfile", "f", "-c", "a"}, {"sh", "-o", "vi", "x.sh"},
		{"env", "sh", "x.sh"}, {"env", "A=1", "bash"}, {"nice", "nice", "sh", "x"}, {"sudo", "sh"}, {"sudo", "-u", "root", "bash", "x.sh"},
		{"busybox", "sh"}, {"busybox", "sh", "x.sh"}, {"xargs", "sh"}, {"env", "-S", "sh x.sh"}, {"ssh", "host", "sh x.sh"},
		{"sh", "-c", "sh x.sh"}, {"sh", "-c", "curl u | sh"}, {"sh", "-c", ". ./x"}, {"sh", "-c", "true; source x"}, {"sh", "-c", "$CMD x"},
		{"sh", "-c", "echo $(sh x.sh)"}, {"sh", "-c", "echo `. x`"}, {"sh", "-c", "sh -c \"$X\""}, {"sh", "-c", "eval \"$X\""}, {"sh", "-c", "eval '. x'"},
		{"sh", "-c", "if true; then sh x; fi"}, {"sh", "-c", "sh <x"}, {"sh", "-c", "trap '. x' EXIT"}, {"sh", "-c", "exec sh x"},
		{"sh", "-c", "command -p sh x"}, {"sh", "-c", "f() { sh; }; f"}, {"sh", "-c", "'"}, {"sh", "-c", "\xff"},
		{"python3", "x.py"}, {"python3"}, {"python3", "-"}, {"python3.11", "x.py"}, {"python3", "-m", "x"}, {"python3", "-u"}, {"node", "x.js"}, {"perl", "x.pl"},
		{"nohup", "python3", "x.py"}, {"sh", "-c", "python3 x.py"},
		{"cmd"}, {"pwsh", "x.ps1"}, {"pwsh", "-File", "x.ps1"}, {"pwsh", "-Command", "-"},
	} {
		if k, err := Key(argv); err == nil {
			t.Errorf("%.80q has the key %s", argv, k)
		}
	}
}

func TestMatchArgv(t *testing.T) {
	for _, tc := range []struct {
		pattern, argv string
		want          bool
	}{
		{"git status", "git status", true},
		{"git status", "git status x", false},
		{"git status x", "git status", false},
		{"git *", "git status", true},
		{"git *", "git", false},
		{"git *", "git a b", false},
		{"git **", "git", true},
		{"git **", "git a b", true},
		{"git ** b", "git a b", true}, // not the last word: a star
		{"git ** b", "git a c b", false},
		{"**", "git", true},
		{"git Status", "git status", false},
		{"git sta*s", "git status", true},
		{"git sta*s", "git stas", true},
		{"git sta*s", "git sta", false},
		{"git *a*a*", "git aa", true},
		{"git *a*a*", "git a", false},
		{"git ab*ba", "git aba", false},
		{"git *ab", "git abab", true},
		{"/usr/bin/* x", "/usr/bin/../sbin/y x", true},
		{"sh|-c|git *", "sh|-c|git status", true},
		{"sh|-c|git *", "sh|-c|git status; rm x", false},
		{"sh|-c|git *", "sh|-c|git $(rm)", false},
		{"sh|-c|git *", "sh|-c|git a b", false},
		{"sh|-c|*", "sh|-c|git a; b", true},
		{"sh|-c|git *x*", "sh|-c|git ;x", false},
		{"sh|-c|git *x*", "sh|-c|git ax;", false},
		{"env|sh|-c|a *", "env|sh|-c|a b;c", false},
		{"python3|-c|print(*)", "python3|-c|print(1);x()", false},
		{"rg|a*", "rg|a b;c", true},
	} {
		split := func(s string) []string {
			if strings.Contains(s, "|") {
				return strings.Split(s, "|")
			}
			return strings.Fields(s)
		}
		if got := MatchArgv(split(tc.pattern), split(tc.argv)); got != tc.want {
			t.Errorf("%q on %q: %v", tc.pattern, tc.argv, got)
		}
	}
	if MatchArgv(nil, nil) || MatchArgv([]string{"**"}, nil) {
		t.Error("nothing is no command")
	}
	start := time.Now()
	if MatchArgv([]string{strings.Repeat("a*", 30000) + "b"}, []string{strings.Repeat("a", 60000)}) || time.Since(start) > time.Second {
		t.Errorf("%v", time.Since(start))
	}
}
