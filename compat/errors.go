package compat

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/channels"
	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/push"
	"github.com/hanzoai/hanzod/secrets"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/usage"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/tunnel/screens"
	"github.com/hanzoai/hanzod/tunnel/uplinks"
	"github.com/hanzoai/hanzod/wizard"
)

// The five legacy codes, less the two that were never sent (protocol.md §2.2).
const (
	codeInvalid     = "INVALID_REQUEST"
	codeUnavailable = "UNAVAILABLE"
	codeNotPaired   = "NOT_PAIRED"
)

// wording is how the original says an error: its code, its text, and its details.
type wording struct {
	code    string
	message string
	// build replaces the two above when they depend on the occurrence.
	build func(e *errs.Error) wire.ErrorShape
}

func invalid(message string) wording     { return wording{code: codeInvalid, message: message} }
func unavailable(message string) wording { return wording{code: codeUnavailable, message: message} }

func built(f func(e *errs.Error) wire.ErrorShape) wording { return wording{build: f} }

// thrown is an exception of the original, whose text begins with its class.
var thrown = built(func(e *errs.Error) wire.ErrorShape {
	return wire.ErrorShape{Code: codeUnavailable, Message: cut("Error: " + e.Text)}
})

// ownText is for refusals that the original does not know: it says what is wrong.
var ownText = built(func(e *errs.Error) wire.ErrorShape { return wire.ErrorShape{Code: codeInvalid, Message: e.Text} })

// texts is invalid with a text that depends on the occurrence.
func texts(f func(e *errs.Error) string) wording {
	return built(func(e *errs.Error) wire.ErrorShape { return wire.ErrorShape{Code: codeInvalid, Message: f(e)} })
}

var unknownAgent = built(func(e *errs.Error) wire.ErrorShape {
	return wire.ErrorShape{Code: codeInvalid, Message: `unknown agent id "` + e.Field("agent") + `"`}
})

// deviceAuth is a failed device proof (protocol.md §4.5).
func deviceAuth(message, code, reason string) wording {
	return built(func(*errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: message, Details: wire.MustMarshal(struct {
			Code   string `json:"code"`
			Reason string `json:"reason"`
		}{code, reason})}
	})
}

type codeDetails struct {
	Code string `json:"code"`
}

// runRefusal is a refused system.run (nodes-approvals.md §2.3).
func runRefusal(code, message string) wording {
	return built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: message, Details: wire.MustMarshal(struct {
			Code  string           `json:"code"`
			RunID wire.Opt[string] `json:"runId,omitzero"`
		}{code, wire.NonZero(e.Field("runId"))})}
	})
}

func notAllowed(reason string, text func(e *errs.Error) string) wording {
	return built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: text(e), Details: wire.MustMarshal(struct {
			Reason  string `json:"reason"`
			Command string `json:"command"`
		}{reason, e.Field("command")})}
	})
}

func platform(e *errs.Error) string {
	if p := e.Field("platform"); p != "" {
		return p
	}
	return "unknown"
}

type nodeErrorShape struct {
	Code    wire.Opt[string] `json:"code,omitzero"`
	Message wire.Opt[string] `json:"message,omitzero"`
	Details wire.Raw         `json:"details,omitzero"`
}

type nodeErrorDetails struct {
	NodeError wire.Opt[nodeErrorShape] `json:"nodeError"`
}

func nodeFault(code, message string) wire.ErrorShape {
	return wire.ErrorShape{
		Code: codeUnavailable, Message: code + ": " + message,
		Details: wire.MustMarshal(nodeErrorDetails{wire.Some(nodeErrorShape{Code: wire.Some(code), Message: wire.Some(message)})}),
	}
}

func optOf(s *string) wire.Opt[string] {
	if s == nil {
		return wire.Opt[string]{}
	}
	return wire.Some(*s)
}

// nodeFailed is a node's own error (nodes-approvals.md §2.1, row 10).
func nodeFailed(e *errs.Error) wire.ErrorShape {
	own, ok := e.Fields["nodeError"].(nodes.NodeError)
	if !ok {
		return wire.ErrorShape{
			Code: codeUnavailable, Message: "node invoke failed",
			Details: wire.MustMarshal(nodeErrorDetails{wire.NullOf[nodeErrorShape]()}),
		}
	}
	message := "node invoke failed"
	if own.Message != nil && wire.Trim(*own.Message) != "" {
		message = wire.Trim(*own.Message)
	}
	if own.Code != nil && wire.Trim(*own.Code) != "" {
		message = wire.Trim(*own.Code) + ": " + message
	}
	return wire.ErrorShape{
		Code: codeUnavailable, Message: message,
		Details: wire.MustMarshal(nodeErrorDetails{wire.Some(nodeErrorShape{optOf(own.Code), optOf(own.Message), own.Details})}),
	}
}

func envRefusal(code, message string, hashes bool) wording {
	return built(func(e *errs.Error) wire.ErrorShape {
		d := struct {
			Code     string            `json:"code"`
			RunID    wire.Opt[string]  `json:"runId,omitzero"`
			EnvKeys  wire.List[string] `json:"envKeys"`
			Expected wire.Opt[string]  `json:"expectedEnvHash,omitzero"`
			Actual   wire.Opt[string]  `json:"actualEnvHash,omitzero"`
		}{Code: code, RunID: wire.NonZero(e.Field("runId"))}
		d.EnvKeys, _ = e.Fields["envKeys"].([]string)
		if hashes {
			expected, _ := e.Fields["expectedEnvHash"].(*string)
			actual, _ := e.Fields["actualEnvHash"].(*string)
			d.Expected, d.Actual = wire.SomeOrNull(expected), wire.SomeOrNull(actual)
		}
		return wire.ErrorShape{Code: codeInvalid, Message: message, Details: wire.MustMarshal(d)}
	})
}

// words has the legacy text of every error a domain defines. A test demands that none is missing.
var words = map[string]wording{
	live.ErrTooLarge.Code: ownText, live.ErrHashNeeded.Code: ownText, live.ErrConflict.Code: ownText, live.ErrBroken.Code: ownText,
	live.ErrSyntax.Code: ownText, live.ErrNoObject.Code: ownText, live.ErrSentinel.Code: ownText, live.ErrPending.Code: ownText,
	live.ErrNotPending.Code: ownText, live.ErrWindow.Code: ownText, live.ErrNoKey.Code: ownText,
	live.ErrInvalid.Code: built(func(e *errs.Error) wire.ErrorShape {
		out := wire.ErrorShape{Code: codeInvalid, Message: live.ErrInvalid.Text}
		if issues, ok := e.Fields["issues"].([]config.Issue); ok {
			out.Details = methods.ConfigIssues(issues)
		}
		return out
	}),
	live.ErrNotWritten.Code: built(func(e *errs.Error) wire.ErrorShape { return wire.ErrorShape{Code: codeUnavailable, Message: e.Error()} }),
	live.ErrRead.Code:       built(func(e *errs.Error) wire.ErrorShape { return wire.ErrorShape{Code: codeUnavailable, Message: e.Error()} }),

	secrets.ErrCommandName.Code: invalid("invalid secrets.resolve params: commandName"),
	secrets.ErrTargets.Code:     invalid("invalid secrets.resolve params: targetIds"),
	secrets.ErrTarget.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "invalid secrets.resolve params: unknown target id " + strconv.Quote(e.Field("target"))}
	}),
	secrets.ErrInactive.Code: unavailable("Secrets runtime snapshot is not active."),
	secrets.ErrUnresolved.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: e.Field("command") + ": " + e.Field("path") + " is unresolved in the active runtime snapshot."}
	}),
	secrets.ErrReload.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: "Error: " + e.Text}
	}),
	secrets.ErrBusy.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: "Error: " + e.Text, Retryable: true}
	}),

	wizard.ErrRunning.Code:    unavailable("wizard already running"),
	wizard.ErrNotFound.Code:   invalid("wizard not found"),
	wizard.ErrNotRunning.Code: invalid("wizard not running"),
	wizard.ErrNoStep.Code:     invalid("Error: wizard: no pending step"),
	wizard.ErrAnswer.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "Error: " + e.Text}
	}),
	wizard.ErrMode.Code:      ownText,
	wizard.ErrWorkspace.Code: ownText,

	gate.ErrRole.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "unauthorized role: " + e.Field("role")}
	}),
	gate.ErrScope.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "missing scope: " + e.Field("scope")}
	}),
	gate.ErrRate.Code: built(func(e *errs.Error) wire.ErrorShape {
		wait, _ := e.Fields["retryAfterMs"].(int64)
		method := e.Field("method")
		return wire.ErrorShape{
			Code: codeUnavailable, Message: fmt.Sprintf("rate limit exceeded for %s; retry after %ds", method, (wait+999)/1000),
			Retryable: true, RetryAfterMs: wait,
			Details: wire.MustMarshal(struct {
				Method string `json:"method"`
				Limit  string `json:"limit"`
			}{method, "3 per 60s"}),
		}
	}),

	identity.ErrDeviceID.Code:       deviceAuth("device identity mismatch", "DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch"),
	identity.ErrSignatureStale.Code: deviceAuth("device signature expired", "DEVICE_AUTH_SIGNATURE_EXPIRED", "device-signature-stale"),
	identity.ErrNonceMissing.Code:   deviceAuth("device nonce required", "DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing"),
	identity.ErrNonceMismatch.Code:  deviceAuth("device nonce mismatch", "DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch"),
	identity.ErrSignature.Code:      deviceAuth("device signature invalid", "DEVICE_AUTH_SIGNATURE_INVALID", "device-signature"),
	identity.ErrAuth.Code:           invalid("unauthorized"),
	identity.ErrDeviceRequired.Code: built(func(*errs.Error) wire.ErrorShape {
		return wire.ErrorShape{
			Code: codeNotPaired, Message: "device identity required",
			Details: wire.MustMarshal(codeDetails{"DEVICE_IDENTITY_REQUIRED"}),
		}
	}),
	identity.ErrControlUIDevice.Code: built(func(*errs.Error) wire.ErrorShape {
		return wire.ErrorShape{
			Code: codeInvalid, Message: "control ui requires device identity (use HTTPS or localhost secure context)",
			Details: wire.MustMarshal(codeDetails{"CONTROL_UI_DEVICE_IDENTITY_REQUIRED"}),
		}
	}),
	identity.ErrPairingRequired.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeNotPaired, Message: "pairing required", Details: wire.MustMarshal(struct {
			Code      string           `json:"code"`
			RequestID wire.Opt[string] `json:"requestId,omitzero"`
			Reason    string           `json:"reason"`
		}{"PAIRING_REQUIRED", wire.NonZero(e.Field("requestId")), e.Field("reason")})}
	}),
	identity.ErrEnded.Code: built(func(*errs.Error) wire.ErrorShape {
		return authShape("device_token_mismatch", identity.Attempt{}, "")
	}),
	identity.ErrBeyondCaller.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "missing scope: " + e.Field("scope")}
	}),
	gate.ErrRate.Code: built(func(e *errs.Error) wire.ErrorShape {
		wait, _ := e.Fields["retryAfterMs"].(int64)
		method := e.Field("method")
		return wire.ErrorShape{
			Code: codeUnavailable, Message: fmt.Sprintf("rate limit exceeded for %s; retry after %ds", method, (wait+999)/1000),
			Retryable: true, RetryAfterMs: wait,
			Details: wire.MustMarshal(struct {
				Method string `json:"method"`
				Limit  string `json:"limit"`
			}{method, "3 per 60s"}),
		}
	}),
	identity.ErrUnknownRequest.Code: invalid("unknown requestId"),
	identity.ErrUnknownDevice.Code:  invalid("unknown deviceId"),
	identity.ErrUnknownToken.Code:   invalid("unknown deviceId/role"),
	identity.ErrTooManyScopes.Code:  invalid("a device may ask for 32 scopes of 128 bytes at the most"),
	identity.ErrTextTooLong.Code:    invalid("displayName, platform and deviceFamily may be 256 bytes each at the most"),
	// The following come up with invites, which this door does not know.
	identity.ErrPublicKey.Code:      invalid("device public key invalid"),
	identity.ErrInviteRole.Code:     invalid("an invite is for the role operator or node"),
	identity.ErrInviteScopes.Code:   invalid("an invite for an operator names the scopes it gives, one for a node none"),
	identity.ErrInviteTTL.Code:      invalid("an invite holds from 1 second to 10 minutes"),
	identity.ErrTooManyInvites.Code: unavailable("too many invites are open"),
	identity.ErrLinkToken.Code:      invalid("present a token"),
	identity.ErrLinkRefused.Code:    invalid("the token is not accepted here"),
	identity.ErrLinkTenant.Code:     invalid("the token names no organisation"),
	identity.ErrLinkKeyName.Code:    invalid("a link key needs a name that no other has"),
	identity.ErrTenantName.Code:     invalid("invalid tenant"),
	identity.ErrTooManyKeys.Code:    unavailable("too many link keys"),
	identity.ErrNoLinkKey.Code:      invalid("unknown link key"),
	screens.ErrNodeUnknown.Code:     ownText,
	uplinks.ErrUnknown.Code:         invalid("unknown uplink"),
	uplinks.ErrClosed.Code:          unavailable("shutting down"),
	uplinks.ErrTenant.Code:          invalid("uplinks of the gateway"),
	identity.ErrLinkKeyOther.Code:   invalid("link keys of another tenant"),
	identity.ErrInvite.Code:         invalid("this invite was used or has expired"),

	identity.ErrDeviceTenant.Code:      invalid("device belongs to another organisation; use another device key, or have the device removed and pair it again"),
	identity.ErrTooManyPending.Code:    unavailable("too many devices wait for approval; decide on some first"),
	identity.ErrTooManyDevices.Code:    unavailable("too many devices are paired; remove some first"),
	identity.ErrBearerRequired.Code:    invalid("unauthorized"),
	identity.ErrMember.Code:            ownText,
	identity.ErrBearerNotAccepted.Code: invalid("unauthorized"),
	identity.ErrRateLimited.Code:       invalid("unauthorized: too many failed authentication attempts (retry later)"),

	nodes.ErrTargetRequired.Code: invalid("nodeId and command required"),
	nodes.ErrNodeIDRequired.Code: invalid("nodeId required"),
	nodes.ErrNameRequired.Code:   invalid("displayName required"),
	nodes.ErrNameTooLong.Code:    invalid("displayName must not be longer than 200 characters"),
	nodes.ErrUnknown.Code:        invalid("unknown nodeId"),
	nodes.ErrCannotKill.Code:     unavailable("the node cannot end a command for the gateway"),
	nodes.ErrNotConnected.Code: built(func(*errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: "node not connected", Details: wire.MustMarshal(codeDetails{"NOT_CONNECTED"})}
	}),
	nodes.ErrDisconnected.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: "Error: node disconnected (" + e.Field("command") + ")"}
	}),
	nodes.ErrBusy.Code:       unavailable("node busy"),
	nodes.ErrParams.Code:     invalid("params of a command must be an object"),
	nodes.ErrTenantID.Code:   invalid("the id of the node is not one of its tenant"),
	nodes.ErrNoInstance.Code: invalid("the node is no linked instance"),
	nodes.ErrNoInfo.Code:     invalid("the node offers neither system.info nor status.get"),
	nodes.ErrTooLarge.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: e.Text}
	}),
	nodes.ErrSend.Code: built(func(*errs.Error) wire.ErrorShape {
		return nodeFault("UNAVAILABLE", "failed to send invoke to node")
	}),
	nodes.ErrTimeout.Code: built(func(*errs.Error) wire.ErrorShape {
		return nodeFault("TIMEOUT", "node invoke timed out")
	}),
	nodes.ErrNodeFailed.Code: built(nodeFailed),
	nodes.ErrPolicyCommand.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{
			Code: codeInvalid, Message: "node.invoke does not allow system.execApprovals.*; use exec.approvals.node.*",
			Details: wire.MustMarshal(struct {
				Command string `json:"command"`
			}{e.Field("command")}),
		}
	}),
	nodes.ErrNotAllowed.Code: notAllowed("command not allowlisted", func(e *errs.Error) string {
		return `node command not allowed: "` + e.Field("command") + `" is not in the allowlist for platform "` + platform(e) + `"`
	}),
	nodes.ErrNotDeclared.Code: notAllowed("command not declared by node", func(e *errs.Error) string {
		return "node command not allowed: the node (platform: " + platform(e) + `) does not support "` + e.Field("command") + `"`
	}),
	nodes.ErrNoCommands.Code: notAllowed("node did not declare commands", func(*errs.Error) string {
		return "node command not allowed: the node did not declare any supported commands"
	}),
	nodes.ErrForeignNode.Code:     invalid("nodeId mismatch"),
	nodes.ErrDeviceClaimed.Code:   deviceAuth("device identity mismatch", "DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch"),
	nodes.ErrKeyReused.Code:       invalid("idempotencyKey was used for a different call"),
	nodes.ErrAnswerGone.Code:      unavailable("the call ran, but its answer was too large to be kept for a repetition"),
	nodes.ErrFirstGone.Code:       unavailable("the first call with this idempotencyKey went away before the answer came; the command may have run"),
	nodes.ErrTooManyInvokes.Code:  unavailable("too many calls are waiting for nodes; try again later"),
	nodes.ErrTooManyNodes.Code:    unavailable("too many nodes are connected"),
	nodes.ErrEventPayload.Code:    invalid("node event payload is larger than 256 KiB, or than 8 MiB for agent.request"),
	nodes.ErrTooManySessions.Code: unavailable("a node may subscribe to 64 sessions with keys of 512 bytes at the most"),
	nodes.ErrWaitRange.Code:       invalid("a call can wait for a node for an hour at the most"),
	nodes.ErrTooManyHeld.Code:     unavailable("too many calls wait for nodes that are not connected; try again later"),
	nodes.ErrNoRegistration.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "node " + e.Field("node") + " has no APNs registration (connect iOS node first)"}
	}),
	nodes.ErrPushText.Code:         invalid("title and body of a push may have 1000 characters together"),
	nodes.ErrTooManyPushes.Code:    unavailable("too many nodes registered for pushes"),
	push.ErrNoCredentials.Code:     invalid("APNs auth missing: set OPENCLAW_APNS_TEAM_ID and OPENCLAW_APNS_KEY_ID"),
	push.ErrNoKey.Code:             invalid("APNs private key missing: set OPENCLAW_APNS_PRIVATE_KEY_P8 or OPENCLAW_APNS_PRIVATE_KEY_PATH"),
	push.ErrKey.Code:               invalid("APNs private key invalid: it must be a P-256 key in PKCS #8 and PEM"),
	push.ErrEnvironment.Code:       invalid("the environment of a push is sandbox or production"),
	push.ErrUnreachable.Code:       unavailable("the push service did not answer"),
	nodes.ErrTriggers.Code:         invalid("voicewake.set requires triggers: string[]"),
	nodes.ErrTimeoutNegative.Code:  invalid("timeoutMs must not be negative"),
	nodes.ErrRequestUnknown.Code:   invalid("unknown requestId"),
	nodes.ErrTooManyRequests.Code:  unavailable("too many nodes wait to be paired; decide on some first"),
	nodes.ErrTooManyPairings.Code:  unavailable("too many nodes are paired"),
	nodes.ErrPairingTooLarge.Code:  invalid("a pairing request may have texts of 256 bytes and lists of 256 entries at the most"),
	nodes.ErrNoChannel.Code:        ownText,
	nodes.ErrChannelUnknown.Code:   ownText,
	nodes.ErrChannelNotOpened.Code: unavailable("the node answered without opening the channel that it was asked for"),
	nodes.ErrChannelLate.Code:      unavailable("the node did not open the channel in time"),
	nodes.ErrChannelParams.Code:    ownText,
	nodes.ErrChannelFailed.Code:    unavailable("the node gave the channel up"),
	nodes.ErrChannelClosed.Code:    unavailable("the channel was closed"),
	nodes.ErrTooManyChannels.Code:  unavailable("too many channels to nodes are open; try again later"),
	nodes.ErrConnectionClosed.Code: unavailable("the gateway is stopping"),

	approvals.ErrUnknown.Code:         invalid("unknown approval id"),
	approvals.ErrGone.Code:            invalid("approval expired or not found"),
	approvals.ErrTaken.Code:           invalid("approval id already pending"),
	approvals.ErrDecision.Code:        invalid("invalid decision"),
	approvals.ErrIDRequired.Code:      invalid("id is required"),
	approvals.ErrIDTooLong.Code:       invalid("approval id is longer than 200 bytes"),
	approvals.ErrCommandRequired.Code: invalid("command is required"),
	approvals.ErrNodeUnknown.Code:     invalid("unknown nodeId"),
	approvals.ErrCallRequired.Code: notAllowed("approval required", func(e *errs.Error) string {
		return `node command not allowed: "` + e.Field("command") + `" needs an approval; ask for one (hanzoctl nodes invoke --ask), or list it in gateway.nodes.allowCommands`
	}),
	approvals.ErrCallDenied.Code:     invalid("the call was denied"),
	approvals.ErrCallUnanswered.Code: unavailable("nobody answered in time"),
	approvals.ErrCallParams.Code:     invalid("params of a privileged command must be an object without repeated names"),
	approvals.ErrCallOrRun.Code:      invalid("ask about a command of the node or about a run, not both"),
	approvals.ErrAuditTenant.Code:    invalid("the whole audit log is for the owner of the gateway"),
	approvals.ErrNodeRequired.Code:   invalid("nodeId is required for host=node"),
	approvals.ErrPlanRequired.Code:   invalid("systemRunPlan is required for host=node"),
	approvals.ErrArgvRequired.Code:   invalid("commandArgv is required for host=node"),
	approvals.ErrTooLarge.Code:       invalid("the command of an approval may be 256 KiB at the most"),
	approvals.ErrTimeoutRange.Code:   invalid("timeoutMs must be from 1 ms to 7 days"),
	approvals.ErrTooMany.Code:        unavailable("too many approvals are pending; decide some first"),

	approvals.ErrMissingRunID.Code:  runRefusal("MISSING_RUN_ID", "approval override requires params.runId"),
	approvals.ErrUnknownRun.Code:    runRefusal("UNKNOWN_APPROVAL_ID", "unknown or expired approval id"),
	approvals.ErrRunExpired.Code:    runRefusal("APPROVAL_EXPIRED", "approval expired"),
	approvals.ErrRunNoNode.Code:     runRefusal("APPROVAL_NODE_BINDING_MISSING", "approval id missing node binding"),
	approvals.ErrRunNode.Code:       runRefusal("APPROVAL_NODE_MISMATCH", "approval id not valid for this node"),
	approvals.ErrRunDevice.Code:     runRefusal("APPROVAL_DEVICE_MISMATCH", "approval id not valid for this device"),
	approvals.ErrRunClient.Code:     runRefusal("APPROVAL_CLIENT_MISMATCH", "approval id not valid for this client"),
	approvals.ErrRunMismatch.Code:   runRefusal("APPROVAL_REQUEST_MISMATCH", "approval id does not match request"),
	approvals.ErrRunEnvMissing.Code: envRefusal("APPROVAL_ENV_BINDING_MISSING", "approval id missing env binding for requested env overrides", false),
	approvals.ErrRunEnv.Code:        envRefusal("APPROVAL_ENV_MISMATCH", "approval id env binding mismatch", true),
	approvals.ErrRunRequired.Code:   runRefusal("APPROVAL_REQUIRED", "approval required"),
	approvals.ErrRunRevoked.Code:    runRefusal("APPROVAL_REQUIRED", "approval required"),
	approvals.ErrRuleDenies.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: e.Text, Details: wire.MustMarshal(struct {
			Code  string           `json:"code"`
			Rule  string           `json:"rule"`
			Where wire.Opt[string] `json:"where,omitzero"`
			RunID wire.Opt[string] `json:"runId,omitzero"`
		}{"POLICY_DENIED", e.Field("rule"), wire.NonZero(e.Field("where")), wire.NonZero(e.Field("runId"))})}
	}),
	// As a node says it: clients look for these words (nodes-approvals.md §6.4, §8).
	approvals.ErrRuleAsks.Code: built(func(*errs.Error) wire.ErrorShape {
		return nodeFault("UNAVAILABLE", "SYSTEM_RUN_DENIED: approval required")
	}),

	agents.ErrReserved.Code: invalid(`"main" is reserved`),
	agents.ErrMain.Code:     invalid(`"main" cannot be deleted`),
	agents.ErrExists.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: `agent "` + e.Field("agent") + `" already exists`}
	}),
	agents.ErrNotFound.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: `agent "` + e.Field("agent") + `" not found`}
	}),
	agents.ErrUnknown.Code: invalid("unknown agent id"),
	agents.ErrFileName.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: `unsupported file "` + e.Field("name") + `"`}
	}),
	agents.ErrUnsafe.Code: built(func(e *errs.Error) wire.ErrorShape {
		text := `unsafe workspace file "` + e.Field("name") + `"`
		if why := e.Field("reason"); why != "" {
			text += " (" + why + ")"
		}
		return wire.ErrorShape{Code: codeInvalid, Message: text}
	}),
	agents.ErrFileSize.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: `unsafe workspace file "` + e.Field("name") + `" (file is larger than 2097152 bytes)`}
	}),
	agents.ErrKey.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: `invalid agent.identity.get params: malformed session key "` + e.Field("key") + `"`}
	}),
	agents.ErrKeyMismatch.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{
			Code: codeInvalid, Message: `invalid agent.identity.get params: agent "` + e.Field("agent") + `" does not match session key agent "` + e.Field("of") + `"`,
		}
	}),
	agents.ErrTooMany.Code:   ownText,
	agents.ErrTooLong.Code:   ownText,
	agents.ErrIncluded.Code:  ownText,
	agents.ErrTrash.Code:     ownText,
	agents.ErrWorkspace.Code: thrown,
	skills.ErrAgent.Code:     unknownAgent,
	models.ErrAgent.Code:     unknownAgent,
	skills.ErrKey.Code:       ownText,
	skills.ErrValue.Code:     ownText,
	skills.ErrBusy.Code:      unavailable("another installation is running; try again when it has ended"),
	skills.ErrWrite.Code:     thrown,
	live.ErrBase.Code:        thrown,

	approvals.ErrNotApprover.Code: ownText,
	approvals.ErrOwnRequest.Code:  ownText,
	approvals.ErrVoted.Code:       ownText,
	// The following come up with questions about the policy and with its rules, which this door does not know.
	approvals.ErrRunEmpty.Code:  ownText,
	approvals.ErrRunBoth.Code:   ownText,
	approvals.ErrManyCases.Code: ownText,
	approvals.ErrExpect.Code:    ownText,
	policy.ErrRules.Code:        ownText,
	policy.ErrRulesChanged.Code: ownText,
	policy.ErrRulesHash.Code:    ownText,
	policy.ErrRulesRead.Code:    ownText,
	// The following come up with the audit log, which this door does not know.
	approvals.ErrAuditUnknown.Code: ownText,
	approvals.ErrAuditMark.Code:    ownText,
	approvals.ErrAuditMarks.Code:   ownText,
	approvals.ErrAuditLimit.Code:   ownText,
	approvals.ErrAuditRange.Code:   ownText,
	// The following come up with grants, which this door does not know.
	approvals.ErrGrantDecision.Code: ownText,
	approvals.ErrGrantQuorum.Code:   ownText,
	approvals.ErrGrantKey.Code:      ownText,
	approvals.ErrGrantLimit.Code:    ownText,
	approvals.ErrGrantUses.Code:     ownText,
	approvals.ErrGrantUntil.Code:    ownText,
	approvals.ErrGrantSession.Code:  ownText,
	approvals.ErrGrantNote.Code:     ownText,
	approvals.ErrGrantPattern.Code:  ownText,
	approvals.ErrGrantSigns.Code:    ownText,
	approvals.ErrGrantFiles.Code:    ownText,
	approvals.ErrGrantPowers.Code:   ownText,
	approvals.ErrGrantRule.Code:     ownText,
	approvals.ErrGrantCommand.Code:  ownText,
	approvals.ErrGrantID.Code:       ownText,
	approvals.ErrUnknownGrant.Code:  ownText,
	approvals.ErrGrantEnded.Code:    ownText,
	approvals.ErrTooManyGrants.Code: ownText,

	approvals.ErrRunEnvTwice.Code: runRefusal("APPROVAL_ENV_MISMATCH", "approval id env binding mismatch"),
	approvals.ErrRunUnbound.Code:  runRefusal("APPROVAL_FILES_UNBOUND", "approval covers no files; request a new one"),
	approvals.ErrRunParams.Code:   ownText,
	approvals.ErrNodeSilent.Code:  ownText,
	approvals.ErrNotPrepared.Code: ownText,
	approvals.ErrNodeBinding.Code: ownText,

	policy.ErrRawMismatch.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{
			Code: codeInvalid, Message: "INVALID_REQUEST: rawCommand does not match command",
			Details: wire.MustMarshal(struct {
				Code       string `json:"code"`
				RawCommand string `json:"rawCommand"`
				Inferred   string `json:"inferred"`
			}{"RAW_COMMAND_MISMATCH", e.Field("rawCommand"), e.Field("inferred")}),
		}
	}),
	policy.ErrMissingCommand.Code: built(func(*errs.Error) wire.ErrorShape {
		return wire.ErrorShape{
			Code: codeInvalid, Message: "rawCommand requires params.command",
			Details: wire.MustMarshal(codeDetails{"MISSING_COMMAND"}),
		}
	}),
	policy.ErrHashRequired.Code: invalid("exec approvals base hash required; re-run exec.approvals.get and retry"),
	policy.ErrChanged.Code:      invalid("exec approvals changed since last load; re-run exec.approvals.get and retry"),
	policy.ErrInvalid.Code:      invalid("exec approvals file is required"),
	policy.ErrRead.Code:         unavailable("exec approvals file cannot be read or written"),
	policy.ErrCorrupt.Code:      unavailable("exec approvals file is damaged or of a newer version; repair or remove it"),
	policy.ErrMisread.Code:      invalid("the shell would run something else than the text that is shown for it"),
	policy.ErrUnstable.Code:     invalid("approval requires a stable executable path"),

	usage.ErrKeyRequired.Code:  texts(func(e *errs.Error) string { return "key is required for " + e.Field("for") }),
	usage.ErrReference.Code:    texts(func(e *errs.Error) string { return "Invalid session reference: " + e.Field("key") }),
	usage.ErrKey.Code:          texts(func(e *errs.Error) string { return "Invalid session key: " + e.Field("key") }),
	usage.ErrNoTranscript.Code: texts(func(e *errs.Error) string { return "No transcript found for session: " + e.Field("key") }),

	sessions.ErrKeyRequired.Code: invalid("key required"),
	sessions.ErrKeyTooLong.Code:  ownText,
	sessions.ErrWebchat.Code: texts(func(e *errs.Error) string {
		return "webchat clients cannot " + e.Field("action") + " sessions; use chat.send for session-scoped updates"
	}),
	sessions.ErrMainSession.Code: texts(func(e *errs.Error) string {
		return "Cannot delete the main session (" + e.Field("key") + ")."
	}),
	sessions.ErrActive.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: "Session " + e.Field("key") + " is still active; try again in a moment."}
	}),
	sessions.ErrChooseOne.Code: invalid("Provide either key, sessionId, or label (not multiple)"),
	sessions.ErrChoose.Code:    invalid("Either key, sessionId, or label is required"),
	sessions.ErrNotFound.Code: texts(func(e *errs.Error) string {
		return "No session found: " + e.Field("name")
	}),
	sessions.ErrLabelNotFound.Code: texts(func(e *errs.Error) string {
		return "No session found with label: " + e.Field("label")
	}),
	sessions.ErrManyIDs.Code: texts(func(e *errs.Error) string {
		return "Multiple sessions found for sessionId: " + e.Field("name") + " (" + e.Field("keys") + ")"
	}),
	sessions.ErrManyLabels.Code: texts(func(e *errs.Error) string {
		return "Multiple sessions found with label: " + e.Field("label") + " (" + e.Field("keys") + ")"
	}),
	sessions.ErrLabelEmpty.Code: invalid("invalid label: empty"),
	sessions.ErrLabelLong.Code:  invalid("invalid label: too long (max 64)"),
	sessions.ErrLabelTaken.Code: texts(func(e *errs.Error) string { return "label already in use: " + e.Field("label") }),
	sessions.ErrValue.Code: texts(func(e *errs.Error) string {
		return "invalid " + e.Field("name") + " (use " + e.Field("use") + ")"
	}),
	sessions.ErrXHigh.Code: texts(func(e *errs.Error) string {
		return `thinkingLevel "xhigh" is only supported for ` + e.Field("models")
	}),
	sessions.ErrSpawn.Code: texts(func(e *errs.Error) string {
		name := e.Field("name")
		switch e.Field("why") {
		case "only":
			return name + " is only supported for subagent:* sessions"
		case "changed":
			return name + " cannot be changed once set"
		case "cleared":
			return name + " cannot be cleared once set"
		default:
			return "invalid " + name + ": empty"
		}
	}),
	sessions.ErrSpawnDepth.Code:      invalid("invalid spawnDepth (use an integer >= 0)"),
	sessions.ErrExecNode.Code:        invalid("invalid execNode: empty"),
	sessions.ErrModelEmpty.Code:      invalid("invalid model: empty"),
	sessions.ErrModel.Code:           texts(func(e *errs.Error) string { return "invalid model: " + e.Field("model") }),
	sessions.ErrModelNotAllowed.Code: texts(func(e *errs.Error) string { return "model not allowed: " + e.Field("model") }),
	sessions.ErrModels.Code:          unavailable("model catalog unavailable"),
	sessions.ErrNoSession.Code:       invalid("session not found"),
	sessions.ErrTranscript.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: cut("failed to write transcript: " + e.Field("cause"))}
	}),
	sessions.ErrText.Code:       ownText,
	sessions.ErrTextLong.Code:   ownText,
	sessions.ErrTooMany.Code:    unavailable("there are 100000 sessions; delete some first"),
	sessions.ErrFileName.Code:   ownText,
	sessions.ErrNotRegular.Code: unavailable("the transcript is not a regular file"),
	sessions.ErrLine.Code:       ownText,
	sessions.ErrMove.Code:       unavailable("the session was changed, but its transcript could not be put aside; that happens at the next start"),
	cron.ErrUnknownJob.Code:     thrown,
	cron.ErrName.Code:           thrown,
	cron.ErrMainPayload.Code:    thrown,
	cron.ErrIsolated.Code:       thrown,
	cron.ErrMainAgent.Code:      thrown,
	cron.ErrWebhookURL.Code:     thrown,
	cron.ErrChannel.Code:        thrown,
	cron.ErrTelegram.Code:       thrown,
	cron.ErrFailureMain.Code:    thrown,
	cron.ErrFailureURL.Code:     thrown,
	cron.ErrPatchText.Code:      thrown,
	cron.ErrPatchTurn.Code:      thrown,
	cron.ErrExpression.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: cut(e.Field("said"))}
	}),
	cron.ErrZone.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: cut("TypeError: " + e.Text)}
	}),
	cron.ErrAtFormat.Code: ownText,
	cron.ErrAtPast.Code:   ownText,
	cron.ErrAtFar.Code:    ownText,
	cron.ErrRunsID.Code:   invalid("invalid cron.runs params: invalid id"),
	cron.ErrSchedule.Code: ownText,
	cron.ErrPayload.Code:  ownText,
	cron.ErrTarget.Code:   ownText,
	cron.ErrMissed.Code:   ownText,
	cron.ErrCommand.Code:  ownText,
	cron.ErrOwner.Code:    ownText,
	cron.ErrOwnKind.Code:  ownText,
	cron.ErrTooLarge.Code: ownText,
	cron.ErrTooMany.Code:  thrown,
	cron.ErrBusy.Code:     thrown,
	cron.ErrStopped.Code:  thrown,
	cron.ErrPreview.Code:  ownText,
	cron.ErrPage.Code:     ownText,
	cron.ErrFilter.Code:   ownText,

	system.ErrLogRead.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeUnavailable, Message: cut("log read failed: " + e.Error())}
	}),
	system.ErrLogRange.Code:    invalid("invalid logs.tail params: limit or maxBytes is out of range"),
	system.ErrLocalOnly.Code:   invalid("the shared secret is shown on the local socket only"),
	system.ErrBackupLocal.Code: invalid("a backup holds every secret and is made on the local socket only"),
	system.ErrBackupBusy.Code:  unavailable("another backup is being made; try again later"),
	system.ErrWakeText.Code:    invalid("text required"),
	channels.ErrLogout.Code:    invalid("invalid channels.logout channel"),
	channels.ErrLogin.Code:     invalid("web login provider is not available"),
	channels.ErrEmpty.Code:     invalid("invalid send params: text or media is required"),
	channels.ErrTo.Code:        ownText, // the schema asks for both
	channels.ErrQuestion.Code:  ownText, // so does that of poll
	channels.ErrNone.Code:      invalid("Error: Channel is required (no configured channels detected)."),
	channels.ErrInternal.Code:  invalid("unsupported channel: webchat (internal-only). Use `chat.send` for WebChat UI messages or choose a deliverable channel."),
	channels.ErrUnknown.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "unsupported channel: " + e.Field("channel")}
	}),
	channels.ErrPoll.Code: built(func(e *errs.Error) wire.ErrorShape {
		return wire.ErrorShape{Code: codeInvalid, Message: "unsupported poll channel: " + e.Field("channel")}
	}),

	system.ErrEventText.Code:    invalid("text required"),
	system.ErrEventTooLong.Code: ownText,
	// The following comes up with an agent that is named, which this door does not know.
	heartbeat.ErrUnknownAgent.Code: ownText,
	system.ErrWakeTooLong.Code:     invalid("the text is longer than 262144 bytes"),
}

// shapeOf words an error for the legacy wire. Errors without words of their own go by their
// class; what is a fault of ours says nothing of its inside.
func shapeOf(err error) wire.ErrorShape {
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ended) {
			return wire.ErrorShape{Code: codeUnavailable, Message: "Error: " + ended.Error()}
		}
	}
	e, ok := errs.As(err)
	if !ok {
		return wire.ErrorShape{Code: codeUnavailable, Message: "Error: internal error"}
	}
	if w, ok := words[e.Code]; ok {
		if w.build != nil {
			return w.build(e)
		}
		return wire.ErrorShape{Code: w.code, Message: w.message}
	}
	switch e.Class {
	case errs.Invalid, errs.NotFound, errs.Exists, errs.Conflict, errs.Denied, errs.Unauthenticated:
		return wire.ErrorShape{Code: codeInvalid, Message: cut(e.Text)}
	case errs.Internal:
		return wire.ErrorShape{Code: codeUnavailable, Message: "Error: internal error"}
	default:
		return wire.ErrorShape{Code: codeUnavailable, Message: cut("Error: " + e.Text)}
	}
}

// maxErrorText is where the original cuts the text of an exception (protocol.md §2.2).
const maxErrorText = 240

func cut(s string) string {
	if r := []rune(s); len(r) > maxErrorText {
		return string(r[:maxErrorText]) + "..."
	}
	return s
}

// authShape words a failed shared secret (protocol.md §4.3).
func authShape(reason string, a identity.Attempt, mode identity.AuthMode) wire.ErrorShape {
	tokenHint, passwordHint := "provide gateway auth token", "provide gateway auth password"
	switch {
	case a.ClientMode == "cli":
		tokenHint = "set gateway.remote.token to match gateway.auth.token"
		passwordHint = "set gateway.remote.password to match gateway.auth.password"
	case a.ControlUI || a.Webchat:
		tokenHint = "open the dashboard URL and paste the token in Control UI settings"
		passwordHint = "enter the password in Control UI settings"
	}
	tokenMissing, passwordMissing := "gateway token missing ("+tokenHint+")", "gateway password missing ("+passwordHint+")"
	code, text := "AUTH_UNAUTHORIZED", ""
	switch reason {
	case "token_missing":
		code, text = "AUTH_TOKEN_MISSING", tokenMissing
	case "token_mismatch":
		code, text = "AUTH_TOKEN_MISMATCH", "gateway token mismatch ("+tokenHint+")"
	case "token_missing_config":
		code, text = "AUTH_TOKEN_NOT_CONFIGURED", "gateway token not configured on gateway (set gateway.auth.token)"
	case "password_missing":
		code, text = "AUTH_PASSWORD_MISSING", passwordMissing
	case "password_mismatch":
		code, text = "AUTH_PASSWORD_MISMATCH", "gateway password mismatch ("+passwordHint+")"
	case "password_missing_config":
		code, text = "AUTH_PASSWORD_NOT_CONFIGURED", "gateway password not configured on gateway (set gateway.auth.password)"
	case "device_token_mismatch":
		code, text = "AUTH_DEVICE_TOKEN_MISMATCH", "device token mismatch (rotate/reissue device token)"
	case "rate_limited":
		code, text = "AUTH_RATE_LIMITED", "too many failed authentication attempts (retry later)"
	case "tailscale_user_missing":
		code, text = "AUTH_TAILSCALE_IDENTITY_MISSING", "tailscale identity missing (use Tailscale Serve auth or gateway token/password)"
	case "tailscale_proxy_missing":
		code, text = "AUTH_TAILSCALE_PROXY_MISSING", "tailscale proxy headers missing (use Tailscale Serve or gateway token/password)"
	case "tailscale_whois_failed":
		code, text = "AUTH_TAILSCALE_WHOIS_FAILED", "tailscale identity check failed (use Tailscale Serve auth or gateway token/password)"
	case "tailscale_user_mismatch":
		code, text = "AUTH_TAILSCALE_IDENTITY_MISMATCH", "tailscale identity mismatch (use Tailscale Serve auth or gateway token/password)"
	case "":
		code = "AUTH_REQUIRED"
	default:
		token, device, password := strings.TrimSpace(a.Token), strings.TrimSpace(a.DeviceToken), strings.TrimSpace(a.Password)
		switch {
		case mode == identity.AuthToken && token == "" && device != "":
			text = "device token rejected (pair/repair this device, or provide gateway token)"
		case mode == identity.AuthToken && token == "":
			text = tokenMissing
		case mode == identity.AuthPassword && password == "":
			text = passwordMissing
		}
	}
	message := "unauthorized"
	if text != "" {
		message += ": " + text
	}
	return wire.ErrorShape{Code: codeInvalid, Message: message, Details: wire.MustMarshal(struct {
		Code       string           `json:"code"`
		AuthReason wire.Opt[string] `json:"authReason,omitzero"`
	}{code, wire.NonZero(strings.TrimSpace(reason))})}
}
