package talk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

// The argument and the result of Convert.
type (
	ConvertIn struct {
		Text string
		// Channel is what the speech is for; some want another format.
		Channel string
	}
	ConvertOut struct {
		Path, Provider, Format string
		// Voice says that it can be sent as a voice message.
		Voice bool
	}
)

// form is what speech is made in.
type form struct {
	openAI, elevenLabs, extension string
	voice                         bool
}

// formFor is the form that a channel wants (frozen).
func formFor(channel string) form {
	if strings.EqualFold(strings.TrimSpace(channel), "telegram") {
		return form{"opus", "opus_48000_64", ".opus", true}
	}
	return form{"mp3", "mp3_44100_128", ".mp3", false}
}

// Convert makes speech of a text. It asks the provider in use and then the others that are configured, and
// returns when the speech is in a file, which stays for five minutes.
func (s *Service) Convert(ctx context.Context, _ identity.Caller, in ConvertIn) (ConvertOut, error) {
	text := strings.TrimSpace(in.Text)
	if text == "" {
		return ConvertOut{}, ErrText
	}
	now, err := s.settings()
	if err != nil {
		return ConvertOut{}, err
	}
	if n := len(utf16.Encode([]rune(text))); n > now.maxText {
		return ConvertOut{}, ErrTextLong.With("chars", n, "max", now.maxText)
	}
	select {
	case s.working <- struct{}{}:
		defer func() { <-s.working }()
	default:
		return ConvertOut{}, ErrBusy
	}
	f := formFor(in.Channel)
	var why []string
	for _, p := range now.order() {
		if !now.configured(p) {
			why = append(why, p+": "+missing(p))
			continue
		}
		audio, format, err := s.ask(ctx, now, p, text, f)
		if err != nil {
			if ctx.Err() != nil {
				return ConvertOut{}, context.Cause(ctx)
			}
			s.cfg.Log.Warn("a provider made no speech", "provider", p, "error", err)
			why = append(why, p+": "+err.Error())
			continue
		}
		path, err := s.keep(audio, f.extension)
		if err != nil {
			return ConvertOut{}, ErrFile.Wrap(err)
		}
		return ConvertOut{Path: path, Provider: p, Format: format, Voice: f.voice}, nil
	}
	reasons := strings.Join(why, "; ")
	return ConvertOut{}, ErrConvert.WithText("no speech was made ("+reasons+"); set messages.tts.openai.apiKey or messages.tts.elevenlabs.apiKey, or see why the provider refused").With("why", reasons)
}

// missing says why a provider is not asked.
func missing(provider string) string {
	if provider == Edge {
		return "not part of hanzod"
	}
	return "no API key"
}

// ask has one provider make speech, within its time.
func (s *Service) ask(ctx context.Context, now settings, provider, text string, f form) (audio []byte, format string, err error) {
	ctx, cancel := context.WithTimeout(ctx, now.timeout)
	defer cancel()
	var target string
	var body any
	header := http.Header{"Content-Type": {"application/json"}}
	switch provider {
	case OpenAI:
		target, format = strings.TrimRight(now.openAI.url, "/")+"/audio/speech", f.openAI
		header.Set("Authorization", "Bearer "+now.openAI.key)
		body = map[string]any{"model": now.openAI.model, "input": text, "voice": now.openAI.voice, "response_format": format}
	case ElevenLabs:
		format = f.elevenLabs
		target = strings.TrimRight(now.elevenLabs.url, "/") + "/v1/text-to-speech/" + url.PathEscape(now.elevenLabs.voice) + "?output_format=" + url.QueryEscape(format)
		header.Set("xi-api-key", now.elevenLabs.key)
		header.Set("Accept", "audio/mpeg")
		body = map[string]any{
			"text": text, "model_id": now.elevenLabs.model,
			"voice_settings": map[string]any{"stability": 0.5, "similarity_boost": 0.75, "style": 0.0, "use_speaker_boost": true, "speed": 1.0},
		}
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(data))
	if err != nil || (req.URL.Scheme != "http" && req.URL.Scheme != "https") || req.URL.Host == "" || req.URL.User != nil {
		return nil, "", errors.New("baseUrl is no address that begins with https:// or http:// and holds no password")
	}
	req.Header = header
	res, err := s.http.Do(req)
	if err != nil {
		return nil, "", plainly(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, "", refusal(res, now.openAI.key, now.elevenLabs.key)
	}
	audio, err = io.ReadAll(io.LimitReader(res.Body, maxAudio+1))
	switch {
	case err != nil:
		return nil, "", plainly(err)
	case len(audio) > maxAudio:
		return nil, "", fmt.Errorf("it answered more than %d bytes", maxAudio)
	case len(audio) == 0:
		return nil, "", errors.New("it answered nothing")
	}
	return audio, format, nil
}

// plainly says what went wrong without the address, which may hold what is nobody's business.
func plainly(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it did not answer in time")
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// refusal is what a provider said instead of speech, without the keys if it repeats them.
func refusal(res *http.Response, keys ...string) error {
	data, _ := io.ReadAll(io.LimitReader(res.Body, maxFault)) // what came of it is enough
	var said struct {
		Error  struct{ Message string }
		Detail struct{ Message string }
	}
	text := ""
	if json.Unmarshal(data, &said) == nil {
		text = orElse(said.Error.Message, said.Detail.Message)
	}
	for _, k := range keys {
		if k != "" {
			text = strings.ReplaceAll(text, k, redacted)
		}
	}
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "\uFFFD")
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200])
	}
	if text != "" {
		return fmt.Errorf("it answered %d: %s", res.StatusCode, text)
	}
	return fmt.Errorf("it answered %d", res.StatusCode)
}

const audioPrefix = "voice-"

// keep writes speech to a file of its own.
func (s *Service) keep(audio []byte, extension string) (string, error) {
	if err := os.MkdirAll(s.cfg.AudioDir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(s.cfg.AudioDir, audioPrefix+uuid.NewString()+extension)
	return path, config.WriteFileAtomic(path, audio, 0o600)
}

// sweep removes speech that is older than it has to be.
func (s *Service) sweep() {
	entries, err := os.ReadDir(s.cfg.AudioDir)
	if err != nil {
		return // there is none
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !strings.HasPrefix(e.Name(), audioPrefix) && !strings.HasPrefix(e.Name(), "."+audioPrefix) ||
			!slices.Contains([]string{".mp3", ".opus"}, filepath.Ext(e.Name())) && !strings.Contains(e.Name(), ".tmp-") || s.cfg.Now().Sub(info.ModTime()) < keepAudio {
			continue
		}
		if err := os.Remove(filepath.Join(s.cfg.AudioDir, e.Name())); err != nil {
			s.cfg.Log.Warn("old speech cannot be removed", "error", err)
		}
	}
}
