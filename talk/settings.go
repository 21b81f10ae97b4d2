package talk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/identity"
)

// The modes in which replies are spoken, with their legacy names.
var modes = []string{"off", "always", "inbound", "tagged"}

// The voices and models that the original knows (control-plane.md §9).
var (
	openAIModels     = []string{"gpt-4o-mini-tts", "tts-1", "tts-1-hd"}
	openAIVoices     = []string{"alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "juniper", "marin", "onyx", "nova", "sage", "shimmer", "verse"}
	elevenLabsModels = []string{"eleven_multilingual_v2", "eleven_turbo_v2_5", "eleven_monolingual_v1"}
)

// The results of what asks for or changes settings.
type (
	StatusOut struct {
		Enabled bool
		// Auto is off, always, inbound or tagged.
		Auto, Provider string
		// Fallbacks are asked in this order when the provider fails.
		Fallbacks                []string
		PrefsPath                string
		OpenAIKey, ElevenLabsKey bool
		Edge                     bool
	}
	// Speaker is who can make speech.
	Speaker struct {
		ID, Name       string
		Configured     bool
		Models, Voices []string
	}
	ProvidersOut struct {
		Speakers []Speaker
		Active   string
	}
	EnabledOut    struct{ Enabled bool }
	SetProviderIn struct{ Provider string }
)

// settings are those in force.
type settings struct {
	auto, provider string
	maxText        int
	timeout        time.Duration
	prefs          string
	openAI         struct{ key, url, model, voice string }
	elevenLabs     struct{ key, url, model, voice string }
}

// prefs are what was chosen at run time, in the file of the original's form.
type prefs struct {
	auto, provider string
	tree           *json5.Node
}

// settings reads the configuration and what was chosen since.
func (s *Service) settings() (settings, error) {
	c := s.cfg.Current()
	n := c.Section("messages").Get("tts")
	out := settings{auto: "off", maxText: maxText, timeout: convertTime, prefs: s.prefsPath(c, n)}
	if v := text(n.Get("auto")); slices.Contains(modes, v) {
		out.auto = v
	} else if b := n.Get("enabled"); b != nil && b.Kind == json5.Bool && b.Bool {
		out.auto = "always"
	}
	if v, ok := number(n.Get("maxTextLength")); ok && v >= 1 {
		out.maxText = int(min(v, 1<<20))
	}
	if v, ok := number(n.Get("timeoutMs")); ok && v >= 1 {
		out.timeout = time.Duration(min(v, float64(time.Hour/time.Millisecond))) * time.Millisecond
	}
	o, e := n.Get("openai"), n.Get("elevenlabs")
	out.openAI.key = orElse(secret(c, "messages.tts.openai.apiKey", o.Get("apiKey")), s.getenv(c, "OPENAI_API_KEY"))
	out.openAI.url = orElse(text(o.Get("baseUrl")), orElse(s.getenv(c, "OPENAI_TTS_BASE_URL"), "https://api.openai.com/v1"))
	out.openAI.model, out.openAI.voice = orElse(text(o.Get("model")), openAIModels[0]), orElse(text(o.Get("voice")), openAIVoices[0])
	out.elevenLabs.key = orElse(secret(c, "messages.tts.elevenlabs.apiKey", e.Get("apiKey")), s.getenv(c, "ELEVENLABS_API_KEY", "XI_API_KEY"))
	out.elevenLabs.url = orElse(text(e.Get("baseUrl")), "https://api.elevenlabs.io")
	out.elevenLabs.model, out.elevenLabs.voice = orElse(text(e.Get("modelId")), elevenLabsModels[0]), orElse(text(e.Get("voiceId")), "pMsXgVXv3BLzUgSXRplE")

	chosen, err := readPrefs(out.prefs)
	if err != nil {
		return settings{}, err
	}
	out.auto = orElse(chosen.auto, out.auto)
	switch configured := text(n.Get("provider")); {
	case chosen.provider != "":
		out.provider = chosen.provider
	case slices.Contains(order, configured):
		out.provider = configured
	case out.openAI.key != "":
		out.provider = OpenAI
	case out.elevenLabs.key != "":
		out.provider = ElevenLabs
	default:
		out.provider = Edge
	}
	return out, nil
}

// configured reports whether a provider can be asked. Edge is a service that this hanzod cannot ask.
func (s settings) configured(provider string) bool {
	return provider == OpenAI && s.openAI.key != "" || provider == ElevenLabs && s.elevenLabs.key != ""
}

// order is the provider in use and then the others.
func (s settings) order() []string {
	out := []string{s.provider}
	for _, p := range order {
		if p != s.provider {
			out = append(out, p)
		}
	}
	return out
}

func (s *Service) prefsPath(c *config.Config, tts *json5.Node) string {
	path := orElse(text(tts.Get("prefsPath")), orElse(config.Environ(s.cfg.Getenv).Value("HANZOD_TTS_PREFS"), filepath.Join(c.StateDir, "settings", "tts.json")))
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || rest[0] == '/' || rest[0] == filepath.Separator) {
		path = filepath.Join(c.Home, rest)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.StateDir, path)
	}
	return path
}

// readPrefs reads the file of choices; one that is not there chose nothing.
func readPrefs(path string) (prefs, error) {
	info, err := os.Stat(path) // asked first: opening a named pipe would wait for its writer
	if errors.Is(err, fs.ErrNotExist) {
		return prefs{tree: &json5.Node{Kind: json5.Object}}, nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxPrefs) {
		err = errors.New("it is no file of settings")
	}
	if err != nil {
		return prefs{}, ErrPrefs.Wrap(err)
	}
	f, err := os.Open(path)
	if err != nil {
		return prefs{}, ErrPrefs.Wrap(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPrefs))
	if err != nil {
		return prefs{}, ErrPrefs.Wrap(err)
	}
	tree, err := json5.Parse(data)
	if err == nil && tree.Kind != json5.Object {
		err = errors.New("it holds no object")
	}
	if err != nil {
		return prefs{}, ErrPrefs.Wrap(err)
	}
	p := prefs{tree: tree}
	tts := tree.Get("tts")
	if v := text(tts.Get("auto")); slices.Contains(modes, v) {
		p.auto = v
	} else if b := tts.Get("enabled"); b != nil && b.Kind == json5.Bool {
		p.auto = map[bool]string{true: "always", false: "off"}[b.Bool]
	}
	if v := text(tts.Get("provider")); slices.Contains(order, v) {
		p.provider = v
	}
	return p, nil
}

// choose writes one choice, and keeps what else is in the file. It is on disk when it returns.
func (s *Service) choose(key, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cfg.Current()
	path := s.prefsPath(c, c.Section("messages").Get("tts"))
	p, err := readPrefs(path)
	if err != nil {
		return err
	}
	tts := p.tree.Get("tts")
	if tts == nil || tts.Kind != json5.Object {
		tts = &json5.Node{Kind: json5.Object}
		p.tree.Members = slices.DeleteFunc(p.tree.Members, func(m json5.Member) bool { return m.Key == "tts" })
		p.tree.Members = append(p.tree.Members, json5.Member{Key: "tts", Value: tts})
	}
	tts.Members = slices.DeleteFunc(tts.Members, func(m json5.Member) bool { return m.Key == key || (key == "auto" && m.Key == "enabled") })
	tts.Members = append(tts.Members, json5.Member{Key: key, Value: &json5.Node{Kind: json5.String, Str: value}})
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return ErrPrefs.Wrap(err)
	}
	if err := config.WriteFileAtomic(path, []byte(json5.Format(p.tree)+"\n"), 0o600); err != nil {
		return ErrPrefs.Wrap(err)
	}
	return nil
}

// Status says whether replies are spoken, and by whom.
func (s *Service) Status(context.Context, identity.Caller) (StatusOut, error) {
	now, err := s.settings()
	if err != nil {
		return StatusOut{}, err
	}
	out := StatusOut{
		Enabled: now.auto != "off", Auto: now.auto, Provider: now.provider, PrefsPath: now.prefs,
		OpenAIKey: now.openAI.key != "", ElevenLabsKey: now.elevenLabs.key != "", Edge: now.configured(Edge),
	}
	for _, p := range now.order()[1:] {
		if now.configured(p) {
			out.Fallbacks = append(out.Fallbacks, p)
		}
	}
	return out, nil
}

// Providers lists who can make speech.
func (s *Service) Providers(context.Context, identity.Caller) (ProvidersOut, error) {
	now, err := s.settings()
	if err != nil {
		return ProvidersOut{}, err
	}
	return ProvidersOut{Active: now.provider, Speakers: []Speaker{
		{OpenAI, "OpenAI", now.configured(OpenAI), slices.Clone(openAIModels), slices.Clone(openAIVoices)},
		{ElevenLabs, "ElevenLabs", now.configured(ElevenLabs), slices.Clone(elevenLabsModels), nil},
		{Edge, "Edge TTS", now.configured(Edge), nil, nil},
	}}, nil
}

// Enable has every reply spoken, Disable none.
func (s *Service) Enable(context.Context, identity.Caller) (EnabledOut, error) {
	return EnabledOut{true}, s.choose("auto", "always")
}

// Disable has no reply spoken.
func (s *Service) Disable(context.Context, identity.Caller) (EnabledOut, error) {
	return EnabledOut{false}, s.choose("auto", "off")
}

// SetProvider chooses who makes speech.
func (s *Service) SetProvider(_ context.Context, _ identity.Caller, in SetProviderIn) (SetProviderIn, error) {
	in.Provider = strings.TrimSpace(in.Provider)
	if !slices.Contains(order, in.Provider) {
		return SetProviderIn{}, ErrProvider
	}
	return in, s.choose("provider", in.Provider)
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
