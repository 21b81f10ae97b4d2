package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

func (a *app) checkpointsCmd() *cobra.Command {
	list := a.checkpointsListCmd()
	c := group("checkpoints", "Save sessions of nodes, and bring them to other nodes", `  hanzoctl checkpoints create build-box
  hanzoctl checkpoints list
  hanzoctl checkpoints migrate laptop build-box`,
		a.checkpointsCreateCmd(), list, a.checkpointsShowCmd(), a.checkpointsDownloadCmd(), a.checkpointsUploadCmd(), a.checkpointsRestoreCmd(),
		a.checkpointsMigrateCmd(), a.checkpointsDeleteCmd(), a.checkpointsPruneCmd())
	c.Aliases = []string{"checkpoint"}
	c.RunE = list.RunE
	return c
}

// nodeID is the id of a node that a person names. One that is not connected any more may be named by its id.
func nodeID(ctx context.Context, c *client.Client, name string, gone bool) (string, error) {
	n, err := c.ResolveNode(ctx, name)
	if err != nil {
		if gone && isNotFound(err) {
			return name, nil
		}
		return "", err
	}
	return n.GetNodeId(), nil
}

func (a *app) checkpointsCreateCmd() *cobra.Command {
	return &cobra.Command{Use: "create NODE", Short: "Save the session of a node", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeNode,
		Long: `Save the session of a node: what was said and run there, and its workspace with the state of git, with
changes that are not committed and with files that git does not know. Where it is kept, whether it is
encrypted and for how long it stays is said by checkpoints in the configuration.`,
		Example: `  hanzoctl checkpoints create build-box
  hanzoctl checkpoints create build-box -q`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				id, err := nodeID(ctx, c, args[0], false)
				if err != nil {
					return err
				}
				s, err := c.Checkpoints.Create(ctx, &tunnelv1.CheckpointServiceCreateRequest{NodeId: id})
				if err != nil {
					return err
				}
				p := a.showSteps()
				defer p.end()
				for {
					m, err := s.Recv()
					if err != nil {
						return endOf(err)
					}
					if st := m.GetStep(); st != nil {
						p.step(st)
						continue
					}
					p.end()
					d := m.GetCheckpoint()
					if !d.GetStored() && a.output == "table" && !a.quiet {
						fmt.Fprintln(a.stderr, Text("the node keeps it itself, at "+d.GetCheckpoint().GetUrl()))
					}
					return a.printOne(d, d.GetCheckpoint().GetCheckpointId(), checkpointRows(d)...)
				}
			})
		}}
}

// endOf is what the end of a stream means that ended before its last message.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return &client.Error{Class: client.Unknown, Message: "the daemon did not say what came of it"}
	}
	return err
}

func (a *app) checkpointsListCmd() *cobra.Command {
	return &cobra.Command{Use: "list [NODE]", Aliases: []string{"ls"}, Short: "List checkpoints, the newest first", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeNode,
		Example: `  hanzoctl checkpoints list
  hanzoctl checkpoints list build-box -q
  hanzoctl checkpoints list -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 4*callTimeout, func(ctx context.Context, c *client.Client) error {
				req := &tunnelv1.CheckpointServiceListRequest{}
				if len(args) == 1 {
					var err error
					if req.NodeId, err = nodeID(ctx, c, args[0], true); err != nil {
						return err
					}
				}
				out, err := c.Checkpoints.List(ctx, req)
				if err != nil {
					return err
				}
				if out.GetTruncated() {
					fmt.Fprintln(a.stderr, "there are more than these; name a node to see all of it")
				}
				return a.printCheckpoints(out, out.GetCheckpoints(), "there are no checkpoints; make one with: hanzoctl checkpoints create NODE")
			})
		}}
}

func (a *app) printCheckpoints(whole proto.Message, entries []*tunnelv1.Checkpoint, none string) error {
	l := list{whole: whole, head: "ID\tNODE\tSIZE\tAGE", none: none}
	for _, k := range entries {
		l.items = append(l.items, k)
		l.ids = append(l.ids, k.GetCheckpointId())
	}
	l.row = func(i int) string {
		k := entries[i]
		return cells(k.GetCheckpointId(), shortID(k.GetNodeId()), byteText(k.GetTotalSize()), span(time.Since(k.GetModifiedAt().AsTime())))
	}
	return a.printList(l)
}

func (a *app) checkpointsShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show ID", Aliases: []string{"get"}, Short: "Show what is in a checkpoint", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeCheckpoint,
		Long: `Show what is in a checkpoint, without what was said and run. ID is that of "hanzoctl checkpoints list", or
NODE/ID where several nodes have one of the same id.`,
		Example: `  hanzoctl checkpoints show 20250101T000001Z-00000001
  hanzoctl checkpoints show build-box/20250101T000001Z-00000001 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 4*callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Checkpoints.Get(ctx, &tunnelv1.CheckpointServiceGetRequest{CheckpointId: args[0]})
				if err != nil {
					return err
				}
				d := out.GetCheckpoint()
				return a.printOne(d, d.GetCheckpoint().GetCheckpointId(), checkpointRows(d)...)
			})
		}}
}

func checkpointRows(d *tunnelv1.CheckpointDetails) []string {
	k := d.GetCheckpoint()
	var rows []string
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, cells(name, value))
		}
	}
	add("id", k.GetCheckpointId())
	add("node", k.GetNodeId())
	add("made", momentText(d.GetMadeAt()))
	add("by", k.GetOwner())
	if k.GetTotalSize() > 0 {
		add("size", byteText(k.GetTotalSize()))
	}
	add("url", k.GetUrl())
	add("sha256", d.GetSha256())
	if d.GetEncrypted() {
		can := "yes; the daemon cannot open it"
		if d.GetRestorable() {
			can = "yes; the daemon can open it"
		}
		add("encrypted", can)
		return rows
	}
	add("platform", d.GetPlatform())
	add("session", fmt.Sprintf("%d messages, %d commands, %d lines", d.GetConversationCount(), d.GetCommandCount(), d.GetScrollbackCount()))
	add("directory", d.GetCwd())
	add("branch", d.GetGitBranch())
	add("remote", d.GetGitRemoteUrl())
	for _, t := range d.GetAttachments() {
		add("holds", t.GetName()+", "+byteText(t.GetSize()))
	}
	for _, n := range d.GetNotes() {
		add("note", n)
	}
	return rows
}

func momentText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

func (a *app) checkpointsDownloadCmd() *cobra.Command {
	var sealed, force bool
	c := &cobra.Command{Use: "download ID FILE", Short: "Copy a checkpoint into a file", Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeCheckpoint(cmd, args, word)
		},
		Long: `Copy a checkpoint into a file, a tar archive with checkpoint.json and its attachments; - is stdout. An
encrypted one is opened when the daemon has the key; --sealed leaves it as it is stored.`,
		Example: `  hanzoctl checkpoints download 20250101T000001Z-00000001 session.tar
  hanzoctl checkpoints download 20250101T000001Z-00000001 - | tar -tv
  hanzoctl checkpoints download 20250101T000001Z-00000001 session.sealed --sealed`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				s, err := c.Checkpoints.Download(ctx, &tunnelv1.CheckpointServiceDownloadRequest{CheckpointId: args[0], Sealed: sealed})
				if err != nil {
					return err
				}
				first, err := s.Recv()
				if err != nil {
					return endOf(err)
				}
				if args[1] == "-" {
					return a.receive(s, first.GetCheckpoint(), a.stdout)
				}
				return a.receiveFile(s, first.GetCheckpoint(), args[1], force)
			})
		}}
	c.Flags().BoolVar(&sealed, "sealed", false, "leave an encrypted checkpoint encrypted")
	c.Flags().BoolVar(&force, "force", false, "replace the file")
	return c
}

// receiveFile writes a download; the file has its name once all of it is there.
func (a *app) receiveFile(s tunnelv1.CheckpointService_DownloadClient, d *tunnelv1.CheckpointDetails, path string, force bool) (err error) {
	if _, there := os.Stat(path); there == nil && !force {
		return &codeError{code: exitConflict, text: path + " is there already; use --force to replace it"}
	}
	f, err := os.CreateTemp(filepath.Dir(path), partialPrefix+"*")
	if err != nil {
		return fileError(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := a.receive(s, d, f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fileError(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fileError(err)
	}
	return a.printOne(d, d.GetCheckpoint().GetCheckpointId(), Text("checkpoint "+d.GetCheckpoint().GetCheckpointId()+" is in "+path))
}

func (a *app) receive(s tunnelv1.CheckpointService_DownloadClient, d *tunnelv1.CheckpointDetails, w io.Writer) error {
	p := a.showSteps()
	defer p.end()
	var n int64
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return fileError(err)
		}
		n += int64(len(m.GetData()))
		p.step(&tunnelv1.CheckpointStep{Name: "download", Done: n, All: max(d.GetCheckpoint().GetTotalSize(), n)})
	}
}

func (a *app) checkpointsUploadCmd() *cobra.Command {
	return &cobra.Command{Use: "upload FILE", Short: "Keep a checkpoint that was downloaded", Args: cobra.ExactArgs(1),
		Long: `Keep a checkpoint that "hanzoctl checkpoints download" wrote, under the id and the node that it has; - is
stdin. It takes the scope operator.admin.`,
		Example: `  hanzoctl checkpoints upload session.tar
  hanzoctl checkpoints upload - < session.sealed`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := io.Reader(a.stdin)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fileError(err)
				}
				defer f.Close()
				in = f
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				s, err := c.Checkpoints.Upload(ctx)
				if err != nil {
					return err
				}
				sent := make(chan error, 1)
				go func() { sent <- sendPieces(s, in) }()
				p := a.showSteps()
				defer p.end()
				for {
					m, err := s.Recv()
					if err != nil {
						return endOf(err)
					}
					if st := m.GetStep(); st != nil {
						p.step(st)
						continue
					}
					p.end()
					if err := <-sent; err != nil {
						return err
					}
					d := m.GetCheckpoint()
					return a.printOne(d, d.GetCheckpoint().GetCheckpointId(), checkpointRows(d)...)
				}
			})
		}}
}

// sendPieces sends what it reads. When the daemon does not take it, the answer says why.
func sendPieces(s tunnelv1.CheckpointService_UploadClient, in io.Reader) error {
	for {
		buf := make([]byte, pieceSize)
		n, err := in.Read(buf)
		if n > 0 {
			if s.Send(&tunnelv1.CheckpointServiceUploadRequest{Data: buf[:n]}) != nil {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return s.CloseSend()
		}
		if err != nil {
			return errors.Join(fileError(err), s.CloseSend())
		}
	}
}

func (a *app) checkpointsRestoreCmd() *cobra.Command {
	req := &tunnelv1.CheckpointServiceRestoreRequest{}
	c := &cobra.Command{Use: "restore ID NODE", Short: "Bring a checkpoint to a node", Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return a.completeNode(cmd, nil, word)
			}
			return a.completeCheckpoint(cmd, args, word)
		},
		Long: `Bring a checkpoint to a node: its session takes the place of the node's, and its workspace is made anew
there. Nothing is sent before all of the checkpoint was read and its checksums held. The node restores
into an empty directory, or into a repository without changes; --force lets it replace what is there.
The exit code is 1 when a step failed on the node.`,
		Example: `  hanzoctl checkpoints restore 20250101T000001Z-00000001 build-box
  hanzoctl checkpoints restore 20250101T000001Z-00000001 build-box --dry-run
  hanzoctl checkpoints restore laptop/20250101T000001Z-00000001 build-box --force`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				var err error
				if req.NodeId, err = nodeID(ctx, c, args[1], false); err != nil {
					return err
				}
				req.CheckpointId = args[0]
				s, err := c.Checkpoints.Restore(ctx, req)
				if err != nil {
					return err
				}
				p := a.showSteps()
				defer p.end()
				for {
					m, err := s.Recv()
					if err != nil {
						return endOf(err)
					}
					if st := m.GetStep(); st != nil {
						p.step(st)
						continue
					}
					p.end()
					if err := a.printOne(m.GetRestored(), m.GetRestored().GetCheckpointId(), restoredRows(m.GetRestored())...); err != nil {
						return err
					}
					return stepFailed(m.GetRestored())
				}
			})
		}}
	c.Flags().BoolVar(&req.Force, "force", false, "replace a workspace that has changes or is no repository")
	c.Flags().BoolVar(&req.DryRun, "dry-run", false, "say what would happen, and change nothing")
	c.Flags().StringVar(&req.FromNodeId, "from", "", "id of the node that the checkpoint is of")
	must(c.RegisterFlagCompletionFunc("from", cobra.NoFileCompletions))
	return c
}

func restoredRows(r *tunnelv1.CheckpointRestored) []string {
	what := "restored"
	if r.GetDryRun() {
		what = "would restore"
	}
	rows := []string{cells(what, fmt.Sprintf("%s of %s: %d messages, %d commands, %d lines", r.GetCheckpointId(), r.GetRestoredFrom(), r.GetConversationCount(), r.GetCommandCount(), r.GetScrollbackCount()))}
	for _, st := range r.GetSteps() {
		detail := st.GetDetail()
		if st.GetFailed() {
			detail = "FAILED: " + detail
		}
		rows = append(rows, cells(st.GetName(), detail))
	}
	return rows
}

func stepFailed(r *tunnelv1.CheckpointRestored) error {
	if r.GetOk() {
		return nil
	}
	return &codeError{code: exitFailed, text: "a step of the restore failed"}
}

func (a *app) checkpointsMigrateCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{Use: "migrate FROM TO", Short: "Bring the session of a node to another one", Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeNode(cmd, nil, word)
		},
		Long: `Make a checkpoint of a node, restore it on another one and ask that how it is. The first node stays as
it was. The exit code is 1 when a step failed on the second.`,
		Example: `  hanzoctl checkpoints migrate laptop build-box
  hanzoctl checkpoints migrate laptop build-box --force -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				from, err := nodeID(ctx, c, args[0], false)
				if err != nil {
					return err
				}
				to, err := nodeID(ctx, c, args[1], false)
				if err != nil {
					return err
				}
				s, err := c.Checkpoints.Migrate(ctx, &tunnelv1.CheckpointServiceMigrateRequest{FromNodeId: from, ToNodeId: to, Force: force})
				if err != nil {
					return err
				}
				p := a.showSteps()
				defer p.end()
				status := ""
				for {
					m, err := s.Recv()
					if err != nil {
						return endOf(err)
					}
					if st := m.GetStep(); st != nil {
						if st.GetName() == "status" {
							status = st.GetDetail()
						}
						p.step(st)
						continue
					}
					p.end()
					out := m.GetMigrated()
					rows := append([]string{cells("checkpoint", out.GetCheckpoint().GetCheckpoint().GetCheckpointId())}, restoredRows(out.GetRestored())...)
					if status != "" {
						rows = append(rows, cells("status", status))
					}
					if err := a.printOne(out, out.GetCheckpoint().GetCheckpoint().GetCheckpointId(), rows...); err != nil {
						return err
					}
					return stepFailed(out.GetRestored())
				}
			})
		}}
	c.Flags().BoolVar(&force, "force", false, "replace a workspace that has changes or is no repository")
	return c
}

func (a *app) checkpointsDeleteCmd() *cobra.Command {
	return &cobra.Command{Use: "delete ID…", Aliases: []string{"rm"}, Short: "Remove checkpoints", Args: cobra.MinimumNArgs(1),
		Example: `  hanzoctl checkpoints delete 20250101T000001Z-00000001
  hanzoctl checkpoints list old-box -q | xargs hanzoctl checkpoints delete`,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return a.completeCheckpoint(cmd, nil, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 4*callTimeout, func(ctx context.Context, c *client.Client) error {
				for _, id := range args {
					out, err := c.Checkpoints.Delete(ctx, &tunnelv1.CheckpointServiceDeleteRequest{CheckpointId: id})
					if err != nil {
						return err
					}
					k := out.GetCheckpoint()
					if err := a.printOne(k, k.GetCheckpointId(), Text("checkpoint "+k.GetCheckpointId()+" of "+k.GetNodeId()+" is removed")); err != nil {
						return err
					}
				}
				return nil
			})
		}}
}

func (a *app) checkpointsPruneCmd() *cobra.Command {
	req := &tunnelv1.CheckpointServicePruneRequest{}
	c := &cobra.Command{Use: "prune [NODE]", Short: "Remove checkpoints that no rule keeps", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeNode,
		Long: `Remove checkpoints that no rule keeps: of each node those beyond the last few, and those that are too
old, but never its newest. Without flags the rules are those of checkpoints.retention. What broken
calls left in the store goes too. It takes the scope operator.admin.`,
		Example: `  hanzoctl checkpoints prune --keep-last 5 --dry-run
  hanzoctl checkpoints prune build-box --keep-days 30
  hanzoctl checkpoints prune`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 20*callTimeout, func(ctx context.Context, c *client.Client) error {
				if len(args) == 1 {
					var err error
					if req.NodeId, err = nodeID(ctx, c, args[0], true); err != nil {
						return err
					}
				}
				out, err := c.Checkpoints.Prune(ctx, req)
				if err != nil {
					return err
				}
				if a.output == "table" && !a.quiet {
					what := "removed"
					if req.GetDryRun() {
						what = "would remove"
					}
					fmt.Fprintln(a.stderr, Text(fmt.Sprintf("%s %d checkpoints, %s, and %d leftovers", what, len(out.GetRemoved()), byteText(out.GetBytes()), out.GetOrphans())))
				}
				return a.printCheckpoints(out, out.GetRemoved(), "every checkpoint is kept")
			})
		}}
	c.Flags().Uint32Var(&req.KeepLast, "keep-last", 0, "how many of each node to keep")
	c.Flags().Uint32Var(&req.KeepDays, "keep-days", 0, "for how many days to keep them")
	c.Flags().BoolVar(&req.DryRun, "dry-run", false, "say what would be removed, and remove nothing")
	return c
}

func (a *app) completeCheckpoint(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Checkpoints.List(ctx, &tunnelv1.CheckpointServiceListRequest{})
		if err != nil {
			return nil
		}
		var words []string
		for _, k := range out.GetCheckpoints()[:min(len(out.GetCheckpoints()), maxWords)] {
			words = append(words, Text(k.GetCheckpointId())+"\t"+Text(k.GetNodeId()+", "+span(time.Since(k.GetModifiedAt().AsTime()))+" ago"))
		}
		return words
	})
}

// maxWords is how many words are offered at once.
const maxWords = 1000

// stepLine shows on a terminal how far something is, and says on others what is done.
type stepLine struct {
	a     *app
	live  bool
	last  string
	drawn bool
}

func (a *app) showSteps() *stepLine { return &stepLine{a: a, live: isTerminal(a.stderr)} }

func (p *stepLine) step(st *tunnelv1.CheckpointStep) {
	if p.a.quiet {
		return
	}
	text := st.GetName()
	if st.GetNodeId() != "" {
		text += " " + shortID(st.GetNodeId())
	}
	switch {
	case st.GetFailed():
		text += ": FAILED: " + st.GetDetail()
	case st.GetDetail() != "":
		text += ": " + st.GetDetail()
	case st.GetAll() > 0:
		text += fmt.Sprintf(": %s of %s", byteText(st.GetDone()), byteText(st.GetAll()))
	case st.GetDone() > 0:
		text += ": " + byteText(st.GetDone())
	}
	text = Text(strings.TrimSpace(text))
	switch {
	case p.live:
		p.drawn = true
		fmt.Fprint(p.a.stderr, "\r"+text+"\x1b[K")
	case p.a.output == "table" && (st.GetDone() == 0 || st.GetFailed()) && text != p.last:
		p.last = text
		fmt.Fprintln(p.a.stderr, text)
	}
}

func (p *stepLine) end() {
	if p.drawn {
		p.drawn = false
		fmt.Fprint(p.a.stderr, "\r\x1b[K")
	}
}
