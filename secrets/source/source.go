// Package source reads secrets from where a configuration says they are: the environment, files, and
// programs that hand them out.
//
// It knows no daemon and imports config/schema. Resolve owns the goroutines and processes that it
// starts and waits for them. No error holds a value, and none what a program printed.
package source

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/config/schema"
)

// The kinds of sources.
const (
	Env  = "env"
	File = "file"
	Exec = "exec"
)

// Limits where a configuration sets none, and the most that it may set (config.md §9 "secrets").
const (
	defaultConcurrency = 4
	maxConcurrency     = 16
	defaultRefs        = 512
	maxRefs            = 4096
	defaultBatch       = 256 << 10
	maxBatch           = 5 << 20
	// maxBytes bounds a file and what a program prints. Secrets are short; 1 MiB holds a file of many.
	maxBytes = 1 << 20
	// defaultTimeout is how long a file or a program may take, maxTimeout the most that may be set: the
	// daemon does not start before.
	defaultTimeout = 5 * time.Second
	maxTimeout     = 2 * time.Minute
	// defaultSilence is how long a program may print nothing.
	defaultSilence = 2 * time.Second
)

// Ref names a secret. Provider is an alias of Settings, empty for the default one of its source.
type Ref struct{ Source, Provider, ID string }

// Provider is one place where secrets are. Fields of another source have no meaning.
type Provider struct {
	Source string
	// Allowlist holds the variables that may be read; nil allows all.
	Allowlist []string
	// Path is an absolute path. Single says that the file is one value, else it is a JSON document.
	Path   string
	Single bool
	// Timeout and MaxBytes bound a file; both and Silence bound a program. Zero is the default.
	Timeout, Silence time.Duration
	MaxBytes         int64
	// Command is an absolute path, Args are its arguments. No shell is involved.
	Command string
	Args    []string
	// Env is set for the program, PassEnv names variables that it may see; it sees no other.
	Env     map[string]string
	PassEnv []string
	// AnyText lets a program that is asked for one secret print it as it is, without JSON.
	AnyText bool
	// TrustedDirs, unless empty, are the directories that the program must be beneath.
	TrustedDirs []string
	// Insecure leaves out the checks of owner and mode, AllowSymlink lets Command be a link.
	Insecure, AllowSymlink bool
}

// Settings are the providers of a configuration.
type Settings struct {
	Providers map[string]Provider
	// Defaults are the aliases that a reference without one means, by source; "default" where none is.
	Defaults map[string]string
	// Concurrency is how many providers are asked at once, MaxRefs how many secrets one is asked for,
	// MaxBatchBytes how long a question to a program may be. Zero is the default.
	Concurrency, MaxRefs, MaxBatchBytes int
	// Env looks a variable up; empty is the same as absent.
	Env func(string) string
}

// Result is the outcome for one Ref: a text, which is not empty, or an error.
type Result struct {
	Text string
	Err  error
}

// question is what one provider is asked for.
type question struct {
	alias    string
	provider Provider
	ids      []string
	at       map[string][]int // the refs that an id answers
}

// Resolve reads secrets, each provider once. The results stand in the order of refs. It takes as long as
// the slowest provider may, and ends early with ctx.
func (s Settings) Resolve(ctx context.Context, refs []Ref) []Result {
	out := make([]Result, len(refs))
	var order []*question
	asked := map[[2]string]*question{}
	for i, ref := range refs {
		alias, p, err := s.find(ref)
		if err != nil {
			out[i].Err = err
			continue
		}
		key := [2]string{ref.Source, alias}
		q := asked[key]
		if q == nil {
			q = &question{alias: alias, provider: p, at: map[string][]int{}}
			asked[key], order = q, append(order, q)
		}
		if len(q.at[ref.ID]) == 0 {
			q.ids = append(q.ids, ref.ID)
		}
		q.at[ref.ID] = append(q.at[ref.ID], i)
	}
	slots := make(chan struct{}, within(s.Concurrency, defaultConcurrency, maxConcurrency))
	var wg sync.WaitGroup
	for _, q := range order {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answer := s.ask(ctx, q)
			for _, id := range q.ids {
				r := answer(id)
				if r.Err == nil && strings.TrimSpace(r.Text) == "" {
					r.Err = problemf("Secret reference resolves to an empty value")
				}
				if r.Err != nil {
					r.Text = ""
				}
				for _, i := range q.at[id] { // no two questions share one
					out[i] = r
				}
			}
		})
	}
	wg.Wait()
	return out
}

// find checks a reference and finds its provider.
func (s Settings) find(ref Ref) (string, Provider, error) {
	alias := ref.Provider
	if alias == "" {
		if alias = s.Defaults[ref.Source]; alias == "" {
			alias = "default"
		}
	}
	if !schema.SecretAlias(alias) {
		return "", Provider{}, problemf("Secret provider %s is no valid name", quote(alias))
	}
	p, known := s.Providers[alias]
	if known && p.Source != ref.Source {
		return "", Provider{}, problemf("Secret provider %s is not of source %q", quote(alias), ref.Source)
	}
	missing := func(hint string) error {
		return problemf("Secret provider %s is not configured (set secrets.providers.%s%s)", quote(alias), alias, hint)
	}
	switch ref.Source {
	case Env:
		if !schema.SecretID(Env, ref.ID) {
			return "", Provider{}, problemf("Secret id %s is no environment variable name (A-Z, 0-9, _)", quote(ref.ID))
		}
		if !known && alias != "default" {
			return "", Provider{}, missing("")
		}
	case File:
		if !known {
			return "", Provider{}, missing(" with source and path")
		}
		switch {
		case p.Path == "":
			return "", Provider{}, problemf("Secret provider %s needs a path", quote(alias))
		case p.Single && ref.ID != "value":
			return "", Provider{}, problemf(`Secret id must be "value" for a file in mode singleValue, got %s`, quote(ref.ID))
		case !p.Single && !strings.HasPrefix(ref.ID, "/"):
			return "", Provider{}, problemf("Secret id %s is no JSON pointer (/a/b)", quote(ref.ID))
		}
	case Exec:
		if !known {
			return "", Provider{}, missing(" with source and command")
		}
		if !schema.SecretID(Exec, ref.ID) {
			return "", Provider{}, problemf("Secret id %s is no valid one for a program (letters, digits and ._:/#@-)", quote(ref.ID))
		}
	default:
		return "", Provider{}, problemf("Secret source %s is not one of env, file and exec", quote(ref.Source))
	}
	return alias, p, nil
}

// ask reads what a question asks for. The answer knows every id.
func (s Settings) ask(ctx context.Context, q *question) func(id string) Result {
	failed := func(err error) func(string) Result { return func(string) Result { return Result{Err: err} } }
	if limit := within(s.MaxRefs, defaultRefs, maxRefs); len(q.ids) > limit {
		return failed(problemf("Secret provider %s is asked for %d secrets, and secrets.resolution.maxRefsPerProvider allows %d", quote(q.alias), len(q.ids), limit))
	}
	switch q.provider.Source {
	case File:
		return readFile(ctx, q)
	case Exec:
		values, err := s.run(ctx, q)
		if err != nil {
			return failed(err)
		}
		return func(id string) Result { return values[id] }
	}
	return func(id string) Result {
		if list := q.provider.Allowlist; list != nil && !slices.Contains(list, id) {
			return Result{Err: problemf("Environment variable %s is not in the allowlist of secret provider %s", id, quote(q.alias))}
		}
		v := s.Env(id)
		if v == "" {
			return Result{Err: problemf("Environment variable %s of a secret reference is not set", id)}
		}
		return Result{Text: v}
	}
}

// problemf is an error that is told as an issue of the configuration, and worded as such.
func problemf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// within is a limit as it was set, or the default; more than the most is the most.
func within[N int | int64 | time.Duration](set, normal, most N) N {
	if set <= 0 {
		return normal
	}
	return min(set, most)
}

// quote shows a part of a reference; a long one is cut, because it may be a secret at the wrong place.
func quote(s string) string {
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "…"
	}
	return strconv.Quote(s)
}
