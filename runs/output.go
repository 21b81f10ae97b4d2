package runs

// Stream is what a command writes to.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Chunk is something that a command wrote. Offset is how many bytes of the stream stand before it; a
// reader that saw fewer missed some. Without Data it says only that.
type Chunk struct {
	Stream Stream
	Offset int64
	Data   []byte
}

// tail is the end of what a command wrote. Readers have a place of their own in it and share the rest:
// a slow one costs nothing and loses what has been pushed out. It is guarded by live.mu.
type tail struct {
	chunks []Chunk
	first  int // number of chunks[0]
	bytes  int
	ends   map[Stream]int64
}

func newTail() *tail { return &tail{ends: map[Stream]int64{}} }

// add takes a chunk that is no older than what is there; an older one, which a node may make up, is
// left out.
func (t *tail) add(c Chunk) bool {
	if c.Offset < t.ends[c.Stream] || len(c.Data) == 0 && c.Offset == t.ends[c.Stream] {
		return false
	}
	t.ends[c.Stream] = c.Offset + int64(len(c.Data))
	t.chunks = append(t.chunks, c)
	t.bytes += len(c.Data) + chunkCost
	n := 0
	for t.bytes > tailBytes && n < len(t.chunks)-1 {
		t.bytes -= len(t.chunks[n].Data) + chunkCost
		t.chunks[n] = Chunk{}
		n++
	}
	if n > 0 {
		t.chunks, t.first = t.chunks[n:], t.first+n
	}
	return true
}

// chunkCost is what a chunk takes beside its data, so that a command that writes byte by byte is
// bounded too.
const chunkCost = 64

// from returns the chunk with a number, or the first that is still there, and moves the number on.
func (t *tail) from(next *int) (Chunk, bool) {
	*next = max(*next, t.first)
	if i := *next - t.first; i < len(t.chunks) {
		*next++
		return t.chunks[i], true
	}
	return Chunk{}, false
}
