package checkpoint

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of an extension.
const (
	// MaxPaths bounds each list of names, MaxRefs the branches and the stashes, MaxPath the length of a name.
	MaxPaths = 100_000
	MaxRefs  = 1000
	MaxPath  = 4096
	// MaxExclude bounds .git/info/exclude.
	MaxExclude = 64 << 10
	maxText    = 1000
)

// Attachments that Capture writes.
const (
	AttachBundle   = "base.bundle"
	AttachStaged   = "staged.diff"
	AttachUnstaged = "unstaged.diff"
	AttachFiles    = "files.tar.gz"
)

var (
	attachmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*$`)
	hexSum         = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hexCommit      = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

// MarshalJSON writes the name, or its base64.
func (p Path) MarshalJSON() ([]byte, error) {
	s := string(p)
	if !utf8.ValidString(s) || strings.HasPrefix(s, "base64:") {
		s = "base64:" + base64.StdEncoding.EncodeToString([]byte(s))
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Path) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	if b, ok := strings.CutPrefix(s, "base64:"); ok {
		bytes, err := base64.StdEncoding.DecodeString(b)
		if err != nil {
			return err
		}
		s = string(bytes)
	}
	*p = Path(s)
	return nil
}

// checkPath refuses names that lead out of a workspace or into what git keeps for itself.
func checkPath(name string) error {
	switch {
	case name == "":
		return errors.New("an empty name")
	case len(name) > MaxPath:
		return fmt.Errorf("a name of %d bytes", len(name))
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("the name %q has a NUL", name)
	case filepath.Separator == '\\' && strings.ContainsAny(name, `\:`):
		return fmt.Errorf("the name %q cannot be on this system", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || reserved(part) {
			return fmt.Errorf("the name %q is not one of a file in a workspace", name)
		}
	}
	return nil
}

// reserved tells whether some file system takes part for .git: by case, by trailing dots and spaces, by the short
// name of it, by a stream of it, or by characters that it ignores.
func reserved(part string) bool {
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, part)
	if i := strings.IndexAny(s, `:\`); i >= 0 {
		s = s[:i]
	}
	s = strings.ToLower(strings.TrimRight(s, ". "))
	return s == ".git" || s == "git~1" || strings.HasPrefix(strings.ToLower(part), workPrefix)
}

// checkRef is what git says of names of branches, a little stricter.
func checkRef(name string) error {
	bad := name == "" || len(name) > 250 || strings.HasPrefix(name, "-") || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") ||
		strings.HasSuffix(name, ".") || strings.Contains(name, "..") || strings.Contains(name, "//") || strings.Contains(name, "@{") || name == "@" || name == "HEAD"
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	for i := range len(name) {
		bad = bad || name[i] <= ' ' || name[i] == 0x7f || strings.IndexByte(`~^:?*[\`, name[i]) >= 0
	}
	if bad {
		return fmt.Errorf("%q is not the name of a branch", name)
	}
	return nil
}

// settings are those of a repository that may travel, and what they may be.
var settings = map[string]func(string) bool{
	"core.autocrlf": oneOf("true", "false", "input"), "core.eol": oneOf("lf", "crlf", "native"),
	"core.filemode": oneOf("true", "false"), "core.symlinks": oneOf("true", "false"), "core.ignorecase": oneOf("true", "false"),
	"user.name": oneLine, "user.email": oneLine,
}

func oneOf(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

func oneLine(v string) bool {
	return v != "" && len(v) <= maxText && utf8.ValidString(v) && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// check refuses what Capture does not write.
func (x *Extension) check() error {
	if x == nil {
		return nil
	}
	if x.Format != 1 {
		return fmt.Errorf("its extension has format %d; this program knows 1: update it", x.Format)
	}
	if x.Kind != KindGit && x.Kind != KindDirectory && x.Kind != KindNone {
		return fmt.Errorf("the kind of workspace %q is not known", x.Kind)
	}
	if x.ObjectFormat != "" && x.ObjectFormat != "sha1" && x.ObjectFormat != "sha256" {
		return fmt.Errorf("the object format %q is not known", x.ObjectFormat)
	}
	if x.Encryption != "" && x.Encryption != "age" {
		return fmt.Errorf("the encryption %q is not known", x.Encryption)
	}
	if x.Tree != "" && !hexSum.MatchString(x.Tree) || x.Files < 0 {
		return errors.New("the checksum of the workspace has the wrong form")
	}
	if len(x.Exclude) > MaxExclude {
		return fmt.Errorf("the list of ignored files is larger than %d bytes", MaxExclude)
	}
	if len(x.Branches) > MaxRefs || len(x.Stashes) > MaxRefs || len(x.Needs) > MaxPaths || len(x.Shallow) > MaxPaths || len(x.Notes) > MaxPaths {
		return errors.New("it names too many commits")
	}
	commits := slices.Concat(x.Needs, x.Shallow)
	if x.Head != "" {
		commits = append(commits, x.Head)
	}
	for _, name := range []string{x.Branch, x.Upstream} {
		if name != "" {
			if err := checkRef(name); err != nil {
				return err
			}
		}
	}
	for _, r := range x.Branches {
		if err := checkRef(r.Name); err != nil {
			return err
		}
		commits = append(commits, r.Commit)
	}
	for _, r := range x.Stashes {
		if len(r.Name) > maxText {
			return errors.New("the message of a stash is too long")
		}
		commits = append(commits, r.Commit)
	}
	paths := slices.Concat(x.Removed, x.IntentToAdd, x.SkipWorktree, x.AssumeUnchanged)
	for _, s := range x.Submodules {
		paths, commits = append(paths, s.Path), append(commits, s.Commit)
	}
	if len(paths) > MaxPaths {
		return fmt.Errorf("it names more than %d files", MaxPaths)
	}
	for _, c := range commits {
		if !hexCommit.MatchString(c) {
			return fmt.Errorf("%q is not a commit", c)
		}
	}
	for _, p := range paths {
		if err := checkPath(string(p)); err != nil {
			return err
		}
	}
	for name, value := range x.Settings {
		if ok := settings[name]; ok == nil || !ok(value) {
			return fmt.Errorf("the setting %q may not be %q", name, value)
		}
	}
	return checkAttachments(x.Attachments)
}

func checkAttachments(list []Attachment) error {
	if len(list) > MaxAttachments {
		return fmt.Errorf("it has more than %d attachments", MaxAttachments)
	}
	seen := map[string]bool{}
	for _, a := range list {
		if len(a.Name) > 64 || !attachmentName.MatchString(a.Name) || strings.HasSuffix(a.Name, ".json") || seen[a.Name] {
			return fmt.Errorf("%q cannot be the name of an attachment", a.Name)
		}
		seen[a.Name] = true
		if a.Size < 0 || a.Size > MaxAttachment || a.StoredSize < 0 || a.StoredSize > MaxAttachment+MaxAttachment/64 {
			return fmt.Errorf("the attachment %s has an impossible size", a.Name)
		}
		if !hexSum.MatchString(a.SHA256) || a.StoredSHA256 != "" && !hexSum.MatchString(a.StoredSHA256) {
			return fmt.Errorf("the attachment %s has no checksum", a.Name)
		}
	}
	return nil
}

// workPrefix begins the names of what a restore keeps in a workspace while it runs.
const workPrefix = ".hanzo-restore-"
