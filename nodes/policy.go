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

// reading are the commands that change nothing, which linked machines may offer without further ado
// (tunnel.md §2.3, §5.4).
var reading = map[string]bool{
	"status.get": true, "system.info": true, "terminal.list": true, "dev.status": true, "session.list": true,
	"file.list": true, "file.stat": true, "tunnel.list": true,
}

// own are commands that the daemon alone asks for.
var own = map[string]bool{killCommand: true, "system.execApprovals.get": true, "system.execApprovals.set": true}

// grade is what it takes to let a command go to a node.
type grade uint8

const (
	// never: the platform may not offer it.
	never grade = iota
	// open: whoever may invoke commands may invoke it.
	open
	// recorded: the configuration allows it, which a guard records.
	recorded
	// privileged: it takes a guard's word.
	privileged
)

// personalOnly are commands of phones and desktops that the original lets nobody offer unless the
// configuration says so (nodes-approvals.md §2.2).
var personalOnly = []string{
	"camera.snap", "camera.clip", "screen.record", "contacts.add", "calendar.add", "reminders.add", "sms.send", "sms.search",
}

// known reports whether the original has an opinion on a command. What it keeps from a platform is not
// privileged there, but none of it.
func known(command string) bool {
	for _, list := range defaults {
		if slices.Contains(list, command) {
			return true
		}
	}
	return slices.Contains(personalOnly, command)
}

// added reports whether the configuration lists a command.
func (p *Policy) added(command string) bool { return slices.Contains(p.allow, command) }

// Configured reports whether the configuration lists a command as allowed, so that calls of it carry no mark of an
// approval.
func (s *Service) Configured(command string) bool { return s.policy.Load().added(command) }

// grade says what a command of a node takes. Phones, and all that comes over the gateway protocol, have
// what the original lets them have.
func (p *Policy) grade(n Node, command string) grade {
	c := classify(n.Platform, n.DeviceFamily)
	switch {
	case p.deny[command], command == killCommand:
		return never
	case slices.Contains(defaults[c], command):
		return open
	}
	phone := c == classIOS || c == classAndroid
	linked := n.Link == LinkTunnel || n.Link == LinkGRPC && !phone
	switch {
	case !linked && p.added(command):
		return open
	case !linked || own[command], n.Link == LinkGRPC && known(command):
		return never
	case reading[command]:
		return open
	case p.added(command):
		return recorded
	default:
		return privileged
	}
}

// Offered returns the declared commands that the node may offer, trimmed, sorted and without repeats.
func (p *Policy) Offered(n Node, declared []string) []string {
	out := []string{}
	for _, d := range declared {
		if d = strings.TrimSpace(d); d != "" && p.grade(n, d) != never {
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

// check returns nil when the node may be asked for a command, and what that takes.
func (p *Policy) check(n Node, command string) (grade, error) {
	g := p.grade(n, command)
	switch {
	case g == never:
		return never, ErrNotAllowed.With("command", command, "platform", n.Platform)
	case len(n.Commands) == 0:
		return never, ErrNoCommands.With("command", command, "platform", n.Platform)
	case !slices.Contains(n.Commands, command):
		return never, ErrNotDeclared.With("command", command, "platform", n.Platform)
	default:
		return g, nil
	}
}
