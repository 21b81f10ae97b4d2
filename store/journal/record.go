package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
)

// A record on disk: the length of its body, 4 bytes, and the CRC-32C of the body, 4 bytes; then the body: the
// number of its segment, 8 bytes, so that what an older file left on the disk is not taken for a record; the
// kind, 1 byte; the offset, 8 bytes; the length of the name, 2 bytes; the name; the data. Numbers are big
// endian.
const (
	headBytes = 8
	bodyBytes = 8 + 1 + 8 + 2
	// maxBody bounds what is read for one record.
	maxBody = bodyBytes + MaxName + MaxData
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(b []byte, segment uint64, r Record) []byte {
	start := len(b)
	b = append(b, make([]byte, headBytes)...)
	b = binary.BigEndian.AppendUint64(b, segment)
	b = append(b, byte(r.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Name)))
	b = append(b, r.Name...)
	b = append(b, r.Data...)
	body := b[start+headBytes:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli))
	return b
}

// parseBody reads a body whose checksum fits. ok is false for one that no journal writes.
func parseBody(body []byte, segment uint64) (r Record, ok bool) {
	if len(body) < bodyBytes || binary.BigEndian.Uint64(body) != segment {
		return r, false
	}
	r.Kind = Kind(body[8])
	r.Offset = int64(binary.BigEndian.Uint64(body[9:]))
	n := int(binary.BigEndian.Uint16(body[17:]))
	rest := body[bodyBytes:]
	if n > len(rest) || n > MaxName || r.Offset < 0 || (r.Kind != KindAppend && r.Kind != KindVoid) {
		return r, false
	}
	r.Name, r.Data = string(rest[:n]), rest[n:]
	return r, true
}

// Read hands the records of a segment to f, whose error ends it. It stops without an error at the first record
// that is not whole: a crash cut it off, and nobody was told that it is on disk. The data of a record is valid
// until f returns.
func Read(path string, f func(Record) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	number, _ := numberOf(baseName(path))
	return read(file, number, f)
}

func baseName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if os.IsPathSeparator(path[i]) {
			return path[i+1:]
		}
	}
	return path
}

func read(r io.Reader, segment uint64, f func(Record) error) error {
	br := bufio.NewReaderSize(r, 1<<18)
	var head [headBytes]byte
	var body []byte
	for {
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return ended(err)
		}
		n := int64(binary.BigEndian.Uint32(head[:]))
		if n < bodyBytes || n > maxBody {
			return nil
		}
		if int64(cap(body)) < n {
			if n > 1<<20 {
				// The length may be nonsense: what is not there is not made room for.
				whole, err := io.ReadAll(io.LimitReader(br, n))
				if err != nil {
					return err
				}
				if int64(len(whole)) < n {
					return nil
				}
				body = whole
			} else {
				body = make([]byte, n)
				if _, err := io.ReadFull(br, body); err != nil {
					return ended(err)
				}
			}
		} else {
			body = body[:n]
			if _, err := io.ReadFull(br, body); err != nil {
				return ended(err)
			}
		}
		if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
			return nil
		}
		rec, ok := parseBody(body, segment)
		if !ok {
			return nil
		}
		if err := f(rec); err != nil {
			return err
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
