package config

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"github.com/hanzoai/hanzod/config/json5"
)

const (
	// maxNodeCommands bounds nodeHost.commands, maxUplinks uplinks: each of them is a connection.
	maxNodeCommands = 256
	maxUplinks      = 64
)

// NodeChat is nodeHost.chat: the program that answers chat.send (tunnel.md §1.5).
type NodeChat struct {
	// Command is its argv, in which {message} is the message; nil is the usual one.
	Command    []string
	Env        map[string]string
	TimeoutSec int // 120
}

// NodeDev is nodeHost.dev: the programs of dev.launch (tunnel.md §1.6).
type NodeDev struct {
	Programs []string
	Env      map[string]string
}

// NodeCheckpoints is nodeHost.checkpoints.
type NodeCheckpoints struct {
	// Protocols are those by which remotes of git are reached in a restore; nil is all that are known.
	Protocols []string
	// MaxFileBytes bounds a file that is saved, MaxBytes all of them.
	MaxFileBytes, MaxBytes int64
}

// NodeCommand is an entry of nodeHost.commands.
type NodeCommand struct {
	Name, Description string
	Argv              []string
	Params            []NodeParam
	Cwd               string
	Env               map[string]string
	TimeoutMs         int // 30000
	Replace           bool
}

// NodeParam is a parameter of one.
type NodeParam struct {
	Name, Type, Description string
	Optional                bool
	Default                 []byte // JSON text, nil for none
	Pattern                 string
	Enum                    []string
	MaxLength               int
	AllowDash               bool
	Minimum, Maximum        *int64
	Flag                    string
	Roots                   []string
}

// Uplink is an entry of uplinks: another hanzod or a relay that this machine is an instance of (tunnel.md §5.3,
// row 10).
type Uplink struct {
	Name    string
	Enabled bool
	URL     string
	Token   Secret
	// InstanceID, AppKind and DisplayName are what the machine says of itself; AppKind is node when unset.
	InstanceID, AppKind, DisplayName string
	// CAFile and Fingerprint say whom to trust; without both it is who the system trusts.
	CAFile, Fingerprint string
	AllowInsecure       bool
	Reconnect           bool // true
	// Commands are those that are offered, nil for all.
	Commands []string
}

func (l *loader) nodeHost(o object, h *NodeHost) {
	h.Chat.TimeoutSec = 120
	chat := o.object("chat")
	chat.strs("command", &h.Chat.Command)
	chat.texts("env", &h.Chat.Env)
	chat.int("timeoutSec", 1, 86_400, &h.Chat.TimeoutSec)
	if n := h.Chat.Command; n != nil && (len(n) < 2 || n[0] == "" || !slices.Contains(n[1:], "{message}")) {
		l.doubt("nodeHost.chat.command", "Expected a program, and the word {message} after it")
	}
	chat.strict()
	o.str("screen", &h.Screen)
	if _, _, ok := VNCAddress(h.Screen); h.Screen != "" && !ok {
		l.doubt("nodeHost.screen", "Expected host:port or a port; no screen is shown")
		h.Screen = ""
	}
	points := o.object("checkpoints")
	h.Checkpoints.MaxFileBytes, h.Checkpoints.MaxBytes = 1<<30, 1<<31
	points.strs("protocols", &h.Checkpoints.Protocols)
	points.integer("maxFileBytes", 1, 1<<31, &h.Checkpoints.MaxFileBytes)
	points.integer("maxBytes", 1, 1<<31, &h.Checkpoints.MaxBytes)
	points.strict()
	dev := o.object("dev")
	dev.strs("programs", &h.Dev.Programs)
	dev.texts("env", &h.Dev.Env)
	dev.strict()
	for name, e := range o.object("commands").entries(maxNodeCommands) {
		c := NodeCommand{Name: name, TimeoutMs: 30_000}
		e.str("description", &c.Description)
		e.strs("argv", &c.Argv)
		e.str("cwd", &c.Cwd)
		if c.Cwd != "" {
			e.file("cwd", &c.Cwd)
		}
		e.texts("env", &c.Env)
		e.int("timeoutMs", 1, 86_400_000, &c.TimeoutMs)
		e.bool("replace", &c.Replace)
		if len(c.Argv) == 0 || c.Argv[0] == "" {
			l.doubt(join(e.path, "argv"), "Expected a program")
		}
		for param, p := range e.object("params").entries(maxNodeCommands) {
			c.Params = append(c.Params, l.nodeParam(param, p))
		}
		e.strict()
		h.Commands = append(h.Commands, c)
	}
}

func (l *loader) nodeParam(name string, o object) NodeParam {
	p := NodeParam{Name: name, Type: "string", MaxLength: 4096}
	o.choice("type", &p.Type, "string", "integer", "boolean", "path")
	o.str("description", &p.Description)
	o.bool("optional", &p.Optional)
	if n := o.take("default"); n != nil {
		switch n.Kind {
		case json5.String:
			p.Default, _ = json.Marshal(n.Str) // a text has no error
		case json5.Number:
			p.Default = strconv.AppendFloat(nil, n.Num, 'f', -1, 64)
		case json5.Bool:
			p.Default = strconv.AppendBool(nil, n.Bool)
		default:
			o.want("default", "text, number or boolean", n)
		}
	}
	o.str("pattern", &p.Pattern)
	if _, err := regexp.Compile(p.Pattern); err != nil {
		l.doubt(join(o.path, "pattern"), "Expected a regular expression: "+err.Error())
	}
	o.strs("enum", &p.Enum)
	o.int("maxLength", 1, 65_536, &p.MaxLength)
	o.bool("allowDash", &p.AllowDash)
	for key, into := range map[string]**int64{"minimum": &p.Minimum, "maximum": &p.Maximum} {
		if o.n.Get(key) != nil {
			*into = new(int64)
		}
		var v int64
		o.integer(key, -noBound, noBound, &v)
		if *into != nil {
			**into = v
		}
	}
	o.str("flag", &p.Flag)
	o.strs("roots", &p.Roots)
	o.strict()
	return p
}

// uplinkName is what an uplink can be called: it stands in addresses and paths.
var uplinkName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (l *loader) uplinks(o object, into *[]Uplink) {
	// Tokens that stand elsewhere are put in later, so none of them may move.
	if o.n == nil {
		return
	}
	all := make([]Uplink, 0, min(len(o.n.Members), maxUplinks))
	for name, e := range o.entries(maxUplinks) {
		u := &Uplink{Name: name, Enabled: true, AppKind: "node", Reconnect: true}
		if !uplinkName.MatchString(u.Name) {
			l.doubt(e.path, "Expected a name of at most 63 small letters, digits, dashes and underscores")
			continue
		}
		all = append(all, *u)
		u = &all[len(all)-1]
		e.bool("enabled", &u.Enabled)
		e.str("url", &u.URL)
		// A token in the address would be shown with it.
		switch at, err := url.Parse(u.URL); {
		case err != nil || at.Host == "" || at.Scheme != "ws" && at.Scheme != "wss":
			l.doubt(join(e.path, "url"), "Expected ws://host[:port]/path or wss://host[:port]/path")
		case at.User != nil || at.RawQuery != "":
			l.doubt(join(e.path, "url"), "Expected an address without a token in it; say token beside it")
		}
		e.secret("token", &u.Token, func() bool { return u.Enabled })
		e.str("instanceId", &u.InstanceID)
		e.str("appKind", &u.AppKind)
		e.str("displayName", &u.DisplayName)
		e.file("caFile", &u.CAFile)
		e.str("fingerprint", &u.Fingerprint)
		e.bool("allowInsecure", &u.AllowInsecure)
		e.bool("reconnect", &u.Reconnect)
		e.strs("commands", &u.Commands)
		e.strict()
	}
	if len(all) > 0 {
		*into = all
	}
}

// doubt is for what stops nothing but itself: the daemon serves without a command or an uplink that cannot be.
func (l *loader) doubt(path, text string) {
	l.config.Warnings = append(l.config.Warnings, path+": "+text)
}
