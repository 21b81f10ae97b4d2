package host

import (
	"strings"
	"testing"
)

func TestScriptsOfInterpreters(t *testing.T) {
	for line, want := range map[string]string{
		"bash x a": "x", "bash -u -o pipefail x": "x", "bash --norc -eu x": "x", "sh -- -x": "-x", "sh +e x": "x", "dash -c x": "", "bash -lc x": "",
		"sh -s x": "", "sh": "", "sh - x": "", "bash --rcfile a x": "x", "bash --unheard x": "?", "zsh -Z x": "?",
		"python3.12 x": "x", "python -B -W error x": "x", "python -Werror -X dev x a": "x", "python -c x": "", "python -Ic x": "", "python -m x": "?",
		"python3 --check-hash-based-pycs never x": "x", "python -z x": "?", "/usr/bin/python3 -u x": "x",
		"perl -w x": "x", "perl -ne x y": "", "perl -pie x": "x", "perl -I lib -Mstrict x": "x", "perl -lne x": "", "perl -S x": "?",
		"ruby -r json x": "x", "ruby -rjson x": "x", "ruby -e x": "", "node x": "x", "node --require=a x": "x", "node -r a x": "x", "node -e x": "",
		"node --test x": "?", "node --inspect x": "x", "deno run x": "x", "deno run -A x": "?", "bun x": "x", "php -f x": "x", "php -r x": "", "php -d a=b x": "x",
		"lua -l m x": "x", "awk -f x y": "x", "awk {print} y": "", "awk -f x -f y": "?", "java -jar x": "x", "java -cp a Main": "?", "java Main.java": "Main.java",
		"pwsh -File x": "x", "pwsh -Command x": "", "pwsh -ExecutionPolicy Bypass x": "x", "pwsh -enc x": "", "tclsh x": "x", "cat x": "", "python3-config x": "",
	} {
		words := strings.Fields(line)
		i, known := interpreterOf(words[0])
		got := ""
		if known {
			switch f := i.find(words[1:]); {
			case f.why != "":
				got = "?"
			case f.at >= 0:
				got = words[1+f.at]
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestFirstLines(t *testing.T) {
	for head, want := range map[string][2]string{
		"#!/bin/sh\necho": {"/bin/sh"}, "#! /bin/sh -e \nx": {"/bin/sh", "-e"}, "#!/usr/bin/env  -S a b\n": {"/usr/bin/env", "-S a b"},
		"#!\t/bin/sh\t-x y\n": {"/bin/sh", "-x y"}, "#!/bin/sh": {"/bin/sh"}, "#!\n": {}, "\x7fELF": {}, "": {}, " #!/bin/sh\n": {},
		"#!" + strings.Repeat("x", 300): {},
	} {
		program, arg, ok := shebang([]byte(head[:min(len(head), maxShebang+1)]))
		if got := [2]string{program, arg}; ok != (want[0] != "") || ok && got != want {
			t.Errorf("%.40q: %q %v, want %q", head, got, ok, want)
		}
	}
	for arg, want := range map[string]string{
		"python3": "python3", "-S python3 -u": "python3|-u", "-Sbash -e": "bash|-e", "python3 -u": "", "A=1": "", "-S A=1 x": "", "-i x": "", `-S "a b"`: "", "": "",
	} {
		if got := strings.Join(throughEnv(arg), "|"); got != want {
			t.Errorf("env %q: %q, want %q", arg, got, want)
		}
	}
}

// FuzzInterpreters: no words and no first line make it fail, and what is found is among the words.
func FuzzInterpreters(f *testing.F) {
	f.Add("bash -o x", "#!/usr/bin/env -S a")
	f.Fuzz(func(t *testing.T, line, head string) {
		words := strings.Split(line, " ")
		for name, i := range interpreters {
			if got := i.find(words); got.at >= len(words) || got.at < -1 {
				t.Errorf("%s %q: %d", name, words, got.at)
			}
		}
		_, arg, _ := shebang([]byte(head))
		throughEnv(arg)
	})
}
