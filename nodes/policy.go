package nodes

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// class is a kind of platform, as the command policy knows them (nodes-approvals.md §2.2).
type class uint8

const (
	classUnknown class = iota
	classIOS
	classAndroid
	classMacOS
	classWindows
	classLinux
)

var (
	canvas = []string{
		"canvas.present", "canvas.hide", "canvas.navigate", "canvas.eval", "canvas.snapshot",
		"canvas.a2ui.push", "canvas.a2ui.pushJSONL", "canvas.a2ui.reset",
	}
	personal = []string{
		"contacts.search", "calendar.events", "reminders.list", "photos.latest",
		"motion.activity", "motion.pedometer",
	}
	machine = []string{"system.run.prepare", "system.run", "system.which", "system.notify", "browser.proxy"}
	device  = []string{"camera.list", "location.get", "device.info", "device.status"}
	ios     = slices.Concat(canvas, personal, device, []string{"system.notify"})
)

// defaults lists the commands that a platform may offer without further ado.
var defaults = map[class][]string{
	classIOS:     ios,
	classAndroid: slices.Concat(ios, []string{"notifications.list", "notifications.actions", "device.permissions", "device.health"}),
	classMacOS:   slices.Concat(canvas, personal, device, machine),
	classLinux:   machine,
	classWindows: machine,
	classUnknown: slices.Concat(canvas, []string{"camera.list", "location.get", "system.notify"}),
}

// fold brings platform texts to the form the table is written in: compatibility decomposition,
// marks removed, lower case, trimmed. Letters of other scripts stay what they are, so a look-alike
// is an unknown platform.
func fold(s string) string {
	s = norm.NFKD.String(s)
	s = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
	return strings.TrimSpace(s)
}

func classify(platform, family string) class {
	p := fold(platform)
	for _, x := range []struct {
		prefix string
		c      class
	}{
		{"ios", classIOS}, {"android", classAndroid}, {"mac", classMacOS}, {"darwin", classMacOS},
		{"win", classWindows}, {"linux", classLinux},
	} {
		if strings.HasPrefix(p, x.prefix) {
			return x.c
		}
	}
	f := fold(family)
	for _, x := range []struct {
		part string
		c    class
	}{
		{"iphone", classIOS}, {"ipad", classIOS}, {"ios", classIOS}, {"android", classAndroid},
		{"mac", classMacOS}, {"windows", classWindows}, {"linux", classLinux},
	} {
		if strings.Contains(f, x.part) {
			return x.c
		}
	}
	return classUnknown
}

// Policy says which commands a platform may offer: the defaults of its class, and what the
// configuration adds and takes away. Taking away wins. It is immutable.
type Policy struct {
	allow []string
	deny  map[string]bool
}

// NewPolicy makes the policy from gateway.nodes.allowCommands and denyCommands. Names are exact
// and case-sensitive; there are no patterns.
func NewPolicy(allow, deny []string) *Policy {
	p := &Policy{deny: map[string]bool{}}
	for _, c := range allow {
		if c = strings.TrimSpace(c); c != "" {
			p.allow = append(p.allow, c)
		}
	}
	for _, c := range deny {
		if c = strings.TrimSpace(c); c != "" {
			p.deny[c] = true
		}
	}
	return p
}

func (p *Policy) allows(c class, command string) bool {
	if p.deny[command] || command == killCommand {
		return false
	}
	return slices.Contains(defaults[c], command) || slices.Contains(p.allow, command)
}

// Filter returns the declared commands that the platform may offer, trimmed, sorted and without
// repeats.
func (p *Policy) Filter(platform, family string, declared []string) []string {
	c := classify(platform, family)
	out := []string{}
	for _, d := range declared {
		if d = strings.TrimSpace(d); d != "" && p.allows(c, d) {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CheckPlatform returns nil when nodes of a platform may offer a command.
func (p *Policy) CheckPlatform(platform, family, command string) error {
	if !p.allows(classify(platform, family), command) {
		return ErrNotAllowed.With("command", command, "platform", platform)
	}
	return nil
}

// Check returns nil when a command may go to the node.
func (p *Policy) Check(n Node, command string) error {
	if err := p.CheckPlatform(n.Platform, n.DeviceFamily, command); err != nil {
		return err
	}
	switch {
	case len(n.Commands) == 0:
		return ErrNoCommands.With("command", command, "platform", n.Platform)
	case !slices.Contains(n.Commands, command):
		return ErrNotDeclared.With("command", command, "platform", n.Platform)
	default:
		return nil
	}
}
