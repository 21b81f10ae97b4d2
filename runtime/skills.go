package runtime

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/compat/dial"
)

const (
	// skillsFor is how long a node keeps what the gateway says of skills (nodes-approvals.md §3.10; frozen).
	skillsFor = 90 * time.Second
	// skillsWait bounds the question, because a run waits for the answer.
	skillsWait = 3 * time.Second
	// maxSkillBins bounds the answer: each name is looked for in PATH.
	maxSkillBins = 1000
)

// skillBins are the programs that the gateway's skills need, as a node has them: agents with
// autoAllowSkills run those unlisted. A gateway that speaks gRPC is a hanzod, whose skills need none yet,
// so only connections of the legacy dialect are asked.
type skillBins struct {
	now func() time.Time

	mu    sync.Mutex
	call  func(ctx context.Context) ([]string, error) // asks the gateway of the newest connection; nil without one
	asked time.Time
	bins  []shell.Skill
}

func newSkillBins(now func() time.Time) *skillBins {
	if now == nil {
		now = time.Now
	}
	return &skillBins{now: now}
}

// connected makes a connection the one that is asked.
func (s *skillBins) connected(c *dial.Conn) {
	s.use(func(ctx context.Context) ([]string, error) {
		raw, err := c.Call(ctx, "skills.bins", map[string]any{})
		if err != nil {
			return nil, err
		}
		var out struct {
			Bins []string `json:"bins"`
		}
		err = json.Unmarshal(raw, &out)
		return out.Bins, err
	})
}

func (s *skillBins) use(call func(context.Context) ([]string, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call, s.asked = call, time.Time{}
}

// list returns them with where they are on this machine. It asks at most every skillsFor, and keeps what
// it had when there is no answer.
func (s *skillBins) list() []shell.Skill {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call == nil || !s.asked.IsZero() && s.now().Sub(s.asked) < skillsFor {
		return s.bins
	}
	s.asked = s.now()
	ctx, cancel := context.WithTimeout(context.Background(), skillsWait)
	defer cancel()
	names, err := s.call(ctx)
	if err != nil {
		return s.bins
	}
	m := shell.Machine{Path: os.Getenv("PATH")}
	var bins []shell.Skill
	for _, name := range names[:min(len(names), maxSkillBins)] {
		if path, ok := m.Locate(name); ok {
			bins = append(bins, shell.Skill{Name: name, Path: path})
		}
	}
	s.bins = bins
	return bins
}
