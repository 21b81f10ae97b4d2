// Package checkpoints keeps what sessions of nodes were at one moment, and brings it to other nodes (tunnel.md
// §1.9–§1.11, §5.3 rows 17–20).
//
// A node of ours hands its checkpoint to the daemon over a channel (session.capture) and takes one over a channel
// (session.apply); the daemon keeps them in its store. Others, such as the agent bridge, keep theirs themselves in
// an S3 bucket (session.checkpoint, session.restore); when that is the daemon's store too, the checkpoints of both
// kinds of nodes stand side by side and are listed, moved and removed alike. There is no index: what is kept is
// what the store lists.
//
// It imports leaves and its siblings. Its methods are safe for concurrent use; it owns no goroutine. What it needs
// room for on disk lies below Config.TempDir, and is removed when a call ends, or at the first use after a crash.
package checkpoints

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
)

// Limits.
const (
	// maxRunning is how many checkpoints are made or brought to nodes at once; each may take room on disk.
	maxRunning = 8
	// MaxListed is how many checkpoints one List answers; more are left out and said to be.
	MaxListed = 50_000
	// captureTime and applyTime bound what a node may take (tunnel.md §5.2 has 90 and 150 s for the bridge,
	// which has no large workspace to move).
	captureTime = 30 * time.Minute
	applyTime   = 30 * time.Minute
	// bridgeCapture and bridgeApply are those bounds.
	bridgeCapture = 90 * time.Second
	bridgeApply   = 150 * time.Second
	// statusTime bounds the question after a migration.
	statusTime = 15 * time.Second
	// clearTime bounds what is removed after a call failed or its caller left.
	clearTime = 30 * time.Second
	// orphanAge is how old attachments without a document are when Prune removes them: those of a Create that
	// runs are younger.
	orphanAge = 24 * time.Hour
	// maxMeta is how large the facts beside a document are, in bytes.
	maxMeta = 8 << 10
	// maxID bounds names of checkpoints and nodes that callers send, in bytes.
	maxID = 1024
)

// The errors of this package. Fields: "id", "node", "command".
var (
	ErrUnknown   = errs.Define(errs.NotFound, "checkpoints.unknown", "there is no such checkpoint; hanzoctl checkpoints list shows them")
	ErrAmbiguous = errs.Define(errs.Conflict, "checkpoints.ambiguous", "several nodes have a checkpoint of this id; say of which node, as NODE/ID")
	ErrID        = errs.Define(errs.Invalid, "checkpoints.id", "name a checkpoint")
	ErrNodeID    = errs.Define(errs.Invalid, "checkpoints.node_id", "name a node")
	ErrSameNode  = errs.Define(errs.Invalid, "checkpoints.same_node", "a session is moved from one node to another")
	ErrBusy      = errs.Define(errs.Conflict, "checkpoints.busy", "a checkpoint of this node is being made or restored; wait until it is done")
	ErrTooMany   = errs.Define(errs.Exhausted, "checkpoints.too_many", "too many checkpoints are being made or restored; try again later")
	ErrNotOwner  = errs.Define(errs.Denied, "checkpoints.not_owner", "the checkpoint was made by somebody else; an operator with the scope operator.admin may do this")
	ErrNoCommand = errs.Define(errs.Conflict, "checkpoints.no_command", "the node neither makes nor takes checkpoints")
	// ErrElsewhere: the node keeps its checkpoints itself, in a place that the daemon does not use.
	ErrElsewhere = errs.Define(errs.Conflict, "checkpoints.elsewhere", "the node reads checkpoints from its own S3 bucket only; let checkpoints.store be s3 with the bucket of the node")
	ErrSealed    = errs.Define(errs.Conflict, "checkpoints.sealed", "the node cannot open encrypted checkpoints; restore it on a node of hanzod that is connected by gRPC")
	ErrDryRun    = errs.Define(errs.Conflict, "checkpoints.dry_run", "the node cannot say what a restore would do; leave the dry run out")
	ErrNode      = errs.Define(errs.Unavailable, "checkpoints.node", "the node could not do it")
	ErrAnswer    = errs.Define(errs.Unavailable, "checkpoints.answer", "the node's answer is not what the command answers")
	// ErrDamaged: what is stored, or what a node sent, is not what was written.
	ErrDamaged = errs.Define(errs.Conflict, "checkpoints.damaged", "the checkpoint is damaged, and nothing of it was used")
	ErrForeign = errs.Define(errs.Denied, "checkpoints.foreign", "the node sent the checkpoint of another one")
	ErrExists  = errs.Define(errs.Exists, "checkpoints.exists", "a checkpoint of this id is there already")
	ErrRedact  = errs.Define(errs.Invalid, "checkpoints.redact", "checkpoints.redact has a pattern that is no regular expression")
	ErrKeep    = errs.Define(errs.Invalid, "checkpoints.keep", "say how many checkpoints of a node to keep, or for how many days")
	ErrRoom    = errs.Define(errs.Unavailable, "checkpoints.room", "there is no room for the checkpoint on this machine")
	ErrUpload  = errs.Define(errs.Invalid, "checkpoints.upload", "this is not a checkpoint as hanzoctl checkpoints download writes it")
)

// Kind is a kind of store.
type Kind string

// The kinds of stores.
const (
	KindOwn Kind = "own" // a directory of the daemon's state
	KindDir Kind = "dir"
	KindS3  Kind = "s3"
)

// Settings are the configuration's.
type Settings struct {
	Kind Kind
	// Dir is absolute, for own and dir.
	Dir string
	S3  objects.S3Config
	// Recipients are public keys, none to store in clear; TenantRecipients replace them for checkpoints of a tenant.
	Recipients       []string
	TenantRecipients map[string][]string
	IdentityFile     string
	// Redact are regular expressions.
	Redact []string
	// KeepLast and KeepDays are 0 for no bound.
	KeepLast int
	KeepDays int
}

// Node is what is asked of a node.
type Node struct {
	// ID is the registry's: the tenant, escaped, and a slash stand before the ids of nodes of tenants.
	ID, Tenant string
	Commands   []string
	Connected  bool
}

// Call is a command for a node.
type Call struct {
	NodeID, Command string
	Params          []byte // JSON text
	Timeout         time.Duration
}

// Channel is a stream of bytes to and from a node.
type Channel interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	CloseWrite() error
	Close(err error) error
}

// Nodes reaches nodes, with the rights of the caller. Nodes that it may not see are unknown to it.
type Nodes interface {
	Node(ctx context.Context, c identity.Caller, id string) (Node, error)
	// Invoke returns the answer as JSON text.
	Invoke(ctx context.Context, c identity.Caller, call Call) ([]byte, error)
	// Open is Invoke with a channel; answer waits for the node's answer. ok is false, with nothing sent, when the link of
	// the node has no channels.
	Open(ctx context.Context, c identity.Caller, call Call) (ch Channel, answer func(context.Context) ([]byte, error), ok bool, err error)
}

// Act is a row of the audit log.
type Act struct {
	NodeID, Detail, Reason string
}

// Config is what a Service needs.
type Config struct {
	// Settings are those in force.
	Settings func() Settings
	Nodes    Nodes
	// Record writes to the audit log and returns when it is on disk.
	Record func(ctx context.Context, c identity.Caller, a Act) error
	// TempDir is a directory of its own for what is under way.
	TempDir string
	Now     func() time.Time
	Log     *slog.Logger
}

// Service is the checkpoints.
type Service struct {
	cfg Config

	mu      sync.Mutex
	busy    map[string]bool // nodes; at most maxRunning
	swept   bool
	opened  Settings // of store
	store   objects.Store
	closing func() error // nil when store needs none
}

// New returns the service. It opens nothing.
func New(cfg Config) *Service { return &Service{cfg: cfg, busy: map[string]bool{}} }

// Close gives the store up.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop()
}

func (s *Service) drop() error {
	shut := s.closing
	s.store, s.closing = nil, nil
	if shut == nil {
		return nil
	}
	return shut()
}

// stores returns the store of the configuration in force, and what else that says.
func (s *Service) stores() (objects.Store, Settings, error) {
	now := s.cfg.Settings()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store != nil && s.opened.Kind == now.Kind && s.opened.Dir == now.Dir && reflect.DeepEqual(s.opened.S3, now.S3) {
		return s.store, now, nil
	}
	var store objects.Store
	var shut func() error
	switch now.Kind {
	case KindS3:
		b, err := objects.NewS3(now.S3)
		if errors.Is(err, objects.ErrNoCredentials) {
			err = objects.ErrConfig.WithText("set checkpoints.s3.accessKey and checkpoints.s3.secretKey, or S3_ACCESS_KEY and S3_SECRET_KEY in the environment of the daemon")
		}
		if err != nil {
			return nil, now, err
		}
		store = b
	default:
		d, err := objects.NewDir(now.Dir)
		if err != nil {
			return nil, now, err
		}
		store, shut = d, nil // a directory is used until the last call with it has ended
	}
	_ = s.drop() // what calls under way have of it stays good
	s.store, s.closing, s.opened = store, shut, now
	return store, now, nil
}

// begin takes the places of nodes. done gives them back.
func (s *Service) begin(nodes ...string) (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range nodes {
		if s.busy[n] {
			return nil, ErrBusy.With("node", n)
		}
	}
	if len(s.busy)+len(nodes) > maxRunning {
		return nil, ErrTooMany
	}
	if !s.swept {
		// The state directory is this daemon's alone: what is there now, a crash left.
		if err := os.RemoveAll(s.cfg.TempDir); err != nil {
			return nil, ErrRoom.Wrap(err)
		}
		s.swept = true
	}
	if err := os.MkdirAll(s.cfg.TempDir, 0o700); err != nil {
		return nil, ErrRoom.Wrap(err)
	}
	for _, n := range nodes {
		s.busy[n] = true
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range nodes {
			delete(s.busy, n)
		}
	}, nil
}

// record notes an act; what cannot be recorded is not done.
func (s *Service) record(ctx context.Context, c identity.Caller, nodeID, detail string) error {
	return s.cfg.Record(ctx, c, Act{NodeID: nodeID, Detail: detail})
}

// ended notes how an act ended that was recorded when it began.
func (s *Service) ended(ctx context.Context, c identity.Caller, nodeID, detail string, failed error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTime)
	defer cancel()
	a := Act{NodeID: nodeID, Detail: detail}
	if failed != nil {
		a.Reason = reason(failed)
	}
	if err := s.cfg.Record(ctx, c, a); err != nil {
		s.cfg.Log.Error("how a checkpoint ended is not in the audit log", "node", nodeID, "error", err)
	}
}

// reason is a failure as the audit log has it: its code, or its class where it has none.
func reason(err error) string {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		if e.Code != "" {
			return e.Code
		}
		return e.Class.String()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "cancelled"
	}
	return "failed"
}

// reaches reports whether a caller may know of a tenant's checkpoints.
func reaches(c identity.Caller, tenant string) bool { return c.Tenant == "" || c.Tenant == tenant }

// mayHave reports whether a caller may read, change or remove a checkpoint: who made it, and admins. Who made
// those that nodes keep themselves is not known.
func mayHave(c identity.Caller, e Entry) bool {
	return reaches(c, e.Tenant) && (c.Has(identity.ScopeAdmin) || e.Owner != "" && e.Owner == c.Subject())
}

// place is where the checkpoints of a node are: the keys' beginning, without the slash. Those of tenants never meet
// those of others: an instance has no slash there.
func place(tenant, instance string) string {
	instance = escapes.Replace(instance)
	if tenant == "" {
		return instance
	}
	return url.PathEscape(tenant) + "/" + instance
}

// placed takes a place apart. What bridges with a slash in their names write counts as a tenant's.
func placed(at string) (tenant, instance string) {
	if t, rest, ok := strings.Cut(at, "/"); ok {
		if u, err := url.PathUnescape(t); err == nil {
			t = u
		}
		tenant, at = t, rest
	}
	return tenant, unescapes.Replace(at)
}

// Other characters stay as bridges write them.
var (
	escapes   = strings.NewReplacer("%2F", "%252F", "/", "%2F")
	unescapes = strings.NewReplacer("%252F", "%2F", "%2F", "/")
)

// instanceOf is the name of a node within its tenant.
func instanceOf(n Node) string {
	if n.Tenant != "" {
		if rest, ok := strings.CutPrefix(n.ID, url.PathEscape(n.Tenant)+"/"); ok {
			return rest
		}
	}
	return n.ID
}

// Step is how far something is. Texts are for people.
type Step struct {
	// Name of the step: check, capture, read, store, send, restore, status, prune, and git.… for what a node reports.
	Name string
	// NodeID is where it happens, empty at the store.
	NodeID string
	// Detail is what came of it, empty while it goes on.
	Detail string
	// Done and All are bytes; All is 0 when nobody knows.
	Done, All int64
	// Failed says that the step did not succeed.
	Failed bool
}

// Progress hears of steps, one call at a time. An error ends what it hears of.
type Progress func(Step) error
