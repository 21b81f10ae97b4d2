package compat

import (
	"maps"

	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions/chat"
)

// turns binds the methods that begin, await and end the turns of agents.
func (d *Door) turns() map[string]binding {
	c := d.cfg.Chat
	return map[string]binding{
		"chat.send":       waiting(unary(methods.ChatSendFromLegacy, c.Send, methods.ChatSendToLegacy)),
		"chat.abort":      unary(methods.ChatAbortFromLegacy, c.Abort, methods.ChatAbortToLegacy),
		"agent":           waiting(unary(methods.AgentFromLegacy, c.Run, methods.AgentToLegacy)),
		"agent.wait":      waiting(unary(methods.AgentWaitFromLegacy, c.Wait, methods.AgentWaitToLegacy)),
		"browser.request": waiting(unary(methods.BrowserFromLegacy, c.Browser, methods.BrowserToLegacy)),
	}
}

// agentParams words what is wrong with the parameters of agent (sessions-chat.md §5).
func agentParams(text func(e *errs.Error) string) wording {
	return built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "invalid agent params: " + text(e)}
	})
}

// The texts of chat.* and agent.
func init() {
	maps.Copy(words, map[string]wording{
		chat.ErrNull.Code:  invalid("message must not contain null bytes"),
		chat.ErrEmpty.Code: invalid("message or attachment required"),
		chat.ErrAttachment.Code: built(func(e *errs.Error) wire.ErrorShape {
			return wire.ErrorShape{Code: codeInvalid, Message: cut("Error: " + e.Field("what"))}
		}),
		chat.ErrBlocked.Code: invalid("send blocked by session policy"),
		chat.ErrChannel.Code: agentParams(func(e *errs.Error) string { return "unknown channel: " + e.Field("channel") }),
		chat.ErrAgent.Code:   agentParams(func(e *errs.Error) string { return `unknown agent id "` + e.Field("agent") + `"` }),
		chat.ErrKey.Code:     agentParams(func(e *errs.Error) string { return `malformed session key "` + e.Field("key") + `"` }),
		chat.ErrOther.Code: agentParams(func(e *errs.Error) string {
			return `agent "` + e.Field("agent") + `" does not match session key agent "` + e.Field("of") + `"`
		}),
		chat.ErrDelivery.Code:      invalid("delivery channel is required: pass --channel/--reply-channel or use a main session with a previous channel"),
		chat.ErrNoAgents.Code:      unavailable(chat.ErrNoAgents.Text),
		chat.ErrBrowserParams.Code: invalid("method and path are required"),
		chat.ErrBrowserMethod.Code: invalid("method must be GET, POST, or DELETE"),
		chat.ErrBrowser.Code:       unavailable("browser control is disabled"),
	})
}
