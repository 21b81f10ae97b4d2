//go:build unix

package robustness

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// quickTurns is how many questions each operator asks.
	quickTurns = 40
	// historyOperators with a device, and historyGuests without one.
	historyOperators = 5
	historyGuests    = 2
	// plenty is longer than a turn takes. It is no longer, because the daemon counts an approval as open
	// until its time is over.
	plenty = 10 * time.Second
	// soon is a time in which an approval expires before it is used.
	soon = 20 * time.Millisecond
	// expired is how long after its time an approval is tried.
	expired = 60 * time.Millisecond
	// unclaimed marks the argv of runs that claim no approval.
	unclaimed = "--unclaimed"
)

// arrival is a run that reached a node.
type arrival struct {
	proc.Invocation
	device string // of the node
	at     time.Time
}

// player is one operator of the workload.
type player struct {
	conn   *dial.Conn
	device string
	r      *rand.Rand
}

// workload is a daemon with nodes and operators.
type workload struct {
	d       *proc.Daemon
	nodes   []*dial.Identity
	players []*player

	mu       sync.Mutex
	arrivals []arrival
}

// TestR8NothingRunsUnapproved: operators ask, allow, deny and let expire, and try to run the same,
// something else, elsewhere, as somebody else and twice. The history on disk then explains each run
// that reached a node: an earlier allow of exactly that, used no more often than it may be.
func TestR8NothingRunsUnapproved(t *testing.T) {
	turns := quickTurns
	if long() {
		turns = rounds(t, 1000)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := &workload{d: proc.Start(t, proc.Options{Form: proc.Tested})}
	for range 2 {
		me := proc.Device(t)
		w.nodes = append(w.nodes, me)
		proc.Connect(t, w.d.Node(me, func(i proc.Invocation) any {
			w.mu.Lock()
			w.arrivals = append(w.arrivals, arrival{i, me.ID, time.Now()})
			w.mu.Unlock()
			return proc.Ran()
		}))
	}
	for i := range historyOperators + historyGuests {
		var me *dial.Identity
		p := &player{r: rand.New(rand.NewPCG(seed, uint64(i)))}
		if i < historyOperators {
			me = proc.Device(t)
			p.device = me.ID
		}
		p.conn = proc.Connect(t, w.d.Operator(me))
		w.players = append(w.players, p)
	}
	var wg sync.WaitGroup
	for i, p := range w.players {
		wg.Go(func() {
			for n := range turns {
				w.turn(t, p, w.players[(i+1)%len(w.players)], fmt.Sprintf("h%d-%d", i, n))
			}
		})
	}
	wg.Wait()
	w.d.Stop()
	w.explain(t)
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// run is one attempt to run.
type run struct {
	by         *player
	id         string
	node       int
	argv       []string
	cwd        string
	env        map[string]string
	mayRun     bool
	withoutID  bool
	notClaimed bool
}

// ask asks and returns when the question is open; answered gets the end of the call then.
func (p *player) ask(ctx context.Context, question map[string]any) (answered chan error, err error) {
	accepted := make(chan struct{})
	answered = make(chan error, 1)
	go func() {
		_, err := p.conn.CallTwoPhase(ctx, "exec.approval.request", question, func(json.RawMessage) { close(accepted) })
		answered <- err
	}()
	select {
	case <-accepted:
		return answered, nil
	case err := <-answered:
		return nil, err
	}
}

// turn asks one question, has it decided or not, and then tries what it may and may not do.
func (w *workload) turn(t *testing.T, p, other *player, id string) {
	argv := pick(p.r, []string{"/bin/echo", id}, []string{"/bin/rm", "-r", "a b", id}, []string{"/usr/bin/env", "X=1", id})
	cwd := pick(p.r, "", "/srv", "/tmp")
	env := pick(p.r, nil, map[string]string{"A": "1"}, map[string]string{"A": "1", "B": "2"})
	node := p.r.IntN(len(w.nodes))
	decision := pick(p.r, "allow-once", "allow-once", "allow-always", "deny", "none", "expire")
	timeout := plenty
	if decision == "expire" || decision == "none" {
		timeout = time.Second
	}
	if decision == "expire" {
		timeout = soon
	}
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	answered, err := p.ask(ctx, proc.Question(id, w.nodes[node].ID, argv, cwd, env, int(timeout/time.Millisecond)))
	for err != nil && strings.Contains(err.Error(), "too many approvals") && ctx.Err() == nil {
		<-time.After(expired)
		answered, err = p.ask(ctx, proc.Question(id, w.nodes[node].ID, argv, cwd, env, int(timeout/time.Millisecond)))
	}
	if err != nil {
		t.Errorf("%s: the question was refused: %v", id, err)
		return
	}
	allowed := decision == "allow-once" || decision == "allow-always"
	exact := run{by: p, id: id, node: node, argv: argv, cwd: cwd, env: env}
	if p.r.IntN(3) == 0 {
		w.try(ctx, t, exact) // before there is an answer
	}
	switch decision {
	case "none":
	case "expire":
		<-time.After(expired)
	default:
		if _, err := pick(p.r, p, other).conn.Call(ctx, "exec.approval.resolve", map[string]any{"id": id, "decision": decision}); err != nil {
			t.Errorf("%s: the answer was refused: %v", id, err)
		}
	}
	// What may not run comes before and after what may.
	w.mischief(ctx, t, exact, other)
	exact.mayRun = allowed
	if p.r.IntN(2) == 0 {
		// Two at one time: of an allow-once one may win.
		var both sync.WaitGroup
		won := make([]bool, 2)
		for i := range won {
			both.Go(func() { won[i] = w.try(ctx, t, exact) })
		}
		both.Wait()
		if allowed && (!won[0] && !won[1] || decision == "allow-once" && won[0] && won[1]) {
			t.Errorf("%s (%s): two runs at one time: %v", id, decision, won)
		}
	} else if ran := w.try(ctx, t, exact); allowed && !ran {
		t.Errorf("%s (%s): the approved run was refused", id, decision)
	}
	if decision == "allow-once" {
		exact.mayRun = false
		w.try(ctx, t, exact)
	}
	w.mischief(ctx, t, exact, other)
	if decision != "none" {
		<-answered
	}
}

// mischief tries a few runs that no approval covers, and some that change nothing.
func (w *workload) mischief(ctx context.Context, t *testing.T, exact run, other *player) {
	r := exact.by.r
	exact.mayRun = false
	for range 1 + r.IntN(3) {
		x := exact
		switch r.IntN(7) {
		case 0:
			x.by = other
		case 1:
			x.node = 1 - x.node
		case 2:
			x.env = map[string]string{"A": "1", "LD_PRELOAD": "/tmp/evil.so"}
		case 3:
			x.env = map[string]string{"A": "2"}
		case 4:
			x.withoutID = true
		case 5:
			x.id += "x"
		case 6:
			// Not claimed: it may reach the node, which decides by itself.
			x.notClaimed, x.mayRun = true, true
			x.argv = []string{"/bin/echo", unclaimed}
		}
		w.try(ctx, t, x)
	}
}

// try tries one run and reports whether it ran. What is sent as argv and directory is made up: under
// an approval the node gets what was approved.
func (w *workload) try(ctx context.Context, t *testing.T, x run) bool {
	argv, cwd := x.argv, x.cwd
	if !x.notClaimed && len(x.id)%2 == 0 {
		argv, cwd = []string{"/bin/sh", "-c", "something else"}, "/elsewhere"
	}
	in := proc.ApprovedRun(x.id, w.nodes[x.node].ID, fmt.Sprintf("%s-%d", x.id, rand.Uint64()), argv, cwd, x.env)
	p := in["params"].(map[string]any)
	if x.withoutID {
		delete(p, "runId")
	}
	if x.notClaimed {
		delete(p, "runId")
		delete(p, "approved")
		delete(p, "approvalDecision")
	}
	_, err := x.by.conn.Call(ctx, "node.invoke", in)
	if err != nil && proc.Refusal(err) == nil {
		t.Errorf("%s: %v", x.id, err)
	}
	if err == nil && !x.mayRun {
		t.Errorf("%+v ran", x)
	}
	return err == nil
}

// params is what a node was told to run.
type params struct {
	Command          []string          `json:"command"`
	Cwd              *string           `json:"cwd"`
	Env              map[string]string `json:"env"`
	AgentID          *string           `json:"agentId"`
	SessionKey       *string           `json:"sessionKey"`
	RunID            string            `json:"runId"`
	Approved         *bool             `json:"approved"`
	ApprovalDecision *string           `json:"approvalDecision"`
}

// explain reads the history and holds every arrival against it.
func (w *workload) explain(t *testing.T) {
	s, err := store.Open(t.Context(), w.d.State, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	rows, err := s.Audit(0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	decided := map[string]store.AuditRow{}
	uses := map[string][]store.AuditRow{}
	kinds := map[string]int{}
	unclaimedUses := 0
	for i, row := range rows {
		if row.Seq != uint64(i)+1 {
			t.Fatalf("audit row %d has the number %d", i+1, row.Seq)
		}
		kinds[row.Kind]++
		switch row.Kind {
		case "decision":
			if _, twice := decided[row.ApprovalID]; twice {
				t.Errorf("%s was decided twice", row.ApprovalID)
			}
			decided[row.ApprovalID] = row
		case "use":
			if row.ApprovalID == "" { // the node's own file decides about it
				unclaimedUses++
				continue
			}
			if d, ok := decided[row.ApprovalID]; !ok || d.Decision == approvals.Deny {
				t.Errorf("%s was used without an earlier allow (%v)", row.ApprovalID, d.Decision)
			}
			uses[row.ApprovalID] = append(uses[row.ApprovalID], row)
		}
	}
	arrived := map[string]int{}
	for _, a := range w.arrivals {
		w.explainOne(t, s, a, decided, arrived)
	}
	if arrived[""] != unclaimedUses {
		t.Errorf("%d runs without an approval are in the history and %d reached a node", unclaimedUses, arrived[""])
	}
	delete(arrived, "")
	approved := 0
	for id, rows := range uses {
		approved += len(rows)
		if arrived[id] != len(rows) {
			t.Errorf("%s has %d uses in the history and reached a node %d times", id, len(rows), arrived[id])
		}
		if decided[id].Decision == approvals.AllowOnce && len(rows) > 1 {
			t.Errorf("%s was allowed once and used %d times", id, len(rows))
		}
	}
	t.Logf("%d runs reached the nodes, %d of them approved; history: %v", len(w.arrivals), approved, kinds)
	if approved < 10 || kinds["refusal"] < 10 || kinds["expiry"] < 1 {
		t.Errorf("the workload is too tame: %d approved runs, history %v", approved, kinds)
	}
}

func (w *workload) explainOne(t *testing.T, s *store.Store, a arrival, decided map[string]store.AuditRow, arrived map[string]int) {
	var p params
	if err := json.Unmarshal([]byte(a.ParamsJSON), &p); err != nil {
		t.Errorf("%s: %v", a.ParamsJSON, err)
		return
	}
	if p.Approved == nil && p.ApprovalDecision == nil {
		if !slices.Contains(p.Command, unclaimed) {
			t.Errorf("a run that claimed an approval reached the node without one: %s", a.ParamsJSON)
		}
		arrived[""]++
		return
	}
	arrived[p.RunID]++
	rec, err := s.Approval(p.RunID)
	if err != nil {
		t.Errorf("%s reached a node and is not on disk: %v", p.RunID, err)
		return
	}
	d, ok := decided[p.RunID]
	if !ok || d.Decision == approvals.Deny || d.At.After(a.at) || rec.Decision != d.Decision {
		t.Errorf("%s reached a node at %v; it was decided %q at %v", p.RunID, a.at, d.Decision, d.At)
	}
	hash, _ := policy.EnvHash(p.Env)
	got := approvals.Binding{Argv: p.Command, Cwd: p.Cwd, AgentID: p.AgentID, SessionKey: p.SessionKey, EnvHash: hash}
	if rec.Binding != nil {
		got.Unbound = rec.Binding.Unbound // words about a node that binds no files
	}
	if rec.Binding == nil || !reflect.DeepEqual(got, *rec.Binding) || rec.NodeID == nil || *rec.NodeID != a.device || a.NodeID != a.device {
		t.Errorf("%s ran with another binding on %s: %s\napproved: %+v", p.RunID, a.device, a.ParamsJSON, rec.Binding)
	}
	if p.ApprovalDecision == nil || *p.ApprovalDecision != string(rec.Decision) {
		t.Errorf("%s reached a node as %v; it was %s", p.RunID, p.ApprovalDecision, rec.Decision)
	}
}
