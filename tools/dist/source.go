package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// source is what is built: one commit, or what the environment says of a copy without its history.
type source struct {
	root, version, revision, goVersion string
	// date is the time of the commit. Every file that is made bears it.
	date time.Time
}

var semver = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

// readSource reads version, commit and date from git; VERSION, REVISION and SOURCE_DATE_EPOCH go before.
func readSource(root string) (*source, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &source{root: root, version: os.Getenv("VERSION"), revision: os.Getenv("REVISION")}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if s.version == "" || s.revision == "" || epoch == "" {
		if err := s.ask(&epoch); err != nil {
			return nil, err
		}
	}
	s.version = strings.TrimPrefix(s.version, "v")
	if !semver.MatchString(s.version) {
		return nil, fmt.Errorf("version %q must have the form 1.2.3 or 1.2.3-rc.1", s.version)
	}
	sec, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	s.date = time.Unix(sec, 0).UTC()
	s.goVersion, err = s.command(nil, "go", "env", "GOVERSION")
	return s, err
}

// ask fills from git what is empty.
func (s *source) ask(epoch *string) error {
	commit, err := s.command(nil, "git", "log", "-1", "--format=%H %ct")
	if err != nil {
		return fmt.Errorf("%w\nOutside a git checkout set VERSION, REVISION and SOURCE_DATE_EPOCH", err)
	}
	revision, at, _ := strings.Cut(commit, " ")
	if s.revision == "" {
		s.revision = revision
	}
	if *epoch == "" {
		*epoch = at
	}
	if s.version != "" {
		return nil
	}
	sec, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return err
	}
	changed, err := s.command(nil, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if tag, err := s.command(nil, "git", "describe", "--tags", "--exact-match", "--match=v[0-9]*"); err == nil && changed == "" {
		s.version = tag
		return nil
	}
	// What is between two versions comes before the next one.
	next, err := s.next()
	if err != nil {
		return err
	}
	s.version = fmt.Sprintf("%s-dev.%s.g%.12s", next, time.Unix(sec, 0).UTC().Format("20060102150405"), revision)
	if changed != "" {
		s.version += ".changed"
	}
	return nil
}

// next is the version that the source is on its way to: the patch after the last tag, else what the
// program calls itself.
func (s *source) next() (string, error) {
	if tag, err := s.command(nil, "git", "describe", "--tags", "--abbrev=0", "--match=v[0-9]*"); err == nil {
		core, _, early := strings.Cut(strings.TrimPrefix(tag, "v"), "-")
		part := strings.Split(core, ".")
		patch, err := strconv.Atoi(part[len(part)-1])
		if err != nil || len(part) != 3 {
			return "", fmt.Errorf("tag %q is no version", tag)
		}
		if !early { // after 1.2.0-rc.1 comes 1.2.0
			patch++
		}
		return fmt.Sprintf("%s.%s.%d", part[0], part[1], patch), nil
	}
	text, err := os.ReadFile(filepath.Join(s.root, "runtime", "version.go"))
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`var Version = "([^"]+)"`).FindSubmatch(text)
	if m == nil {
		return "", errors.New("runtime/version.go names no version")
	}
	return string(m[1]), nil
}

// command runs a program in the source and returns what it prints.
func (s *source) command(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.root
	// What a builder has set for other programs has no say in this one.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0", "LC_ALL=C", "TZ=UTC")
	cmd.Env = append(cmd.Env, env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// compile builds the programs into a directory.
func (s *source) compile(tags string, p platform, dir string) error {
	const module = "github.com/hanzoai/hanzod"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags=" + tags, "-o", dir + string(filepath.Separator),
		fmt.Sprintf("-ldflags=-s -w -X %s/runtime.Version=%s -X main.release=%s -X main.revision=%s", module, s.version, s.version, s.revision)}
	for _, name := range programs {
		args = append(args, "./cmd/"+name)
	}
	_, err := s.command([]string{"GOOS=" + p.os, "GOARCH=" + p.arch}, "go", args...)
	return err
}

// build builds a variant for a platform and returns its programs.
func (s *source) build(v variant, p platform, dir string) ([]file, error) {
	if err := s.compile(v.tags, p, dir); err != nil {
		return nil, err
	}
	var out []file
	for _, name := range programs {
		if p.os == "windows" {
			name += ".exe"
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		out = append(out, file{name, 0o755, text})
	}
	return out, nil
}

// note says what it takes to build the same bytes again.
func (s *source) note(dir string) error {
	text := fmt.Sprintf("version %s\nrevision %s\nSOURCE_DATE_EPOCH %d\ngo %s\n", s.version, s.revision, s.date.Unix(), s.goVersion)
	return os.WriteFile(filepath.Join(dir, "BUILD"), []byte(text), 0o644)
}

// host is the platform that this program runs on.
var host = platform{runtime.GOOS, runtime.GOARCH}
