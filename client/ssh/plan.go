package ssh

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/client"
)

// plan is how a machine is reached: by the hops in their order, the last of which is the machine itself, or
// by the user's ssh program when outside says why.
type plan struct {
	hops    []hop
	outside string
	// config is a configuration to hand to the ssh program, because it would look for another one.
	config string
}

func (p *plan) target() *hop { return &p.hops[len(p.hops)-1] }

// hop is one machine with what ssh_config says of it.
type hop struct {
	alias string
	host  string
	port  int
	user  string

	identities   []identity
	certificates []string
	onlyThese    bool   // offer no other keys of the agent
	agent        string // the socket of the agent, "" for none

	knownUser, knownGlobal []string
	keyAlias               string
	strict                 strictness
	hashKnown              bool

	connectTime, heartbeat time.Duration
	network                string // tcp, tcp4 or tcp6
	pubkey, password, kbd  bool
	batch                  bool
}

// name is how people name the hop.
func (h *hop) name() string { return h.user + "@" + h.alias }

// address is where the hop is reached.
func (h *hop) address() string { return hostPort(h.host, h.port) }

// identity is a file with a key.
type identity struct {
	path string
	// named says that the configuration names it; files that are only looked for may be missing.
	named bool
}

// strictness is what happens to a machine whose key is not known. A changed key is refused in any case.
type strictness int

const (
	ask       strictness = iota // ask, if there is somebody to ask
	refuse                      // refuse
	acceptNew                   // take it
)

// defaultIdentities are the files that are tried when none is named.
var defaultIdentities = []string{"id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"}

// beyondUs are keywords that change how a machine is reached or trusted in a way that is left to the ssh
// program. Those that are not here and not read below change nothing for us.
var beyondUs = []string{
	"proxycommand", "proxyusefdpass", "pkcs11provider", "smartcarddevice", "securitykeyprovider", "knownhostscommand",
	"bindaddress", "bindinterface", "ciphers", "macs", "kexalgorithms", "hostkeyalgorithms",
	"pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes", "casignaturealgorithms", "requiredrsasize", "revokedhostkeys",
	"channeltimeout", "tag",
}

// resolver makes plans.
type resolver struct {
	home       string
	localUser  string
	passwdHome string
	getenv     func(string) string
	system     string // the configuration of the machine
}

func newResolver(o Options) (*resolver, error) {
	r := &resolver{getenv: o.Getenv, system: systemConfig}
	if r.getenv == nil {
		r.getenv = os.Getenv
	}
	if me, err := user.Current(); err == nil {
		r.passwdHome, r.localUser = me.HomeDir, me.Username
		if i := strings.LastIndexByte(r.localUser, '\\'); i >= 0 {
			r.localUser = r.localUser[i+1:] // Windows names the domain
		}
	}
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if r.home == "" {
			r.home = strings.TrimSpace(r.getenv(name))
		}
	}
	if r.home == "" {
		r.home = r.passwdHome
	}
	if r.home == "" {
		return nil, fail(StepConfig, CodeConfig, client.Invalid, "the home directory is not known, and with it ~/.ssh; set HOME")
	}
	return r, nil
}

// plan resolves an address.
func (r *resolver) plan(a Address) (*plan, error) {
	p := &plan{}
	if r.home != r.passwdHome { // the program asks the passwd database
		p.config = filepath.Join(r.home, ".ssh", "config")
		if _, err := os.Stat(p.config); err != nil {
			p.config = os.DevNull
		}
	}
	err := r.hops(p, a, nil, false, 0)
	if far, ok := errors.AsType[*beyond](err); ok {
		p.outside = far.what
		return p, nil
	}
	if err != nil {
		if _, ok := errors.AsType[*client.Error](err); ok {
			return nil, err
		}
		return nil, with(fail(StepConfig, CodeConfig, client.Invalid, "the configuration of SSH does not hold: "+plain(err.Error())), err)
	}
	return p, nil
}

// hops appends the hops to a machine and the machine itself. Named jump hosts replace those that the
// configuration names.
func (r *resolver) hops(p *plan, a Address, jumps []Address, named bool, depth int) error {
	if depth > maxJumps {
		return fmt.Errorf("there are more than %d jump hosts; look whether they name each other (ProxyJump)", maxJumps)
	}
	h, s, err := r.hop(a)
	if err != nil {
		return err
	}
	if !named {
		if jumps, err = parseJumps(s.first("proxyjump")); err != nil {
			return err
		}
	}
	if n := len(jumps); n > 0 {
		// The way to a jump host goes through those that are named before it; the first one may have
		// some of its own.
		if err := r.hops(p, jumps[n-1], jumps[:n-1], n > 1, depth+1); err != nil {
			return err
		}
	}
	p.hops = append(p.hops, *h)
	return nil
}

// parseJumps reads the value of ProxyJump.
func parseJumps(s string) ([]Address, error) {
	if s == "" || strings.EqualFold(s, "none") {
		return nil, nil
	}
	var list []Address
	for one := range strings.SplitSeq(s, ",") {
		one = strings.TrimSpace(one)
		if _, ok := cutScheme(one); !ok {
			one = scheme + one
		}
		a, err := ParseAddress(one)
		if err != nil {
			return nil, fmt.Errorf("ProxyJump %q is not understood", plain(s))
		}
		list = append(list, a)
	}
	return list, nil
}

// hop reads what ssh_config says of one machine.
func (r *resolver) hop(a Address) (*hop, settings, error) {
	c := &configReader{home: r.home, alias: a.Host, user: a.User, localUser: r.localUser, getenv: r.getenv, got: settings{}}
	if err := c.read(filepath.Join(r.home, ".ssh", "config"), false); err != nil {
		return nil, nil, err
	}
	if r.system != "" {
		if err := c.read(r.system, true); err != nil {
			return nil, nil, err
		}
	}
	s := c.got
	for _, key := range beyondUs {
		if v := s.first(key); v != "" && !strings.EqualFold(v, "none") && (key != "securitykeyprovider" || v != "internal") {
			return nil, nil, &beyond{key + " is set for " + a.Host}
		}
	}
	if v := s.first("canonicalizehostname"); v != "" && !strings.EqualFold(v, "no") {
		return nil, nil, &beyond{"canonicalizehostname is set for " + a.Host}
	}
	h := &hop{alias: a.Host, host: a.Host, port: a.Port, user: a.User, network: "tcp",
		connectTime: connectTime, heartbeat: Heartbeat}
	if v := s.first("hostname"); v != "" {
		h.host = strings.NewReplacer("%%", "%", "%h", a.Host).Replace(v)
	}
	if h.user == "" {
		if h.user = s.first("user"); h.user == "" {
			h.user = r.localUser
		}
	}
	if h.port == 0 {
		h.port = 22
		if v := s.first("port"); v != "" {
			n, ok := parsePort(v)
			if !ok {
				return nil, nil, fmt.Errorf("port %q of %s is no port", plain(v), a.Host)
			}
			h.port = n
		}
	}
	if !validHost(h.host) || !validUser(h.user) {
		return nil, nil, fmt.Errorf("the HostName or User of %s is not a name", a.Host)
	}
	switch strings.ToLower(s.first("addressfamily")) {
	case "inet":
		h.network = "tcp4"
	case "inet6":
		h.network = "tcp6"
	}
	var err error
	if h.connectTime, err = duration(s, "connecttimeout", connectTime); err != nil {
		return nil, nil, err
	}
	// Their heartbeat may be shorter than ours, for a NAT that forgets; a longer one would break our word.
	if h.heartbeat, err = duration(s, "serveraliveinterval", Heartbeat); err != nil {
		return nil, nil, err
	}
	h.heartbeat = min(h.heartbeat, Heartbeat)
	h.pubkey = s.is("pubkeyauthentication", true)
	h.password = s.is("passwordauthentication", true)
	h.kbd = s.is("kbdinteractiveauthentication", s.is("challengeresponseauthentication", true))
	h.batch = s.is("batchmode", false)
	h.onlyThese = s.is("identitiesonly", false)
	h.hashKnown = s.is("hashknownhosts", false)
	h.keyAlias = strings.ToLower(s.first("hostkeyalias"))
	switch v := strings.ToLower(s.first("stricthostkeychecking")); v {
	case "", "ask":
	case "yes", "true":
		h.strict = refuse
	case "accept-new", "no", "false", "off":
		h.strict = acceptNew // "no" would also take a changed key, which we never do
	default:
		return nil, nil, fmt.Errorf("StrictHostKeyChecking %q of %s is not understood", plain(v), a.Host)
	}
	if err := r.files(h, s); err != nil {
		return nil, nil, err
	}
	return h, s, nil
}

// files resolves the files that ssh_config names.
func (r *resolver) files(h *hop, s settings) error {
	x := expander{r: r, h: h}
	for _, v := range s["identityfile"] {
		if !strings.EqualFold(v[0], "none") {
			h.identities = append(h.identities, identity{x.path(v[0]), true})
		}
	}
	if _, set := s["identityfile"]; !set {
		for _, name := range defaultIdentities {
			h.identities = append(h.identities, identity{filepath.Join(r.home, ".ssh", name), false})
		}
	}
	for _, v := range s["certificatefile"] {
		h.certificates = append(h.certificates, x.path(v[0]))
	}
	switch v := s.first("identityagent"); {
	case strings.EqualFold(v, "none"):
	case v == "" || v == "SSH_AUTH_SOCK":
		h.agent = r.getenv("SSH_AUTH_SOCK")
	case strings.HasPrefix(v, "$") && !strings.HasPrefix(v, "${"):
		h.agent = r.getenv(v[1:])
	default:
		h.agent = x.path(v)
	}
	if h.agent == "" && s.first("identityagent") == "" {
		h.agent = defaultAgent
	}
	known := func(key string, or ...string) []string {
		list := or
		if v := s[key]; len(v) > 0 {
			list = v[0]
		}
		var out []string
		for _, p := range list {
			if !strings.EqualFold(p, "none") {
				out = append(out, x.path(p))
			}
		}
		return out
	}
	h.knownUser = known("userknownhostsfile", "~/.ssh/known_hosts", "~/.ssh/known_hosts2")
	h.knownGlobal = known("globalknownhostsfile", systemKnown...)
	return x.err
}

// expander expands what stands for something else in the name of a file.
type expander struct {
	r   *resolver
	h   *hop
	err error
}

func (x *expander) path(p string) string {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = ""
	}
	short, _, _ := strings.Cut(hostname, ".")
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '%' && i+1 < len(p):
			i++
			switch p[i] {
			case '%':
				b.WriteByte('%')
			case 'd':
				b.WriteString(x.r.home)
			case 'h':
				b.WriteString(x.h.host)
			case 'n':
				b.WriteString(x.h.alias)
			case 'p':
				b.WriteString(strconv.Itoa(x.h.port))
			case 'r':
				b.WriteString(x.h.user)
			case 'u':
				b.WriteString(x.r.localUser)
			case 'l':
				b.WriteString(hostname)
			case 'L':
				b.WriteString(short)
			case 'k':
				if x.h.keyAlias != "" {
					b.WriteString(x.h.keyAlias)
				} else {
					b.WriteString(x.h.alias)
				}
			default:
				x.err = &beyond{"%" + plain(p[i:i+1]) + " in the name of a file"}
			}
		case strings.HasPrefix(p[i:], "${"):
			name, _, ok := strings.Cut(p[i+2:], "}")
			if !ok {
				x.err = errors.New("${ is not closed in the name of a file")
				return p
			}
			b.WriteString(x.r.getenv(name))
			i += len("${") + len(name)
		default:
			b.WriteByte(p[i])
		}
	}
	full := expandHome(b.String(), x.r.home)
	if !filepath.IsAbs(full) {
		if abs, err := filepath.Abs(full); err == nil {
			full = abs
		}
	}
	return full
}

// duration reads a time as ssh_config has it: seconds, or numbers with the units s, m and h.
func duration(s settings, key string, or time.Duration) (time.Duration, error) {
	v := strings.ToLower(s.first(key))
	if v == "" || v == "none" || v == "0" {
		return or, nil
	}
	if n, err := strconv.Atoi(v); err == nil && n > 0 && n < 1<<20 {
		return time.Duration(n) * time.Second, nil
	}
	if d, err := time.ParseDuration(v); err == nil && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%s %q is no time", key, plain(v))
}
