package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
)

const (
	// maxContextFile bounds the file of a context, in bytes; they are a few hundred.
	maxContextFile = 64 << 10
	// maxContexts bounds how many are listed; nobody keeps so many.
	maxContexts = 1000
)

// hostContext is a daemon under a name of this user's: where it is, and how to be let in. Where this machine is
// enrolled it holds secrets: its file is for its owner alone.
type hostContext struct {
	Version int `json:"version"`
	// Address is as parseAddress takes it.
	Address string `json:"address"`
	// Socket and StateDir are where the daemon is on a machine that is reached by SSH.
	Socket   string `json:"socket,omitempty"`
	StateDir string `json:"stateDir,omitempty"`
	// Fingerprint pins the certificate, CAFile vouches for it, TokenFile holds the token: for a daemon over TLS.
	Fingerprint string `json:"fingerprint,omitempty"`
	CAFile      string `json:"caFile,omitempty"`
	TokenFile   string `json:"tokenFile,omitempty"`
	DeviceID    string `json:"deviceId,omitempty"`
	// Key is the seed of the device's Ed25519 key, so that enrolling again is the same device. It is
	// empty where this machine is not enrolled.
	Key        []byte    `json:"key,omitempty"`
	Token      string    `json:"token,omitempty"`
	Scopes     []string  `json:"scopes,omitempty"`
	EnrolledAt time.Time `json:"enrolledAt,omitzero"`
}

// PublicKey and Sign implement client.Signer.
func (c *hostContext) PublicKey() string {
	public, _ := ed25519.NewKeyFromSeed(c.Key).Public().(ed25519.PublicKey)
	return base64.RawURLEncoding.EncodeToString(public)
}

func (c *hostContext) Sign(text string) string {
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(c.Key), []byte(text)))
}

// hostName is what a context may be called: no address looks like it but a plain word, and a context of that
// word is meant then.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// reserved are words that mean something else where the name of a context may stand.
var reserved = []string{localName, "none", "default", "all"}

// contextFile is where a context is kept. The folder has its name from the time when all of them were
// enrolled hosts.
func (a *app) contextFile(name string) (string, error) {
	switch {
	case !hostName.MatchString(name):
		return "", usagef("a context is called by letters, digits, dots, dashes and underscores, 63 at the most")
	case slices.Contains(reserved, strings.ToLower(name)):
		return "", usagef("%q means something else; choose another name", name)
	}
	dir, err := a.settingsDir()
	return filepath.Join(dir, "hosts", name+".json"), err
}

// loadContext reads a context. Its error is fs.ErrNotExist when there is none of that name.
func (a *app) loadContext(name string) (*hostContext, error) {
	path, err := a.contextFile(name)
	if err != nil {
		return nil, err
	}
	text, err := readSettings(path, maxContextFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	bad := usagef(`%s is damaged; remove it with "hanzoctl context rm %s" and make it again`, path, name)
	if err != nil {
		return nil, fmt.Errorf("read the context %s: %w", name, err)
	}
	c := &hostContext{}
	if json.Unmarshal(text, c) != nil || c.Version != 1 || c.Address == "" || len(c.Key) != 0 && len(c.Key) != ed25519.SeedSize {
		return nil, bad // the parser's text could show a secret
	}
	return c, nil
}

func (a *app) saveContext(name string, c *hostContext) error {
	path, err := a.contextFile(name)
	if err != nil {
		return err
	}
	return writeSettings(path, c)
}

func (a *app) forgetContext(name string) {
	if path, err := a.contextFile(name); err == nil {
		_ = os.Remove(path) // what is left of a daemon at which this machine never enrolled does no harm
	}
}

// contextNames are the saved contexts, sorted.
func (a *app) contextNames() []string {
	dir, err := a.settingsDir()
	if err != nil {
		return nil
	}
	files, err := os.ReadDir(filepath.Join(dir, "hosts"))
	if err != nil {
		return nil
	}
	var out []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".json"); ok && hostName.MatchString(name) && !slices.Contains(reserved, strings.ToLower(name)) && len(out) < maxContexts {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// shownContext is a context as it is shown: without secrets.
type shownContext struct {
	Name        string   `json:"name"`
	Kind        string   `json:"kind"`
	Address     string   `json:"address"`
	Current     bool     `json:"current"`
	Socket      string   `json:"socket,omitempty"`
	StateDir    string   `json:"stateDir,omitempty"`
	Fingerprint string   `json:"fingerprint,omitempty"`
	CAFile      string   `json:"caFile,omitempty"`
	TokenFile   string   `json:"tokenFile,omitempty"`
	Enrolled    bool     `json:"enrolled,omitempty"`
	DeviceID    string   `json:"deviceId,omitempty"`
	Scopes      []string `json:"scopes,omitempty"`
	EnrolledAt  string   `json:"enrolledAt,omitempty"`
	// TrustedSince is when its certificate was trusted on first use.
	TrustedSince string `json:"trustedSince,omitempty"`
}

func (a *app) shown(name string, c *hostContext, current string) shownContext {
	s := shownContext{Name: name, Address: c.Address, Current: name == current, Socket: c.Socket, StateDir: c.StateDir, Fingerprint: c.Fingerprint, CAFile: c.CAFile,
		TokenFile: c.TokenFile, Enrolled: c.Token != "", DeviceID: c.DeviceID, Scopes: c.Scopes}
	address, kind, err := parseAddress(c.Address)
	if err != nil {
		kind = "unknown"
	}
	s.Kind = kind
	if err == nil {
		s.Address = address
	}
	if !c.EnrolledAt.IsZero() {
		s.EnrolledAt = c.EnrolledAt.Format(time.RFC3339)
	}
	if kind == kindTLS && s.Fingerprint == "" && c.CAFile == "" {
		if k, err := a.loadKnown(); err == nil { // what is damaged is told where it is needed
			if d, ok := k.Daemons[strings.TrimPrefix(address, kindTLS+"://")]; ok {
				s.Fingerprint, s.TrustedSince = d.Fingerprint, d.Since.Format(time.RFC3339)
			}
		}
	}
	return s
}

func (a *app) contextCmd() *cobra.Command {
	c := group("context", "The daemons that this machine knows by name, and the one that is asked", `  hanzoctl context add box ssh://alice@box
  hanzoctl context use box
  hanzoctl context use local`, a.contextAddCmd(), a.contextUseCmd(), a.contextListCmd(), a.contextShowCmd(), a.contextRemoveCmd(), a.contextUntrustCmd())
	c.Aliases = []string{"contexts", "hosts"} // the last is its name from before
	c.Long = `A context is a daemon under a name: "hanzoctl --host NAME" asks it, and after "hanzoctl context
use NAME" every command does, until "hanzoctl context use local". All output then says so.

What is asked: what a flag says (--host, --socket, --state-dir), else the environment
(HANZOCTL_HOST, HANZOD_SOCKET, HANZOD_STATE_DIR), else the chosen context, else this machine.

Contexts are kept in ~/.hanzo/hanzoctl, for you alone. "hanzoctl enroll" makes them too.
See "hanzoctl help remote" for the addresses.`
	return c
}

func (a *app) contextAddCmd() *cobra.Command {
	var use bool
	c := &cobra.Command{Use: "add NAME ADDRESS", Short: "Give a daemon a name", Args: cobra.ExactArgs(2),
		Long: `Give a daemon a name. ADDRESS is one of

  ssh://[user@]host[:port]   over SSH, as "ssh host" would go; no token
  tailnet://host             over the tailnet, known by its identity there; no token
  hanzod://host[:port]       over TLS, with the token in the file of --token-file
  /path                      a socket or state directory of this machine

With ssh://, --socket or --state-dir say where the daemon is on that machine, when it is not
where it is found by itself.

Nothing is connected. For hanzod:// the certificate may be pinned with --tls-fingerprint, or
vouched for with --tls-ca; without either it is asked about when it is first seen.`,
		Example: `  hanzoctl context add box ssh://alice@box
  hanzoctl context add nas hanzod://nas:18790 --token-file ~/.nas-token
  hanzoctl context add test /srv/test/hanzod --use`,
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			if _, err := a.contextFile(name); err != nil {
				return err
			}
			if a.remote.host != "" {
				return usagef("give the address as the second argument; --host says which daemon to ask, and none is asked")
			}
			address, kind, err := parseAddress(args[1])
			if err != nil {
				return err
			}
			if kind != kindSSH && a.socket+a.stateDir != "" {
				return usagef("--socket and --state-dir go with ssh:// alone: they are where the daemon is on that machine")
			}
			c := &hostContext{Version: 1, Address: address, Socket: a.socket, StateDir: a.stateDir}
			if kind == kindSocket {
				c.Address = args[1] // the socket of a state directory may be another one later
			}
			if kind != kindTLS {
				if err := a.noHost(); err != nil {
					return err
				}
			} else if err := a.contextOverTLS(c); err != nil {
				return err
			}
			switch _, err := a.loadContext(name); {
			case err == nil:
				return &codeError{code: exitConflict, text: fmt.Sprintf("there is a context %s already; remove it first with: hanzoctl context rm %s", name, name)}
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
			if len(a.contextNames()) >= maxContexts {
				return usagef("there are %d contexts already, which is the most", maxContexts)
			}
			if err := a.saveContext(name, c); err != nil {
				return fmt.Errorf("keep the context: %w", err)
			}
			text := Text(fmt.Sprintf("added %s (%s); try: hanzoctl --host %s status", name, address, name))
			if use {
				s, err := a.loadSettings()
				if err == nil {
					err = s.choose(name)
				}
				if err != nil {
					return err
				}
				text = a.chosenText(name, address)
			}
			current := ""
			if use {
				current = name
			}
			return a.printOne(a.shown(name, c, current), name, text)
		}}
	c.Flags().BoolVar(&use, "use", false, "choose it as well")
	return c
}

// contextOverTLS takes in what the flags say of a daemon over TLS.
func (a *app) contextOverTLS(c *hostContext) (err error) {
	if a.remote.tokenFile == "" {
		return usagef(`a daemon over TLS wants a token: put the one that "hanzoctl token" prints there into a file, and name it with --token-file; or enrol this machine with "hanzoctl enroll"`)
	}
	if _, err := client.ReadToken(a.remote.tokenFile, a.getenv); err != nil {
		return err
	}
	if c.TokenFile, err = filepath.Abs(a.remote.tokenFile); err != nil {
		return err
	}
	if a.remote.fingerprint != "" {
		if a.remote.ca != "" {
			return usagef("a pinned certificate needs nobody to vouch for it: give --tls-fingerprint or --tls-ca")
		}
		if c.Fingerprint, err = client.ParseFingerprint(a.remote.fingerprint); err != nil {
			return err
		}
	}
	if a.remote.ca != "" {
		if _, err := client.ReadRoots(a.remote.ca); err != nil {
			return err
		}
		c.CAFile, err = filepath.Abs(a.remote.ca)
	}
	return err
}

func (a *app) chosenText(name, address string) string {
	return Text(fmt.Sprintf("every command asks %s (%s) from now on; back to this machine with: hanzoctl context use local", name, address))
}

func (a *app) contextUseCmd() *cobra.Command {
	var none bool
	c := &cobra.Command{Use: "use NAME", Short: "Choose the daemon that every command asks", Args: cobra.MaximumNArgs(1),
		Long: `Choose the daemon that every command asks from now on, on this machine and for you. "local" is
this machine again.

Flags and the environment still win: see "hanzoctl context --help".`,
		Example: `  hanzoctl context use box
  hanzoctl context use local`,
		ValidArgsFunction: a.completeContext(localName),
		RunE: func(_ *cobra.Command, args []string) error {
			name := localName
			switch {
			case none == (len(args) == 1):
				return usagef("say which context, or local for this machine; see them with: hanzoctl context list")
			case len(args) == 1:
				name = args[0]
			}
			s, err := a.loadSettings()
			if err != nil {
				return err
			}
			if name == localName || name == "none" || name == "default" {
				if err := s.choose(""); err != nil {
					return fmt.Errorf("keep the choice: %w", err)
				}
				a.overruled()
				return a.printOne(shownContext{Name: localName, Kind: kindLocal, Address: a.localAddress(), Current: true}, localName, "every command asks this machine from now on")
			}
			c, err := a.knownContext(name)
			if err != nil {
				return err
			}
			if err := s.choose(name); err != nil {
				return fmt.Errorf("keep the choice: %w", err)
			}
			a.overruled()
			shown := a.shown(name, c, name)
			return a.printOne(shown, name, a.chosenText(name, shown.Address))
		}}
	c.Flags().BoolVar(&none, "none", false, "the same as local")
	return c
}

// overruled says what of the environment wins over the choice.
func (a *app) overruled() {
	for _, name := range []string{"HANZOCTL_HOST", "HANZOD_SOCKET", "HANZOD_STATE_DIR"} {
		if a.getenv(name) != "" {
			fmt.Fprintf(a.stderr, "here %s is set, and wins over the choice: unset %s\n", name, name)
			return
		}
	}
}

func (a *app) localAddress() string {
	found, err := a.findLocal()
	if err != nil {
		return ""
	}
	return found.Socket
}

// knownContext is loadContext with an error that says what to do.
func (a *app) knownContext(name string) (*hostContext, error) {
	c, err := a.loadContext(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &codeError{code: exitNotFound, text: "there is no context " + name + "; see: hanzoctl context list"}
	}
	return c, err
}

func (a *app) completeContext(more ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return append(a.contextNames(), more...), cobra.ShellCompDirectiveNoFileComp
	}
}

// hostWords completes what --host takes: names, and the beginning of an address once that is typed.
func (a *app) hostWords(word string) ([]string, cobra.ShellCompDirective) {
	for _, kind := range []string{kindSSH, kindTailnet, kindTLS} {
		if scheme := kind + "://"; word != "" && strings.HasPrefix(scheme, word) && scheme != word {
			return append(a.contextNames(), scheme), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
	}
	return append(a.contextNames(), localName), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) contextListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the daemons that this machine knows by name", Args: cobra.NoArgs,
		Long: `List the daemons that this machine knows by name. * marks the one that is chosen with "hanzoctl
context use"; local is the daemon of this machine.`,
		Example: `  hanzoctl context list
  hanzoctl context list -o json`,
		RunE: func(*cobra.Command, []string) error {
			current := localName
			s, err := a.loadSettings()
			switch {
			case err != nil:
				fmt.Fprintln(a.stderr, Text(err.Error()))
				current = ""
			case s.context != "":
				current = s.context
			}
			mark := func(name string) string {
				if name == current {
					return "* " + name
				}
				return "  " + name
			}
			all := []shownContext{}
			rows := []string{"  NAME\tADDRESS\tSCOPES\tDEVICE", cells(mark(localName), a.localAddress(), "", "")}
			for _, name := range a.contextNames() {
				c, err := a.loadContext(name)
				if err != nil {
					fmt.Fprintln(a.stderr, Text(err.Error()))
					continue
				}
				s := a.shown(name, c, current)
				all = append(all, s)
				rows = append(rows, cells(mark(name), s.Address, scopeWords(s.Scopes), shortID(s.DeviceID)))
			}
			switch {
			case a.quiet:
				return a.printIDs(a.contextNames())
			case a.output == "jsonl":
				for _, s := range all {
					if err := a.printValue(s); err != nil {
						return err
					}
				}
				return nil
			}
			return a.printOne(map[string]any{"current": current, "contexts": all}, "", rows...)
		}}
}

func (a *app) contextShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show [NAME]", Short: "Show which daemon is asked, or what is kept of one", Args: cobra.MaximumNArgs(1),
		Long: `Without a name: which daemon a command with these flags and in this environment asks, and what
chose it. With one: what this machine keeps of that daemon. Secrets are not shown.`,
		Example: `  hanzoctl context show
  hanzoctl context show box -o json`,
		ValidArgsFunction: a.completeContext(),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				t, err := a.target()
				if err != nil {
					return err
				}
				by := map[string]string{byDefault: "nothing else is said", byFlag: "a flag", byEnv: "the environment", byContext: "hanzoctl context use", byDiscovery: "it runs, and none does where one usually is"}[t.ChosenBy]
				if t.variable != "" {
					by += ", " + t.variable
				}
				return a.printOne(t, t.short(), cells("asked", t.String()), cells("kind", t.Kind), cells("chosen by", by))
			}
			c, err := a.knownContext(args[0])
			if err != nil {
				return err
			}
			current := ""
			if s, err := a.loadSettings(); err == nil { // what is damaged is told where it is needed
				current = s.context
			}
			s := a.shown(args[0], c, current)
			rows := []string{cells("name", s.Name), cells("address", s.Address), cells("kind", s.Kind), cells("chosen", map[bool]string{true: "yes", false: "no"}[s.Current])}
			for _, r := range [][2]string{
				{"socket there", s.Socket}, {"state there", s.StateDir}, {"certificate", s.Fingerprint}, {"trusted on first use", s.TrustedSince}, {"vouched for by", s.CAFile}, {"token in", s.TokenFile},
				{"enrolled", s.EnrolledAt}, {"scopes", scopeWords(s.Scopes)}, {"device", s.DeviceID},
			} {
				if r[1] != "" {
					rows = append(rows, cells(r[0], r[1]))
				}
			}
			return a.printOne(s, s.Name, rows...)
		}}
}

func (a *app) contextRemoveCmd() *cobra.Command {
	return &cobra.Command{Use: "rm NAME", Aliases: []string{"remove", "forget"}, Short: "Remove what this machine keeps of a daemon", Args: cobra.ExactArgs(1),
		Long: `Remove what this machine keeps of a daemon: its address, and where this machine is enrolled the
key and token by which it is known there. The daemon goes on knowing this machine until
somebody there calls "hanzoctl devices remove". When it is the chosen one, this machine is
asked again.`,
		Example:           `  hanzoctl context rm box`,
		ValidArgsFunction: a.completeContext(),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			path, err := a.contextFile(name)
			if err != nil {
				return err
			}
			if !exists(path) {
				_, err := a.knownContext(name)
				return err
			}
			// First the choice: without its context it would stop every command.
			s, err := a.loadSettings()
			switch {
			case err != nil:
				fmt.Fprintln(a.stderr, Text(err.Error()))
			case s.context == name:
				if err := s.choose(""); err != nil {
					return fmt.Errorf("keep the choice: %w", err)
				}
				fmt.Fprintln(a.stderr, "it was the chosen one: every command asks this machine from now on")
			}
			return os.Remove(path)
		}}
}

func (a *app) contextUntrustCmd() *cobra.Command {
	return &cobra.Command{Use: "untrust HOST[:PORT]", Short: "Forget a certificate that was trusted on first use", Args: cobra.ExactArgs(1),
		Long: `Forget the certificate by which a daemon over TLS is known since it was trusted on first use. It
is asked about again when it is next seen. Do so only when you know why it changed: the daemon
there got a new one, and "hanzod tls fingerprint" on that machine prints it.`,
		Example: `  hanzoctl context untrust nas:18790`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			k, err := a.loadKnown()
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var out []string
			for address := range k.Daemons {
				out = append(out, address)
			}
			slices.Sort(out)
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			word := args[0]
			if hostName.MatchString(word) {
				if c, err := a.loadContext(word); err == nil {
					word = c.Address
				}
			}
			address, err := client.ParseHost(word)
			if err != nil {
				return err
			}
			k, err := a.loadKnown()
			if err != nil {
				return err
			}
			if _, ok := k.Daemons[address]; !ok {
				return &codeError{code: exitNotFound, text: "no certificate of " + address + " was trusted on first use"}
			}
			delete(k.Daemons, address)
			if err := writeSettings(k.path, k); err != nil {
				return fmt.Errorf("keep the known daemons: %w", err)
			}
			return nil
		}}
}
