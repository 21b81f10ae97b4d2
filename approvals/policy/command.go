package policy

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Command is what system.run was asked to run and how it is shown (nodes-approvals.md §3.4).
type Command struct {
	Argv []string
	// Raw is the caller's text, trimmed, nil without one.
	Raw *string
	// Text is what people see: Raw, or what follows from Argv.
	Text string
	// Shell is the command line that an inline shell is given, nil for a direct argv.
	Shell *string
}

// FormatArgv writes an argv as one line for people. It is not meant for a shell.
func FormatArgv(argv []string) string { return shell.FormatArgv(argv) }

// CommandText checks that raw, when there is one, says what argv does, and returns how to show the
// command. It fails with ErrRawMismatch or ErrMissingCommand.
func CommandText(argv []string, raw *string) (Command, error) {
	c := Command{Argv: argv}
	if raw != nil {
		if t := trim(*raw); t != "" {
			c.Raw = &t
		}
	}
	if len(argv) == 0 {
		if c.Raw != nil {
			return Command{}, ErrMissingCommand
		}
		return c, nil
	}
	c.Text = FormatArgv(argv)
	sh, inline := shell.FindInline(argv)
	if inline && !sh.Modified && !sh.More {
		c.Text = sh.Text
	}
	if c.Raw != nil && *c.Raw != c.Text {
		return Command{}, ErrRawMismatch.With("rawCommand", *c.Raw, "inferred", c.Text)
	}
	if inline {
		c.Shell = &sh.Text
		if c.Raw != nil && !sh.Modified {
			c.Shell = c.Raw
		}
	}
	return c, nil
}

// CheckRawCommand is CommandText for callers that want the text alone.
func CheckRawCommand(argv []string, raw *string) (text string, err error) {
	c, err := CommandText(argv, raw)
	return c.Text, err
}

// ParseCommand is CommandText on the JSON values of the parameters command and rawCommand, nil when
// absent. A command that is no array counts as empty; a rawCommand that is no string as absent.
func ParseCommand(command, raw []byte) (Command, error) {
	var r *string
	if s, ok := asString(raw); ok {
		r = &s
	}
	return CommandText(Argv(command), r)
}

// Argv reads a JSON array as an argv. Elements of other types become text as JavaScript makes it;
// anything but an array is nil.
func Argv(raw []byte) []string {
	items, ok := asArray(raw)
	if !ok || len(items) == 0 {
		return nil
	}
	argv := make([]string, len(items))
	for i, item := range items {
		argv[i] = jsString(item, 0)
	}
	return argv
}

// maxArgvNesting bounds arrays inside arrays in an argv; deeper ones stay JSON.
const maxArgvNesting = 8

func jsString(raw json.RawMessage, depth int) string {
	raw = bytes.TrimSpace(raw)
	switch raw[0] {
	case '"':
		s, _ := asString(raw)
		return s
	case '{':
		return "[object Object]"
	case '[':
		if depth == maxArgvNesting {
			return string(raw)
		}
		items, _ := asArray(raw)
		parts := make([]string, len(items))
		for i, item := range items {
			if !isNull(item) {
				parts[i] = jsString(item, depth+1)
			}
		}
		return strings.Join(parts, ",")
	case 't', 'f', 'n':
		return string(raw)
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	switch a := math.Abs(f); {
	case err != nil:
		return string(raw)
	case a != 0 && (a < 1e-6 || a >= 1e21):
		s := strconv.FormatFloat(f, 'e', -1, 64)
		return strings.Replace(strings.Replace(s, "e-0", "e-", 1), "e+0", "e+", 1)
	case f == 0:
		return "0"
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}
