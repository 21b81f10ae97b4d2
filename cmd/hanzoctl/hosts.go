package main

import (
	"crypto/ed25519"
	"crypto/rand"
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

// maxHostFile bounds the file of a host, in bytes; they are a few hundred.
const maxHostFile = 64 << 10

// host is a daemon on another machine at which this one is enrolled. It holds secrets: its file is for
// its owner alone.
type host struct {
	Version     int    `json:"version"`
	Address     string `json:"address"`
	Fingerprint string `json:"fingerprint,omitempty"`
	DeviceID    string `json:"deviceId,omitempty"`
	// Key is the seed of the device's Ed25519 key, so that enrolling again is the same device.
	Key        []byte    `json:"key"`
	Token      string    `json:"token,omitempty"`
	Scopes     []string  `json:"scopes,omitempty"`
	EnrolledAt time.Time `json:"enrolledAt,omitzero"`
}

// PublicKey and Sign implement client.Signer.
func (h *host) PublicKey() string {
	public, _ := ed25519.NewKeyFromSeed(h.Key).Public().(ed25519.PublicKey)
	return base64.RawURLEncoding.EncodeToString(public)
}

func (h *host) Sign(text string) string {
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(h.Key), []byte(text)))
}

// hostName is what a saved host may be called: no address looks like it but a plain word, and a saved
// one of that word is meant then.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// hostsDir is where the hosts are saved.
func (a *app) hostsDir() (string, error) {
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if home := a.getenv(name); home != "" {
			return filepath.Join(home, ".hanzo", "hanzoctl", "hosts"), nil
		}
	}
	return "", errors.New("the home directory is not known; set HOME")
}

func (a *app) hostFile(name string) (string, error) {
	if !hostName.MatchString(name) {
		return "", usagef("a host is called by letters, digits, dots, dashes and underscores, 63 at the most")
	}
	dir, err := a.hostsDir()
	return filepath.Join(dir, name+".json"), err
}

// loadHost reads a saved host. Its error is fs.ErrNotExist when there is none of that name.
func (a *app) loadHost(name string) (*host, error) {
	path, err := a.hostFile(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf("%s is damaged; remove it with \"hanzoctl hosts forget %s\" and enrol again", path, name)
	if info.Size() > maxHostFile {
		return nil, bad
	}
	h := &host{}
	if json.NewDecoder(f).Decode(h) != nil || h.Version != 1 || h.Address == "" || len(h.Key) != ed25519.SeedSize {
		return nil, bad // the parser's text could show a secret
	}
	return h, nil
}

// saveHost writes the file in one step.
func (a *app) saveHost(name string, h *host) (err error) {
	path, err := a.hostFile(name)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what failed is reported
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (a *app) forgetHost(name string) {
	if path, err := a.hostFile(name); err == nil {
		_ = os.Remove(path) // what is left of a host that was never enrolled does no harm
	}
}

// hostNames are the saved hosts, sorted.
func (a *app) hostNames() []string {
	dir, err := a.hostsDir()
	if err != nil {
		return nil
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".json"); ok && hostName.MatchString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// saved fills in what is known of a host that is named by a plain word. Flags win over it. It reports
// whether there is such a host.
func (a *app) saved(o *client.Options) (bool, error) {
	if !hostName.MatchString(o.Host) {
		return false, nil
	}
	h, err := a.loadHost(o.Host)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if h.Token == "" && a.remote.tokenFile == "" {
		return false, usagef("this machine never finished enrolling at %s; make a new invite there with: hanzoctl devices invite", o.Host)
	}
	o.Host, o.Token, o.TLSFingerprint = h.Address, h.Token, h.Fingerprint
	return true, nil
}

// savedHost is a host as it is shown.
type savedHost struct {
	Name        string   `json:"name"`
	Address     string   `json:"address"`
	Fingerprint string   `json:"fingerprint,omitempty"`
	DeviceID    string   `json:"deviceId,omitempty"`
	Scopes      []string `json:"scopes,omitempty"`
	EnrolledAt  string   `json:"enrolledAt,omitempty"`
}

func (a *app) hostsCmd() *cobra.Command {
	return group("hosts", "List and forget the daemons at which this machine is enrolled", `  hanzoctl hosts list
  hanzoctl --host box status`, a.hostsListCmd(), a.hostsForgetCmd())
}

func (a *app) hostsListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the daemons at which this machine is enrolled", Args: cobra.NoArgs,
		Example: `  hanzoctl hosts list
  hanzoctl hosts list -o json`,
		RunE: func(*cobra.Command, []string) error {
			rows, all := []string{"NAME\tADDRESS\tSCOPES\tDEVICE"}, []savedHost{}
			for _, name := range a.hostNames() {
				h, err := a.loadHost(name)
				if err != nil {
					fmt.Fprintln(a.stderr, Text(err.Error()))
					continue
				}
				s := savedHost{Name: name, Address: h.Address, Fingerprint: h.Fingerprint, DeviceID: h.DeviceID, Scopes: h.Scopes}
				if !h.EnrolledAt.IsZero() {
					s.EnrolledAt = h.EnrolledAt.Format(time.RFC3339)
				}
				all = append(all, s)
				rows = append(rows, cells(name, h.Address, scopeWords(h.Scopes), shortID(h.DeviceID)))
			}
			switch {
			case a.quiet:
				return a.printIDs(a.hostNames())
			case a.output == "table" && len(all) == 0:
				fmt.Fprintln(a.stderr, "this machine is enrolled nowhere; on the machine of a daemon: hanzoctl devices invite")
				return nil
			case a.output == "jsonl":
				for _, s := range all {
					if err := a.printValue(s); err != nil {
						return err
					}
				}
				return nil
			}
			return a.printOne(map[string]any{"hosts": all}, "", rows...)
		}}
}

func (a *app) hostsForgetCmd() *cobra.Command {
	return &cobra.Command{Use: "forget NAME", Short: "Remove what this machine keeps of a daemon", Args: cobra.ExactArgs(1),
		Long: `Remove what this machine keeps of a daemon: its address, and the key and token by which this
machine is known there. The daemon goes on knowing this machine until somebody there calls
"hanzoctl devices remove".`,
		Example: `  hanzoctl hosts forget box`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.hostNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := a.hostFile(args[0])
			if err != nil {
				return err
			}
			err = os.Remove(path)
			if errors.Is(err, fs.ErrNotExist) {
				return &codeError{code: exitNotFound, text: "this machine is not enrolled at " + args[0] + "; see: hanzoctl hosts list"}
			}
			return err
		}}
}

func (a *app) enrollCmd() *cobra.Command {
	var name, as string
	c := &cobra.Command{Use: "enroll CODE", Short: "Enrol this machine at a daemon that invited it", Args: cobra.ExactArgs(1),
		Long: `Enrol this machine at a daemon on another one. There, "hanzoctl devices invite" prints the
code: it holds for ten minutes and for one machine. From then on "hanzoctl --host NAME" asks
that daemon, without a token or a fingerprint.

The code is as good as a password as long as it holds. With - it is read from stdin and with
@FILE from a file, so that nobody on this machine sees it among the running programs.

Address, fingerprint, key and token are kept in ~/.hanzo/hanzoctl/hosts, for you alone.`,
		Example: `  echo CODE | hanzoctl enroll -
  hanzoctl enroll @code --name box
  hanzoctl --host box status`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && isTerminal(a.stdin) {
				fmt.Fprintln(a.stderr, "paste the code, then press Ctrl-D on a line of its own:")
			}
			text, err := a.readArg(args[0])
			if err != nil {
				return err
			}
			i, err := client.ParseInvite(string(text))
			if err != nil {
				return err
			}
			if i.Role != "operator" {
				return usagef("this invite is for a node; use it with: hanzod node --enroll -")
			}
			return a.enroll(cmd, i, name, as)
		}}
	c.Flags().StringVar(&name, "name", "", "what to call the daemon (default its own name)")
	c.Flags().StringVar(&as, "as", "", "what this machine is called there (default its host name)")
	return c
}

func (a *app) enroll(cmd *cobra.Command, i client.Invite, name, as string) error {
	if name == "" {
		name = i.Name
	}
	if name == "" {
		return usagef("the invite does not say what the daemon is called: give it a name with --name")
	}
	h, err := a.loadHost(name)
	isNew := errors.Is(err, fs.ErrNotExist)
	switch {
	case isNew:
		h = &host{Version: 1, Key: make([]byte, ed25519.SeedSize)}
		if _, err := rand.Read(h.Key); err != nil {
			return err
		}
	case err != nil:
		return err
	case h.Fingerprint != i.Pin && h.Token != "":
		return &codeError{code: exitConflict, text: fmt.Sprintf(
			"another daemon is called %s already; choose another name with --name, or remove it with: hanzoctl hosts forget %s", name, name)}
	}
	if len(i.Addresses) > 0 {
		h.Address = i.Addresses[0]
	}
	h.Fingerprint = i.Pin
	// What cannot be kept must not use the invite up.
	if err := a.saveHost(name, h); err != nil {
		return fmt.Errorf("keep the enrolment: %w", err)
	}
	ctx, cancel := a.bounded(cmd.Context(), nodeTimeout)
	defer cancel()
	if as == "" {
		as, _ = os.Hostname() // a machine may be without a name
	}
	e, err := client.Enroll(ctx, i, h, client.Machine{Name: as, Platform: platform(), Family: family()}, "hanzoctl/"+version())
	if err != nil {
		// The key is kept where the daemon may have heard of it: the next invite is for the same device.
		if e, ok := errors.AsType[*client.Error](err); isNew && (!ok || e.Code != client.CodeLost && e.Class != client.Deadline && e.Class != client.Unknown) {
			a.forgetHost(name)
		}
		return err
	}
	h.Address, h.DeviceID, h.Token, h.Scopes, h.EnrolledAt = e.Address, e.DeviceID, e.Token, e.Scopes, time.Now().UTC().Truncate(time.Second)
	if err := a.saveHost(name, h); err != nil {
		return fmt.Errorf("this machine is enrolled, but its token could not be kept; remove it there with \"hanzoctl devices remove %s\" and enrol again: %w", shortID(e.DeviceID), err)
	}
	shown := savedHost{name, h.Address, h.Fingerprint, h.DeviceID, h.Scopes, h.EnrolledAt.Format(time.RFC3339)}
	return a.printOne(shown, name, Text(fmt.Sprintf("enrolled at %s (%s) with %s; try: hanzoctl --host %s status", name, h.Address, scopeWords(h.Scopes), name)))
}
