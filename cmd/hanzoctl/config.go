package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
)

// maxRetries is how often the change of single keys is tried again when somebody else was faster.
const maxRetries = 5

func (a *app) configCmd() *cobra.Command {
	c := group("config", "Read and change the configuration of the daemon, and undo a change", `  hanzoctl config get gateway.port
  hanzoctl config set logging.level debug
  hanzoctl config edit
  hanzoctl config apply config.json --confirm 60s`,
		a.configGetCmd(), a.configSetCmd(), a.configUnsetCmd(), a.configEditCmd(), a.configDiffCmd(), a.configApplyCmd(),
		a.configConfirmCmd(), a.configRevertCmd(), a.configSchemaCmd(), a.configPathCmd())
	c.Long = `The configuration is a JSON5 file; comments stay where they are when it is changed here. Much of it
counts at once, the rest after a restart, which the daemon makes by itself once the work in flight
is done. What a change takes is said when it is made.

Secrets are never shown: __OPENCLAW_REDACTED__ stands for them, and means the secret that is there
where it is sent back.

A file that does not hold never stops a daemon: what was in force stays so, and a start takes the
last configuration that worked. "hanzoctl status", "hanzoctl doctor" and "hanzoctl config get" say
so then.`
	return c
}

func (a *app) configGetCmd() *cobra.Command {
	return &cobra.Command{Use: "get [KEY]", Short: "Print the configuration, or one value of it", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeKey,
		Long: `Print the text of the configuration file with its comments, secrets hidden. What is wrong with it,
and whether it is in force, goes to stderr. With a key, print its value as JSON, the default where
the file says nothing. -q prints the hash of the file.`,
		Example: `  hanzoctl config get
  hanzoctl config get gateway.port
  hanzoctl config get 'agents.defaults.models["openai/gpt-5.2"]'
  hanzoctl config get -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req := &configv1.GetConfigRequest{}
				if len(args) > 0 {
					req.Key = args[0]
				}
				out, err := c.Config.GetConfig(ctx, req)
				if err != nil {
					return err
				}
				if a.quiet {
					return a.printIDs([]string{out.GetHash()})
				}
				a.configNotes(out)
				if req.GetKey() != "" {
					if out.GetConfig() == nil {
						return fmt.Errorf("%s is not set; what it means then says: %s config schema %s", Text(req.GetKey()), a.again(), Quote([]string{req.GetKey()}))
					}
					return a.printJSONValue(out.GetConfig().AsInterface())
				}
				if a.output != "table" {
					return a.printValue(out)
				}
				if out.Text != nil {
					_, err = io.WriteString(a.stdout, lines(out.GetText()))
					return err
				}
				if out.GetConfig() == nil {
					return errors.New("the file does not hold, so that its secrets are not known and nothing of it is shown")
				}
				return a.printJSONValue(out.GetConfig().AsInterface())
			})
		}}
}

// printJSONValue prints a value in the chosen format; as a table it is JSON.
func (a *app) printJSONValue(v any) error {
	if a.output != "table" {
		return a.printValue(v)
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, Lines(string(b)))
	return err
}

// configNotes says what else there is to know of the file.
func (a *app) configNotes(out *configv1.GetConfigResponse) {
	note := func(format string, args ...any) { fmt.Fprintln(a.stderr, Text(fmt.Sprintf(format, args...))) }
	switch {
	case !out.GetExists():
		note("there is no file yet; %s would be it", out.GetPath())
	case !out.GetValid():
		note("%s does not hold; the configuration before it is in force:", out.GetPath())
	case out.GetFault() != "":
		note("%s IS NOT IN USE: %s", out.GetPath(), out.GetFault())
	}
	for _, is := range out.GetIssues() {
		note("  %s", issueText(is))
	}
	if n := len(out.GetWaiting()); n > 0 && out.GetFault() == "" {
		note("%d keys count after a restart: %s", n, strings.Join(out.GetWaiting(), ", "))
	}
	if p := out.GetPending(); p != nil {
		a.pendingNote(p)
	}
}

func (a *app) pendingNote(p *configv1.PendingChange) {
	fmt.Fprintln(a.stderr, Text(fmt.Sprintf("the change by %s undoes itself in %s; keep it with: %s config confirm", p.GetBy(),
		time.Until(p.GetDeadline().AsTime()).Round(time.Second), a.again())))
}

func issueText(is *configv1.Issue) string {
	text := is.GetMessage()
	if is.GetPath() != "" {
		text = is.GetPath() + ": " + text
	}
	switch {
	case is.GetLine() > 0 && is.GetFile() != "":
		text += fmt.Sprintf(" (%s line %d)", filepath.Base(is.GetFile()), is.GetLine())
	case is.GetLine() > 0:
		text += fmt.Sprintf(" (line %d)", is.GetLine())
	}
	return text
}

// keyParts splits a key: names with dots between them, numbers of items, and names with dots in brackets and
// quotes.
func keyParts(key string) ([]string, error) {
	var out []string
	rest := key
	for rest != "" {
		if strings.HasPrefix(rest, "[") {
			end := strings.IndexByte(rest, ']')
			if strings.HasPrefix(rest, `["`) {
				if end = strings.Index(rest[2:], `"]`); end >= 0 {
					end += 3
				}
			}
			if end < 0 {
				return nil, usagef("the key %s has a bracket that is not closed", Text(key))
			}
			name := strings.Trim(rest[1:end], `"`)
			out, rest = append(out, name), strings.TrimPrefix(rest[end+1:], ".")
		} else {
			at := strings.IndexAny(rest, ".[")
			if at < 0 {
				at = len(rest)
			}
			out = append(out, rest[:at])
			rest = strings.TrimPrefix(rest[at:], ".")
		}
		if out[len(out)-1] == "" {
			return nil, usagef("the key %s has an empty part", Text(key))
		}
	}
	if len(out) == 0 {
		return nil, usagef("name a key, such as logging.level")
	}
	return out, nil
}

// patchOf is the object that changes one key.
func patchOf(key string, value json.RawMessage) (string, error) {
	parts, err := keyParts(key)
	if err != nil {
		return "", err
	}
	out := value
	for i, part := range slices.Backward(parts) {
		if _, err := strconv.Atoi(part); err == nil && i > 0 {
			return "", usagef("%s is an item of a list; set the whole list, %s, or use: hanzoctl config edit", Text(key), Text(strings.Join(parts[:i], ".")))
		}
		if out, err = json.Marshal(map[string]json.RawMessage{part: out}); err != nil {
			return "", err
		}
	}
	return string(out), nil
}

func (a *app) configSetCmd() *cobra.Command {
	var asText bool
	c := &cobra.Command{Use: "set KEY VALUE", Short: "Set one key", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeKey,
		Long: `Set one key and leave the rest of the file as it is. VALUE is JSON, and text where it is none; - reads
it from stdin, so that a secret does not show in the list of processes. A list is set as a whole.`,
		Example: `  hanzoctl config set logging.level debug
  hanzoctl config set gateway.nodes.denyCommands '["system.run"]'
  hanzoctl config set gateway.auth.token - < token.txt
  hanzoctl config set --text session.mainKey 42`,
		RunE: func(cmd *cobra.Command, args []string) error {
			value := args[1]
			if value == "-" {
				if isTerminal(a.stdin) {
					return usagef("give the value on stdin")
				}
				b, err := readAll(a.stdin, "stdin")
				if err != nil {
					return err
				}
				value = strings.TrimRight(string(b), "\r\n")
			}
			raw := json.RawMessage(value)
			if asText || !json.Valid(raw) {
				b, err := json.Marshal(value)
				if err != nil {
					return err
				}
				raw = b
			}
			if string(raw) == "null" {
				return usagef("to remove a key, use: %s config unset %s", a.again(), args[0])
			}
			return a.editConfig(cmd, args[0], raw)
		}}
	c.Flags().BoolVar(&asText, "text", false, "VALUE is text, whatever it looks like")
	return c
}

func (a *app) configUnsetCmd() *cobra.Command {
	return &cobra.Command{Use: "unset KEY", Short: "Remove one key, so that its default counts", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeKey,
		Example: `  hanzoctl config unset logging.level`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.editConfig(cmd, args[0], json.RawMessage("null"))
		}}
}

// editConfig changes one key. Who else writes meanwhile changes another one, most likely: then it is tried again.
func (a *app) editConfig(cmd *cobra.Command, key string, value json.RawMessage) error {
	patch, err := patchOf(key, value)
	if err != nil {
		return err
	}
	return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
		for try := 0; ; try++ {
			out, err := c.Config.EditConfig(ctx, &configv1.EditConfigRequest{Patch: patch})
			if err != nil && try < maxRetries && errorCode(err) == "config.conflict" {
				continue
			}
			if err != nil {
				return a.configFault(err)
			}
			return a.printOne(out, out.GetWritten().GetHash(), a.writtenRows(out.GetWritten(), true)...)
		}
	})
}

// errorCode is the stable name of a refusal.
func errorCode(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	return ""
}

// configFault shows what else is wrong with a configuration that was refused.
func (a *app) configFault(err error) error {
	if errorCode(err) == "config.conflict" {
		fmt.Fprintln(a.stderr, "somebody else changed the configuration meanwhile; read it again and repeat the change")
	}
	return err
}

// writtenRows say what was changed and what that takes; done is false for what would be.
func (a *app) writtenRows(w *configv1.Written, done bool) []string {
	var rows []string
	for _, c := range w.GetChanges() {
		before, after := "(not set)", "(removed)"
		if c.Before != nil {
			before = oneLine(c.GetBefore())
		}
		if c.After != nil {
			after = oneLine(c.GetAfter())
		}
		if before == after {
			after = "(another secret)"
		}
		rows = append(rows, cells(c.GetPath(), before+" → "+after))
	}
	if len(rows) == 0 {
		rows = append(rows, cells("nothing changes", "the values are those that are there"))
	}
	if w.GetFlattened() {
		rows = append(rows, cells("note", "files that were included are part of the file now"))
	}
	p := w.GetPlan()
	verb := map[bool]string{true: "", false: "would be "}[done]
	switch {
	case p.GetMode() == "off" && p.GetEffect() != configv1.Effect_EFFECT_NONE:
		rows = append(rows, cells("in force", verb+"after the next start: gateway.reload.mode is off"))
	case p.GetEffect() == configv1.Effect_EFFECT_RESTART && p.GetMode() == "hot" && len(p.GetRestart()) > 0:
		rows = append(rows, cells("in force", verb+"after the next start, because gateway.reload.mode is hot: "+strings.Join(p.GetRestart(), ", ")))
	case p.GetEffect() == configv1.Effect_EFFECT_RESTART:
		rows = append(rows, cells("in force", verb+"after a restart, which the daemon makes by itself"))
	default:
		rows = append(rows, cells("in force", verb+"at once"))
	}
	return rows
}

// maxShown bounds a value in a table, in characters.
const maxShown = 60

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxShown {
		s = string(r[:maxShown]) + "…"
	}
	return s
}

func (a *app) configDiffCmd() *cobra.Command {
	return &cobra.Command{Use: "diff FILE", Short: "Say what a file would change as the configuration", Args: cobra.ExactArgs(1),
		Long: `Say what the text of a file (- for stdin) would change as the configuration, and what that takes.
Nothing is changed. A text that does not hold is refused with everything that is wrong with it.`,
		Example: `  hanzoctl config diff config.json
  hanzoctl config get > c.json5; vi c.json5; hanzoctl config diff c.json5`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicyInput(args[0])
			if err != nil {
				return err
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Config.CheckConfig(ctx, &configv1.CheckConfigRequest{Raw: string(text)})
				if err != nil {
					return err
				}
				if issues := out.GetIssues(); len(issues) > 0 {
					return a.doesNotHold(args[0], issues)
				}
				return a.printOne(out, out.GetWritten().GetHash(), a.writtenRows(out.GetWritten(), false)...)
			})
		}}
}

// doesNotHold shows what is wrong with a text, and is its error.
func (a *app) doesNotHold(name string, issues []*configv1.Issue) error {
	for _, is := range issues {
		fmt.Fprintln(a.stderr, Text("  "+issueText(is)))
	}
	return fmt.Errorf("%s does not hold; nothing was changed", Text(name))
}

func (a *app) configApplyCmd() *cobra.Command {
	var base, note string
	var confirm, delay time.Duration
	c := &cobra.Command{Use: "apply FILE", Short: "Replace the configuration by a file and restart the daemon", Args: cobra.ExactArgs(1),
		Long: `Replace the configuration by the text of a file (- for stdin), as it is, comments included, and
restart the daemon.

With --confirm the change undoes itself unless "hanzoctl config confirm" is given within that time
after it is in force: a change that cuts you off is undone without you, also when the daemon is
killed meanwhile or does not start with it.

With --base-hash the change is refused when the file is not the one that was read ("hanzoctl config
get -q" prints its hash). Without it the present file is replaced, whatever is in it.`,
		Example: `  hanzoctl config apply config.json
  hanzoctl config apply config.json --confirm 60s && hanzoctl config confirm
  hanzoctl config apply config.json --base-hash "$hash"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicyInput(args[0])
			if err != nil {
				return err
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				return a.applyConfig(ctx, c, &configv1.ApplyConfigRequest{Raw: string(text), Text: true, BaseHash: base, Note: note}, confirm, delay, cmd.Flags().Changed("delay"))
			})
		}}
	c.Flags().StringVar(&base, "base-hash", "", "hash of the file that the change starts from")
	c.Flags().DurationVar(&confirm, "confirm", 0, "undo the change unless it is confirmed within this time, from 5s to 1h")
	c.Flags().DurationVar(&delay, "delay", 0, "how long the restart waits, at most 1m (default 2s)")
	c.Flags().StringVar(&note, "note", "", "what the main session is told after the restart")
	return c
}

func (a *app) applyConfig(ctx context.Context, c *client.Client, req *configv1.ApplyConfigRequest, confirm, delay time.Duration, delayed bool) error {
	if req.GetBaseHash() == "" {
		now, err := c.Config.GetConfig(ctx, &configv1.GetConfigRequest{Key: "gateway.port"})
		if err != nil {
			return err
		}
		if now.GetExists() {
			req.BaseHash = now.GetHash()
		}
	}
	if confirm != 0 {
		req.Confirm = durationpb.New(confirm)
	}
	if delayed {
		req.RestartDelay = durationpb.New(delay)
	}
	out, err := c.Config.ApplyConfig(ctx, req)
	if err != nil {
		return a.configFault(err)
	}
	rows := append(a.writtenRows(out.GetWritten(), true), cells("restart", "in "+out.GetRestart().GetDelay().AsDuration().Round(time.Second).String()))
	if p := out.GetPending(); p != nil {
		rows = append(rows, cells("confirm", fmt.Sprintf("within %s after that, or it is undone: %s config confirm", p.GetWindow().AsDuration(), a.again())))
	}
	return a.printOne(out, out.GetWritten().GetHash(), rows...)
}

func (a *app) configConfirmCmd() *cobra.Command {
	return &cobra.Command{Use: "confirm", Short: "Keep the change that undoes itself otherwise", Args: cobra.NoArgs,
		Example: `  hanzoctl config apply config.json --confirm 60s && hanzoctl config confirm`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Config.ConfirmConfig(ctx, &configv1.ConfirmConfigRequest{})
				if err != nil {
					return err
				}
				return a.printOne(out, "", Text("the change by "+out.GetChange().GetBy()+" stays"))
			})
		}}
}

func (a *app) configRevertCmd() *cobra.Command {
	return &cobra.Command{Use: "revert", Short: "Undo the change that waits to be confirmed, now", Args: cobra.NoArgs,
		Example: `  hanzoctl config revert`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Config.RevertConfig(ctx, &configv1.RevertConfigRequest{})
				if err != nil {
					return err
				}
				return a.printOne(out, "", Text("the change by "+out.GetChange().GetBy()+" is undone"))
			})
		}}
}

func (a *app) configPathCmd() *cobra.Command {
	return &cobra.Command{Use: "path", Short: "Print where the configuration file is", Args: cobra.NoArgs,
		Example: `  hanzoctl config path`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Config.GetConfig(ctx, &configv1.GetConfigRequest{Key: "gateway.port"})
				if err != nil {
					return err
				}
				return a.printOne(map[string]any{"path": out.GetPath(), "exists": out.GetExists()}, out.GetPath(), Text(out.GetPath()))
			})
		}}
}

func (a *app) configSchemaCmd() *cobra.Command {
	return &cobra.Command{Use: "schema [KEY]", Short: "Say which keys there are and what they mean", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeKey,
		Long: `List the keys below a key, or those at the top, with their types and what they mean. Without a key,
-o json prints the JSON Schema of the whole configuration.`,
		Example: `  hanzoctl config schema
  hanzoctl config schema gateway.auth
  hanzoctl config schema -o json > schema.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req := &configv1.LookupSchemaRequest{}
				if len(args) > 0 {
					req.Path = args[0]
				} else if a.output != "table" && !a.quiet {
					out, err := c.Config.GetSchema(ctx, &configv1.GetSchemaRequest{})
					if err != nil {
						return err
					}
					return a.printValue(out)
				}
				out, err := c.Config.LookupSchema(ctx, req)
				if err != nil {
					return err
				}
				if a.quiet {
					var ids []string
					for _, x := range out.GetChildren() {
						ids = append(ids, x.GetPath())
					}
					return a.printIDs(ids)
				}
				return a.printOne(out, "", schemaRows(out)...)
			})
		}}
}

func schemaRows(out *configv1.LookupSchemaResponse) []string {
	help := func(hint map[string]any) string { s, _ := hint["help"].(string); return s }
	var rows []string
	if out.GetPath() != "" {
		facts := takes(out.GetValues(), "")
		if facts == "" {
			text, _ := json.Marshal(out.GetSchema().AsMap()) // plain data
			facts = string(text)
		}
		rows = append(rows, cells(out.GetPath(), facts))
		if h := help(out.GetHint().AsMap()); h != "" {
			rows = append(rows, cells("", h))
		}
	}
	for _, c := range out.GetChildren() {
		kind := takes(c.GetValues(), c.GetType())
		if kind == "" {
			kind = "any of several"
		}
		if c.GetRequired() {
			kind += ", required"
		}
		rows = append(rows, cells(c.GetPath(), kind, help(c.GetHint().AsMap())))
	}
	return rows
}

// takes says what a key takes: its values, where it has only some, else the type.
func takes(values []string, kind string) string {
	if len(values) == 0 || kind == "boolean" {
		return kind
	}
	return strings.Join(values, "|")
}

// completeKey completes the key of a configuration from its schema.
func (a *app) completeKey(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	words, directive := a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		above := ""
		if i := strings.LastIndexByte(word, '.'); i >= 0 {
			above = word[:i]
		}
		out, err := c.Config.LookupSchema(ctx, &configv1.LookupSchemaRequest{Path: above})
		if err != nil {
			return nil
		}
		var words []string
		for _, x := range out.GetChildren() {
			if x.GetKey() == "*" {
				continue
			}
			label, _ := x.GetHint().AsMap()["label"].(string)
			words = append(words, Text(x.GetPath())+"\t"+Text(label))
		}
		return words
	})
	return words, directive | cobra.ShellCompDirectiveNoFileComp
}

func (a *app) configEditCmd() *cobra.Command {
	var yes bool
	var confirm time.Duration
	c := &cobra.Command{Use: "edit", Short: "Edit the configuration in $VISUAL or $EDITOR", Args: cobra.NoArgs,
		Long: `Edit the text of the configuration in $VISUAL or $EDITOR, with its comments, secrets hidden. The text
is checked before it is saved: a wrong one is shown with its faults and can be edited again. What
changes is shown and has to be agreed to. When somebody else changed the file meanwhile, nothing is
saved and the text is kept.

With --confirm the daemon restarts with the change and undoes it unless "hanzoctl config confirm" is
given within that time.`,
		Example: `  hanzoctl config edit
  EDITOR="code --wait" hanzoctl config edit --confirm 60s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.editConfigText(ctx, c, confirm, yes) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "save without asking")
	c.Flags().DurationVar(&confirm, "confirm", 0, "undo the change unless it is confirmed within this time, from 5s to 1h")
	return c
}

func (a *app) editConfigText(ctx context.Context, c *client.Client, confirm time.Duration, yes bool) error {
	editor := a.getenv("VISUAL")
	if editor == "" {
		editor = a.getenv("EDITOR")
	}
	if editor == "" {
		return usagef("set EDITOR to the editor of your choice, or use: %s config set KEY VALUE", a.again())
	}
	old, err := c.Config.GetConfig(ctx, &configv1.GetConfigRequest{Key: "gateway.port"})
	if err != nil {
		return err
	}
	a.configNotes(old)
	text := old.GetText()
	switch {
	case old.Text == nil && old.GetExists():
		return fmt.Errorf("the file is no JSON5, so that its secrets are not known; correct it on the machine of the daemon: %s", Text(old.GetPath()))
	case !old.GetExists():
		text = "// The configuration of hanzod: see \"hanzoctl config schema\".\n{\n}\n"
	}
	dir, err := os.MkdirTemp("", "hanzoctl-config-")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "config.json5")
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir) // a copy of what the daemon has
		}
	}()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	kept := func(err error) error {
		keep = true
		fmt.Fprintln(a.stderr, Text("nothing was saved; your text is in "+path))
		return err
	}
	for range maxEdits {
		if err := a.openEditor(ctx, editor, path); err != nil {
			return err
		}
		now, err := readFile(path)
		if err != nil {
			return err
		}
		if string(now) == text {
			fmt.Fprintln(a.stderr, "nothing was changed")
			return nil
		}
		out, err := c.Config.CheckConfig(ctx, &configv1.CheckConfigRequest{Raw: string(now)})
		if err != nil {
			return kept(err)
		}
		var fault error
		if issues := out.GetIssues(); len(issues) > 0 {
			fault = a.doesNotHold("the text", issues)
		} else {
			fmt.Fprint(a.stderr, lines(diffLines(text, string(now))))
			for _, row := range a.writtenRows(out.GetWritten(), false) {
				fmt.Fprintln(a.stderr, strings.ReplaceAll(row, "\t", "  "))
			}
			ok, err := a.confirm("save it?", yes)
			if err != nil {
				return err
			}
			if ok {
				if err := a.saveConfigText(ctx, c, string(now), old.GetHash(), confirm); err != nil {
					return kept(err)
				}
				return nil
			}
		}
		if again, err := a.confirm("edit it again?", false); err != nil || !again {
			if fault != nil {
				err = fault
			}
			return kept(err)
		}
	}
	return errors.New("given up")
}

func (a *app) saveConfigText(ctx context.Context, c *client.Client, text, base string, confirm time.Duration) error {
	if confirm != 0 {
		return a.applyConfig(ctx, c, &configv1.ApplyConfigRequest{Raw: text, Text: true, BaseHash: base}, confirm, 0, false)
	}
	out, err := c.Config.SetConfig(ctx, &configv1.SetConfigRequest{Raw: text, Text: true, BaseHash: base})
	if err != nil {
		return a.configFault(err)
	}
	return a.printOne(out, out.GetWritten().GetHash(), a.writtenRows(out.GetWritten(), true)...)
}
