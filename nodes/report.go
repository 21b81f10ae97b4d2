package nodes

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/identity"
)

// EventIn is the argument of Event.
type EventIn struct {
	NodeID string
	Event  string
	// Payload is JSON text, nil for none; PayloadJSON wins over it.
	Payload     []byte
	PayloadJSON *string
}

// EventOut is the empty result of Event.
type EventOut struct{}

// Reported is the payload of the event node.event.
type Reported struct {
	NodeID string
	Event  string
	// Payload is nil for none, and for more than watchers are sent.
	Payload []byte
	// Link is how the node is connected.
	Link LinkKind
}

// Concerns implements events.Concerning.
func (r Reported) Concerns() string { return r.NodeID }

// What nodes report, in the form that other domains act on (nodes-approvals.md §2.5). Session keys
// are what the node claims: it may be none of its business. Texts that were not given are empty.
type (
	// VoiceTranscript is the payload of the event node.voice. The ids tell repetitions apart.
	VoiceTranscript struct {
		NodeID     string
		SessionKey string // empty for the main session
		Text       string
		EventID    string
		CallID     string
		Sequence   string
		Timestamp  string
	}
	// AgentRequest is the payload of the event node.agent_request.
	AgentRequest struct {
		NodeID      string
		SessionKey  string
		Message     string
		Thinking    string
		Deliver     bool
		To          string
		Channel     string
		Receipt     bool
		ReceiptText string
		Timeout     time.Duration // zero for none
		// Attachments is JSON text, nil for none.
		Attachments []byte
	}
	// ExecReport is the payload of the event node.exec.
	ExecReport struct {
		NodeID     string
		SessionKey string
		Phase      string // started, finished or denied
		RunID      string
		Command    string
		ExitCode   *int
		TimedOut   bool
		Output     string
		Reason     string
	}
	// NotificationChanged is the payload of the event node.notification.
	NotificationChanged struct {
		NodeID      string
		SessionKey  string
		Change      string // posted or removed
		Key         string
		PackageName string
		Title       string
		Text        string
	}
)

// Event takes what a node reports. Events that nobody handles, and payloads that say nothing, are
// accepted all the same (nodes-approvals.md §2.5).
func (s *Service) Event(ctx context.Context, c identity.Caller, in EventIn) (EventOut, error) {
	if c.NodeID == "" || (in.NodeID != "" && in.NodeID != c.NodeID) {
		return EventOut{}, ErrForeignNode
	}
	payload := in.Payload
	if in.PayloadJSON != nil {
		payload = []byte(*in.PayloadJSON)
	}
	limit := maxEventPayload
	if in.Event == "agent.request" {
		limit = maxAgentRequest
	}
	if len(in.Event)+len(payload) > limit {
		return EventOut{}, ErrEventPayload
	}
	if in.Event == pushRegister {
		// It holds a secret of the phone: it is not shown to watchers.
		return EventOut{}, s.registerPush(ctx, c.NodeID, payload)
	}
	if in.Event == "exec.decided" {
		if err := s.decided(ctx, c, payload); err != nil {
			return EventOut{}, err
		}
	}
	if in.Event == outputEvent {
		// It is for those who watch the run, who may be fewer than those who watch the node.
		s.wrote(c.NodeID, payload)
		return EventOut{}, nil
	}
	if err := s.handle(c.NodeID, in.Event, payload); err != nil {
		return EventOut{}, err
	}
	if s.reports != nil {
		s.reports(c.NodeID, in.Event, payload)
	}
	if len(payload) > maxShownPayload {
		payload = nil
	}
	r := Reported{NodeID: c.NodeID, Event: in.Event, Payload: payload}
	if e, ok := s.reg.get(c.NodeID); ok {
		r.Link = e.node.Link
	}
	s.bus.Publish("node.event", r)
	return EventOut{}, nil
}

// handle acts on the events that mean something to the gateway. They are published under names
// that no client receives.
func (s *Service) handle(nodeID, event string, payload []byte) error {
	p, ok := parseReport(payload)
	if !ok {
		return nil
	}
	own := "node-" + nodeID
	switch event {
	case "chat.subscribe":
		return s.subscribe(nodeID, p.text("sessionKey"))
	case "chat.unsubscribe":
		s.unsubscribe(nodeID, p.text("sessionKey"))
	case "voice.transcript":
		v := VoiceTranscript{
			NodeID: nodeID, SessionKey: p.text("sessionKey"), Text: trim(p.raw("text")),
			EventID: p.text("eventId", "providerEventId", "transcriptId"), CallID: p.text("providerCallId", "callId"),
			Sequence: p.text("sequence", "seq"), Timestamp: p.text("timestamp", "ts", "eventTimestamp"),
		}
		if fitsPrompt(v.Text) {
			s.bus.Publish("node.voice", v)
		}
	case "agent.request":
		a := AgentRequest{
			NodeID: nodeID, SessionKey: first(p.text("sessionKey"), own), Message: trim(p.raw("message")), Thinking: p.text("thinking"),
			Deliver: p.flag("deliver"), To: p.text("to"), Channel: p.text("channel"), Receipt: p.flag("receipt"),
			ReceiptText: p.text("receiptText"), Timeout: p.seconds("timeoutSeconds"), Attachments: p.list("attachments"),
		}
		if fitsPrompt(a.Message) {
			s.bus.Publish("node.agent_request", a)
		}
	case "exec.started", "exec.finished", "exec.denied":
		e := ExecReport{
			NodeID: nodeID, SessionKey: own, Phase: strings.TrimPrefix(event, "exec."), RunID: p.text("runId"),
			Command: p.text("command"), ExitCode: p.number("exitCode"), TimedOut: p.flag("timedOut"), Output: p.raw("output"),
			Reason: p.text("reason"),
		}
		if key, isText := p["sessionKey"].(string); isText {
			e.SessionKey = trim(key)
		}
		if e.SessionKey != "" {
			s.bus.Publish("node.exec", e)
		}
	case "notifications.changed":
		n := NotificationChanged{
			NodeID: nodeID, SessionKey: first(p.text("sessionKey"), own), Change: p.text("change"), Key: p.text("key"),
			PackageName: p.text("packageName"), Title: p.text("title"), Text: trim(p.raw("text")),
		}
		if (n.Change == "posted" || n.Change == "removed") && n.Key != "" {
			s.bus.Publish("node.notification", n)
		}
	}
	return nil
}

// decided keeps the answer of a person at the node. One that belongs to no run that waits, and a second
// one, is nothing: a node cannot fill the log with them.
func (s *Service) decided(ctx context.Context, c identity.Caller, payload []byte) error {
	p, ok := parseReport(payload)
	if !ok || s.answers == nil {
		return nil
	}
	d := Decision{
		NodeID: c.NodeID, RunID: p.text("runId"), SessionKey: p.text("sessionKey"), Command: p.text("command"),
		Decision: p.text("decision"), By: p.text("by"),
	}
	switch d.Decision {
	case "allow-once", "allow-always", "deny":
	default:
		return nil
	}
	if !s.pending.decide(p.text("invokeId"), c.NodeID) {
		return nil
	}
	return s.answers.NodeDecided(ctx, c, d)
}

func fitsPrompt(s string) bool { return s != "" && utf8.RuneCountInString(s) <= maxPrompt }

// report is the payload of an event: any JSON object.
type report map[string]any

// parseReport reads a payload; ok is false for what is no object.
func parseReport(payload []byte) (report, bool) {
	var p report
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.UseNumber()
	err := d.Decode(&p)
	return p, err == nil && p != nil
}

// text is the first of the keys that holds text or a number, trimmed; "" for none.
func (p report) text(keys ...string) string {
	for _, k := range keys {
		switch v := p[k].(type) {
		case string:
			if v = trim(v); v != "" {
				return v
			}
		case json.Number:
			return v.String()
		}
	}
	return ""
}

// raw is text as it was sent.
func (p report) raw(key string) string {
	s, _ := p[key].(string)
	return s
}

func (p report) flag(key string) bool {
	b, _ := p[key].(bool)
	return b
}

// number is a whole number, nil for none.
func (p report) number(key string) *int {
	v, ok := p[key].(json.Number)
	if !ok {
		return nil
	}
	f, err := v.Float64()
	if n := int(f); err == nil && float64(n) == f && n > -1<<31 && n < 1<<31 {
		return &n
	}
	return nil
}

// seconds is a positive number of seconds, at most MaxTimeout, zero for none.
func (p report) seconds(key string) time.Duration {
	n := p.number(key)
	if n == nil || *n <= 0 {
		return 0
	}
	return min(time.Duration(*n)*time.Second, MaxTimeout)
}

func (p report) list(key string) []byte {
	v, ok := p[key].([]any)
	if !ok || len(v) == 0 {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil // what was parsed can be written
	}
	return b
}

// subscriptions are the sessions that a node's connection wants to hear of (nodes-approvals.md §2.6).
type subscriptions struct {
	mu   sync.Mutex
	keys map[string]struct{}
}

func (s *Service) subscribe(nodeID, key string) error {
	e, ok := s.reg.get(nodeID)
	if !ok || key == "" {
		return nil // nobody would be told
	}
	subs := &e.own.subs
	subs.mu.Lock()
	defer subs.mu.Unlock()
	if _, known := subs.keys[key]; known {
		return nil
	}
	if len(key) > maxSessionKey || len(subs.keys) >= maxSubscriptions {
		return ErrTooManySessions
	}
	if subs.keys == nil {
		subs.keys = map[string]struct{}{}
	}
	subs.keys[key] = struct{}{}
	return nil
}

func (s *Service) unsubscribe(nodeID, key string) {
	if e, ok := s.reg.get(nodeID); ok {
		e.own.subs.mu.Lock()
		defer e.own.subs.mu.Unlock()
		delete(e.own.subs.keys, key)
	}
}

// Subscribed reports whether a connected node wants to hear of a session, or, with an empty key, of
// any. The end of its connection ends its subscriptions.
func (s *Service) Subscribed(nodeID, sessionKey string) bool {
	e, ok := s.reg.get(nodeID)
	if !ok {
		return false
	}
	e.own.subs.mu.Lock()
	defer e.own.subs.mu.Unlock()
	if sessionKey == "" {
		return len(e.own.subs.keys) > 0
	}
	_, ok = e.own.subs.keys[sessionKey]
	return ok
}

// Copied reports whether nodes that subscribed to any session get a copy of an event, addressed to
// them and without a number, beside the one that all get (nodes-approvals.md §2.6).
func Copied(event string) bool { return event == "tick" || event == "health" }
