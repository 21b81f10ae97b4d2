package config

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
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

// maxSecretBytes bounds a secret file where its provider sets no maxBytes.
const maxSecretBytes = 1 << 20

// What the parts of a secret reference may look like (config.md §9 "secrets").
var (
	secretAlias = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
	secretEnv   = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,127}$`)
)

// pending is a secret of the file that is resolved when everything else is read. An inactive one
// (of a mode that is off, say) may stay unresolved.
type pending struct {
	path   string
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
		o.l.secrets = append(o.l.secrets, pending{path: path, node: n, into: into, active: active})
	default:
		o.l.fail(path, n, "Expected string or secret reference, got "+n.Kind.String())
	}
}

func (l *loader) resolveSecrets() {
	for _, p := range l.secrets {
		before := len(l.issues)
		ref := object{l: l, n: p.node, path: p.path, known: new([]string)}
		var source, provider, id string
		ref.choice("source", &source, "env", "file", "exec")
		ref.str("provider", &provider)
		ref.str("id", &id)
		ref.strict()
		for _, key := range []string{"source", "id"} {
			if p.node.Get(key) == nil {
				l.fail(p.path, p.node, "Secret reference needs "+strconv.Quote(key))
			}
		}
		if len(l.issues) > before || p.active != nil && !p.active() {
			continue
		}
		text, problem := l.lookUp(source, provider, id)
		switch {
		case problem != "":
			l.fail(p.path, p.node, problem)
		case strings.TrimSpace(text) == "":
			l.fail(p.path, p.node, "Secret reference resolves to an empty value")
		default:
			*p.into = NewSecret(text)
		}
	}
}

// lookUp resolves one reference; problem is empty on success and never contains a value.
func (l *loader) lookUp(source, alias, id string) (text, problem string) {
	if source == "exec" {
		return "", `Secret source "exec" is not supported in this version; use source "env" or "file"`
	}
	section := l.config.tree.Get("secrets")
	if alias == "" {
		if alias = "default"; section.At("defaults", source) != nil {
			alias = section.At("defaults", source).Str
		}
	}
	if !secretAlias.MatchString(alias) {
		return "", "Secret provider " + quote(alias) + " is no valid name"
	}
	provider := section.At("providers", alias)
	if provider != nil && (provider.Get("source") == nil || provider.Get("source").Str != source) {
		return "", "Secret provider " + quote(alias) + " is not of source " + strconv.Quote(source)
	}
	if source == "env" {
		return l.fromEnv(provider, alias, id)
	}
	return l.fromFile(provider, alias, id)
}

func (l *loader) fromEnv(provider *json5.Node, alias, id string) (text, problem string) {
	if !secretEnv.MatchString(id) {
		return "", "Secret id " + quote(id) + " is no environment variable name (A-Z, 0-9, _)"
	}
	if provider == nil && alias != "default" {
		return "", "Secret provider " + quote(alias) + " is not configured (set secrets.providers." + alias + ")"
	}
	if allow := provider.Get("allowlist"); allow != nil {
		allowed := false
		for _, item := range allow.Items {
			allowed = allowed || item.Kind == json5.String && item.Str == id
		}
		if !allowed {
			return "", "Environment variable " + id + " is not in the allowlist of secret provider " + quote(alias)
		}
	}
	v := l.env(id)
	if v == "" {
		return "", "Environment variable " + id + " of a secret reference is not set"
	}
	return v, ""
}

func (l *loader) fromFile(provider *json5.Node, alias, id string) (text, problem string) {
	if provider == nil {
		return "", "Secret provider " + quote(alias) + " is not configured (set secrets.providers." + alias + " with source and path)"
	}
	name := provider.Get("path")
	if name == nil || name.Kind != json5.String || name.Str == "" {
		return "", "Secret provider " + quote(alias) + " needs a path"
	}
	path, err := l.config.abs(name.Str)
	if err != nil {
		return "", err.Error()
	}
	limit := int64(maxSecretBytes)
	if n := provider.Get("maxBytes"); n != nil && n.Kind == json5.Number && n.Num >= 1 && n.Num < maxSecretBytes {
		limit = int64(n.Num)
	}
	data, err := readFile(path, limit)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return "", fmt.Sprintf("Cannot read secret file %s: %v", filepath.Base(path), err)
	}
	single := provider.Get("mode") != nil && provider.Get("mode").Str == "singleValue"
	if single {
		if id != "value" {
			return "", `Secret id must be "value" for a file in mode singleValue, got ` + quote(id)
		}
		return strings.TrimRight(string(data), "\r\n"), ""
	}
	root, err := json5.Parse(data)
	if err != nil {
		return "", "Secret file " + filepath.Base(path) + " is not JSON"
	}
	n, ok := pointer(root, id)
	if !ok {
		return "", "Secret file " + filepath.Base(path) + " has nothing at " + quote(id)
	}
	if n.Kind != json5.String {
		return "", "Secret file " + filepath.Base(path) + " holds no string at " + quote(id)
	}
	return n.Str, ""
}

// pointer follows a JSON pointer (RFC 6901).
func pointer(n *json5.Node, p string) (*json5.Node, bool) {
	if p == "" {
		return n, true
	}
	if p[0] != '/' {
		return nil, false
	}
	for part := range strings.SplitSeq(p[1:], "/") {
		part = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		switch n.Kind {
		case json5.Object:
			n = n.Get(part)
		case json5.Array:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(n.Items) || strconv.Itoa(i) != part {
				return nil, false
			}
			n = n.Items[i]
		default:
			return nil, false
		}
		if n == nil {
			return nil, false
		}
	}
	return n, true
}
