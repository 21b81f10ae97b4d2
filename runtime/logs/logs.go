// Package logs makes the daemon's logger: lines for people or machines on stderr, and a rotated
// file of bounded size in the form that logs.tail and its clients read (control-plane.md §1).
//
// It imports nothing of ours and owns no goroutine. Attributes whose names speak of secrets are
// blanked before either sees them.
package logs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

const (
	// fileBytes is when a log file is put aside, keep how many are kept besides the one in use. The
	// log so takes 64 MiB at the most.
	fileBytes = 16 << 20
	keep      = 3
)

// Options says where the log goes.
type Options struct {
	// File is the log file; empty for none.
	File string
	// MaxBytes bounds all log files together when it is smaller than the default.
	MaxBytes int64
	// Level and ConsoleLevel are legacy names: silent, fatal, error, warn, info, debug, trace.
	Level        string
	ConsoleLevel string
	// Style is pretty, compact or json; empty lets the terminal decide.
	Style   string
	Console io.Writer
	// Levels takes both levels over, so that they can be changed; nil keeps them as they are.
	Levels *Levels
	// OnLine is called for each line; it must be quick. Nil counts nothing.
	OnLine func(slog.Level)
}

// silent is above every level.
const silent = slog.Level(100)

func level(name string) slog.Level {
	switch strings.ToLower(name) {
	case "silent":
		return silent
	case "fatal":
		return slog.LevelError + 4
	case "error":
		return slog.LevelError
	case "warn":
		return slog.LevelWarn
	case "debug", "trace":
		return slog.LevelDebug
	default:
		return slog.LevelInfo
	}
}

// Levels are the levels of a logger that runs. Its methods may be called concurrently.
type Levels struct{ file, console slog.LevelVar }

// Set changes the levels, which have legacy names.
func (l *Levels) Set(file, console string) {
	l.file.Set(level(file))
	l.console.Set(level(console))
}

// New returns the logger and what closes its file.
func New(o Options) (*slog.Logger, io.Closer, error) {
	if o.Levels == nil {
		o.Levels = &Levels{}
	}
	o.Levels.Set(o.Level, o.ConsoleLevel)
	handlers := []slog.Handler{console(o)}
	var closer io.Closer = io.NopCloser(nil)
	if o.File != "" {
		w, err := openRotating(o.File, o.MaxBytes)
		if err != nil {
			return nil, nil, fmt.Errorf("open the log file: %w", err)
		}
		closer = w
		handlers = append(handlers, &fileHandler{inner: slog.NewJSONHandler(w, &slog.HandlerOptions{
			Level: &o.Levels.file, ReplaceAttr: blank,
		})})
	}
	var h slog.Handler = slog.NewMultiHandler(handlers...)
	if o.OnLine != nil {
		h = counted{h, o.OnLine}
	}
	return slog.New(h), closer, nil
}

func console(o Options) slog.Handler {
	lvl := &o.Levels.console
	f, isFile := o.Console.(*os.File)
	terminal := isFile && term.IsTerminal(int(f.Fd()))
	if o.Style == "json" || (o.Style == "" && !terminal) {
		return slog.NewJSONHandler(o.Console, &slog.HandlerOptions{Level: lvl, ReplaceAttr: blank})
	}
	return tint.NewTextHandler(o.Console, &tint.Options{
		Level: lvl, ReplaceAttr: blank, TimeFormat: time.TimeOnly, NoColor: !terminal || o.Style == "compact",
	})
}

// blank hides the value of attributes that are named like secrets.
func blank(_ []string, a slog.Attr) slog.Attr {
	k := strings.ToLower(a.Key)
	for _, s := range []string{"token", "password", "secret", "authorization", "apikey"} {
		if strings.Contains(k, s) {
			return slog.String(a.Key, "[redacted]")
		}
	}
	return a
}

// counted tells somebody of each line.
type counted struct {
	slog.Handler
	on func(slog.Level)
}

func (c counted) Handle(ctx context.Context, r slog.Record) error {
	c.on(r.Level)
	return c.Handler.Handle(ctx, r)
}

func (c counted) WithAttrs(a []slog.Attr) slog.Handler { return counted{c.Handler.WithAttrs(a), c.on} }
func (c counted) WithGroup(g string) slog.Handler      { return counted{c.Handler.WithGroup(g), c.on} }

// fileHandler adds what readers of the original's log look for: the subsystem under "0", the text
// under "1", and the level under "_meta", where the command line also looks for the subsystem, as the name.
type fileHandler struct {
	inner     slog.Handler
	subsystem string
}

// The subsystem of lines that name none.
const mainSubsystem = "gateway"

func (f *fileHandler) Enabled(ctx context.Context, l slog.Level) bool { return f.inner.Enabled(ctx, l) }

func (f *fileHandler) Handle(ctx context.Context, r slog.Record) error {
	sub := f.subsystem
	if sub == "" {
		sub = mainSubsystem
	}
	tag, err := json.Marshal(map[string]string{"subsystem": sub})
	if err != nil {
		return err
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text = withAttr(text, "", a)
		return true
	})
	r = r.Clone()
	r.AddAttrs(
		slog.String("0", string(tag)), slog.String("1", text),
		slog.Group("_meta", slog.String("logLevelName", r.Level.String()), slog.String("date", r.Time.Format(time.RFC3339Nano)), slog.String("name", string(tag))),
	)
	return f.inner.Handle(ctx, r)
}

// withAttr adds an attribute to a text, the members of a group one by one, secrets blanked.
func withAttr(text, prefix string, a slog.Attr) string {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, m := range v.Group() {
			text = withAttr(text, prefix, m)
		}
		return text
	}
	a = blank(nil, slog.Attr{Key: a.Key, Value: v})
	return text + " " + prefix + a.Key + "=" + a.Value.String()
}

func (f *fileHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	sub := f.subsystem
	for _, a := range attrs {
		if a.Key == "subsystem" {
			sub = a.Value.String()
		}
	}
	return &fileHandler{f.inner.WithAttrs(attrs), sub}
}

func (f *fileHandler) WithGroup(g string) slog.Handler {
	return &fileHandler{f.inner.WithGroup(g), f.subsystem}
}

// rotating is a file that is put aside when it is full.
type rotating struct {
	path   string
	max    int64
	mu     sync.Mutex
	f      *os.File // nil after Close, and while the file cannot be opened
	size   int64
	closed bool
}

func openRotating(path string, total int64) (*rotating, error) {
	limit := int64(fileBytes)
	if total > 0 {
		limit = min(limit, max(total/(keep+1), 4<<10))
	}
	r := &rotating{path: path, max: limit}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return r, r.open()
}

func (r *rotating) open() error {
	// Opening one would wait for its reader.
	if st, err := os.Stat(r.path); err == nil && st.Mode()&os.ModeNamedPipe != 0 {
		return fmt.Errorf("the log file %s is a named pipe: remove it, or set logging.file", r.path)
	}
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	r.f, r.size = f, info.Size()
	return nil
}

// Write appends one line. A disk that is full costs log lines, never the daemon.
func (r *rotating) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, os.ErrClosed
	}
	if r.f == nil { // the last rotation failed
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	if r.size+int64(len(p)) > r.max && r.size > 0 {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := r.f.Write(p)
	r.size += int64(n)
	return n, err
}

// rotate shifts path to path.1, path.1 to path.2 and so on; the last falls away.
func (r *rotating) rotate() error {
	_ = r.f.Close() // what it holds is written; a new file is needed either way
	r.f = nil
	for i := keep - 1; i >= 0; i-- {
		from := r.path
		if i > 0 {
			from = fmt.Sprintf("%s.%d", r.path, i)
		}
		// A missing file of the row is no fault; another one leaves a longer file, not a lost one.
		if err := os.Rename(from, fmt.Sprintf("%s.%d", r.path, i+1)); err != nil && !os.IsNotExist(err) {
			break
		}
	}
	return r.open()
}

// Close ends the file. Lines after it are lost.
func (r *rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.f == nil {
		return nil
	}
	err := r.f.Close()
	r.f = nil
	return err
}
