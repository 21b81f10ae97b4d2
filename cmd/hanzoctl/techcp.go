package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// techAhead is how many pieces of an upload are under way without an answer.
const techAhead = 16

func (a *app) techCpCmd() *cobra.Command {
	var f techFlags
	var from, length int64
	c := &cobra.Command{Use: "cp SOURCE TARGET", Short: "Copy a file to a node or from it, in a session", Args: cobra.ExactArgs(2),
		Long: `Copy one file: NODE:PATH or SESSION:PATH is one of a node, PATH one of this machine. It appears under
its name whole, with its checksum compared, or not at all. The same command run again after a cut
goes on where it ended. Many files and directories go with "hanzoctl cp", outside of sessions.`,
		Example: `  hanzoctl tech cp build-box:/var/log/syslog .
  hanzoctl tech cp release.tar.gz 3f2a81:/srv/app/
  hanzoctl tech cp build-box:/var/log/big.log - --from 1048576 --length 4096`,
		RunE: func(cmd *cobra.Command, args []string) error {
			source, fromNode := techPath(args[0])
			target, toNode := techPath(args[1])
			switch {
			case fromNode == toNode:
				return usagef("one of the two is a file of a node, as NODE:PATH, the other one of this machine")
			case from < 0 || length < 0:
				return usagef("--from and --length are no negative numbers")
			case (from > 0 || length > 0) && (!fromNode || args[1] != "-"):
				return usagef("--from and --length are for printing a part of a node's file: give - as the target")
			case fromNode:
				return a.inTech(cmd, &f, source.node, func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
					return a.techGet(ctx, c, s, source.path, args[1], from, length)
				})
			}
			return a.inTech(cmd, &f, target.node, func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
				return a.techPut(ctx, c, s, args[0], target.path)
			})
		}}
	f.add(c)
	c.Flags().Int64Var(&from, "from", 0, "with the target -, where to begin, in bytes")
	c.Flags().Int64Var(&length, "length", 0, "with the target -, how many bytes (up to the end)")
	return c
}

type techPlace struct{ node, path string }

// techPath reads NODE:PATH. A drive of Windows is no node.
func techPath(word string) (techPlace, bool) {
	node, rest, ok := strings.Cut(word, ":")
	if !ok || len(node) < 2 || strings.ContainsAny(node, `/\`) || rest == "" {
		return techPlace{}, false
	}
	return techPlace{node, rest}, true
}

// techRaw are the bytes of a path that is no text, which stand beside it.
func techRaw(path string) []byte {
	_, raw := rawPath(path)
	return raw
}

// techResult is what cp prints as JSON.
type techResult struct {
	Bytes   int64   `json:"bytes"`
	Resumed int64   `json:"resumedBytes"`
	SHA256  string  `json:"sha256"`
	Seconds float64 `json:"seconds"`
}

func (a *app) techDone(name string, began time.Time, bytes, resumed int64, sum string) error {
	r := techResult{bytes, resumed, sum, time.Since(began).Seconds()}
	line := fmt.Sprintf("%s: %s, sha256 %s", name, byteText(bytes), sum)
	if resumed > 0 {
		line += fmt.Sprintf(", %s of it were there already", byteText(resumed))
	}
	return a.printOne(r, sum, Text(line))
}

// techGet copies a file of a node to this machine.
func (a *app) techGet(ctx context.Context, c *client.Client, s *tunnelv1.TechSession, from, to string, offset, length int64) error {
	ch, err := c.TechChannel(ctx, s.GetSessionId(), message.File)
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close(nil) }() // everything was read
	if to == "-" {
		_, _, err := a.techRead(ctx, ch, from, offset, length, a.stdout, sha256.New(), nil)
		return err
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() || strings.HasSuffix(to, "/") {
		to = filepath.Join(to, path.Base(filepath.ToSlash(from)))
	}
	part := filepath.Join(filepath.Dir(to), partialPrefix+filepath.Base(to))
	file, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // a close that counts comes before
	// What is here already of the file, if it is that.
	have, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	sum := sha256.New()
	resumed := have
	if have > 0 {
		if _, err = file.Seek(0, io.SeekStart); err == nil {
			_, err = io.Copy(sum, file)
		}
		if err != nil {
			return err
		}
		there, err := techSum(ctx, ch, from, have)
		if err != nil || there != hex.EncodeToString(sum.Sum(nil)) {
			resumed = 0
			sum.Reset()
			if err := file.Truncate(0); err != nil {
				return err
			}
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	bar := newCopyBar(a)
	defer bar.stop()
	n, _, err := a.techRead(ctx, ch, from, resumed, 0, file, sum, bar)
	if err != nil {
		if resumed+n == 0 {
			_ = os.Remove(part) // there is nothing in it to go on with
		}
		return err
	}
	whole := hex.EncodeToString(sum.Sum(nil))
	there, err := techSum(ctx, ch, from, 0)
	if err == nil && there != whole {
		err = &codeError{code: exitConflict, text: "the file has changed while it was copied; what arrived lies in " + Text(part) + ": run the command again"}
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = file.Close()
	}
	if err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		return err
	}
	bar.stop()
	return a.techDone(to, began, resumed+n, resumed, whole)
}

// techRead writes a range of a file of a node.
func (a *app) techRead(ctx context.Context, ch message.Conn, from string, offset, length int64, to io.Writer, sum hash.Hash, bar *copyBar) (n, whole int64, err error) {
	if err := ch.Send(ctx, message.Of(message.TypeRead, message.FileRead{Path: from, PathB64: techRaw(from), Offset: offset, Length: length}, nil)); err != nil {
		return 0, 0, err
	}
	own, told := sha256.New(), false
	for {
		m, err := ch.Receive(ctx)
		if err != nil {
			return n, 0, err
		}
		if m.Type == message.TypeError {
			return n, 0, techFailure(m)
		}
		var p message.FileChunk
		if err := m.Into(&p); err != nil {
			return n, 0, err
		}
		if p.Offset != offset+n && len(m.Data) > 0 {
			return n, 0, errors.New("the node sent another part of the file than was asked for")
		}
		own.Write(m.Data) // never fails
		sum.Write(m.Data) // never fails
		if _, err := to.Write(m.Data); err != nil {
			return n, 0, err
		}
		n += int64(len(m.Data))
		if bar != nil {
			if p.Size > 0 && !told {
				told = true
				bar.expect(p.Size - offset)
			}
			bar.add(int64(len(m.Data)), spot{})
		}
		if p.Done {
			if p.SHA256 != "" && p.SHA256 != hex.EncodeToString(own.Sum(nil)) {
				return n, 0, &codeError{code: exitBroken, text: "what arrived has another checksum than what the node read; run the command again"}
			}
			return n, p.Size, nil
		}
	}
}

// techSum is the checksum of the begin of a file of a node; a length of 0 is the whole.
func techSum(ctx context.Context, ch message.Conn, name string, length int64) (string, error) {
	if err := ch.Send(ctx, message.Of(message.TypeSum, message.FileRead{Path: name, PathB64: techRaw(name), Length: length}, nil)); err != nil {
		return "", err
	}
	m, err := ch.Receive(ctx)
	if err != nil {
		return "", err
	}
	if m.Type == message.TypeError {
		return "", techFailure(m)
	}
	var p message.FileSum
	err = m.Into(&p)
	return p.SHA256, err
}

// techPut copies a file of this machine to a node.
func (a *app) techPut(ctx context.Context, c *client.Client, s *tunnelv1.TechSession, from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only reading
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = usagef("%s is no regular file", from)
	}
	if err != nil {
		return err
	}
	if strings.HasSuffix(to, "/") {
		to += filepath.Base(from)
	}
	whole := sha256.New()
	if _, err := io.Copy(whole, file); err != nil {
		return err
	}
	sum := hex.EncodeToString(whole.Sum(nil))
	ch, err := c.TechChannel(ctx, s.GetSessionId(), message.File)
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close(nil) }() // every piece was acknowledged
	// The name of the upload is of what is sent: the same command goes on with it.
	up := message.FileWrite{Path: to, PathB64: techRaw(to), Upload: sum[:32], Size: info.Size(), Parents: true, Mode: uint32(info.Mode().Perm())}
	probe := up
	probe.Probe = true
	ack, err := techAck(ctx, ch, message.Of(message.TypeWrite, probe, nil))
	if err != nil {
		return err
	}
	at := min(ack.Written, info.Size())
	if at > 0 {
		begun := sha256.New()
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(begun, file, at); err != nil {
			return err
		}
		if ack.SHA256 != "" && ack.SHA256 != hex.EncodeToString(begun.Sum(nil)) {
			at = 0
		}
	}
	resumed := at
	began := time.Now()
	bar := newCopyBar(a)
	defer bar.stop()
	bar.expect(info.Size() - at)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ahead := make(chan struct{}, techAhead)
	done := make(chan error, 1)
	go func() { // ends with the channel
		done <- func() error {
			for {
				m, err := ch.Receive(ctx)
				if err != nil {
					return err
				}
				if m.Type == message.TypeError {
					return techFailure(m)
				}
				var p message.FileAck
				if err := m.Into(&p); err != nil {
					return err
				}
				select {
				case <-ahead:
				default:
				}
				if p.Done {
					return nil
				}
			}
		}()
	}()
	buf := make([]byte, pieceSize)
	for first := true; first || at < info.Size(); first = false {
		n, err := file.ReadAt(buf[:min(int64(len(buf)), info.Size()-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 && at < info.Size() {
			return &codeError{code: exitConflict, text: "the file became shorter while it was copied"}
		}
		p := up
		p.Offset, p.EOF = at, at+int64(n) == info.Size()
		if p.EOF {
			p.SHA256 = sum
		}
		select {
		case ahead <- struct{}{}:
		case err := <-done:
			return errors.Join(err, errIfNil(err, "the node ended the upload early"))
		}
		if err := ch.Send(ctx, message.Of(message.TypeWrite, p, buf[:n])); err != nil {
			select {
			case why := <-done:
				if why != nil {
					return why
				}
			case <-time.After(callTimeout):
			}
			return err
		}
		at += int64(n)
		bar.add(int64(n), spot{})
	}
	if err := <-done; err != nil {
		return err
	}
	bar.stop()
	return a.techDone(to, began, info.Size(), resumed, sum)
}

func errIfNil(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return nil
}

// techAck sends a piece and waits for its answer.
func techAck(ctx context.Context, ch message.Conn, m message.Message) (p message.FileAck, err error) {
	if err := ch.Send(ctx, m); err != nil {
		return p, err
	}
	answer, err := ch.Receive(ctx)
	if err != nil {
		return p, err
	}
	if answer.Type == message.TypeError {
		return p, techFailure(answer)
	}
	return p, answer.Into(&p)
}
