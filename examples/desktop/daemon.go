package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

const (
	// askTime bounds a call, statusEvery is how often the numbers at the top are asked for.
	askTime     = 5 * time.Second
	statusEvery = 2 * time.Second
	// firstPause and lastPause bound the pauses between attempts to follow a daemon that is away.
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
	// maxNotices is how many notifications may wait to be shown. A further one is refused.
	maxNotices = 16
	// maxPayload is how much of an event is shown, in bytes.
	maxPayload = 400
	// maxNotice bounds the texts of a notification, in bytes.
	maxNotice = 2000
)

// The messages that the daemon causes, beside client.ApprovalsChange.
type (
	statusMsg struct {
		status *systemv1.GetStatusResponse
		err    error
	}
	nodeMsg struct { // a node is there, has changed or has gone
		change *nodesv1.WatchNodesResponse
	}
	nodesBeganMsg struct{} // what was known of the nodes is told anew
	eventMsg      struct {
		at            time.Time
		name, payload string
		dropped       uint64
	}
	noticeMsg struct{ title, body string }
	selfMsg   struct { // how the node of this app stands
		attached bool
		as       string
		err      error
	}
)

// daemon is what this app does with hanzod.
type daemon struct {
	operator, node *client.Client
	name           string
	all            sync.WaitGroup
}

// follow sends what happens until ctx ends. Each part outlives restarts of the daemon on its own.
func (d *daemon) follow(ctx context.Context, send func(any)) {
	d.all.Go(func() {
		// An error comes back only when no retry would help.
		err := d.operator.WatchApprovals(ctx, func(ch client.ApprovalsChange) error { send(ch); return nil })
		if ctx.Err() == nil {
			send(client.ApprovalsChange{Away: err})
		}
	})
	d.all.Go(func() { d.again(ctx, func() error { return d.watchNodes(ctx, send) }) })
	d.all.Go(func() { d.again(ctx, func() error { return d.watchEvents(ctx, send) }) })
	d.all.Go(func() { d.again(ctx, func() error { return d.beNode(ctx, send) }) })
	d.all.Go(func() {
		d.again(ctx, func() error {
			ctx, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			status, err := d.operator.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
			send(statusMsg{status, err})
			return err
		}, statusEvery)
	})
}

func (d *daemon) wait() { d.all.Wait() }

// again repeats something that ends when the daemon goes away, with growing pauses while it is away.
func (d *daemon) again(ctx context.Context, once func() error, between ...time.Duration) {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := once()
		wait := pause
		switch {
		case err == nil && len(between) > 0:
			wait, pause = between[0], firstPause
		case time.Since(began) > lastPause:
			wait, pause = firstPause, firstPause // it went well for a while
		default:
			pause = min(2*pause, lastPause)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (d *daemon) watchNodes(ctx context.Context, send func(any)) error {
	s, err := d.operator.Nodes.WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
	if err != nil {
		return err
	}
	if _, err := s.Header(); err != nil {
		return err
	}
	send(nodesBeganMsg{})
	for {
		change, err := s.Recv()
		if err != nil {
			return err
		}
		send(nodeMsg{change})
	}
}

func (d *daemon) watchEvents(ctx context.Context, send func(any)) error {
	s, err := d.operator.System.WatchEvents(ctx, &systemv1.WatchEventsRequest{})
	if err != nil {
		return err
	}
	for {
		e, err := s.Recv()
		if err != nil {
			return err
		}
		payload, err := json.Marshal(e.GetPayload().AsInterface())
		if err != nil {
			return err
		}
		send(eventMsg{e.GetAt().AsTime(), e.GetName(), string(payload[:min(len(payload), maxPayload)]), e.GetDropped()})
	}
}

// beNode offers what this app can do, and nothing else, until the link ends.
func (d *daemon) beNode(ctx context.Context, send func(any)) error {
	notices := make(chan noticeMsg, maxNotices)
	link, err := d.node.AttachNode(ctx, client.NodeOptions{
		Registration: &nodesv1.NodeRegistration{
			// The id has to be the same next time. A node without a key of its own is taken on the local
			// socket only.
			InstanceId: "desktop-" + client.Slug(d.name), ClientId: "desktop-example", ClientMode: "node",
			DisplayName: d.name, Version: "1.0.0", Platform: runtime.GOOS,
			Caps: []string{"system"}, Commands: []string{"system.notify"},
		},
		// Called by the reader of the link: it must not wait for the screen.
		OnInvoke: func(l *client.NodeLink, in *nodesv1.NodeInvoke) {
			r := serve(in, notices)
			go func() { _ = l.Answer(r) }() // when the link is gone, so is whoever asked
		},
	})
	if err != nil {
		send(selfMsg{err: err})
		return err
	}
	defer link.Close()
	send(selfMsg{attached: true, as: link.Welcome().GetDisplayName()})
	for {
		select {
		case n := <-notices:
			send(n)
		case <-link.Done():
			send(selfMsg{err: link.Err()})
			return link.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve answers one request to this node.
func serve(in *nodesv1.NodeInvoke, notices chan<- noticeMsg) *nodesv1.NodeResult {
	refuse := func(code, message string) *nodesv1.NodeResult {
		return &nodesv1.NodeResult{InvokeId: in.GetInvokeId(), Error: &nodesv1.NodeError{Code: code, Message: message}}
	}
	if in.GetCommand() != "system.notify" {
		return refuse("UNAVAILABLE", "command not supported")
	}
	var p struct{ Title, Body string }
	if err := json.Unmarshal([]byte(in.GetParamsJson()), &p); err != nil {
		return refuse("INVALID_REQUEST", "system.notify takes a title and a body")
	}
	if p.Title, p.Body = strings.TrimSpace(p.Title), strings.TrimSpace(p.Body); p.Title == "" && p.Body == "" {
		return refuse("INVALID_REQUEST", "empty notification")
	}
	if len(p.Title)+len(p.Body) > maxNotice {
		return refuse("INVALID_REQUEST", fmt.Sprintf("a notification has at most %d bytes", maxNotice))
	}
	select {
	case notices <- noticeMsg{p.Title, p.Body}:
		return &nodesv1.NodeResult{InvokeId: in.GetInvokeId(), Ok: true}
	default:
		return refuse("UNAVAILABLE", "too many notifications at once")
	}
}

// approval returns an approval with all of its text, and the one before of the same program, nil when
// there is none.
func (d *daemon) approval(id string) (whole, before *approvalsv1.Approval, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	out, err := d.operator.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
	if err != nil {
		return nil, nil, err
	}
	like, err := d.operator.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{Like: &id})
	if err == nil && len(like.GetApprovals()) > 0 {
		before = like.GetApprovals()[0]
	}
	return out.GetApproval(), before, nil
}

// decide answers an approval. The first valid answer of anybody wins.
func (d *daemon) decide(id string, decision approvalsv1.Decision) (*approvalsv1.Approval, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	out, err := d.operator.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: id, Decision: decision})
	return out.GetApproval(), err
}
