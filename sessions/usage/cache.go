package usage

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sort"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions"
)

// maxSpans bounds what is kept of all transcripts together, about 500 bytes each. Beyond it sums are made anew each
// time.
const maxSpans = 30_000

// cache keeps the sums of transcripts. Only the holder of turn touches it.
type cache struct {
	files Files
	turn  chan struct{} // one scan at a time: they cost the machine, and help each other
	kept  map[sessions.File]*sums
	spans int
}

func newCache(files Files) cache {
	return cache{files: files, turn: make(chan struct{}, 1), kept: map[sessions.File]*sums{}}
}

// with calls f with the spans of a transcript as it is now. One that is gone, and one that cannot be read, has none:
// the others still count. It fails only when ctx ends.
func (c *cache) with(ctx context.Context, file sessions.Found, f func([]span)) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return gone(ctx)
	}
	defer func() { <-c.turn }()
	had := c.kept[file.File]
	if had == nil || had.size != file.Size || !had.mod.Equal(file.ModTime) {
		var err error
		if had, err = c.read(ctx, file.File, had); err != nil {
			if ctx.Err() != nil {
				return gone(ctx)
			}
			return nil
		}
	}
	f(had.spans)
	return nil
}

func gone(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errs.Wrap(errs.Deadline, "read the transcripts", ctx.Err())
	}
	return errs.Wrap(errs.Unavailable, "read the transcripts", ctx.Err())
}

// read makes the sums of a transcript, from those it had when it only grew.
func (c *cache) read(ctx context.Context, f sessions.File, had *sums) (*sums, error) {
	c.drop(f)
	t, err := c.files.Open(f)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return &sums{}, nil
		}
		return nil, err
	}
	defer t.Close()
	if had == nil || !had.grown(t) {
		had = &sums{}
	}
	if err := had.scan(ctx, t); err != nil {
		return nil, err
	}
	had.spans = slices.Clip(had.spans)
	if c.spans+len(had.spans) <= maxSpans {
		c.kept[f] = had
		c.spans += len(had.spans)
	}
	return had, nil
}

func (c *cache) drop(f sessions.File) {
	if s := c.kept[f]; s != nil {
		c.spans -= len(s.spans)
		delete(c.kept, f)
	}
}

// forget drops what is not among files any more.
func (c *cache) forget(files []sessions.Found) {
	select {
	case c.turn <- struct{}{}:
	default:
		return // the next one does it
	}
	defer func() { <-c.turn }()
	if len(c.kept) <= len(files) {
		return
	}
	there := make(map[sessions.File]bool, len(files))
	for _, f := range files {
		there[f.File] = true
	}
	for f := range c.kept {
		if !there[f] {
			c.drop(f)
		}
	}
}

// within are the spans from one slot up to another; they are in order.
func within(spans []span, from, to int64) []span {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].slot >= from })
	j := sort.Search(len(spans), func(i int) bool { return spans[i].slot >= to })
	if j <= i {
		return nil
	}
	return spans[i:j]
}

// counted reports whether a file counts: transcripts, and those of sessions that were reset or deleted, which cost what
// they cost. Copies that were made before a truncation hold what the transcript holds too.
func counted(name string) bool {
	_, rest, ok := strings.Cut(name, ".jsonl")
	return ok && (rest == "" || strings.HasPrefix(rest, ".reset.") || strings.HasPrefix(rest, ".deleted."))
}

// stem is the name of a transcript without what came after it.
func stem(name string) string {
	before, _, _ := strings.Cut(name, ".jsonl")
	return before
}
