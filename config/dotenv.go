package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

const (
	dotenvName = ".env"
	// maxDotenv bounds it in bytes.
	maxDotenv = 1 << 20
)

// dotenv reads the file .env of the state directory (config.md §1): its variables count where the environment does
// not set them. The original also reads one in the working directory, which whoever starts the daemon need not own.
func dotenv(stateDir string) (map[string]string, error) {
	text, err := readFile(filepath.Join(stateDir, dotenvName), maxDotenv)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Join(stateDir, dotenvName), err)
	}
	return parseDotenv(string(text)), nil
}

// parseDotenv reads lines of NAME=value: with "export " before or not, values bare, in '…' or in "…" with \n, \r, \t,
// \" and \\, and a # behind a blank as the begin of a comment. Other lines mean nothing.
func parseDotenv(text string) map[string]string {
	out := map[string]string{}
	for len(text) > 0 {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSpace(strings.TrimPrefix(line, "\ufeff"))
		line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !variableName(name) {
			continue
		}
		switch quote := value[:min(1, len(value))]; quote {
		case `"`, `'`:
			// A quoted value may go on over lines.
			rest := value[1:]
			end := closing(rest, quote[0])
			for end < 0 && text != "" {
				var more string
				more, text, _ = strings.Cut(text, "\n")
				rest += "\n" + strings.TrimSuffix(more, "\r")
				end = closing(rest, quote[0])
			}
			if end < 0 {
				continue
			}
			if value = rest[:end]; quote == `"` {
				value = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t", `\"`, `"`, `\\`, `\`).Replace(value)
			}
		default:
			if i := strings.Index(value, " #"); i >= 0 {
				value = strings.TrimSpace(value[:i])
			} else if strings.HasPrefix(value, "#") {
				value = ""
			}
		}
		out[name] = value
	}
	return out
}

// closing is where a quote ends, -1 for nowhere.
func closing(s string, quote byte) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote == '"':
			i++
		case s[i] == quote:
			return i
		}
	}
	return -1
}

func variableName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// withDotenv is an environment in which the variables of the file count where it does not set them.
func withDotenv(env func(string) string, vars map[string]string) func(string) string {
	if len(vars) == 0 {
		return env
	}
	return func(name string) string {
		if v := env(name); v != "" {
			return v
		}
		return vars[name]
	}
}
