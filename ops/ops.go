// Package ops is the catalogue of operations: one thing callers can ask for, by any door, with the
// facts that every door needs to admit and deliver it.
//
// The facts stand once, in the proto option of each RPC; Load reads them from the generated
// descriptors. Legacy methods without an RPC stand in one Go table. The package imports identity
// and gen, and owns no goroutine.
package ops

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	channelsv1 "github.com/hanzoai/hanzod/gen/hanzo/channels/v1"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	opsv1 "github.com/hanzoai/hanzod/gen/hanzo/ops/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	secretsv1 "github.com/hanzoai/hanzod/gen/hanzo/secrets/v1"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
	wizardv1 "github.com/hanzoai/hanzod/gen/hanzo/wizard/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Delivery says how an operation answers.
type Delivery uint8

// The deliveries.
const (
	Unary Delivery = iota
	TwoPhase
	Stream
)

// Rate is the class of rate limit an operation falls under.
type Rate uint8

// The rate classes.
const (
	RateNone Rate = iota
	RateControlPlane
)

// AnyRole marks operations for every authenticated caller, whatever its scopes.
const AnyRole identity.Role = "any"

// Operation is the facts of one operation.
type Operation struct {
	// Method is the full gRPC name ("/hanzo.nodes.v1.NodeService/Invoke"), empty without an RPC.
	Method string
	// Legacy is the name on the legacy door, empty without one.
	Legacy string
	Role   identity.Role
	Scope  identity.Scope
	// OrScope does as well as Scope, when it is not empty: whose the thing is decides on the rest.
	OrScope identity.Scope
	// OrNode lets nodes in beside operators, whatever the scope.
	OrNode   bool
	Delivery Delivery
	Audit    bool
	Rate     Rate
	Emits    []string
}

// Name is the shortest stable name, for logs and metrics.
func (o *Operation) Name() string {
	if o.Legacy != "" {
		return o.Legacy
	}
	return o.Method
}

// Catalogue finds operations. It is immutable and safe for concurrent use.
type Catalogue struct {
	byMethod map[string]*Operation
	byLegacy map[string]*Operation
	all      []*Operation
}

// files are the descriptors whose services make up the catalogue.
var files = []protoreflect.FileDescriptor{
	systemv1.File_hanzo_system_v1_system_proto,
	tunnelv1.File_hanzo_tunnel_v1_files_proto,
	nodesv1.File_hanzo_nodes_v1_nodes_proto,
	approvalsv1.File_hanzo_approvals_v1_approvals_proto,
	approvalsv1.File_hanzo_approvals_v1_grants_proto,
	approvalsv1.File_hanzo_approvals_v1_policy_proto,
	devicesv1.File_hanzo_devices_v1_devices_proto,
	agentsv1.File_hanzo_agents_v1_agents_proto,
	tunnelv1.File_hanzo_tunnel_v1_terminals_proto,
	tunnelv1.File_hanzo_tunnel_v1_screens_proto,
	tunnelv1.File_hanzo_tunnel_v1_tech_proto,
	tunnelv1.File_hanzo_tunnel_v1_uplinks_proto,
	updatev1.File_hanzo_update_v1_update_proto,
	configv1.File_hanzo_config_v1_config_proto,
	runsv1.File_hanzo_runs_v1_runs_proto,
	sessionsv1.File_hanzo_sessions_v1_sessions_proto,
	sessionsv1.File_hanzo_sessions_v1_usage_proto,
	auditv1.File_hanzo_audit_v1_audit_proto,
	cronv1.File_hanzo_cron_v1_cron_proto,
	channelsv1.File_hanzo_channels_v1_channels_proto,
	talkv1.File_hanzo_talk_v1_talk_proto,
	secretsv1.File_hanzo_secrets_v1_secrets_proto,
	wizardv1.File_hanzo_wizard_v1_wizard_proto,
	tunnelv1.File_hanzo_tunnel_v1_checkpoints_proto,
	tunnelv1.File_hanzo_tunnel_v1_tunnels_proto,
	tunnelv1.File_hanzo_tunnel_v1_discovery_proto,
}

// Load builds the catalogue. It fails when an RPC lacks its option or a name stands twice; the
// daemon then does not start.
func Load() (*Catalogue, error) {
	c := &Catalogue{byMethod: map[string]*Operation{}, byLegacy: map[string]*Operation{}}
	for _, f := range files {
		services := f.Services()
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for j := range methods.Len() {
				op, err := fromDescriptor(methods.Get(j))
				if err != nil {
					return nil, err
				}
				if err := c.add(op); err != nil {
					return nil, err
				}
			}
		}
	}
	for i := range legacyOnly {
		if err := c.add(&legacyOnly[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Catalogue) add(op *Operation) error {
	if op.Method != "" {
		c.byMethod[op.Method] = op
	}
	if op.Legacy != "" {
		if _, dup := c.byLegacy[op.Legacy]; dup {
			return fmt.Errorf("ops: legacy method %q stands twice", op.Legacy)
		}
		c.byLegacy[op.Legacy] = op
	}
	c.all = append(c.all, op)
	return nil
}

var roles = map[opsv1.Role]identity.Role{
	opsv1.Role_ROLE_ANY:      AnyRole,
	opsv1.Role_ROLE_OPERATOR: identity.RoleOperator,
	opsv1.Role_ROLE_NODE:     identity.RoleNode,
	opsv1.Role_ROLE_INVITED:  identity.RoleInvited,
}

var scopes = map[opsv1.Scope]identity.Scope{
	opsv1.Scope_SCOPE_UNSPECIFIED: "",
	opsv1.Scope_SCOPE_READ:        identity.ScopeRead,
	opsv1.Scope_SCOPE_WRITE:       identity.ScopeWrite,
	opsv1.Scope_SCOPE_APPROVALS:   identity.ScopeApprovals,
	opsv1.Scope_SCOPE_PAIRING:     identity.ScopePairing,
	opsv1.Scope_SCOPE_ADMIN:       identity.ScopeAdmin,
}

var deliveries = map[opsv1.Delivery]Delivery{
	opsv1.Delivery_DELIVERY_UNARY:     Unary,
	opsv1.Delivery_DELIVERY_TWO_PHASE: TwoPhase,
	opsv1.Delivery_DELIVERY_STREAM:    Stream,
}

var rates = map[opsv1.RateClass]Rate{
	opsv1.RateClass_RATE_CLASS_NONE:          RateNone,
	opsv1.RateClass_RATE_CLASS_CONTROL_PLANE: RateControlPlane,
}

func fromDescriptor(m protoreflect.MethodDescriptor) (*Operation, error) {
	name := string(m.FullName())
	opt, ok := proto.GetExtension(m.Options(), opsv1.E_Op).(*opsv1.Operation)
	if !ok || opt == nil {
		return nil, fmt.Errorf("ops: %s has no (hanzo.ops.v1.op) option", name)
	}
	role, okRole := roles[opt.GetRole()]
	delivery, okDelivery := deliveries[opt.GetDelivery()]
	rate, okRate := rates[opt.GetRate()]
	if !okRole || !okDelivery || !okRate {
		return nil, fmt.Errorf("ops: %s does not state its role, delivery and rate", name)
	}
	scope := scopes[opt.GetScope()]
	if role == identity.RoleOperator && scope == "" {
		return nil, fmt.Errorf("ops: %s is for operators and states no scope", name)
	}
	if (delivery == Stream) != m.IsStreamingServer() {
		return nil, fmt.Errorf("ops: %s states a delivery that its signature does not have", name)
	}
	return &Operation{
		Method:   "/" + string(m.Parent().FullName()) + "/" + string(m.Name()),
		Legacy:   opt.GetLegacyMethod(),
		Role:     role,
		Scope:    scope,
		OrScope:  scopes[opt.GetOrScope()],
		OrNode:   opt.GetOrNode(),
		Delivery: delivery,
		Audit:    opt.GetAudit(),
		Rate:     rate,
		Emits:    opt.GetEmits(),
	}, nil
}

// ByMethod finds an operation by its full gRPC name.
func (c *Catalogue) ByMethod(name string) (*Operation, bool) {
	op, ok := c.byMethod[name]
	return op, ok
}

// ByLegacy finds an operation by its legacy name.
func (c *Catalogue) ByLegacy(name string) (*Operation, bool) {
	op, ok := c.byLegacy[name]
	return op, ok
}

// All returns every operation, RPCs first.
func (c *Catalogue) All() []*Operation { return c.all }
