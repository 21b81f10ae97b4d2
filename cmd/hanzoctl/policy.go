package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// maxEdits is how often a wrong text is handed back to the editor before it is given up.
const maxEdits = 100

func (a *app) policyCmd() *cobra.Command {
	c := group("policy", "Read, change, explain and try the rules about what may run", `  hanzoctl policy explain --node build-box -- git push --force
  hanzoctl policy edit
  hanzoctl policy test cases.json5
  hanzoctl policy simulate --rules new-policy.json --since 7d`,
		a.policyExplainCmd(), a.policyShowCmd(), a.policySetCmd(), a.policyEditCmd(), a.policyCheckCmd(), a.policyTestCmd(), a.policySimulateCmd())
	c.Long = `The rules file (policy.json in the daemon's state directory) says which runs are allowed, asked
about or denied, before the exec approvals file of the machine that runs is looked at. Both
must permit. Without a rules file that other file decides alone.

It is JSON5, so comments are fine:

  {
    version: 1,
    // For every run: security deny|allowlist|full, ask off|on-miss|always, and
    // fallback deny|allowlist|full for questions that nobody answers.
    defaults: {security: "allowlist", ask: "on-miss", fallback: "deny"},
    agents: {main: {ask: "always"}},          // these take the place of the defaults;
    nodes: {"build-mac": {security: "full"}}, // of both, the stricter counts
    rules: [
      {name: "no root", effect: "deny", argv: ["sudo", "**"]},
      {name: "git", effect: "allow", argv: [["git", "status"], ["git", "log", "**"]], cwd: "/srv/**"},
      {name: "deploy", effect: "ask", argv: ["make", "deploy"], node: "build-*",
       during: {days: ["mon-fri"], from: "09:00", to: "17:00", zone: "Europe/Berlin"},
       timeout: "10m", onTimeout: "deny", quorum: 2, excludeRequester: true},
    ],
  }

A rule has a name, an effect (allow, ask, deny) and what it is about: argv, agent, node (id or
name), session, host (node or gateway), cwd, during, expires. What it does not say fits all. In
argv, * is any text inside one word and ** as the last word any further words; in cwd, ** is any
directories. A rule that asks may have timeout, onTimeout, approvers, quorum, excludeRequester,
escalateAfter and escalateTo.

A deny that fits beats every allow and ask, wherever it stands. Of the others the first that
fits decides. Rules that deny or ask look into shells and wrappers (sh -c, sudo, env, xargs …)
and fit what cannot be known; they go by the name of a program. Rules that allow fit exactly
what is written: a plain name is that name or its path in a directory of the system, a shell
text is allowed when every command in it is and each word is known, and wrappers have to be
spelled to the last word. Rules go by words, not by files: a renamed copy of a program is
another program to them.

A changed file is in force within two seconds, and the change is in the audit log. A wrong file
changes nothing: the rules before it stay in force, and status, the log and explain say so. A
daemon that starts with a wrong file lets nothing run until it is repaired.`
	return c
}

// runFlags are the circumstances of a run.
type runFlags struct {
	node, agent, session, cwd, line, at string
	env                                 []string
}

func (a *app) runFlags(c *cobra.Command, r *runFlags) {
	f := c.Flags()
	f.StringVar(&r.node, "node", "", "the node that would run it; the daemon's machine without it")
	f.StringVar(&r.agent, "agent", "", "the agent that would run it (default main)")
	f.StringVar(&r.session, "session", "", "the session that it would run for")
	f.StringVar(&r.cwd, "cwd", "", "the directory that it would run in")
	f.StringVar(&r.line, "line", "", "a line for a shell, instead of words")
	f.StringVar(&r.at, "at", "", "when it would run, such as 2027-01-31T18:00:00Z (default now)")
	f.StringSliceVar(&r.env, "env", nil, "the name of a variable that is set for it")
	must(c.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, s)
	}))
}

func (r runFlags) run(ctx context.Context, c *client.Client, argv []string) (*approvalsv1.Run, error) {
	if (len(argv) == 0) == (r.line == "") {
		return nil, usagef("give the command behind --, or a shell's line with --line")
	}
	out := &approvalsv1.Run{Argv: argv, Line: r.line, AgentId: r.agent, SessionKey: r.session, Cwd: r.cwd, EnvKeys: r.env}
	if r.at != "" {
		at, err := time.Parse(time.RFC3339, r.at)
		if err != nil {
			return nil, usagef("--at must be a time such as 2027-01-31T18:00:00Z")
		}
		out.At = timestamppb.New(at)
	}
	if r.node != "" {
		n, err := c.ResolveNode(ctx, r.node)
		if err != nil {
			return nil, err
		}
		out.NodeId = n.GetNodeId()
	}
	return out, nil
}

var verdicts = map[approvalsv1.Verdict]string{
	approvalsv1.Verdict_VERDICT_UNSPECIFIED: "unknown",
	approvalsv1.Verdict_VERDICT_RUN:         "run",
	approvalsv1.Verdict_VERDICT_ASK:         "ask",
	approvalsv1.Verdict_VERDICT_DENY:        "deny",
}

var effects = map[approvalsv1.Effect]string{
	approvalsv1.Effect_EFFECT_UNSPECIFIED: "none",
	approvalsv1.Effect_EFFECT_ALLOW:       "allow",
	approvalsv1.Effect_EFFECT_ASK:         "ask",
	approvalsv1.Effect_EFFECT_DENY:        "deny",
}

func (a *app) policyExplainCmd() *cobra.Command {
	var r runFlags
	c := &cobra.Command{Use: "explain [flags] -- COMMAND [ARG…]", Short: "Say what would happen to a run, and which one rule decides",
		Long: `Say what would happen to a run, which one rule, grant or entry decides, and where it is
written. Nothing runs and nobody is asked. A connected node is asked what its own file says.

-q prints the verdict alone: run, ask, deny or unknown.`,
		Example: `  hanzoctl policy explain --node build-box -- git push --force
  hanzoctl policy explain --node build-box --agent main --cwd /srv/app --line 'make && make deploy'`,
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.call(cmd, nodeTimeout, func(ctx context.Context, c *client.Client) error {
				run, err := r.run(ctx, c, argv)
				if err != nil {
					return err
				}
				out, err := c.Policy.ExplainPolicy(ctx, &approvalsv1.ExplainPolicyRequest{Run: run})
				if err != nil {
					return err
				}
				return a.printOne(out, verdicts[out.GetVerdict()], explained(out)...)
			})
		}}
	a.runFlags(c, &r)
	return c
}

// place is where a rule is written, with the whole path.
func place(where, rulesPath string) string {
	if rest, ok := strings.CutPrefix(where, filepath.Base(rulesPath)+":"); ok && rulesPath != "" {
		return rulesPath + ":" + rest
	}
	return where
}

func explained(e *approvalsv1.ExplainPolicyResponse) []string {
	rows := []string{cells("verdict", verdicts[e.GetVerdict()]), cells("because", e.GetText())}
	if e.GetRule() != "" {
		rows = append(rows, cells("rule", e.GetRule()))
	}
	if e.GetWhere() != "" {
		rows = append(rows, cells("where", place(e.GetWhere(), e.GetRulesPath())))
	}
	if t := e.GetTerms(); t != nil {
		rows = append(rows, cells("asked", terms(t)))
	}
	if fault := e.GetRulesFault(); fault != "" {
		note := "the file is wrong, the rules before it are in force"
		if e.GetRulesClosed() {
			note = "the file is wrong, so nothing may run"
		}
		for i, line := range strings.Split(fault, "\n") {
			if i == 0 {
				line = note + ": " + line
			}
			rows = append(rows, cells("rules file", line))
		}
	}
	if len(e.GetEnvDropped()) > 0 {
		rows = append(rows, cells("left out", "variables that a run may not set: "+strings.Join(e.GetEnvDropped(), ", ")))
	}
	if len(e.GetSteps()) == 0 {
		rows = append(rows, cells("rules", "none is about it"))
	}
	for _, s := range e.GetSteps() {
		mark := "passed by"
		if s.GetFits() {
			mark = "fits"
		}
		rows = append(rows, cells(mark, fmt.Sprintf("%s (%s, %s): %s", s.GetRule(), effects[s.GetEffect()], s.GetWhere(), s.GetWhy())))
	}
	for i, g := range e.GetGrants() {
		note := "covers it too"
		if i == 0 {
			note = "is used"
		}
		rows = append(rows, cells("grant", fmt.Sprintf("%s %s: %s", g.GetId(), note, g.GetText())))
	}
	switch f := e.GetFile(); {
	case f == nil:
	case !f.GetAsked():
		rows = append(rows, cells("machine", "not asked: "+f.GetWhy()))
	default:
		text := f.GetText()
		if f.GetVerdict() == approvalsv1.Verdict_VERDICT_RUN {
			text = "it may run"
		}
		rows = append(rows, cells("machine", fmt.Sprintf("%s: %s (security %s, ask %s)", verdicts[f.GetVerdict()], text, f.GetSecurity(), f.GetAsk())),
			cells("by", fmt.Sprintf("%s, %s", f.GetRule(), f.GetWhere())))
		if !f.GetExact() {
			rows = append(rows, cells("note", "as far as its file shows: this node cannot explain itself"))
		}
	}
	return rows
}

// terms says how a question is asked.
func terms(t *approvalsv1.AskTerms) string {
	var out []string
	if n := t.GetQuorum(); n > 1 {
		out = append(out, fmt.Sprintf("%d approvers", n))
	}
	if len(t.GetApprovers()) > 0 {
		out = append(out, "of "+strings.Join(t.GetApprovers(), ", "))
	}
	if t.GetExcludeRequester() {
		out = append(out, "not who asks")
	}
	if d := t.GetEscalateAfter(); d != nil {
		out = append(out, fmt.Sprintf("after %s also %s", span(d.AsDuration()), strings.Join(t.GetEscalateTo(), ", ")))
	}
	if d := t.GetTimeout(); d != nil {
		out = append(out, "for "+span(d.AsDuration()))
	}
	if t.GetOnTimeout() != approvalsv1.Effect_EFFECT_UNSPECIFIED {
		out = append(out, "then "+effects[t.GetOnTimeout()])
	}
	if len(out) == 0 {
		return "anybody who may approve"
	}
	return strings.Join(out, "; ")
}

func (a *app) policyShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Print the rules file", Args: cobra.NoArgs,
		Long: `Print the text of the rules file; its place, its hash and what is wrong with it go to stderr.
-o json, yaml and jsonl print all of it; -q prints the hash alone.`,
		Example: `  hanzoctl policy show
  hanzoctl policy show > policy.json
  hanzoctl policy show -q`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Policy.GetRules(ctx, &approvalsv1.GetRulesRequest{})
				if err != nil {
					return err
				}
				r := out.GetRules()
				if a.quiet {
					return a.printIDs([]string{r.GetHash()})
				}
				if a.output != "table" {
					return a.printValue(r)
				}
				fmt.Fprintln(a.stderr, Text(rulesNote(r)))
				for line := range strings.SplitSeq(r.GetFault(), "\n") {
					if line != "" {
						fmt.Fprintln(a.stderr, Text(line))
					}
				}
				_, err = io.WriteString(a.stdout, lines(r.GetText()))
				return err
			})
		}}
}

// lines is a text for the terminal, line by line.
func lines(text string) string {
	if text == "" {
		return ""
	}
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		b.WriteString(Text(strings.ReplaceAll(strings.TrimSuffix(line, "\r"), "\t", "    ")))
		b.WriteByte('\n')
	}
	return b.String()
}

func rulesNote(r *approvalsv1.Rules) string {
	switch {
	case !r.GetExists():
		return "there is no rules file; " + r.GetPath() + " would be it"
	case r.GetClosed():
		return fmt.Sprintf("%s, hash %s, is wrong: nothing may run until it is repaired", r.GetPath(), r.GetHash())
	case r.GetFault() != "":
		return fmt.Sprintf("%s, hash %s, is wrong: the rules before it are in force, hash %s", r.GetPath(), r.GetHash(), r.GetActiveHash())
	case r.GetHash() != r.GetActiveHash():
		return fmt.Sprintf("%s, hash %s, is about to be in force", r.GetPath(), r.GetHash())
	}
	return fmt.Sprintf("%s, hash %s, %d rules, in force", r.GetPath(), r.GetHash(), r.GetActiveRules())
}

func (a *app) policySetCmd() *cobra.Command {
	var file, base string
	c := &cobra.Command{Use: "set", Short: "Replace the rules file", Args: cobra.NoArgs,
		Long: `Replace the rules file with the text in a file or on stdin, as it is, comments included. A wrong
text is refused with its places and changes nothing.

With --base-hash the change is refused when the file is not the one that was read ("hanzoctl
policy show -q" prints its hash). Without it the present file is replaced, whatever is in it.`,
		Example: `  hanzoctl policy set --file policy.json
  hanzoctl policy set --file policy.json --base-hash "$hash"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "-" && isTerminal(a.stdin) {
				return usagef("name the file with --file, or give it on stdin")
			}
			text, err := a.readPolicyInput(file)
			if err != nil {
				return err
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if base == "" {
					old, err := c.Policy.GetRules(ctx, &approvalsv1.GetRulesRequest{})
					if err != nil {
						return err
					}
					base = old.GetRules().GetHash()
				}
				return a.setRules(ctx, c, text, base)
			})
		}}
	c.Flags().StringVar(&file, "file", "-", "the new rules, - for stdin")
	c.Flags().StringVar(&base, "base-hash", "", "hash of the file that the change starts from")
	return c
}

func (a *app) setRules(ctx context.Context, c *client.Client, text []byte, base string) error {
	out, err := c.Policy.SetRules(ctx, &approvalsv1.SetRulesRequest{Text: string(text), BaseHash: base})
	if err != nil {
		return err
	}
	return a.printOne(out.GetRules(), out.GetRules().GetHash(), Text(rulesNote(out.GetRules())))
}

// newRules is what an editor shows when there is no file yet.
const newRules = `// What may run: see "hanzoctl policy --help".
{
  version: 1,
  rules: [
  ],
}
`

func (a *app) policyEditCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "edit", Short: "Edit the rules file in $VISUAL or $EDITOR", Args: cobra.NoArgs,
		Long: `Edit the rules file in $VISUAL or $EDITOR. The text is checked before it is saved: a wrong one
is shown with its faults and can be edited again. The change is shown and has to be confirmed.
When somebody else changed the file meanwhile, nothing is saved and the text is kept.`,
		Example: `  hanzoctl policy edit
  EDITOR="code --wait" hanzoctl policy edit`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.editRules(ctx, c, yes) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "save without asking")
	return c
}

func (a *app) editRules(ctx context.Context, c *client.Client, yes bool) error {
	editor := a.getenv("VISUAL")
	if editor == "" {
		editor = a.getenv("EDITOR")
	}
	if editor == "" {
		return usagef("set EDITOR to the editor of your choice, or use: %s policy set --file FILE", a.again())
	}
	out, err := c.Policy.GetRules(ctx, &approvalsv1.GetRulesRequest{})
	if err != nil {
		return err
	}
	old, text := out.GetRules(), out.GetRules().GetText()
	if !old.GetExists() {
		text = newRules
	}
	dir, err := os.MkdirTemp("", "hanzoctl-policy-")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "policy.json5")
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(dir) // a copy of what the daemon has
		}
	}()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
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
		if string(now) == text && old.GetExists() {
			fmt.Fprintln(a.stderr, "nothing was changed")
			return nil
		}
		checkErr := checkRules(ctx, c, string(now), "policy.json")
		if checkErr == nil {
			fmt.Fprint(a.stderr, lines(diffLines(old.GetText(), string(now))))
			ok, err := a.confirm("save it?", yes)
			if err != nil {
				return err
			}
			if ok {
				if err := a.setRules(ctx, c, now, old.GetHash()); err != nil {
					keep = true
					fmt.Fprintln(a.stderr, Text("nothing was saved; your text is in "+path))
					return err
				}
				return nil
			}
		} else {
			fmt.Fprint(a.stderr, lines(rulesFault(checkErr)))
		}
		if again, err := a.confirm("edit it again?", false); err != nil || !again {
			keep = true
			fmt.Fprintln(a.stderr, Text("nothing was saved; your text is in "+path))
			if checkErr != nil {
				return checkErr
			}
			return err
		}
	}
	return errors.New("given up")
}

// rulesFault is what an error says of rules.
func rulesFault(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// openEditor runs an editor, which may be a command with arguments, and waits for it.
func (a *app) openEditor(ctx context.Context, editor, path string) error {
	words := strings.Fields(editor)
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], path)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the editor %s failed, so nothing was saved: %w", Text(words[0]), err)
	}
	return nil
}

// confirm asks a yes-or-no question; without a terminal the answer is no.
func (a *app) confirm(question string, yes bool) (bool, error) {
	if yes {
		return true, nil
	}
	if !isTerminal(a.stdin) {
		return false, nil
	}
	if daemon := a.elsewhere(); daemon != "" {
		question = daemon + ": " + question
	}
	fmt.Fprint(a.stderr, question+" [y/N] ")
	var answer string
	if _, err := fmt.Fscanln(a.stdin, &answer); err != nil && !errors.Is(err, io.EOF) && answer == "" {
		return false, nil //nolint:nilerr // an empty line is no
	}
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), nil
}

func checkRules(ctx context.Context, c *client.Client, text, name string) error {
	_, err := c.Policy.TestPolicy(ctx, &approvalsv1.TestPolicyRequest{Rules: &text, Name: name})
	return err
}

func (a *app) policyCheckCmd() *cobra.Command {
	return &cobra.Command{Use: "check FILE", Short: "Say whether a text of rules is right, without using it", Args: cobra.ExactArgs(1),
		Long: `Say whether a text of rules is right, with the place of every fault. The daemon checks it and
does not use it. FILE may be - for stdin.`,
		Example: `  hanzoctl policy check policy.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicyInput(args[0])
			if err != nil {
				return err
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s := string(text)
				out, err := c.Policy.TestPolicy(ctx, &approvalsv1.TestPolicyRequest{Rules: &s, Name: args[0]})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetHash(), Text(fmt.Sprintf("%s is right: %d rules, hash %s", args[0], out.GetRules(), out.GetHash())))
			})
		}}
}

func (a *app) policyTestCmd() *cobra.Command {
	var rules string
	c := &cobra.Command{Use: "test FILE", Short: "Compare what the rules say about runs with what is expected", Args: cobra.ExactArgs(1),
		Long: `Compare what the rules say about runs with what is expected. FILE (- for stdin) is a JSON5 list of
cases:

  [
    {argv: ["git", "status"], cwd: "/srv/app", expect: "allow", rule: "git"},
    {line: "git status && sudo id", node: "build-box", agent: "main", expect: "deny"},
    {argv: ["make", "deploy"], at: "2027-01-31T18:00:00Z", expect: "none"},
  ]

expect is allow, ask, deny, or none when the rules are to say nothing. rule is the one that is to
decide. node is an id or a name; session may be given too. Failures are printed and the exit code
is 1. --rules tests a file that is not in force.`,
		Example: `  hanzoctl policy test cases.json5
  hanzoctl policy test --rules new-policy.json cases.json5`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicyInput(args[0])
			if err != nil {
				return err
			}
			req := &approvalsv1.TestPolicyRequest{Name: rules}
			var at []int
			if req.Cases, at, err = policyCases(args[0], text); err != nil {
				return usage(err)
			}
			if rules != "" {
				text, err := readFile(rules)
				if err != nil {
					return err
				}
				s := string(text)
				req.Rules = &s
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				for _, k := range req.GetCases() {
					// A node that is not known keeps the name that the rules may mean.
					if n, err := c.ResolveNode(ctx, k.GetRun().GetNodeId()); k.GetRun().GetNodeId() != "" && err == nil {
						k.GetRun().NodeId = n.GetNodeId()
					}
				}
				out, err := c.Policy.TestPolicy(ctx, req)
				if err != nil {
					return err
				}
				return a.tested(out, req, args[0], at)
			})
		}}
	c.Flags().StringVar(&rules, "rules", "", "a file with the rules to test, instead of those in force")
	return c
}

func (a *app) tested(out *approvalsv1.TestPolicyResponse, req *approvalsv1.TestPolicyRequest, file string, at []int) error {
	rows := []string{cells("CASE", "EXPECTED", "GOT", "RULE", "COMMAND")}
	for i, r := range out.GetResults() {
		if r.GetOk() {
			continue
		}
		k := req.GetCases()[i]
		want, got := k.GetExpect(), effects[r.GetEffect()]
		if k.GetRule() != "" {
			want += " by " + k.GetRule()
		}
		by := r.GetRule()
		if r.GetWhere() != "" {
			by += " at " + r.GetWhere()
		}
		command := k.GetRun().GetLine()
		if command == "" {
			command = Quote(k.GetRun().GetArgv())
		}
		rows = append(rows, cells(file+":"+strconv.Itoa(at[i]), want, got, by, command))
	}
	if out.GetFailed() == 0 {
		rows = []string{Text(fmt.Sprintf("%d cases are as expected", len(out.GetResults())))}
	}
	if err := a.printOne(out, "", rows...); err != nil {
		return err
	}
	if out.GetFailed() > 0 {
		return fmt.Errorf("%d of %d cases are not as expected", out.GetFailed(), len(out.GetResults()))
	}
	return nil
}

func (a *app) policySimulateCmd() *cobra.Command {
	var rules, since string
	var limit int32
	c := &cobra.Command{Use: "simulate --rules FILE", Short: "Decide on the audited past again, under other rules", Args: cobra.NoArgs,
		Long: `Decide on the runs in the audit log again, under other rules, and print each that would end
otherwise. Nothing runs and nothing is changed.`,
		Example: `  hanzoctl policy simulate --rules new-policy.json
  hanzoctl policy simulate --rules new-policy.json --since 7d`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rules == "" {
				return usagef("name the rules to try with --rules")
			}
			text, err := readFile(rules)
			if err != nil {
				return err
			}
			req := &approvalsv1.SimulatePolicyRequest{Rules: string(text), Name: rules, Limit: limit}
			if since != "" {
				d, err := days(since)
				if err != nil {
					return err
				}
				req.Since = durationpb.New(d)
			}
			return a.call(cmd, 4*callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Policy.SimulatePolicy(ctx, req)
				if err != nil {
					return err
				}
				return a.simulated(out)
			})
		}}
	f := c.Flags()
	f.StringVar(&rules, "rules", "", "a file with the rules to try")
	f.StringVar(&since, "since", "", "how far back, such as 12h or 7d (default all that is kept)")
	f.Int32Var(&limit, "limit", 0, "how many runs at the most, the latest (default and most 10000)")
	return c
}

func (a *app) simulated(out *approvalsv1.SimulatePolicyResponse) error {
	if a.output != "table" {
		return a.printValue(out)
	}
	rows := []string{}
	for i, ch := range out.GetChanges() {
		if i == 0 {
			rows = append(rows, cells("TIME", "SEQ", "WAS", "BY", "NOW", "RULE", "COMMAND"))
		}
		by := ch.GetRule()
		if ch.GetWhere() != "" {
			by += " at " + ch.GetWhere()
		}
		rows = append(rows, cells(ch.GetAt().AsTime().Local().Format(time.DateTime), strconv.FormatUint(ch.GetSeq(), 10), ch.GetWas(), ch.GetWasBy(),
			effects[ch.GetNow()], by, ch.GetCommand()))
	}
	if err := a.printTable(rows); err != nil {
		return err
	}
	more := ""
	if out.GetMore() {
		more = "; there are more changes than are listed"
	}
	if out.GetUnknown() > 0 {
		more += fmt.Sprintf("; of %d others the log does not have the words", out.GetUnknown())
	}
	_, err := fmt.Fprintf(a.stdout, "%d runs: %d allowed, %d asked, %d denied, %d left to the machine; %d end as before%s\n",
		out.GetRuns(), out.GetAllow(), out.GetAsk(), out.GetDeny(), out.GetNone(), out.GetSame(), more)
	return err
}

// days reads a length of time that may be in days.
func days(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if d, err := strconv.ParseUint(n, 10, 16); err == nil && d > 0 {
			return time.Duration(d) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usagef("%q is no length of time; write 90m, 12h or 7d", s)
	}
	return d, nil
}
