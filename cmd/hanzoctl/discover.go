package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client/discover"
)

// discoverWait is how long to listen for answers: they come within a second, and a first question may
// be lost.
const discoverWait = 2 * time.Second

// foundDaemon is a daemon that answered, as JSON and YAML print it. What it says is not proved.
type foundDaemon struct {
	Name        string         `json:"name"`
	Kind        string         `json:"kind"` // hanzod, or gateway for an older one
	Host        string         `json:"host"`
	ThisMachine bool           `json:"thisMachine"`
	Addresses   []foundAddress `json:"addresses"`
	GatewayPort int            `json:"gatewayPort,omitempty"`
	GRPCPort    int            `json:"grpcPort,omitempty"`
	SSHPort     int            `json:"sshPort,omitempty"`
	TLS         bool           `json:"tls"`
	// UnprovedFingerprint is not called tlsFingerprint, so that no script pins it by mistake.
	UnprovedFingerprint string `json:"unprovedTlsFingerprint,omitempty"`
	Version             string `json:"version,omitempty"`
	// URL is what --host may be given, as far as one of ours answered.
	URL string `json:"url,omitempty"`
}

type foundAddress struct {
	Address   string `json:"address"`
	Interface string `json:"interface"`
}

func (a *app) discoverCmd() *cobra.Command {
	var follow bool
	var wait time.Duration
	c := &cobra.Command{Use: "discover", Short: "Find daemons on the local network", Args: cobra.NoArgs,
		Long: `Find daemons, and gateways of the older kind, that announce themselves on the local network by
multicast DNS. It listens for the whole of --wait, and with -f until interrupted.

A daemon is silent unless its configuration says discovery: {mdns: {mode: "minimal"}}, and it
listens beyond its own machine; "full" adds its version and the port of SSH, and announces one
that is reached over SSH alone.

Nothing of an answer is proved: anybody on the network can answer in any name, and with any
fingerprint. Enrol with a code from the machine itself, attach over SSH, or compare the
fingerprint with what "hanzod tls fingerprint" prints there.`,
		Example: `  hanzoctl discover
  hanzoctl discover --wait 5s -o json
  hanzoctl discover -f`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait <= 0 {
				return usagef("--wait must be longer than nothing")
			}
			switch {
			case follow:
				wait = a.timeout // 0 is no limit
			case a.timeoutSet:
				wait = min(wait, a.timeout)
			}
			return a.discover(cmd.Context(), wait, follow)
		}}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted, and print each change")
	c.Flags().DurationVar(&wait, "wait", discoverWait, "how long to listen for answers")
	return c
}

func (a *app) discover(parent context.Context, limit time.Duration, follow bool) error {
	ctx, cancel := context.WithCancel(parent)
	if limit > 0 {
		ctx, cancel = context.WithTimeout(parent, limit)
	}
	defer cancel()
	if !follow {
		r, err := discover.Browse(ctx, nil)
		if err != nil {
			return err
		}
		if parent.Err() != nil {
			return parent.Err()
		}
		return a.printFound(r)
	}
	seen := map[string]foundDaemon{}
	var failed error
	_, err := discover.Browse(ctx, func(r discover.Result) {
		if failed == nil {
			failed = a.printChanges(seen, r)
		}
		if failed != nil {
			cancel()
		}
	})
	if failed != nil {
		return failed
	}
	if err == nil {
		err = parent.Err()
	}
	return err
}

// found turns an answer into what is printed.
func found(d discover.Daemon) foundDaemon {
	f := foundDaemon{
		Name: d.Name, Kind: "hanzod", Host: d.Host, GatewayPort: d.GatewayPort, GRPCPort: d.GRPCPort, SSHPort: d.SSHPort, TLS: d.TLS,
		UnprovedFingerprint: d.Fingerprint, Version: d.Version, Addresses: []foundAddress{},
	}
	if d.Legacy {
		f.Kind = "gateway"
	}
	for _, at := range d.Addresses {
		addr := at.Addr
		if addr.Is6() && addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(at.Interface) // of no use without
		}
		f.Addresses = append(f.Addresses, foundAddress{addr.String(), at.Interface})
		f.ThisMachine = f.ThisMachine || ownAddress(at.Addr)
	}
	if len(f.Addresses) == 0 {
		return f
	}
	// Made of the address and a number alone: a name could be made to look like anything.
	switch first := f.Addresses[0].Address; {
	case d.GRPCPort != 0:
		f.URL = "hanzod://" + net.JoinHostPort(first, strconv.Itoa(d.GRPCPort))
	case d.SSHPort != 0 && !d.Legacy:
		f.URL = "ssh://" + hostPart(first)
		if d.SSHPort != 22 {
			f.URL = "ssh://" + net.JoinHostPort(first, strconv.Itoa(d.SSHPort))
		}
	}
	return f
}

// hostPart is an address as a URL without a port has it.
func hostPart(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

// ownAddress says whether an address is this machine's.
func ownAddress(at netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap() == at
	})
}

const foundHead = "NAME\tKIND\tADDRESS\tGATEWAY\tGRPC\tSSH\tVERSION"

func (f foundDaemon) row() string {
	name, first := f.Name, "-"
	if f.ThisMachine {
		name += " (this machine)"
	}
	if len(f.Addresses) > 0 {
		first = f.Addresses[0].Address
		if more := len(f.Addresses) - 1; more > 0 {
			first += fmt.Sprintf(" +%d", more)
		}
	}
	return cells(cut(name), f.Kind, first, portWord(f.GatewayPort), portWord(f.GRPCPort), portWord(f.SSHPort), cut(f.Version))
}

// maxCell bounds a text of others in a table, in runes.
const maxCell = 40

func cut(s string) string {
	if s == "" {
		return "-"
	}
	if r := []rune(s); len(r) > maxCell {
		return string(r[:maxCell-1]) + "…"
	}
	return s
}

func portWord(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// id is what -q prints: what --host takes, else the first address.
func (f foundDaemon) id() string {
	if f.URL == "" && len(f.Addresses) > 0 {
		return f.Addresses[0].Address
	}
	return f.URL
}

// printFound prints all that answered.
func (a *app) printFound(r discover.Result) error {
	all := []foundDaemon{}
	var ids []string
	for _, d := range r.Daemons {
		all = append(all, found(d))
		ids = append(ids, all[len(all)-1].id())
	}
	if r.Dropped {
		fmt.Fprintln(a.stderr, "there were more answers than are kept; somebody on the network may flood it")
	}
	switch {
	case a.quiet:
		return a.printIDs(ids)
	case a.output == "jsonl":
		for _, f := range all {
			if err := a.printValue(f); err != nil {
				return err
			}
		}
		return nil
	case a.output != "table":
		return a.printValue(map[string]any{"daemons": all, "interfaces": append([]string{}, r.Networks...)})
	case len(all) == 0:
		if len(r.Networks) == 0 {
			return &codeError{code: exitLater, text: "this machine is on no network that carries multicast, so nobody could be asked"}
		}
		fmt.Fprintf(a.stderr, "no daemon answered on %s\n", Text(strings.Join(r.Networks, ", ")))
		fmt.Fprintln(a.stderr, `a daemon is silent unless its config.json says discovery: {mdns: {mode: "minimal"}} and it listens beyond its own machine; a firewall must let UDP port 5353 pass, on both machines`)
		return nil
	}
	rows := []string{foundHead}
	ours, ssh, older := false, false, false
	for _, f := range all {
		rows = append(rows, f.row())
		ours, ssh, older = ours || f.GRPCPort != 0, ssh || f.SSHPort != 0 && f.Kind == "hanzod", older || f.Kind != "hanzod"
	}
	if err := a.printTable(rows); err != nil {
		return err
	}
	fmt.Fprintln(a.stderr, "\nthe names and addresses are what the network says, and nobody proved them")
	if ours {
		fmt.Fprintln(a.stderr, `to attach: "hanzoctl devices invite" on that machine prints a code for "hanzoctl enroll -" on this one`)
	}
	if ssh {
		fmt.Fprintln(a.stderr, "to attach with an account there: hanzoctl --host ssh://USER@ADDRESS status")
	}
	if older {
		fmt.Fprintln(a.stderr, `of the kind gateway are those of the older product: hanzoctl cannot ask them, "hanzod node --host ADDRESS" can serve them`)
	}
	return nil
}

// printChanges prints what is new, changed or gone since the last time.
func (a *app) printChanges(seen map[string]foundDaemon, r discover.Result) error {
	now := map[string]foundDaemon{}
	for _, d := range r.Daemons {
		f := found(d)
		now[f.Kind+"\x00"+f.Name] = f
	}
	type change struct {
		Change string      `json:"change"`
		Daemon foundDaemon `json:"daemon"`
	}
	print := func(what string, f foundDaemon) error {
		line := time.Now().Format(time.TimeOnly) + "  " + what + "  " + strings.ReplaceAll(f.row(), "\t", "  ")
		return a.printItem(change{what, f}, f.id(), line)
	}
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := now[k]; !ok {
			if err := print("gone", seen[k]); err != nil {
				return err
			}
			delete(seen, k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(now)) {
		f := now[k]
		old, ok := seen[k]
		what := "found"
		if ok {
			what = "changed"
		}
		if ok && fmt.Sprintf("%+v", old) == fmt.Sprintf("%+v", f) {
			continue
		}
		seen[k] = f
		if err := print(what, f); err != nil {
			return err
		}
	}
	return nil
}
