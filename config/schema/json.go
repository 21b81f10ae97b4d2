package schema

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

func text(s string) *json5.Node    { return &json5.Node{Kind: json5.String, Str: s} }
func number(v float64) *json5.Node { return &json5.Node{Kind: json5.Number, Num: v} }
func boolean(b bool) *json5.Node   { return &json5.Node{Kind: json5.Bool, Bool: b} }

type object struct{ *json5.Node }

func newObject() object { return object{&json5.Node{Kind: json5.Object}} }

func (o object) set(key string, v *json5.Node) object {
	o.Members = append(o.Members, json5.Member{Key: key, Value: v})
	return o
}

func list(items ...*json5.Node) *json5.Node { return &json5.Node{Kind: json5.Array, Items: items} }

// JSONSchema is t as a JSON Schema of draft 07; that of the whole configuration has a title
// (control-plane.md §4).
func (t *Type) JSONSchema() *json5.Node {
	o := t.json()
	if t == Root() {
		o.set("title", text("BotConfig"))
	}
	return o.Node
}

func (t *Type) json() object {
	o := newObject()
	switch t.Kind {
	case String:
		o.set("type", text("string"))
		t.bounds(o, "minLength", "maxLength")
		if t.Pattern != nil {
			o.set("pattern", text(t.Pattern.String()))
		}
	case Bool:
		o.set("type", text("boolean"))
	case Number:
		o.set("type", text("number"))
		t.bounds(o, "minimum", "maximum")
	case Integer:
		o.set("type", text("integer"))
		whole := *t.bare()
		if whole.Min == nil {
			whole.Min = bound(-maxSafe)
		}
		if whole.Max == nil {
			whole.Max = bound(maxSafe)
		}
		whole.bounds(o, "minimum", "maximum")
	case Enum:
		o.set("type", text("string")).set("enum", list(t.Values...))
	case OneOf:
		alts := make([]*json5.Node, len(t.Values))
		for i, v := range t.Values {
			alts[i] = newObject().set("type", text(v.Kind.String())).set("const", v).Node
		}
		if len(alts) == 1 {
			return object{alts[0]}
		}
		o.set("anyOf", list(alts...))
	case Secret:
		o.set("anyOf", list(newObject().set("type", text("string")).Node,
			newObject().set("oneOf", list(secretRef("env", secretEnv().String()), secretRef("file", ""), secretRef("exec", secretExec().String()))).Node))
	case Array:
		o.set("type", text("array"))
		t.bounds(o, "minItems", "maxItems")
		o.set("items", t.Elem.json().Node)
	case Map:
		o.set("type", text("object")).set("propertyNames", newObject().set("type", text("string")).Node)
		o.set("additionalProperties", t.Elem.json().Node)
	case Object:
		t.jsonObject(o)
	case Union:
		var alts []*json5.Node
		for _, alt := range t.Alts {
			alts = append(alts, alt.json().Node)
		}
		o.set("anyOf", list(alts...))
	}
	return o
}

// bare is t without what must not be copied.
func (t *Type) bare() *Type { return &Type{Kind: t.Kind, Min: t.Min, Max: t.Max, Above: t.Above} }

func (t *Type) jsonObject(o object) {
	o.set("type", text("object"))
	fields, required := newObject(), []*json5.Node(nil)
	for _, f := range t.Fields {
		v := f.Type.json()
		if f.Shown {
			v = object{&json5.Node{Kind: json5.Object, Members: append([]json5.Member{{Key: "default", Value: f.Type.Ordered(f.Default, true)}}, v.Members...)}}
		}
		fields.set(f.Key, v.Node)
		if f.Required {
			required = append(required, text(f.Key))
		}
	}
	o.set("properties", fields.Node)
	if required != nil {
		o.set("required", list(required...))
	}
	if t.Open {
		o.set("additionalProperties", t.rest().json().Node)
	} else {
		o.set("additionalProperties", boolean(false))
	}
}

func (t *Type) bounds(o object, low, high string) {
	switch {
	case t.Min != nil && t.Above:
		o.set("exclusiveMinimum", number(*t.Min))
	case t.Min != nil:
		o.set(low, number(*t.Min))
	}
	if t.Max != nil {
		o.set(high, number(*t.Max))
	}
}

func secretRef(source, pattern string) *json5.Node {
	id := newObject().set("type", text("string"))
	if pattern != "" {
		id.set("pattern", text(pattern))
	}
	fields := newObject().
		set("source", newObject().set("type", text("string")).set("const", text(source)).Node).
		set("provider", newObject().set("type", text("string")).set("pattern", text(secretAlias().String())).Node).
		set("id", id.Node)
	return newObject().set("type", text("object")).set("properties", fields.Node).
		set("required", list(text("source"), text("id"))).
		set("additionalProperties", boolean(false)).Node
}

// Hint is what forms show of a key.
type Hint struct {
	// Path has "*" for any key of a map and "[]" behind a key for any item of a list.
	Path                string
	Label, Help, Group  string
	Tags                []string
	Order               int
	Advanced, Sensitive bool
}

// hint describes a key; nil without one. path is as Walk gives it.
func (f *Field) hint(path []string, secret func(path []string) bool) *Hint {
	if f == nil || f.Unhinted || f.Help == "" {
		return nil
	}
	h := &Hint{Path: strings.Join(path, "."), Help: f.Help, Label: f.Label, Order: f.Order, Advanced: f.Advanced, Tags: f.Tags}
	if h.Label == "" {
		h.Label = label(path)
	}
	if f.Order > 0 && len(path) == 1 {
		h.Group = h.Label
	}
	h.Sensitive = f.secret(path, secret)
	if h.Tags == nil {
		h.Tags = tags(h.Path)
	}
	return h
}

// secret reports whether the value of a key is hidden.
func (f *Field) secret(path []string, secret func([]string) bool) bool {
	if f.Sensitive || f.Type.Kind == Secret {
		return true
	}
	switch f.Type.Kind {
	case Bool, Integer, Number, Object, OneOf, Enum:
		return false
	}
	plain := make([]string, len(path))
	for i, key := range path {
		plain[i] = strings.TrimSuffix(key, "[]")
	}
	return secret != nil && secret(plain)
}

// Hints describes all keys for forms, in the order of the description. secret says which paths hold what
// must not be shown, beside those that the description marks.
func Hints(secret func(path []string) bool) []Hint {
	var out []Hint
	seen := map[string]bool{}
	Root().Walk(func(path []string, f *Field) bool {
		if h := f.hint(path, secret); h != nil && !seen[h.Path] {
			seen[h.Path] = true
			out = append(out, *h)
		}
		return true
	})
	return out
}

// known are the ways in which words of keys are written.
var known = map[string]string{
	"api": "API", "url": "URL", "id": "ID", "ids": "IDs", "ui": "UI", "tls": "TLS", "http": "HTTP", "dm": "DM", "dms": "DMs",
	"cdp": "CDP", "iam": "IAM", "tts": "TTS", "mdns": "mDNS", "otel": "OpenTelemetry", "ms": "(ms)", "grpc": "gRPC", "cli": "CLI",
	"acp": "ACP", "ssh": "SSH", "ip": "IP", "jwks": "JWKS", "pdf": "PDF", "mb": "(MB)", "ttl": "TTL", "dns": "DNS", "ssrf": "SSRF",
	"qmd": "QMD", "db": "DB", "ack": "Acknowledgement", "irc": "IRC", "imessage": "iMessage", "whatsapp": "WhatsApp",
	"bluebubbles": "BlueBubbles", "msteams": "Microsoft Teams", "googlechat": "Google Chat", "openai": "OpenAI", "elevenlabs": "ElevenLabs",
}

var wordBreak = lazy(`([a-z0-9])([A-Z])`)

// label is a name made of the last keys of a path: "Gateway Auth Rate Limit".
func label(path []string) string {
	var parts []string
	for _, key := range path {
		if key = strings.TrimSuffix(key, "[]"); key != "*" && key != "" {
			parts = append(parts, key)
		}
	}
	if len(parts) > 3 {
		parts = append(parts[:1:1], parts[len(parts)-2:]...)
	}
	var words []string
	for _, key := range parts {
		for w := range strings.FieldsFuncSeq(wordBreak().ReplaceAllString(key, "$1 $2"), func(r rune) bool { return strings.ContainsRune(" _-$", r) }) {
			if as, ok := known[strings.ToLower(w)]; ok {
				w = as
			} else {
				w = strings.ToUpper(w[:1]) + w[1:]
			}
			words = append(words, w)
		}
	}
	return strings.Join(slices.Compact(words), " ")
}

// tagRules say which tags follow from a path, in the order in which they are shown: from its first key, or
// from words anywhere in it.
var tagRules = []struct {
	tag   string
	first []string
	words []string
}{
	{"security", nil, []string{"token", "password", "secret", "apikey", "api_key", "api-key", "api.key", "tlsfingerprint", "dangerously", "insecure"}},
	{"auth", []string{"auth"}, []string{"token", "password", "secret", "apikey", "api_key", "api-key", "api.key", "tlsfingerprint"}},
	{"access", []string{"auth"}, []string{"allow", "deny", "owner", "permission", "policy", "access"}},
	{"network", []string{"gateway", "channels", "nodehost", "discovery"}, nil},
	{"privacy", nil, []string{"privacy", "redact", "sanitize"}},
	{"observability", []string{"diagnostics", "logging"}, []string{"telemetry", "trace", "metrics", "logs"}},
	{"performance", nil, []string{"timeout", "debounce", "interval", "concurrency", "max", "limit", "cachettl"}},
	{"reliability", nil, []string{"retry", "backoff", "fallback", "circuit", "health", "reload", "probe"}},
	{"storage", []string{"memory"}, []string{"path", "dir", "file", "store", "session", "cache"}},
	{"models", []string{"models"}, []string{".model.", ".models.", ".modelid.", ".imagemodel."}},
	{"media", []string{"audio", "talk"}, []string{"tools.media.", "image", "video", "tts"}},
	{"automation", nil, []string{"cron", "heartbeat", "schedule", "onstart"}},
	{"channels", []string{"channels"}, nil},
	{"tools", []string{"tools"}, nil},
	{"advanced", nil, []string{"experimental", "dangerously", "insecure"}},
}

func tags(path string) []string {
	path = strings.ToLower(path)
	first, _, _ := strings.Cut(path, ".")
	path += "." // so that a word may end with the path
	var out []string
	for _, r := range tagRules {
		if slices.Contains(r.first, first) || slices.ContainsFunc(r.words, func(w string) bool { return strings.Contains(path, w) }) {
			out = append(out, r.tag)
		}
	}
	if out == nil {
		out = []string{"advanced"}
	}
	return out
}

// Lookup is what is known about one path (control-plane.md §4 "lookup").
type Lookup struct {
	Path string
	// Schema has the keywords of the value itself only.
	Schema *json5.Node
	Hint   *Hint // nil without one
	// Values are those that the key takes, as text, where it takes only some.
	Values   []string
	Children []Child
}

// Child is a key below a path that was looked up. Type is "" where it may be of several.
type Child struct {
	Key, Path, Type       string
	Required, HasChildren bool
	Hint                  *Hint
	Values                []string // as those of Lookup
}

// maxLookup bounds how many keys a path may have.
const maxLookup = 32

var brackets = lazy(`\[(\*|\d*)\]`)

// Find looks a path up: keys with dots between them; "[]", "[*]" and "*" stand for any key or item. ok is
// false when the configuration has no such key.
func Find(path string, secret func(path []string) bool) (Lookup, bool) {
	path = brackets().ReplaceAllStringFunc(strings.TrimSpace(path), func(m string) string {
		if m = m[1 : len(m)-1]; m == "" {
			m = "*"
		}
		return "." + m
	})
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '.' })
	if len(parts) == 0 || len(parts) > maxLookup {
		return Lookup{}, false
	}
	t, f, _, ok := Root().At(parts)
	if !ok {
		return Lookup{}, false
	}
	at := Root().shape(parts)
	out := Lookup{Path: strings.Join(parts, "."), Schema: t.keywords(f), Hint: f.hint(at, secret), Values: t.choices()}
	add := func(key string, t *Type, f *Field) {
		out.Children = append(out.Children, Child{
			Key: key, Path: out.Path + "." + key, Type: t.typeName(), HasChildren: t.inside(), Required: f != nil && f.Required,
			Hint: f.hint(append(slices.Clone(at), key), secret), Values: t.choices(),
		})
	}
	switch t.Kind {
	case Object:
		for _, f := range t.Fields {
			add(f.Key, f.Type, f)
		}
		if t.Open {
			add("*", t.rest(), nil)
		}
	case Map, Array:
		add("*", t.Elem, nil)
	}
	return out, true
}

// typeName is the type that t's JSON Schema has, or "" where it has none.
func (t *Type) typeName() string {
	switch t.Kind {
	case String, Enum:
		return "string"
	case Bool:
		return "boolean"
	case Number:
		return "number"
	case Integer:
		return "integer"
	case Array:
		return "array"
	case Map, Object:
		return "object"
	case OneOf:
		if len(t.Values) == 1 {
			return t.Values[0].Kind.String()
		}
	}
	return ""
}

// inside reports whether there are keys below.
func (t *Type) inside() bool {
	switch t.Kind {
	case Object:
		return len(t.Fields) > 0 || t.Open
	case Map, Array:
		return true
	}
	return false
}

// shape is a path as Walk writes it.
func (t *Type) shape(parts []string) []string {
	var out []string
	for _, key := range parts {
		switch {
		case t.Kind == Object && t.Field(key) != nil:
			out, t = append(out, key), t.Field(key).Type
		case t.Kind == Map:
			out, t = append(out, "*"), t.Elem
		case t.Kind == Array:
			if n := len(out); n > 0 {
				out[n-1] += "[]"
			}
			t = t.Elem
		default:
			return append(out, key)
		}
	}
	return out
}

var leafKeywords = []string{
	"default", "type", "enum", "const", "format", "pattern", "title", "description", "minimum", "maximum", "exclusiveMinimum",
	"exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems",
}

// keywords are those of t's JSON Schema that say something about the value itself.
func (t *Type) keywords(f *Field) *json5.Node {
	o := newObject()
	if f != nil && f.Shown {
		o.set("default", f.Type.Ordered(f.Default, true))
	}
	for _, m := range t.json().Members {
		if slices.Contains(leafKeywords, m.Key) || m.Key == "additionalProperties" && m.Value.Kind == json5.Bool {
			o.set(m.Key, m.Value)
		}
	}
	return o.Node
}
