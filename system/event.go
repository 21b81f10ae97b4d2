package system

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// maxNoteText and maxNoteField bound what a system event leaves in presence, in bytes: everybody gets it
	// with each change.
	maxNoteText  = 16 << 10
	maxNoteField = 1 << 10
	// maxNoteList bounds roles and scopes of one entry.
	maxNoteList = 64
	// keyUnits is how many UTF-16 units of a text name an entry that nothing else does (frozen).
	keyUnits = 64
)

// EventIn is the argument of SendEvent. A nil field was not said; what was not said stays as the entry has it.
type EventIn struct {
	Text                              string
	DeviceID, InstanceID              *string
	Host, IP, Mode, Version, Platform *string
	DeviceFamily, ModelIdentifier     *string
	LastInputSeconds                  *float64
	Reason                            *string
	Roles                             []identity.Role
	Scopes                            []identity.Scope
}

// EventOut is the result of SendEvent.
type EventOut struct{}

// The errors of SendEvent.
var (
	ErrEventText    = errs.Define(errs.Invalid, "system.event_text", "text required")
	ErrEventTooLong = errs.Define(errs.Invalid, "system.event_too_long",
		"a system event may have a text of 16384 bytes, other fields of 1024 each, and 64 roles and scopes")
)

// SendEvent tells of something that happened: it brings the sender's presence up to date and, unless the text
// is a beacon that says nothing new, queues a system event for the main session (control-plane.md §3). Presence
// is announced when it returns; the event is on disk by then.
func (s *Service) SendEvent(ctx context.Context, c identity.Caller, in EventIn) (EventOut, error) {
	in.Text = strings.TrimSpace(strings.ToValidUTF8(in.Text, "\uFFFD"))
	if in.Text == "" {
		return EventOut{}, ErrEventText
	}
	if !in.fits() {
		return EventOut{}, ErrEventTooLong
	}
	note := s.cfg.Presence.Note(c.Tenant, in)
	line, of := in.Text, ""
	if strings.HasPrefix(in.Text, "Node:") {
		s.mu.Lock()
		note.other = s.noted != note.after.Key
		s.mu.Unlock()
		line, of = note.line(), note.after.Key
	}
	if line != "" {
		session := s.cfg.MainSession()
		err := s.cfg.Queue.QueueEvent(ctx, session, QueuedEvent{Text: line, Source: "system event", At: s.cfg.Now()}, MaxQueuedEvents)
		if err != nil {
			return EventOut{}, err
		}
		s.note(of)
	}
	s.announcePresence()
	return EventOut{}, nil
}

// note remembers what the last queued line speaks of.
func (s *Service) note(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noted = key
}

func (in EventIn) fits() bool {
	if len(in.Text) > maxNoteText || len(in.Roles) > maxNoteList || len(in.Scopes) > maxNoteList {
		return false
	}
	for _, f := range []*string{in.DeviceID, in.InstanceID, in.Host, in.IP, in.Mode, in.Version, in.Platform, in.DeviceFamily, in.ModelIdentifier, in.Reason} {
		if f != nil && len(*f) > maxNoteField {
			return false
		}
	}
	for _, r := range in.Roles {
		if len(r) > maxNoteField {
			return false
		}
	}
	for _, sc := range in.Scopes {
		if len(sc) > maxNoteField {
			return false
		}
	}
	return true
}

// beacon is the text by which programs tell of themselves.
var beacon = regexp.MustCompile(`(?i)Node:\s*([^ (]+)\s*\(([^)]+)\)\s*·\s*app\s*([^·]+?)\s*·\s*last input\s*([0-9]+)s ago\s*·\s*mode\s*([^·]+?)\s*·\s*reason\s*(.+)$`)

// read takes from the text what was not said otherwise, and returns the host and the address in the text.
func (in *EventIn) read() (host, ip string) {
	m := beacon.FindStringSubmatch(in.Text)
	if m == nil {
		return "", ""
	}
	for i := range m {
		m[i] = strings.TrimSpace(m[i])
	}
	take := func(field **string, v string) {
		if *field == nil {
			*field = &v
		}
	}
	take(&in.Host, m[1])
	take(&in.IP, m[2])
	take(&in.Version, m[3])
	if seconds, err := strconv.ParseFloat(m[4], 64); err == nil && in.LastInputSeconds == nil {
		in.LastInputSeconds = &seconds
	}
	take(&in.Mode, m[5])
	take(&in.Reason, m[6])
	return m[1], m[2]
}

// Noted is what a system event changed of an entry of presence.
type Noted struct {
	before, after Presence
	// other says that the line before it spoke of another entry.
	other bool
}

// Note brings the entry that a system event of a tenant speaks of up to date, or makes it. No connection stands under it.
func (t *PresenceTable) Note(tenant string, in EventIn) Noted {
	host, ip := in.read()
	key := Key(trimmed(in.DeviceID), trimmed(in.InstanceID), host)
	if key == "" {
		if key = ip; key == "" {
			key = firstUnits(in.Text, keyUnits)
		}
	}
	key = identity.QualifiedNode(tenant, key)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
	now := t.now()
	e, ok := t.entries[key]
	if !ok {
		t.prune(now)
		t.next++
		e = &presenceEntry{key: key, order: t.next}
		t.entries[key] = e
	}
	n := Noted{before: e.Presence}
	p := &e.Presence
	for _, f := range []struct {
		to   *string
		from *string
	}{
		{&p.Host, in.Host}, {&p.IP, in.IP}, {&p.Version, in.Version}, {&p.Platform, in.Platform}, {&p.DeviceFamily, in.DeviceFamily},
		{&p.ModelIdentifier, in.ModelIdentifier}, {&p.Mode, in.Mode}, {&p.Reason, in.Reason}, {&p.DeviceID, in.DeviceID}, {&p.InstanceID, in.InstanceID},
	} {
		if f.from != nil {
			*f.to = strings.ToValidUTF8(*f.from, "\uFFFD")
		}
	}
	if in.LastInputSeconds != nil {
		p.LastInputSeconds = in.LastInputSeconds
	}
	p.Roles = firstOf(identity.Union(p.Roles, trimList(in.Roles)), maxNoteList)
	p.Scopes = firstOf(identity.Union(p.Scopes, trimList(in.Scopes)), maxNoteList)
	p.Text, p.At, p.Rev, p.Key, p.Tenant = in.Text, now, t.version, key, tenant
	t.touch(e)
	n.after = *p
	return n
}

// line says what a beacon changed, "" for nothing that anybody should know.
func (n Noted) line() string {
	b, a := n.before, n.after
	reason := strings.ToLower(a.Reason)
	if strings.HasPrefix(reason, "periodic") || reason == "heartbeat" {
		return ""
	}
	var parts []string
	moved := b.Host != a.Host || b.IP != a.IP
	changed := moved || b.Version != a.Version || b.Mode != a.Mode || b.Reason != a.Reason
	if !changed {
		return ""
	}
	if moved || n.other {
		who := "Node: " + orElse(a.Host, "Unknown")
		if ip := strings.TrimSpace(a.IP); ip != "" {
			who += " (" + ip + ")"
		}
		parts = append(parts, who)
	}
	if b.Version != a.Version {
		parts = append(parts, "app "+orElse(a.Version, "unknown"))
	}
	if b.Mode != a.Mode {
		parts = append(parts, "mode "+orElse(a.Mode, "unknown"))
	}
	if b.Reason != a.Reason {
		parts = append(parts, "reason "+orElse(a.Reason, "event"))
	}
	return strings.Join(parts, " · ")
}

func orElse(s, other string) string {
	if s = strings.TrimSpace(s); s == "" {
		return other
	}
	return s
}

func trimmed(s *string) string {
	if s == nil {
		return ""
	}
	return strings.TrimSpace(*s)
}

func trimList[T ~string](in []T) []T {
	var out []T
	for _, s := range in {
		if s = T(strings.TrimSpace(string(s))); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func firstOf[T any](in []T, n int) []T { return in[:min(len(in), n)] }

// firstUnits cuts a text to so many UTF-16 units, never inside a character.
func firstUnits(s string, n int) string {
	for i, r := range s {
		if n--; r > 0xFFFF {
			n--
		}
		if n < 0 {
			return s[:i]
		}
	}
	return s
}

// QueuedEvents returns the texts that wait for the next turn of the main session, oldest first.
func (s *Service) QueuedEvents(context.Context, identity.Caller) ([]QueuedEvent, error) {
	if s.cfg.Queue == nil {
		return nil, nil
	}
	return s.cfg.Queue.QueuedEvents(s.cfg.MainSession())
}
