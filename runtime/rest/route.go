package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/compat/tech"
	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/tunnel/screens"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// route lists what answers a request that is no upgrade; the first that matches does. The order is
// that of protocol.md §1.6 with our own routes in it. Paths are compared as they were sent: a path
// in another spelling is another path, so that none slips past the check of the one it looks like.
func (s *server) route() []web.Stage {
	var list []web.Stage
	add := func(stage web.Stage, there bool) {
		if there {
			list = append(list, stage)
		}
	}
	own := func(serve http.HandlerFunc, paths ...string) {
		add(web.Stage{Match: anyOf(paths), Serve: serve}, true)
	}
	add(web.Stage{Match: isScreen, Serve: s.screen}, s.d.Screens != nil)
	if w := s.d.Web; w != nil {
		if s.d.Screens == nil {
			add(w.VNC(), true)
		}
		add(w.Hooks())
		add(w.Tools(), true)
		// Slack over HTTP comes with the channels.
		add(w.Responses())
		add(w.ChatCompletions())
		add(w.Canvas())
	}
	if s.d.Links != nil {
		add(web.Stage{Match: hanzotunnel.Serves, Serve: upgradeRequired}, true)
	}
	if e := s.d.Endpoints; e != nil {
		add(web.Stage{Match: hoody.ServesEndpoint, Serve: func(w http.ResponseWriter, r *http.Request) { e.Serve(w, r, s.guard) }}, true)
	}
	if e := s.d.Tech; e != nil {
		add(web.Stage{Match: tech.Serves, Serve: func(w http.ResponseWriter, r *http.Request) { e.Serve(w, r, s.guard) }}, true)
	}
	if s.d.Carriers != nil {
		add(web.Stage{Match: anyOf([]string{hoody.Path}), Serve: carrierRequired}, true)
	}
	add(web.Stage{Match: isFileRoute, Serve: s.contents}, true)
	add(web.Stage{Match: func(path string) bool { return attaches(path) != "" }, Serve: attachRequired}, true)
	add(web.Stage{Match: isTechChannel, Serve: techRequired}, true)
	add(web.Stage{Match: below("/v1/"), Serve: s.mux.ServeHTTP}, true)
	own(s.metrics, "/metrics")
	own(s.document, "/openapi.json")
	if w := s.d.Web; w != nil {
		add(w.Plugins(), true)
	}
	// The probes stand behind the Control UI in the original, and in front of it here.
	own(s.live, "/health", "/healthz")
	own(s.ready, "/ready", "/readyz")
	if w := s.d.Web; w != nil {
		add(w.ControlUI())
	}
	return list
}

func anyOf(paths []string) func(string) bool {
	return func(path string) bool { return slices.Contains(paths, path) }
}

func below(prefix string) func(string) bool {
	return func(path string) bool { return strings.HasPrefix(path, prefix) }
}

// upgrade hands a request for another protocol to who speaks it (protocol.md §1.2). The Host header
// is not looked at: clients come by many names of this machine, and a web page that got here by a
// name of its own is known by its Origin, which the handshake judges.
func (s *server) upgrade(w http.ResponseWriter, r *http.Request, scoped bool) {
	if r.ContentLength != 0 {
		dismiss(w)
	}
	switch {
	case s.d.Screens == nil && web.IsVNC(r.URL.EscapedPath()):
		web.RefuseVNC(w, r)
	case s.d.Screens != nil && r.URL.EscapedPath() == screens.CallPath:
		s.calledBack(w, r)
	case s.d.Screens != nil && r.URL.EscapedPath() == screens.SocketPath:
		if web.CheckUpgrade(w, r) {
			s.screenSocket(w, r)
		}
	case s.d.Screens != nil && isScreen(r.URL.EscapedPath()):
		web.RefuseVNC(w, r)
	case !scoped:
		web.RefuseUpgrade(w)
	case s.d.Web != nil && s.d.Web.Reload(w, r):
	case s.d.Links != nil && hanzotunnel.Serves(r.URL.EscapedPath()):
		if web.CheckUpgrade(w, r) {
			s.d.Links.ServeHTTP(w, r)
		}
	case s.d.Carriers != nil && r.URL.EscapedPath() == hoody.Path:
		if web.CheckUpgrade(w, r) {
			s.d.Carriers.ServeHTTP(w, r)
		}
	case attaches(r.URL.EscapedPath()) != "":
		if web.CheckUpgrade(w, r) {
			s.attach(w, r, attaches(r.URL.EscapedPath()))
		}
	case isTechChannel(r.URL.EscapedPath()):
		if web.CheckUpgrade(w, r) {
			s.techChannel(w, r)
		}
	case web.CheckUpgrade(w, r):
		s.d.Legacy.ServeHTTP(w, r)
	}
}

// upgradeRequired answers a request that is no upgrade where instances link.
func upgradeRequired(w http.ResponseWriter, r *http.Request) {
	wantUpgrade(w, r, "instances link here with a WebSocket")
}

// carrierRequired answers a request that is no upgrade where carriers are opened.
func carrierRequired(w http.ResponseWriter, r *http.Request) {
	wantUpgrade(w, r, "carriers are opened here with a WebSocket of the subprotocol "+wire.V2+" or "+wire.V1)
}

func wantUpgrade(w http.ResponseWriter, r *http.Request, why string) {
	w.Header()["Cache-Control"] = noStore
	if !reads(w, r) {
		return
	}
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	text(w, http.StatusUpgradeRequired, "Upgrade Required: "+why)
}

func (s *server) live(w http.ResponseWriter, r *http.Request) {
	probe(w, r, http.StatusOK, `{"ok":true,"status":"live"}`)
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	switch state := s.d.Ready(); state {
	case "ready":
		probe(w, r, http.StatusOK, `{"ok":true,"status":"ready"}`)
	case "stopping":
		probe(w, r, http.StatusServiceUnavailable, `{"ok":false,"status":"stopping"}`)
	default:
		probe(w, r, http.StatusServiceUnavailable, `{"ok":false,"status":"starting"}`)
	}
}
