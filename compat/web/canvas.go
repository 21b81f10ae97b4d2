package web

import (
	"context"
	_ "embed"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
)

// Canvas is where the canvas host takes its pages from, and who may see them.
type Canvas struct {
	Enabled bool
	// Root holds the pages. It need not exist.
	Root string
	// A2UI holds the app that draws A2UI surfaces: index.html and what it loads. It need not exist.
	A2UI       string
	LiveReload bool
	// Capability reports whether a node that is connected holds the capability. ended is closed when it
	// is no longer connected, or has another one.
	Capability func(token string) (ended <-chan struct{}, ok bool)
}

const (
	// maxPage is the largest page that gets the live reload script; larger ones are served as they are.
	maxPage = 8 << 20
	// sendTimeout is how long a reader may leave a piece of a file lying.
	sendTimeout = 30 * time.Second
)

// canvas is the canvas host.
type canvas struct {
	w *Web
	Canvas
	reload *reloader
}

func newCanvas(w *Web) *canvas {
	c := &canvas{w: w, Canvas: w.cfg.Canvas}
	if c.LiveReload {
		c.reload = newReloader(c.Root, w.cfg.Log)
	}
	return c
}

// Canvas is the canvas host (protocol.md §1.7), there when the configuration enables it.
func (w *Web) Canvas() (Stage, bool) {
	return Stage{
		Match: func(path string) bool {
			_, ok := canvasPath(path)
			return ok
		},
		Serve: func(rw http.ResponseWriter, r *http.Request) { w.canvas.serve(rw, r) },
	}, w.canvas != nil
}

// Reload takes the upgrade of a page that waits for changes. It reports whether the request was one.
func (w *Web) Reload(rw http.ResponseWriter, r *http.Request) bool {
	if p, ok := canvasPath(r.URL.EscapedPath()); w.canvas == nil || !ok || p != "/ws" {
		return false
	}
	w.canvas.socket(rw, r)
	return true
}

// allow is the check of the canvas host: this machine itself, else the gateway's credentials, else
// the capability of a node that is connected (protocol.md §1.7). ended is closed when the right ends;
// nil when it does not by itself. When the answer is no, it was sent.
func (c *canvas) allow(rw http.ResponseWriter, r *http.Request) (ended <-chan struct{}, ok bool) {
	from := c.w.cfg.Peers.Peer(r)
	defer func() {
		if ok {
			peer.Proved(r.Context())
		}
	}()
	if from.Local && c.ownPage(r, from) {
		return nil, true
	}
	err := error(identity.ErrBearerRequired)
	// Where everybody is let in, only this machine is meant: a bearer proves nothing there.
	if r.Header["Authorization"] != nil && c.w.cfg.Mode != identity.AuthNone {
		var caller identity.Caller
		if caller, err = c.w.caller(r); err == nil {
			if caller.Role == identity.RoleOperator && caller.Has(identity.ScopeRead) {
				return nil, true
			}
			err = identity.ErrBearerNotAccepted
		}
	}
	if token := capabilityOf(r); token != "" {
		if ended, ok := c.Capability(token); ok {
			return ended, true
		}
	}
	c.w.refuse(rw, r, err)
	return nil, false
}

// ownPage reports whether a browser sent a request on behalf of no page, of a page of ours, or to
// show it as a page of its own. What any page of the web could have a browser load needs more than
// to come from this machine.
func (c *canvas) ownPage(r *http.Request, from identity.Peer) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return c.ownOrigin(r, from)
	default:
		return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" && c.ownOrigin(r, from)
	}
}

// ownOrigin reports whether the page that made a request, if one is known, is of this host or allowed.
func (c *canvas) ownOrigin(r *http.Request, from identity.Peer) bool {
	page := c.w.cfg.Peers.Page(r, from)
	return !page.Present || page.SameHost || page.MayConnect()
}

func (c *canvas) serve(rw http.ResponseWriter, r *http.Request) {
	if _, ok := c.allow(rw, r); !ok {
		return
	}
	h := rw.Header()
	h["Cache-Control"] = noStore
	p, _ := canvasPath(r.URL.EscapedPath())
	if p == "/ws" {
		if c.reload == nil {
			text(rw, http.StatusNotFound, "not found")
			return
		}
		h.Set("Upgrade", "websocket")
		text(rw, http.StatusUpgradeRequired, "upgrade required")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notAllowed(rw, "GET, HEAD")
		return
	}
	h["Content-Security-Policy"] = pagePolicy
	h["Cross-Origin-Resource-Policy"] = []string{"same-origin"}
	if rest, ok := strings.CutPrefix(p, "/a2ui"); ok {
		c.app(rw, r, rest)
		return
	}
	name, isDir, ok := fileName(strings.TrimPrefix(p, "/canvas"))
	switch {
	case ok && c.file(rw, r, c.Root, name, isDir):
	case name == ".":
		c.page(rw, r, emptyPage)
	default:
		text(rw, http.StatusNotFound, "not found")
	}
}

// pagePolicy is for pages that an agent wrote: they may draw what they like and load what the web
// offers over TLS, and neither be framed by others nor reach the rest of this port by form, frame,
// plugin or base. Scripts reach it only as any page of this origin does, whose requests need
// credentials.
var pagePolicy = []string{
	"default-src 'self' https: data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' https: wss:; " +
		"object-src 'none'; base-uri 'self'; form-action https:; frame-src 'self' https: data: blob:; frame-ancestors 'self'",
}

// app serves the A2UI app.
func (c *canvas) app(rw http.ResponseWriter, r *http.Request, p string) {
	if _, err := os.Stat(filepath.Join(c.A2UI, "index.html")); err != nil {
		text(rw, http.StatusServiceUnavailable, "A2UI assets not found")
		return
	}
	name, isDir, ok := fileName(p)
	if !ok || !c.file(rw, r, c.A2UI, name, isDir) {
		text(rw, http.StatusNotFound, "not found")
	}
}

// fileName is the file that a path below the prefix names, as sent: "." for the directory itself. dir
// says that only a directory is meant. Names that could mean something else on some system are
// refused, hidden files too.
func fileName(p string) (name string, dir, ok bool) {
	plain, err := url.PathUnescape(p)
	if err != nil || strings.ContainsAny(plain, "\x00\\:") {
		return "", false, false
	}
	parts := strings.FieldsFunc(plain, func(r rune) bool { return r == '/' })
	for _, part := range parts {
		if strings.HasPrefix(part, ".") {
			return "", false, false
		}
	}
	if len(parts) == 0 {
		return ".", true, true
	}
	name = filepath.Join(parts...)
	return name, strings.HasSuffix(plain, "/"), filepath.IsLocal(name)
}

// file serves a file below a directory, or the index.html of a directory there. It returns false,
// with nothing sent, when there is none. The directory is the bound: no link leads out of it.
func (c *canvas) file(rw http.ResponseWriter, r *http.Request, dir, name string, isDir bool) bool {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer func() { _ = root.Close() }() // only reading
	f, info := openFile(root, name, isDir)
	if f == nil {
		return false
	}
	defer func() { _ = f.Close() }() // only reading
	kind := contentType(info.Name())
	rw.Header()["Content-Type"] = []string{kind}
	out := &paced{ResponseWriter: rw}
	if c.reload != nil && strings.HasPrefix(kind, "text/html") && info.Size() <= maxPage {
		page, err := io.ReadAll(io.LimitReader(f, maxPage))
		if err != nil {
			text(rw, http.StatusInternalServerError, "Internal Server Error")
			return true
		}
		c.page(out, r, page)
		return true
	}
	// No time of change: a copy is never kept, and what changed within a second must be seen.
	http.ServeContent(out, r, "", time.Time{}, f)
	return true
}

// openFile opens a regular file, the index.html of a directory; nil when there is none.
func openFile(root *os.Root, name string, isDir bool) (*os.File, fs.FileInfo) {
	// Opened without waiting: a named pipe would wait for its writer.
	open := func(name string) (*os.File, fs.FileInfo) {
		f, err := root.OpenFile(name, os.O_RDONLY|openNonblock, 0)
		if err != nil {
			return nil, nil
		}
		info, err := f.Stat()
		if err != nil {
			_ = f.Close() // only reading
			return nil, nil
		}
		return f, info
	}
	f, info := open(name)
	if f != nil && info.IsDir() {
		_ = f.Close() // only reading
		isDir = false
		f, info = open(filepath.Join(name, "index.html"))
	}
	if f != nil && (isDir || !info.Mode().IsRegular()) {
		_ = f.Close() // only reading
		return nil, nil
	}
	return f, info
}

//go:embed pages/empty.html
var emptyPage []byte

//go:embed pages/reload.html
var reloadScript string

// page sends a page, with the script that waits for changes when those are watched.
func (c *canvas) page(rw http.ResponseWriter, r *http.Request, page []byte) {
	rw.Header()["Content-Type"] = []string{"text/html; charset=utf-8"}
	if c.reload != nil {
		page = inject(page)
	}
	if r.Method == http.MethodHead {
		return
	}
	_, _ = rw.Write(page) //nolint:gosec // showing the pages of an agent is what this is for
}

// inject puts the script at the end of the body.
func inject(page []byte) []byte {
	at := strings.LastIndex(strings.ToLower(string(page)), "</body>")
	if at < 0 || at > len(page) {
		at = len(page)
	}
	out := make([]byte, 0, len(page)+len(reloadScript))
	out = append(out, page[:at]...)
	out = append(out, reloadScript...)
	return append(out, page[at:]...)
}

// paced gives the reader time for each piece of an answer, not for the whole.
type paced struct{ http.ResponseWriter }

func (p *paced) Write(b []byte) (int, error) {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(sendTimeout))
	return p.ResponseWriter.Write(b)
}

// kinds are the content types of what canvas pages are made of. The system's own table differs from
// machine to machine.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".htm": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
	".json": "application/json; charset=utf-8", ".map": "application/json; charset=utf-8",
	".txt": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8", ".csv": "text/csv; charset=utf-8",
	".xml": "application/xml; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg",
	".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".avif": "image/avif", ".ico": "image/x-icon",
	".bmp": "image/bmp", ".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf", ".otf": "font/otf",
	".mp3": "audio/mpeg", ".wav": "audio/wav", ".ogg": "audio/ogg", ".m4a": "audio/mp4", ".mp4": "video/mp4",
	".webm": "video/webm", ".mov": "video/quicktime", ".pdf": "application/pdf", ".wasm": "application/wasm",
	".webmanifest": "application/manifest+json",
}

func contentType(name string) string {
	ext := strings.ToLower(filepath.Ext(name))
	if kind := kinds[ext]; kind != "" {
		return kind
	}
	if kind := mime.TypeByExtension(ext); kind != "" && !strings.HasPrefix(kind, "text/html") {
		return kind
	}
	return "application/octet-stream"
}

// close ends the pages that wait for changes.
func (c *canvas) close(ctx context.Context) {
	if c.reload == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		c.reload.close()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
