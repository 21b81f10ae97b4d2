package shell

import (
	"slices"
	"strings"
)

// Carries says why a program would run something else with the arguments of argv, by the tables of
// carriers; "" is no objection. It reads no file, so it can be asked about another machine. spelled is how
// many words, the program included, whoever permits the command has written out: an interpreter may run a
// script that is among them.
func Carries(argv []string, spelled int) string {
	name := plainName(argv[0])
	if strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl") || name == "ld.so" {
		return name + " runs the program that it is told to"
	}
	lim, known := carriers[name]
	args := argv[1:]
	switch {
	case !known, len(args) == 1 && slices.Contains([]string{"--version", "-V", "--help", "-version"}, args[0]):
		return ""
	case !lim.script:
		return lim.refusal(name, args)
	}
	for i, w := range args {
		if i+1 >= spelled {
			break
		}
		if !strings.HasPrefix(w, "-") {
			return ""
		}
	}
	return name + " runs what it is given as a script"
}

// Tabled reports whether the tables of carriers say with which arguments a program runs nothing else.
func Tabled(word string) bool {
	lim, known := carriers[plainName(word)]
	return known && !lim.never && !lim.script
}
