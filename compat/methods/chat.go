package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/sessions/chat"
)

// attachmentsOf reads attachments, whose items may be anything: what has no content is nothing.
func attachmentsOf(p wire.Value) []chat.Attachment {
	list, ok := p.Get("attachments")
	if !ok || list.Kind() != wire.Array {
		return nil
	}
	text := func(v wire.Value, key string) string {
		if f, ok := v.Get(key); ok && f.Kind() == wire.String {
			return f.Str()
		}
		return ""
	}
	var out []chat.Attachment
	for v := range list.Items() {
		if v.Kind() == wire.Object {
			out = append(out, chat.Attachment{Type: text(v, "type"), FileName: text(v, "fileName"), Content: text(v, "content")})
		}
	}
	return out
}

type chatSendParams struct {
	SessionKey     string `json:"sessionKey"`
	Message        string `json:"message"`
	IdempotencyKey string `json:"idempotencyKey"`
}

// ChatSendFromLegacy reads chat.send.
func ChatSendFromLegacy(p wire.Value) (chat.SendIn, error) {
	var in chatSendParams
	err := wire.Decode(p, &in)
	return chat.SendIn{SessionKey: in.SessionKey, Message: in.Message, Attachments: attachmentsOf(p), Key: in.IdempotencyKey}, err
}

type chatEnded struct {
	OK      bool              `json:"ok"`
	Aborted bool              `json:"aborted"`
	RunIDs  wire.List[string] `json:"runIds"`
}

// ChatSendToLegacy writes the result of chat.send: only a word that ends runs has one yet.
func ChatSendToLegacy(out chat.SendOut) any { return chatEnded{out.Stop, len(out.Runs) > 0, out.Runs} }

type chatAbortParams struct {
	SessionKey string           `json:"sessionKey"`
	RunID      wire.Opt[string] `json:"runId"`
}

// ChatAbortFromLegacy reads chat.abort.
func ChatAbortFromLegacy(p wire.Value) (chat.AbortIn, error) {
	var in chatAbortParams
	err := wire.Decode(p, &in)
	return chat.AbortIn{SessionKey: in.SessionKey, RunID: in.RunID.Or("")}, err
}

// ChatAbortToLegacy writes the result of chat.abort.
func ChatAbortToLegacy(out chat.AbortOut) any { return chatEnded{true, len(out.Runs) > 0, out.Runs} }

type agentParams struct {
	Message        string           `json:"message"`
	AgentID        wire.Opt[string] `json:"agentId"`
	SessionKey     wire.Opt[string] `json:"sessionKey"`
	Channel        wire.Opt[string] `json:"channel"`
	ReplyChannel   wire.Opt[string] `json:"replyChannel"`
	Deliver        wire.Opt[bool]   `json:"deliver"`
	IdempotencyKey string           `json:"idempotencyKey"`
}

// AgentFromLegacy reads agent.
func AgentFromLegacy(p wire.Value) (chat.RunIn, error) {
	var in agentParams
	err := wire.Decode(p, &in)
	return chat.RunIn{
		Message: in.Message, AgentID: in.AgentID.Or(""), SessionKey: in.SessionKey.Or(""), Attachments: attachmentsOf(p),
		Channels: []string{in.Channel.Or(""), in.ReplyChannel.Or("")}, Deliver: in.Deliver.Or(false), Key: in.IdempotencyKey,
	}, err
}

type runAccepted struct {
	RunID string `json:"runId"`
}

// AgentToLegacy writes the result of agent.
func AgentToLegacy(out chat.RunOut) any { return runAccepted(out) }

type agentWaitParams struct {
	RunID     string             `json:"runId"`
	TimeoutMs wire.Opt[wire.Int] `json:"timeoutMs"`
}

// AgentWaitFromLegacy reads agent.wait.
func AgentWaitFromLegacy(p wire.Value) (chat.WaitIn, error) {
	var in agentWaitParams
	err := wire.Decode(p, &in)
	return chat.WaitIn{RunID: in.RunID, Timeout: maybeWait(in.TimeoutMs)}, err
}

type runWaited struct {
	RunID  string `json:"runId"`
	Status string `json:"status"`
}

// AgentWaitToLegacy writes the result of agent.wait.
func AgentWaitToLegacy(out chat.WaitOut) any { return runWaited(out) }

// BrowserFromLegacy reads browser.request, which has no schema.
func BrowserFromLegacy(p wire.Value) (chat.BrowserIn, error) {
	var in chat.BrowserIn
	for key, to := range map[string]*string{"method": &in.Method, "path": &in.Path} {
		if v, ok := p.Get(key); ok && v.Kind() == wire.String {
			*to = v.Str()
		}
	}
	return in, nil
}

// BrowserToLegacy writes the result of browser.request.
func BrowserToLegacy(out struct{}) any { return out }
