package config

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// Tailnet is gateway.tailnet, which is hanzod's own: the daemon as a machine of a tailnet, for builds
// that can be one. The older gateway.tailscale is about a Tailscale service that is installed.
type Tailnet struct {
	Enabled bool
	// Hostname is what the machine asks to be called; "" is hanzod- and the name of this one.
	Hostname string
	// ControlURL is the control server, "" for Tailscale's own.
	ControlURL string
	// AuthKeyFile holds the key that lets the machine in. The variable HANZOD_TS_AUTHKEY wins over it.
	AuthKeyFile string
	Ephemeral   bool
	// Tags are what the machine asks to be tagged with.
	Tags []string
	// Grants say who may do what; nobody else may do anything.
	Grants []TailnetGrant
}

// TailnetGrant is an entry of gateway.tailnet.grants: who is in one of the lists has the role, and as an
// operator the scopes.
type TailnetGrant struct {
	Users, Groups, Tags []string
	Role                string   // operator (default), node
	Scopes              []string // for operators, at least one
}

const (
	// maxTailnetGrants bounds gateway.tailnet.grants: all of them are compared with whoever connects.
	maxTailnetGrants = 256
	// maxAuthKey bounds an auth key.
	maxAuthKey = 4 << 10
)

var tailnetScopes = []string{
	"operator.read", "operator.write", "operator.approvals", "operator.pairing", "operator.admin", "operator.talk.secrets",
}

// hostLabel is a name that a machine of a tailnet can have.
var hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (l *loader) tailnet(o object, t *Tailnet) {
	o.bool("enabled", &t.Enabled)
	o.str("hostname", &t.Hostname)
	o.str("controlUrl", &t.ControlURL)
	o.file("authKeyFile", &t.AuthKeyFile)
	o.bool("ephemeral", &t.Ephemeral)
	o.strs("tags", &t.Tags)
	l.tailnetTags("gateway.tailnet.tags", o.n, t.Tags)
	list := o.typed("grants", json5.Array)
	o.strict()
	if list == nil {
		return
	}
	if len(list.Items) > maxTailnetGrants {
		l.fail("gateway.tailnet.grants", list, "Expected at most "+strconv.Itoa(maxTailnetGrants)+" entries")
		return
	}
	for i, n := range list.Items {
		at := "gateway.tailnet.grants." + strconv.Itoa(i)
		if n.Kind != json5.Object {
			l.fail(at, n, "Expected object, got "+n.Kind.String())
			continue
		}
		g := TailnetGrant{Role: "operator"}
		e := object{l: l, n: n, path: at, known: new([]string)}
		e.strs("users", &g.Users)
		e.strs("groups", &g.Groups)
		e.strs("tags", &g.Tags)
		e.choice("role", &g.Role, "operator", "node")
		e.strs("scopes", &g.Scopes)
		e.strict()
		l.tailnetTags(at+".tags", n, g.Tags)
		for _, name := range append(append([]string{}, g.Users...), g.Groups...) {
			if strings.TrimSpace(name) == "" || strings.ContainsAny(name, "*?") {
				l.fail(at, n, "Expected full logins and groups, without patterns, got "+quote(name))
			}
		}
		switch {
		case len(g.Users)+len(g.Groups)+len(g.Tags) == 0:
			l.fail(at, n, "Expected users, groups or tags: a grant names whom it is for")
		case g.Role == "node" && len(g.Scopes) > 0:
			l.fail(at+".scopes", n, "Expected no scopes: a node has none")
		case g.Role == "operator" && len(g.Scopes) == 0:
			l.fail(at+".scopes", n, "Expected at least one scope").AllowedValues = tailnetScopes
		}
		for _, s := range g.Scopes {
			if !contains(tailnetScopes, s) {
				l.fail(at+".scopes", n, wrongChoice(s, tailnetScopes)).AllowedValues = tailnetScopes
			}
		}
		t.Grants = append(t.Grants, g)
	}
}

func (l *loader) tailnetTags(at string, n *json5.Node, tags []string) {
	for _, tag := range tags {
		if name, ok := strings.CutPrefix(tag, "tag:"); !ok || name == "" {
			l.fail(at, n, "Expected tag:name, got "+quote(tag))
		}
	}
}

// tailnetOverride applies the environment to gateway.tailnet and checks the outcome.
func (l *loader) tailnetOverride(opts Options) {
	t := &l.config.Gateway.Tailnet
	if _, v := l.variable("HANZOD_TAILNET"); v != "" {
		on, err := Environ(l.env).Bool("HANZOD_TAILNET")
		if err != nil {
			l.fail("HANZOD_TAILNET", nil, "Expected true or false, got "+quote(v))
		}
		t.Enabled = on
	}
	if opts.Tailnet {
		t.Enabled = true
	}
	at := "gateway.tailnet.hostname"
	if name, v := l.variable("HANZOD_TS_HOSTNAME"); v != "" {
		at, t.Hostname = name, v
	}
	if t.Hostname = strings.ToLower(t.Hostname); t.Hostname != "" && !hostLabel.MatchString(t.Hostname) {
		l.fail(at, nil, "Expected letters, digits and hyphens, 63 at the most, got "+quote(t.Hostname))
	}
	at = "gateway.tailnet.controlUrl"
	if name, v := l.variable("HANZOD_TS_CONTROL_URL"); v != "" {
		at, t.ControlURL = name, v
	}
	if t.ControlURL != "" {
		u, err := url.Parse(t.ControlURL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			l.fail(at, nil, "Expected the https:// address of a control server")
		}
	}
}

// TailnetAuthKey is the key that lets this machine into the tailnet, "" without one: of the variable
// HANZOD_TS_AUTHKEY, its file or its older names, else what the file of gateway.tailnet.authKeyFile
// holds. It is read when it is needed, so that the file may be replaced.
func (c *Config) TailnetAuthKey(env Environ) (string, error) {
	from, v, err := env.Secret("HANZOD_TS_AUTHKEY")
	if err != nil || from != "" {
		return v.Reveal(), err
	}
	path := c.Gateway.Tailnet.AuthKeyFile
	if path == "" {
		return "", nil
	}
	text, err := readFile(path, maxAuthKey)
	if err != nil {
		return "", fmt.Errorf("cannot read the auth key of the tailnet: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" || strings.ContainsAny(key, " \t\r\n") {
		return "", fmt.Errorf("%s holds no auth key: one line is expected", path)
	}
	return key, nil
}

// TailnetHostname is what the machine asks to be called.
func (c *Config) TailnetHostname() string {
	if name := c.Gateway.Tailnet.Hostname; name != "" {
		return name
	}
	host, err := os.Hostname()
	if err != nil {
		return "hanzod"
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	host = strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString("hanzod-"+host, "-"), "-")
	return strings.TrimRight(host[:min(len(host), 63)], "-")
}

// TailnetPorts are the TCP ports on the tailnet of the older door and of gRPC: those of the daemon, or
// the default ones where it takes free ones.
func (c *Config) TailnetPorts() (gateway, grpc int) {
	if gateway = c.Gateway.Port; gateway == 0 {
		gateway = DefaultPort
	}
	if p := c.Gateway.GRPC.Port; p != nil && *p != 0 && *p != gateway {
		return gateway, *p
	}
	if gateway == 65535 {
		return gateway, DefaultPort + 1
	}
	return gateway, gateway + 1
}
