package config

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// tokenBytes is the length of a generated token before it is written in hex (config.md §2).
const tokenBytes = 24

// EnsureToken gives a daemon in token mode a token when nothing holds one: a random token is
// written with the mode to the config file, whose comments and layout stay, and to c. It does
// nothing in another auth mode and for gateway.mode remote. The file appears as a whole or not at
// all. A file changed since Load is not overwritten.
//
// It must not run at the same time as anything that reads c.
func EnsureToken(c *Config) (generated bool, err error) {
	if c.Gateway.Mode == "remote" || c.AuthMode() != "token" || c.Gateway.Auth.Token.IsSet() {
		return false, nil
	}
	path := c.Path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link to the file stays a link
	}
	text, err := readFile(path, maxFileBytes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cannot read the config file to add a token: %w", err)
	}
	sum := sha256.Sum256(text)
	if hex.EncodeToString(sum[:]) != c.Hash {
		return false, fmt.Errorf("%s changed while the daemon was starting: start it again", c.Path)
	}
	random := make([]byte, tokenBytes)
	if _, err := rand.Read(random); err != nil {
		return false, fmt.Errorf("cannot make a token: %w", err)
	}
	token := hex.EncodeToString(random)
	out, err := json5.Set(text, []string{"gateway", "auth", "mode"}, "token")
	if err == nil {
		out, err = json5.Set(out, []string{"gateway", "auth", "token"}, token)
	}
	if err != nil {
		return false, fmt.Errorf("cannot add a token to %s: %w; set gateway.auth.token there or HANZOD_TOKEN", c.Path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, fmt.Errorf("cannot make the config directory: %w", err)
	}
	if err := WriteFileAtomic(path, out, 0o600); err != nil {
		return false, fmt.Errorf("cannot save the new token (set gateway.auth.token or HANZOD_TOKEN instead): %w", err)
	}
	sum = sha256.Sum256(out)
	c.Hash, c.Exists = hex.EncodeToString(sum[:]), true
	c.source.Exists, c.source.Text = true, out
	c.Gateway.Auth.Mode, c.Gateway.Auth.Token, c.madeToken = "token", NewSecret(token), true
	// What is compared with the file later says what the file says.
	c.tree = owned(c.tree)
	auth := under(under(c.tree, "gateway"), "auth")
	put(auth, "mode", "token")
	put(auth, "token", token)
	return true, nil
}

// notSaved ends the warning about a key of an older version that the file still has.
const notSaved = " It counts as if it stood there; the file was not changed."

// SaveMigrated moves keys of older versions in the file to where they count now, as Load has done in c:
// comments and layout stay, and the text before is kept as .bak (config.md §13). It does nothing when there
// are none, or when they stand in included files. Where the file cannot be written c holds all the same, and
// c.Warnings say so. A file changed since Load is left alone.
//
// It must not run at the same time as anything that reads c.
func SaveMigrated(c *Config) {
	if len(c.Migrated) == 0 {
		return
	}
	path := c.Path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	text, err := readFile(path, maxFileBytes)
	if err != nil || textHash(text) != c.Hash {
		return
	}
	out, notes, err := MigrateText(text)
	if err != nil || len(notes) == 0 {
		return
	}
	for i := backups - 1; i > 0; i-- {
		_ = os.Rename(backupName(c.Path, i-1), backupName(c.Path, i))
	}
	if err = WriteFileAtomic(backupName(c.Path, 0), text, 0o600); err == nil {
		err = WriteFileAtomic(path, out, 0o600)
	}
	if err != nil {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s has keys of an older version and cannot be written (%v); move them by hand", c.Path, err))
		return
	}
	c.Hash = textHash(out)
	c.source.Text = out
	for i, w := range c.Warnings {
		if note, ok := strings.CutSuffix(w, notSaved); ok {
			c.Warnings[i] = note + " The file was changed; the one before is " + backupName(filepath.Base(c.Path), 0) + "."
		}
	}
	c.Migrated = nil
}

// backups is how many earlier texts are kept: .bak and .bak.1 to .bak.4 (control-plane.md §4).
const backups = 5

func backupName(path string, i int) string {
	if i == 0 {
		return path + ".bak"
	}
	return fmt.Sprintf("%s.bak.%d", path, i)
}

// WriteFileAtomic replaces the file at path by data: whoever reads it, also after a crash, finds
// the old content or the new one. On return the content is on disk. The directory must exist; a
// symbolic link at path is replaced, not followed. perm has no meaning on Windows.
func WriteFileAtomic(path string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(perm); err != nil && !ignoreChmod {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
