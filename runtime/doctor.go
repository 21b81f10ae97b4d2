package runtime

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/config"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runtime/checks"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system/doctor"
)

const (
	// anomalyRows are how far back the audit log is searched for what the store noted at a start.
	anomalyRows = 5000
	// clockBack is how far a clock may be behind the newest row of the audit log.
	clockBack = time.Minute
	// maxNamed bounds the devices and nodes that findings name.
	maxNamed = 5
)

// diagnose looks for what is wrong, as far as the daemon sees it.
func (d *Daemon) diagnose(ctx context.Context) []doctor.Finding {
	p := checks.Place{
		StateDir: d.cfg.StateDir, ConfigPath: d.cfg.Path, Version: Version, Now: d.now, Environ: os.Environ(), Examine: d.store.Examine,
	}
	p.Config, p.ConfigErr = config.Load(d.load)
	own := make(chan []doctor.Finding, 1)
	go func() { own <- checks.Run(ctx, "daemon", d.diagnoseSelf) }()
	return append(checks.Shared(ctx, p), <-own...)
}

// diagnoseSelf looks at what only the daemon knows.
func (d *Daemon) diagnoseSelf(ctx context.Context) []doctor.Finding {
	var out []doctor.Finding
	add := func(check string, s doctor.Severity, what, next string) {
		out = append(out, doctor.Of(check, s, what, next))
	}
	me := identity.Internal()
	fault, waiting := d.live.Fault().What, d.live.Waiting()
	switch {
	case fault != "":
		add("config.changed", doctor.Error, "the configuration file is not in use: "+fault, "hanzoctl config get, then correct it: hanzoctl config edit")
	case len(waiting) > 0:
		add("config.changed", doctor.Note, fmt.Sprintf("%d keys of the configuration count after a restart, %s among them", len(waiting), waiting[0]), "hanzod service restart")
	default:
		add("config.changed", doctor.OK, "the daemon runs with the configuration that is there", "")
	}
	if until := d.live.PendingUntil(); !until.IsZero() {
		add("config.pending", doctor.Warning, "the last change of the configuration undoes itself at "+until.Local().Format(time.TimeOnly), "keep it with: hanzoctl config confirm; or undo it now: hanzoctl config revert")
	} else {
		add("config.pending", doctor.OK, "none waits", "")
	}
	if fault := d.rules.State().Fault; fault != "" {
		first, _, _ := strings.Cut(fault, "\n")
		add("policy.rules", doctor.Error, "the policy rules in force are those before the last change of their file: "+first, "hanzoctl policy show, then correct it: hanzoctl policy edit")
	} else {
		add("policy.rules", doctor.OK, "in force", "")
	}
	if list, err := d.identity.List(ctx, me); err == nil {
		out = append(out, waitingDevices(list)...)
	}
	if list, err := d.nodes.ListPairings(ctx, me, nodes.ListPairingsIn{}); err == nil {
		if n := len(list.Pending); n > 0 {
			add("pairing.nodes", doctor.Warning, fmt.Sprintf("%d nodes wait for an answer", n), "hanzoctl nodes pending")
		} else {
			add("pairing.nodes", doctor.OK, fmt.Sprintf("no node waits, %d are paired", len(list.Paired)), "")
		}
	}
	if n := d.approvals.PendingCount(); n > 0 {
		add("approvals.pending", doctor.Note, fmt.Sprintf("%d approvals wait", n), "hanzoctl approve")
	}
	return append(out, d.auditTrouble(ctx, me)...)
}

func waitingDevices(list identity.ListOut) []doctor.Finding {
	var out []doctor.Finding
	for i, p := range list.Pending {
		if i == maxNamed {
			out = append(out, doctor.Of("pairing.devices", doctor.Warning, fmt.Sprintf("%d more devices wait", len(list.Pending)-i), "hanzoctl devices"))
			break
		}
		name := p.DisplayName
		if name == "" {
			name = p.ClientID
		}
		what, id := fmt.Sprintf("the device %q (%s) wants to be let in", name, p.Platform), p.DeviceID[:min(12, len(p.DeviceID))]
		if p.Repair {
			what = fmt.Sprintf("the device %q (%s) is paired and cannot get in: its repair waits for an answer", name, p.Platform)
		}
		out = append(out, doctor.Of("pairing.devices", doctor.Warning, what, "if it is yours: hanzoctl devices approve "+id))
	}
	if len(out) == 0 {
		out = append(out, doctor.Of("pairing.devices", doctor.OK, fmt.Sprintf("no device waits, %d are paired", len(list.Devices)), ""))
	}
	return out
}

// auditTrouble looks at the end of the audit log: for what the store noted at a start, and for rows from the
// future, which a clock that was set back leaves.
func (d *Daemon) auditTrouble(ctx context.Context, me identity.Caller) []doctor.Finding {
	var out []doctor.Finding
	ends, err := d.approvals.AuditHead(ctx, me)
	if err != nil || ends.Head.Seq == 0 {
		return nil
	}
	in := approvals.ListAuditIn{Limit: 1, After: ends.Head.Seq - min(ends.Head.Seq, anomalyRows), Filter: approvals.AuditFilter{Kinds: []string{approvals.AuditAnomaly}}}
	if found, err := d.approvals.ListAudit(ctx, me, in); err == nil && len(found.Entries) > 0 {
		a := found.Entries[0].Audit
		out = append(out, doctor.Of("audit", doctor.Warning, fmt.Sprintf("at a start on %s rows of the audit log were missing or changed: %s", a.At.Local().Format(time.DateTime), a.Detail),
			"hanzoctl audit verify"))
	}
	if last, err := d.approvals.GetAudit(ctx, me, ends.Head.Seq); err == nil && last.Audit.At.Sub(d.now()) > clockBack {
		out = append(out, doctor.Of("clock", doctor.Warning, fmt.Sprintf("the newest row of the audit log is %s ahead of the clock, which was set back", last.Audit.At.Sub(d.now()).Round(time.Second)),
			"set the clock right: what expires goes by it"))
	}
	return out
}

// CheckPlace is what "hanzod doctor" looks at on the machine.
func CheckPlace(opts config.Options) (checks.Place, error) {
	dir, path, err := config.Locate(opts)
	if err != nil {
		return checks.Place{}, err
	}
	opts.Path, opts.StateDir = path, dir
	p := checks.Place{
		StateDir: dir, ConfigPath: path, Version: Version, Now: time.Now, Environ: os.Environ(),
		Examine: func(ctx context.Context) (store.Exam, error) { return store.Examine(ctx, dir) },
		Ask:     func(ctx context.Context) (string, int, error) { return Ask(ctx, dir) },
	}
	p.Config, p.ConfigErr = config.Load(opts)
	return p, nil
}

// FetchFindings asks the daemon of a state directory what it finds.
func FetchFindings(ctx context.Context, stateDir string) ([]doctor.Finding, error) {
	c, err := client.Dial(ctx, client.Options{Socket: client.SocketPath(stateDir), ClientName: "hanzod"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out, err := c.System.Diagnose(ctx, &systemv1.DiagnoseRequest{})
	if err != nil {
		return nil, err
	}
	all := make([]doctor.Finding, len(out.GetFindings()))
	for i, f := range out.GetFindings() {
		all[i] = doctor.Finding{
			Check: f.GetCheck(), Severity: doctor.Severity(f.GetSeverity()), What: f.GetWhat(), Next: f.GetNext(), Fixable: f.GetFixable(),
		}
	}
	return all, nil
}
