package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/system/doctor"
)

const (
	// doctorTimeout bounds the whole of it: the daemon takes doctor.MaxTime, and a way there takes time.
	doctorTimeout = 15 * time.Second
	// clockSkew is how far two clocks may be apart before it matters: signatures hold for two minutes.
	clockSkew = 30 * time.Second
)

func (a *app) doctorCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "doctor", Short: "Say what is wrong with the daemon, and what to do about it", Args: cobra.NoArgs,
		Long: `Say what is wrong with the daemon, and what to do about it: what the daemon finds when it
looks at itself, and what only this side sees, such as whether it answers, how far the clocks
are apart, and whether the programs are of one version. What the daemon finds takes the scope
operator.admin. "hanzod doctor" on the machine of the daemon sees more, and mends some of it.

The exit code is 0 when nothing is wrong, and 1 when there is a warning or an error.`,
		Example: `  hanzoctl doctor
  hanzoctl --host ssh://box doctor
  hanzoctl doctor -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bounded(cmd.Context(), doctorTimeout)
			defer cancel()
			found, err := a.diagnose(ctx)
			if err != nil {
				return err
			}
			if a.output == "table" && !a.quiet {
				err = doctor.Print(a.stdout, found, all, isTerminal(a.stdout) && a.color(), Text)
			} else {
				err = a.printFindings(found)
			}
			if err != nil {
				return err
			}
			if bad, doubtful := doctor.Problems(found); bad+doubtful > 0 {
				return &codeError{code: exitFailed}
			}
			return nil
		}}
	c.Flags().BoolVarP(&all, "all", "a", false, "show what is fine too")
	return c
}

// printFindings prints the findings for programs; with --quiet the names of the checks with problems.
func (a *app) printFindings(found []doctor.Finding) error {
	if a.quiet {
		var ids []string
		for _, f := range found {
			if f.Severity >= doctor.Warning {
				ids = append(ids, f.Check)
			}
		}
		return a.printIDs(ids)
	}
	if a.output != "jsonl" {
		return a.printValue(found)
	}
	for _, f := range found {
		if err := a.printValue(f); err != nil {
			return err
		}
	}
	return nil
}

// diagnose asks the daemon, and adds what is seen from here.
func (a *app) diagnose(ctx context.Context) ([]doctor.Finding, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var mine []doctor.Finding
	add := func(check string, s doctor.Severity, what, next string) {
		mine = append(mine, doctor.Of(check, s, what, next))
	}
	began := time.Now()
	h, err := c.System.GetHealth(ctx, &systemv1.GetHealthRequest{Probe: true})
	took := time.Since(began)
	switch {
	case err != nil:
		next := "on its machine: hanzod service status, and: hanzod doctor"
		if e, ok := errors.AsType[*client.Error](err); ok && hints[e.Code] != "" {
			next = hints[e.Code]
		}
		add("daemon", doctor.Error, fmt.Sprintf("%s: %v", c.Target(), err), next)
		return mine, nil
	case !h.GetOk():
		add("daemon", doctor.Error, c.Target()+" reports that it does not work", a.again()+" logs")
	default:
		add("daemon", doctor.OK, fmt.Sprintf("%s answers in %s", c.Target(), took.Round(time.Millisecond/10)), "")
	}
	out, err := c.System.Diagnose(ctx, &systemv1.DiagnoseRequest{})
	if err != nil {
		e, ok := errors.AsType[*client.Error](err)
		switch {
		case ok && e.Class == client.Denied && e.Code != "rpc.method":
			add("daemon", doctor.Note, "what the daemon finds itself takes the scope operator.admin, which is not held here", "ask an admin, or on its machine: hanzod doctor")
		case ok && e.Code == "rpc.method":
			add("daemon.version", doctor.Warning, "the daemon is older than this program and cannot look at itself", "on its machine: hanzod service upgrade --binary FILE")
		default:
			add("daemon", doctor.Error, fmt.Sprintf("it could not look at itself: %v", err), a.again()+" logs")
		}
		doctor.Sort(mine)
		return mine, nil
	}
	// A program that was not built for a release does not know its version.
	if v, own := out.GetVersion(), strings.TrimPrefix(version(), "v"); v != own && !strings.HasPrefix(own, "(") && !strings.HasPrefix(own, "0.0.0-") {
		add("daemon.version", doctor.Note, fmt.Sprintf("the daemon is hanzod %s, this program is %s", v, own), "when one of them was just upgraded, upgrade the other")
	}
	// Its clock was read between the call and now.
	skew := time.Until(out.GetAt().AsTime())
	if skew > clockSkew || skew < -clockSkew-took {
		add("clock", doctor.Warning, fmt.Sprintf("the clock of the daemon is %s off from the one here", skew.Round(time.Second)), "set the wrong one right: signatures hold for two minutes")
	}
	theirs := make([]doctor.Finding, len(out.GetFindings()))
	for i, f := range out.GetFindings() {
		theirs[i] = doctor.Finding{Check: f.GetCheck(), Severity: doctor.Severity(f.GetSeverity()), What: f.GetWhat(), Next: f.GetNext(), Fixable: f.GetFixable()}
		if f.GetFixable() && f.GetSeverity() > systemv1.Severity_SEVERITY_OK && c.Socket() == "" {
			theirs[i].Next = "on the machine of the daemon: " + f.GetNext()
		}
	}
	all := doctor.Merge(mine, theirs)
	doctor.Sort(all)
	return all, nil
}
