package agents

import (
	"bytes"
	"context"
	"encoding/base64"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

// Limits of what is shown, in UTF-16 units as the original counts (sessions-chat.md §5).
const (
	shownName   = 50
	shownAvatar = 200
	shownEmoji  = 16
	shortAvatar = 4
)

// IdentityIn asks for the identity of an agent, by its id, by a session key, or of the default one.
type IdentityIn struct{ AgentID, SessionKey string }

// IdentityOut is how an agent presents itself. Emoji may be "".
type IdentityOut struct{ AgentID, Name, Avatar, Emoji string }

// Identity says how an agent presents itself: what ui.assistant says, what agents.list says, what its
// IDENTITY.md says, else "Assistant" and "A". An unknown agent is no error.
// Errors: ErrKey, ErrKeyMismatch.
func (s *Service) Identity(_ context.Context, _ identity.Caller, in IdentityIn) (IdentityOut, error) {
	v := s.view()
	asked := strings.TrimSpace(in.AgentID)
	id := v.DefaultID
	if asked != "" {
		id = config.AgentID(asked)
	}
	if key := strings.TrimSpace(in.SessionKey); key != "" {
		of, ok := AgentOfKey(key, v.DefaultID)
		if !ok {
			return IdentityOut{}, ErrKey.With("key", key)
		}
		if asked != "" && of != id {
			return IdentityOut{}, ErrKeyMismatch.With("agent", asked, "of", of)
		}
		id = of
	}
	var own Persona
	if a := v.Agent(id); a != nil && a.Identity != nil {
		own = *a.Identity
	}
	file := readPersona(v.Workspace(id))
	out := IdentityOut{AgentID: id, Name: "Assistant", Avatar: "A"}
	for _, name := range []string{v.assistant.Name, own.Name, file.Name} {
		if name = shorten(name, shownName); name != "" {
			out.Name = name
			break
		}
	}
	for _, a := range []string{v.assistant.Avatar, own.Avatar, own.Emoji, file.Avatar, file.Emoji} {
		if a = asAvatar(shorten(a, shownAvatar)); a != "" {
			out.Avatar = avatarURL(a, id, v.basePath)
			break
		}
	}
	for _, e := range []string{own.Emoji, file.Emoji, own.Avatar, file.Avatar} {
		if e = asEmoji(shorten(e, shownEmoji)); e != "" {
			out.Emoji = e
			break
		}
	}
	return out, nil
}

// AgentOfKey is the agent of a session key; keys without one belong to the default agent. ok is false for
// keys that begin as those of an agent and name none, or nothing of it (sessions-chat.md §1).
func AgentOfKey(key, defaultID string) (id string, ok bool) {
	key = strings.ToLower(strings.TrimSpace(key))
	if !strings.HasPrefix(key, "agent:") {
		return defaultID, true
	}
	var parts []string
	for part := range strings.SplitSeq(key, ":") {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) < 3 || strings.TrimSpace(parts[1]) == "" {
		return "", false
	}
	return config.AgentID(parts[1]), true
}

// shorten cuts to a number of UTF-16 units, between characters.
func shorten(s string, limit int) string {
	s = strings.TrimSpace(s)
	if len(s) <= limit {
		return s
	}
	n := 0
	for i, r := range s {
		if n += utf16.RuneLen(r); n > limit {
			return s[:i]
		}
	}
	return s
}

var (
	isURL   = regexp.MustCompile(`(?i)^(https?://|data:)`)
	isImage = regexp.MustCompile(`(?i)\.(png|jpe?g|gif|webp|svg|ico)$`)
	scheme  = regexp.MustCompile(`(?i)^[a-z][a-z0-9+.-]*:`)
)

func isPath(s string) bool { return strings.ContainsAny(s, `/\`) || isImage.MatchString(s) }

// asAvatar returns what can be shown as an avatar: a URL, a path, or a short text without blanks.
func asAvatar(s string) string {
	switch {
	case s == "", isURL.MatchString(s), isPath(s):
		return s
	case strings.ContainsFunc(s, unicode.IsSpace), len(utf16.Encode([]rune(s))) > shortAvatar:
		return ""
	}
	return s
}

func asEmoji(s string) string {
	if isURL.MatchString(s) || isPath(s) || !strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) {
		return ""
	}
	return s
}

// avatarURL turns a path into where the control UI finds it.
func avatarURL(avatar, id, base string) string {
	switch {
	case isURL.MatchString(avatar), strings.HasPrefix(avatar, base+"/avatar/"):
		return avatar
	case strings.HasPrefix(avatar, "/avatar/"):
		return base + avatar
	case isPath(avatar):
		return base + "/avatar/" + id
	}
	return avatar
}

// placeholders are what our templates and those of the original hold before somebody fills them in.
var placeholders = map[string]bool{
	"pick something you like": true,
	"ai? robot? familiar? ghost in the machine? something weirder?": true,
	"how do you come across? sharp? warm? chaotic? calm?":           true,
	"your signature - pick one that feels right":                    true,
	"your signature — pick one that feels right":                    true,
	"workspace-relative path, http(s) url, or data uri":             true,
}

// ParseIdentity reads an IDENTITY.md: lines "- Key: value", the last of a key counts. Anything else is left
// out.
func ParseIdentity(data []byte) Persona {
	var p Persona
	for line := range bytes.Lines(data) {
		key, value, ok := strings.Cut(strings.TrimLeft(strings.TrimPrefix(strings.TrimSpace(string(line)), "-"), " \t"), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(strings.Trim(strings.TrimSpace(strings.Trim(value, "*_")), "*_"))
		if value == "" || placeholders[strings.ToLower(strings.Trim(value, "()"))] {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(strings.NewReplacer("*", "", "_", "").Replace(key))) {
		case "name":
			p.Name = value
		case "emoji":
			p.Emoji = value
		case "creature":
			p.Creature = value
		case "vibe":
			p.Vibe = value
		case "theme":
			p.Theme = value
		case "avatar":
			p.Avatar = value
		}
	}
	return p
}

// readPersona reads the IDENTITY.md of a workspace; what cannot be read safely says nothing.
func readPersona(workspace string) Persona {
	root, err := openRoot(workspace)
	if err != nil {
		return Persona{}
	}
	defer root.Close()
	data, _, err := readWithin(root, identityName, maxFile)
	if err != nil {
		return Persona{}
	}
	return ParseIdentity(data)
}

// avatars turns images into URLs while there is room for them.
type avatars struct{ left int }

// url returns the URL of an avatar: one of http, https and data as it is, an image of the workspace as a
// data URL, "" for all else.
func (a *avatars) url(workspace, avatar string) string {
	if isURL.MatchString(avatar) {
		return avatar
	}
	data, mime := picture(workspace, avatar, min(maxAvatarFile, int64(a.left)))
	if mime == "" {
		return ""
	}
	a.left -= len(data)
	return "data:" + mime + ";base64," + base64.StdEncoding.EncodeToString(data)
}

// picture reads an image below a workspace. mime is "" when there is none, or it is larger than limit bytes.
func picture(workspace, avatar string, limit int64) (data []byte, mime string) {
	if avatar == "" || strings.HasPrefix(avatar, "~") || scheme.MatchString(avatar) || filepath.IsAbs(avatar) || hasNUL(avatar) {
		return nil, ""
	}
	name := path.Clean(strings.ReplaceAll(avatar, `\`, "/"))
	if mime = mimeOf(name); mime == "" || !filepath.IsLocal(filepath.FromSlash(name)) {
		return nil, ""
	}
	root, err := openRoot(workspace)
	if err != nil {
		return nil, ""
	}
	defer root.Close()
	if data, _, err = readWithin(root, filepath.FromSlash(name), limit); err != nil {
		return nil, ""
	}
	return data, mime
}

// AvatarOut is the avatar of an agent: an image of its workspace with its type, or a URL of http, https or data. Both are
// empty where there is none that a page could show.
type AvatarOut struct {
	Data []byte
	Mime string
	URL  string
}

// Avatar finds the image that stands for an agent, where Identity finds it. An unknown agent has none.
func (s *Service) Avatar(_ context.Context, _ identity.Caller, agentID string) AvatarOut {
	v := s.view()
	id := config.AgentID(agentID)
	a := v.Agent(id)
	if a == nil && id != v.DefaultID {
		return AvatarOut{}
	}
	var own Persona
	if a != nil && a.Identity != nil {
		own = *a.Identity
	}
	workspace := v.Workspace(id)
	for _, avatar := range []string{v.assistant.Avatar, own.Avatar, readPersona(workspace).Avatar} {
		avatar = asAvatar(shorten(avatar, shownAvatar))
		switch {
		case avatar == "":
		case isURL.MatchString(avatar):
			return AvatarOut{URL: avatar}
		default:
			data, mime := picture(workspace, avatar, maxAvatarFile)
			return AvatarOut{Data: data, Mime: mime}
		}
	}
	return AvatarOut{}
}

// mimeOf is the type of an image by its name, "" for what is none.
func mimeOf(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".png":
		return "image/png"
	case ".jpg", ".jpeg":
		return "image/jpeg"
	case ".webp":
		return "image/webp"
	case ".gif":
		return "image/gif"
	case ".svg":
		return "image/svg+xml"
	case ".bmp":
		return "image/bmp"
	case ".tif", ".tiff":
		return "image/tiff"
	case ".ico":
		return "image/x-icon"
	}
	return ""
}
