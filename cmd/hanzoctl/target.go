package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
)

// connectLimit bounds how long it may take to reach a daemon when --timeout is not given; a person may be
// asked on the way.
const connectLimit = 2 * time.Minute

// localName is what this machine is called where a context could be meant.
const localName = "local"

// The kinds of targets.
const (
	kindLocal   = "local"   // the daemon of this user on this machine
	kindSocket  = "socket"  // another socket of this machine
	kindTLS     = "hanzod"  // another machine over TLS
	kindSSH     = "ssh"     // another machine over SSH
	kindTailnet = "tailnet" // another machine over the tailnet
)

// Who chose a target.
const (
	byDefault = "default"
	byFlag    = "flag"
	byEnv     = "environment"
	byContext = "context"
	// byDiscovery: no daemon answers where one usually is, and the shared discovery file names another.
	byDiscovery = "discovery"
)

// target is the daemon that a command line means. The exported fields are what JSON shows of it.
type target struct {
	Kind string `json:"kind"`
	// Name is that of its context, "" without one.
	Name string `json:"name,omitempty"`
	// Address is a path, or a URL without secrets.
	Address string `json:"address"`
	// Attached is the daemon behind a socket of "hanzoctl attach".
	Attached string `json:"attached,omitempty"`
	// ChosenBy is flag, environment, context (the one of "hanzoctl context use"), discovery or default.
	ChosenBy string `json:"chosenBy"`

	variable string // of the environment that chose it
	options  client.Options
	// socketThere and stateDirThere are where the daemon is on a machine that is reached by SSH, "" for where
	// it is by itself.
	socketThere, stateDirThere string
	// anchored says that options know the certificate of a daemon over TLS.
	anchored bool
	// knownSince is when its certificate was trusted, zero when something else says so.
	knownSince time.Time
}

// local reports whether it is the daemon that is meant where nothing is said.
func (t *target) local() bool { return t.Kind == kindLocal }

// String names it in a sentence.
func (t *target) String() string {
	switch {
	case t.Kind == kindLocal:
		return "this machine"
	case t.Attached != "":
		return t.Attached + " · attached at " + t.Address
	case t.Kind == kindSocket && t.Name == "":
		return "this machine · " + t.Address
	case t.Name != "":
		return t.Name + " · " + t.Address
	}
	return t.Address
}

// short is its name, or else its address.
func (t *target) short() string {
	switch {
	case t.Name != "":
		return t.Name
	case t.Attached != "":
		return t.Attached
	}
	return t.Address
}

// elsewhere names the daemon that is asked, "" where it is the one that is meant where nothing is said.
func (a *app) elsewhere() string {
	if a.to == nil || a.to.local() {
		return ""
	}
	return Text(a.to.String())
}

// target is the daemon to ask: flags first, then the environment, then the chosen context, then this machine.
func (a *app) target() (*target, error) {
	if a.to != nil {
		return a.to, nil
	}
	t, err := a.findTarget()
	if err == nil {
		t.options.ClientName = "hanzoctl/" + version()
		a.to = t
	}
	return t, err
}

func (a *app) findTarget() (*target, error) {
	here := a.socket != "" || a.stateDir != ""
	switch {
	case a.remote.host != "":
		t, err := a.hostTarget(a.remote.host, byFlag, "")
		if err == nil && here {
			if t.Kind != kindSSH {
				return nil, usagef("--socket and --state-dir are of a daemon on this machine, or with --host ssh:// on that one: give one of them")
			}
			t.socketThere, t.stateDirThere = a.socket, a.stateDir
		}
		return t, err
	case a.socket != "":
		return a.socketTarget(a.socket, byFlag, "")
	case a.stateDir != "":
		return a.socketTarget(client.FindIn(a.stateDir).Socket, byFlag, "")
	}
	if host := a.getenv("HANZOCTL_HOST"); host != "" {
		return a.hostTarget(host, byEnv, "$HANZOCTL_HOST")
	}
	if socket := strings.TrimSpace(a.getenv("HANZOD_SOCKET")); socket != "" {
		return a.socketTarget(socket, byEnv, "$HANZOD_SOCKET")
	}
	if strings.TrimSpace(a.getenv("HANZOD_STATE_DIR")) == "" {
		s, err := a.loadSettings()
		switch {
		case errors.Is(err, errNoHome): // then nothing was chosen
		case err != nil:
			return nil, err
		case s.context != "":
			return a.chosenTarget(s.context)
		}
	}
	return a.localTarget(byDefault)
}

// noHost refuses flags that are for a daemon over TLS alone.
func (a *app) noHost() error {
	if a.remote.tokenFile != "" || a.remote.fingerprint != "" || a.remote.ca != "" {
		return usagef("--token-file, --tls-fingerprint and --tls-ca are for a daemon on another machine that is asked over TLS: name it with --host")
	}
	return nil
}

// localTarget is the daemon of this user on this machine, whatever HANZOD_SOCKET says.
func (a *app) localTarget(by string) (*target, error) {
	if err := a.noHost(); err != nil {
		return nil, err
	}
	found, err := a.findLocal()
	t := &target{Kind: kindLocal, Address: found.Socket, ChosenBy: by}
	if found.By == client.ByShared && by == byDefault {
		// It is not the one of the usual state directory, and that must be seen.
		t.Kind, t.ChosenBy = kindSocket, byDiscovery
	}
	t.options.Socket = found.Socket
	return t, err
}

// findLocal is where the daemon of this user on this machine is. A socket that the environment names may be
// that of any daemon, such as one that is attached.
func (a *app) findLocal() (client.Found, error) {
	return client.Find(func(name string) string {
		if name == "HANZOD_SOCKET" {
			return ""
		}
		return a.getenv(name)
	})
}

func (a *app) socketTarget(path, by, variable string) (*target, error) {
	if err := a.noHost(); err != nil {
		return nil, err
	}
	if found, err := a.findLocal(); err == nil && found.Socket == path {
		return a.localTarget(by)
	}
	t := &target{Kind: kindSocket, Address: path, ChosenBy: by, variable: variable}
	t.options.Socket = path
	t.Attached = a.attachedAt(path)
	return t, nil
}

// chosenTarget is the context of "hanzoctl context use".
func (a *app) chosenTarget(name string) (*target, error) {
	c, err := a.loadContext(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &codeError{code: exitNotFound, text: fmt.Sprintf(
			`the chosen context is %s, and there is none of that name any more; choose another with "hanzoctl context use", or this machine with "hanzoctl context use local"`, name)}
	}
	if err != nil {
		return nil, err
	}
	return a.contextTarget(name, c, byContext, "")
}

// hostTarget is what --host or HANZOCTL_HOST names: this machine, a context, or an address.
func (a *app) hostTarget(word, by, variable string) (*target, error) {
	word = strings.TrimSpace(word)
	if word == localName {
		return a.localTarget(by)
	}
	if hostName.MatchString(word) {
		c, err := a.loadContext(word)
		if err == nil {
			return a.contextTarget(word, c, by, variable)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	address, kind, err := parseAddress(word)
	if err != nil {
		return nil, err
	}
	t := &target{Kind: kind, Address: address, ChosenBy: by, variable: variable}
	if kind == kindTLS {
		return t, a.overTLS(t, nil)
	}
	return t, a.plain(t)
}

// contextTarget is a saved daemon.
func (a *app) contextTarget(name string, c *hostContext, by, variable string) (*target, error) {
	address, kind, err := parseAddress(c.Address)
	if err != nil {
		return nil, fmt.Errorf("the context %s: %w", name, err)
	}
	t := &target{Kind: kind, Name: name, Address: address, ChosenBy: by, variable: variable, socketThere: c.Socket, stateDirThere: c.StateDir}
	if kind == kindTLS {
		return t, a.overTLS(t, c)
	}
	return t, a.plain(t)
}

// plain finishes a target that wants neither token nor certificate.
func (a *app) plain(t *target) error {
	if err := a.noHost(); err != nil {
		return err
	}
	if t.Kind == kindSocket {
		t.options.Socket = t.Address
		t.Attached = a.attachedAt(t.Address)
	}
	return nil
}

// overTLS finishes a target that is asked over TLS: flags win over what its context says, and that wins over
// the environment, which speaks of another one.
func (a *app) overTLS(t *target, c *hostContext) (err error) {
	o := &t.options
	o.Host = t.Address
	env := a.getenv
	tokenFile := a.remote.tokenFile
	pin, ca := a.remote.fingerprint, a.remote.ca
	if pin != "" && ca != "" {
		return usagef("a pinned certificate needs nobody to vouch for it: give --tls-fingerprint or --tls-ca")
	}
	flags := pin != "" || ca != ""
	if c == nil {
		if tokenFile == "" {
			tokenFile = env("HANZOCTL_TOKEN_FILE")
		}
		if o.Token, err = client.ReadToken(tokenFile, env, "HANZOD_TOKEN"); err != nil {
			return err
		}
		if o.Token == "" {
			return usagef(`the daemon on another machine wants a token: put the one that "hanzoctl token" prints there into a file, and name it with --token-file`)
		}
		if !flags {
			// A fingerprint of the environment wins over certificates of the environment.
			if pin = env("HANZOCTL_TLS_FINGERPRINT"); pin == "" {
				ca = env("HANZOCTL_TLS_CA")
			}
		}
	} else {
		if o.Token = c.Token; tokenFile != "" || o.Token == "" && c.TokenFile != "" {
			if tokenFile == "" {
				tokenFile = c.TokenFile
			}
			if o.Token, err = client.ReadToken(tokenFile, env); err != nil {
				return err
			}
		}
		switch {
		case o.Token == "" && len(c.Key) > 0:
			return usagef("this machine never finished enrolling at %s; make a new invite there with: hanzoctl devices invite", t.Name)
		case o.Token == "":
			return usagef("the context %s has no token: give --token-file", t.Name)
		}
		if !flags {
			pin, ca = c.Fingerprint, c.CAFile
		}
	}
	if ca != "" {
		o.Roots, err = client.ReadRoots(ca)
	}
	if o.TLSFingerprint = pin; pin != "" && err == nil {
		_, err = client.ParseFingerprint(pin)
	}
	t.anchored = pin != "" || ca != ""
	return err
}

// parseAddress reads the address of a daemon and says of which kind it is: ssh://, tailnet://, hanzod:// or
// host[:port], and for this machine a path of its socket or state directory. No secret belongs in it: one that
// has any is refused without being repeated.
func parseAddress(s string) (address, kind string, err error) {
	scheme, rest, found := strings.Cut(s, "://")
	switch {
	case !found && (filepath.IsAbs(s) || strings.HasPrefix(s, `\\`)):
		if filepath.Ext(s) != ".sock" && !strings.HasPrefix(s, `\\`) {
			s = client.FindIn(s).Socket
		}
		return s, kindSocket, nil
	case !found || scheme == kindTLS:
		address, err = client.ParseHost(s)
		return kindTLS + "://" + address, kindTLS, err
	case scheme == kindSSH:
		address, err = sshAddress(s)
		return address, kindSSH, err
	case scheme == kindTailnet:
		address, err = tailnetAddress(rest)
		return address, kindTailnet, err
	}
	return "", "", usagef("the address of a daemon looks like ssh://[user@]host[:port], tailnet://host, hanzod://host[:port], or is the path of a socket or state directory")
}

// say tells on stderr, once and before anything is done, which daemon is meant when it is not the one that is
// meant where nothing is said.
func (a *app) say(t *target) {
	if a.said || t.local() || a.quiet || a.silent {
		return
	}
	a.said = true
	text := Text(t.String())
	switch {
	case t.ChosenBy == byContext:
		text = "context " + text + ` (chosen with "hanzoctl context use"; --host local asks this machine)`
		if isTerminal(a.stderr) && a.color() {
			text = styled(warning, text).paint(true)
		}
	case t.variable != "":
		text += " (" + t.variable + ")"
	}
	fmt.Fprintln(a.stderr, text)
}

// dial makes the client. Over TLS and to a socket nothing is sent before the first call.
func (a *app) dial(ctx context.Context) (*client.Client, error) {
	t, err := a.target()
	if err != nil {
		return nil, err
	}
	a.say(t)
	o, err := a.reach(ctx, t)
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, o)
	if err != nil && o.Via != nil {
		err = errors.Join(err, o.Via.Close())
	}
	return c, err
}

// reach goes the way to a daemon as far as its door.
func (a *app) reach(ctx context.Context, t *target) (client.Options, error) {
	if t.Kind == kindTLS && !t.anchored {
		if err := a.trust(ctx, t); err != nil {
			return client.Options{}, err
		}
	}
	o := t.options
	if t.Kind != kindSSH && t.Kind != kindTailnet {
		return o, nil
	}
	if !a.silent && !a.quiet && isTerminal(a.stderr) {
		defer a.steps.begin(a.stderr, "connecting to "+t.short())()
	}
	w, err := a.way(ctx, t)
	if err != nil {
		return o, err
	}
	o.Via = w
	return o, nil
}

// withTarget is a message as JSON prints it, with the daemon that it is about.
func (a *app) withTarget(m proto.Message) (json.RawMessage, error) {
	raw, err := toJSON(m)
	if err != nil {
		return nil, err
	}
	t, err := json.Marshal(a.to)
	if err != nil {
		return nil, err
	}
	body := strings.TrimSuffix(strings.TrimSpace(string(raw)), "}")
	if strings.TrimSpace(body) != "{" {
		body += ","
	}
	return json.RawMessage(body + `"target":` + string(t) + "}"), nil
}

// hostPort is an address of TCP without a scheme.
func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// bracketed is a host as it stands in a URL.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// login shows where a person has to let this machine into a tailnet.
func (a *app) login(url string) {
	a.steps.clear()
	fmt.Fprintln(a.stderr, "to let this machine into the tailnet, open: "+Text(url))
}

// exists reports whether there is a file.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
