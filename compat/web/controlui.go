package web

import (
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
)

// ControlUI is the web page of the original, which is served as it was built (protocol.md §1.7, control-ui.md §1.1).
type ControlUI struct {
	Enabled bool
	// Root is the directory that it was built into; empty where the configuration names none.
	Root string
	// Base is "" or a path with a leading and no trailing slash, as in URLs.
	Base string
	// Assistant is how the default agent presents itself, Avatar the image of one.
	Assistant func() (name, avatar, agentID string)
	Avatar    func(agentID string) (data []byte, mime, address string)
	// Version is the daemon's own.
	Version string
}

// bootstrapPaths are where the page asks what it belongs to: doubled as in the original, and where the page that the
// package openclaw has asks.
var bootstrapPaths = []string{"/__bot__/__bot/control-ui-config.json", "/__openclaw/control-ui-config.json"}

// The headers of the page (protocol.md §1.7).
var (
	uiPolicy = []string{
		"default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; script-src 'self'; style-src 'self' 'unsafe-inline' " +
			"https://fonts.googleapis.com; img-src 'self' data: https:; font-src 'self' https://fonts.gstatic.com; connect-src 'self' ws: wss:",
	}
	// avatarPolicy is for images that somebody opens as pages: an SVG may hold scripts.
	avatarPolicy = []string{"default-src 'none'; style-src 'unsafe-inline'; sandbox"}
	deny         = []string{"DENY"}
	noCache      = []string{"no-cache"}
	noReferrer   = []string{"no-referrer"}
	noSniff      = []string{"nosniff"}
)

// static are the extensions whose files are there or are not: no path of the page's own ends so.
var static = map[string]bool{
	".js": true, ".css": true, ".json": true, ".map": true, ".svg": true, ".png": true, ".jpg": true, ".jpeg": true, ".gif": true, ".webp": true,
	".ico": true, ".txt": true,
}

// bootstrap is what the page asks for before it connects.
type bootstrap struct {
	BasePath         string `json:"basePath"`
	AssistantName    string `json:"assistantName"`
	AssistantAvatar  string `json:"assistantAvatar"`
	AssistantAgentID string `json:"assistantAgentId"`
	ServerVersion    string `json:"serverVersion"`
}

// ControlUI serves the page, there when the configuration enables it. Without a base path it takes every path that nobody
// else has.
func (w *Web) ControlUI() (Stage, bool) {
	base := escaped(w.cfg.UI.Base)
	return Stage{
		Match: func(p string) bool {
			if base != "" {
				return below(p, base)
			}
			return !below(p, "/api") && !below(p, "/plugins")
		},
		Serve: func(rw http.ResponseWriter, r *http.Request) { w.controlUI(rw, r, base) },
	}, w.cfg.UI.Enabled
}

func (w *Web) controlUI(rw http.ResponseWriter, r *http.Request, base string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		text(rw, http.StatusNotFound, "Not Found")
		return
	}
	p := r.URL.EscapedPath()
	if base != "" && p == base {
		to := base + "/"
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		rw.Header()["Location"] = []string{to}
		rw.WriteHeader(http.StatusFound)
		return
	}
	p = strings.TrimPrefix(p, base)
	h := rw.Header()
	h["X-Frame-Options"], h["X-Content-Type-Options"], h["Referrer-Policy"] = deny, noSniff, noReferrer
	h["Content-Security-Policy"] = uiPolicy
	h["Cache-Control"] = noCache
	if id, ok := strings.CutPrefix(p, "/avatar/"); ok && id != "" && !strings.Contains(id, "/") {
		w.avatar(rw, r, id)
		return
	}
	switch {
	case slices.Contains(bootstrapPaths, p):
		b := bootstrap{BasePath: w.cfg.UI.Base, ServerVersion: w.cfg.UI.Version}
		b.AssistantName, b.AssistantAvatar, b.AssistantAgentID = w.cfg.UI.Assistant()
		answer(rw, http.StatusOK, b)
	case base == "" && below(p, "/ui"):
		text(rw, http.StatusNotFound, "Not Found")
	default:
		w.uiFile(rw, r, p)
	}
}

// uiFile serves a file of the page, or the page itself where no file can be meant.
func (w *Web) uiFile(rw http.ResponseWriter, r *http.Request, p string) {
	var root *os.Root
	if w.cfg.UI.Root != "" {
		root, _ = os.OpenRoot(w.cfg.UI.Root) // what is not there is told below
	}
	if root == nil {
		w.noUI(rw, p)
		return
	}
	defer func() { _ = root.Close() }() // only reading
	// The page may be anywhere below its base, and asks for its assets from there.
	if i := strings.LastIndex(p, "/assets/"); i > 0 {
		p = p[i:]
	}
	name, isDir, ok := fileName(p)
	plain, _ := url.PathUnescape(p) // fileName has read it
	if ok && name != "." && !isDir {
		if f, info := openFile(root, name, false); f != nil {
			defer func() { _ = f.Close() }() // only reading
			if path.Base(plain) == info.Name() {
				rw.Header()["Content-Type"] = []string{contentType(info.Name())}
				http.ServeContent(&paced{ResponseWriter: rw}, r, "", info.ModTime(), f)
				return
			}
		}
	}
	if !ok || static[strings.ToLower(path.Ext(plain))] {
		text(rw, http.StatusNotFound, "Not Found")
		return
	}
	f, info := openFile(root, "index.html", false)
	if f == nil {
		w.noUI(rw, "/")
		return
	}
	defer func() { _ = f.Close() }() // only reading
	rw.Header()["Content-Type"] = []string{kinds[".html"]}
	http.ServeContent(&paced{ResponseWriter: rw}, r, "", info.ModTime(), f)
}

// noUI answers where the page is not: to people who look for it what to do, to all else that there is nothing.
func (w *Web) noUI(rw http.ResponseWriter, p string) {
	if p != "/" {
		text(rw, http.StatusNotFound, "Not Found")
		return
	}
	where := "no directory is set"
	if w.cfg.UI.Root != "" {
		where = "there is no index.html in the directory that is set"
	}
	text(rw, http.StatusServiceUnavailable, "The Control UI is not here: "+where+". Name the directory that holds its index.html in gateway.controlUi.root, "+
		"or switch it off with gateway.controlUi.enabled: false.\n")
}

// avatar serves the image of an agent, or with meta=1 says where it is.
func (w *Web) avatar(rw http.ResponseWriter, r *http.Request, escapedID string) {
	id, err := url.PathUnescape(escapedID)
	if err != nil || strings.ContainsAny(id, "/\\\x00") {
		text(rw, http.StatusNotFound, "Not Found")
		return
	}
	data, mime, address := w.cfg.UI.Avatar(id)
	if r.URL.Query().Get("meta") == "1" {
		at := wire.NullOf[string]()
		switch {
		case mime != "":
			at = wire.Some(w.cfg.UI.Base + "/avatar/" + url.PathEscape(id))
		case address != "":
			at = wire.Some(address)
		}
		answer(rw, http.StatusOK, struct {
			AvatarURL wire.Opt[string] `json:"avatarUrl"`
		}{at})
		return
	}
	if mime == "" {
		text(rw, http.StatusNotFound, "Not Found")
		return
	}
	rw.Header()["Content-Security-Policy"] = avatarPolicy
	rw.Header()["Content-Type"] = []string{mime}
	http.ServeContent(&paced{ResponseWriter: rw}, r, "", time.Time{}, strings.NewReader(string(data)))
}
