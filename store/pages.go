package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The layout of bbolt's pages, in the byte order of the machine. A page starts with its number (8
// bytes), its kind (2), the number of its elements (2) and how many pages it continues over (4).
// Elements of 16 bytes follow; each says where its key and value are, counted from itself.
const (
	pageHead    = 16
	pageElem    = 16
	pageBranch  = 1
	pageLeaf    = 2
	leafBucket  = 1
	bucketHead  = 16
	firstPage   = 2 // after the two meta pages
	maxTreeDeep = 64
)

// pageWalk reads the trees of a database without bbolt, which ends the process when it meets a
// damaged page. It demands of every page what bbolt relies on.
type pageWalk struct {
	r    io.ReaderAt
	size uint64 // of a page
	n    uint64 // pages in use: 0 to n-1
	seen []bool
	// stop ends the walk early with its error; nil never does.
	stop func() error
	// buf is one page per depth, reused.
	buf [maxTreeDeep][]byte
}

// tree reads the pages below a root. Keys lie from low, and before high unless that is nil.
func (w *pageWalk) tree(id uint64, low, high []byte, depth int) error {
	if depth >= maxTreeDeep {
		return errors.New("a tree is too deep")
	}
	p, err := w.page(id, depth)
	if err != nil {
		return err
	}
	return w.elements(p, low, high, depth, func(why string) error {
		return fmt.Errorf("page %d: %s", id, why)
	})
}

// page reads a page with its continuation.
func (w *pageWalk) page(id uint64, depth int) ([]byte, error) {
	if id < firstPage || id >= w.n {
		return nil, fmt.Errorf("page %d is outside of the file", id)
	}
	if w.stop != nil {
		if err := w.stop(); err != nil {
			return nil, err
		}
	}
	b := w.grow(depth, w.size)
	if _, err := w.r.ReadAt(b, int64(id*w.size)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	more := uint64(binary.NativeEndian.Uint32(b[12:]))
	switch {
	case binary.NativeEndian.Uint64(b) != id:
		return nil, fmt.Errorf("page %d carries another number", id)
	case more >= w.n-id:
		return nil, fmt.Errorf("page %d continues outside of the file", id)
	}
	for i := id; i <= id+more; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	if more > 0 {
		b = w.grow(depth, (more+1)*w.size)
		if _, err := w.r.ReadAt(b, int64(id*w.size)); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	return b, nil
}

func (w *pageWalk) grow(depth int, n uint64) []byte {
	if uint64(cap(w.buf[depth])) < n {
		w.buf[depth] = make([]byte, n)
	}
	return w.buf[depth][:n]
}

// elements reads what is on a page, or in a bucket that is stored as a value.
func (w *pageWalk) elements(p, low, high []byte, depth int, damaged func(why string) error) error {
	kind, n := binary.NativeEndian.Uint16(p[8:]), int(binary.NativeEndian.Uint16(p[10:]))
	if kind != pageBranch && kind != pageLeaf {
		return damaged("is no page of a tree")
	}
	if pageHead+n*pageElem > len(p) || (kind == pageBranch && n == 0) {
		return damaged("has a wrong number of elements")
	}
	for i := range n {
		key, value, ok := element(p, kind, i)
		if !ok {
			return damaged("has an element outside of itself")
		}
		if len(key) == 0 && kind == pageLeaf {
			return damaged("has an empty key")
		}
		if c := bytes.Compare(low, key); c > 0 || (c == 0 && i > 0) || (high != nil && bytes.Compare(key, high) >= 0) {
			return damaged("has keys out of order")
		}
		low = key
		e := p[pageHead+i*pageElem:]
		switch {
		case kind == pageBranch:
			next := high
			if i+1 < n {
				if next, _, ok = element(p, kind, i+1); !ok {
					return damaged("has an element outside of itself")
				}
			}
			if err := w.tree(binary.NativeEndian.Uint64(e[8:]), key, next, depth+1); err != nil {
				return err
			}
		case binary.NativeEndian.Uint32(e)&leafBucket != 0:
			if err := w.bucket(value, depth, damaged); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket reads the bucket that a value describes: a tree of its own, or a page within the value.
func (w *pageWalk) bucket(v []byte, depth int, damaged func(string) error) error {
	if len(v) < bucketHead {
		return damaged("has a bucket without a head")
	}
	if root := binary.NativeEndian.Uint64(v); root != 0 {
		return w.tree(root, nil, nil, depth+1)
	}
	inline := v[bucketHead:]
	if len(inline) < pageHead || binary.NativeEndian.Uint16(inline[8:]) != pageLeaf || depth+1 >= maxTreeDeep {
		return damaged("has a damaged small bucket")
	}
	return w.elements(inline, nil, nil, depth+1, damaged)
}

// element returns the key and the value of an element, if they lie on the page.
func element(p []byte, kind uint16, i int) (key, value []byte, ok bool) {
	at := uint64(pageHead + i*pageElem)
	e := p[at:]
	pos, ks, vs := binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]), uint32(0)
	if kind == pageLeaf {
		pos, ks, vs = binary.NativeEndian.Uint32(e[4:]), binary.NativeEndian.Uint32(e[8:]), binary.NativeEndian.Uint32(e[12:])
	}
	from := at + uint64(pos)
	mid := from + uint64(ks)
	end := mid + uint64(vs)
	if end > uint64(len(p)) {
		return nil, nil, false
	}
	return p[from:mid], p[mid:end], true
}
