package nodes

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/push"
)

// pushRegister is the event with which a phone says where pushes for it go.
const pushRegister = "push.apns.register"

// Slow reports whether taking an event waits for the disk.
func Slow(event string) bool { return event == pushRegister }

// Registration says where pushes for a node go.
type Registration struct {
	NodeID string
	// Token is a secret of the phone, in hex.
	Token       string
	Topic       string
	Environment push.Environment
	// Platform and DeviceFamily are the node's when it registered: the command policy goes by them while
	// it sleeps.
	Platform     string
	DeviceFamily string
	UpdatedAt    time.Time
}

// Pusher sends pushes. It is satisfied by push.Client.
type Pusher interface {
	// Ready returns why no push can be sent, nil when one can.
	Ready() error
	Send(context.Context, push.Message) (push.Result, error)
}

// The arguments and results of TestPush.
type (
	TestPushIn struct {
		NodeID string
		// Title and Body are made up when empty.
		Title string
		Body  string
		// Environment is the registered one when empty.
		Environment string
	}
	TestPushOut struct {
		// OK says that the service took the push. Whether it is shown is the phone's affair.
		OK          bool
		Status      int
		APNsID      string
		Reason      string
		TokenSuffix string
		Topic       string
		Environment string
	}
)

// registerPush takes the payload of a push.apns.register event for the node that sent it. A payload
// that is no registration changes nothing, as ever (nodes-approvals.md §2.5).
func (s *Service) registerPush(ctx context.Context, nodeID string, payload []byte) error {
	p, ok := parseReport(payload)
	if !ok {
		return nil
	}
	r, ok := registrationOf(p)
	if !ok {
		s.log.Warn("a registration for pushes was not understood", "node", nodeID)
		return nil
	}
	r.NodeID, r.UpdatedAt = nodeID, s.now()
	if e, ok := s.reg.get(nodeID); ok {
		r.Platform, r.DeviceFamily = e.node.Platform, e.node.DeviceFamily
	}
	old, registered, err := s.store.Registration(nodeID)
	if err != nil {
		return err
	}
	if old.UpdatedAt = r.UpdatedAt; registered && old == r {
		return nil // apps register at each start
	}
	return s.store.PutRegistration(ctx, r, maxRegistrations)
}

// unregister forgets where pushes for a node go.
func (s *Service) unregister(ctx context.Context, nodeID string) {
	r, registered, err := s.store.Registration(nodeID)
	if err == nil && registered {
		err = s.store.DropRegistration(ctx, nodeID, r.Token)
	}
	if err != nil {
		s.log.Warn("the registration for pushes of a device that was let go was not removed", "node", nodeID, "error", err)
	}
}

// registrationOf reads a registration. The token may be written as "<0a1b 2c3d>".
func registrationOf(p report) (Registration, bool) {
	token := strings.ToLower(strings.NewReplacer("<", "", ">", "", " ", "", "\t", "", "\n", "", "\r", "").Replace(p.raw("token")))
	r := Registration{Token: token, Topic: trim(p.raw("topic")), Environment: push.Sandbox}
	if env := strings.ToLower(trim(p.raw("environment"))); env == string(push.Production) {
		r.Environment = push.Production
	}
	_, err := hex.DecodeString(token)
	ok := err == nil && len(token) >= minPushToken && len(token) <= maxPushToken && r.Topic != "" && len(r.Topic) <= maxPushTopic
	return r, ok && validTopic(r.Topic)
}

// validTopic keeps what is no bundle id out of a header.
func validTopic(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
	})
}

// TestPush shows a push on a phone that registered for them.
func (s *Service) TestPush(ctx context.Context, c identity.Caller, in TestPushIn) (TestPushOut, error) {
	id := trim(in.NodeID)
	if id == "" {
		return TestPushOut{}, ErrNodeIDRequired
	}
	if utf8.RuneCountInString(in.Title)+utf8.RuneCountInString(in.Body) > maxPushText {
		return TestPushOut{}, ErrPushText
	}
	if own := s.Resolve(c, id); c.SeesNode(own) {
		id = own
	} else {
		return TestPushOut{}, ErrNoRegistration.With("node", id)
	}
	r, registered, err := s.store.Registration(id)
	if err != nil {
		return TestPushOut{}, err
	}
	if !registered {
		return TestPushOut{}, ErrNoRegistration.With("node", id)
	}
	switch env := push.Environment(in.Environment); env {
	case "":
	case push.Sandbox, push.Production:
		r.Environment = env
	default:
		return TestPushOut{}, push.ErrEnvironment
	}
	if err := s.pushReady(); err != nil {
		return TestPushOut{}, err
	}
	res, err := s.pushTo(ctx, r, push.Message{
		Alert: &push.Alert{Title: first(trim(in.Title), "Push test"), Body: first(trim(in.Body), "Sent to node "+id)}, Kind: "push.test",
	})
	if err != nil {
		return TestPushOut{}, err
	}
	return TestPushOut{
		OK: res.OK(), Status: res.Status, APNsID: res.ID, Reason: res.Reason,
		TokenSuffix: r.Token[len(r.Token)-tokenSuffix:], Topic: r.Topic, Environment: string(r.Environment),
	}, nil
}

func (s *Service) pushReady() error {
	if s.push == nil {
		return push.ErrNoCredentials
	}
	return s.push.Ready()
}

// pushTo sends a push where a registration says. A registration that the service does not know any
// more is forgotten, unless it was renewed meanwhile.
func (s *Service) pushTo(ctx context.Context, r Registration, m push.Message) (push.Result, error) {
	m.Token, m.Topic, m.Environment, m.NodeID, m.At = r.Token, r.Topic, r.Environment, r.NodeID, s.now()
	res, err := s.push.Send(ctx, m)
	if err != nil {
		return res, err
	}
	if res.Gone() {
		if err := s.store.DropRegistration(ctx, r.NodeID, r.Token); err != nil {
			s.log.Warn("a registration for pushes that is not valid any more was not removed", "node", r.NodeID, "error", err)
		}
	}
	if !res.OK() {
		s.log.Warn("a push was refused", "node", r.NodeID, "kind", m.Kind, "status", res.Status, "reason", res.Reason)
	}
	return res, nil
}

// timings are the times of waking a node (nodes-approvals.md §1.6; frozen). Tests shorten them.
type timings struct {
	// again is when the second push goes out, give how long the node has then.
	again, give time.Duration
	// every and nudge are how often a node is sent a push in the background, and one that its user sees.
	every, nudge time.Duration
}

var frozenTimings = timings{
	again: 3 * time.Second, give: 12 * time.Second, every: 15 * time.Second, nudge: 10 * time.Minute,
}

// pushTimes is when a node was last sent a push.
type pushTimes struct {
	waked, nudged time.Time
}

// throttle keeps pushes apart. It forgets what holds nothing back any more.
type throttle struct {
	mu sync.Mutex
	m  map[string]pushTimes
}

// take reports whether a push may go out now, and notes that it does. A time that lies ahead holds
// nothing back: the clock was set back.
func (t *throttle) take(id string, now time.Time, which func(*pushTimes) *time.Time, every, longest time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.m) >= maxThrottled {
		for id, p := range t.m {
			if now.Sub(p.waked) >= longest && now.Sub(p.nudged) >= longest {
				delete(t.m, id)
			}
		}
	}
	p, known := t.m[id]
	last := which(&p)
	if age := now.Sub(*last); !last.IsZero() && age >= 0 && age < every {
		return false
	}
	if !known && len(t.m) >= maxThrottled {
		return false
	}
	*last = now
	t.m[id] = p
	return true
}

func waked(p *pushTimes) *time.Time  { return &p.waked }
func nudged(p *pushTimes) *time.Time { return &p.nudged }

// wakeable returns where pushes for a node go, false when it cannot be woken.
func (s *Service) wakeable(nodeID string) (Registration, bool) {
	if s.pushReady() != nil {
		return Registration{}, false
	}
	r, registered, err := s.store.Registration(nodeID)
	if err != nil {
		s.log.Error("a registration for pushes cannot be read", "node", nodeID, "error", err)
	}
	return r, err == nil && registered
}

// wake asks a node to connect, and says whether that may help. Unless forced it sends nothing soon
// after another push; a forced one is held back only by another forced one.
func (s *Service) wake(ctx context.Context, r Registration, force bool) bool {
	every := s.times.every
	if force {
		every = s.times.again
	}
	if !s.throttle.take(r.NodeID, s.now(), waked, every, s.times.nudge) {
		return true
	}
	res, err := s.pushTo(ctx, r, push.Message{Kind: "node.wake", Reason: "node.invoke"})
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			s.log.Warn("a node could not be woken", "node", r.NodeID, "error", err)
		}
		return ctx.Err() == nil
	}
	return !res.Hopeless()
}

// nudge asks the user to open the app.
func (s *Service) nudge(ctx context.Context, r Registration) {
	if !s.throttle.take(r.NodeID, s.now(), nudged, s.times.nudge, s.times.nudge) {
		return
	}
	_, err := s.pushTo(ctx, r, push.Message{Kind: "push.test", Alert: &push.Alert{
		Title: "OpenClaw needs a quick reopen", Body: "Tap to reopen OpenClaw and restore the node connection.",
	}})
	if err != nil {
		s.log.Warn("the user of a node could not be asked to open the app", "node", r.NodeID, "error", err)
	}
}
