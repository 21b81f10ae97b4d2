package contract

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// TestScopeVerdicts replays the group scopes for the verdict alone: whether a call is let through, and
// if not, the text of the refusal. It holds for methods whose answers are not there yet.
func TestScopeVerdicts(t *testing.T) {
	bin := buildDaemon(t)
	calls := 0
	for _, s := range recordings(t) {
		if s.group != "scopes" || s.source != "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			d, err := startDaemon(bin, s.config, s.env)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.stop(); err != nil {
					t.Error(err)
				}
			}()
			r := &replayer{
				w: newWorld(d.home, d.port, d.host), addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port)),
				conns: map[string]*conn{}, mute: map[*conn][]any{},
			}
			defer r.close()
			for i, step := range s.steps {
				if want := step.obj("frame"); want != nil && step.str("recv") != "" && want.str("type") == "res" && !isHello(want) {
					calls++
					if err := r.verdict(step); err != nil {
						t.Errorf("step %d: %v", i+1, err)
					}
					continue
				}
				if err := r.step(step); err != nil {
					t.Fatalf("step %d: %v", i+1, err)
				}
			}
		})
	}
	if calls < 600 {
		t.Errorf("only %d calls", calls)
	}
}

func isHello(frame *object) bool {
	p := frame.obj("payload")
	return p != nil && p.str("type") == "hello-ok"
}

// verdict takes the response of a step and compares the refusals.
func (r *replayer) verdict(step *object) error {
	c, want := r.conns[step.str("recv")], step.obj("frame")
	var got *object
	c.until(recvTimeout, func() bool {
		for i, f := range c.queue {
			if r.fits(want, f) {
				got = f
				c.queue = append(c.queue[:i], c.queue[i+1:]...)
				break
			}
		}
		return got != nil || c.ended
	})
	if got == nil {
		return fmt.Errorf("no answer to %s", shown(want))
	}
	if w, g := refusal(want), refusal(got); w != g {
		return fmt.Errorf("%q instead of %q\n  got %s", g, w, shown(got))
	}
	return nil
}

// refusal is the text with which a role or a scope is refused, "" for any other answer.
func refusal(frame *object) string {
	e := frame.obj("error")
	if e == nil {
		return ""
	}
	text := e.str("message")
	if strings.HasPrefix(text, "missing scope: ") || strings.HasPrefix(text, "unauthorized role: ") {
		return e.str("code") + " " + text
	}
	return ""
}
