package tunnel

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/tunnel/terminal"
)

const (
	// ackEvery is how many bytes are taken before the node is told, ackTime how long the telling may take.
	ackEvery = 32 << 10
	ackTime  = 15 * time.Second
	// maxEarly bounds the bytes of events that come before the answer that says whose they are.
	maxEarly = 256 << 10
	// maxItems bounds the events of one terminal that wait here, whatever their size.
	maxItems = 4096
)

// item is one event on its way into the feed.
type item struct {
	data []byte
	seq  *int64
	lost int64 // bytes before data that did not get here
	exit *terminal.Exit
}

// early is what came from a node while a terminal was being opened there.
type early struct {
	users int
	bytes int
	items map[string][]item
}

// eventWay is a terminal whose output comes by events of the link. It implements upstream.
type eventWay struct {
	s    *Service
	key  session
	t    *term // set by start
	ours bool  // the node takes terminal.ack and base64

	turn chan struct{} // holds one token: who types, in order
	gone chan struct{} // closed when the link is lost
	once sync.Once

	mu    sync.Mutex
	queue []item
	bytes int
	lost  int64 // bytes at the end of the queue that had no room
	news  chan struct{}
}

// openByEvents opens or joins a terminal with call, which gets the parameters and returns the node's answer.
func (s *Service) openByEvents(n Node, params map[string]any, call func(params []byte) ([]byte, error)) (*join, error) {
	ours := slices.Contains(n.Commands, "terminal.ack")
	if ours {
		params["window"] = eventQueue
	}
	text, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	e := s.early[n.ID]
	if e == nil {
		e = &early{items: map[string][]item{}}
		s.early[n.ID] = e
	}
	e.users++
	s.mu.Unlock()
	payload, err := call(text)
	w := &eventWay{s: s, ours: ours, turn: make(chan struct{}, 1), gone: make(chan struct{}), news: make(chan struct{}, 1)}
	j := &join{events: w}
	if err == nil {
		if j.answer, err = readOpened(payload); err == nil && j.answer.Session == "" {
			err = ErrAnswer
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(s.early, n.ID)
	}
	if err != nil {
		return nil, err
	}
	w.key = session{n.ID, j.answer.Session}
	if old := s.sessions[w.key]; old != nil {
		old.cut()
	}
	s.sessions[w.key] = w
	for _, i := range e.items[w.key.id] {
		w.put(i)
	}
	return j, nil
}

// Reported takes the events terminal.output and terminal.exit of a node; taken says that they are of a terminal
// known here. It does not wait.
func (s *Service) Reported(nodeID, event string, payload []byte) (taken bool) {
	if event != "terminal.output" && event != "terminal.exit" {
		return false
	}
	r, err := read(payload)
	id := r.text("session_id")
	if err != nil || id == "" {
		return false
	}
	// The Rust crate sends data and exit_code (tunnel.md §1.8); nodes of ours the rest too: data_b64 where the
	// bytes are no text, seq as the number of the first of them, missed for those before them that were not kept.
	i := item{data: r.bytes("data_b64"), lost: max(r.number("missed"), 0)}
	if len(i.data) == 0 {
		i.data = []byte(r.text("data"))
	}
	if n := r.number("seq"); r.has("seq") && n >= 0 {
		i.seq = &n
	}
	if event == "terminal.exit" {
		i = item{exit: &terminal.Exit{Signal: r.text("signal"), Reason: r.text("reason")}}
		if r.has("exit_code") {
			code := int(r.number("exit_code"))
			i.exit.Code = &code
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.sessions[session{nodeID, id}]; w != nil {
		w.put(i)
		return true
	}
	if e := s.early[nodeID]; e != nil && e.bytes+len(payload) <= maxEarly {
		e.bytes += len(payload)
		e.items[id] = append(e.items[id], i)
	}
	return false
}

// put queues an event. What has no room is counted: the viewers are told.
func (w *eventWay) put(i item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case i.exit != nil:
		i.lost, w.lost = w.lost, 0
		w.queue = append(w.queue, i)
	case w.bytes+len(i.data) > 2*eventQueue || len(w.queue) >= maxItems:
		w.lost += i.lost + int64(len(i.data))
	default:
		i.lost, w.lost = i.lost+w.lost, 0
		w.queue = append(w.queue, i)
		w.bytes += len(i.data)
	}
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *eventWay) take() (item, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return item{}, false
	}
	i := w.queue[0]
	w.queue[0] = item{}
	if w.queue = w.queue[1:]; len(w.queue) == 0 {
		w.queue = nil
	}
	w.bytes -= len(i.data)
	return i, true
}

func (w *eventWay) start(t *term) { w.t = t }

// cut says that the link is lost. What came is still taken.
func (w *eventWay) cut() { w.once.Do(func() { close(w.gone) }) }

func (w *eventWay) leave() {
	w.cut()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.sessions[w.key] == w {
		delete(w.s.sessions, w.key)
	}
}

// run brings the events into the feed until the exit, the end of the link or of ctx.
func (w *eventWay) run(ctx context.Context) error {
	defer w.leave()
	var acks sync.WaitGroup
	defer acks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pace := make(chan int64, 1)
	if w.ours {
		acks.Go(func() { w.ack(ctx, pace) })
	}
	acked := int64(0)
	for {
		i, ok := w.take()
		if !ok {
			select {
			case <-w.news:
				continue
			case <-w.gone:
				return ErrAway
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := w.feed(ctx, i); err != nil {
			return err
		}
		if i.exit != nil {
			w.t.feed.End(*i.exit)
			return nil
		}
		if _, end := w.t.feed.Range(); end-acked >= ackEvery {
			acked = end
			select { // the newest number counts
			case <-pace:
			default:
			}
			pace <- end
		}
	}
}

var errGap = errors.New("the node left bytes out")

// feed puts one event into the feed, in its place.
func (w *eventWay) feed(ctx context.Context, i item) error {
	f := w.t.feed
	_, end := f.Range()
	if i.seq != nil {
		switch gap := *i.seq - end; {
		case gap > i.lost && w.ours:
			return errGap // it keeps them: they are asked for again
		case gap > 0:
			i.lost = gap
		default: // what was there before the link was lost
			i.lost = 0
			i.data = i.data[min(-gap, int64(len(i.data))):]
		}
	}
	if err := f.Skip(ctx, i.lost); err != nil {
		return err
	}
	_, err := f.Write(ctx, i.data)
	return err
}

// ack tells the node what was taken, one number after the other.
func (w *eventWay) ack(ctx context.Context, pace <-chan int64) {
	for {
		var n int64
		select {
		case n = <-pace:
		case <-ctx.Done():
			return
		}
		if err := w.call(ctx, "terminal.ack", map[string]any{"session_id": w.key.id, "seq": n}); err != nil && ctx.Err() == nil {
			w.s.c.Log.Debug("a node was not told what was taken of a terminal", "node", w.key.node, "err", err)
		}
	}
}

func (w *eventWay) call(ctx context.Context, command string, params map[string]any) error {
	text, err := json.Marshal(params)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ackTime)
	defer cancel()
	_, err = w.s.c.Nodes.InvokeInternal(ctx, w.key.node, command, text)
	return err
}

// Input implements upstream.
func (w *eventWay) Input(ctx context.Context, b []byte) error {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-w.gone:
		return ErrAway
	case <-ctx.Done():
		return ctx.Err()
	}
	params := map[string]any{"session_id": w.key.id}
	switch {
	case utf8.Valid(b):
		params["data"] = string(b)
	case w.ours:
		params["data_b64"] = base64.StdEncoding.EncodeToString(b)
	default:
		params["data"] = strings.ToValidUTF8(string(b), "\uFFFD")
	}
	err := w.call(ctx, "terminal.input", params)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return err
}

// Resize implements upstream.
func (w *eventWay) Resize(cols, rows int) error {
	return w.call(w.s.life, "terminal.resize", map[string]any{"session_id": w.key.id, "cols": cols, "rows": rows})
}
