package skills

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/config/json5"
)

// Limits of a front matter, which somebody else wrote.
const (
	maxFrontMatter = 64 << 10
	maxNesting     = 32
	maxItems       = 200
	maxShort       = 1024
)

// The kinds of installers.
const (
	kindBrew     = "brew"
	kindNode     = "node"
	kindGo       = "go"
	kindUV       = "uv"
	kindDownload = "download"
)

// Meta is what the front matter of a SKILL.md says.
type Meta struct {
	Name, Description, Homepage, Emoji string
	SkillKey, PrimaryEnv               string
	Always                             bool
	Requires                           Needs
	Install                            []Installer
}

// Installer is a way to install what a skill needs.
type Installer struct {
	ID, Kind, Label               string
	Bins, OS                      []string
	Formula, Package, Module, URL string
	// Of a download: Archive names its format where the URL does not, TargetDir lies in the directory of the
	// skill's tools, SHA256 is that of the file in hex.
	Archive, TargetDir, SHA256 string
	Extract                    *bool
	Strip                      int
}

func (m Meta) key() string {
	if m.SkillKey != "" {
		return m.SkillKey
	}
	return m.Name
}

func (i Installer) id(at int) string {
	if i.ID != "" {
		return i.ID
	}
	return i.Kind + "-" + strconv.Itoa(at)
}

func (i Installer) label(nodeManager string) string {
	switch {
	case i.Kind == kindNode && i.Package != "":
		return "Install " + i.Package + " (" + nodeManager + ")"
	case i.Label != "":
		return i.Label
	case i.Kind == kindBrew && i.Formula != "":
		return "Install " + i.Formula + " (brew)"
	case i.Kind == kindGo && i.Module != "":
		return "Install " + i.Module + " (go)"
	case i.Kind == kindUV && i.Package != "":
		return "Install " + i.Package + " (uv)"
	case i.Kind == kindDownload && i.URL != "":
		if last := i.URL[strings.LastIndexByte(i.URL, '/')+1:]; last != "" {
			return "Download " + last
		}
		return "Download " + i.URL
	}
	return "Run installer"
}

// ParseFrontMatter reads the front matter at the start of a SKILL.md. ok is false for a text without one.
// YAML that does not hold is read line by line instead, as many skills are written; anchors and what nests
// too deep are refused.
func ParseFrontMatter(data []byte) (m Meta, ok bool) {
	block, ok := frontMatter(data)
	if !ok {
		return Meta{}, false
	}
	all, ok := parseYAML(block)
	if !ok {
		all = lines(block)
	}
	m.Name, m.Description = short(all["name"]), strings.Join(strings.Fields(short(all["description"])), " ")
	for _, key := range []string{"homepage", "website", "url"} {
		if m.Homepage == "" {
			m.Homepage = short(all[key])
		}
	}
	m.Emoji = short(all["emoji"])
	if meta := object(all["metadata"]); meta != nil {
		for _, key := range []string{"hanzo", "openclaw", "clawdbot"} {
			if own := object(meta[key]); own != nil {
				m.take(own)
				break
			}
		}
	}
	return m, true
}

// frontMatter is the text between the two lines of dashes.
func frontMatter(data []byte) (string, bool) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) {
		return "", false
	}
	text := strings.ReplaceAll(string(data[:min(len(data), 2*maxFrontMatter)]), "\r\n", "\n")
	rest, ok := strings.CutPrefix(text, "---\n")
	if !ok {
		return "", false
	}
	if strings.HasPrefix(rest, "---\n") {
		return "", true
	}
	block, _, ok := strings.Cut(rest, "\n---")
	// Control characters do not belong into text.
	if !ok || len(block) > maxFrontMatter || strings.ContainsFunc(block, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
		return "", false
	}
	return block, true
}

var keyLine = regexp.MustCompile(`^([A-Za-z][\w-]*):[ \t]*(.*)$`)

// lines reads "key: value" lines; lines that are indented go on with the value before.
func lines(text string) map[string]any {
	out := map[string]any{}
	last, more := "", []string(nil)
	end := func() {
		if last != "" {
			out[last] = unquote(strings.TrimSpace(strings.Join(more, "\n")))
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if m := keyLine.FindStringSubmatch(line); m != nil {
			end()
			last, more = m[1], []string{strings.TrimSpace(m[2])}
		} else if line = strings.TrimSpace(line); line != "" {
			more = append(more, line)
		}
	}
	end()
	return out
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// object is a mapping, also one that is written as JSON in a text.
func object(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return v
	case string:
		n, err := json5.Parse([]byte(v))
		if err != nil || n.Kind != json5.Object {
			return nil
		}
		out, _ := n.Value().(map[string]any)
		return out
	}
	return nil
}

func short(v any) string {
	s, _ := v.(string)
	s = strings.TrimSpace(s)
	for len(s) > maxShort {
		_, size := utf8.DecodeLastRuneInString(s[:maxShort+1])
		s = s[:max(maxShort+1-size, 0)]
	}
	return s
}

// list reads texts: a list, or one text with commas.
func list(v any) []string {
	var out []string
	add := func(s string) {
		if s = short(s); s != "" && len(out) < maxItems {
			out = append(out, s)
		}
	}
	switch v := v.(type) {
	case string:
		for s := range strings.SplitSeq(v, ",") {
			add(s)
		}
	case []any:
		for _, item := range v {
			s, _ := item.(string)
			add(s)
		}
	}
	return out
}

// take reads the object that is meant for us.
func (m *Meta) take(o map[string]any) {
	if s := short(o["emoji"]); s != "" {
		m.Emoji = s
	}
	if s := short(o["homepage"]); s != "" {
		m.Homepage = s
	}
	m.SkillKey, m.PrimaryEnv = short(o["skillKey"]), short(o["primaryEnv"])
	m.Always, _ = o["always"].(bool)
	requires := object(o["requires"])
	m.Requires = Needs{
		Bins: list(requires["bins"]), AnyBins: list(requires["anyBins"]), Env: list(requires["env"]), Config: list(requires["config"]), OS: list(o["os"]),
	}
	specs, _ := o["install"].([]any)
	for _, spec := range specs[:min(len(specs), maxItems)] {
		o := object(spec)
		i := Installer{
			ID: short(o["id"]), Kind: strings.ToLower(short(o["kind"])), Label: short(o["label"]), Bins: list(o["bins"]), OS: list(o["os"]),
			Formula: short(o["formula"]), Package: short(o["package"]), Module: short(o["module"]), URL: short(o["url"]),
			Archive: short(o["archive"]), TargetDir: short(o["targetDir"]), SHA256: strings.ToLower(short(o["sha256"])),
		}
		if i.Kind == "" {
			i.Kind = strings.ToLower(short(o["type"]))
		}
		switch i.Kind {
		case kindBrew, kindNode, kindGo, kindUV, kindDownload:
		default:
			continue
		}
		if on, ok := o["extract"].(bool); ok {
			i.Extract = &on
		}
		if n, ok := o["stripComponents"].(float64); ok {
			i.Strip = int(max(0, min(n, maxNesting)))
		}
		m.Install = append(m.Install, i)
	}
}
