package config

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/secrets/source"
)

const redacted = "[redacted]"

// Secret is a text that no printing, logging or encoding shows. It is kept behind a pointer, so
// that fmt finds only an address even where it cannot call methods. The zero Secret is unset.
type Secret struct{ text *string }

// NewSecret wraps text; the empty text gives an unset Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// IsSet reports whether there is a text.
func (s Secret) IsSet() bool { return s.text != nil }

// Reveal returns the text. The caller must not print it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Equal compares a candidate in a time that tells nothing about the secret: the SHA-256 of both
// are compared. An unset Secret equals nothing.
func (s Secret) Equal(candidate string) bool {
	a, b := sha256.Sum256([]byte(s.Reveal())), sha256.Sum256([]byte(candidate))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && s.IsSet()
}

// String is "[redacted]", or empty when unset.
func (s Secret) String() string {
	if s.text == nil {
		return ""
	}
	return redacted
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// Format is String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON is String as JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// MarshalText is String; YAML and the like use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SecretRef is a secret of the configuration that stands elsewhere: {source, provider, id}.
type SecretRef struct {
	// Path is the key ("channels.slack.botToken"), Segments its parts: a part may hold a dot.
	Path     string
	Segments []string
	// Source is env, file or exec; Provider is empty for the default one.
	Source, Provider, ID string
	// Active says that what the secret is for is on. Another one is not resolved.
	Active bool
	// Value is unset while the reference is not active.
	Value Secret
}

// pending is a secret of the file that is resolved when everything else is read. An inactive one
// (of a mode that is off, say) may stay unresolved. Where nothing typed takes it, into is nil.
type pending struct {
	path   string
	segs   []string
	node   *json5.Node
	into   *Secret
	active func() bool
}

// secret reads a secret: a text, or a reference {source, provider, id}.
func (o object) secret(key string, into *Secret, active func() bool) {
	n := o.take(key)
	if n == nil {
		return
	}
	path := join(o.path, key)
	switch n.Kind {
	case json5.String:
		if strings.TrimSpace(n.Str) != "" {
			*into = NewSecret(n.Str)
		}
	case json5.Object:
		// No key on the way to a typed secret holds a dot.
		o.l.secrets = append(o.l.secrets, pending{path: path, segs: strings.Split(path, "."), node: n, into: into, active: active})
	default:
		o.l.fail(path, n, "Expected string or secret reference, got "+n.Kind.String())
	}
}

// resolveSecrets asks the sources for all references at once.
func (l *loader) resolveSecrets(ctx context.Context, skip bool) {
	l.findSecrets()
	var refs []source.Ref
	var from []int
	for _, p := range l.secrets {
		before := len(l.issues)
		var ref source.Ref
		o := object{l: l, n: p.node, path: p.path, known: new([]string)}
		o.choice("source", &ref.Source, source.Env, source.File, source.Exec)
		o.str("provider", &ref.Provider)
		o.str("id", &ref.ID)
		o.strict()
		for _, key := range []string{"source", "id"} {
			if p.node.Get(key) == nil {
				l.fail(p.path, p.node, "Secret reference needs "+strconv.Quote(key))
			}
		}
		if len(l.issues) > before {
			continue
		}
		r := SecretRef{
			Path: p.path, Segments: p.segs, Source: ref.Source, Provider: ref.Provider, ID: ref.ID,
			Active: p.active == nil || p.active(),
		}
		if r.Active {
			refs, from = append(refs, ref), append(from, len(l.config.SecretRefs))
		}
		l.config.SecretRefs = append(l.config.SecretRefs, r)
		l.refs = append(l.refs, p)
	}
	if skip || len(refs) == 0 || len(l.issues) > 0 {
		return
	}
	for i, r := range l.sources().Resolve(ctx, refs) {
		at := from[i]
		if r.Err != nil {
			l.fail(l.refs[at].path, l.refs[at].node, r.Err.Error())
			l.unresolved = append(l.unresolved, l.refs[at].path)
			continue
		}
		l.config.SecretRefs[at].Value = NewSecret(r.Text)
		if into := l.refs[at].into; into != nil {
			*into = l.config.SecretRefs[at].Value
		}
	}
}

// sources reads secrets.providers and what bounds them (config.md §9 "secrets"). What is of the wrong
// type counts as absent: the schema says so elsewhere.
func (l *loader) sources() source.Settings {
	section := l.config.tree.Get("secrets")
	s := source.Settings{
		Providers: map[string]source.Provider{}, Defaults: map[string]string{}, Env: l.env,
		Concurrency: number(section.At("resolution", "maxProviderConcurrency")), MaxRefs: number(section.At("resolution", "maxRefsPerProvider")),
		MaxBatchBytes: number(section.At("resolution", "maxBatchBytes")),
	}
	if d := section.Get("defaults"); d != nil {
		for _, m := range d.Members {
			s.Defaults[m.Key] = text(m.Value)
		}
	}
	list := section.Get("providers")
	if list == nil {
		return s
	}
	for _, m := range list.Members {
		n := m.Value
		p := source.Provider{
			Source: text(n.Get("source")), Single: text(n.Get("mode")) == "singleValue",
			Timeout: time.Duration(number(n.Get("timeoutMs"))) * time.Millisecond, Silence: time.Duration(number(n.Get("noOutputTimeoutMs"))) * time.Millisecond,
			MaxBytes: int64(number(n.Get("maxBytes"))), Command: text(n.Get("command")), Args: texts(n.Get("args")),
			PassEnv: texts(n.Get("passEnv")), Insecure: yes(n.Get("allowInsecurePath")), AllowSymlink: yes(n.Get("allowSymlinkCommand")),
			AnyText: n.Get("jsonOnly") != nil && !yes(n.Get("jsonOnly")), Allowlist: texts(n.Get("allowlist")),
		}
		if p.Source == source.Exec {
			p.MaxBytes = int64(number(n.Get("maxOutputBytes")))
		}
		if path := text(n.Get("path")); path != "" {
			if abs, err := l.config.abs(path); err == nil {
				p.Path = abs
			}
		}
		for _, dir := range texts(n.Get("trustedDirs")) {
			if abs, err := l.config.abs(dir); err == nil {
				p.TrustedDirs = append(p.TrustedDirs, abs)
			}
		}
		if env := n.Get("env"); env != nil {
			p.Env = map[string]string{}
			for _, v := range env.Members {
				p.Env[v.Key] = text(v.Value)
			}
		}
		s.Providers[m.Key] = p
	}
	return s
}

func text(n *json5.Node) string {
	if n == nil || n.Kind != json5.String {
		return ""
	}
	return n.Str
}

func number(n *json5.Node) int {
	if n == nil || n.Kind != json5.Number || n.Num < 1 {
		return 0
	}
	return whole(n.Num)
}

func yes(n *json5.Node) bool { return n != nil && n.Kind == json5.Bool && n.Bool }

// texts are the strings of a list; nil only where there is no list.
func texts(n *json5.Node) []string {
	if n == nil || n.Kind != json5.Array {
		return nil
	}
	out := []string{}
	for _, item := range n.Items {
		if item.Kind == json5.String {
			out = append(out, item.Str)
		}
	}
	return out
}

// Resolved returns the configuration with its secrets read anew; nothing else is read anew. The error is
// an *Invalid that names what cannot be read. It starts what the sources need and waits for it.
func (c *Config) Resolved(ctx context.Context) (*Config, error) {
	fresh := &Config{
		Path: c.Path, Exists: c.Exists, Includes: c.Includes, Hash: c.Hash, StateDir: c.StateDir, Home: c.Home, LegacyDir: c.LegacyDir,
		EnvVars: c.EnvVars, tree: c.tree, opts: c.opts, source: c.source,
	}
	l := &loader{config: fresh, env: c.opts.Env, origin: map[*json5.Node]string{}, filled: map[*json5.Node]bool{}}
	l.fill(ctx, c.opts)
	if len(l.issues) > 0 {
		return nil, l.invalid()
	}
	// What the start made for itself stands in no tree that was read.
	if auth := &fresh.Gateway.Auth; !auth.Token.IsSet() && c.madeToken {
		auth.Mode, auth.Token, fresh.madeToken = c.Gateway.Auth.Mode, c.Gateway.Auth.Token, true
	}
	return fresh, nil
}
