package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
)

// allScopes are what an operator can be given, without their common beginning.
var allScopes = []string{"read", "write", "approvals", "pairing", "admin"}

// usualScopes are what an invited operator gets when nobody says more: everyday work, and neither
// letting others in nor changing the daemon.
const usualScopes = "read,write,approvals"

const scopePrefix = "operator."

func (a *app) devicesCmd() *cobra.Command {
	list := a.devicesListCmd()
	c := group("devices", "Let devices in, and keep them out", `  hanzoctl devices
  hanzoctl devices approve 3f2a91
  hanzoctl devices invite --role node`,
		list, a.devicesApproveCmd(), a.devicesRejectCmd(), a.devicesRemoveCmd(),
		a.devicesRotateCmd(), a.devicesRevokeCmd(), a.devicesInviteCmd())
	c.Aliases = []string{"device"}
	c.RunE = list.RunE
	c.Flags().AddFlagSet(list.Flags())
	return c
}

// scopeWords shows scopes without their common beginning.
func scopeWords(scopes []string) string {
	out := make([]string, len(scopes))
	for i, s := range scopes {
		out[i] = strings.TrimPrefix(s, scopePrefix)
	}
	return strings.Join(out, ",")
}

// scopesOf reads scopes as people write them.
func scopesOf(text string) []string {
	if text == "all" {
		text = strings.Join(allScopes, ",")
	}
	var out []string
	for s := range strings.SplitSeq(text, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		if !strings.Contains(s, ".") {
			s = scopePrefix + s
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func scopesFlag(c *cobra.Command, scopes *string, value, about string) {
	c.Flags().StringVar(scopes, "scopes", value, about)
	must(c.RegisterFlagCompletionFunc("scopes", func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		had := ""
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			had = typed[:i+1]
		}
		words := []string{had + "all"}
		for _, s := range allScopes {
			words = append(words, had+s)
		}
		return words, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	}))
}

// deviceState is a device in a word: paired, or what is left of it.
func deviceState(d *devicesv1.Device) string {
	for _, t := range d.GetTokens() {
		if t.GetRevokedAt() == nil {
			return "paired"
		}
	}
	return "revoked"
}

// liveRoles are the roles of a device, those that were revoked marked.
func liveRoles(d *devicesv1.Device) string {
	out := slices.Clone(d.GetRoles())
	for _, t := range d.GetTokens() {
		if i := slices.Index(out, t.GetRole()); i >= 0 && t.GetRevokedAt() != nil {
			out[i] += " (revoked)"
		}
	}
	return strings.Join(out, ",")
}

func requestState(p *devicesv1.PairingRequest) string {
	if p.GetRepair() {
		return "repair"
	}
	return "waiting"
}

// called is what a device is called: its name, else the program that it runs.
func called(name, clientID string) string {
	if name != "" {
		return name
	}
	return clientID
}

func (a *app) devicesListCmd() *cobra.Command {
	var pending, paired bool
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List devices that wait to be let in, and paired ones", Args: cobra.NoArgs,
		Long: `List devices that wait to be let in, newest first, and then the paired ones.

"waiting" is a new device; "repair" is one that is known and has to be approved again,
because its token was revoked, or because it wants more than before or says that it is
another machine.`,
		Example: `  hanzoctl devices
  hanzoctl devices list --pending -q
  hanzoctl devices list -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Devices.ListDevices(ctx, &devicesv1.ListDevicesRequest{})
				if err != nil {
					return err
				}
				if pending && !paired {
					out.Devices = nil
				}
				if paired && !pending {
					out.Pending = nil
				}
				return a.printDevices(out)
			})
		}}
	c.Flags().BoolVar(&pending, "pending", false, "only those that wait")
	c.Flags().BoolVar(&paired, "paired", false, "only those that are paired")
	return c
}

func (a *app) printDevices(out *devicesv1.ListDevicesResponse) error {
	l := list{whole: out, head: "STATE\tID\tNAME\tROLES\tSCOPES\tPLATFORM\tADDRESS\tLIVE\tSINCE", none: "no device waits or is paired"}
	var rows []string
	for _, p := range out.GetPending() {
		l.items = append(l.items, p)
		l.ids = append(l.ids, p.GetRequestId())
		rows = append(rows, cells(requestState(p), shortID(p.GetDeviceId()), called(p.GetDisplayName(), p.GetClientId()),
			strings.Join(p.GetRoles(), ","), scopeWords(p.GetScopes()), p.GetPlatform(), p.GetRemoteIp(), "",
			span(time.Since(p.GetRequestedAt().AsTime()))))
	}
	for _, d := range out.GetDevices() {
		l.items = append(l.items, d)
		l.ids = append(l.ids, d.GetDeviceId())
		rows = append(rows, cells(deviceState(d), shortID(d.GetDeviceId()), called(d.GetDisplayName(), d.GetClientId()),
			liveRoles(d), scopeWords(d.GetScopes()), d.GetPlatform(), d.GetRemoteIp(), fmt.Sprint(d.GetConnections()),
			span(time.Since(d.GetApprovedAt().AsTime()))))
	}
	l.row = func(i int) string { return rows[i] }
	if err := a.printList(l); err != nil || a.quiet || a.output != "table" {
		return err
	}
	for _, p := range out.GetPending() {
		fmt.Fprintln(a.stderr, Text(asks(p)+": "+a.again()+" devices approve "+shortID(p.GetDeviceId())))
	}
	return nil
}

// asks says what a device waits for.
func asks(p *devicesv1.PairingRequest) string {
	who := fmt.Sprintf("%s (%s)", called(p.GetDisplayName(), p.GetClientId()), shortID(p.GetDeviceId()))
	if p.GetRepair() {
		return who + " asks to be let in again"
	}
	return who + " asks to be let in"
}

// deviceArg is a command for one device that somebody means.
func (a *app) deviceCmd(use, short string, extra int, words func(*devicesv1.ListDevicesResponse) []string, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1 + extra), RunE: run,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 && extra == 1 {
				return []string{"operator", "node"}, cobra.ShellCompDirectiveNoFileComp
			}
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
				out, err := c.Devices.ListDevices(ctx, &devicesv1.ListDevicesRequest{})
				if err != nil {
					return nil
				}
				return words(out)
			})
		}}
}

func pendingWords(out *devicesv1.ListDevicesResponse) []string {
	var words []string
	for _, p := range out.GetPending() {
		words = append(words, shortID(p.GetDeviceId())+"\t"+Text(called(p.GetDisplayName(), p.GetClientId()))+", "+requestState(p))
	}
	return words
}

func deviceWords(out *devicesv1.ListDevicesResponse) []string {
	var words []string
	for _, d := range out.GetDevices() {
		words = append(words, shortID(d.GetDeviceId())+"\t"+Text(called(d.GetDisplayName(), d.GetClientId()))+", "+deviceState(d))
	}
	return words
}

func (a *app) devicesApproveCmd() *cobra.Command {
	c := a.deviceCmd("approve REQUEST", "Let in a device that waits", 0, pendingWords, func(cmd *cobra.Command, args []string) error {
		return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
			p, err := c.ResolvePairing(ctx, args[0])
			if err != nil {
				return err
			}
			out, err := c.Devices.ApprovePairing(ctx, &devicesv1.ApprovePairingRequest{RequestId: p.GetRequestId()})
			if err != nil {
				return err
			}
			return a.printOne(out.GetDevice(), p.GetDeviceId(), Text(fmt.Sprintf("let in: %s (%s) as %s with %s",
				called(p.GetDisplayName(), p.GetClientId()), shortID(p.GetDeviceId()), strings.Join(p.GetRoles(), " and "), orNothing(p.GetScopes()))))
		})
	})
	c.Long = `Let in a device that waits, with the role and the scopes that it asked for. You must hold them
yourself; only an admin lets nodes in.

REQUEST is the id of the request, or 6 or more of the first characters of it or of the
device. A device that asks for more meanwhile has a new request: what is approved is what
was shown.`
	c.Example = `  hanzoctl devices
  hanzoctl devices approve 3f2a91`
	return c
}

func orNothing(scopes []string) string {
	if len(scopes) == 0 {
		return "no scopes"
	}
	return scopeWords(scopes)
}

func (a *app) devicesRejectCmd() *cobra.Command {
	c := a.deviceCmd("reject REQUEST", "Refuse a device that waits", 0, pendingWords, func(cmd *cobra.Command, args []string) error {
		return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
			p, err := c.ResolvePairing(ctx, args[0])
			if err != nil {
				return err
			}
			out, err := c.Devices.RejectPairing(ctx, &devicesv1.RejectPairingRequest{RequestId: p.GetRequestId()})
			if err != nil {
				return err
			}
			return a.printOne(out, p.GetDeviceId(), Text(fmt.Sprintf("refused: %s (%s); it may ask again", called(p.GetDisplayName(), p.GetClientId()), shortID(p.GetDeviceId()))))
		})
	})
	c.Example = `  hanzoctl devices reject 3f2a91`
	return c
}

func (a *app) devicesRemoveCmd() *cobra.Command {
	c := a.deviceCmd("remove DEVICE", "Forget a device and end its connections", 0, deviceWords, func(cmd *cobra.Command, args []string) error {
		return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
			d, err := c.ResolveDevice(ctx, args[0])
			if err != nil {
				return err
			}
			out, err := c.Devices.RemoveDevice(ctx, &devicesv1.RemoveDeviceRequest{DeviceId: d.GetDeviceId()})
			if err != nil {
				return err
			}
			return a.printOne(out, d.GetDeviceId(), Text(fmt.Sprintf("removed: %s (%s)", called(d.GetDisplayName(), d.GetClientId()), shortID(d.GetDeviceId()))))
		})
	})
	c.Long = `Forget a device: its tokens end, and its connections within a second. It may ask to be let in
like any other, and a program on the daemon's machine that has the shared token is let in
without asking. To keep a device out, use "hanzoctl devices revoke".

DEVICE is its id, or 6 or more of the first characters of it.`
	c.Example = `  hanzoctl devices remove 3f2a91`
	return c
}

func (a *app) devicesRotateCmd() *cobra.Command {
	var scopes string
	c := a.deviceCmd("rotate DEVICE ROLE", "Replace the token of a device, and print the new one", 1, deviceWords, func(cmd *cobra.Command, args []string) error {
		return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
			d, err := c.ResolveDevice(ctx, args[0])
			if err != nil {
				return err
			}
			out, err := c.Devices.RotateToken(ctx, &devicesv1.RotateTokenRequest{
				DeviceId: d.GetDeviceId(), Role: args[1], Scopes: scopesOf(scopes),
			})
			if err != nil {
				return err
			}
			if a.output == "table" {
				fmt.Fprintln(a.stderr, Text(fmt.Sprintf("the new token of %s (%s) as %s, with %s; it is not shown again:",
					called(d.GetDisplayName(), d.GetClientId()), shortID(d.GetDeviceId()), args[1], orNothing(out.GetScopes()))))
			}
			return a.printOne(out, "", Text(out.GetToken()))
		})
	})
	scopesFlag(c, &scopes, "", "what the new token may do: read,write,approvals,pairing,admin (default as before)")
	c.Long = `Replace the token of a device for a role and print the new one, once. The old one ends, and what
it let in as well. Its scopes are bounded by what was approved for the device, and by what you
hold yourself. A token that was revoked holds again when it is rotated.`
	c.Example = `  hanzoctl devices rotate 3f2a91 operator
  hanzoctl devices rotate 3f2a91 operator --scopes read`
	return c
}

func (a *app) devicesRevokeCmd() *cobra.Command {
	c := a.deviceCmd("revoke DEVICE ROLE", "Keep a device out of a role", 1, deviceWords, func(cmd *cobra.Command, args []string) error {
		return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
			d, err := c.ResolveDevice(ctx, args[0])
			if err != nil {
				return err
			}
			out, err := c.Devices.RevokeToken(ctx, &devicesv1.RevokeTokenRequest{DeviceId: d.GetDeviceId(), Role: args[1]})
			if err != nil {
				return err
			}
			return a.printOne(out, d.GetDeviceId(), Text(fmt.Sprintf("revoked: %s (%s) as %s; it waits for an approval when it comes again",
				called(d.GetDisplayName(), d.GetClientId()), shortID(d.GetDeviceId()), args[1])))
		})
	})
	c.Long = `Keep a device out of a role: its token ends, and its connections in that role within a second.
When it comes again, by its token or by the shared one, it waits for an approval; approving it
once lets it in again.`
	c.Example = `  hanzoctl devices revoke 3f2a91 operator
  hanzoctl devices revoke 3f2a91 node`
	return c
}

func (a *app) devicesInviteCmd() *cobra.Command {
	var role, scopes string
	var ttl time.Duration
	var addresses []string
	c := &cobra.Command{Use: "invite", Short: "Print one line that enrols another machine", Args: cobra.NoArgs,
		Long: `Print one line to run on another machine: it makes that machine an operator of this daemon, or a
node of it. The line holds for one machine and for ten minutes. Whoever has it first gets in,
so send it over a way that you trust. It carries the daemon's addresses and the fingerprint of
its certificate.

You can give away only what you hold yourself, and only an admin invites nodes.`,
		Example: `  hanzoctl devices invite
  hanzoctl devices invite --scopes all
  hanzoctl devices invite --role node --address box.example.org:18790`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &devicesv1.CreateInviteRequest{Role: role}
			if role == "operator" {
				req.Scopes = scopesOf(scopes)
			} else if cmd.Flags().Changed("scopes") {
				return usagef("--scopes is for operators; a node has none")
			}
			if cmd.Flags().Changed("ttl") {
				req.Ttl = durationpb.New(ttl)
			}
			for i, s := range addresses {
				address, err := client.ParseHost(s)
				if err != nil {
					return err
				}
				addresses[i] = address
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Devices.CreateInvite(ctx, req)
				if err != nil {
					return err
				}
				return a.printInvite(out, role, addresses)
			})
		}}
	c.Flags().StringVar(&role, "role", "operator", "operator or node")
	must(c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"operator", "node"}, cobra.ShellCompDirectiveNoFileComp)))
	scopesFlag(c, &scopes, usualScopes, "what the operator may do: read,write,approvals,pairing,admin, or all")
	c.Flags().DurationVar(&ttl, "ttl", 10*time.Minute, "how long the invite holds, 10m at the most")
	c.Flags().StringSliceVar(&addresses, "address", nil, "host:port at which the other machine reaches this daemon, before those that it knows; may be repeated")
	return c
}

// printInvite prints the line. The code goes in by stdin, so that nobody on the other machine sees it
// among the running programs.
func (a *app) printInvite(out *devicesv1.CreateInviteResponse, role string, addresses []string) error {
	i, err := client.ParseInvite(out.GetCode())
	if err != nil {
		return fmt.Errorf("the daemon made an invite that cannot be read: %w", err)
	}
	if len(addresses) > 0 {
		i.Addresses = append(addresses, i.Addresses...)
		out.Addresses, out.Code = i.Addresses, i.Code()
	}
	if len(i.Addresses) == 0 {
		return &codeError{code: exitConflict, text: `this daemon has no door for other machines: start it with "hanzod run --bind lan", ` +
			`or name the address that leads to it with --address host:port (see "hanzoctl help remote")`}
	}
	line := "echo " + out.GetCode() + " | hanzoctl enroll -"
	if role == "node" {
		line = "echo " + out.GetCode() + " | hanzod node --enroll -"
	}
	if a.output == "table" && !a.quiet {
		fmt.Fprintf(a.stderr, "run this on the other machine, within %s:\n", span(time.Until(out.GetExpiresAt().AsTime()).Round(time.Second)))
	}
	if a.quiet {
		return a.printIDs([]string{out.GetCode()})
	}
	return a.printOne(out, "", line)
}

func platform() string { return runtime.GOOS }

func family() string {
	return map[string]string{"linux": "Linux", "darwin": "Mac", "windows": "Windows"}[runtime.GOOS]
}
