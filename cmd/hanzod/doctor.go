package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/checks"
	"github.com/hanzoai/hanzod/system/doctor"
)

func doctorCmd(out io.Writer) *cobra.Command {
	var where stateFlags
	var fix, all, noColor bool
	var output string
	c := &cobra.Command{
		Use: "doctor", Short: "Say what is wrong on this machine, and what to do about it", Args: noArgs,
		Long: `doctor looks at the state directory, its files and their permissions, the lock, the
database and the audit log, the configuration, the port, the socket, the clock, the service
and the certificate, and asks a running daemon what it finds itself. It takes five seconds at
the most. It never writes to the database; one that a daemon has open is looked at by that
daemon. Without a running daemon all but what only it knows is looked at.

Each finding has a name that stays, for scripts. --fix mends what can be mended without a
question: permissions of the state, a socket or discovery file of a daemon that is gone, a
missing state directory. It says what it did, and does nothing the second time.

It ends with 0 when nothing is wrong, with 1 when there is a warning or an error left.`,
		Example: `  hanzod doctor
  hanzod doctor --fix
  hanzod doctor -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output %q must be text or json", output)}
			}
			p, err := runtime.CheckPlace(config.Options{Path: where.config, StateDir: where.stateDir})
			if err != nil {
				return configError{err}
			}
			found := diagnose(cmd.Context(), p)
			if fix {
				mend(found)
			}
			if output == "json" {
				if err := printJSON(out, found); err != nil {
					return err
				}
			} else {
				f, isFile := out.(*os.File)
				colour := !noColor && isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
				if err := doctor.Print(out, found, all, colour, plain); err != nil {
					return err
				}
			}
			if bad, doubtful := doctor.Problems(found); bad+doubtful > 0 {
				return problemsError{}
			}
			return nil
		},
	}
	where.add(c)
	c.Flags().BoolVar(&fix, "fix", false, "mend what can be mended without a question")
	c.Flags().BoolVarP(&all, "all", "a", false, "show what is fine too")
	c.Flags().BoolVar(&noColor, "no-color", false, "no colours on the terminal (also with NO_COLOR set)")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// diagnose asks the daemon and looks at the machine at the same time.
func diagnose(ctx context.Context, p checks.Place) []doctor.Finding {
	ctx, cancel := context.WithTimeout(ctx, doctor.MaxTime)
	defer cancel()
	theirs := make(chan []doctor.Finding, 1)
	go func() {
		// Whether a daemon answers is a finding of the machine's.
		found, err := runtime.FetchFindings(ctx, p.StateDir)
		if err != nil {
			found = nil
		}
		theirs <- found
	}()
	found := doctor.Merge(checks.Machine(ctx, p), <-theirs)
	doctor.Sort(found)
	return found
}

// mend does what the findings bring with them.
func mend(found []doctor.Finding) {
	for i, f := range found {
		if f.Mend == nil {
			continue
		}
		did, err := f.Mend()
		if err != nil {
			found[i].Next = fmt.Sprintf("it could not be mended (%v); %s", unwrapped(err), f.Next)
			continue
		}
		found[i].Fixed = did
	}
}

// unwrapped is an error without the path that the finding names already.
func unwrapped(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
