package cron

import (
	"context"
	"testing"
	"time"
)

// FuzzJob: no job and no patch, however odd, panics, loops, or is stored in a form that the next start cannot
// read; what is due ends.
func FuzzJob(f *testing.F) {
	f.Add("every", "", int64(1), int64(0), "", "", int64(0), "skip", int64(0), "x", int64(86_400_000))
	f.Add("cron", "", int64(0), int64(0), "*/7 * * * * *", "Africa/Casablanca", int64(300_000), "run-all", int64(0), "y", int64(400_000_000))
	f.Add("at", "2026-05-01T12:00:30Z", int64(0), int64(0), "", "", int64(0), "within", int64(time.Hour), "z", int64(-60_000))
	f.Add("cron", "", int64(0), int64(0), "0 0 30 2 *", "x", int64(-5), "", int64(0), "", int64(1))
	f.Fuzz(func(t *testing.T, kind, at string, everyMs, anchor int64, text, zone string, stagger int64, policy string, within int64, said string, later int64) {
		w := newWorld(t, "2026-05-01T12:00:00Z")
		s := Schedule{Kind: Kind(kind), At: at, EveryMs: everyMs, AnchorMs: &anchor, Expr: text, Zone: zone, StaggerMs: &stagger}
		m := Missed{Mode: MissedMode(policy), Within: time.Duration(within)}
		j, err := w.s.Add(context.Background(), admin, AddIn{Schedule: s, Payload: Payload{Kind: SystemEvent, Text: said}, Missed: m})
		if err != nil {
			return
		}
		if next := j.State.NextRunMs; next < 0 || next > maxDateMs || next != 0 && next <= w.now.Load() && kind != "at" {
			t.Errorf("next is %d", next)
		}
		w.stop()
		w.now.Add(later % (366 * 24 * time.Hour.Milliseconds()))
		w.start()
		began := time.Now()
		w.s.tick(context.Background())
		w.s.wg.Wait()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
		if _, err := w.update(j.ID, Patch{Enabled: ref(true)}); err != nil {
			if _, gone := w.s.Get(context.Background(), admin, j.ID); gone == nil {
				t.Error(err)
			}
		}
	})
}
