package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
)

func (a *app) nodesKeysCmd() *cobra.Command {
	list := a.keysListCmd()
	c := group("keys", "Make and revoke the keys with which instances link", `  hanzoctl nodes keys create cloud
  hanzoctl nodes keys list
  hanzoctl nodes keys revoke cloud`,
		a.keysCreateCmd(), list, a.keysRevokeCmd())
	c.Aliases = []string{"key"}
	c.RunE = list.RunE
	return c
}

func (a *app) keysCreateCmd() *cobra.Command {
	var tenant string
	c := &cobra.Command{Use: "create NAME", Short: "Make a key, and print it", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Make a key with which instances link to this daemon at /v1/tunnel, and print it, once. An instance
shows it as a bearer token, as the password of its address, or as ?token= there:

  TUNNEL_URL=wss://x:KEY@box.example.org/v1/tunnel

It holds until it is revoked. What links with the key of a tenant belongs to that tenant.`,
		Example: `  hanzoctl nodes keys create cloud
  hanzoctl nodes keys create build --tenant acme
  hanzoctl nodes keys create ci -q > key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Devices.CreateLinkKey(ctx, &devicesv1.CreateLinkKeyRequest{Name: args[0], Tenant: tenant})
				if err != nil {
					return err
				}
				if a.quiet {
					return a.printIDs([]string{out.GetSecret()})
				}
				if a.output == "table" {
					fmt.Fprintln(a.stderr, Text(fmt.Sprintf("the link key %s%s; it is not shown again:", out.GetKey().GetName(), ofTenant(out.GetKey()))))
				}
				return a.printOne(out, "", Text(out.GetSecret()))
			})
		}}
	c.Flags().StringVar(&tenant, "tenant", "", "the organisation that its instances belong to")
	must(c.RegisterFlagCompletionFunc("tenant", cobra.NoFileCompletions))
	return c
}

func ofTenant(k *devicesv1.LinkKey) string {
	if k.GetTenant() == "" {
		return ""
	}
	return " of " + k.GetTenant()
}

func (a *app) keysListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the keys", Args: cobra.NoArgs,
		Example: `  hanzoctl nodes keys list
  hanzoctl nodes keys list -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Devices.ListLinkKeys(ctx, &devicesv1.ListLinkKeysRequest{})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tNAME\tTENANT\tAGE\tBY", none: "there are no link keys; make one with: hanzoctl nodes keys create NAME"}
				for _, k := range out.GetKeys() {
					l.items = append(l.items, k)
					l.ids = append(l.ids, k.GetKeyId())
				}
				l.row = func(i int) string {
					k := out.GetKeys()[i]
					return cells(shortID(k.GetKeyId()), k.GetName(), k.GetTenant(), span(time.Since(k.GetCreatedAt().AsTime())), k.GetCreatedBy())
				}
				return a.printList(l)
			})
		}}
}

func (a *app) keysRevokeCmd() *cobra.Command {
	return &cobra.Command{Use: "revoke KEY", Short: "End a key, and what is linked with it", Args: cobra.ExactArgs(1),
		Long: `End a key. What is linked with it ends within a second, and does not come back with it.

KEY is its name, its id, or 6 or more of the first characters of it.`,
		Example: `  hanzoctl nodes keys revoke cloud
  hanzoctl nodes keys revoke 3f2a91`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
				out, _ := c.Devices.ListLinkKeys(ctx, &devicesv1.ListLinkKeysRequest{}) // nothing is offered then
				var words []string
				for _, k := range out.GetKeys() {
					words = append(words, Text(k.GetName()))
				}
				return words
			})
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := linkKeyID(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Devices.RevokeLinkKey(ctx, &devicesv1.RevokeLinkKeyRequest{KeyId: id})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetKey().GetKeyId(), Text("revoked: "+out.GetKey().GetName()+ofTenant(out.GetKey())))
			})
		}}
}

// minKeyPrefix is how many characters of an id name a key at least.
const minKeyPrefix = 6

// linkKeyID finds the one key that a text names.
func linkKeyID(ctx context.Context, c *client.Client, text string) (string, error) {
	out, err := c.Devices.ListLinkKeys(ctx, &devicesv1.ListLinkKeysRequest{})
	if err != nil {
		return "", err
	}
	var found []string
	for _, k := range out.GetKeys() {
		if k.GetKeyId() == text {
			return text, nil
		}
		if k.GetName() == text || len(text) >= minKeyPrefix && strings.HasPrefix(k.GetKeyId(), text) {
			found = append(found, k.GetKeyId())
		}
	}
	switch len(found) {
	case 0:
		return "", &codeError{code: exitNotFound, text: "no link key is called " + Text(text) + `; see "hanzoctl nodes keys list"`}
	case 1:
		return found[0], nil
	}
	return "", &codeError{code: exitConflict, text: fmt.Sprintf("%d link keys are called %s, in several tenants; name one by its id", len(found), Text(text))}
}
