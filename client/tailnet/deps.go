//go:build tailnet

package tailnet

// Modules that the work of this issue needs stay in go.mod until the code that uses them is there.
import (
	_ "charm.land/bubbletea/v2"
	_ "charm.land/lipgloss/v2"
	_ "github.com/brutella/dnssd"
	_ "github.com/kevinburke/ssh_config"
	_ "github.com/spf13/cobra/doc"
	_ "golang.org/x/crypto/ssh"
	_ "golang.org/x/crypto/ssh/agent"
	_ "golang.org/x/crypto/ssh/knownhosts"
	_ "tailscale.com/derp/derpserver"
	_ "tailscale.com/net/stun/stuntest"
	_ "tailscale.com/tsnet"
	_ "tailscale.com/tstest/integration/testcontrol"
)
