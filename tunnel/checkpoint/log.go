package checkpoint

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a Log. Those in characters and lines are the bridge's (§1.9); it has no others.
const (
	// StdoutKept and StderrKept are how many characters at the end of the output of a command are kept.
	StdoutKept = 2048
	StderrKept = 1024
	// ScrollbackLines is how many lines of scrollback are kept, ScrollbackPieces how many pieces at the end of an
	// output go there, of its last scrollbackText characters.
	ScrollbackLines  = 500
	ScrollbackPieces = 20
	scrollbackText   = 4096
	// MaxMessages and MaxCommands are how many there are at most, and MaxLogBytes how much text is in all of them;
	// the oldest go first.
	MaxMessages = 100_000
	MaxCommands = 100_000
	MaxLogBytes = 32 << 20
	// MaxMessageText bounds one message and one command line, in bytes.
	MaxMessageText = 1 << 20
	// maxLine bounds a line of scrollback, in bytes.
	maxLine = 4 * scrollbackText
	// compactAfter is how much larger than its content the file of a log grows before it is written anew.
	compactAfter = 4 << 20
)

// Log is what an instance said and did. Its methods may be called concurrently.
type Log struct {
	now func() time.Time
	log *slog.Logger

	mu           sync.Mutex
	started      Seconds
	conversation []Message
	commands     []Command
	scrollback   []string
	bytes        int // of conversation and commands

	path    string // "" keeps it in memory
	file    *os.File
	written int64
	broken  bool
}

// record is a line of the file of a log. One of them is set.
type record struct {
	Started *Seconds `json:"s,omitempty"`
	Said    *Message `json:"m,omitempty"`
	Ran     *Command `json:"c,omitempty"`
	// Tail is the output that goes to the scrollback when it is longer than what the command keeps.
	Tail  string   `json:"t,omitempty"`
	Lines []string `json:"l,omitempty"`
	// Quiet leaves the scrollback alone: its lines come by themselves.
	Quiet bool `json:"q,omitempty"`
}

// OpenLog opens the log in a file, or one in memory when path is empty. What the process wrote is there after a
// restart; after a power failure the last lines may be missing. now nil is time.Now, log nil says nothing.
func OpenLog(path string, log *slog.Logger, now func() time.Time) (*Log, error) {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &Log{now: now, log: log, path: path, started: Seconds(now().Unix())}
	if path == "" {
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := l.replay(); err != nil {
		return nil, fmt.Errorf("read the session log %s: %w", path, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.rewrite(); err != nil {
		return nil, fmt.Errorf("write the session log %s: %w", path, err)
	}
	return l, nil
}

// Close closes the file. The log stays readable.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.broken = nil, true
	return err
}

// Said records one side of an exchange. role is "user" or "assistant"; cmdID the id of the command that it belongs to.
func (l *Log) Said(role, content, cmdID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := Message{Role: role, Content: valid(tailBytes(content, MaxMessageText)), TS: Seconds(l.now().Unix()), CmdID: cmdID}
	l.said(m)
	l.write(record{Said: &m})
}

// Ran records a command that ended. stdout and stderr are the output as text, whole or its end.
func (l *Log) Ran(cmd string, exitCode int, stdout, stderr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// First the bytes: four of them make a character at most.
	stdout, stderr = valid(tailBytes(stdout, 4*scrollbackText)), valid(tailBytes(stderr, 4*scrollbackText))
	tail := lastChars(stdout, scrollbackText)
	c := Command{
		Cmd: valid(tailBytes(cmd, MaxMessageText)), ExitCode: exitCode, Stdout: lastChars(stdout, StdoutKept), TS: Seconds(l.now().Unix()),
		Stderr: lastChars(stderr, StderrKept),
	}
	l.ran(c)
	l.scroll(c.Cmd, tail)
	r := record{Ran: &c}
	if tail != c.Stdout {
		r.Tail = tail
	}
	l.write(r)
}

// Counts are how many messages, commands and lines of scrollback there are.
type Counts struct{ Conversation, Commands, Scrollback int }

// Counts returns them.
func (l *Log) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Counts{len(l.conversation), len(l.commands), len(l.scrollback)}
}

// StartedAt is when the session began, in seconds since 1970.
func (l *Log) StartedAt() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.started)
}

// Session returns what there is, with a working directory.
func (l *Log) Session(cwd string) Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Session{
		StartedAt: l.started, Cwd: cwd,
		Conversation: slices.Clone(l.conversation), Commands: slices.Clone(l.commands), Scrollback: slices.Clone(l.scrollback),
	}
}

// Replace takes over the session of a checkpoint: all but its working directory, and the last 500 lines of scrollback
// (§1.10). It is on disk when Replace returns nil.
func (l *Log) Replace(s Session) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started, l.conversation, l.commands, l.scrollback, l.bytes = s.StartedAt, nil, nil, nil, 0
	for _, m := range s.Conversation {
		m.Content = tailBytes(m.Content, MaxMessageText)
		l.said(m)
	}
	for _, c := range s.Commands {
		c.Cmd, c.Stdout, c.Stderr = tailBytes(c.Cmd, MaxMessageText), lastChars(c.Stdout, StdoutKept), lastChars(c.Stderr, StderrKept)
		l.ran(c)
	}
	l.lines(s.Scrollback...)
	if l.path == "" {
		return nil
	}
	return l.rewrite()
}

func (l *Log) said(m Message) {
	l.conversation = append(l.conversation, m)
	l.bytes += sizeOf(m)
	l.bound()
}

func (l *Log) ran(c Command) {
	l.commands = append(l.commands, c)
	l.bytes += sizeOfCommand(c)
	l.bound()
}

func sizeOf(m Message) int        { return len(m.Content) + len(m.CmdID) + 64 }
func sizeOfCommand(c Command) int { return len(c.Cmd) + len(c.Stdout) + len(c.Stderr) + 64 }

// bound drops the oldest.
func (l *Log) bound() {
	for len(l.conversation) > MaxMessages || l.bytes > MaxLogBytes && len(l.conversation) > len(l.commands) {
		l.bytes -= sizeOf(l.conversation[0])
		l.conversation = l.conversation[1:]
	}
	for len(l.commands) > MaxCommands || l.bytes > MaxLogBytes && len(l.commands) > 0 {
		l.bytes -= sizeOfCommand(l.commands[0])
		l.commands = l.commands[1:]
	}
}

func (l *Log) scroll(cmd, stdout string) {
	pieces := strings.Split(stdout, "\n")
	lines := []string{"$ " + cmd}
	for _, p := range pieces[max(len(pieces)-ScrollbackPieces, 0):] {
		if strings.TrimFunc(p, space) != "" {
			lines = append(lines, p)
		}
	}
	l.lines(lines...)
}

// space is what Python's str.strip takes away.
func space(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func (l *Log) lines(lines ...string) {
	lines = lines[max(len(lines)-ScrollbackLines, 0):]
	for _, line := range lines {
		l.scrollback = append(l.scrollback, headBytes(line, maxLine))
	}
	if over := len(l.scrollback) - ScrollbackLines; over > 0 {
		l.scrollback = slices.Clone(l.scrollback[over:])
	}
}

// replay reads the file. A line that cannot be read, as the last one after a crash, is left out.
func (l *Log) replay() error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := readLine(in, 16<<20)
		if line != nil {
			var r record
			if json.Unmarshal(line, &r) == nil {
				l.apply(r)
			} else {
				l.log.Warn("a line of the session log cannot be read and is left out", "path", l.path)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLine returns a line without its end, nil when it is empty or longer than most.
func readLine(in *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for over := false; ; {
		piece, more, err := in.ReadLine()
		if len(line)+len(piece) > most {
			over = true
		}
		if !over {
			line = append(line, piece...)
		}
		if err != nil || !more {
			if over || len(line) == 0 {
				line = nil
			}
			return line, err
		}
	}
}

func (l *Log) apply(r record) {
	switch {
	case r.Started != nil:
		l.started, l.conversation, l.commands, l.scrollback, l.bytes = *r.Started, nil, nil, nil, 0
	case r.Said != nil:
		l.said(*r.Said)
	case r.Ran != nil:
		l.ran(*r.Ran)
		if !r.Quiet {
			tail := r.Tail
			if tail == "" {
				tail = r.Ran.Stdout
			}
			l.scroll(r.Ran.Cmd, tail)
		}
	case r.Lines != nil:
		l.lines(r.Lines...)
	}
}

// write appends a record. A failure is logged and the log goes on in memory.
func (l *Log) write(r record) {
	if l.path == "" || l.broken {
		return
	}
	line, err := json.Marshal(r)
	if err == nil {
		if l.written > compactAfter && l.written > 2*int64(l.bytes) {
			err = l.rewrite() // the record is in it
		} else {
			var n int
			n, err = l.file.Write(append(line, '\n'))
			l.written += int64(n)
		}
	}
	if err != nil {
		l.broken = true
		l.log.Error("the session log cannot be written; what happens from now on is lost when the node stops", "path", l.path, "err", err)
	}
}

// rewrite replaces the file by one with what there is.
func (l *Log) rewrite() (err error) {
	temp, err := os.CreateTemp(filepath.Dir(l.path), "."+filepath.Base(l.path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			os.Remove(temp.Name())
		}
	}()
	out := bufio.NewWriter(temp)
	e := json.NewEncoder(out)
	put := func(r record) {
		if err == nil {
			err = e.Encode(r)
		}
	}
	put(record{Started: &l.started})
	for i := range l.conversation {
		put(record{Said: &l.conversation[i]})
	}
	for i := range l.commands {
		put(record{Ran: &l.commands[i], Quiet: true})
	}
	for _, line := range l.scrollback {
		put(record{Lines: []string{line}})
	}
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	info, err := temp.Stat()
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // it is replaced
		l.file = nil
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), l.path); err != nil {
		return err
	}
	if l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		l.broken = true
		return err
	}
	l.written, l.broken = info.Size(), false
	return nil
}

// lastChars returns the last n characters.
func lastChars(s string, n int) string {
	if len(s) <= n {
		return s
	}
	at := len(s)
	for ; n > 0 && at > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:at])
		at -= size
	}
	return s[at:]
}

// tailBytes returns at most the last n bytes, beginning with a whole character.
func tailBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for i := 0; i < len(s) && i < utf8.UTFMax; i++ {
		if utf8.RuneStart(s[i]) {
			return s[i:]
		}
	}
	return s
}

// headBytes returns at most the first n bytes, ending with a whole character.
func headBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
