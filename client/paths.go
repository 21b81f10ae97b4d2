package client

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
)

// DefaultStateDir is where the daemon keeps its state: HANZOD_STATE_DIR, else the names of the
// legacy gateway (config.md §1), else ~/.hanzo/hanzod. It is "" when the home directory is not
// known. The daemon and its clients use the same function.
func DefaultStateDir(getenv func(string) string) string {
	home := homeDir(getenv)
	for _, name := range []string{"HANZOD_STATE_DIR", "OPENCLAW_STATE_DIR", "CLAWDBOT_STATE_DIR"} {
		if dir := strings.TrimSpace(getenv(name)); dir != "" {
			return expandHome(dir, home)
		}
	}
	return HomeStateDir(getenv)
}

// HomeStateDir is the usual state directory, ~/.hanzo/hanzod; "" when the home directory is not known.
func HomeStateDir(getenv func(string) string) string {
	home := homeDir(getenv)
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".hanzo", "hanzod")
}

// SocketPath is the daemon's socket for a state directory: hanzod.sock in it, or, where that is
// too long for a socket, a short name that depends on the directory alone, in the user's runtime
// or temporary directory. The daemon makes the parent of a short name with mode 0700 and refuses
// one that another user owns; clients refuse a socket that another user owns. On Windows it is a
// named pipe.
func SocketPath(stateDir string) string {
	if abs, err := filepath.Abs(stateDir); err == nil {
		stateDir = abs
	}
	return socketPath(filepath.Clean(stateDir))
}

func homeDir(getenv func(string) string) string {
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if dir := strings.TrimSpace(getenv(name)); dir != "" {
			return dir
		}
	}
	dir, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return dir
}

func expandHome(dir, home string) string {
	if dir == "~" {
		return home
	}
	if rest, ok := strings.CutPrefix(dir, "~/"); ok && home != "" {
		return filepath.Join(home, rest)
	}
	return dir
}

// hash16 is a short name for a text.
func hash16(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
