package policy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// plainly are the attacks whose lines an operator who allows every command has allowed as well: commands
// without tricks, programs with other names, and files that only the node can see.
var plainly = []string{"openclaw#41140", "keywords, functions", "characters that look alike", "paths that lead elsewhere"}

// TestHostileLinesUnderRules has none of the hostile lines allowed by rules as generous as mistakes make them:
// one that allows every command, and one for each of the programs by name.
func TestHostileLinesUnderRules(t *testing.T) {
	f, err := os.Open("../shell/testdata/hostile.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	named := `{version: 1, rules: [{name: "named", effect: "allow", argv: [`
	for name := range strings.FieldsSeq(`find fd git tar sed awk gawk make ninja python3 python node perl ruby php lua npm yarn go cargo docker kubectl systemctl rsync scp ssh zip cpio
		vim vi nano emacs man less more curl wget gpg openssl rpm dpkg apt pip gem sqlite3 ip split sort install patch gdb strace xargs parallel ctags bat java expect m4 bc dc ed ex
		echo cat ls rg head tail tr wc cut uniq jq grep touch base64 xxd tee diff printf true /root/bin/echo /root/bin/cat`) {
		if !shell.Starts(name) || shell.Tabled(name) {
			named += fmt.Sprintf("[%q, \"**\"], ", name)
		}
	}
	named += `]}]}`
	generous := []*Rules{
		mustRules(t, named),
		mustRules(t, `{version: 1, rules: [{name: "all", effect: "allow"}]}`),
		mustRules(t, `{version: 1, rules: [{name: "all", effect: "allow", argv: ["**"]}]}`),
		mustRules(t, `{version: 1, rules: [{name: "all", effect: "allow", argv: [["*", "**"], ["/*", "**"], ["/*/*", "**"], ["/*/*/*", "**"]]}]}`),
	}
	attack, tried := "", 0
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.ReplaceAll(lines.Text(), "{root}", "/root")
		if heading, ok := strings.CutPrefix(line, "== "); ok {
			attack = heading
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.SplitN(line, " ", 3)
		list, mode, text := fields[0], strings.TrimSuffix(fields[1], "?"), fields[2]
		if list != "all" {
			continue // they are about a list without the program
		}
		var argv []string
		switch {
		case mode == "argv":
			err = json.Unmarshal([]byte(text), &argv)
		case strings.HasPrefix(text, `"`) && json.Valid([]byte(text)):
			err = json.Unmarshal([]byte(text), &text)
		}
		if err != nil {
			t.Fatal(err)
		}
		switch mode {
		case "line":
			argv = sh(text)
		case "win":
			argv = []string{"cmd.exe", "/d", "/s", "/c", text}
		}
		tried++
		for i, r := range generous {
			if i > 0 && slices.ContainsFunc(plainly, func(p string) bool { return strings.HasPrefix(attack, p) }) {
				continue
			}
			if got := r.Decide(Query{Argv: argv, Cwd: "/root/proj"}); got.Effect == EffectAllow {
				t.Errorf("hostile.txt:%d (%s), rules %d: %q is allowed", n, attack, i, argv)
			}
		}
	}
	if tried < 200 {
		t.Errorf("%d lines", tried)
	}
}
