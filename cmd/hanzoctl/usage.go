package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
)

func (a *app) usageCmd() *cobra.Command {
	return group("usage", "What conversations cost, in tokens and in US dollars", `  hanzoctl usage cost
  hanzoctl usage cost --days 7
  hanzoctl usage sessions --from 2026-03-01 --to 2026-03-31
  hanzoctl usage status`,
		a.usageCostCmd(), a.usageSessionsCmd(), a.usageStatusCmd())
}

// rangeFlags name days.
type rangeFlags struct {
	from, to, zone string
	days           int32
}

func (r *rangeFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.from, "from", "", "first day, as 2026-03-01")
	f.StringVar(&r.to, "to", "", "last day; today without it")
	f.Int32Var(&r.days, "days", 0, "so many days up to today (default 30)")
	f.StringVar(&r.zone, "zone", "local", "whose days: local, utc, gateway, or an offset as UTC+5:30")
	must(c.RegisterFlagCompletionFunc("zone", cobra.FixedCompletions([]string{"local", "utc", "gateway"}, cobra.ShellCompDirectiveNoFileComp)))
}

// days are the days that the flags name.
func (r *rangeFlags) dayRange(now time.Time) (*sessionsv1.DayRange, error) {
	out := &sessionsv1.DayRange{Days: r.days}
	switch zone := r.zone; {
	case zone == "utc", zone == "gateway":
		out.Mode = zone
		if zone == "utc" {
			now = now.UTC()
		}
	case zone == "local":
		out.Mode = "specific"
		_, seconds := now.Zone()
		sign := "+"
		if seconds < 0 {
			sign, seconds = "-", -seconds
		}
		out.UtcOffset = fmt.Sprintf("UTC%s%d:%02d", sign, seconds/3600, seconds/60%60)
	case strings.HasPrefix(zone, "UTC+"), strings.HasPrefix(zone, "UTC-"):
		out.Mode, out.UtcOffset = "specific", zone
	default:
		return nil, usagef("unknown zone %q: use local, utc, gateway, or an offset as UTC+5:30", zone)
	}
	if r.days < 0 || r.days > 0 && (r.from != "" || r.to != "") {
		return nil, usagef("give either --days, which is above zero, or --from and --to")
	}
	if r.to != "" && r.from == "" {
		return nil, usagef("--to goes with --from")
	}
	if r.from != "" {
		if r.to == "" {
			r.to = now.Format(time.DateOnly)
		}
		for _, day := range []string{r.from, r.to} {
			if _, err := time.Parse(time.DateOnly, day); err != nil {
				return nil, usagef("%q is no day: write it as 2026-03-01", day)
			}
		}
		if r.from > r.to {
			return nil, usagef("--from is after --to")
		}
		out.StartDate, out.EndDate = r.from, r.to
	}
	return out, nil
}

func dollars(f float64) string { return "$" + strconv.FormatFloat(f, 'f', 4, 64) }

func totalCells(t *sessionsv1.Totals) []string {
	k := t.GetTokens()
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []string{number(k.GetInput()), number(k.GetOutput()), number(k.GetCacheRead() + k.GetCacheWrite()), number(k.GetTotal()), dollars(t.GetCost().GetTotal())}
}

// missing says that a sum is not whole.
func (a *app) missing(t *sessionsv1.Totals) error {
	if t.GetMissingCost() == 0 || a.output != "table" || a.quiet {
		return nil
	}
	_, err := fmt.Fprintf(a.stderr, "%d answers have no known price and are not in the cost; give their models one in models.providers.<provider>.models[].cost\n", t.GetMissingCost())
	return err
}

func (a *app) usageCostCmd() *cobra.Command {
	var r rangeFlags
	c := &cobra.Command{Use: "cost", Short: "What each day cost", Args: cobra.NoArgs,
		Long: `Show what was used on each day, in tokens and in US dollars. The prices are those that the
answers state, else those of the configuration.`,
		Example: "  hanzoctl usage cost\n  hanzoctl usage cost --days 7\n  hanzoctl usage cost --from 2026-03-01 --to 2026-03-31 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			days, err := r.dayRange(time.Now())
			if err != nil {
				return err
			}
			return a.call(cmd, scanTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Usage.GetCost(ctx, &sessionsv1.GetCostRequest{Range: days})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "DATE\tINPUT\tOUTPUT\tCACHE\tTOKENS\tCOST", none: fmt.Sprintf("nothing was used in these %d days", out.GetDays())}
				for _, d := range out.GetDaily() {
					l.items, l.ids = append(l.items, proto.Message(d)), append(l.ids, d.GetDate())
				}
				if len(l.items) > 0 && a.output == "table" && !a.quiet { // the last row is the sum
					l.items = append(l.items, out.GetTotals())
				}
				l.row = func(i int) string {
					if i == len(out.GetDaily()) {
						return cells(append([]string{"all"}, totalCells(out.GetTotals())...)...)
					}
					d := out.GetDaily()[i]
					return cells(append([]string{d.GetDate()}, totalCells(d.GetTotals())...)...)
				}
				if err := a.printList(l); err != nil {
					return err
				}
				return a.missing(out.GetTotals())
			})
		}}
	r.add(c)
	return c
}

// scanTimeout bounds a call that may have to read all transcripts.
const scanTimeout = 2 * time.Minute

func (a *app) usageSessionsCmd() *cobra.Command {
	var r rangeFlags
	var limit int32
	c := &cobra.Command{Use: "sessions [SESSION]", Short: "What each session cost", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSession,
		Long: `Show what each session used in a range of days, those used last first, or one session. "-o json" has
the days, models, tools and answering times as well.`,
		Example: "  hanzoctl usage sessions --days 7\n  hanzoctl usage sessions main -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			days, err := r.dayRange(time.Now())
			if err != nil {
				return err
			}
			return a.call(cmd, scanTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Usage.GetSessionsUsage(ctx, &sessionsv1.GetSessionsUsageRequest{Range: days, Key: strings.Join(args, ""), Limit: limit})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "SESSION\tMESSAGES\tTOOLS\tINPUT\tOUTPUT\tCACHE\tTOKENS\tCOST", none: "no session was used in these days"}
				for _, s := range out.GetSessions() {
					l.items, l.ids = append(l.items, proto.Message(s)), append(l.ids, s.GetKey())
				}
				if len(l.items) > 0 && a.output == "table" && !a.quiet {
					l.items = append(l.items, out.GetTotals())
				}
				l.row = func(i int) string {
					name, m, t := "all", out.GetAggregates().GetMessages(), out.GetTotals()
					if i < len(out.GetSessions()) {
						s := out.GetSessions()[i]
						name, m, t = s.GetKey(), s.GetUse().GetMessages(), s.GetUse().GetTotals()
					}
					return cells(append([]string{name, strconv.FormatInt(m.GetTotal(), 10), strconv.FormatInt(m.GetToolCalls(), 10)}, totalCells(t)...)...)
				}
				if err := a.printList(l); err != nil {
					return err
				}
				return a.missing(out.GetTotals())
			})
		}}
	r.add(c)
	c.Flags().Int32VarP(&limit, "limit", "n", 0, "how many sessions (default 50)")
	return c
}

func (a *app) usageStatusCmd() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "How much of the limits of providers is used", Args: cobra.NoArgs,
		Long:    "Ask the providers that the daemon has credentials for how much of their limits is used.",
		Example: "  hanzoctl usage status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Usage.GetProviders(ctx, &sessionsv1.GetProvidersRequest{})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "PROVIDER\tPLAN\tUSED", none: "no provider with credentials says what is used"}
				for _, p := range out.GetProviders() {
					l.items, l.ids = append(l.items, proto.Message(p)), append(l.ids, p.GetId())
				}
				l.row = func(i int) string {
					p := out.GetProviders()[i]
					var used []string
					for _, w := range p.GetWindows() {
						used = append(used, fmt.Sprintf("%s %.0f%%", w.GetLabel(), w.GetUsedPercent()))
					}
					if p.GetError() != "" {
						used = append(used, p.GetError())
					}
					return cells(p.GetName(), p.GetPlan(), strings.Join(used, ", "))
				}
				return a.printList(l)
			})
		}}
}
