package ssh

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// configs are configurations with the hosts to ask about.
var configs = []struct {
	name, text string
	hosts      []string
	args       []string // of ssh, with the user
}{
	{"plain", "Host box\n  HostName 10.0.0.1\n  Port 2222\n  User alice\n", []string{"box", "other", "BOX"}, nil},
	{"first wins", "Host box\n User one\nHost *\n User two\n Port 3\nHost box\n Port 4\n", []string{"box", "x"}, nil},
	{"patterns", "Host web? db* !db9\n User p\nHost *.example.com !secret.example.com\n User q\n", []string{"web", "web1", "web12", "db", "db9", "db91", "a.example.com", "secret.example.com", "example.com"}, nil},
	{"tabs, quotes and equals", "Host\tbox\t\"other box\"  third\n\tUser=bob\n\tPort = 77\nHostName\t\"10.0.0.2\"\n IdentityFile \"/a b/key\"\n", []string{"box", "third"}, nil},
	{"comments", "# one\nHost box # two\n  # three\n  User c # four\n  Port 5#6\n", []string{"box"}, nil},
	{"comments at the end", "Host box # two\n  User c # four\n", []string{"box"}, nil},
	{"several keys", "IdentityFile /k/one\nHost box\n IdentityFile /k/two\n IdentityFile ~/three\nHost *\n IdentityFile /k/four\n", []string{"box", "x"}, nil},
	{"case of keywords", "HOST box\n hostNAME 10.1.1.1\n PORT 9\n", []string{"box"}, nil},
	{"token in the name", "Host box\n HostName %h.example.com\n", []string{"box"}, nil},
	{"match host", "Host box\n HostName inner.example.com\nMatch host inner.*\n User m\nMatch originalhost box\n Port 8\nMatch all\n IdentityFile /k/all\n", []string{"box", "inner.example.com", "x"}, nil},
	{"match in another case", "Match host BOX\n Port 8\nMatch originalhost Other\n Port 9\n", []string{"box", "BOX", "other", "OTHER"}, nil},
	{"match user", "Match user alice\n Port 8\nMatch user bob,!carol host box\n Port 9\nMatch !user alice\n Port 10\n", []string{"box"}, []string{"-l", "alice"}},
	{"match user from the file", "Host box\n User dave\nMatch user dave\n Port 8\n", []string{"box", "x"}, nil},
	{"match equals", "Match host=box user=alice\n Port 8\n", []string{"box"}, []string{"-l", "alice"}},
	{"match of several", "Match originalhost a,b,box*\n Port 8\n", []string{"b", "box7", "c"}, nil},
	{"include", "Include inc/*.conf\nHost box\n Port 1\n", []string{"box", "one", "two"}, nil},
	{"include in a block", "Host box\n Include inc/one.conf\n Port 3\nHost *\n User last\n", []string{"box", "one", "two"}, nil},
	{"include of nothing", "Include none/*.conf\nHost box\n Port 3\n", []string{"box"}, nil},
	{"carriage returns", "Host box\r\n  User w\r\n  Port 12\r\n", []string{"box"}, nil},
	{"known hosts", "Host box\n UserKnownHostsFile /a /b\n StrictHostKeyChecking accept-new\n HostKeyAlias Alias\n", []string{"box"}, nil},
	{"jump", "Host box\n ProxyJump alice@one:23,two\nHost none\n ProxyJump none\n", []string{"box"}, nil},
}

// What ssh itself makes of a configuration is what we make of it.
func TestConfigAsSSHReadsIt(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("there is no ssh here (Debian: openssh-client)")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("inc/one.conf", "Host one\n Port 11\nHost *\n IdentityFile /k/inc\n")
	write("inc/two.conf", "Host two\n Port 22\n User inctwo\n")
	keys := []string{"hostname", "user", "port", "identityfile", "proxyjump", "stricthostkeychecking", "userknownhostsfile", "hostkeyalias"}
	for _, c := range configs {
		path := write("config", strings.ReplaceAll(c.text, "Include ", "Include "+dir+"/"))
		for _, host := range c.hosts {
			out, err := exec.Command("ssh", slices.Concat([]string{"-G", "-F", path}, c.args, []string{host})...).Output()
			if err != nil {
				t.Logf("%s: ssh does not read it: %v", c.name, err)
				out = nil
			}
			theirs := map[string][]string{}
			for line := range strings.Lines(string(out)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				theirs[key] = append(theirs[key], value)
			}
			r := &configReader{home: dir, alias: host, localUser: "me", getenv: os.Getenv, got: settings{}}
			if c.args != nil {
				r.user = c.args[1]
			}
			rerr := r.read(path, false)
			if (rerr != nil) != (err != nil) && c.name != "comments" {
				t.Errorf("%s: we say %v, ssh says %v", c.name, rerr, err)
			}
			if err != nil || rerr != nil {
				continue
			}
			for _, key := range keys {
				var ours []string
				for _, v := range r.got[key] {
					ours = append(ours, strings.Join(v, " "))
				}
				if len(ours) == 0 || key == "user" && r.user != "" {
					continue // the default, or the argument
				}
				for i, v := range ours {
					if key == "hostname" {
						ours[i] = strings.ReplaceAll(v, "%h", host)
					}
					if key == "hostkeyalias" {
						ours[i] = strings.ToLower(v)
					}
				}
				if !slices.Equal(ours, theirs[key]) {
					t.Errorf("%s, host %s: %s is %q for us and %q for ssh", c.name, host, key, ours, theirs[key])
				}
			}
			// And what we find unset is the default for ssh too.
			if p := theirs["port"]; r.got.first("port") == "" && len(p) == 1 && p[0] != "22" {
				t.Errorf("%s, host %s: ssh has the port %s", c.name, host, p[0])
			}
		}
	}
}

func TestConfigBeyondUs(t *testing.T) {
	dir := t.TempDir()
	r := &resolver{home: dir, localUser: "me", getenv: func(string) string { return "" }}
	if err := os.Mkdir(filepath.Join(dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ".ssh", "config")
	plan := func(text string) (*plan, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return r.plan(Address{Host: "box"})
	}
	for _, text := range []string{
		"ProxyCommand nc %h %p", "Match exec true\n User x", "Match final all\n User x", "PKCS11Provider /x", "Ciphers +3des-cbc",
		"CanonicalizeHostname yes", "KnownHostsCommand /x", "IdentityFile /k/%i", "Host box\nProxyJump j\nHost j\nProxyCommand x",
		"Match tagged a\n User x", "Match host box exec false\n User x", "BindAddress 10.0.0.1",
	} {
		if p, err := plan(text); err != nil || p.outside == "" {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	for _, text := range []string{
		"ProxyCommand none", "Match host other exec true\n User x", "Host other\nProxyCommand x", "SecurityKeyProvider internal",
		"GSSAPIAuthentication yes\nSendEnv LANG\nForwardAgent yes\nControlMaster auto\nControlPath /x\nLocalForward 1 a:1\nRequestTTY yes",
	} {
		if p, err := plan(text); err != nil || p.outside != "" {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	for text, says := range map[string]string{
		"User":                         "config:1",
		"Port x":                       "no port",
		"StrictHostKeyChecking maybe":  "not understood",
		"User \"a":                     "quote",
		"HostName -oProxyCommand=evil": "not a name",
		"HostName a;b":                 "not a name",
		"User $(id)":                   "not a name",
		"ProxyJump -x":                 "not understood",
		"ConnectTimeout soon":          "no time",
		"Include config":               "include each other",
		"Match host":                   "no value",
		"ProxyJump box":                "jump hosts",
	} {
		if p, err := plan(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	if runtime.GOOS == "windows" || os.Geteuid() < 0 {
		return
	}
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := r.plan(Address{Host: "box"}); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a configuration that others can write is read: %v", err)
	}
}

func TestConfigFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, make([]byte, maxConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &configReader{alias: "box", got: settings{}}
	if err := r.read(path, false); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Fatal(err)
	}
	if err := r.read(path+"x", false); err != nil {
		t.Fatal("a file that is not there is a fault:", err)
	}
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Address{
		"ssh://box":                      {Host: "box"},
		" SSH://box/ ":                   {Host: "box"},
		"ssh://alice@box:22":             {User: "alice", Host: "box", Port: 22},
		`ssh://DOM\alice@box`:            {User: `DOM\alice`, Host: "box"},
		"ssh://a@corp.example@box":       {User: "a@corp.example", Host: "box"},
		"ssh://[::1]:2222":               {Host: "::1", Port: 2222},
		"ssh://u@[fe80::1%eth0]":         {User: "u", Host: "fe80::1%eth0"},
		"ssh://my_box.example.com:65535": {Host: "my_box.example.com", Port: 65535},
	} {
		a, err := ParseAddress(in)
		if err != nil || a != want {
			t.Errorf("%q: %+v, %v", in, a, err)
		}
	}
	for _, in := range []string{
		"", "box", "http://box", "ssh://", "ssh:///x", "ssh://@box", "ssh://-oProxyCommand=x", "ssh://-x@box", "ssh://a b", "ssh://box:0",
		"ssh://box:65536", "ssh://box:", "ssh://box:2x", "ssh://box:+22", "ssh://::1", "ssh://[::1", "ssh://[box]", "ssh://[::1]x", "ssh://[::1]:",
		"ssh://box/path", "ssh://box?x", "ssh://box#x", "ssh://bo%78", "ssh://box;id", "ssh://$(id)", "ssh://`id`@box", "ssh://a\nb", "ssh://a@box\x00",
		"ssh://é", "ssh://a|b@box", `ssh://a\@box`, "ssh://%h", "ssh://" + strings.Repeat("a", 256), "ssh://[fe80::1%-x;]",
	} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("%q is taken: %+v", in, a)
		}
	}
	_, err := ParseAddress("ssh://alice:hunter2@box")
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "password") {
		t.Error(err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"ssh://a@b:1", "ssh://[::1]:2", "ssh://a:b@c", "ssh://-x", "ssh://[fe80::1%a]", `ssh://a\b@c/`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if strings.HasPrefix(a.Host, "-") || strings.HasPrefix(a.User, "-") || a.Host == "" ||
			strings.ContainsAny(a.Host+a.User, " \t\r\n\x00'\"`$;&<>|(){}*?!#") {
			t.Fatalf("%q is read as %+v", s, a)
		}
		b, err := ParseAddress(a.String())
		if err != nil || a != b {
			t.Fatalf("%+v is written as %q, which is read as %+v, %v", a, a.String(), b, err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	for _, c := range configs {
		f.Add(c.text, "box")
	}
	f.Fuzz(func(t *testing.T, text, host string) {
		r := &configReader{home: "/nowhere", alias: host, localUser: "me", got: settings{}}
		active := true
		for line := range strings.Lines(text) {
			if strings.Contains(strings.ToLower(line), "include") {
				continue
			}
			if r.line(line, "config", false, &active, 0) != nil {
				return
			}
		}
		for key, v := range r.got {
			if key == "" || len(v) == 0 {
				t.Fatalf("%q has %q", key, v)
			}
		}
	})
}

func FuzzFacts(f *testing.F) {
	f.Add("uid=0\ngiven=\ndir=/x\nlook=/x/hanzod.sock\nsocket=srw------- 1 0 0 0 Jan 1 00:00 /x\nparent=drwx------ 1 0 0 0 Jan 1 00:00 /\nfile\n{}")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := (&Host{}).readFacts(s)
		if err == nil && p.socket != "" && !p.none && p.foreign == "" && !strings.HasPrefix(p.socket, "/") {
			t.Fatalf("%+v", p)
		}
	})
}

func TestGreeting(t *testing.T) {
	t.Parallel()
	const g = "hanzod-0123456789abcdef"
	for in, rest := range map[string]string{
		g + "\nrest": "rest", "Welcome\n" + g + "\n\x00\x01": "\x00\x01", "no line end" + g + "\n": "",
		strings.Repeat("x", 5000) + g + "\nz": "z", g + "x\n" + g + "\ny": "y",
	} {
		r := strings.NewReader(in)
		if err := greet(r, g); err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		left := make([]byte, r.Len())
		_, _ = r.Read(left)
		if string(left) != rest {
			t.Errorf("%q leaves %q", in, left)
		}
	}
	for _, in := range []string{"", "x", g, strings.Repeat("y\n", maxNoise)} {
		if err := greet(strings.NewReader(in), g); err == nil {
			t.Errorf("%.20q is taken for a greeting", in)
		}
	}
}

func TestConnectLine(t *testing.T) {
	t.Parallel()
	five, zero := 5, 0
	p := &place{shell: true, program: "/opt/hanzod"}
	for want, c := range map[string]struct {
		h    *Host
		port *int
	}{
		`"$h" connect --stdio --greet g; done`:                    {&Host{}, nil},
		`"$h" connect --stdio --greet g --state-dir "/a b"; done`: {&Host{dir: "/a b"}, nil},
		`"$h" connect --stdio --greet g --socket "/s"; done`:      {&Host{dir: "/a b", socket: "/s"}, nil},
		`"$h" connect --stdio --greet g --port 5; done`:           {&Host{dir: "/a b", socket: "/s"}, &five},
		`"$h" connect --stdio --greet g --gateway --state-dir "/`: {&Host{dir: "/a b", socket: "/s"}, &zero},
	} {
		line, err := c.h.connectLine(p, c.port, "g")
		if err != nil || !strings.Contains(line, want) || !strings.HasPrefix(line, `sh -c 'for h in "/opt/hanzod" hanzod `) || strings.Count(line, "'") != 2 {
			t.Errorf("%q, %v", line, err)
		}
	}
	if line, err := (&Host{}).connectLine(&place{}, nil, "g"); err != nil || line != "hanzod connect --stdio --greet g" {
		t.Errorf("%q, %v", line, err)
	}
	for _, dir := range []string{"/a'b", `/a"b`, "/a$b", "/a`b", `/a\b`, "/a!b", "/a\nb"} {
		if line, err := (&Host{dir: dir}).connectLine(p, nil, "g"); err == nil {
			t.Errorf("%q", line)
		}
		p.program = dir
		if line, err := (&Host{}).connectLine(p, nil, "g"); err != nil || strings.Contains(line, dir) {
			t.Errorf("%q, %v", line, err)
		}
	}
}
