// Package sessions keeps conversations: which there are, what is set for each, and where their transcripts
// are. Everything that clients ask about sessions.* and what they put into a transcript with chat.inject is
// decided here (sessions-chat.md §1 to §4).
//
// It imports the leaves and its own packages. A Service owns one goroutine, in Run, which keeps the number of
// sessions within bounds. Its methods may be called concurrently.
package sessions

import (
	"context"
	"io"
	"time"
)

// Ref names a session: the agent that has it, and its canonical key.
type Ref struct {
	AgentID string
	Key     string
}

// Raw is a JSON value that is kept as it is.
type Raw []byte

// Origin is where a conversation came from.
type Origin struct {
	Label, Provider, Surface, ChatType, From, To, AccountID string
	// ThreadID is a JSON string or number, nil for none.
	ThreadID Raw
	// Rest are fields that this program does not know.
	Rest map[string]Raw
}

// Delivery is where answers go.
type Delivery struct {
	Channel, To, AccountID string
	// ThreadID is a JSON string or number, nil for none.
	ThreadID Raw
}

// Entry is what is known of a session (sessions-chat.md §2). Texts that are empty and pointers that are nil
// are not set.
type Entry struct {
	SessionID string
	UpdatedAt time.Time // in whole milliseconds
	// SessionFile is the transcript where it is not <SessionID>.jsonl.
	SessionFile string

	SpawnedBy       string
	SpawnDepth      *int64
	SystemSent      *bool
	AbortedLastRun  *bool
	ChatType        string // direct, group, channel
	ThinkingLevel   string
	VerboseLevel    string
	ReasoningLevel  string
	ElevatedLevel   string
	ExecHost        string
	ExecSecurity    string
	ExecAsk         string
	ExecNode        string
	ResponseUsage   string
	GroupActivation string
	SendPolicy      string

	// ProviderOverride and ModelOverride were chosen for the session, ModelProvider and Model used last.
	ProviderOverride, ModelOverride string
	ModelProvider, Model            string
	AuthProfileOverride             string
	AuthProfileOverrideSource       string // auto, user

	InputTokens, OutputTokens, TotalTokens *int64
	CacheRead, CacheWrite                  *int64
	TotalTokensFresh                       *bool
	ContextTokens                          *int64
	CompactionCount                        *int64

	Label, DisplayName, Channel string
	GroupID, Subject            string
	GroupChannel, Space         string
	Origin                      *Origin
	DeliveryContext             *Delivery
	LastChannel, LastTo         string
	LastAccountID               string
	LastThreadID                Raw

	// Rest are all other fields, those that this program does not know among them. It is nil in entries of the
	// index, which holds no large ones.
	Rest map[string]Raw
}

// Reason says why a transcript was put aside; it is in the name of the file.
type Reason string

// The reasons.
const (
	ReasonReset   Reason = "reset"
	ReasonDeleted Reason = "deleted"
	ReasonBak     Reason = "bak"
)

// File names a transcript: a name without directories in the sessions directory of an agent.
type File struct {
	AgentID string
	Name    string
}

// Move puts a transcript aside, in the same transaction as a change of its entry: both happen or neither,
// whenever the daemon ends.
type Move struct {
	From File
	// To is the name that the transcript gets, in the same directory.
	To string
	// With is the name of a file of the same directory that takes its place, "" for none.
	With string
}

// Change is what becomes of an entry. The zero value keeps it as the function changed it.
type Change struct {
	// Delete removes the entry.
	Delete bool
	// Same says that nothing is to be written.
	Same bool
	// Move puts a transcript aside; nil for none.
	Move *Move
}

// Store keeps the entries. What it acknowledges is on disk.
type Store interface {
	// Sessions hands over every entry, without Rest, in the order of the keys.
	Sessions(each func(Ref, Entry)) error
	// Session returns a whole entry.
	Session(Ref) (e Entry, ok bool, err error)
	// UpdateSession changes an entry, or makes or removes it. change gets the whole entry, the zero one when
	// there is none; it may run more than once, in another goroutine, and calls no method of the store. The
	// entry is returned as it is stored then. A Move is carried out before it returns; if that cannot be done,
	// the change holds, the error says so, and the next start does it.
	UpdateSession(ctx context.Context, r Ref, change func(e *Entry, exists bool) (Change, error)) (Entry, error)
}

// Stored is an entry with its name.
type Stored struct {
	Ref   Ref
	Entry Entry
}

// Transcript is one that is open for reading, as long as it was when it was opened. It must be closed.
type Transcript interface {
	io.ReaderAt
	io.Closer
	// Size is its length in bytes. It ends with a whole line.
	Size() int64
	// ModTime is when it was written last.
	ModTime() time.Time
}

// Transcripts keeps the transcripts, files of lines that only grow. Its methods may be called concurrently.
// A name that is no plain file name fails with ErrFileName, a symbolic link with ErrNotRegular.
type Transcripts interface {
	// Append adds lines, given without their line feeds, as one: all are on disk when it returns nil. The
	// file and its directories are made when they are missing. After an error of class errs.Unknown the lines
	// may be there, after any other they are not.
	Append(ctx context.Context, f File, lines ...[]byte) error
	// Open opens a transcript. The error is fs.ErrNotExist when there is none.
	Open(f File) (Transcript, error)
	// Path is where a transcript is.
	Path(f File) string
	// ArchiveName is a free name for a transcript that is put aside.
	ArchiveName(f File, why Reason, at time.Time) (string, error)
	// Shorten writes the last lines of a transcript, durable, to a file beside it, for a Move. It returns the
	// name of that file and how many lines it has. When there are no more lines than that to begin with it
	// writes nothing and returns "". Lines without text do not count.
	Shorten(ctx context.Context, f File, lines int) (with string, kept int, err error)
	// Discard removes a file that Shorten wrote and no Move used.
	Discard(f File, with string) error
	// List returns all transcripts, those that were put aside among them.
	List(ctx context.Context) ([]Found, error)
	// Remove removes a transcript that was put aside. Any other fails with ErrFileName.
	Remove(f File) error
}

// Model is a model of a provider.
type Model struct{ Provider, Name string }

// Models knows what models agents use.
type Models interface {
	// Default is the model of an agent that has none of its own choice.
	Default(agentID string) Model
	// Choose finds the model that a text names: "provider/name", a name or an alias. Its errors are
	// ErrModel and ErrModelNotAllowed.
	Choose(agentID, text string) (Model, error)
	// ContextTokens is the context window of the default model, 0 when it is not known.
	ContextTokens() int64
}
