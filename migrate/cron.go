package migrate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/cron"
)

const (
	partCron = "cron"
	cronJobs = "cron/jobs.json"
	cronLogs = "cron/runs"
	// partRuns is where the manifest keeps how far the run log of each job was moved: the time of its last row.
	partRuns = "cron runs"
	// maxRunLog bounds the run log of a job in bytes; the original cuts it at 2 MB. maxRunRows bounds its rows.
	maxRunLog  = 64 << 20
	maxRunRows = 100_000
	// appendRows is how many rows are written in one transaction.
	appendRows = 1000
)

// steadyJob is what a job is compared by: where it stands changes with each run, and so does not keep it from
// following the source.
func steadyJob(j cron.Job) any {
	j.State = cron.State{}
	return string(wire.MustMarshal(methods.CronJobToLegacy(j)))
}

// cronFile is where the jobs are.
func (r *run) cronFile() string {
	if s := r.config.Cron.Store; s != "" {
		if rel, err := filepath.Rel(r.Source, s); err == nil && filepath.IsLocal(rel) {
			return filepath.ToSlash(rel)
		}
		r.found(Finding{Part: partCron, Path: "cron.store", Outcome: Fault, Why: "the jobs lie outside of the directory that is moved; move the file into it and run it again"})
	}
	return cronJobs
}

// importCron brings over jobs with where they stand, and what became of their runs.
func importCron(ctx context.Context, r *run) error {
	name := r.cronFile()
	text, err := readFile(r.source, name, maxRecords)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var jobs []wire.Value
	if err == nil {
		jobs, err = readJobs(text)
	}
	if err != nil {
		r.found(Finding{Part: partCron, Path: name, Outcome: Fault, Why: whyNot(err)})
		return nil
	}
	theirs, whole := map[string]cron.Job{}, true
	for i, v := range jobs {
		at := name + " job " + strconv.Itoa(i+1)
		j, err := methods.CronJobFromFile(v)
		switch {
		case err != nil:
		case j.ID == "" || strings.ContainsAny(j.ID, "/\\\x00"):
			err = errors.New("it has no id that can be kept")
		default:
			err = j.Check()
		}
		if err != nil {
			r.found(Finding{Part: partCron, Path: at, Outcome: Fault, Why: reason(err)})
			whole = false
			continue
		}
		j.State.RunningMs = 0 // who ran it does not any more
		theirs[j.ID] = j
	}
	list, err := r.store.CronJobs()
	if err != nil {
		return err
	}
	ours := map[string]cron.Job{}
	for _, j := range list {
		ours[j.ID] = j
	}
	err = settle(r, partCron, things(theirs, steadyJob), things(ours, steadyJob), whole, func(put []thing[cron.Job], drop []string) error {
		return r.store.WriteCron(ctx, cron.Change{Put: plainOf(put), Remove: drop})
	})
	if err != nil {
		return err
	}
	return importRuns(ctx, r, path.Join(path.Dir(name), "runs"), theirs)
}

// readJobs reads the file of jobs, which is JSON5 (control-plane.md §12).
func readJobs(text []byte) ([]wire.Value, error) {
	n, err := json5.Parse(text)
	if err != nil {
		return nil, err
	}
	v, err := wire.Parse([]byte(json5.Format(n)))
	if err != nil {
		return nil, err
	}
	list, _ := v.Get("jobs")
	if v.Kind() == wire.Array {
		list = v // of an older version
	}
	if list.Kind() != wire.Array {
		return nil, errors.New("it has no list of jobs")
	}
	return slices.Collect(list.Items()), nil
}

// importRuns appends what came since the last time to the run logs.
func importRuns(ctx context.Context, r *run, dir string, jobs map[string]cron.Job) error {
	for _, id := range slices.Sorted(maps.Keys(jobs)) {
		name := path.Join(dir, id+".jsonl")
		text, err := readFile(r.source, name, maxRunLog)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			r.found(Finding{Part: partCron, Path: name, Outcome: Fault, Why: reason(err)})
			continue
		}
		noted, _ := strconv.ParseInt(r.noted(partRuns, id), 10, 64)
		rows, bad := readRuns(text, id, 0)
		if bad > 0 {
			r.found(Finding{Part: partCron, Path: name, Outcome: Fault, Count: bad, Why: "lines that are no rows of a run log"})
		}
		// What a cut import brought has no note yet: rows are known by what they say.
		here, _, err := r.store.CronRuns(cron.Find{JobID: id, Ascend: true, Limit: maxRunRows})
		if err != nil {
			return err
		}
		there := make(map[string]bool, len(rows))
		for _, e := range rows {
			there[sumOfRun(e)] = true
		}
		have := make(map[string]bool, len(here))
		foreign := false
		for i := range here {
			sum := sumOfRun(&here[i])
			have[sum] = true
			foreign = foreign || !there[sum]
		}
		if noted == 0 && foreign {
			r.found(Finding{Part: partCron, Path: name, Outcome: Kept, Why: "there is a run log of this job here already"})
			continue
		}
		rows = slices.DeleteFunc(rows, func(e *cron.Entry) bool { return e.AtMs <= noted || have[sumOfRun(e)] })
		if len(rows) == 0 {
			continue
		}
		r.found(Finding{Part: partCron, Path: name, Outcome: Imported, Count: len(rows)})
		if r.DryRun {
			continue
		}
		for some := range slices.Chunk(rows, appendRows) {
			if err := r.store.WriteCron(ctx, cron.Change{Append: some}); err != nil {
				return err
			}
			r.note(partRuns, id, strconv.FormatInt(some[len(some)-1].AtMs, 10))
			// Rows are only ever appended: where they end has to be known before more follow.
			if err := r.saveNotes(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sumOfRun is what a row of a run log says, as a hash.
func sumOfRun(e *cron.Entry) string {
	return sumOf([]any{e.AtMs, e.RunAtMs, e.Status, e.Error, e.Summary, e.SessionID, e.NextRunMs})
}

// readRuns reads rows of a job that are younger than a time, and counts the lines that are none.
func readRuns(text []byte, id string, after int64) (rows []*cron.Entry, bad int) {
	in := bufio.NewReader(bytes.NewReader(text))
	for last := false; !last && len(rows) < maxRunRows; {
		line, err := in.ReadBytes('\n')
		last = errors.Is(err, io.EOF)
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		v, err := wire.Parse(line)
		var e cron.Entry
		if err == nil {
			e, err = methods.CronRunFromFile(v)
		}
		if err != nil || e.AtMs == 0 || e.JobID != "" && e.JobID != id {
			bad++
			continue
		}
		if e.JobID = id; e.AtMs > after {
			rows = append(rows, &e)
		}
	}
	slices.SortStableFunc(rows, func(a, b *cron.Entry) int { return int(a.AtMs - b.AtMs) })
	return rows, bad
}

// exportCron leaves out jobs that run commands of nodes, which the original does not have.
func exportCron(_ context.Context, r *run) error {
	list, err := r.store.CronJobs()
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b cron.Job) int { return strings.Compare(a.ID, b.ID) })
	out := struct {
		Version int   `json:"version"`
		Jobs    []any `json:"jobs"`
	}{1, []any{}}
	for _, j := range list {
		if j.Payload.Kind != cron.SystemEvent && j.Payload.Kind != cron.AgentTurn {
			r.found(Finding{Part: partCron, Path: cronJobs + " " + shown(j.Name), Outcome: Left, Why: "it runs a command of a node, which jobs of the original cannot"})
			continue
		}
		j.State.RunningMs = 0
		v, err := wire.Parse(wire.MustMarshal(methods.CronJobToLegacy(j)))
		if err != nil {
			return err
		}
		out.Jobs = append(out.Jobs, v)
		if err := exportRuns(r, j.ID); err != nil {
			return err
		}
	}
	return r.writeJSON(partCron, cronJobs, out, len(out.Jobs))
}

func exportRuns(r *run, id string) error {
	rows, _, err := r.store.CronRuns(cron.Find{
		JobID: id, Ascend: true, Limit: maxRunRows, Match: func(e *cron.Entry) bool { return !e.Own && e.LeftOut == 0 },
	})
	if err != nil || len(rows) == 0 {
		return err
	}
	var b bytes.Buffer
	for _, e := range rows {
		b.Write(wire.MustMarshal(methods.CronRunToFile(e)))
		b.WriteByte('\n')
	}
	return r.writeFile(partCron, path.Join(cronLogs, id+".jsonl"), b.Bytes(), len(rows))
}
