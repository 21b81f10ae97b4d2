package door

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/cron"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/store"
)

// scheduler is one operator with jobs at one door. Refusals are those of their door.
type scheduler interface {
	add(name string, ms int64, text string) (id string, refused bool)
	disable(id string) (refused bool)
	run(id string) (ran bool)
	remove(id string) (removed bool)
	names() []string
	// statuses are those of the run log of all jobs, newest first.
	statuses() []string
}

type cronByGRPC struct{ *overGRPC }

func (o cronByGRPC) add(name string, ms int64, text string) (string, bool) {
	out, err := o.c.Cron.AddJob(context.Background(), &cronv1.AddJobRequest{
		Name: name, Schedule: &cronv1.Schedule{Every: durationpb.New(time.Duration(ms) * time.Millisecond)}, Payload: &cronv1.Payload{SystemEvent: &text},
	})
	return out.GetJob().GetId(), err != nil
}

func (o cronByGRPC) disable(id string) bool {
	_, err := o.c.Cron.UpdateJob(context.Background(), &cronv1.UpdateJobRequest{Id: id, Enabled: proto.Bool(false)})
	return err != nil
}

func (o cronByGRPC) run(id string) bool {
	out, _ := o.c.Cron.RunJob(context.Background(), &cronv1.RunJobRequest{Id: id})
	return out.GetRan()
}

func (o cronByGRPC) remove(id string) bool {
	out, _ := o.c.Cron.RemoveJob(context.Background(), &cronv1.RemoveJobRequest{Id: id})
	return out.GetRemoved()
}

func (o cronByGRPC) names() (out []string) {
	r, err := o.c.Cron.ListJobs(context.Background(), &cronv1.ListJobsRequest{Enabled: "all", SortBy: "name"})
	if err != nil {
		o.tb.Fatal(err)
	}
	for _, j := range r.GetJobs() {
		out = append(out, j.GetName())
	}
	return out
}

func (o cronByGRPC) statuses() (out []string) {
	r, err := o.c.Cron.ListRuns(context.Background(), &cronv1.ListRunsRequest{})
	if err != nil {
		o.tb.Fatal(err)
	}
	for _, e := range r.GetRuns() {
		out = append(out, e.GetJobName()+" "+e.GetStatus()+" "+e.GetError()+" "+e.GetSummary())
	}
	return out
}

type cronByREST struct{ *overREST }

func (o cronByREST) add(name string, ms int64, text string) (string, bool) {
	out, refusal := o.do("POST", "/v1/cron/jobs", object{
		"name": name, "schedule": object{"every": fmt.Sprintf("%d.%03ds", ms/1000, ms%1000)}, "payload": object{"systemEvent": text},
	})
	if refusal != "" {
		return "", true
	}
	id, _ := out["job"].(object)["id"].(string)
	return id, false
}

func (o cronByREST) disable(id string) bool {
	_, refusal := o.do("PATCH", "/v1/cron/jobs/"+id, object{"enabled": false})
	return refusal != ""
}

func (o cronByREST) run(id string) bool {
	out, _ := o.do("POST", "/v1/cron/jobs/"+id+":run", object{})
	return out["ran"] == true
}

func (o cronByREST) remove(id string) bool {
	out, _ := o.do("DELETE", "/v1/cron/jobs/"+id, nil)
	return out["removed"] == true
}

func (o cronByREST) names() (out []string) {
	list, _ := o.must("GET", "/v1/cron/jobs?enabled=all&sortBy=name", nil)["jobs"].([]any)
	for _, j := range list {
		out = append(out, fmt.Sprint(j.(object)["name"]))
	}
	return out
}

func (o cronByREST) statuses() (out []string) {
	list, _ := o.must("GET", "/v1/cron/runs", nil)["runs"].([]any)
	for _, e := range list {
		r := e.(object)
		out = append(out, said(r["jobName"])+" "+said(r["status"])+" "+said(r["error"])+" "+said(r["summary"]))
	}
	return out
}

type cronByLegacy struct{ *overLegacy }

func (o cronByLegacy) add(name string, ms int64, text string) (string, bool) {
	f := o.c.call("cron.add", object{
		"name": name, "schedule": object{"kind": "every", "everyMs": ms}, "sessionTarget": "main", "wakeMode": "now", "payload": object{"kind": "systemEvent", "text": text},
	})
	if f["ok"] != true {
		return "", true
	}
	id, _ := f["payload"].(object)["id"].(string)
	return id, false
}

func (o cronByLegacy) disable(id string) bool {
	return o.c.call("cron.update", object{"id": id, "patch": object{"enabled": false}})["ok"] != true
}

func (o cronByLegacy) run(id string) bool {
	p, _ := o.c.call("cron.run", object{"id": id})["payload"].(object)
	return p["ran"] == true
}

func (o cronByLegacy) remove(id string) bool {
	return o.must("cron.remove", object{"id": id})["removed"] == true
}

func (o cronByLegacy) names() (out []string) {
	list, _ := o.must("cron.list", object{"enabled": "all", "sortBy": "name"})["jobs"].([]any)
	for _, j := range list {
		out = append(out, fmt.Sprint(j.(object)["name"]))
	}
	return out
}

func (o cronByLegacy) statuses() (out []string) {
	list, _ := o.must("cron.runs", object{})["entries"].([]any)
	for _, e := range list {
		r := e.(object)
		out = append(out, said(r["jobName"])+" "+said(r["status"])+" "+said(r["error"])+" "+said(r["summary"]))
	}
	return out
}

func said(v any) string {
	s, _ := v.(string)
	return s
}

// TestCronSameEffect: the same jobs by every door are the same in the database, and read alike.
func TestCronSameEffect(t *testing.T) {
	type kept struct {
		Seen []string
		Jobs []cron.Job
		Rows []cron.Entry
	}
	play := func(t *testing.T, door func(*hanzodtest.Daemon) scheduler) (k kept) {
		d := hanzodtest.Start(t, hanzodtest.Options{})
		o := door(d)
		say := func(v ...any) { k.Seen = append(k.Seen, fmt.Sprintln(v...)) }
		a, refused := o.add("a", 3_600_000, "one")
		say("add", a != "", refused)
		b, refused := o.add("B", 60_000, "two")
		say("add", b != "", refused)
		_, refused = o.add("c", 0, "three")
		say("no interval", refused)
		say("run", o.run(a), "disable", o.disable(b), "unknown", o.disable("nobody"))
		say("run what is off", o.run(b), o.names(), o.statuses())
		say("remove", o.remove(a), o.remove(a), o.names(), o.statuses())
		if err := d.Stop(); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(t.Context(), d.StateDir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if k.Jobs, err = s.CronJobs(); err != nil {
			t.Fatal(err)
		}
		if k.Rows, _, err = s.CronRuns(cron.Find{Limit: 100}); err != nil {
			t.Fatal(err)
		}
		for i := range k.Jobs { // what differs from run to run
			j := &k.Jobs[i]
			j.ID, j.CreatedMs, j.UpdatedMs, j.Schedule.AnchorMs, j.State.LastRunMs, j.State.LastDurationMs = "", 0, 0, nil, 0, nil
		}
		for i := range k.Rows {
			e := &k.Rows[i]
			e.JobID, e.AtMs, e.RunAtMs, e.DurationMs, e.NextRunMs = "", 0, 0, nil, 0
		}
		return k
	}
	var base kept
	t.Run("grpc", func(t *testing.T) {
		base = play(t, func(d *hanzodtest.Daemon) scheduler { return cronByGRPC{newGRPC(t, d).(*overGRPC)} })
	})
	if len(base.Jobs) != 1 || len(base.Rows) != 2 || len(base.Seen) != 6 {
		t.Fatalf("%+v", base)
	}
	for name, door := range map[string]func(*testing.T, *hanzodtest.Daemon) scheduler{
		"rest":   func(t *testing.T, d *hanzodtest.Daemon) scheduler { return cronByREST{&overREST{t, d}} },
		"legacy": func(t *testing.T, d *hanzodtest.Daemon) scheduler { return cronByLegacy{newLegacy(t, d).(*overLegacy)} },
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(base, play(t, func(d *hanzodtest.Daemon) scheduler { return door(t, d) })); diff != "" {
				t.Errorf("other than by gRPC: %s", diff)
			}
		})
	}
}

// TestCronCommandsAreOurs: a job that runs a command is known at the doors of today, and not at the legacy one.
func TestCronCommandsAreOurs(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	g := newGRPC(t, d).(*overGRPC)
	out, err := g.c.Cron.AddJob(t.Context(), &cronv1.AddJobRequest{
		Schedule: &cronv1.Schedule{Expression: "@yearly"}, Payload: &cronv1.Payload{Command: &cronv1.Command{NodeId: "n", Argv: []string{"ls"}, Env: map[string]string{"KEY": "very-secret"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := out.GetJob().GetId()
	if text := protojson.Format(out); out.GetJob().GetPayload().GetCommand().GetEnv()["KEY"] != "" || len(text) == 0 {
		t.Error(text)
	}
	o := newLegacy(t, d).(*overLegacy)
	if f := o.must("cron.list", object{"enabled": "all"}); len(f["jobs"].([]any)) != 0 {
		t.Error(f)
	}
	if f := o.must("cron.status", object{}); fmt.Sprint(f["jobs"]) != "0" {
		t.Error(f)
	}
	if _, text := failure(o.c.call("cron.run", object{"id": id})); text != "Error: unknown cron job id: "+id {
		t.Error(text)
	}
	if (cronByLegacy{o}).remove(id) {
		t.Error("it was removed")
	}
	r := &overREST{t, d}
	if _, refusal := r.do("POST", "/v1/cron/jobs", object{"schedule": object{"expression": "@daily"}, "payload": object{"command": object{"nodeId": "n", "argv": []string{"ls"}}}}); refusal == "" {
		t.Error("the shared secret is nobody a command can run as")
	}
}
