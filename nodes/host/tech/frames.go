package tech

import "encoding/json"

// Sender sends the messages of tunnel.md §3.4 to a server over a link. Its methods may wait for a slow link; they fail when it
// has ended. They may be called concurrently.
type Sender interface {
	// Ready is tunnel_ready.
	Ready(session string) error
	// Data is tunnel_data: an envelope {"type","payload"}.
	Data(channel string, data json.RawMessage) error
	// Error is tunnel_error; about a session, its id stands in the place of a channel's.
	Error(channel, text string) error
}

// Frames serves the messages of tunnel.md §3.4 of one link, for servers that know nothing else. Its methods are called by the
// reader of the link and do not wait.
type Frames struct {
	m     *Module
	to    Sender
	ended <-chan struct{}
}

// Frames serves a link until ended is closed.
func (m *Module) Frames(to Sender, ended <-chan struct{}) *Frames { return &Frames{m, to, ended} }

// Open is tunnel_open.
func (f *Frames) Open(session, owner string) {}

// CloseSession is tunnel_close.
func (f *Frames) CloseSession(session string) {}

// Data is tunnel_data: an envelope {"type","payload"}. The first one of a channel opens it.
func (f *Frames) Data(channel string, data json.RawMessage) {}
