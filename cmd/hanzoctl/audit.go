package main

import (
	"bufio"
	"context"
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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/client"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
)

const (
	// defaultRows is how many rows a list shows, pageRows how many are asked for at once.
	defaultRows = 50
	pageRows    = 1000
	// maxCommand is how much of a command a list shows, in characters.
	maxCommand = 60
	// progressEvery is how often a verification says on a terminal how far it is.
	progressEvery = 200 * time.Millisecond
)

// auditKinds are the words that --kind completes.
var auditKinds = []string{
	"request", "decision", "use", "result", "refusal", "expiry", "policy", "checkpoint", "anomaly", "grant.", "device.", "link.key.", "node-pairing", "terminal.",
}

func (a *app) auditCmd() *cobra.Command {
	return group("audit", "What was asked, decided and run, in a log that shows when it was changed", `  hanzoctl audit list --since 2h
  hanzoctl audit show 812
  hanzoctl audit verify
  hanzoctl audit export --out audit.jsonl`,
		a.auditListCmd(), a.auditShowCmd(), a.auditWatchCmd(), a.auditVerifyCmd(), a.auditHeadCmd(), a.auditExportCmd())
}

// auditFlags are the flags that choose rows.
type auditFlags struct {
	kinds                                []string
	node, approval, run, subject, device string
	since, until                         string
}

func (f *auditFlags) add(a *app, c *cobra.Command) {
	c.Flags().StringSliceVar(&f.kinds, "kind", nil, "only rows of this kind; one that ends in a dot stands for all that begin so")
	must(c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(auditKinds, cobra.ShellCompDirectiveNoFileComp)))
	a.nodeFlag(c, &f.node)
	c.Flags().Lookup("node").Usage = "only rows about this node"
	c.Flags().StringVar(&f.approval, "approval", "", "only rows of this approval")
	c.Flags().StringVar(&f.run, "run", "", "only rows of this run")
	c.Flags().StringVar(&f.subject, "subject", "", "only what this one did, as the daemon verified it (local:1000, device:ID)")
	c.Flags().StringVar(&f.device, "device", "", "only rows about this device")
}

// filter asks for the node where one is named: a row may be about one that is gone, so an id is taken
// as it is.
func (f *auditFlags) filter(ctx context.Context, c *client.Client) (*auditv1.Filter, error) {
	out := &auditv1.Filter{Kinds: f.kinds, ApprovalId: f.approval, RunId: f.run, Subject: f.subject, DeviceId: f.device}
	now := time.Now()
	for _, t := range []struct {
		flag, text string
		into       **timestamppb.Timestamp
	}{{"since", f.since, &out.Since}, {"until", f.until, &out.Until}} {
		if t.text == "" {
			continue
		}
		at, err := when(t.text, now)
		if err != nil {
			return nil, usagef("--%s: %w", t.flag, err)
		}
		*t.into = timestamppb.New(at)
	}
	if f.node != "" {
		n, err := c.ResolveNode(ctx, f.node)
		switch e, ok := errors.AsType[*client.Error](err); {
		case err == nil:
			out.NodeId = n.GetNodeId()
		case ok && e.Class == client.NotFound:
			out.NodeId = f.node
		default:
			return nil, err
		}
	}
	return out, nil
}

// when reads a time: how long ago, a date, or a date and a time.
func when(text string, now time.Time) (time.Time, error) {
	ago := text
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 2h, 3d, 2026-11-02, \"2026-11-02 15:04\" or 2026-11-02T15:04:05Z", text)
}

func (a *app) auditListCmd() *cobra.Command {
	var f auditFlags
	var limit int
	var before uint64
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List rows of the audit log, the newest first", Args: cobra.NoArgs,
		Long: `List rows of the audit log, the newest first.

Every run has a row "use" from before it went out, and one "result" (or "refusal") that says
how it ended; a use that says "open" goes on, or its outcome is not known.`,
		Example: `  hanzoctl audit list
  hanzoctl audit list --since 2h --node build-box
  hanzoctl audit list --kind use,result -o jsonl
  hanzoctl audit list --kind device. --limit 200`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usagef("--limit must be at least 1")
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				filter, err := f.filter(ctx, c)
				if err != nil {
					return err
				}
				all := &auditv1.ListAuditResponse{}
				for req := (&auditv1.ListAuditRequest{Filter: filter, Before: before}); ; req.Before = all.Before {
					req.Limit = uint32(min(limit-len(all.Rows), pageRows))
					out, err := c.Audit.ListAudit(ctx, req)
					if err != nil {
						return err
					}
					all.Rows, all.Before = append(all.Rows, out.GetRows()...), out.GetBefore()
					if all.Before == 0 || len(all.Rows) >= limit {
						break
					}
				}
				l := list{whole: all, head: "SEQ\tTIME\tKIND\tWHO\tWHERE\tWHAT\tOUTCOME", none: "the audit log has no such rows",
					row: func(i int) string { return auditRow(all.Rows[i]) }}
				for _, r := range all.Rows {
					l.items = append(l.items, r)
					l.ids = append(l.ids, strconv.FormatUint(r.GetSeq(), 10))
				}
				if err := a.printList(l); err != nil {
					return err
				}
				if all.Before > 0 && a.output == "table" && !a.quiet {
					fmt.Fprintf(a.stderr, "there are older rows: --before %d, or a higher --limit\n", all.Before)
				}
				return nil
			})
		}}
	f.add(a, c)
	c.Flags().StringVar(&f.since, "since", "", "only rows from then on: 2h, 3d, 2026-11-02, or a date with a time")
	c.Flags().StringVar(&f.until, "until", "", "only rows from before then")
	c.Flags().IntVar(&limit, "limit", defaultRows, "how many rows")
	c.Flags().Uint64Var(&before, "before", 0, "only rows before this one")
	return c
}

// auditRow is a row of a table.
func auditRow(r *auditv1.Row) string {
	return cells(strconv.FormatUint(r.GetSeq(), 10), r.GetAt().AsTime().Local().Format(time.DateTime), r.GetKind(), r.GetSubject(), auditWhere(r),
		shorten(auditWhat(r)), auditOutcome(r))
}

func auditWhere(r *auditv1.Row) string {
	switch {
	case r.GetNodeName() != "":
		return r.GetNodeName()
	case r.GetNodeId() != "":
		return shortID(r.GetNodeId())
	case r.GetDeviceId() != "":
		return "device " + shortID(r.GetDeviceId())
	}
	return ""
}

// auditWhat is what a row is about: the words of a run in printable ASCII, else text.
func auditWhat(r *auditv1.Row) string {
	switch {
	case len(r.GetArgv()) > 0:
		return Quote(r.GetArgv())
	case r.GetCommand() != "":
		return r.GetCommand()
	case r.GetCheckpoint() != nil:
		c := r.GetCheckpoint()
		return fmt.Sprintf("rows %d to %d removed (%s)", c.GetSeq()-c.GetCount()+1, c.GetSeq(), c.GetRule())
	case r.GetRole() != "":
		return strings.Join(append([]string{r.GetRole()}, r.GetScopes()...), " ")
	}
	return r.GetDetail()
}

func auditOutcome(r *auditv1.Row) string {
	switch {
	case r.GetOpen():
		return "open"
	case r.GetTimedOut():
		return "timed out"
	case r.ExitCode != nil:
		return "exit " + strconv.Itoa(int(r.GetExitCode()))
	case r.GetReason() == "unknown":
		return "outcome unknown"
	case r.GetReason() != "":
		return r.GetReason()
	case r.GetDecision() != "":
		return r.GetDecision()
	case r.GetRule() != "":
		return r.GetRule()
	case r.GetKind() == "use":
		return "the node decides"
	}
	return ""
}

func shorten(text string) string {
	runes := []rune(text)
	if len(runes) <= maxCommand {
		return text
	}
	return string(runes[:maxCommand-3]) + "..."
}

func (a *app) auditShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show SEQ", Short: "Show one row and what belongs to it", Args: cobra.ExactArgs(1),
		Long: `Show one row of the audit log, and the other rows of its run or its approval.`,
		Example: `  hanzoctl audit show 812
  hanzoctl audit show 812 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || seq == 0 {
				return usagef("%q is no number of a row", args[0])
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Audit.GetAudit(ctx, &auditv1.GetAuditRequest{Seq: seq})
				if err != nil {
					return err
				}
				r := out.GetRow()
				rows := auditFacts(r)
				if a.output == "table" && !a.quiet {
					more, err := related(ctx, c, r)
					if err != nil {
						return err
					}
					rows = append(rows, more...)
				}
				return a.printOne(r, args[0], rows...)
			})
		}}
}

// auditFacts are what a row says, one fact a line.
func auditFacts(r *auditv1.Row) []string {
	var rows []string
	add := func(name, text string) {
		if text != "" {
			rows = append(rows, cells(name, text))
		}
	}
	add("row", strconv.FormatUint(r.GetSeq(), 10))
	add("at", r.GetAt().AsTime().Local().Format("2006-01-02 15:04:05.000 -07:00"))
	add("kind", r.GetKind())
	add("who", r.GetSubject())
	if r.GetNodeId() != "" {
		name := r.GetNodeId()
		if r.GetNodeName() != "" {
			name = r.GetNodeName() + " (" + r.GetNodeId() + ")"
		}
		add("node", name)
	}
	if len(r.GetArgv()) > 0 {
		add("runs", Quote(r.GetArgv()))
	}
	add("command", r.GetCommand())
	add("directory", r.GetCwd())
	add("agent", r.GetAgentId())
	add("session", r.GetSessionKey())
	add("device", r.GetDeviceId())
	add("role", r.GetRole())
	add("scopes", strings.Join(r.GetScopes(), " "))
	add("decision", r.GetDecision())
	add("by", r.GetRule())
	add("written at", r.GetWhere())
	add("approval", r.GetApprovalId())
	add("run", r.GetRunId())
	add("request", r.GetRequestId())
	if r.ExitCode != nil {
		add("exit code", strconv.Itoa(int(r.GetExitCode())))
	}
	if r.GetTimedOut() {
		add("timed out", "yes")
	}
	add("stdout", prefixed("sha256:", r.GetOutputDigest()))
	add("stderr", prefixed("sha256:", r.GetStderrDigest()))
	add("reason", r.GetReason())
	add("detail", r.GetDetail())
	if c := r.GetCheckpoint(); c != nil {
		add("removed", fmt.Sprintf("rows %d to %d, from %s to %s, by the bound on %s", c.GetSeq()-c.GetCount()+1, c.GetSeq(),
			c.GetFrom().AsTime().Local().Format(time.DateTime), c.GetTo().AsTime().Local().Format(time.DateTime), c.GetRule()))
	}
	if r.GetOpen() {
		add("outcome", "none yet: it goes on, or its outcome is not known")
	}
	add("binding", prefixed("sha256:", r.GetBindingHash()))
	add("policy", prefixed("sha256:", r.GetPolicy()))
	add("hash", r.GetHash())
	add("after", r.GetPrev())
	return rows
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// related lists the other rows of the same run, or of the same approval.
func related(ctx context.Context, c *client.Client, r *auditv1.Row) ([]string, error) {
	f := &auditv1.Filter{ApprovalId: r.GetApprovalId()}
	if f.ApprovalId == "" {
		f.RunId = r.GetRunId()
	}
	if f.ApprovalId == "" && f.RunId == "" {
		return nil, nil
	}
	out, err := c.Audit.ListAudit(ctx, &auditv1.ListAuditRequest{Filter: f})
	if err != nil {
		return nil, err
	}
	var rows []string
	for _, o := range slices.Backward(out.GetRows()) {
		if o.GetSeq() != r.GetSeq() {
			rows = append(rows, cells("see", fmt.Sprintf("%d %s %s", o.GetSeq(), o.GetKind(), auditOutcome(o))))
		}
	}
	return rows, nil
}

func (a *app) auditWatchCmd() *cobra.Command {
	var f auditFlags
	var count int
	var after int64
	c := &cobra.Command{Use: "watch", Short: "Print rows as they are written", Args: cobra.NoArgs,
		Long: `Print rows as they are written, from now on or from the row after --after, until interrupted.`,
		Example: `  hanzoctl audit watch
  hanzoctl audit watch --kind refusal -o jsonl
  hanzoctl audit watch --after 800`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				filter, err := f.filter(ctx, c)
				if err != nil {
					return err
				}
				req := &auditv1.WatchAuditRequest{Filter: filter}
				if after >= 0 {
					req.After = proto.Uint64(uint64(after))
				}
				s, err := c.Audit.WatchAudit(ctx, req)
				if err != nil {
					return err
				}
				return each(s, count, func(m *auditv1.WatchAuditResponse) error {
					r := m.GetRow()
					return a.printItem(r, strconv.FormatUint(r.GetSeq(), 10), strings.ReplaceAll(auditRow(r), "\t", "  "))
				})
			})
		}}
	f.add(a, c)
	countFlag(c, &count)
	c.Flags().Int64Var(&after, "after", -1, "begin with the row after this one; 0 begins with the oldest")
	return c
}

func (a *app) auditHeadCmd() *cobra.Command {
	return &cobra.Command{Use: "head", Short: "Print the mark of the newest row", Args: cobra.NoArgs,
		Long: `Print the mark of the newest row: its number and its hash. Kept on another machine, it shows later
whether the rows up to it are still those that were there: hanzoctl audit verify --head MARK.`,
		Example: `  hanzoctl audit head
  hanzoctl audit head -q >> /mnt/elsewhere/audit-marks`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				h, err := c.Audit.GetAuditHead(ctx, &auditv1.GetAuditHeadRequest{})
				if err != nil {
					return err
				}
				rows := []string{cells("head", h.GetHead()), cells("rows", strconv.FormatUint(h.GetRows(), 10)), cells("bytes", strconv.FormatUint(h.GetBytes(), 10))}
				if b, err := audit.ParseMark(h.GetBase()); err == nil && b.Seq > 0 {
					rows = append(rows, cells("removed up to", h.GetBase()))
				}
				return a.printOne(h, h.GetHead(), rows...)
			})
		}}
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var marks []string
	var after uint64
	var file string
	c := &cobra.Command{Use: "verify", Short: "Find rows that were changed, removed, moved or added", Args: cobra.NoArgs,
		Long: `Verify the audit log of the daemon, or with --file one that was exported, without a daemon.

Each row holds the hash of the one before. Verify finds a row that was changed, removed, moved or
put in, and rows that were cut from the end: the daemon keeps the mark of the newest row in a file
beside the database. Who can write to both, and makes every hash anew, is found only by a mark
that was kept elsewhere: give it with --head (see "hanzoctl audit head").

The exit code is 0 when the log is as it was written, and 65 when it is not.`,
		Example: `  hanzoctl audit verify
  hanzoctl audit verify --head "$mark"
  hanzoctl audit verify --after 812
  hanzoctl audit verify --file audit.jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var parsed []audit.Mark
			for _, text := range marks {
				m, err := audit.ParseMark(strings.TrimSpace(text))
				if err != nil {
					return usagef("--head %s: %w", text, err)
				}
				parsed = append(parsed, m)
			}
			if file != "" {
				if after != 0 {
					return usagef("--file goes without --after")
				}
				return a.verifyFile(file, parsed)
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				s, err := c.Audit.VerifyAudit(ctx, &auditv1.VerifyAuditRequest{After: after, Marks: marks})
				if err != nil {
					return err
				}
				var report *auditv1.Report
				tell := a.progress()
				err = each(s, 0, func(m *auditv1.VerifyAuditResponse) error {
					tell(m.GetDone(), m.GetAll(), m.GetReport() != nil)
					report = m.GetReport()
					return nil
				})
				if err != nil {
					return err
				}
				if report == nil {
					return &client.Error{Class: client.Unknown, Message: "the daemon sent no report"}
				}
				return a.printReport(report)
			})
		}}
	c.Flags().StringArrayVar(&marks, "head", nil, "a mark that was kept elsewhere; may be given again")
	c.Flags().Uint64Var(&after, "after", 0, "begin behind this row, which is taken as it is")
	c.Flags().StringVar(&file, "file", "", "verify this export instead, - for stdin")
	return c
}

// progress says on a terminal how far a verification is.
func (a *app) progress() func(done, all uint64, last bool) {
	if !isTerminal(a.stderr) || a.quiet {
		return func(uint64, uint64, bool) {}
	}
	next := time.Now().Add(progressEvery)
	shown := false
	return func(done, all uint64, last bool) {
		switch now := time.Now(); {
		case last && shown:
			fmt.Fprint(a.stderr, "\r\x1b[K")
		case !last && now.After(next):
			next, shown = now.Add(progressEvery), true
			fmt.Fprintf(a.stderr, "\rverified %d of %d rows\x1b[K", done, all)
		}
	}
}

// verifyFile verifies an export.
func (a *app) verifyFile(path string, marks []audit.Mark) error {
	in := io.Reader(a.stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return usage(err)
		}
		defer f.Close()
		in = f
	}
	r, err := audit.Verify(in, marks...)
	if err != nil {
		if e, ok := errors.AsType[*audit.LineError](err); ok {
			return &codeError{code: exitBroken, err: fmt.Errorf("%s: %w", path, e)}
		}
		return err
	}
	p := &auditv1.Report{
		Ok: r.OK(), Rows: r.Rows, First: r.First, Last: r.Last, Base: r.Base.String(), Head: r.Head.String(),
		Checkpoints: r.Checkpoints, More: r.More, Notes: r.Notes,
	}
	for _, f := range r.Faults {
		p.Faults = append(p.Faults, &auditv1.Fault{Seq: f.Seq, Kind: f.Kind, Text: f.Text})
	}
	if c := r.Pruned; c != nil {
		p.Pruned = &auditv1.Checkpoint{Seq: c.Seq, Hash: c.Hash, Count: c.Count, From: timestamppb.New(c.From), To: timestamppb.New(c.To), Rule: c.Rule}
	}
	return a.printReport(p)
}

// printReport prints the verdict; it is the exit code as well.
func (a *app) printReport(r *auditv1.Report) error {
	var rows []string
	verdict := "the log is as it was written"
	if !r.GetOk() {
		verdict = "THE LOG IS NOT AS IT WAS WRITTEN"
	}
	rows = append(rows, cells("verdict", verdict))
	if r.GetRows() > 0 {
		rows = append(rows, cells("rows", fmt.Sprintf("%d, from %d to %d", r.GetRows(), r.GetFirst(), r.GetLast())))
	} else {
		rows = append(rows, cells("rows", "0"))
	}
	rows = append(rows, cells("head", r.GetHead()))
	if c := r.GetPruned(); c != nil {
		rows = append(rows, cells("removed", fmt.Sprintf("rows up to %d (%d checkpoints; the last by the bound on %s, with rows until %s)",
			c.GetSeq(), r.GetCheckpoints(), c.GetRule(), c.GetTo().AsTime().Local().Format(time.DateTime))))
	}
	for _, f := range r.GetFaults() {
		rows = append(rows, cells(f.GetKind(), f.GetText()))
	}
	if r.GetMore() > 0 {
		rows = append(rows, cells("more", fmt.Sprintf("%d other faults", r.GetMore())))
	}
	for _, n := range r.GetNotes() {
		rows = append(rows, cells("note", n))
	}
	if err := a.printOne(r, r.GetHead(), rows...); err != nil {
		return err
	}
	if !r.GetOk() {
		return &codeError{code: exitBroken}
	}
	return nil
}

func (a *app) auditExportCmd() *cobra.Command {
	var out string
	var after uint64
	c := &cobra.Command{Use: "export", Short: "Write the log as JSON lines that can be verified anywhere", Args: cobra.NoArgs,
		Long: `Write the rows as JSON lines with their hashes, and the mark of the last one at the end, to stdout or
in one step into a file. "hanzoctl audit verify --file" verifies it without a daemon.

The hash of a row is SHA-256 over the text "hanzod audit row 1" and a zero byte, the sequence number
(8 bytes, big endian), the hash of the row before (32 bytes), the length of the record (8 bytes, big
endian) and the record: the byte v, and the text of row as it stands in the line.`,
		Example: `  hanzoctl audit export --out audit.jsonl
  hanzoctl audit export --after 800 | gzip > new.jsonl.gz`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				s, err := c.Audit.ExportAudit(ctx, &auditv1.ExportAuditRequest{After: after})
				if err != nil {
					return err
				}
				if out == "" {
					_, err := writeExport(a.stdout, s)
					return err
				}
				return a.exportTo(out, s)
			})
		}}
	c.Flags().StringVar(&out, "out", "", "write this file; it appears when it is whole")
	c.Flags().Uint64Var(&after, "after", 0, "only rows after this one")
	return c
}

type exportStream interface {
	Recv() (*auditv1.ExportAuditResponse, error)
}

// writeExport writes what the stream brings, and fails when it ends early.
func writeExport(to io.Writer, s exportStream) (end *auditv1.ExportEnd, err error) {
	w := bufio.NewWriterSize(to, 64<<10)
	var line []byte
	err = each(s, 0, func(m *auditv1.ExportAuditResponse) (err error) {
		switch item := m.GetItem().(type) {
		case *auditv1.ExportAuditResponse_Row:
			r := item.Row
			row := audit.Row{Seq: r.GetSeq(), Record: append([]byte{byte(r.GetVersion())}, r.GetRecord()...)}
			if row.Prev, err = audit.ParseHash(r.GetPrev()); err != nil {
				return err
			}
			if row.Hash, err = audit.ParseHash(r.GetHash()); err != nil {
				return err
			}
			if line, err = audit.AppendRow(line[:0], row); err != nil {
				return err
			}
		case *auditv1.ExportAuditResponse_End:
			end = item.End
			head, err := audit.ParseMark(end.GetHead())
			if err != nil {
				return err
			}
			line = audit.AppendEnd(line[:0], end.GetRows(), head)
		default:
			return nil
		}
		_, err = w.Write(line)
		return err
	})
	if err == nil && end == nil {
		err = &client.Error{Class: client.Unknown, Message: "the export ended before its last line"}
	}
	return end, errors.Join(err, w.Flush())
}

// exportTo writes a file in one step.
func (a *app) exportTo(path string, s exportStream) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".audit-*") // 0600
	if err != nil {
		return usage(err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what failed is reported
		}
	}()
	end, err := writeExport(f, s)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return a.printOne(end, end.GetHead(), cells(strconv.FormatUint(end.GetRows(), 10)+" rows", path), cells("head", end.GetHead()))
}
