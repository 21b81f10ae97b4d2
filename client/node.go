package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

const (
	// MaxMessage is the largest message in bytes that a daemon takes (protocol.md §0).
	MaxMessage = 26214400
	// defaultHeartbeat is that of a daemon that names none; minHeartbeat and maxHeartbeat bound what it
	// may name.
	defaultHeartbeat = 30 * time.Second
	minHeartbeat     = 100 * time.Millisecond
	maxHeartbeat     = 10 * time.Minute
	// nodeHandshake bounds the way from the call to the welcome.
	nodeHandshake = 15 * time.Second
	// linkLook is how often a link is looked at; clockJump how far the clock may run between two looks
	// before it counts as a jump, as after a sleep of the machine. The daemon is asked then whether it is
	// there, and has wakeWait for its answer.
	linkLook  = time.Second
	clockJump = 15 * time.Second
	wakeWait  = 3 * time.Second
	// sendStall is how long the daemon may take to take a message.
	sendStall = 30 * time.Second
)

// Codes of the ends of a node's link that this side finds.
const (
	CodeLinkClosed = "client.link_closed" // Close was called
	CodeSilent     = "client.silent"      // the daemon went silent
	CodeTooLarge   = "client.too_large"   // a message is larger than MaxMessage
)

// NodeOptions of AttachNode.
type NodeOptions struct {
	// Registration is what the node says of itself. Its device is set by Prove.
	Registration *nodesv1.NodeRegistration
	// Prove signs the challenge of the connection; nil registers without a device.
	Prove func(nonce string) (*nodesv1.DeviceProof, error)
	// OnInvoke is called for each request, in order, by the reader: it must not block, and not call
	// Close.
	OnInvoke func(*NodeLink, *nodesv1.NodeInvoke)
	// OnNotice is called for each event of the daemon, and OnRefused for each event of the node that the
	// daemon did not take; like OnInvoke. Nil drops them.
	OnNotice  func(*nodesv1.NodeNotice)
	OnRefused func(*nodesv1.NodeReportRefused)
	// Now is the clock by which a sleep of the machine is noticed; time.Now when nil.
	Now func() time.Time
}

// NodeLink is the link of a node. Its methods may be called concurrently. It owns a reader and a
// watchdog; Close waits for both.
type NodeLink struct {
	o       NodeOptions
	c       *Client
	life    context.Context //nolint:containedctx // ends with the link
	stream  nodesv1.NodeService_AttachClient
	welcome *nodesv1.NodeWelcome
	silence time.Duration
	cancel  context.CancelFunc
	done    chan struct{}
	wg      sync.WaitGroup

	send    sync.Mutex
	sending atomic.Int64 // since when a message is being handed over, 0 while none is
	heard   atomic.Int64 // when the last message came
	due     atomic.Int64 // until when an answer must come, 0 without a question
	ponging atomic.Bool  // an answer to a ping is on its way

	mu  sync.Mutex
	err error
}

// AttachNode registers a node and returns when the daemon has let it in. ctx covers that alone. The
// caller serves OnInvoke by Answer.
func (c *Client) AttachNode(ctx context.Context, o NodeOptions) (*NodeLink, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	late := time.AfterFunc(nodeHandshake, cancel)
	l := &NodeLink{o: o, c: c, life: life, cancel: cancel, done: make(chan struct{})}
	err := l.register(life, c)
	inTime, asked := late.Stop(), stop()
	switch {
	case !asked:
		err = ctx.Err()
	case !inTime:
		err = &Error{Code: CodeTimeout, Class: errs.Deadline, Message: "the daemon did not let the node in in time", Err: context.DeadlineExceeded}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	l.heard.Store(l.clock())
	l.wg.Go(l.read)
	l.wg.Go(l.watch)
	return l, nil
}

func (l *NodeLink) register(ctx context.Context, c *Client) (err error) {
	if l.stream, err = c.Nodes.Attach(ctx); err != nil {
		return err
	}
	m, err := l.stream.Recv()
	if err != nil {
		return ended(err)
	}
	reg := proto.CloneOf(l.o.Registration)
	if l.o.Prove != nil {
		if reg.Device, err = l.o.Prove(m.GetChallenge().GetNonce()); err != nil {
			return err
		}
	}
	if err := l.stream.Send(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Register{Register: reg}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if m, err = l.stream.Recv(); err != nil { // a refusal, too
		return ended(err)
	}
	if l.welcome = m.GetWelcome(); l.welcome == nil {
		return &Error{Code: CodeBadAnswer, Class: errs.Unavailable, Message: "the answer to the registration is not understood"}
	}
	heartbeat := defaultHeartbeat
	if h := l.welcome.GetHeartbeat(); h != nil {
		heartbeat = min(max(h.AsDuration(), minHeartbeat), maxHeartbeat)
	}
	l.silence = 2 * heartbeat
	return nil
}

// ended words the end of a stream that the daemon gave no reason for.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return &Error{Code: CodeLost, Class: errs.Unavailable, Message: "the daemon ended the link"}
	}
	return err
}

// Welcome is what the daemon said when it let the node in.
func (l *NodeLink) Welcome() *nodesv1.NodeWelcome { return l.welcome }

// Done is closed when the link has ended; Err says why then.
func (l *NodeLink) Done() <-chan struct{} { return l.done }

// Err is why the link ended, nil while it stands.
func (l *NodeLink) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close ends the link and waits for its goroutines.
func (l *NodeLink) Close() error {
	l.fail(&Error{Code: CodeLinkClosed, Class: errs.Unavailable, Message: "the link was closed on this side"})
	l.wg.Wait()
	return nil
}

// fail ends the link once; later calls do nothing.
func (l *NodeLink) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.done)
		l.cancel()
	}
}

// Answer hands over the result of an invoke. It fails with CodeTooLarge when the result is larger
// than a daemon takes; the link stands then.
func (l *NodeLink) Answer(r *nodesv1.NodeResult) error {
	if r.PayloadJson != nil {
		r.PayloadJson = valid(*r.PayloadJson)
	}
	if r.Error != nil {
		r.Error.Code, r.Error.Message = *valid(r.Error.Code), *valid(r.Error.Message)
	}
	return l.put(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Result{Result: r}})
}

// Report hands over an event.
func (l *NodeLink) Report(event, payloadJSON string) error {
	return l.put(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Event{
		Event: &nodesv1.NodeReport{Event: *valid(event), PayloadJson: valid(payloadJSON)},
	}})
}

// valid mends text that protobuf would refuse.
func valid(s string) *string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return &s
}

func (l *NodeLink) put(m *nodesv1.AttachRequest) error {
	if proto.Size(m) > MaxMessage {
		return &Error{Code: CodeTooLarge, Class: errs.Invalid, Message: "the message is larger than the 25 MiB that a daemon takes"}
	}
	l.send.Lock()
	defer l.send.Unlock()
	if err := l.Err(); err != nil {
		return err
	}
	l.sending.Store(l.clock())
	err := l.stream.Send(m)
	l.sending.Store(0)
	if err == nil {
		return nil
	}
	// Why the link broke is known to the reader.
	<-l.done
	return l.Err()
}

// read takes what the daemon sends, in order.
func (l *NodeLink) read() {
	for {
		m, err := l.stream.Recv()
		if err != nil {
			l.fail(ended(err))
			return
		}
		l.heard.Store(l.clock())
		l.due.Store(0)
		switch m := m.GetMessage().(type) {
		case *nodesv1.AttachResponse_Invoke:
			l.o.OnInvoke(l, m.Invoke)
		case *nodesv1.AttachResponse_Ping:
			// In a goroutine of its own: a daemon that does not take the answer must not stop the reader.
			if !l.ponging.CompareAndSwap(false, true) {
				continue
			}
			l.wg.Go(func() {
				defer l.ponging.Store(false)
				_ = l.put(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Pong{Pong: &nodesv1.NodePong{}}}) // the link has ended then
			})
		case *nodesv1.AttachResponse_Notice:
			if l.o.OnNotice != nil {
				l.o.OnNotice(m.Notice)
			}
		case *nodesv1.AttachResponse_ReportRefused:
			if l.o.OnRefused != nil {
				l.o.OnRefused(m.ReportRefused)
			}
		}
	}
}

var start = time.Now()

// clock is the monotonic clock.
func (l *NodeLink) clock() int64 { return int64(time.Since(start)) | 1 }

// watch ends the link when the daemon is silent for two heartbeats, or does not take a message. After
// a sleep of the machine it asks at once.
func (l *NodeLink) watch() {
	tick := time.NewTicker(min(linkLook, l.silence/4))
	defer tick.Stop()
	wall := l.o.Now().Round(0) // without the monotonic clock, which stands still during a sleep
	for {
		select {
		case <-tick.C:
		case <-l.done:
			return
		}
		now, was := l.clock(), wall
		wall = l.o.Now().Round(0)
		due, sending := l.due.Load(), l.sending.Load()
		switch {
		case sending != 0 && time.Duration(now-sending) > sendStall:
			l.fail(&Error{Code: CodeSilent, Class: errs.Unavailable, Message: fmt.Sprintf("the daemon took nothing for %v", sendStall)})
		case due != 0 && now > due, time.Duration(now-l.heard.Load()) > l.silence:
			l.fail(&Error{Code: CodeSilent, Class: errs.Unavailable, Message: "the daemon went silent"})
		case due == 0 && wall.Sub(was) > clockJump:
			l.due.Store(now + int64(wakeWait))
			l.wg.Go(func() {
				_ = l.put(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Ping{Ping: &nodesv1.NodePing{}}}) // the link has ended then
			})
		}
	}
}
