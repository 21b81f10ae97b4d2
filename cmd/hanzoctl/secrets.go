package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	secretsv1 "github.com/hanzoai/hanzod/gen/hanzo/secrets/v1"
)

// secretsTimeout is how long reading secrets may take: programs that hand them out may need a minute.
const secretsTimeout = 4 * callTimeout

func (a *app) secretsCmd() *cobra.Command {
	return group("secrets", "Secrets that the configuration keeps elsewhere", `  hanzoctl secrets list
  hanzoctl secrets check
  hanzoctl secrets reload`,
		a.secretsListCmd(), a.secretsCheckCmd(), a.secretsReloadCmd(), a.secretsResolveCmd())
}

func (a *app) secretsListCmd() *cobra.Command {
	var targets bool
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List where secrets stand, never their values", Args: cobra.NoArgs,
		Long: `List the secrets of the configuration that stand elsewhere: in the environment of the daemon, in
files, or with programs. Their values are not shown. With --targets, list the ids of all places where
a secret may stand instead.`,
		Example: `  hanzoctl secrets list
  hanzoctl secrets list --targets -q`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Secrets.ListSecrets(ctx, &secretsv1.ListSecretsRequest{})
				if err != nil {
					return err
				}
				if targets {
					l := list{
						whole: &secretsv1.ListSecretsResponse{Targets: out.GetTargets()}, ids: out.GetTargets(),
						head: "TARGET", row: func(i int) string { return out.GetTargets()[i] },
					}
					for _, t := range out.GetTargets() {
						l.items = append(l.items, structpb.NewStringValue(t))
					}
					return a.printList(l)
				}
				return a.printSecrets(out, false)
			})
		}}
	c.Flags().BoolVar(&targets, "targets", false, "the places where secrets may stand")
	return c
}

func (a *app) secretsCheckCmd() *cobra.Command {
	return &cobra.Command{Use: "check", Short: "Try to read every secret, and say which cannot be read", Args: cobra.NoArgs,
		Long: `Try to read every secret where it stands, without using what is read, and say which cannot be
read and why. The exit code is 1 when there is one.`,
		Example: `  hanzoctl secrets check
  hanzoctl secrets check -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, secretsTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Secrets.ListSecrets(ctx, &secretsv1.ListSecretsRequest{Check: true})
				if err != nil {
					return err
				}
				if err := a.printSecrets(out, true); err != nil {
					return err
				}
				bad := 0
				for _, r := range out.GetReferences() {
					if r.GetProblem() != "" {
						bad++
					}
				}
				if bad > 0 {
					return &codeError{code: exitFailed, text: fmt.Sprintf("%d of %d secrets cannot be read", bad, len(out.GetReferences()))}
				}
				return nil
			})
		}}
}

func (a *app) printSecrets(out *secretsv1.ListSecretsResponse, checked bool) error {
	l := list{whole: out, head: "PATH\tSOURCE\tPROVIDER\tID\tSTATE", none: "no secret of the configuration stands elsewhere"}
	for _, r := range out.GetReferences() {
		l.items = append(l.items, proto.Message(r))
		l.ids = append(l.ids, r.GetPath())
	}
	l.row = func(i int) string {
		r := out.GetReferences()[i]
		state := "in use"
		switch {
		case !r.GetActive():
			state = "off"
		case r.GetProblem() != "":
			state = "WRONG: " + r.GetProblem()
		case checked:
			state = "ok"
		}
		provider := r.GetProvider()
		if provider == "" {
			provider = "(default)"
		}
		return cells(r.GetPath(), r.GetSource(), provider, r.GetId(), state)
	}
	return a.printList(l)
}

func (a *app) secretsReloadCmd() *cobra.Command {
	return &cobra.Command{Use: "reload", Short: "Read all secrets anew", Args: cobra.NoArgs,
		Long: `Read all secrets anew and put them into force together. When one cannot be read, the command says
which and those of before stay in force. A gateway token or password that is another one now makes
the daemon start anew, so that what the old one let in ends.`,
		Example: `  hanzoctl secrets reload
  hanzoctl secrets reload -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, secretsTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Secrets.ReloadSecrets(ctx, &secretsv1.ReloadSecretsRequest{})
				if err != nil {
					return err
				}
				text := "all secrets were read anew"
				if n := out.GetWarnings(); n > 0 {
					text += fmt.Sprintf(", but %d of what is off", n)
				}
				return a.printOne(out, "", text)
			})
		}}
}

func (a *app) secretsResolveCmd() *cobra.Command {
	var reveal bool
	c := &cobra.Command{Use: "resolve TARGET…", Short: "Show the values of secrets", Args: cobra.MinimumNArgs(1),
		Long: `Show the values in force of the secrets at some places. It takes --reveal, so that nobody shows a
secret by mistake, and leaves a row in the audit log. "hanzoctl secrets list --targets" names the
places.`,
		Example: `  hanzoctl secrets resolve talk.apiKey --reveal
  hanzoctl secrets resolve 'models.providers.*.apiKey' --reveal -o json`,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
				out, err := c.Secrets.ListSecrets(ctx, &secretsv1.ListSecretsRequest{})
				if err != nil {
					return nil
				}
				return out.GetTargets()
			})
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !reveal {
				return usagef("this prints secrets; add --reveal if that is what you want")
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Secrets.ResolveSecrets(ctx, &secretsv1.ResolveSecretsRequest{Command: "hanzoctl secrets resolve", Targets: args})
				if err != nil {
					return err
				}
				for _, d := range out.GetDiagnostics() {
					fmt.Fprintln(a.stderr, Text(d))
				}
				l := list{whole: out, head: "PATH\tVALUE", none: "nothing stands there, or it stands in the configuration itself"}
				for _, s := range out.GetAssignments() {
					l.items = append(l.items, proto.Message(s))
					l.ids = append(l.ids, s.GetPath())
				}
				l.row = func(i int) string {
					s := out.GetAssignments()[i]
					return cells(s.GetPath(), strings.TrimSpace(s.GetValue()))
				}
				return a.printList(l)
			})
		}}
	c.Flags().BoolVar(&reveal, "reveal", false, "print the values")
	return c
}
