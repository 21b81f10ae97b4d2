package cron

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// account checks that each slot of a job within a time was run or left out, once.
func account(t *testing.T, w *world, id string, after, until int64) (ran, left int) {
	t.Helper()
	j := w.job(id)
	j.State.LastSlotMs = 0
	clk, err := j.clock()
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]int{}
	for at := after; ; {
		next, ok := clk.after(at)
		if !ok || next > until {
			break
		}
		want[next], at = 0, next
	}
	for _, e := range w.store.of(id) {
		switch {
		case e.LeftOut == 0 && e.SlotMs != 0:
			want[e.SlotMs]++
			ran++
		case e.LeftOut == 1:
			want[e.SlotMs]++
			left++
		case e.LeftOut > 1:
			n := 0
			for at := e.SlotMs - 1; ; {
				next, ok := clk.after(at)
				if !ok || next > e.UntilMs {
					break
				}
				want[next]++
				n, at = n+1, next
			}
			if int64(n) != e.LeftOut {
				t.Errorf("a row says %d slots and covers %d", e.LeftOut, n)
			}
			left += n
		}
	}
	for slot, n := range want {
		if slot > until {
			continue
		}
		if n != 1 {
			t.Errorf("the slot %s has %d rows", ISO(slot), n)
		}
	}
	return ran, left
}

// TestYearOfSlots lives through a year of each zone with clocks that are changed twice, and runs each slot once at
// its moment.
func TestYearOfSlots(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kolkata", "America/Havana"} {
		t.Run(strings.ReplaceAll(zone, "/", "-"), func(t *testing.T) {
			w := newWorld(t, "2026-01-01T00:00:00Z")
			var ids []string
			for _, text := range []string{"30 2 * * *", "*/20 1-3 * * *", "0 0 * * 0", "15 */6 * * *"} {
				ids = append(ids, w.add(AddIn{Schedule: expr(text, zone)}).ID)
			}
			from := w.now.Load()
			end := from + 366*24*time.Hour.Milliseconds()
			for w.now.Load() < end {
				next := int64(0)
				for _, id := range ids {
					if at := w.job(id).State.NextRunMs; next == 0 || at < next {
						next = at
					}
				}
				w.now.Store(next)
				w.tick()
			}
			for _, id := range ids {
				if _, left := account(t, w, id, from, w.now.Load()); left != 0 {
					t.Errorf("%d slots were left out though the clock never stopped", left)
				}
			}
		})
	}
}

// TestJumpingClock lets clocks jump, the daemon die and come back, and every policy have its turn: no slot is
// run twice, and none is left out without a row.
func TestJumpingClock(t *testing.T) {
	schedules := []Schedule{every(17 * time.Minute), expr("*/10 * * * *", "Europe/Berlin"), expr("30 2 * * *", "America/New_York"), expr("0 * * * *", "Australia/Lord_Howe")}
	policies := []Missed{{}, {Mode: MissedSkip}, {Mode: MissedAll}, {Mode: MissedWithin, Within: time.Hour}}
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t, "2026-03-20T00:00:00Z")
			ids := map[string]bool{}
			for _, s := range schedules {
				for _, m := range policies {
					ids[w.add(AddIn{Schedule: s, Missed: m}).ID] = true
				}
			}
			from, top := w.now.Load(), w.now.Load()
			for range 150 {
				switch r.IntN(12) {
				case 0: // asleep, or set forward
					w.pass(time.Duration(r.IntN(60*30)) * time.Minute)
				case 1: // set back, by less than anybody would call a wrong clock
					w.pass(-time.Duration(r.IntN(110)) * time.Second)
				case 2: // the daemon stops and comes back later
					w.stop()
					w.pass(time.Duration(r.IntN(60*8)) * time.Minute)
					w.start()
				default:
					w.pass(time.Duration(r.IntN(900)) * time.Second)
				}
				w.tick()
				top = max(top, w.now.Load())
			}
			w.now.Store(top + 25*time.Hour.Milliseconds()) // so that what is pending is settled
			w.tick()
			for id := range ids {
				j := w.job(id)
				account(t, w, id, from, j.State.LastSlotMs)
				if next := j.State.NextRunMs; next <= w.now.Load() {
					t.Errorf("%s is still due: %s", j.Name, ISO(next))
				}
			}
		})
	}
}

// TestMissed is what each policy makes of three hours in which the daemon did not run.
func TestMissed(t *testing.T) {
	for _, c := range []struct {
		policy    Missed
		ran, left int
		last      string
	}{
		{Missed{}, 1, 2, "2026-05-01T12:00:00.000Z"},
		{Missed{Mode: MissedSkip}, 0, 3, ""},
		{Missed{Mode: MissedAll}, 3, 0, "2026-05-01T12:00:00.000Z"},
		{Missed{Mode: MissedWithin, Within: time.Hour}, 1, 2, "2026-05-01T12:00:00.000Z"},
		{Missed{Mode: MissedWithin, Within: 10 * time.Minute}, 0, 3, ""},
	} {
		t.Run(string(c.policy.Mode)+c.policy.Within.String(), func(t *testing.T) {
			w := newWorld(t, "2026-05-01T09:30:00Z")
			j := w.add(AddIn{Schedule: expr("0 * * * *", "UTC"), Missed: c.policy})
			w.stop()
			w.to("2026-05-01T12:40:00Z")
			w.start()
			w.tick()
			if ran, left := account(t, w, j.ID, w.now.Load()-3*3_600_000, w.now.Load()); ran != c.ran || left != c.left {
				t.Errorf("%d ran and %d were left out", ran, left)
			}
			now := w.job(j.ID)
			if ISO(now.State.NextRunMs) != "2026-05-01T13:00:00.000Z" {
				t.Errorf("next is %s", ISO(now.State.NextRunMs))
			}
			finished := 0
			for _, e := range w.events {
				if e.Action == "finished" {
					finished++
				}
			}
			if finished != c.ran+c.left {
				t.Errorf("%d events", finished)
			}
		})
	}
}

// TestManyMissed: more slots than anybody counts are counted all the same, in few rows, and soon.
func TestManyMissed(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		m    Missed
		runs int
	}{
		{every(time.Second), Missed{}, 1}, {every(time.Second), Missed{Mode: MissedAll}, maxRunAll}, {every(time.Millisecond), Missed{Mode: MissedSkip}, 1}, // the last one is not late
		{expr("* * * * * *", "UTC"), Missed{}, 1}, {expr("* * * * *", "UTC"), Missed{Mode: MissedAll}, maxRunAll},
	} {
		w := newWorld(t, "2026-05-01T00:00:00Z")
		j := w.add(AddIn{Schedule: c.s, Missed: c.m})
		w.stop()
		w.pass(90 * 24 * time.Hour)
		w.start()
		began := time.Now()
		w.tick()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		ran, rows := 0, w.store.of(j.ID)
		left := int64(0)
		for _, e := range rows {
			if left += e.LeftOut; e.LeftOut == 0 {
				ran++
			}
		}
		if ran != c.runs || len(rows)-ran > 3*maxRows || left < maxSlots {
			t.Errorf("%v %v: %d ran, %d rows, %d left out", c.s, c.m, ran, len(rows), left)
		}
	}
}

// TestClockPutBack: an interval goes on when the clock was put back, and so does an expression after more than a
// day; less than that is waited for, so that nothing is run twice.
func TestClockPutBack(t *testing.T) {
	w := newWorld(t, "2026-05-10T12:00:00Z")
	interval, hourly := w.add(AddIn{Schedule: every(time.Minute)}), w.add(AddIn{Schedule: expr("0 * * * *", "UTC")})
	w.to("2026-05-10T13:00:00Z")
	w.tick()
	w.to("2026-05-10T12:30:00Z")
	w.tick()
	if next := w.job(interval.ID).State.NextRunMs; next != w.now.Load()+60_000 {
		t.Errorf("the interval goes on at %s", ISO(next))
	}
	w.to("2026-05-10T13:00:30Z")
	w.tick()
	ran := 0
	for _, e := range w.store.of(hourly.ID) {
		if e.LeftOut == 0 {
			ran++
		}
	}
	if ran != 1 {
		t.Errorf("13:00 was run %d times", ran)
	}
	w.to("2026-04-01T12:30:00Z")
	w.tick()
	if next := w.job(hourly.ID).State.NextRunMs; ISO(next) != "2026-04-01T13:00:00.000Z" {
		t.Errorf("the expression goes on at %s", ISO(next))
	}
}
