package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
)

const (
	// cronPage is the largest page of jobs and of rows.
	cronPage = 200
	// runLimit bounds the wait for a job that runs at once (control-plane.md §12: the older command line).
	runLimit = 10 * time.Minute
)

var (
	missedWords = []string{"run-once", "skip", "run-all", "within:"}
	statusWords = []string{"ok", "error", "skipped"}
)

func (a *app) cronCmd() *cobra.Command {
	return group("cron", "Jobs that run by the clock", `  hanzoctl cron list
  hanzoctl cron add --every 30m --event "look at the build"
  hanzoctl cron add --cron "0 9 * * 1-5" --tz Europe/Berlin --command build-box -- make nightly
  hanzoctl cron runs
  hanzoctl cron next "0 9 * * 1-5" --tz Europe/Berlin`,
		a.cronListCmd(), a.cronShowCmd(), a.cronAddCmd(), a.cronEditCmd(), a.cronRemoveCmd(), a.cronRunCmd(), a.cronRunsCmd(),
		a.cronSwitchCmd("enable", true), a.cronSwitchCmd("disable", false), a.cronStatusCmd(), a.cronNextCmd())
}

// allJobs reads all pages of a listing.
func allJobs(ctx context.Context, c *client.Client, req *cronv1.ListJobsRequest) (*cronv1.ListJobsResponse, error) {
	limit := int32(cronPage)
	req.Limit = &limit
	out := &cronv1.ListJobsResponse{}
	for {
		page, err := c.Cron.ListJobs(ctx, req)
		if err != nil {
			return nil, err
		}
		out.Jobs = append(out.Jobs, page.GetJobs()...)
		if page.GetPage().NextOffset == nil {
			n := int32(len(out.Jobs))
			out.Page = &cronv1.Page{Total: n, Limit: n}
			return out, nil
		}
		req.Offset = page.GetPage().GetNextOffset()
	}
}

// resolveJob finds the job that a person means: by its id, the beginning of it, or its name.
func (a *app) resolveJob(ctx context.Context, c *client.Client, word string) (string, error) {
	all, err := allJobs(ctx, c, &cronv1.ListJobsRequest{Enabled: "all"})
	if err != nil {
		return "", err
	}
	var found []string
	for _, j := range all.GetJobs() {
		if j.GetId() == word {
			return word, nil
		}
		if j.GetName() == word || len(word) >= minRunPrefix && strings.HasPrefix(j.GetId(), word) {
			found = append(found, j.GetId())
		}
	}
	switch len(found) {
	case 0:
		return word, nil // the daemon says that there is none
	case 1:
		return found[0], nil
	}
	return "", usagef("%q means several jobs: %s", word, Text(strings.Join(found, ", ")))
}

// completeJob completes the first argument with the ids of jobs.
func (a *app) completeJob(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		all, err := allJobs(ctx, c, &cronv1.ListJobsRequest{Enabled: "all"})
		if err != nil {
			return nil
		}
		var words []string
		for _, j := range all.GetJobs() {
			words = append(words, Text(j.GetId())+"\t"+Text(j.GetName())+", "+scheduleText(j.GetSchedule()))
		}
		return words
	})
}

// scheduleText is a schedule in a few words.
func scheduleText(s *cronv1.Schedule) string {
	switch {
	case s.GetAt() != "":
		return "at " + Text(s.GetAt())
	case s.GetEvery() != nil:
		return "every " + s.GetEvery().AsDuration().String()
	case s.GetTimeZone() != "":
		return Text(s.GetExpression()) + " in " + Text(s.GetTimeZone())
	}
	return Text(s.GetExpression())
}

// payloadText is what a job does in a few words.
func payloadText(p *cronv1.Payload) string {
	switch {
	case p.GetCommand() != nil:
		return "command on " + Text(shortID(p.GetCommand().GetNodeId())) + ": " + Text(Quote(p.GetCommand().GetArgv()))
	case p.GetAgentTurn() != nil:
		return "agent turn: " + Text(p.GetAgentTurn().GetMessage())
	}
	return "event: " + Text(p.GetSystemEvent())
}

// away is a moment as people read it: how far away, on the clocks of this machine.
func away(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	at := t.AsTime()
	d := time.Until(at)
	if d >= 0 {
		return "in " + span(d)
	}
	return span(-d) + " ago"
}

func jobState(j *cronv1.Job) string {
	switch {
	case j.GetState().GetRunning() != nil:
		return "running"
	case !j.GetEnabled():
		return "disabled"
	case j.GetState().GetLastStatus() != "":
		return Text(j.GetState().GetLastStatus())
	}
	return "new"
}

func (a *app) cronListCmd() *cobra.Command {
	var all bool
	var query string
	c := &cobra.Command{Use: "list", Short: "List the jobs, the next one first", Args: cobra.NoArgs,
		Example: `  hanzoctl cron list
  hanzoctl cron list --all --query backup
  hanzoctl cron list -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req := &cronv1.ListJobsRequest{Query: query}
				if all {
					req.Enabled = "all"
				}
				out, err := allJobs(ctx, c, req)
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tNAME\tSTATE\tNEXT\tSCHEDULE\tDOES", none: "no jobs; add one with: hanzoctl cron add"}
				for _, j := range out.GetJobs() {
					l.items = append(l.items, j)
					l.ids = append(l.ids, j.GetId())
				}
				l.row = func(i int) string {
					j := out.GetJobs()[i]
					return cells(shortID(j.GetId()), j.GetName(), jobState(j), away(j.GetState().GetNextRun()), scheduleText(j.GetSchedule()), payloadText(j.GetPayload()))
				}
				return a.printList(l)
			})
		}}
	c.Flags().BoolVar(&all, "all", false, "disabled ones too")
	c.Flags().StringVar(&query, "query", "", "only those with this text in name, description or agent")
	return c
}

// printJob prints one job.
func (a *app) printJob(j *cronv1.Job) error {
	rows := []string{cells("id", j.GetId()), cells("name", j.GetName())}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, cells(name, value))
		}
	}
	add("about", j.GetDescription())
	add("state", jobState(j))
	add("schedule", scheduleText(j.GetSchedule()))
	if s := j.GetSchedule().GetStagger(); s != nil {
		add("stagger", s.AsDuration().String())
	}
	add("missed", strings.TrimSuffix(j.GetMissed().GetPolicy()+":"+withinText(j.GetMissed()), ":"))
	add("does", payloadText(j.GetPayload()))
	if keys := slices.Sorted(maps.Keys(j.GetPayload().GetCommand().GetEnv())); len(keys) > 0 {
		add("environment", strings.Join(keys, " "))
	}
	add("runs as", j.GetOwner())
	add("target", j.GetSessionTarget())
	if j.GetPayload().GetSystemEvent() != "" {
		add("wakes", j.GetWakeMode())
	}
	if d := j.GetDelivery(); d != nil {
		add("delivery", strings.TrimSpace(d.GetMode()+" "+d.GetChannel()+" "+d.GetTo()))
	}
	st := j.GetState()
	if st.GetNextRun() != nil {
		add("next", st.GetNextRun().AsTime().Local().Format(time.RFC3339)+" ("+away(st.GetNextRun())+")")
	}
	if st.GetLastRun() != nil {
		add("last", st.GetLastRun().AsTime().Local().Format(time.RFC3339)+" ("+st.GetLastStatus()+")")
	}
	add("error", st.GetLastError())
	if n := st.GetConsecutiveErrors(); n > 0 {
		add("errors", strconv.Itoa(int(n))+" in a row")
	}
	add("run", st.GetRunId())
	return a.printOne(j, j.GetId(), rows...)
}

func withinText(m *cronv1.Missed) string {
	if m.GetWithin() == nil {
		return ""
	}
	return m.GetWithin().AsDuration().String()
}

func (a *app) cronShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show JOB", Short: "Show one job", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJob,
		Long: "Show one job. It is named by its id, by the beginning of it, or by its name.",
		Example: `  hanzoctl cron show 0f8fad5b
  hanzoctl cron show nightly -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := a.resolveJob(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Cron.GetJob(ctx, &cronv1.GetJobRequest{Id: id})
				if err != nil {
					return err
				}
				return a.printJob(out.GetJob())
			})
		}}
}

// jobFlags are what add and edit say of a job.
type jobFlags struct {
	name, about, agent, wake, missed     string
	at, cron, zone                       string
	every, stagger                       time.Duration
	event, message, node, cwd, webhook   string
	env                                  []string
	runTimeout, approvalTimeout, forNode time.Duration
	keep, disabled                       bool
}

func (f *jobFlags) add(a *app, c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.name, "name", "", "name of the job (made of what it does)")
	fs.StringVar(&f.about, "description", "", "what it is for")
	fs.StringVar(&f.at, "at", "", `once: a moment such as 2027-01-15T09:00+01:00 (UTC without a zone), or a time from now such as 20m`)
	fs.DurationVar(&f.every, "every", 0, "again and again, for example 30m")
	fs.StringVar(&f.cron, "cron", "", `by an expression of five places (minute hour day month weekday), or six with seconds first`)
	fs.StringVar(&f.zone, "tz", "", "zone of the clocks of --cron, for example Europe/Berlin (that of the daemon's machine)")
	fs.DurationVar(&f.stagger, "stagger", 0, "how far jobs of the same minute are spread (5m at full hours)")
	fs.StringVar(&f.missed, "missed", "", "when the daemon did not run: run-once, skip, run-all, or within:2h (run-once)")
	fs.StringVar(&f.event, "event", "", "tell the main session this text")
	fs.StringVar(&f.message, "message", "", "ask an agent this, in a session of its own")
	fs.StringVar(&f.node, "command", "", "node to run the words behind -- on")
	fs.StringVar(&f.cwd, "cwd", "", "directory of the command")
	fs.StringArrayVar(&f.env, "env", nil, "NAME=VALUE for the command; may be repeated")
	fs.DurationVar(&f.runTimeout, "run-timeout", 0, "limit of the command (1h)")
	fs.DurationVar(&f.approvalTimeout, "approval-timeout", 0, "how long a question for approval stands (2m)")
	fs.DurationVar(&f.forNode, "wait-for-node", 0, "how long to wait for a node that is not connected")
	fs.StringVar(&f.wake, "wake", "", "when the agent looks at an event: now or next-heartbeat (now)")
	fs.StringVar(&f.agent, "agent", "", "agent of the job (the default one)")
	fs.StringVar(&f.webhook, "webhook", "", "URL to post each result to")
	must(c.RegisterFlagCompletionFunc("missed", cobra.FixedCompletions(missedWords, cobra.ShellCompDirectiveNoFileComp)))
	must(c.RegisterFlagCompletionFunc("wake", cobra.FixedCompletions([]string{"now", "next-heartbeat"}, cobra.ShellCompDirectiveNoFileComp)))
	must(c.RegisterFlagCompletionFunc("command", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, word)
	}))
}

// schedule reads when; nil when nothing is said.
func (f *jobFlags) schedule(cmd *cobra.Command) (*cronv1.Schedule, error) {
	said := 0
	s := &cronv1.Schedule{TimeZone: f.zone}
	if f.at != "" {
		said++
		s.At = f.at
		if d, err := time.ParseDuration(strings.TrimPrefix(f.at, "+")); err == nil && d > 0 {
			s.At = time.Now().Add(d).UTC().Format("2006-01-02T15:04:05.000Z")
		}
	}
	if cmd.Flags().Changed("every") {
		said++
		if f.every < time.Millisecond {
			return nil, usagef("--every must be 1ms or more, for example 30m")
		}
		s.Every = durationpb.New(f.every)
	}
	if f.cron != "" {
		said++
		s.Expression = f.cron
	}
	if cmd.Flags().Changed("stagger") {
		s.Stagger = durationpb.New(f.stagger)
	}
	switch {
	case said > 1:
		return nil, usagef("say one of --at, --every and --cron")
	case said == 0 && (f.zone != "" || s.GetStagger() != nil):
		return nil, usagef("--tz and --stagger go with --cron")
	case s.GetExpression() == "" && (f.zone != "" || s.GetStagger() != nil):
		return nil, usagef("--tz and --stagger go with --cron; a moment names its zone itself")
	case said == 0:
		return nil, nil
	}
	return s, nil
}

// payload reads what; nil when nothing is said.
func (f *jobFlags) payload(ctx context.Context, c *client.Client, argv []string) (*cronv1.Payload, error) {
	said := 0
	p := &cronv1.Payload{}
	if f.event != "" {
		said++
		p.SystemEvent = &f.event
	}
	if f.message != "" {
		said++
		p.AgentTurn = &cronv1.AgentTurn{Message: &f.message}
	}
	if f.node != "" || len(argv) > 0 {
		said++
		if f.node == "" || len(argv) == 0 {
			return nil, usagef("a command is said as: --command NODE -- PROGRAM [ARGUMENT ...]")
		}
		n, err := c.ResolveNode(ctx, f.node)
		if err != nil {
			return nil, err
		}
		cmd := &cronv1.Command{NodeId: n.GetNodeId(), Argv: argv, Cwd: f.cwd}
		for _, kv := range f.env {
			name, value, ok := strings.Cut(kv, "=")
			if !ok || name == "" {
				return nil, usagef("--env %q must have the form NAME=VALUE", kv)
			}
			if cmd.Env == nil {
				cmd.Env = map[string]string{}
			}
			cmd.Env[name] = value
		}
		for _, d := range []struct {
			from time.Duration
			to   **durationpb.Duration
		}{{f.runTimeout, &cmd.Timeout}, {f.approvalTimeout, &cmd.ApprovalTimeout}, {f.forNode, &cmd.WaitForNode}} {
			if d.from != 0 {
				*d.to = durationpb.New(d.from)
			}
		}
		p.Command = cmd
	}
	switch {
	case said > 1:
		return nil, usagef("say one of --event, --message and --command")
	case said == 0 && (f.cwd != "" || len(f.env) > 0 || f.runTimeout != 0 || f.approvalTimeout != 0 || f.forNode != 0):
		return nil, usagef("--cwd, --env and the limits go with --command")
	case said == 0:
		return nil, nil
	}
	return p, nil
}

func (f *jobFlags) missedPolicy() (*cronv1.Missed, error) {
	if f.missed == "" {
		return nil, nil
	}
	word, text, within := strings.Cut(f.missed, ":")
	m := &cronv1.Missed{Policy: word}
	if within {
		d, err := time.ParseDuration(text)
		if err != nil || word != "within" {
			return nil, usagef("--missed %q is none of run-once, skip, run-all and within:DURATION", f.missed)
		}
		m.Within = durationpb.New(d)
	}
	return m, nil
}

func (f *jobFlags) delivery() *cronv1.Delivery {
	if f.webhook == "" {
		return nil
	}
	mode := "webhook"
	return &cronv1.Delivery{Mode: &mode, To: &f.webhook}
}

func (a *app) cronAddCmd() *cobra.Command {
	var f jobFlags
	c := &cobra.Command{Use: "add [flags] [-- PROGRAM [ARGUMENT ...]]", Short: "Add a job",
		Long: `Add a job: say when with --at, --every or --cron, and what with --event, --message or --command.

An event is told to the main session. A command runs on a node, as you: it passes the same policy
as "hanzoctl nodes run", and where that asks for an approval, one is asked for each time it is due,
for two minutes or --approval-timeout. A grant spares the question: see "hanzoctl grants".

Each slot runs once at the most. One that the daemon missed is caught up once by default (--missed);
each that is left out has a row in "hanzoctl cron runs".`,
		Example: `  hanzoctl cron add --every 30m --event "look at the build"
  hanzoctl cron add --at 20m --event "the tea is ready"
  hanzoctl cron add --cron "0 9 * * 1-5" --tz Europe/Berlin --event "good morning" --missed within:2h
  hanzoctl cron add --name nightly --cron "30 2 * * *" --command build-box --cwd /srv/app -- make nightly`,
		Args: argvAfterDash,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &cronv1.AddJobRequest{Name: f.name, Description: f.about, AgentId: f.agent, WakeMode: f.wake, Delivery: f.delivery()}
			var err error
			if req.Schedule, err = f.schedule(cmd); err != nil {
				return err
			}
			if req.Schedule == nil {
				return usagef("say when: --at, --every or --cron")
			}
			if req.Missed, err = f.missedPolicy(); err != nil {
				return err
			}
			if f.keep {
				no := false
				req.DeleteAfterRun = &no
			}
			if f.disabled {
				no := false
				req.Enabled = &no
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if req.Payload, err = f.payload(ctx, c, args); err != nil {
					return err
				}
				if req.Payload == nil {
					return usagef("say what: --event, --message, or --command NODE -- PROGRAM")
				}
				out, err := c.Cron.AddJob(ctx, req)
				if err != nil {
					return err
				}
				a.warnCronOff(ctx, c)
				return a.printJob(out.GetJob())
			})
		}}
	f.add(a, c)
	c.Flags().BoolVar(&f.keep, "keep", false, "keep a job of --at when it has run")
	c.Flags().BoolVar(&f.disabled, "disabled", false, "add it, and do not run it yet")
	return c
}

// argvAfterDash takes arguments behind -- only.
func argvAfterDash(cmd *cobra.Command, args []string) error {
	if n := cmd.ArgsLenAtDash(); n > 0 || n < 0 && len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: the words of a command stand behind --", args[0])
	}
	return nil
}

// warnCronOff says so where jobs are kept and not run.
func (a *app) warnCronOff(ctx context.Context, c *client.Client) {
	if s, err := c.Cron.GetStatus(ctx, &cronv1.GetStatusRequest{}); err == nil && !s.GetEnabled() {
		fmt.Fprintln(a.stderr, "the scheduler is off (cron.enabled, HANZOD_SKIP_CRON): no job runs by itself")
	}
}

func (a *app) cronEditCmd() *cobra.Command {
	var f jobFlags
	c := &cobra.Command{Use: "edit JOB [flags] [-- PROGRAM [ARGUMENT ...]]", Short: "Change a job",
		Long: "Change what is said of a job, and leave the rest. A command is said anew as a whole. See \"hanzoctl cron add\".",
		Example: `  hanzoctl cron edit nightly --cron "0 3 * * *"
  hanzoctl cron edit nightly --missed skip --description "builds of the night"
  hanzoctl cron edit nightly --command build-box -- make nightly LOG=1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); len(args) == 0 || n > 1 || n == 0 || n < 0 && len(args) > 1 {
				return fmt.Errorf("name one job; the words of a command stand behind --")
			}
			return nil
		},
		ValidArgsFunction: a.completeJob,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &cronv1.UpdateJobRequest{WakeMode: f.wake, Delivery: f.delivery()}
			for name, to := range map[string]struct {
				from *string
				to   **string
			}{"name": {&f.name, &req.Name}, "description": {&f.about, &req.Description}, "agent": {&f.agent, &req.AgentId}} {
				if cmd.Flags().Changed(name) {
					*to.to = to.from
				}
			}
			var err error
			if req.Schedule, err = f.schedule(cmd); err != nil {
				return err
			}
			if req.Missed, err = f.missedPolicy(); err != nil {
				return err
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if req.Payload, err = f.payload(ctx, c, args[1:]); err != nil {
					return err
				}
				if req.Id, err = a.resolveJob(ctx, c, args[0]); err != nil {
					return err
				}
				out, err := c.Cron.UpdateJob(ctx, req)
				if err != nil {
					return err
				}
				a.warnCronOff(ctx, c)
				return a.printJob(out.GetJob())
			})
		}}
	f.add(a, c)
	return c
}

func (a *app) cronSwitchCmd(word string, on bool) *cobra.Command {
	short := "Let a job run again"
	if !on {
		short = "Keep a job, and do not run it"
	}
	return &cobra.Command{Use: word + " JOB", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJob,
		Example: "  hanzoctl cron " + word + " nightly",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := a.resolveJob(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Cron.UpdateJob(ctx, &cronv1.UpdateJobRequest{Id: id, Enabled: &on})
				if err != nil {
					return err
				}
				j := out.GetJob()
				return a.printOne(j, id, Text(fmt.Sprintf("%sd: %s (%s), next %s", word, j.GetName(), id, away(j.GetState().GetNextRun()))))
			})
		}}
}

func (a *app) cronRemoveCmd() *cobra.Command {
	return &cobra.Command{Use: "rm JOB", Aliases: []string{"remove"}, Short: "Remove a job", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJob,
		Long:    "Remove a job. A run that is going on ends by itself, and its rows stay in the run log for a while.",
		Example: "  hanzoctl cron rm 0f8fad5b",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := a.resolveJob(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Cron.RemoveJob(ctx, &cronv1.RemoveJobRequest{Id: id})
				if err != nil {
					return err
				}
				if !out.GetRemoved() {
					return &codeError{code: exitNotFound, text: fmt.Sprintf("no job %q; see hanzoctl cron list --all", args[0])}
				}
				return a.printOne(out, id, "removed: "+Text(id))
			})
		}}
}

func (a *app) cronRunCmd() *cobra.Command {
	var due bool
	c := &cobra.Command{Use: "run JOB", Short: "Run a job now, and wait for its end", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeJob,
		Long: `Run a job now, whatever its schedule, which stays as it is, and wait for its end, for ten minutes
or --timeout. The exit code is 0 when the run ended well; what a command wrote is shown.`,
		Example: `  hanzoctl cron run nightly
  hanzoctl cron run nightly --due`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, runLimit, func(ctx context.Context, c *client.Client) error {
				id, err := a.resolveJob(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Cron.RunJob(ctx, &cronv1.RunJobRequest{Id: id, Due: due})
				if err != nil {
					return err
				}
				if !out.GetRan() {
					if err := a.printOne(out, id, "did not run: "+Text(out.GetReason())); err != nil {
						return err
					}
					return &codeError{code: exitConflict, text: "the job did not run: " + Text(out.GetReason())}
				}
				one := int32(1)
				rows, err := c.Cron.ListRuns(ctx, &cronv1.ListRunsRequest{JobId: id, Limit: &one})
				if err != nil || len(rows.GetRuns()) == 0 {
					return a.printOne(out, id, "ran")
				}
				r := rows.GetRuns()[0]
				lines := []string{cells("status", r.GetStatus()), cells("took", r.GetDuration().AsDuration().String())}
				if r.GetError() != "" {
					lines = append(lines, cells("error", r.GetError()))
				}
				if r.GetSummary() != "" {
					lines = append(lines, cells("said", r.GetSummary()))
				}
				if err := a.printOne(r, id, lines...); err != nil {
					return err
				}
				if r.GetStatus() == "error" {
					return &codeError{code: exitFailed, text: "the run failed: " + Text(r.GetError())}
				}
				return nil
			})
		}}
	c.Flags().BoolVar(&due, "due", false, "only if it is due")
	return c
}

func (a *app) cronRunsCmd() *cobra.Command {
	var limit int
	var statuses []string
	var query string
	var oldest bool
	c := &cobra.Command{Use: "runs [JOB]", Short: "List what became of each slot, newest first", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeJob,
		Long: `List the run log: how each run ended, and each slot that was left out and why. Of one job, or of
all. It is bounded (cron.runLog); the oldest rows go first.`,
		Example: `  hanzoctl cron runs
  hanzoctl cron runs nightly --status error --limit 5
  hanzoctl cron runs -o jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > cronPage {
				return usagef("--limit must be from 1 to %d", cronPage)
			}
			for _, s := range statuses {
				if !slices.Contains(statusWords, s) {
					return usagef("unknown status %q: use %s", s, strings.Join(statusWords, ", "))
				}
			}
			n := int32(limit)
			req := &cronv1.ListRunsRequest{Limit: &n, Statuses: statuses, Query: query, Ascending: oldest}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if len(args) > 0 {
					id, err := a.resolveJob(ctx, c, args[0])
					if err != nil {
						return err
					}
					req.JobId = id
				}
				out, err := c.Cron.ListRuns(ctx, req)
				if err != nil {
					return err
				}
				l := list{whole: out, head: "AT\tJOB\tSTATUS\tTOOK\tSLOT\tWHAT", none: "no runs are known"}
				for _, r := range out.GetRuns() {
					l.items = append(l.items, r)
					l.ids = append(l.ids, strconv.FormatUint(r.GetSequence(), 10))
				}
				l.row = func(i int) string {
					r := out.GetRuns()[i]
					name, took, slot, what := r.GetJobName(), "-", "-", r.GetSummary()
					if name == "" {
						name = shortID(r.GetJobId())
					}
					if r.GetDuration() != nil {
						took = r.GetDuration().AsDuration().String()
					}
					if r.GetSlot() != nil {
						slot = r.GetSlot().AsTime().Local().Format("2006-01-02 15:04:05")
					}
					if r.GetError() != "" {
						what = r.GetError()
					}
					return cells(r.GetAt().AsTime().Local().Format("2006-01-02 15:04:05"), name, r.GetStatus(), took, slot, what)
				}
				return a.printList(l)
			})
		}}
	fs := c.Flags()
	fs.IntVar(&limit, "limit", 50, "how many at the most")
	fs.StringArrayVar(&statuses, "status", nil, "only ok, error or skipped ones; may be repeated")
	fs.StringVar(&query, "query", "", "only those with this text in what they said, the error, or the name of the job")
	fs.BoolVar(&oldest, "oldest", false, "the oldest first")
	must(c.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statusWords, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

func (a *app) cronStatusCmd() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Say whether jobs run, and when the next is due", Args: cobra.NoArgs,
		Example: "  hanzoctl cron status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := c.Cron.GetStatus(ctx, &cronv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				on := "on"
				if !s.GetEnabled() {
					on = "off (cron.enabled, HANZOD_SKIP_CRON)"
				}
				return a.printOne(s, "", cells("scheduler", on), cells("jobs", strconv.Itoa(int(s.GetJobs()))),
					cells("running", strconv.Itoa(int(s.GetRunning()))), cells("next", away(s.GetNextRun())))
			})
		}}
}

func (a *app) cronNextCmd() *cobra.Command {
	var zone, from string
	var count int
	c := &cobra.Command{Use: "next EXPRESSION", Short: "Show when an expression is due next", Args: cobra.ExactArgs(1),
		Long: `Show when an expression is due next, without the stagger of a job. Times are those of the zone.`,
		Example: `  hanzoctl cron next "0 9 * * 1-5"
  hanzoctl cron next "30 2 * * *" --tz America/New_York --count 10
  hanzoctl cron next "@daily" --from 2027-03-27T00:00:00Z`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > 100 {
				return usagef("--count must be from 1 to 100")
			}
			req := &cronv1.PreviewScheduleRequest{Schedule: &cronv1.Schedule{Expression: args[0], TimeZone: zone}, Count: int32(count)}
			if from != "" {
				t, err := time.Parse(time.RFC3339, from)
				if err != nil {
					return usagef("--from %q must be a moment such as 2027-01-15T09:00:00Z", from)
				}
				req.From = timestamppb.New(t)
			}
			shown := time.Local
			if zone != "" {
				if z, err := time.LoadLocation(zone); err == nil {
					shown = z
				}
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Cron.PreviewSchedule(ctx, req)
				if err != nil {
					return err
				}
				if len(out.GetMoments()) == 0 {
					fmt.Fprintln(a.stderr, "it is never due")
				}
				var rows []string
				for _, m := range out.GetMoments() {
					t := m.AsTime().In(shown)
					rows = append(rows, cells(t.Format("Mon 2006-01-02 15:04:05 MST"), away(m)))
				}
				return a.printOne(out, "", rows...)
			})
		}}
	fs := c.Flags()
	fs.StringVar(&zone, "tz", "", "zone of its clocks, for example Europe/Berlin (that of the daemon's machine)")
	fs.StringVar(&from, "from", "", "moment to begin after (now)")
	fs.IntVar(&count, "count", 5, "how many")
	return c
}
