package wizard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/identity"
)

// introTitle is the title of the first step (control-plane.md §6; frozen).
const introTitle = "OpenClaw onboarding"

// errDeclined ends a session without a configuration.
var (
	errDeclined   = errors.New("risk not accepted")
	errInvalid    = errors.New("the configuration file is not valid; correct it (hanzod doctor names what is wrong) and start again")
	errUnfinished = errors.New("the session ended before its end")
)

// flow is the questions in their order. It stops where ask returns false: nobody answers any more.
type flow struct {
	cfg    Config
	in     StartIn
	caller identity.Caller // who answered last
	ctx    context.Context // of the call that is under way
	yield  func(*Step) bool
	value  any // the answer, fitted
	// check says what is wrong with the answer to the pending step, "" when nothing is.
	check func(any) string
	err   error

	tree    *json5.Node // the configuration to begin with, without secrets
	changes []Change
}

// stopped ends run from anywhere inside.
type stopped struct{}

func (f *flow) run(yield func(*Step) bool) {
	f.yield, f.err = yield, errUnfinished
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(stopped); !ok {
				panic(p)
			}
		}
	}()
	f.err = f.questions()
}

// ask shows a step and returns the answer to it.
func (f *flow) ask(s Step, check func(any) string) any {
	s.ID, f.check = uuid.NewString(), check
	if !f.yield(&s) {
		panic(stopped{})
	}
	f.check = nil
	return f.value
}

func (f *flow) note(title, message string) {
	f.ask(Step{Type: Note, Title: title, Message: &message}, nil)
}

func (f *flow) confirm(key, message string, initial bool) bool {
	yes, _ := f.ask(Step{Key: key, Type: Confirm, Message: &message, Initial: initial}, nil).(bool)
	return yes
}

func (f *flow) choose(key, message, initial string, options ...Option) string {
	s := Step{Key: key, Type: Select, Message: &message, Options: options}
	if s.offers(initial) {
		s.Initial = initial
	}
	text, _ := f.ask(s, nil).(string)
	return text
}

// input asks for a line. check gets what was answered.
func (f *flow) input(s Step, message string, check func(string) string) string {
	s.Type, s.Message = Text, &message
	text, _ := f.ask(s, func(v any) string {
		line, _ := v.(string)
		if check == nil {
			return ""
		}
		return check(line)
	}).(string)
	return text
}

func (f *flow) set(path string, value any) {
	f.changes = append(f.changes, Change{Path: strings.Split(path, "."), Value: value})
}

// text is what the configuration says at a path, "" when it says nothing or it is a secret.
func (f *flow) text(path string) string {
	n := f.tree.At(strings.Split(path, ".")...)
	switch {
	case n == nil:
		return ""
	case n.Kind == json5.Number:
		return strconv.FormatFloat(n.Num, 'f', -1, 64)
	case n.Kind == json5.String && n.Str != config.Sentinel:
		return n.Str
	}
	return ""
}

// present reports whether the configuration says something at a path.
func (f *flow) present(path string) bool { return f.tree.At(strings.Split(path, ".")...) != nil }

// questions asks everything in the order of the original (control-plane.md §6).
func (f *flow) questions() error {
	f.note(introTitle, "")
	f.note("Security", `An assistant that can run commands can do what you can do: read your files, use your accounts and spend your money.
- Commands on nodes run when a rule allows them or somebody approves them. Keep it that way until you know what you let through.
- Whoever holds the gateway's token or password commands everything. Keep the gateway on this machine, or behind a tailnet or SSH.
- What strangers send to your assistant is text that may try to give it orders.`)
	if !f.confirm("risk", "This is powerful and can do harm. Go on?", false) {
		return errDeclined
	}

	view, err := f.cfg.Look()
	if err != nil {
		return errors.New("the configuration file cannot be read; check that the daemon may read it")
	}
	if !view.Valid {
		f.note("Invalid config", "The configuration file "+view.Path+" is not valid:\n"+list(view.Issues))
		return errInvalid
	}
	f.tree = view.Resolved
	if f.tree == nil {
		f.tree = &json5.Node{Kind: json5.Object}
	}

	quick := f.choose("detail", "How much do you want to decide?", "quickstart",
		Option{"quickstart", "Quick start", "this machine only, with a token; the rest can be changed later"},
		Option{"advanced", "Everything", "port, addresses, authentication, Tailscale, channels, skills and hooks"}) == "quickstart"

	fresh, keep := false, []string(nil)
	if view.Exists && len(f.tree.Members) > 0 {
		switch f.choose("existing", "There is a configuration at "+view.Path+".", "keep",
			Option{"keep", "Keep it", "ask only for what is missing"},
			Option{"modify", "Change it", "ask everything, beginning with what it says"},
			Option{"reset", "Begin anew", "what it says is left out"}) {
		case "keep":
			quick = true
		case "reset":
			fresh = true
			if f.choose("reset", "What is to be left out?", "settings",
				Option{"settings", "All but who gets in", "the section gateway.auth stays, so that clients need no new token"},
				Option{"all", "All", "clients need the new token"}) == "settings" {
				keep = []string{"gateway.auth"}
			}
			f.tree = kept(f.tree, keep)
		}
	}

	mode := f.in.Mode
	switch {
	case mode != "":
	case quick:
		mode = "local"
	default:
		mode = f.choose("where", "Where does the gateway run?", first(f.text("gateway.mode"), "local"),
			Option{"local", "On this machine", ""}, Option{"remote", "On another machine", "this configuration is for clients of it then"})
	}
	f.set("gateway.mode", mode)
	if mode == "remote" {
		f.remote()
	} else {
		f.local(quick)
	}

	now := f.cfg.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	f.set("wizard.lastRunAt", now)
	f.set("wizard.lastRunVersion", f.cfg.Version)
	f.set("wizard.lastRunCommand", "setup")
	f.set("wizard.lastRunMode", mode)
	if err := f.cfg.Write(f.ctx, f.caller, view.Hash, f.changes, fresh, keep); err != nil {
		f.cfg.Log.Warn("what was answered in the wizard was not written", "error", err)
		return fmt.Errorf("the configuration was not written: %w", err)
	}
	f.note("Done", "The configuration is written to "+view.Path+". What needs a restart of the daemon counts after it.")
	return nil
}

// list is the first few issues, one to a line.
func list(issues []config.Issue) string {
	const most = 10
	var b strings.Builder
	for i, issue := range issues {
		if i == most {
			fmt.Fprintf(&b, "- and %d more\n", len(issues)-most)
			break
		}
		b.WriteString("- " + issue.String() + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// kept is a tree of nothing but what stands at some paths.
func kept(tree *json5.Node, paths []string) *json5.Node {
	out := &json5.Node{Kind: json5.Object}
	for _, path := range paths {
		keys := strings.Split(path, ".")
		n := tree.At(keys...)
		if n == nil {
			continue
		}
		for _, key := range slices.Backward(keys) {
			n = &json5.Node{Kind: json5.Object, Members: []json5.Member{{Key: key, Value: n}}}
		}
		out.Members = append(out.Members, n.Members...)
	}
	return out
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// remote asks for the gateway that clients of this machine use.
func (f *flow) remote() {
	url := f.input(Step{Key: "url", Initial: f.text("gateway.remote.url"), Placeholder: "wss://gateway.example:18789"}, "Address of the gateway", func(s string) string {
		if !strings.HasPrefix(s, "ws://") && !strings.HasPrefix(s, "wss://") {
			return "the address begins with wss:// or ws://"
		}
		return ""
	})
	f.set("gateway.remote.url", url)
	if token := f.input(Step{Key: "token", Sensitive: true, Placeholder: "leave empty to keep the one there is"}, "Token of the gateway", nil); token != "" {
		f.set("gateway.remote.token", token)
	}
	f.note("This machine", "With gateway.mode remote this configuration starts no gateway here: the daemon that is asking goes on until it is stopped, and does not start again.")
}

// provider is a service that serves models.
type provider struct{ id, label, variable, model string }

var providers = []provider{
	{"anthropic", "Anthropic", "ANTHROPIC_API_KEY", "anthropic/claude-opus-4-6"},
	{"openai", "OpenAI", "OPENAI_API_KEY", "openai/gpt-5.2"},
	{"google", "Google", "GEMINI_API_KEY", "google/gemini-3-pro-preview"},
	{"openrouter", "OpenRouter", "OPENROUTER_API_KEY", "openrouter/auto"},
	{"hanzo", "Hanzo", "HANZO_API_KEY", ""},
}

// local asks for what a gateway on this machine needs.
func (f *flow) local(quick bool) {
	workspace := first(f.in.Workspace, f.text("agents.defaults.workspace"), f.cfg.Workspace)
	if !quick || f.in.Workspace != "" {
		workspace = f.input(Step{Key: "workspace", Initial: workspace}, "Directory that agents work in", func(s string) string {
			if len(s) > maxWorkspace || !filepath.IsAbs(s) && s != "~" && !strings.HasPrefix(s, "~/") {
				return "name an absolute directory, or one that begins with ~/"
			}
			return ""
		})
	}
	if workspace != f.cfg.Workspace || f.present("agents.defaults.workspace") {
		f.set("agents.defaults.workspace", workspace)
	}
	f.model()
	f.gateway(quick)
	if !quick {
		f.channels()
		f.skills()
		f.hooks()
	}
	f.note("Service", "To have the daemon started with this machine and kept running: hanzod service install")
	f.note("What now", "hanzoctl status shows what the daemon does, hanzoctl devices what may connect, hanzoctl doctor what is amiss.\nThe web interface asks for the token once: hanzoctl token")
}

// model asks who serves models, for the key, and which model is used.
func (f *flow) model() {
	options := make([]Option, 0, len(providers)+1)
	for _, p := range providers {
		options = append(options, Option{p.id, p.label, "key in " + p.variable})
	}
	current := f.text("agents.defaults.model.primary")
	if current == "" {
		current = f.text("agents.defaults.model")
	}
	owner, _, _ := strings.Cut(current, "/")
	chosen := f.choose("provider", "Who serves the models?", first(owner, "skip"), append(options, Option{"skip", "Decide later", "nothing is changed"})...)
	i := slices.IndexFunc(providers, func(p provider) bool { return p.id == chosen })
	if i < 0 {
		return
	}
	p := providers[i]
	key := "env.vars." + p.variable
	switch f.choose("credential", "How is the key of "+p.label+" handed over?", "paste",
		Option{"paste", "Type it now", "it is written to the configuration file, which only you can read"},
		Option{"environment", "It is in the environment of the daemon", "variable " + p.variable},
		Option{"skip", "Not now", ""}) {
	case "paste":
		placeholder := ""
		if f.present(key) {
			placeholder = "leave empty to keep the one there is"
		}
		has := f.present(key)
		if v := f.input(Step{Key: "key", Sensitive: true, Placeholder: placeholder}, "Key of "+p.label, func(s string) string {
			if s == "" && !has {
				return "the key is empty"
			}
			if strings.ContainsAny(s, " \t") {
				return "a key holds no spaces"
			}
			return ""
		}); v != "" {
			f.set(key, v)
		}
	case "environment":
		f.note("Environment", "Set "+p.variable+" where the daemon is started, and start it anew.")
	}
	proposed := p.model
	if owner == p.id {
		proposed = current
	}
	model := f.input(Step{Key: "model", Initial: proposed, Placeholder: "provider/model"}, "Model that agents use", func(s string) string {
		if before, after, ok := strings.Cut(s, "/"); s != "" && (!ok || before == "" || after == "" || strings.ContainsAny(s, " \t")) {
			return "name it as provider/model, or leave it empty"
		}
		return ""
	})
	if model != "" && model != current {
		if n := f.tree.At("agents", "defaults", "model"); n != nil && n.Kind == json5.String {
			f.set("agents.defaults.model", model)
		} else {
			f.set("agents.defaults.model.primary", model)
		}
	}
}

// gateway asks where the gateway listens and whom it lets in.
func (f *flow) gateway(quick bool) {
	if quick {
		// What there is stays; what is missing is made by the daemon: loopback and a token.
		mode := f.text("gateway.auth.mode")
		if (mode == "" || mode == "token") && !f.present("gateway.auth.token") && !f.present("gateway.auth.password") && !f.cfg.HasSecret() {
			f.set("gateway.auth.mode", "token")
			f.set("gateway.auth.token", f.cfg.Token())
		}
		f.note("Gateway", "The gateway listens on this machine only and asks for a token, unless the configuration says otherwise.")
		return
	}
	port := f.input(Step{Key: "port", Initial: first(f.text("gateway.port"), strconv.Itoa(config.DefaultPort))}, "Port of the gateway", func(s string) string {
		if n, err := strconv.Atoi(s); err != nil || n < 1 || n > 65535 {
			return "a port is a number from 1 to 65535"
		}
		return ""
	})
	if n, err := strconv.Atoi(port); err == nil {
		f.set("gateway.port", n)
	}
	bind := f.choose("bind", "Who can reach it?", first(f.text("gateway.bind"), "loopback"),
		Option{"loopback", "This machine", "127.0.0.1"}, Option{"lan", "The local network", "all addresses"},
		Option{"tailnet", "The tailnet", "the address that Tailscale gave this machine"}, Option{"custom", "One address", ""},
		Option{"auto", "This machine, else the local network", ""})
	f.set("gateway.bind", bind)
	if bind == "custom" {
		f.set("gateway.customBindHost", f.input(Step{Key: "address", Initial: f.text("gateway.customBindHost"), Placeholder: "192.168.1.10"}, "Address to listen on", func(s string) string {
			if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
				return "name an IPv4 address"
			}
			return ""
		}))
	}
	current := f.text("gateway.auth.mode")
	auth := f.choose("auth", "How do clients prove who they are?", first(current, "token"),
		Option{"token", "A token", "made for you unless you have one"}, Option{"password", "A password", "which you choose"})
	f.set("gateway.auth.mode", auth)
	has := f.present("gateway.auth." + auth)
	hint := ""
	if has {
		hint = "leave empty to keep the one there is"
	}
	switch auth {
	case "token":
		if !has {
			hint = "leave empty to have one made"
		}
		token := f.input(Step{Key: "token", Sensitive: true, Placeholder: hint}, "Token of the gateway", func(s string) string {
			if s != "" && len(s) < 16 {
				return "a token that can be guessed protects nothing: 16 characters at least, or leave it empty"
			}
			return ""
		})
		if token == "" && !has && !f.cfg.HasSecret() {
			token = f.cfg.Token()
		}
		if token != "" {
			f.set("gateway.auth.token", token)
		}
	case "password":
		if password := f.input(Step{Key: "password", Sensitive: true, Placeholder: hint}, "Password of the gateway", func(s string) string {
			if s == "" && has {
				return ""
			}
			if len(s) < 8 {
				return "8 characters at least"
			}
			return ""
		}); password != "" {
			f.set("gateway.auth.password", password)
		}
	}
	options := []Option{{"off", "Not at all", ""}}
	if bind == "loopback" { // the others are refused at the start (config.md §2)
		options = append(options, Option{"serve", "To my tailnet", "tailscale serve"})
		if auth == "password" {
			options = append(options, Option{"funnel", "To everybody", "tailscale funnel: the internet reaches the gateway"})
		}
	}
	f.set("gateway.tailscale.mode", f.choose("tailscale", "Is it offered by Tailscale?", first(f.text("gateway.tailscale.mode"), "off"), options...))
}

// channels are those with one secret to ask for.
var channelTokens = []struct{ id, label, key, ask string }{
	{"telegram", "Telegram", "botToken", "Token of the bot"},
	{"discord", "Discord", "token", "Token of the bot"},
	{"slack", "Slack", "botToken", "Token of the bot (xoxb-…)"},
}

func (f *flow) channels() {
	s := Step{Key: "channels", Type: MultiSelect, Message: new("Which channels are to be prepared?"), Initial: []string{}}
	for _, c := range channelTokens {
		hint := ""
		if f.present("channels." + c.id) {
			hint = "is there already"
		}
		s.Options = append(s.Options, Option{c.id, c.label, hint})
	}
	chosen, _ := f.ask(s, nil).([]string)
	for _, c := range channelTokens {
		if !slices.Contains(chosen, c.id) {
			continue
		}
		path := "channels." + c.id + "."
		has := f.present(path + c.key)
		hint := ""
		if has {
			hint = "leave empty to keep the one there is"
		}
		token := f.input(Step{Key: c.id + "-token", Title: c.label, Sensitive: true, Placeholder: hint}, c.ask, func(s string) string {
			switch {
			case s == "" && !has:
				return "the token is empty"
			case strings.ContainsAny(s, " \t"):
				return "a token holds no spaces"
			}
			return ""
		})
		f.set(path+"enabled", true)
		if token != "" {
			f.set(path+c.key, token)
		}
		if c.id == "slack" {
			f.note("Slack", "Socket mode also needs the token of the app: hanzoctl config set channels.slack.appToken")
		}
	}
}

func (f *flow) skills() {
	if !f.confirm("skills", "Choose how skills are installed?", false) {
		return
	}
	f.set("skills.install.nodeManager", f.choose("node-manager", "Which manager installs packages for Node.js?", first(f.text("skills.install.nodeManager"), "npm"),
		Option{"npm", "npm", ""}, Option{"pnpm", "pnpm", ""}, Option{"yarn", "yarn", ""}, Option{"bun", "bun", ""}))
}

// hookNames are the handlers inside the gateway that can be switched on.
var hookNames = []Option{
	{"session-memory", "Remember sessions", "what was said is kept when a session is reset"},
	{"command-logger", "Log commands", ""},
	{"boot-md", "Run BOOT.md", "when the gateway starts"},
}

func (f *flow) hooks() {
	on := []string{}
	for _, h := range hookNames {
		if n := f.tree.At("hooks", "internal", "entries", h.Value, "enabled"); n != nil && n.Kind == json5.Bool && n.Bool {
			on = append(on, h.Value)
		}
	}
	chosen, _ := f.ask(Step{Key: "hooks", Type: MultiSelect, Message: new("Which hooks are on?"), Options: hookNames, Initial: on}, nil).([]string)
	for _, h := range hookNames {
		if is, was := slices.Contains(chosen, h.Value), slices.Contains(on, h.Value); is != was {
			f.set("hooks.internal.entries."+h.Value+".enabled", is)
		}
	}
	if len(chosen) > 0 {
		f.set("hooks.internal.enabled", true)
	}
}
