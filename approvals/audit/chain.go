// Package audit is the chain of the audit log: how the rows hang together, and how somebody who has
// only the rows finds out whether they are all there and as they were written.
//
// It knows the form of the chain and not the meaning of the rows, imports the standard library only,
// and owns no goroutine. The store writes the chain, hanzoctl checks one that was exported.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
)

// tag begins what is hashed for a row, so that no other hash of this program is one of a row.
const tag = "hanzod audit row 1\x00"

// Hash is the hash of a row. That of no row is all zero.
type Hash [sha256.Size]byte

// String is the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// errHash is the answer to text that is no hash.
var errHash = errors.New("a hash is 64 hexadecimal digits")

// ParseHash reads what String writes.
func ParseHash(text string) (h Hash, err error) {
	if len(text) != hex.EncodedLen(len(h)) {
		return h, errHash
	}
	if _, err := hex.Decode(h[:], []byte(text)); err != nil {
		return Hash{}, errHash
	}
	return h, nil
}

// Link is the hash of a row: SHA-256 over a fixed tag, the sequence number (8 bytes, big endian), the
// hash of the row before, the length of the record (8 bytes, big endian) and the record, byte by byte
// as it is stored. All but the record have a fixed length, so no two rows are hashed alike.
func Link(seq uint64, prev Hash, record []byte) Hash {
	return (&Chain{}).link(seq, prev, record)
}

// Chain makes links one after the other without allocating. It is not for concurrent use.
type Chain struct {
	h   hash.Hash
	buf [len(tag) + 8 + sha256.Size + 8]byte
}

func (c *Chain) link(seq uint64, prev Hash, record []byte) (out Hash) {
	if c.h == nil {
		c.h = sha256.New()
		copy(c.buf[:], tag)
	}
	c.h.Reset()
	b := c.buf[:len(tag)]
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, prev[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(record)))
	c.h.Write(b)
	c.h.Write(record)
	c.h.Sum(out[:0])
	return out
}
