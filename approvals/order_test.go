package approvals

import (
	"testing"
	"time"
)

// Two changes may reach memory in another order than the disk: the older one does not win.
func TestOlderStateDoesNotWin(t *testing.T) {
	s := &Service{now: time.Now, live: map[string]*live{}, wake: make(chan struct{}, 1)}
	for _, c := range []struct{ first, late State }{{Allowed, Pending}, {Denied, Pending}, {Consumed, Allowed}, {Expired, Allowed}} {
		id := string(c.first + c.late)
		a := Approval{ID: id, State: c.first, ExpiresAt: time.Now().Add(time.Minute)}
		s.update(a)
		a.State = c.late
		s.update(a)
		if got := s.live[id].a.State; got != c.first {
			t.Errorf("%s, then the older %s: %s", c.first, c.late, got)
		}
	}
	if n := s.PendingCount(); n != 0 {
		t.Errorf("%d are pending", n)
	}
}
