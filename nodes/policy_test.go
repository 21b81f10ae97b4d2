package nodes

import (
	"slices"
	"strings"
	"testing"
)

// catalogue is every command that is known of nodes and apps, with the platforms that may offer it
// without further ado: i(OS), a(ndroid), m(acOS), l(inux), w(indows), u(nknown) (nodes-approvals.md
// §2.2, §5). It is written out, not derived from the tables that it checks.
var catalogue = map[string]string{
	"canvas.present": "iamu", "canvas.hide": "iamu", "canvas.navigate": "iamu", "canvas.eval": "iamu", "canvas.snapshot": "iamu",
	"canvas.a2ui.push": "iamu", "canvas.a2ui.pushJSONL": "iamu", "canvas.a2ui.reset": "iamu",
	"contacts.search": "iam", "calendar.events": "iam", "reminders.list": "iam", "photos.latest": "iam",
	"motion.activity": "iam", "motion.pedometer": "iam",
	"camera.list": "iamu", "location.get": "iamu", "device.info": "iam", "device.status": "iam",
	"device.permissions": "a", "device.health": "a", "notifications.list": "a", "notifications.actions": "a",
	"system.notify": "iamlwu", "system.run": "mlw", "system.run.prepare": "mlw", "system.which": "mlw", "browser.proxy": "mlw",
	// Dangerous: only where the configuration says so.
	"camera.snap": "", "camera.clip": "", "screen.record": "", "contacts.add": "", "calendar.add": "", "reminders.add": "", "sms.send": "",
	// In no list.
	"system.execApprovals.get": "", "system.execApprovals.set": "", "vnc.tunnel.open": "", "talk.ptt.start": "", "talk.ptt.stop": "",
	"watch.status": "", "chat.push": "", "app.update": "", "debug.logs": "", "terminal.open": "", "dev.reload": "", "system.info": "",
	"marketplace.proxy": "", "canvas": "", "canvas.*": "", "*": "", "": "", "SYSTEM.RUN": "", "system.run ": "", "system.run\x00": "",
}

var letters = map[rune][]string{
	'i': {"ios", "iOS 18.2"}, 'a': {"android", "Android 15"}, 'm': {"darwin", "macOS 15.1.0", "Mac"}, 'l': {"linux", "linux-x86_64"},
	'w': {"win32", "  Windows 11 "}, 'u': {"plan9", "freebsd", "", "iPadOS 18"},
}

func TestCatalogue(t *testing.T) {
	plain := NewPolicy(nil, nil)
	for command, may := range catalogue {
		for letter, platforms := range letters {
			for _, p := range platforms {
				want := strings.ContainsRune(may, letter)
				if err := plain.CheckPlatform(p, "", command); (err == nil) != want {
					t.Errorf("%q on %q: %v", command, p, err)
				}
				if kept := plain.Offered(Node{Platform: p, Link: LinkWebSocket}, []string{command}); (len(kept) > 0) != want && command == strings.TrimSpace(command) {
					t.Errorf("%q on %q is kept: %q", command, p, kept)
				}
			}
		}
	}
	// Nothing is in the lists that is not in the table.
	for c, list := range defaults {
		for _, command := range list {
			if _, ok := catalogue[command]; !ok {
				t.Errorf("%q may be offered by class %d and is not in the table", command, c)
			}
		}
	}
}

// The configuration adds exact names for every platform and takes away from every platform; taking
// away wins.
func TestPolicyConfiguration(t *testing.T) {
	p := NewPolicy([]string{" sms.send ", "", "camera.*", "canvas.eval"}, []string{"canvas.eval", " system.which\t", "system.*", "LOCATION.GET"})
	for _, c := range []struct {
		platform, command string
		want              bool
	}{
		{"android", "sms.send", true}, {"plan9", "sms.send", true}, {"linux", "SMS.send", false}, {"ios", "camera.snap", false},
		{"ios", "canvas.eval", false}, {"linux", "system.which", false}, {"linux", "system.run", true}, {"ios", "location.get", true},
	} {
		if err := p.CheckPlatform(c.platform, "", c.command); (err == nil) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A platform text that only looks like another is an unknown one: it is offered nothing that unknown
// platforms are not offered. Compatibility forms of the same letters are those letters, as recorded.
func TestLookAlikePlatforms(t *testing.T) {
	unknown := defaults[classUnknown]
	for _, name := range []string{
		"lіnux", "linυx", "ӏinux", "lınux", "ⅼіnux", "\u200blinux", "\u202elinux", "\ufefflinux", "l\u00adinux", "l\u200dinux",
		"dаrwin", "darw\u0456n", "mасos", "ｍаcOS", "маcOS", "ωin32", "wіn", "ѡin32", "vvin32",
		"аndroid", "andrοid", "ȧпdroid", "іos", "iоs", "ίos", "іΟS", "ⅰоs",
		"xlinux", "gnu/linux", "not-windows", "the mac", "my android", "\x00linux", "l inux", "li\nnux",
	} {
		for _, command := range []string{
			"system.run", "system.run.prepare", "system.which", "browser.proxy", "contacts.search", "photos.latest", "notifications.list", "device.info",
		} {
			if NewPolicy(nil, nil).CheckPlatform(name, "", command) == nil {
				t.Errorf("%+q may offer %s", name, command)
			}
		}
		if c := classify(name, ""); c != classUnknown {
			t.Errorf("%+q is class %d", name, c)
		}
		// Nor by its family.
		if c := classify("plan9", name); c != classUnknown && !strings.Contains(name, "linux") && !strings.Contains(name, "windows") &&
			!strings.Contains(name, "mac") && !strings.Contains(name, "android") {
			t.Errorf("the family %+q is class %d", name, c)
		}
	}
	for name, want := range map[string]class{
		"ｌｉｎｕｘ": classLinux, "LÏNUX": classLinux, "𝐥𝐢𝐧𝐮𝐱": classLinux, "ⓛinux": classLinux, "ĩos": classIOS, "İOS": classIOS, "Ⓦindows": classWindows,
		"\u00a0linux": classLinux, "darẃin": classMacOS,
	} {
		if c := classify(name, ""); c != want {
			t.Errorf("%+q is class %d, want %d", name, c, want)
		}
	}
	// The family is asked only when the platform says nothing.
	for _, c := range []struct {
		platform, family string
		want             class
	}{
		{"", "iPhone 16", classIOS}, {"", "iPad", classIOS}, {"iPadOS 18", "iPad", classIOS}, {"linux", "iPhone", classLinux},
		{"", "Android phone on linux", classAndroid}, {"", "iMac", classMacOS}, {"", "a windows box", classWindows}, {"", "Linux", classLinux},
		{"", "darwin", classUnknown}, {"", "", classUnknown},
	} {
		if got := classify(c.platform, c.family); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if slices.Contains(unknown, "system.run") {
		t.Error("unknown platforms may run commands")
	}
}

func FuzzClassify(f *testing.F) {
	for _, s := range []string{"linux", "lіnux", "iPhone", "\xff", "İ", "ﬁ"} {
		f.Add(s, "")
		f.Add("", s)
	}
	p := NewPolicy(nil, nil)
	f.Fuzz(func(t *testing.T, platform, family string) {
		c := classify(platform, family)
		if c == classUnknown && p.CheckPlatform(platform, family, "system.run") == nil {
			t.Errorf("%+q %+q may run commands", platform, family)
		}
		// What is written in ASCII decides alone.
		ascii := strings.IndexFunc(platform+family, func(r rune) bool { return r >= 0x80 }) < 0
		if again := classify(strings.ToUpper(platform), strings.ToUpper(family)); ascii && again != c {
			t.Errorf("%+q %+q: class %d, in capitals %d", platform, family, c, again)
		}
	})
}
