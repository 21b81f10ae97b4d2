package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/errs"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/system"
)

var errEnabled = errs.Define(errs.Invalid, "rpc.enabled", "say enabled: true or false")

func (y *systemServer) SendSystemEvent(ctx context.Context, req *systemv1.SendSystemEventRequest) (*systemv1.SendSystemEventResponse, error) {
	return call(ctx, req, systemEventFromProto, y.s.d.System.SendEvent, func(system.EventOut) (*systemv1.SendSystemEventResponse, error) {
		return &systemv1.SendSystemEventResponse{}, nil
	})
}

func (y *systemServer) Wake(ctx context.Context, req *systemv1.WakeRequest) (*systemv1.WakeResponse, error) {
	return call(ctx, req, wakeFromProto, y.s.d.System.Wake, func(system.WakeOut) (*systemv1.WakeResponse, error) {
		return &systemv1.WakeResponse{}, nil
	})
}

func (y *systemServer) GetLastHeartbeat(ctx context.Context, req *systemv1.GetLastHeartbeatRequest) (*systemv1.GetLastHeartbeatResponse, error) {
	return call(ctx, req, nothing, without(y.s.d.Heartbeat.Last), lastHeartbeatToProto)
}

func (y *systemServer) SetHeartbeats(ctx context.Context, req *systemv1.SetHeartbeatsRequest) (*systemv1.SetHeartbeatsResponse, error) {
	return call(ctx, req, setHeartbeatsFromProto, y.s.d.Heartbeat.SetEnabled, func(out heartbeat.SetOut) (*systemv1.SetHeartbeatsResponse, error) {
		return &systemv1.SetHeartbeatsResponse{Enabled: out.Enabled}, nil
	})
}

func (y *systemServer) RunHeartbeat(ctx context.Context, req *systemv1.RunHeartbeatRequest) (*systemv1.RunHeartbeatResponse, error) {
	return call(ctx, req, runHeartbeatFromProto, y.s.d.Heartbeat.RunNow, outcomeToProto)
}

func (y *systemServer) GetMemoryStatus(ctx context.Context, req *systemv1.GetMemoryStatusRequest) (*systemv1.GetMemoryStatusResponse, error) {
	return call(ctx, req, nothing, without(y.s.d.System.Memory), memoryToProto)
}

func systemEventFromProto(r *systemv1.SendSystemEventRequest) (system.EventIn, error) {
	in := system.EventIn{
		Text: r.GetText(), DeviceID: r.DeviceId, InstanceID: r.InstanceId, Host: r.Host, IP: r.Ip, Mode: r.Mode, Version: r.Version,
		Platform: r.Platform, DeviceFamily: r.DeviceFamily, ModelIdentifier: r.ModelIdentifier, LastInputSeconds: r.LastInputSeconds,
		Reason: r.Reason,
	}
	for _, role := range r.GetRoles() {
		in.Roles = append(in.Roles, identity.Role(role))
	}
	for _, scope := range r.GetScopes() {
		in.Scopes = append(in.Scopes, identity.Scope(scope))
	}
	return in, nil
}

func wakeFromProto(r *systemv1.WakeRequest) (system.WakeIn, error) {
	in := system.WakeIn{Text: r.GetText(), Mode: system.WakeNow}
	if r.GetMode() == systemv1.WakeMode_WAKE_MODE_NEXT_HEARTBEAT {
		in.Mode = system.WakeNextHeartbeat
	}
	return in, nil
}

// lastHeartbeatToProto leaves the report out before the first heartbeat.
func lastHeartbeatToProto(r *heartbeat.Report) (*systemv1.GetLastHeartbeatResponse, error) {
	out := &systemv1.GetLastHeartbeatResponse{}
	if r != nil {
		out.Report = &systemv1.HeartbeatReport{
			At: timeToProto(r.At), Status: string(r.Status), Reason: cleanText(r.Reason), Preview: cleanText(r.Preview),
			Channel: cleanText(r.Channel), To: cleanText(r.To), AccountId: cleanText(r.AccountID), HasMedia: r.HasMedia,
			Silent: r.Silent, Indicator: r.Indicator,
		}
		if r.Took != nil {
			out.Report.Took = durationpb.New(*r.Took)
		}
	}
	return out, nil
}

func setHeartbeatsFromProto(r *systemv1.SetHeartbeatsRequest) (heartbeat.SetIn, error) {
	if r.Enabled == nil {
		return heartbeat.SetIn{}, errEnabled
	}
	return heartbeat.SetIn{Enabled: r.GetEnabled()}, nil
}

func runHeartbeatFromProto(r *systemv1.RunHeartbeatRequest) (heartbeat.RunIn, error) {
	return heartbeat.RunIn{Agent: r.GetAgentId()}, nil
}

func outcomeToProto(o heartbeat.Outcome) (*systemv1.RunHeartbeatResponse, error) {
	return &systemv1.RunHeartbeatResponse{Status: o.Status, Reason: cleanText(o.Reason)}, nil
}

func memoryToProto(m system.Memory) (*systemv1.GetMemoryStatusResponse, error) {
	return &systemv1.GetMemoryStatusResponse{AgentId: m.AgentID, Provider: m.Provider, Ok: m.OK, Error: m.Fault}, nil
}
