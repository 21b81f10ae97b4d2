// Package tunnel holds what goes on at nodes for longer than one call: terminals, for now. A terminal is a
// program at a node, known here by a name of the daemon's own, with its owner, and with one feed of its
// output for the viewers of all doors (tunnel.md §5.3 rows 11 and 12, §7).
//
// It imports leaves and tunnel/terminal. Nodes reach it through Nodes, the disk through Store. The service
// owns a goroutine for each terminal; Stop ends them, and leaves the programs to go on.
package tunnel

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

// Limits of terminals.
const (
	// MaxTerminals bounds the terminals of all nodes, MaxNodeTerminals those of one node and MaxOwnTerminals
	// those that one caller opened. Each keeps up to terminal.Ring bytes.
	MaxTerminals     = 512
	MaxNodeTerminals = 64
	MaxOwnTerminals  = 64
	// MaxInput is how many bytes are typed at once, in one message.
	MaxInput = 64 << 10
	// InputWait is how long Write waits for a program that does not read.
	InputWait = 10 * time.Second
	// Linger is how long a terminal that has ended is shown, and its last output kept.
	Linger = time.Minute
	// Away is how long a lost node may take to come back before its terminals count as ended: as long as a node
	// keeps a terminal that nobody watches.
	Away = terminal.Orphan
	// retryFirst and retryMost bound the pause between attempts to join a terminal of a connected node again.
	retryFirst = 250 * time.Millisecond
	retryMost  = 30 * time.Second
	// joinTime bounds one attempt, closeTime the request to end a program.
	joinTime  = 15 * time.Second
	closeTime = 15 * time.Second
	// maxArgs, maxArg and maxEnv bound what a terminal is opened with: words, bytes in one word, variables.
	maxArgs = 256
	maxArg  = 32 << 10
	maxEnv  = 256
	// eventQueue bounds what events of one terminal wait here, in bytes: its credit, for nodes that know it.
	eventQueue = terminal.Ahead
)

// The errors of this package.
var (
	ErrNodeRequired = errs.Define(errs.Invalid, "tunnel.node_required", "name a node")
	ErrRequired     = errs.Define(errs.Invalid, "tunnel.terminal_required", "name a terminal")
	ErrUnknown      = errs.Define(errs.NotFound, "tunnel.terminal_unknown", "there is no such terminal (any more); list those that are open")
	ErrForeign      = errs.Define(errs.Denied, "tunnel.terminal_foreign", "the terminal belongs to somebody else; that takes the scope operator.admin")
	ErrReadOnly     = errs.Define(errs.Denied, "tunnel.terminal_read_only", "this viewer watches only; attach without read-only to type")
	ErrEnded        = errs.Define(errs.Conflict, "tunnel.terminal_ended", "the program of the terminal has ended")
	ErrAway         = errs.Define(errs.Unavailable, "tunnel.terminal_away", "the node of the terminal is not connected; it is joined again when it comes back")
	ErrTooMany      = errs.Define(errs.Exhausted, "tunnel.too_many_terminals", "too many terminals are open; close some first")
	ErrInputSize    = errs.Define(errs.Invalid, "tunnel.input_size", "more than 64 KiB were typed at once; send it in pieces")
	ErrInputFull    = errs.Define(errs.Exhausted, "tunnel.input_full", "the program does not read what is typed; not all of this was, try again later")
	ErrSize         = errs.Define(errs.Invalid, "tunnel.size", "a window has 1 to 65535 columns and rows")
	ErrSpec         = errs.Define(errs.Invalid, "tunnel.spec", "a terminal is opened with at most 256 words of 32 KiB and 256 variables, and no zero bytes")
	ErrAnswer       = errs.Define(errs.Unavailable, "tunnel.answer", "the node's answer to terminal.open is not understood")
	ErrStopping     = errs.Define(errs.Unavailable, "tunnel.stopping", "the daemon is stopping")
	ErrCannotClose  = errs.Define(errs.Unavailable, "tunnel.cannot_close", "the node could not be asked to end the terminal; try again when it is connected")
	// ErrNoChannel is what Nodes answers for links without channels.
	ErrNoChannel = errs.Define(errs.Unavailable, "tunnel.no_channel", "the link of the node carries no channels")
)

// Node is what is asked of a node.
type Node struct {
	// ID is that in the registry.
	ID        string
	Connected bool
	// Commands are those that it offers.
	Commands []string
}

// Pipe is the channel of a node.
type Pipe = terminal.Pipe

// Nodes is what the service needs of the nodes. Params and answers are JSON text.
type Nodes interface {
	// Node finds a node as the caller names it. It fails for nodes that the caller does not see.
	Node(c identity.Caller, id string) (Node, error)
	// Open and Invoke are calls of a caller, past everything that decides on them; Open is one with a channel,
	// whose answer comes by the function. It fails with ErrNoChannel where there are none.
	Open(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) (Pipe, func(context.Context) ([]byte, error), error)
	Invoke(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) ([]byte, error)
	// OpenInternal and InvokeInternal are calls of the daemon itself, for terminals that stand.
	OpenInternal(ctx context.Context, nodeID, command string, params []byte) (Pipe, func(context.Context) ([]byte, error), error)
	InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error)
}

// Record is what outlasts a daemon of a terminal.
type Record struct {
	ID      string
	NodeID  string
	Session string
	Owner   string
	// Tenant is the organisation of who opened it, empty for the gateway's own: nodes of the gateway's owner serve
	// several.
	Tenant string
	Shell  string
	Argv   []string
	Cwd    string
	PID    int64
	Cols   int
	Rows   int
	Opened time.Time
}

// Audit is a row of the audit log.
type Audit struct {
	At time.Time
	// Act is opened, closed, ended or recorded.
	Act        string
	Subject    string
	TerminalID string
	NodeID     string
	Command    string
	Argv       []string
	Cwd        string
	Detail     string
}

// Store keeps terminals. Writes are durable when they return nil.
type Store interface {
	// Terminals returns all records, in no order.
	Terminals() ([]Record, error)
	// ChangeTerminal keeps a record, or forgets it by its id when keep is nil, with the rows of the audit log, in
	// one transaction.
	ChangeTerminal(ctx context.Context, id string, keep *Record, rows ...Audit) error
}
