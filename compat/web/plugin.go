package web

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/hanzoai/hanzod/identity"
)

// VNC stands where the original relays VNC to whoever asks (protocol.md §1.8), for a handler that shows no screens.
func (w *Web) VNC() Stage {
	return Stage{IsVNC, RefuseVNC}
}

// IsVNC reports whether a path is one of the original's VNC relay.
func IsVNC(path string) bool {
	return path == "/vnc" || path == "/vnc-tunnel" || path == "/vnc-viewer"
}

// RefuseVNC answers a request for a VNC relay, an upgrade too.
func RefuseVNC(rw http.ResponseWriter, _ *http.Request) {
	text(rw, http.StatusForbidden, "No screen is shown here.")
}

// Plugins guards /api/channels: nobody gets to what channels serve there without the gateway's
// credentials (protocol.md §1.7). No channel serves anything yet.
func (w *Web) Plugins() Stage {
	return Stage{Protected, func(rw http.ResponseWriter, r *http.Request) {
		if _, ok := w.bearer(rw, r, identity.ScopeRead); !ok {
			return
		}
		text(rw, http.StatusNotFound, "Not Found")
	}}
}

// maxDecodes is how often a path is decoded to find what it may mean (protocol.md §1.7).
const maxDecodes = 32

const channelRoutes = "/api/channels"

// Protected reports whether a path, or what anything behind us may read it as, is /api/channels or
// below. A path that cannot be decoded to the end counts as protected.
func Protected(p string) bool {
	for range maxDecodes {
		clean := path.Clean("/" + strings.ToLower(strings.ReplaceAll(p, `\`, "/")))
		if below(clean, channelRoutes) {
			return true
		}
		plain, err := url.PathUnescape(p)
		if err != nil {
			return true
		}
		if plain == p {
			return false
		}
		p = plain
	}
	return true
}
