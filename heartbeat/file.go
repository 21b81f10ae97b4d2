package heartbeat

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// idle are the lines of a HEARTBEAT.md that ask for nothing: headings and items without a text.
var idle = regexp.MustCompile(`^(#+(\s.*)?|[-*+]\s*(\[[\sXx]?\]\s*)?)$`)

// asksNothing reports whether the HEARTBEAT.md of a workspace is there and has no content. One that cannot be
// read may ask for something.
func asksNothing(workspace string) bool {
	if workspace == "" {
		return false
	}
	path := filepath.Join(workspace, FileName)
	// Asked before opening, which would wait for the writer of a named pipe.
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !idle.MatchString(line) {
			return false
		}
	}
	return true
}

// acknowledges reports whether a text says that nothing needs attention: the token at its start or end, with at
// most so many characters beside it.
func acknowledges(text string, most int) bool {
	rest, ok := strings.CutPrefix(text, okToken)
	if !ok {
		if rest, ok = strings.CutSuffix(text, okToken); !ok {
			return false
		}
	}
	return len([]rune(strings.TrimSpace(rest))) <= most
}

// preview is the begin of a text.
func preview(text string) string {
	if r := []rune(text); len(r) > maxPreview {
		return string(r[:maxPreview])
	}
	return text
}
