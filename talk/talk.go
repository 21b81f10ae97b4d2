// Package talk is about voice: what voice clients are told, and speech made of text (control-plane.md §9).
//
// It imports leaves only. What was chosen at run time stands in a file of the original's form, beside the
// configuration. Service owns no goroutine but the one that calls Run, which takes away speech that was made; its
// methods are safe for concurrent use. API keys reach the providers' requests and nothing else.
package talk

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// maxText is how many characters are made speech of when the configuration says nothing (frozen).
	maxText = 4096
	// maxAudio bounds what a provider answers, in bytes: an hour of speech has a tenth of it.
	maxAudio = 64 << 20
	// maxFault bounds what is read of a provider's refusal.
	maxFault = 4 << 10
	// convertTime is how long a provider may take when the configuration says nothing (frozen).
	convertTime = 30 * time.Second
	// maxConverts is how many texts are made speech at once; one more is refused.
	maxConverts = 8
	// keepAudio is how long a file with speech stays (frozen).
	keepAudio = 5 * time.Minute
	// sweepEvery is how often files are looked at.
	sweepEvery = time.Minute
	// maxPhase bounds the phase of talk mode, in bytes: everybody is told of it.
	maxPhase = 1 << 10
	// maxPrefs bounds the file of what was chosen.
	maxPrefs = 1 << 20
)

// The providers, with their legacy names.
const (
	OpenAI     = "openai"
	ElevenLabs = "elevenlabs"
	Edge       = "edge"
)

// order is in which order providers are asked.
var order = []string{OpenAI, ElevenLabs, Edge}

// Config is what the service needs.
type Config struct {
	// Current is the configuration in force.
	Current func() *config.Config
	// Getenv looks up a variable of the environment; nil is os.Getenv.
	Getenv func(string) string
	// AudioDir is where files with speech go. It is made when it is needed.
	AudioDir string
	// Mobile reports whether a phone or a tablet is connected as a node; nil is never.
	Mobile func() bool
	Bus    *events.Bus
	Now    func() time.Time
	Log    *slog.Logger
	// HTTP asks the providers; nil is a client of our own.
	HTTP *http.Client
}

// Service answers for voice.
type Service struct {
	cfg     Config
	http    *http.Client
	working chan struct{} // one token for each conversion under way

	mu sync.Mutex // held while the file of choices is written
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Getenv == nil {
		cfg.Getenv = os.Getenv
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, http: cfg.HTTP, working: make(chan struct{}, maxConverts)}
	if s.http == nil {
		s.http = &http.Client{}
	}
	own := *s.http
	// A provider does not send a key on to somebody else.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.http = &own
	return s
}

// getenv looks a variable up, in the environment and then in the env section of the configuration.
func (s *Service) getenv(c *config.Config, names ...string) string {
	for _, n := range names {
		if v := s.cfg.Getenv(n); v != "" {
			return v
		}
		if v := c.EnvVars[n]; v.IsSet() {
			return v.Reveal()
		}
	}
	return ""
}

// ModeIn and ModeOut are the argument and the result of SetMode, Mode is the payload of the event talk.mode.
type (
	ModeIn struct {
		Enabled bool
		// Phase is what talk mode is doing, nil when nothing was said.
		Phase *string
	}
	ModeOut struct {
		Enabled bool
		Phase   *string
		At      time.Time
	}
	Mode = ModeOut
)

// The errors of this package.
var (
	ErrSecrets  = errs.Define(errs.Denied, "talk.secrets", "API keys are shown to those with the scope operator.talk.secrets only")
	ErrNoMobile = errs.Define(errs.Unavailable, "talk.no_mobile", "talk mode needs a phone: connect one as a node")
	ErrPhase    = errs.Define(errs.Invalid, "talk.phase", "a phase may have 1024 bytes at the most")
	ErrText     = errs.Define(errs.Invalid, "talk.text", "say what is to be spoken")
	// ErrTextLong has the fields "chars" and "max".
	ErrTextLong = errs.Define(errs.Invalid, "talk.text_long", "the text is too long; shorten it or raise messages.tts.maxTextLength")
	ErrProvider = errs.Define(errs.Invalid, "talk.provider", "choose openai, elevenlabs or edge")
	// ErrConvert has the field "why".
	ErrConvert = errs.Define(errs.Unavailable, "talk.convert",
		"no speech was made; set messages.tts.openai.apiKey or messages.tts.elevenlabs.apiKey, or see why the provider refused")
	ErrBusy  = errs.Define(errs.Exhausted, "talk.busy", "too many texts are being made speech; try again later")
	ErrPrefs = errs.Define(errs.Unavailable, "talk.prefs", "the file of speech settings cannot be read or written; repair or remove it")
	ErrFile  = errs.Define(errs.Unavailable, "talk.file", "the speech could not be written to a file; see that there is room on the disk")
)

// SetMode tells everybody that talk mode is on or off. Nothing is kept.
func (s *Service) SetMode(_ context.Context, c identity.Caller, in ModeIn) (ModeOut, error) {
	if err := s.CheckMode(c); err != nil {
		return ModeOut{}, err
	}
	if in.Phase != nil && len(*in.Phase) > maxPhase {
		return ModeOut{}, ErrPhase
	}
	out := ModeOut{Enabled: in.Enabled, Phase: in.Phase, At: s.cfg.Now()}
	s.cfg.Bus.Publish("talk.mode", out)
	return out, nil
}

// CheckMode refuses clients that only show talk mode while no phone is there.
func (s *Service) CheckMode(c identity.Caller) error {
	if (c.ClientMode == "webchat" || c.ClientID == "webchat-ui") && (s.cfg.Mobile == nil || !s.cfg.Mobile()) {
		return ErrNoMobile
	}
	return nil
}

// Run takes away speech that nobody needs any more, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s.sweep()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
