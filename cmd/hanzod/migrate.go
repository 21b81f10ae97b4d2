package main

import (
	"bufio"
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
)

// migrateFlags are what the command was told.
type migrateFlags struct {
	stateDir, config, export string
	dry, yes, json, abandon  bool
	stop, start              bool
	legacy                   string // the directory of the original
}

func migrateCmd(out, errOut io.Writer) *cobra.Command {
	var f migrateFlags
	c := &cobra.Command{
		Use: "migrate [DIR]", Short: "Bring the state of the original gateway over, and back",
		Long: `migrate imports the state directory of the original gateway (default: ~/.openclaw, or one of
its older names) into that of hanzod: configuration, paired devices and nodes with their tokens, exec
approvals, sessions with their transcripts, cron jobs with their runs, wake words, push
registrations, and the files beside them. Clients that were paired connect as before.

The directory of the original is only ever read. Its service is named, and stopped and kept from starting
when you say so (--stop); while its gateway runs, an import is a first copy, to be repeated behind its end.
With --start hanzod becomes a service behind the import. Each paired client is looked at: would its token
let it in? At the end stands how to go back. The import can be repeated: what was not changed here since follows the source,
what was changed here stays and is said. When it is cut off, run it again; hanzod does not start on half
of it.

With --export DIR it goes the other way: the state of hanzod is written to DIR, a new or empty directory
or one that an earlier export made, for the original to run on.

With --dry-run nothing is written at all.`,
		Example: `  hanzod migrate --dry-run
  hanzod migrate
  hanzod migrate --stop --start
  hanzod migrate /backup/openclaw --state-dir /tmp/try
  hanzod migrate --export ~/openclaw-back`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s takes one DIR, got %q", c.CommandPath(), args)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				f.legacy = args[0]
			}
			return migrateRun(cmd, out, errOut, f)
		},
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration file of the original (default: in its directory)")
	c.Flags().StringVar(&f.stateDir, "state-dir", "", "state directory of hanzod (default ~/.hanzo/hanzod)")
	c.Flags().StringVar(&f.export, "export", "", "write the state of hanzod to this directory, for the original")
	c.Flags().BoolVar(&f.dry, "dry-run", false, "say what would be done and write nothing")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	c.Flags().BoolVar(&f.stop, "stop", false, "stop the service of the original first, and keep it from starting by itself")
	c.Flags().BoolVar(&f.start, "start", false, "install hanzod as a service behind the import, and start it")
	c.Flags().BoolVar(&f.abandon, "abandon", false, "end an import that was cut off with what it brought so far")
	return c
}

func migrateRun(cmd *cobra.Command, out, errOut io.Writer, f migrateFlags) error {
	where := config.Options{StateDir: f.stateDir}
	if f.export != "" {
		where.Path = f.config
	}
	at, err := config.LocateMigration(where, f.legacy)
	if err != nil {
		return configError{err}
	}
	switch {
	case f.abandon:
		if f.legacy != "" || f.export != "" || f.dry {
			return usageError{errors.New("--abandon goes with --state-dir alone")}
		}
		return runtime.AbandonMigration(at.StateDir)
	case (f.stop || f.start) && (f.export != "" || f.dry):
		return usageError{errors.New("--stop and --start go with an import that is carried out")}
	case f.export != "" && f.legacy != "":
		return usageError{fmt.Errorf("--export writes to its own directory; leave out %q", f.legacy)}
	case f.export == "" && at.Legacy == "":
		return usageError{errors.New("no state directory of the original was found; name it: hanzod migrate DIR")}
	}
	in := runtime.MigrateIn{Legacy: at.Legacy, StateDir: at.StateDir, Config: at.Path, LegacyConfig: at.LegacyPath, Home: at.Home, DryRun: f.dry}
	if f.export != "" {
		in.Export, in.LegacyConfig = true, ""
		if in.Legacy, err = filepath.Abs(f.export); err != nil {
			return err
		}
	} else if f.config != "" {
		if in.LegacyConfig, err = filepath.Abs(f.config); err != nil {
			return err
		}
	}
	if !f.dry && !f.yes {
		if err := confirmMigrate(cmd.InOrStdin(), errOut, in); err != nil {
			return err
		}
	}
	var sw *switching
	if !in.Export {
		sw = newSwitching(cmd, errOut, f, in, at.Profile)
		if err := sw.before(cmd.Context()); err != nil {
			return err
		}
	}
	p := newMigrateProgress(errOut)
	in.Progress = p.tell
	got, err := runtime.Migrate(cmd.Context(), in)
	p.end()
	if err != nil {
		if len(got.Findings) > 0 && !f.json {
			err = errors.Join(err, got.Text(out))
		}
		return err
	}
	tell := out
	if f.json {
		if err := printJSON(out, got); err != nil {
			return err
		}
		tell = errOut
	} else if err := printMigrated(out, in, got); err != nil {
		return err
	}
	if sw == nil {
		return nil
	}
	return sw.after(cmd, tell, got)
}

// confirmMigrate asks where there is somebody to ask and something to lose: an import into a state that is there
// already, and an export of secrets.
func confirmMigrate(in io.Reader, out io.Writer, m runtime.MigrateIn) error {
	text := fmt.Sprintf("This brings %s into the state in %s; nothing that was changed here is lost.", m.Legacy, m.StateDir)
	if m.Export {
		text = fmt.Sprintf("This writes the state in %s, with every secret, to %s.", m.StateDir, m.Legacy)
	} else if _, err := os.Lstat(m.StateDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fmt.Fprintf(out, "%s\nType yes to go on: ", text)
	line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was written; --yes leaves out the question, --dry-run says what would be done")
	}
	return nil
}

func printMigrated(out io.Writer, in runtime.MigrateIn, got runtime.MigrateOut) error {
	verb := "imported"
	switch {
	case in.Export && in.DryRun:
		verb = "would be exported"
	case in.Export:
		verb = "exported"
	case in.DryRun:
		verb = "would be imported"
	}
	fmt.Fprintf(out, "%s %s to %s in %s\n\n", plain(got.Source), verb, plain(got.Target), got.Took.Round(time.Millisecond))
	return got.Text(out)
}

// migrateProgress is a line that changes on a terminal, and lines otherwise.
type migrateProgress struct {
	w     io.Writer
	term  bool
	part  string
	last  time.Time
	shown bool
}

// lineEvery is how often progress is a line of its own where there is no terminal.
const lineEvery = 5 * time.Second

func newMigrateProgress(w io.Writer) *migrateProgress {
	p := &migrateProgress{w: w, last: time.Now()}
	if f, ok := w.(*os.File); ok {
		p.term = term.IsTerminal(int(f.Fd()))
	}
	return p
}

func (p *migrateProgress) tell(part string, done, total int64) {
	now := time.Now()
	every := lineEvery
	if p.term {
		every = progressEvery
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last, p.part = now, part
	text := fmt.Sprintf("%s: %s of %s", part, bytesText(done), bytesText(total))
	if !p.term {
		fmt.Fprintln(p.w, text)
		return
	}
	const width = 30
	full := 0
	if total > 0 {
		full = int(min(done, total) * width / total)
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r[%s%s] %s\x1b[K", strings.Repeat("=", full), strings.Repeat(" ", width-full), text)
}

func (p *migrateProgress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// finishedMigration refuses to start on half an import.
func finishedMigration(opts config.Options) error {
	dir, _, err := config.Locate(opts)
	if err != nil {
		return configError{err}
	}
	return runtime.FinishedMigration(dir)
}
