package runtime

import (
	"path/filepath"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/nodes/host/agent"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
)

// openAgent makes what serves the commands of agents. An instance begins anew with each start, as the bridge
// does; a node goes on.
func (n *nodeHost) openAgent() (err error) {
	path, dir := filepath.Join(n.o.StateDir, sessionFile), workspaceOf(n.o)
	if n.o.Tunnel != nil {
		path = ""
	}
	if n.session, err = checkpoint.OpenLog(path, n.log, n.now); err != nil {
		return err
	}
	n.agent, err = agent.New(agent.Config{
		Policy: n.file, Env: runEnv, Dir: dir, Settings: agentSettings(n.o.Current), Session: n.session, StateDir: n.o.StateDir, Now: n.now, Log: n.log,
	})
	return err
}

// close ends what open began.
func (n *nodeHost) close() {
	n.agent.Close()
	if err := n.session.Close(); err != nil {
		n.log.Error("the log of the session was not closed", "err", err)
	}
}

// agentSettings reads what the configuration in force says of agents; it is read once for each configuration.
func agentSettings(current func() *config.Config) func() *agent.Settings {
	if current == nil {
		return nil
	}
	var mu sync.Mutex
	var of *config.Config
	var made *agent.Settings
	return func() *agent.Settings {
		c := current()
		mu.Lock()
		defer mu.Unlock()
		if of != c || made == nil {
			of, made = c, settingsOf(c)
		}
		return made
	}
}

func settingsOf(c *config.Config) *agent.Settings {
	h := &c.NodeHost
	s := &agent.Settings{
		Chat: h.Chat.Command, ChatEnv: h.Chat.Env, ChatTimeout: time.Duration(h.Chat.TimeoutSec) * time.Second,
		Dev: h.Dev.Programs, DevEnv: h.Dev.Env, Commands: map[string]agent.Template{},
	}
	for _, x := range h.Commands {
		t := agent.Template{
			Description: x.Description, Argv: x.Argv, Params: map[string]agent.Param{}, Cwd: x.Cwd, Env: x.Env,
			Timeout: time.Duration(x.TimeoutMs) * time.Millisecond, Replace: x.Replace,
		}
		for _, p := range x.Params {
			t.Params[p.Name] = agent.Param{
				Type: p.Type, Description: p.Description, Optional: p.Optional, Default: p.Default, Pattern: p.Pattern, Enum: p.Enum,
				MaxLength: p.MaxLength, Dash: p.AllowDash, Minimum: p.Minimum, Maximum: p.Maximum, Flag: p.Flag, Roots: p.Roots,
			}
		}
		s.Commands[x.Name] = t
	}
	return s
}

// NodeCommands describes the commands of agents that a node with this configuration serves; nil is none. Commands
// of the configuration that cannot be used come with the reason.
func NodeCommands(c *config.Config) (all []agent.Description, broken map[string]error, err error) {
	settings := &agent.Settings{}
	if c != nil {
		settings = settingsOf(c)
	}
	broken = map[string]error{}
	for name, t := range settings.Commands {
		if err := t.Check(name); err != nil {
			broken[name] = err
		}
	}
	a, err := agent.New(agent.Config{Settings: func() *agent.Settings { return settings }})
	if err != nil {
		return nil, nil, err
	}
	return a.Describe(), broken, nil
}
