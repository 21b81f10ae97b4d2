package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/tunnel/screens"
)

// ScreenFromLegacy reads screen.vnc, whose parameters the original does not look at: it means its own machine.
func ScreenFromLegacy(wire.Value) (screens.GetIn, error) { return screens.GetIn{}, nil }

// screenVNC is the answer of the original (tunnel.md §2.7).
type screenVNC struct {
	Available    bool     `json:"available"`
	ViewerPath   string   `json:"viewerPath"`
	WSPath       string   `json:"wsPath"`
	VNCPort      int      `json:"vncPort"`
	Instructions []string `json:"instructions"`
}

// ScreenToLegacy answers screen.vnc.
func ScreenToLegacy(out screens.GetOut) any {
	return screenVNC{Available: out.Available, ViewerPath: screens.ViewerPath, WSPath: screens.SocketPath, VNCPort: out.Port, Instructions: out.Instructions}
}
