package web

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/fsnotify/fsnotify"
)

const (
	// maxWaiting is how many pages may wait for changes at one time: a few windows of a few devices.
	maxWaiting = 64
	// maxWatched is how many directories are watched. Systems give a program some thousands; a canvas
	// has a handful.
	maxWatched = 256
	// settle is how long the changes of one save are waited for before pages load again.
	settle = 100 * time.Millisecond
	// rearmEvery is how often a directory that is not there is looked for.
	rearmEvery = 2 * time.Second
	// pingEvery is how often a waiting page is asked whether it is there, pageTimeout how long a
	// message to it and its answer may take.
	pingEvery   = 30 * time.Second
	pageTimeout = 10 * time.Second
)

// reloader tells waiting pages that files have changed. It watches while a page waits.
type reloader struct {
	root string
	log  *slog.Logger
	ctx  context.Context
	end  context.CancelFunc

	mu       sync.Mutex
	waiting  map[*waiter]struct{}
	watching context.CancelFunc // nil while nobody waits
	closed   bool
	wg       sync.WaitGroup
}

// waiter is a page that waits. Changes that come while it is being told are one.
type waiter struct{ changed chan struct{} }

func newReloader(root string, log *slog.Logger) *reloader {
	r := &reloader{root: root, log: log, waiting: map[*waiter]struct{}{}}
	r.ctx, r.end = context.WithCancel(context.Background())
	return r
}

var (
	errManyPages = errors.New("too many pages wait for changes")
	errClosing   = errors.New("the canvas host is closing")
)

func (r *reloader) join() (*waiter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, errClosing
	case len(r.waiting) >= maxWaiting:
		return nil, errManyPages
	}
	p := &waiter{changed: make(chan struct{}, 1)}
	r.waiting[p] = struct{}{}
	r.wg.Add(1)
	if r.watching == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		r.watching = cancel
		r.wg.Go(func() { r.watch(ctx) })
	}
	return p, nil
}

func (r *reloader) leave(p *waiter) {
	defer r.wg.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, p)
	if len(r.waiting) == 0 {
		r.watching()
		r.watching = nil
	}
}

func (r *reloader) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.waiting {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

func (r *reloader) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	r.wg.Wait()
}

// watch tells the pages of changes below the root until ctx ends.
func (r *reloader) watch(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		r.log.Warn("the canvas directory cannot be watched; pages do not load again by themselves", "error", err)
		return
	}
	defer func() { _ = w.Close() }() // nobody waits for it any more
	t := tree{w: w, log: r.log}
	t.add(r.root)
	rearm := time.NewTicker(rearmEvery)
	defer rearm.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if e.Op == fsnotify.Chmod {
				continue
			}
			if e.Has(fsnotify.Create) {
				t.add(e.Name)
			}
			if settled == nil {
				settled = time.After(settle)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			// Events were lost: something has changed.
			r.log.Debug("watching the canvas directory", "error", err)
			if settled == nil {
				settled = time.After(settle)
			}
		case <-settled:
			settled = nil
			r.tell()
		case <-rearm.C:
			if len(w.WatchList()) > 0 {
				continue
			}
			if t.add(r.root); len(w.WatchList()) > 0 {
				r.tell()
			}
		}
	}
}

// tree watches directories and what is below them.
type tree struct {
	w    *fsnotify.Watcher
	log  *slog.Logger
	full bool
}

func (t *tree) add(dir string) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return // it is not there, or not any more
	}
	// A directory that cannot be read is not watched.
	_ = filepath.WalkDir(real, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case !e.IsDir():
			return nil
		case path != real && (strings.HasPrefix(e.Name(), ".") || e.Name() == "node_modules"):
			return fs.SkipDir
		case len(t.w.WatchList()) >= maxWatched:
			if !t.full {
				t.full = true
				t.log.Warn("the canvas has too many directories; changes in some are not noticed", "watched", maxWatched)
			}
			return fs.SkipAll
		}
		if err := t.w.Add(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.log.Debug("a directory of the canvas cannot be watched", "dir", path, "error", err)
		}
		return nil
	})
}

// socket is the WebSocket of a page that waits: it is sent the text "reload" when files change.
func (c *canvas) socket(rw http.ResponseWriter, r *http.Request) {
	ended, ok := c.allow(rw, r)
	if !ok {
		return
	}
	if c.reload == nil {
		text(rw, http.StatusNotFound, "not found")
		return
	}
	if !c.ownOrigin(r, c.w.cfg.Peers.Peer(r)) {
		text(rw, http.StatusForbidden, foreignPage)
		return
	}
	if !CheckUpgrade(rw, r) {
		return
	}
	page, err := c.reload.join()
	if err != nil {
		rw.Header().Set("Retry-After", "10")
		text(rw, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer c.reload.leave(page)
	first, _, _ := strings.Cut(r.Header.Get("Sec-WebSocket-Protocol"), ",")
	ws, err := websocket.Accept(rw, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin was judged above
		CompressionMode:    websocket.CompressionDisabled,
		Subprotocols:       []string{strings.TrimSpace(first)},
	})
	if err != nil {
		c.w.cfg.Log.Debug("an upgrade failed", "error", err)
		return
	}
	defer ws.CloseNow()
	ctx := ws.CloseRead(c.reload.ctx) // a page has nothing to say
	c.wait(ctx, ws, page, ended)
}

func (c *canvas) wait(ctx context.Context, ws *websocket.Conn, page *waiter, ended <-chan struct{}) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		var say func(context.Context) error
		select {
		case <-ctx.Done():
			return
		case <-ended:
			_ = ws.Close(websocket.StatusPolicyViolation, "the node is not connected any more")
			return
		case <-page.changed:
			say = func(ctx context.Context) error { return ws.Write(ctx, websocket.MessageText, []byte("reload")) }
		case <-ping.C:
			say = ws.Ping
		}
		limit, cancel := context.WithTimeout(ctx, pageTimeout)
		err := say(limit)
		cancel()
		if err != nil {
			return
		}
	}
}
