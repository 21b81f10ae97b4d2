package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/store"
)

const (
	// progressAfter is how long work goes on before its progress is shown, progressEvery how often then.
	progressAfter = 500 * time.Millisecond
	progressEvery = 200 * time.Millisecond
)

// finishRestore ends a restore that was cut off, before anything of the state is read.
func finishRestore(errOut io.Writer, opts config.Options) error {
	dir, _, err := config.Locate(opts)
	if err != nil {
		return configError{err}
	}
	aside, err := backup.Finish(dir)
	if aside != "" {
		fmt.Fprintln(errOut, "a restore that was cut off is finished; the state before it is in "+aside)
	}
	return err
}

func backupCmd(out, errOut io.Writer) *cobra.Command {
	var where stateFlags
	var force bool
	c := &cobra.Command{
		Use: "backup FILE|-", Short: "Write the state to one file, also while the daemon runs",
		Long: `backup writes a copy of the state as it is at one moment: the database, the configuration
with what it includes, the exec approvals file, the policy rules, the certificate and the
identity of the node of this machine. Logs stay out. A daemon that runs is asked for it
and goes on; nothing that it acknowledged before is missing.

The file is a gzip-compressed tar archive with a manifest of SHA-256 sums. It holds every
secret of this daemon: who can read it can act as its devices. It is made readable for its
owner only; encrypt it before it leaves this machine:

  hanzod backup - | age -r RECIPIENT > hanzod.tar.gz.age

Needed beside the database is as much room on its disk, for as long as the backup takes.`,
		Example: `  hanzod backup ~/hanzod-$(date +%F).tar.gz
  hanzod backup verify ~/hanzod-2026-05-01.tar.gz
  hanzod restore ~/hanzod-2026-05-01.tar.gz`,
		Args: oneArg("FILE, or - for the standard output"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBackup(cmd.Context(), out, errOut, where, args[0], force)
		},
	}
	where.add(c)
	c.Flags().BoolVar(&force, "force", false, "replace the file when it is there")
	c.AddCommand(backupVerifyCmd(out, errOut))
	return c
}

// oneArg demands one argument, and says what it is.
func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usageError{fmt.Errorf("%s takes one argument: %s", c.CommandPath(), what)}
		}
		return nil
	}
}

func runBackup(ctx context.Context, out, errOut io.Writer, where stateFlags, file string, force bool) error {
	dir, path, err := config.Locate(config.Options{Path: where.config, StateDir: where.stateDir})
	if err != nil {
		return configError{err}
	}
	if _, err := backup.Finish(dir); err != nil {
		return err
	}
	if file == "-" {
		if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usageError{errors.New("a backup is not for terminals: name a file, or send the output to a program")}
		}
		return writeBackup(ctx, out, errOut, dir, path)
	}
	if _, err := os.Lstat(file); err == nil && !force {
		return fmt.Errorf("%s is there already; replace it with --force", file)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".hanzod-backup-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		_ = tmp.Close()
		_ = os.Remove(tmp.Name()) // when it is not in its place
	}()
	if err := writeBackup(ctx, tmp, errOut, dir, path); err != nil {
		return err
	}
	// What was written is read again: a backup that cannot be read is found out about now.
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	m, err := backup.Read(ctx, tmp, nil, nil, nil)
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	size, err := tmp.Seek(0, io.SeekEnd)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := place(tmp.Name(), file, force); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d files, %s, taken %s\n", file, len(m.Files), bytesText(size), m.Taken.Local().Format(time.DateTime))
	fmt.Fprintln(errOut, "It holds every secret of this daemon: keep it where only you can read it.")
	return nil
}

// place moves a file into its place, and replaces another there only with force.
func place(from, to string, force bool) error {
	if !force {
		// A link fails when there is something by now.
		switch err := os.Link(from, to); {
		case err == nil:
			return nil // the other name is removed by the caller
		case errors.Is(err, fs.ErrExist):
			return fmt.Errorf("%s is there already; replace it with --force", to)
		}
		if _, err := os.Lstat(to); err == nil {
			return fmt.Errorf("%s is there already; replace it with --force", to)
		}
	}
	return os.Rename(from, to)
}

// writeBackup asks the daemon for a backup, or makes it when none runs.
func writeBackup(ctx context.Context, w, errOut io.Writer, dir, path string) error {
	p := newProgress(errOut, "backup")
	defer p.end()
	held, err := store.WhoHolds(dir)
	if err != nil {
		return fmt.Errorf("look for a running daemon: %w", err)
	}
	if !held.Held {
		if _, err := os.Stat(filepath.Join(dir, store.FileName)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no state of hanzod in %s; name its directory with --state-dir", dir)
		}
		cfg, err := config.Load(config.Options{Path: path, StateDir: dir})
		if err != nil {
			fmt.Fprintf(errOut, "The configuration does not hold; files that it includes are not in the backup: %v\n", err)
			cfg = nil
		}
		_, err = backup.Write(ctx, w, runtime.BackupSource(dir, path, cfg), p.tell)
		if err == nil || !errors.Is(err, store.ErrLocked) {
			return err
		}
		// A daemon has started since.
	}
	if err := runtime.FetchBackup(ctx, dir, w, p.tell); err != nil {
		return fmt.Errorf("ask the daemon (pid %d) for a backup: %w", held.PID, err)
	}
	return nil
}

func backupVerifyCmd(out, errOut io.Writer) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "verify FILE|-", Short: "Check that a backup is whole and can be restored",
		Long: `verify reads a backup as restore would, in a temporary directory that goes away: every
sum of its manifest, the pages and records of the database, and the chain of the audit
log. It ends with 0 when the backup can be restored by this hanzod.`,
		Args: oneArg("FILE, or - for the standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output %q must be text or json", output)}
			}
			r, err := openArchive(cmd, args[0])
			if err != nil {
				return err
			}
			defer r.Close()
			p := newProgress(errOut, "verify")
			got, err := backup.Restore(cmd.Context(), backup.RestoreIn{Archive: r, DryRun: true, Now: time.Now, Progress: p.tell})
			p.end()
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(out, got.Manifest)
			}
			printManifest(out, got.Manifest)
			_, err = fmt.Fprintln(out, "It is whole and can be restored.")
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json (the manifest)")
	return c
}

func openArchive(cmd *cobra.Command, file string) (io.ReadCloser, error) {
	if file == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	if st, err := os.Stat(file); err == nil && st.IsDir() {
		return nil, fmt.Errorf("%s is a directory; name a backup", file)
	}
	return os.Open(file)
}

func printManifest(out io.Writer, m backup.Manifest) {
	row := func(name, text string) { fmt.Fprintf(out, "%-10s %s\n", name, text) }
	row("taken", m.Taken.Local().Format(time.DateTime))
	row("by", fmt.Sprintf("hanzod %s on %s", plain(m.Hanzod), plain(m.Platform)))
	row("of", plain(m.StateDir))
	row("schema", fmt.Sprint(m.Schema))
	if m.AuditHead != "" {
		row("audit", m.AuditHead)
	}
	for _, f := range m.Files {
		text := fmt.Sprintf("%s (%s)", f.Name, bytesText(f.Size))
		if f.From != "" {
			text += ", was " + plain(f.From)
		}
		row("file", text)
	}
}

func restoreCmd(out, errOut io.Writer) *cobra.Command {
	var where stateFlags
	var dry, yes bool
	var output string
	c := &cobra.Command{
		Use: "restore FILE|-", Short: "Put the state of a backup in the place of the present one",
		Long: `restore verifies a backup and puts it in the place of the state. It refuses while a daemon
uses the state directory: stop it first. The files that it replaces are moved to a directory
beside them, whose name it prints. When it is cut off, the old state is there, or the
next start finishes the new one.

The state is then that of the time of the backup, with what that means:
  - devices and tokens that were revoked since are let in again, grants that were revoked
    since allow again: look at "hanzoctl devices" and "hanzoctl grants list" right after;
  - devices that were paired since have to pair again, tokens that were rotated since
    need one repair;
  - nothing that was allowed a number of times can happen once more: open approvals are
    expired, grants with a number of uses revoked, invites removed;
  - runs that were under way in the backup are lost, which means: they may have run.
The audit log says that it was restored.`,
		Example: `  hanzod restore --dry-run ~/hanzod-2026-05-01.tar.gz
  hanzod restore ~/hanzod-2026-05-01.tar.gz`,
		Args: oneArg("FILE, or - for the standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output %q must be text or json", output)}
			}
			dir, _, err := config.Locate(config.Options{Path: where.config, StateDir: where.stateDir})
			if err != nil {
				return configError{err}
			}
			if held, err := store.WhoHolds(dir); err == nil && held.Held && !dry {
				return store.ErrLocked.WithText(fmt.Sprintf("a daemon (pid %d) uses %s; stop it first: hanzod service stop, or Ctrl-C where it runs", held.PID, dir))
			}
			if !dry && !yes && args[0] != "-" {
				if _, err := os.Lstat(filepath.Join(dir, store.FileName)); err == nil {
					if err := confirmRestore(cmd.InOrStdin(), errOut, dir); err != nil {
						return err
					}
				}
			}
			r, err := openArchive(cmd, args[0])
			if err != nil {
				return err
			}
			defer r.Close()
			p := newProgress(errOut, "restore")
			got, err := backup.Restore(cmd.Context(), backup.RestoreIn{Archive: r, StateDir: dir, DryRun: dry, Now: time.Now, Progress: p.tell})
			p.end()
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(out, restored{got.Manifest, dry, dir, got.Aside, got.Moved, got.Ended, got.Devices, got.Outside})
			}
			return printRestored(out, dir, dry, got)
		},
	}
	where.add(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "verify the backup and say what would be done, without doing it")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// restored is a restore as JSON has it.
type restored struct {
	Backup   backup.Manifest `json:"backup"`
	DryRun   bool            `json:"dryRun"`
	StateDir string          `json:"stateDir"`
	Aside    string          `json:"aside,omitempty"`
	Moved    []string        `json:"moved"`
	Ended    backup.Ended    `json:"ended"`
	Devices  int             `json:"devices"`
	Outside  string          `json:"outside,omitempty"`
}

func confirmRestore(in io.Reader, out io.Writer, dir string) error {
	fmt.Fprintf(out, "This puts the backup in the place of the state in %s, which is kept beside it.\nType yes to go on: ", dir)
	line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was restored; --yes leaves out the question")
	}
	return nil
}

func printRestored(out io.Writer, dir string, dry bool, got backup.RestoreOut) error {
	var b strings.Builder
	m := got.Manifest
	verb := "restored"
	if dry {
		verb = "would be restored"
	}
	fmt.Fprintf(&b, "%s: the state of %s %s (%d files, hanzod %s)\n", dir, m.Taken.Local().Format(time.DateTime), verb, len(m.Files), plain(m.Hanzod))
	switch {
	case dry && len(got.Moved) > 0:
		fmt.Fprintf(&b, "These files of the present state would be moved aside: %s\n", strings.Join(got.Moved, " "))
	case got.Aside != "":
		fmt.Fprintf(&b, "The state before is in %s\n", got.Aside)
	}
	e := got.Ended
	fmt.Fprintf(&b, "So that nothing happens twice: %d open approvals expired, %d grants revoked, %d invites removed, %d runs lost.\n", e.Approvals, e.Grants, e.Invites, e.Runs)
	fmt.Fprintf(&b, "%d devices are known as they were then: what was revoked since is let in again.\n", got.Devices)
	for _, f := range m.Files {
		if f.From != "" {
			fmt.Fprintf(&b, "Not put in its place: %s, which was %s\n", f.Name, plain(f.From))
		}
	}
	if got.Outside != "" {
		fmt.Fprintf(&b, "Those files are in %s\n", got.Outside)
	}
	if !dry {
		b.WriteString("Start the daemon, then look at: hanzoctl devices; hanzoctl grants list; hanzod doctor\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// plain makes a text of a backup safe for the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

// bytesText is a size for people.
func bytesText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// progress shows on a terminal how far long work is.
type progress struct {
	w     io.Writer
	what  string
	began time.Time
	last  time.Time
	shown bool
}

// newProgress shows nothing where there is no terminal.
func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, began: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = w
	}
	return p
}

func (p *progress) tell(done, all int64) {
	now := time.Now()
	if p.w == nil || now.Sub(p.began) < progressAfter || now.Sub(p.last) < progressEvery {
		return
	}
	p.last, p.shown = now, true
	fmt.Fprintf(p.w, "\r%s: %s of %s\x1b[K", p.what, bytesText(done), bytesText(all))
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
