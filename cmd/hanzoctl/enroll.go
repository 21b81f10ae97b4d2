package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
)

func (a *app) enrollCmd() *cobra.Command {
	var name, as string
	c := &cobra.Command{Use: "enroll CODE", Short: "Enrol this machine at a daemon that invited it", Args: cobra.ExactArgs(1),
		Long: `Enrol this machine at a daemon on another one. There, "hanzoctl devices invite" prints the
code: it holds for ten minutes and for one machine. From then on "hanzoctl --host NAME" asks
that daemon, without a token or a fingerprint, and "hanzoctl context use NAME" makes every
command ask it. Where you can log in over SSH, "hanzoctl --host ssh://host" needs none of this.

The code is as good as a password as long as it holds. With - it is read from stdin and with
@FILE from a file, so that nobody on this machine sees it among the running programs.

Address, fingerprint, key and token are kept in ~/.hanzo/hanzoctl/hosts, for you alone: see
"hanzoctl context list".`,
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
	h, err := a.loadContext(name)
	isNew := errors.Is(err, fs.ErrNotExist)
	switch {
	case isNew:
		h = &hostContext{Version: 1, Key: make([]byte, ed25519.SeedSize)}
		if _, err := rand.Read(h.Key); err != nil {
			return err
		}
	case err != nil:
		return err
	case h.Fingerprint != i.Pin && h.Token != "" || len(h.Key) == 0:
		return &codeError{code: exitConflict, text: fmt.Sprintf(
			"another daemon is called %s already; choose another name with --name, or remove it with: hanzoctl context rm %s", name, name)}
	}
	if len(i.Addresses) > 0 {
		h.Address = i.Addresses[0]
	}
	h.Fingerprint = i.Pin
	// What cannot be kept must not use the invite up.
	if err := a.saveContext(name, h); err != nil {
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
			a.forgetContext(name)
		}
		return err
	}
	h.Address, h.DeviceID, h.Token, h.Scopes, h.EnrolledAt = e.Address, e.DeviceID, e.Token, e.Scopes, time.Now().UTC().Truncate(time.Second)
	if err := a.saveContext(name, h); err != nil {
		return fmt.Errorf("this machine is enrolled, but its token could not be kept; remove it there with \"hanzoctl devices remove %s\" and enrol again: %w", shortID(e.DeviceID), err)
	}
	return a.printOne(a.shown(name, h, ""), name, Text(fmt.Sprintf("enrolled at %s (%s) with %s; try: hanzoctl --host %s status", name, h.Address, scopeWords(h.Scopes), name)))
}
