//go:build !tailnet

package tailnet

import (
	"context"

	"github.com/hanzoai/hanzod/client"
)

// Built says that this build can be a machine of a tailnet by itself.
const Built = false

// Join is for builds with the tag. Its error says so.
func Join(context.Context, MachineOptions) (Machine, error) {
	return nil, &client.Error{
		Code: CodeNoService, Class: client.Unavailable,
		Message: `this build cannot join a tailnet by itself; "make dist" also makes one that can, with the build tag "tailnet"`,
	}
}

func join(_ context.Context, _ Options, why string) (network, error) {
	return nil, &client.Error{
		Code: CodeNoService, Class: client.Unavailable,
		Message: why + `; start Tailscale and log in, or use the hanzoctl with the build tag "tailnet" ("make dist" makes both), which joins by itself`,
	}
}
