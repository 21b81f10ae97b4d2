// Package agents holds the agents of the daemon as configuration: which there are, how they are made,
// changed and removed, their workspaces and the files in them, and what they are called
// (sessions-chat.md §11).
//
// It imports leaves only. The configuration is read through a function and written through ConfigFile;
// files of a workspace are reached through os.Root, so that no link leads out of it. The package owns no
// goroutine. Methods may be called concurrently.
package agents

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Limits. What is beyond them is refused with an error that names the limit.
const (
	// maxAgents bounds the list that a client can make grow.
	maxAgents = 5000
	// maxName bounds names and emoji, maxPath paths and models, maxAvatar what an avatar may say, all in bytes.
	maxName   = 512
	maxPath   = 4096
	maxAvatar = 64 << 10
	// maxFile is the largest workspace file, read or written (sessions-chat.md §8).
	maxFile = 2 << 20
	// maxAvatarFile is the largest image that is shown as an avatar, maxAvatars that of all of one list: it is
	// one frame of 25 MiB at the other end.
	maxAvatarFile = 2 << 20
	maxAvatars    = 8 << 20
	// maxDirs is how many directories of agents are listed without a configured list.
	maxDirs = 10_000
	// maxTrash is how many removed agents are kept, and trashFor how long at least.
	maxTrash = 200
	trashFor = 30 * 24 * time.Hour
)

// The errors of this package.
var (
	ErrReserved    = errs.Define(errs.Invalid, "agents.reserved", "this name is reserved: choose another one")
	ErrExists      = errs.Define(errs.Exists, "agents.exists", "there is an agent of this id: choose another name, or change that one")
	ErrNotFound    = errs.Define(errs.NotFound, "agents.not_found", "there is no such agent: see the list of agents")
	ErrUnknown     = errs.Define(errs.NotFound, "agents.unknown", "there is no agent of this id: see the list of agents")
	ErrMain        = errs.Define(errs.Invalid, "agents.main", "the agent main cannot be deleted")
	ErrTooMany     = errs.Define(errs.Exhausted, "agents.too_many", "there may be 5000 agents at the most: delete some first")
	ErrTooLong     = errs.Define(errs.Invalid, "agents.too_long", "a name may have 512 bytes, a path or model 4096, an avatar 65536; none may hold a zero byte")
	ErrIncluded    = errs.Define(errs.Conflict, "agents.included", "agents.list stands in a file that the configuration includes: change it there")
	ErrWorkspace   = errs.Define(errs.Unavailable, "agents.workspace", "the workspace cannot be written")
	ErrFileName    = errs.Define(errs.Invalid, "agents.file_name", "only the files of a workspace that an agent reads can be asked for")
	ErrUnsafe      = errs.Define(errs.Invalid, "agents.unsafe_file", "this workspace file cannot be used safely")
	ErrFileSize    = errs.Define(errs.Invalid, "agents.file_size", "a workspace file may have 2097152 bytes at the most")
	ErrKey         = errs.Define(errs.Invalid, "agents.session_key", "the session key names no agent")
	ErrKeyMismatch = errs.Define(errs.Invalid, "agents.session_key_mismatch", "the session key is that of another agent")
	ErrTrash       = errs.Define(errs.Exhausted, "agents.trash_full", "the trash holds 200 agents removed in the last 30 days: empty the directory trash of the state directory, or delete without files")
)

// ConfigFile changes the configuration file.
type ConfigFile interface {
	// Edit gives change the text of the file and what it says, and puts what change returns in its place,
	// checked and durable, unless somebody else wrote in between: then change is called again. Nothing is
	// written when change returns an error, which is passed on, or the text as it was. what is for the audit
	// log. It returns what the file says now.
	Rewrite(ctx context.Context, c identity.Caller, what string, change func(text []byte, now *config.Config) ([]byte, error)) (*config.Config, error)
}

// Node is a connected node.
type Node struct{ ID, Name string }

// Config is what the service needs.
type Config struct {
	// Current is the configuration in force; it may change between calls.
	Current func() *config.Config
	File    ConfigFile
	// Nodes are the connected nodes; nil for none.
	Nodes func() []Node
	Now   func() time.Time
	// DropSessions removes the sessions of an agent whose files go to the trash, so that no session is left
	// without its transcript; nil where there are none.
	DropSessions func(ctx context.Context, agentID string) error
	// Record notes in the audit log what a caller does to a workspace, before it is done; nil for nobody.
	Record func(ctx context.Context, c identity.Caller, what string) error
	// Log hears of files that could not be moved away; nothing when nil.
	Log *slog.Logger
}

// Service answers for agents.
type Service struct {
	cfg   Config
	views *Views
	// edits is held while agents are made, changed or removed, files while a workspace is written.
	edits, files *sync.Mutex
	// made is what a change through this service made of the file, until the configuration in force follows.
	made *atomic.Pointer[made]
	// late is set for the service that clients of the original see.
	late *late
}

// made is a written configuration, and the one in force when it was written.
type made struct{ base, now *config.Config }

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, views: &Views{}, edits: &sync.Mutex{}, files: &sync.Mutex{}, made: &atomic.Pointer[made]{}}
}

// Current is the configuration as this service sees it: the one in force, or what was last written through
// it, where that is newer.
func (s *Service) Current() *config.Config {
	cur := s.cfg.Current()
	if s.late != nil {
		return s.late.see(cur)
	}
	if m := s.made.Load(); m != nil && m.base == cur {
		return m.now
	}
	return cur
}

func (s *Service) view() *View { return s.views.Of(s.Current()) }

func (s *Service) record(ctx context.Context, c identity.Caller, what string) error {
	if s.cfg.Record == nil {
		return nil
	}
	return s.cfg.Record(ctx, c, what)
}

// fits refuses what no configuration should hold.
func fits(limit int, texts ...string) error {
	for _, t := range texts {
		if len(t) > limit || hasNUL(t) {
			return ErrTooLong
		}
	}
	return nil
}
