package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
)

// maxNote is the longest note that inject reads from standard input, in bytes: what the daemon takes.
const maxNote = 8 << 20

func (a *app) sessionsCmd() *cobra.Command {
	list := a.sessionsListCmd()
	c := group("sessions", "Conversations of agents, and what was said in them", `  hanzoctl sessions list
  hanzoctl sessions show main
  hanzoctl sessions patch main --thinking low
  hanzoctl sessions reset main`,
		list, a.sessionsShowCmd(), a.sessionsPreviewCmd(), a.sessionsPatchCmd(), a.sessionsResetCmd(), a.sessionsDeleteCmd(),
		a.sessionsCompactCmd(), a.sessionsInjectCmd(), a.sessionsResolveCmd())
	c.Aliases = []string{"session"}
	c.RunE = list.RunE
	c.Flags().AddFlagSet(list.Flags())
	return c
}

func (a *app) sessionsListCmd() *cobra.Command {
	var req sessionsv1.ListSessionsRequest
	var active time.Duration
	var titles bool
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List sessions, the newest first", Args: cobra.NoArgs,
		Long: `List sessions, the newest first. --titles reads what was asked first and said last from each
transcript.`,
		Example: `  hanzoctl sessions list
  hanzoctl sessions list --agent ops --active 2h --titles
  hanzoctl sessions list --search deploy -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if active < 0 || active > 0 && active < time.Minute {
				return usagef("--active takes a minute at the least")
			}
			req.ActiveMinutes = int32(min(int64(active/time.Minute), 1<<31-1))
			req.DerivedTitles, req.LastMessages = titles, titles
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Sessions.ListSessions(ctx, &req)
				if err != nil {
					return err
				}
				return a.printSessions(out, titles)
			})
		}}
	f := c.Flags()
	f.StringVar(&req.AgentId, "agent", "", "only those of this agent")
	f.DurationVar(&active, "active", 0, "only those used in the last time of this length, for example 2h")
	f.StringVar(&req.Search, "search", "", "only those with this text in their name, label, subject, id or key")
	f.StringVar(&req.Label, "label", "", "only the one of this label")
	f.BoolVar(&req.IncludeGlobal, "global", false, "the global session too")
	f.BoolVar(&titles, "titles", false, "what was asked first and said last")
	f.Int32VarP(&req.Limit, "limit", "n", 0, "how many at the most")
	must(c.RegisterFlagCompletionFunc("agent", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeAgent(cmd, nil, word)
	}))
	return c
}

func (a *app) printSessions(out *sessionsv1.ListSessionsResponse, titles bool) error {
	l := list{whole: out, head: "KEY\tNAME\tKIND\tMODEL\tTOKENS\tUSED", none: "there is no session yet; one begins with its first message"}
	if titles {
		l.head += "\tTITLE\tLAST"
	}
	for _, s := range out.GetSessions() {
		l.items = append(l.items, proto.Message(s))
		l.ids = append(l.ids, s.GetKey())
	}
	now := time.Now()
	l.row = func(i int) string {
		s := out.GetSessions()[i]
		e := s.GetEntry()
		tokens := ""
		if e.TotalTokens != nil && e.GetTotalTokensFresh() {
			tokens = strconv.FormatInt(e.GetTotalTokens(), 10)
		}
		row := []string{s.GetKey(), s.GetName(), s.GetKind(), modelName(s.GetModel()), tokens, strings.TrimSpace(agoText(e.GetUpdatedAt().AsTime(), now))}
		if titles {
			row = append(row, s.GetDerivedTitle(), firstWords(s.GetLastMessage(), 60))
		}
		return cells(row...)
	}
	return a.printList(l)
}

func modelName(m *sessionsv1.Model) string {
	if m.GetProvider() == "" {
		return m.GetName()
	}
	return m.GetProvider() + "/" + m.GetName()
}

// firstWords is the beginning of a text, on one line.
func firstWords(s string, limit int) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

func (a *app) sessionsShowCmd() *cobra.Command {
	var req sessionsv1.GetHistoryRequest
	var raw bool
	c := &cobra.Command{Use: "show SESSION", Aliases: []string{"history"}, Short: "Show what was said in a session", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSession,
		Long: `Show the last messages of a session, the oldest of them first. The time stamps and notes that
the daemon puts around messages are left out; with --raw everything is shown as it is stored.
As a table tools are named only; "-o json" has all of it.`,
		Example: `  hanzoctl sessions show main
  hanzoctl sessions show agent:ops:main -n 20 -o jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req.Key = args[0]
				var whole proto.Message
				var messages []*structpb.Struct
				if raw {
					out, err := c.Sessions.ListMessages(ctx, &sessionsv1.ListMessagesRequest{Key: req.GetKey(), Limit: req.GetLimit()})
					if err != nil {
						return err
					}
					whole, messages = out, out.GetMessages()
				} else {
					out, err := c.Sessions.GetHistory(ctx, &req)
					if err != nil {
						return err
					}
					if out.GetSessionId() == "" {
						return noSession(args[0])
					}
					whole, messages = out, out.GetMessages()
				}
				return a.printMessages(whole, messages)
			})
		}}
	c.Flags().Int32VarP(&req.Limit, "limit", "n", 0, "how many messages (default 200, 1000 at the most)")
	c.Flags().BoolVar(&raw, "raw", false, "as stored")
	return c
}

func noSession(key string) error {
	return &codeError{code: exitNotFound, err: fmt.Errorf("no such session: %s; see which there are with: hanzoctl sessions list", Text(key))}
}

// printMessages prints messages as a conversation.
func (a *app) printMessages(whole proto.Message, messages []*structpb.Struct) error {
	if a.output == "jsonl" {
		for _, m := range messages {
			if err := a.printValue(m); err != nil {
				return err
			}
		}
		return nil
	}
	if a.output != "table" {
		return a.printValue(whole)
	}
	if len(messages) == 0 {
		_, err := fmt.Fprintln(a.stderr, "nothing was said yet")
		return err
	}
	for _, m := range messages {
		f := m.GetFields()
		head := f["role"].GetStringValue()
		if ms := f["timestamp"].GetNumberValue(); ms > 0 {
			head += " " + time.UnixMilli(int64(ms)).Local().Format("2006-01-02 15:04:05")
		}
		if model := f["model"].GetStringValue(); model != "" {
			head += " " + model
		}
		if name := f["toolName"].GetStringValue(); name != "" {
			head += " " + name
		}
		if _, err := fmt.Fprintf(a.stdout, "%s\n", Text(head)); err != nil {
			return err
		}
		for line := range strings.SplitSeq(messageText(f), "\n") {
			if _, err := fmt.Fprintf(a.stdout, "    %s\n", Text(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

// messageText is what a message says, for people.
func messageText(f map[string]*structpb.Value) string {
	content := f["content"]
	if text, ok := content.GetKind().(*structpb.Value_StringValue); ok {
		return text.StringValue
	}
	var parts []string
	for _, v := range content.GetListValue().GetValues() {
		b := v.GetStructValue().GetFields()
		switch kind := b["type"].GetStringValue(); kind {
		case "text":
			parts = append(parts, b["text"].GetStringValue())
		case "thinking":
		case "image":
			parts = append(parts, "[image]")
		default:
			parts = append(parts, strings.TrimSuffix("["+kind+" "+b["name"].GetStringValue(), " ")+"]")
		}
	}
	if len(parts) == 0 {
		if text := f["errorMessage"].GetStringValue(); text != "" {
			return "[error: " + text + "]"
		}
	}
	return strings.Join(parts, "\n")
}

func (a *app) sessionsPreviewCmd() *cobra.Command {
	var req sessionsv1.PreviewSessionsRequest
	c := &cobra.Command{Use: "preview SESSION...", Short: "Show the end of several sessions", Args: cobra.RangeArgs(1, 64),
		ValidArgsFunction: a.completeSessions,
		Long:              "Show the last messages of up to 64 sessions, each cut to a few lines, as they are stored.",
		Example:           "  hanzoctl sessions preview main agent:ops:main\n  hanzoctl sessions preview $(hanzoctl sessions list -q -n 5) -n 2",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Keys = args
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Sessions.PreviewSessions(ctx, &req)
				if err != nil {
					return err
				}
				l := list{whole: out, head: "KEY\tROLE\tTEXT"}
				var rows []string
				for _, p := range out.GetPreviews() {
					l.items, l.ids = append(l.items, proto.Message(p)), append(l.ids, p.GetKey())
					if len(p.GetItems()) == 0 {
						rows = append(rows, cells(p.GetKey(), "", "("+p.GetStatus()+")"))
					}
					for _, i := range p.GetItems() {
						rows = append(rows, cells(p.GetKey(), i.GetRole(), firstWords(i.GetText(), int(max(req.GetMaxChars(), 100)))))
					}
				}
				l.row = func(i int) string { return rows[i] }
				if a.output == "table" && !a.quiet {
					return a.printTable(append([]string{l.head}, rows...))
				}
				return a.printList(l)
			})
		}}
	c.Flags().Int32VarP(&req.Limit, "limit", "n", 0, "how many messages of each (default 12, 50 at the most)")
	c.Flags().Int32Var(&req.MaxChars, "max-chars", 0, "how long each may be (default 240, 20 to 2000)")
	return c
}

func (a *app) sessionsPatchCmd() *cobra.Command {
	var req sessionsv1.PatchSessionRequest
	c := &cobra.Command{Use: "patch SESSION", Aliases: []string{"set"}, Short: "Change what is set for a session", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSession,
		Long: `Change what is set for a session. A session that is not there is made. An empty value, as in
--label "", takes the setting away.`,
		Example: `  hanzoctl sessions patch main --label "Release 3"
  hanzoctl sessions patch main --model openai/gpt-5.4 --thinking high
  hanzoctl sessions patch main --model ""`,
	}
	texts := []struct {
		flag, field, use string
		to               **string
		words            []string
	}{
		{"label", "label", "a name of 64 characters at the most", &req.Label, nil},
		{"model", "model", "model that answers, as provider/model", &req.Model, nil},
		{"thinking", "thinking_level", "how much the model thinks", &req.ThinkingLevel, []string{"off", "minimal", "low", "medium", "high", "xhigh", "adaptive"}},
		{"verbose", "verbose_level", "what is said of tools", &req.VerboseLevel, []string{"on", "off", "full"}},
		{"reasoning", "reasoning_level", "whether thoughts are shown", &req.ReasoningLevel, []string{"on", "off", "stream"}},
		{"response-usage", "response_usage", "what answers say of their cost", &req.ResponseUsage, []string{"off", "tokens", "full"}},
		{"elevated", "elevated_level", "whether commands may leave the sandbox", &req.ElevatedLevel, []string{"on", "off", "ask", "full"}},
		{"exec-host", "exec_host", "where commands run", &req.ExecHost, []string{"sandbox", "gateway", "node"}},
		{"exec-security", "exec_security", "which commands may run", &req.ExecSecurity, []string{"deny", "allowlist", "full"}},
		{"exec-ask", "exec_ask", "when a person is asked", &req.ExecAsk, []string{"off", "on-miss", "always"}},
		{"exec-node", "exec_node", "the node that commands run on", &req.ExecNode, nil},
		{"send-policy", "send_policy", "whether answers may be sent", &req.SendPolicy, []string{"allow", "deny"}},
		{"group-activation", "group_activation", "when the agent answers in a group", &req.GroupActivation, []string{"mention", "always"}},
	}
	values := make([]string, len(texts))
	for i, t := range texts {
		use := t.use
		if t.words != nil {
			use += ": " + strings.Join(t.words, ", ")
			wordFlag(c, t.flag, &values[i], use, t.words)
			continue
		}
		c.Flags().StringVar(&values[i], t.flag, "", use)
	}
	a.completeModelFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Key, req.Clear = args[0], nil
		changed := false
		for i, t := range texts {
			if !cmd.Flags().Lookup(t.flag).Changed {
				continue
			}
			changed = true
			if values[i] == "" {
				req.Clear = append(req.Clear, t.field)
			} else {
				*t.to = &values[i]
			}
		}
		if !changed {
			return usagef("say what to change, for example --label; see hanzoctl sessions patch --help")
		}
		return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
			out, err := c.Sessions.PatchSession(ctx, &req)
			if err != nil {
				return err
			}
			return a.printOne(out, out.GetKey(), Text("changed: "+out.GetKey()+", "+modelName(out.GetModel())))
		})
	}
	return c
}

// wordFlag adds a flag that takes one of a few words.
func wordFlag(c *cobra.Command, name string, to *string, use string, words []string) {
	c.Flags().StringVar(to, name, "", use)
	must(c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
}

// sure asks before something is taken away.
func (a *app) sure(question string, yes bool, nothing string) error {
	ok, err := a.confirm(Text(question), yes)
	if err != nil {
		return err
	}
	if !ok {
		return &codeError{code: exitUsage, err: errors.New(nothing + "; say --yes where there is no terminal to ask at")}
	}
	return nil
}

func (a *app) sessionsResetCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "reset SESSION", Short: "Begin a session anew; the transcript is put aside", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSession,
		Long: `Begin a session anew: it gets a new id and an empty transcript. The old transcript stays beside
it, with .reset. in its name. Some settings stay, such as the label; an override of the model goes.`,
		Example: "  hanzoctl sessions reset main\n  hanzoctl sessions reset agent:ops:main --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				if err := a.sure("begin "+args[0]+" anew? What was said is put aside.", yes, "nothing was changed"); err != nil {
					return err
				}
				out, err := c.Sessions.ResetSession(ctx, &sessionsv1.ResetSessionRequest{Key: args[0], Reason: "reset"})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetKey(), Text("begun anew: "+out.GetKey()+" ("+out.GetEntry().GetSessionId()+")"))
			})
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (a *app) sessionsDeleteCmd() *cobra.Command {
	var yes, keep bool
	c := &cobra.Command{Use: "delete SESSION...", Aliases: []string{"remove", "rm"}, Short: "Remove sessions; their transcripts are put aside", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSessions,
		Long: `Remove sessions. Their transcripts stay in the sessions directory of the agent, with .deleted. in
their names. The main session cannot be removed: reset it.`,
		Example: "  hanzoctl sessions delete agent:main:old\n  hanzoctl sessions delete $(hanzoctl sessions list --search old -q) --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				if err := a.sure("remove "+strings.Join(args, ", ")+"?", yes, "nothing was removed"); err != nil {
					return err
				}
				for _, key := range args {
					out, err := c.Sessions.DeleteSession(ctx, &sessionsv1.DeleteSessionRequest{Key: key, KeepTranscript: keep})
					if err != nil {
						return err
					}
					if !out.GetDeleted() {
						return noSession(key)
					}
					rows := []string{Text("removed: " + out.GetKey())}
					for _, path := range out.GetArchived() {
						rows = append(rows, Text("its transcript is "+path))
					}
					if err := a.printOne(out, out.GetKey(), rows...); err != nil {
						return err
					}
				}
				return nil
			})
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&keep, "keep-transcript", false, "leave the transcripts where they are")
	return c
}

func (a *app) sessionsCompactCmd() *cobra.Command {
	var yes bool
	var lines int32
	c := &cobra.Command{Use: "compact SESSION", Short: "Keep the last lines of a transcript only", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSession,
		Long: `Keep the last lines of a transcript. The whole of it stays beside it, with .bak. in its name. No
model is asked: what was said before is not summed up.`,
		Example: "  hanzoctl sessions compact main --max-lines 100",
		RunE: func(cmd *cobra.Command, args []string) error {
			if lines < 0 {
				return usagef("--max-lines must not be negative")
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				if err := a.sure("cut the transcript of "+args[0]+"?", yes, "nothing was cut"); err != nil {
					return err
				}
				out, err := c.Sessions.CompactSession(ctx, &sessionsv1.CompactSessionRequest{Key: args[0], MaxLines: lines})
				if err != nil {
					return err
				}
				switch {
				case out.GetCompacted():
					return a.printOne(out, out.GetKey(), Text(fmt.Sprintf("cut to %d lines: %s", out.GetKept(), out.GetKey())), Text("the whole is "+out.GetArchived()))
				case out.GetReason() == "no sessionId":
					return noSession(args[0])
				case out.GetReason() != "":
					return a.printOne(out, out.GetKey(), Text("nothing to cut: there is no transcript"))
				}
				return a.printOne(out, out.GetKey(), Text(fmt.Sprintf("nothing to cut: it has %d lines", out.GetKept())))
			})
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().Int32Var(&lines, "max-lines", 0, "how many lines stay (default 400)")
	return c
}

func (a *app) sessionsInjectCmd() *cobra.Command {
	var label string
	c := &cobra.Command{Use: "inject SESSION TEXT...", Short: "Put a note into a session without running a model", Args: cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeSession,
		Long: `Put a note into the transcript of a session, as an answer of the assistant, and show it to everybody
who watches. It is on disk when this command ends. The text "-" is read from standard input.`,
		Example: "  hanzoctl sessions inject main The build is green --label ci\n  git log -1 | hanzoctl sessions inject main -",
		RunE: func(cmd *cobra.Command, args []string) error {
			text := strings.Join(args[1:], " ")
			if text == "-" {
				b, err := io.ReadAll(io.LimitReader(a.stdin, maxNote+1))
				if err != nil {
					return err
				}
				if len(b) > maxNote {
					return usagef("a note may have %d bytes at the most", maxNote)
				}
				text = strings.TrimRight(string(b), "\n")
			}
			if strings.TrimSpace(text) == "" {
				return usagef("the note is empty")
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Sessions.InjectMessage(ctx, &sessionsv1.InjectMessageRequest{Key: args[0], Text: text, Label: label})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetMessageId(), Text("noted: "+out.GetMessageId()))
			})
		}}
	c.Flags().StringVar(&label, "label", "", "a first line of its own, in brackets")
	return c
}

func (a *app) sessionsResolveCmd() *cobra.Command {
	var req sessionsv1.ResolveSessionRequest
	c := &cobra.Command{Use: "resolve [SESSION]", Short: "Find the key of a session", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSession,
		Long:    "Find the canonical key of a session by an alias of it, its id or its label.",
		Example: "  hanzoctl sessions resolve main\n  hanzoctl sessions resolve --label \"Release 3\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Key = strings.Join(args, "")
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Sessions.ResolveSession(ctx, &req)
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetKey(), Text(out.GetKey()))
			})
		}}
	f := c.Flags()
	f.StringVar(&req.SessionId, "id", "", "id of the session")
	f.StringVar(&req.Label, "label", "", "label of the session")
	f.StringVar(&req.AgentId, "agent", "", "only those of this agent")
	f.BoolVar(&req.IncludeGlobal, "global", false, "the global session too")
	return c
}

// completeSession completes the first argument with the keys of sessions.
func (a *app) completeSession(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeSessions(cmd, args, word)
}

// maxSessionWords is how many keys the shell is offered.
const maxSessionWords = 200

func (a *app) completeSessions(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Sessions.ListSessions(ctx, &sessionsv1.ListSessionsRequest{Limit: maxSessionWords, IncludeGlobal: true})
		if err != nil {
			return nil
		}
		var words []string
		for _, s := range out.GetSessions() {
			if !slices.Contains(args, s.GetKey()) {
				words = append(words, strings.TrimSuffix(Text(s.GetKey())+"\t"+Text(s.GetName()), "\t"))
			}
		}
		return words
	})
}
