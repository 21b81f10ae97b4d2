package host

import (
	"os"
	"time"
)

// scriptHold is how long the files of a run are held after its start. Programs read their script and
// start what they wrap within it; and who edits one of the files in place waits no longer.
const scriptHold = 2 * time.Second

// image is what is started in place of what a path leads to.
type image struct {
	path string // what to execute
	argv []string
	dir  string     // "" is the host's own
	pass []*os.File // for the child, from descriptor 3 on; nil is none at that number
	// from is the path for people.
	from string
	// began is called when the program has started, close when it has ended or could not be started.
	began func()
	close func()
}

// byPath starts what was bound by its path: what is left where nothing is started by descriptor.
func (b *bound) byPath(argv []string) *image {
	i := &image{argv: argv, began: func() {}, close: func() {}}
	if b.exe != nil {
		i.path, i.from = b.exe.id.Path, b.exe.id.Path
	}
	if b.dir != nil {
		i.dir = b.dir.id.Path
	}
	return i
}
