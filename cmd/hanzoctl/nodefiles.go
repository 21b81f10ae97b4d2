package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

func (a *app) filesCmd() *cobra.Command {
	return group("files", "List, show, make and remove files of nodes", `  hanzoctl files ls build-box:
  hanzoctl files stat build-box:/srv/images/big.iso
  hanzoctl files cat build-box:log/last.txt | tail
  hanzoctl cp build-box:out/app.tar.gz .`,
		a.filesLsCmd(), a.filesStatCmd(), a.filesCatCmd(), a.filesMkdirCmd(), a.filesRmCmd())
}

// onNode runs f with the file of a node that an argument names.
func (a *app) onNode(cmd *cobra.Command, limit time.Duration, arg string, f func(ctx context.Context, k *copier, w spot) error) error {
	if _, _, ok := remotePath(arg); !ok {
		return usagef("say which node's file it is: NODE:%s", Text(arg))
	}
	return a.call(cmd, limit, func(ctx context.Context, c *client.Client) error {
		k := &copier{a: a, c: c, nodes: map[string]*nodesv1.Node{}}
		w, err := k.spot(ctx, arg)
		if err != nil {
			return err
		}
		return f(ctx, k, w)
	})
}

func (a *app) filePathArg(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.completePath(cmd, word, false)
}

func kindMark(k tunnelv1.FileKind) string {
	switch k {
	case tunnelv1.FileKind_FILE_KIND_DIRECTORY:
		return "d"
	case tunnelv1.FileKind_FILE_KIND_LINK:
		return "l"
	case tunnelv1.FileKind_FILE_KIND_FILE:
		return "-"
	}
	return "?"
}

func (a *app) filesLsCmd() *cobra.Command {
	return &cobra.Command{Use: "ls NODE:[PATH]", Aliases: []string{"list"}, Short: "List a directory of a node", Args: cobra.ExactArgs(1), ValidArgsFunction: a.filePathArg,
		Example: `  hanzoctl files ls build-box:
  hanzoctl files ls build-box:/srv -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onNode(cmd, nodeTimeout, args[0], func(ctx context.Context, k *copier, w spot) error {
				whole := &tunnelv1.ListFilesResponse{}
				l := list{whole: whole, head: "MODE\tSIZE\tCHANGED\tNAME", none: "there is nothing in it"}
				err := k.eachEntry(ctx, w, func(e *tunnelv1.FileEntry) error {
					whole.Entries = append(whole.Entries, e)
					l.items = append(l.items, e)
					l.ids = append(l.ids, e.GetName())
					return nil
				})
				if err != nil {
					return err
				}
				whole.Path = w.path
				l.row = func(i int) string {
					e := whole.GetEntries()[i]
					name := e.GetName()
					if e.GetTarget() != "" {
						name += " -> " + e.GetTarget()
					}
					return cells(kindMark(e.GetKind())+fs.FileMode(e.GetMode()).String()[1:], byteText(e.GetSize()), e.GetModifiedAt().AsTime().Local().Format(time.DateTime), name)
				}
				return a.printList(l)
			})
		}}
}

func (a *app) filesStatCmd() *cobra.Command {
	var sum bool
	c := &cobra.Command{Use: "stat NODE:PATH", Short: "Describe a file of a node", Args: cobra.ExactArgs(1), ValidArgsFunction: a.filePathArg,
		Example: `  hanzoctl files stat build-box:out/app.tar.gz --sha256`,
		RunE: func(cmd *cobra.Command, args []string) error {
			limit := nodeTimeout
			if sum {
				limit = 0 // a large file takes as long as it takes
			}
			return a.onNode(cmd, limit, args[0], func(ctx context.Context, k *copier, w spot) error {
				req := &tunnelv1.StatFileRequest{NodeId: w.node.GetNodeId()}
				req.Path, req.RawPath = rawPath(w.path)
				out, err := k.c.Files.StatFile(ctx, req)
				if err != nil {
					return err
				}
				e := out.GetEntry()
				if sum && e.GetKind() == tunnelv1.FileKind_FILE_KIND_FILE && len(e.GetSha256()) == 0 {
					h := &tunnelv1.HashFileRequest{NodeId: req.GetNodeId(), Path: req.GetPath(), RawPath: req.GetRawPath()}
					hashed, err := k.c.Files.HashFile(ctx, h)
					if err != nil {
						return err
					}
					e = hashed.GetContent().GetEntry()
					e.Sha256 = hashed.GetContent().GetSha256()
				}
				rows := []string{
					cells("path", e.GetPath()), cells("kind", strings.ToLower(strings.TrimPrefix(e.GetKind().String(), "FILE_KIND_"))), cells("size", fmt.Sprint(e.GetSize())),
					cells("mode", fmt.Sprintf("%04o", e.GetMode())), cells("changed", e.GetModifiedAt().AsTime().Local().Format(time.DateTime)),
				}
				if e.GetTarget() != "" {
					rows = append(rows, cells("link to", e.GetTarget()))
				}
				if len(e.GetSha256()) > 0 {
					rows = append(rows, cells("sha256", fmt.Sprintf("%x", e.GetSha256())))
				}
				if !e.GetWritable() {
					rows = append(rows, cells("offered", "for reading only"))
				}
				return a.printOne(e, e.GetPath(), rows...)
			})
		}}
	c.Flags().BoolVar(&sum, "sha256", false, "read the file for its checksum where it is not known")
	return c
}

func (a *app) filesCatCmd() *cobra.Command {
	var offset, length int64
	c := &cobra.Command{Use: "cat NODE:PATH", Short: "Write a file of a node to stdout", Args: cobra.ExactArgs(1), ValidArgsFunction: a.filePathArg,
		Long: `Write a file of a node to stdout, as it is. The checksum is compared at the end; a reader that
must not see a damaged file copies it with "hanzoctl cp" first.`,
		Example: `  hanzoctl files cat build-box:notes.txt
  hanzoctl files cat build-box:core --offset 4096 --length 512 | xxd`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if offset < 0 || cmd.Flags().Changed("length") && length < 0 {
				return usagef("--offset and --length must not be negative")
			}
			return a.onNode(cmd, 0, args[0], func(ctx context.Context, k *copier, w spot) error {
				req := &tunnelv1.ReadFileRequest{NodeId: w.node.GetNodeId(), Offset: offset}
				req.Path, req.RawPath = rawPath(w.path)
				if cmd.Flags().Changed("length") {
					req.Length = &length
				}
				s, err := k.c.Files.ReadFile(ctx, req)
				if err != nil {
					return err
				}
				for {
					m, err := s.Recv()
					switch {
					case errors.Is(err, io.EOF), err == nil && m.GetEnd() != nil:
						return nil
					case err != nil:
						return err
					}
					if _, err := a.stdout.Write(m.GetData()); err != nil {
						return err
					}
				}
			})
		}}
	c.Flags().Int64Var(&offset, "offset", 0, "where to begin, in bytes")
	c.Flags().Int64Var(&length, "length", 0, "how many bytes at the most (default all)")
	return c
}

func (a *app) filesMkdirCmd() *cobra.Command {
	var parents bool
	c := &cobra.Command{Use: "mkdir NODE:PATH", Short: "Make a directory on a node", Args: cobra.ExactArgs(1), ValidArgsFunction: a.filePathArg,
		Example: `  hanzoctl files mkdir -p build-box:out/reports`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onNode(cmd, nodeTimeout, args[0], func(ctx context.Context, k *copier, w spot) error {
				req := &tunnelv1.MakeDirectoryRequest{NodeId: w.node.GetNodeId(), Parents: parents}
				req.Path, req.RawPath = rawPath(w.path)
				out, err := k.c.Files.MakeDirectory(ctx, req)
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetEntry().GetPath(), Text(out.GetEntry().GetPath()))
			})
		}}
	c.Flags().BoolVarP(&parents, "parents", "p", false, "make the directories above it too, and take one that is there")
	return c
}

func (a *app) filesRmCmd() *cobra.Command {
	var recursive, force bool
	c := &cobra.Command{Use: "rm NODE:PATH...", Aliases: []string{"remove"}, Short: "Remove files of nodes", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.filePathArg,
		Example: `  hanzoctl files rm build-box:out/app.tar.gz
  hanzoctl files rm -r build-box:out`,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				err := a.onNode(cmd, nodeTimeout, arg, func(ctx context.Context, k *copier, w spot) error {
					req := &tunnelv1.RemoveFileRequest{NodeId: w.node.GetNodeId(), Recursive: recursive, MissingOk: force}
					req.Path, req.RawPath = rawPath(w.path)
					_, err := k.c.Files.RemoveFile(ctx, req)
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		}}
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove directories with all that is in them")
	c.Flags().BoolVarP(&force, "force", "f", false, "take it when there is no such file")
	return c
}

// completePath completes NODE: and then the paths of the node; local ones are the shell's.
func (a *app) completePath(cmd *cobra.Command, word string, local bool) ([]string, cobra.ShellCompDirective) {
	const more = cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	if strings.ContainsAny(word, "/.") && !strings.Contains(word, ":") && local {
		return nil, cobra.ShellCompDirectiveDefault
	}
	name, file, ok := remotePath(word)
	if !ok {
		words, _ := a.completeNode(cmd, nil, word)
		for i, w := range words {
			node, about, _ := strings.Cut(w, "\t")
			words[i] = node + ":\t" + about
		}
		if local {
			return words, cobra.ShellCompDirectiveNoSpace
		}
		return words, more
	}
	words, _ := a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		k := &copier{a: a, c: c, nodes: map[string]*nodesv1.Node{}}
		dir, _ := path.Split(file)
		w, err := k.spot(ctx, name+":"+dir)
		if err != nil {
			return nil
		}
		var out []string
		_ = k.eachEntry(ctx, w, func(e *tunnelv1.FileEntry) error { // what came until then will do
			if len(e.GetRawName()) > 0 || Text(e.GetName()) != e.GetName() {
				return nil
			}
			p := name + ":" + dir + e.GetName()
			if e.GetKind() == tunnelv1.FileKind_FILE_KIND_DIRECTORY {
				p += "/"
			}
			out = append(out, p)
			return nil
		})
		return out
	})
	return words, more
}
