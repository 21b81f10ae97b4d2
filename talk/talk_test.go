package talk

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

const theKey = "sk-very-secret-0123456789"

// world is a service over a configuration of its own.
type world struct {
	*Service
	dir  string
	env  map[string]string
	log  *strings.Builder
	told []Mode
}

func newWorld(t *testing.T, file string) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), env: map[string]string{}, log: &strings.Builder{}}
	if err := os.WriteFile(filepath.Join(w.dir, "config.json"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(name string) string { return w.env[name] }
	c, err := config.Load(config.Options{StateDir: w.dir, Path: filepath.Join(w.dir, "config.json"), Env: get})
	if err != nil {
		t.Fatal(err)
	}
	bus := events.New(time.Now)
	bus.Sink(func(e events.Event) {
		if m, ok := e.Payload.(Mode); ok && e.Name == "talk.mode" {
			w.told = append(w.told, m)
		}
	})
	w.Service = New(Config{
		Current: func() *config.Config { return c }, Getenv: get, AudioDir: filepath.Join(w.dir, "media", "tts"), Bus: bus, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	return w
}

var reader = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}}

// asked is a provider that remembers what it was asked.
type asked struct {
	method, path, query, auth, key string
	body                           map[string]any
	code                           int
	answer                         string
}

func serve(t *testing.T, a *asked) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a.method, a.path, a.query, a.auth, a.key = r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("xi-api-key")
		data, _ := io.ReadAll(r.Body)
		a.body = nil
		_ = json.Unmarshal(data, &a.body)
		if a.code == http.StatusFound {
			rw.Header().Set("Location", "http://127.0.0.1:1/")
		}
		rw.WriteHeader(a.code)
		_, _ = io.WriteString(rw, a.answer)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func why(err error) string {
	e, _ := errs.As(err)
	if e == nil {
		return ""
	}
	return e.Field("why")
}

func TestConvertOpenAI(t *testing.T) {
	a := &asked{code: 200, answer: "MP3"}
	w := newWorld(t, `{messages: {tts: {openai: {apiKey: "`+theKey+`", baseUrl: "`+serve(t, a)+`/v1/", voice: "nova"}}}}`)
	out, err := w.Convert(t.Context(), reader, ConvertIn{Text: " hello "})
	if err != nil || out.Provider != OpenAI || out.Format != "mp3" || out.Voice || filepath.Ext(out.Path) != ".mp3" {
		t.Fatalf("%+v %v", out, err)
	}
	if data, err := os.ReadFile(out.Path); err != nil || string(data) != "MP3" {
		t.Errorf("%q %v", data, err)
	}
	if a.method != "POST" || a.path != "/v1/audio/speech" || a.auth != "Bearer "+theKey || a.body["input"] != "hello" || a.body["voice"] != "nova" ||
		a.body["model"] != "gpt-4o-mini-tts" || a.body["response_format"] != "mp3" {
		t.Errorf("%+v", a)
	}
	if out, err = w.Convert(t.Context(), reader, ConvertIn{Text: "x", Channel: "Telegram"}); err != nil || !out.Voice || out.Format != "opus" || filepath.Ext(out.Path) != ".opus" {
		t.Errorf("%+v %v", out, err)
	}
	// What the provider says of a failure is told, the key is not.
	for _, c := range []struct {
		code   int
		answer string
		want   string
	}{
		{401, `{"error":{"message":"Incorrect API key provided: ` + theKey + `"}}`, "openai: it answered 401: Incorrect API key provided: __OPENCLAW_REDACTED__; elevenlabs: no API key; edge: not part of hanzod"},
		{302, "", "openai: it answered 302; elevenlabs: no API key; edge: not part of hanzod"},
		{200, "", "openai: it answered nothing; elevenlabs: no API key; edge: not part of hanzod"},
	} {
		a.code, a.answer = c.code, c.answer
		if _, err := w.Convert(t.Context(), reader, ConvertIn{Text: "x"}); !errors.Is(err, ErrConvert) || why(err) != c.want {
			t.Errorf("%d: %v %q", c.code, err, why(err))
		}
	}
	if strings.Contains(w.log.String(), theKey) {
		t.Errorf("the log holds the key:\n%s", w.log)
	}
}

func TestConvertElevenLabsAfterAnother(t *testing.T) {
	first, second := &asked{code: 500}, &asked{code: 200, answer: "MP3"}
	w := newWorld(t, `{messages: {tts: {provider: "openai", openai: {apiKey: "a", baseUrl: "`+serve(t, first)+`"}, elevenlabs: {apiKey: "`+theKey+`", baseUrl: "`+serve(t, second)+`", voiceId: "v/1"}}}}`)
	out, err := w.Convert(t.Context(), reader, ConvertIn{Text: "hello"})
	if err != nil || out.Provider != ElevenLabs || out.Format != "mp3_44100_128" {
		t.Fatalf("%+v %v", out, err)
	}
	if second.path != "/v1/text-to-speech/v/1" || second.query != "output_format=mp3_44100_128" || second.key != theKey || second.body["text"] != "hello" || second.body["model_id"] != "eleven_multilingual_v2" {
		t.Errorf("%+v", second)
	}
}

func TestConvertRefusals(t *testing.T) {
	w := newWorld(t, `{messages: {tts: {maxTextLength: 5, timeoutMs: 1000}}}`)
	for name, c := range map[string]struct {
		text string
		want error
	}{"blank": {" ", ErrText}, "long": {"123456", ErrTextLong}, "nobody configured": {"12345", ErrConvert}} {
		if _, err := w.Convert(t.Context(), reader, ConvertIn{Text: c.text}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A provider that does not answer costs its time and no more, and a caller that goes away none.
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer srv.Close()
	defer close(hang)
	w = newWorld(t, `{messages: {tts: {timeoutMs: 1000, openai: {apiKey: "k", baseUrl: "`+srv.URL+`"}}}}`)
	began := time.Now()
	if _, err := w.Convert(t.Context(), reader, ConvertIn{Text: "x"}); !strings.Contains(why(err), "openai: it did not answer in time") || time.Since(began) > 5*time.Second {
		t.Errorf("%v %q after %v", err, why(err), time.Since(began))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Convert(ctx, reader, ConvertIn{Text: "x"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, bad := range []string{"file:///etc/passwd", "https://user:pw@host", "x"} {
		w = newWorld(t, `{messages: {tts: {openai: {apiKey: "k", baseUrl: "`+bad+`"}}}}`)
		if _, err := w.Convert(t.Context(), reader, ConvertIn{Text: "x"}); !errors.Is(err, ErrConvert) || strings.Contains(why(err), "pw") {
			t.Errorf("%s: %v %q", bad, err, why(err))
		}
	}
	for range maxConverts {
		w.working <- struct{}{}
	}
	if _, err := w.Convert(t.Context(), reader, ConvertIn{Text: "x"}); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
}

func TestChoices(t *testing.T) {
	w := newWorld(t, `{}`)
	st, err := w.Status(t.Context(), reader)
	if err != nil || st.Enabled || st.Auto != "off" || st.Provider != Edge || st.Fallbacks != nil || st.PrefsPath != filepath.Join(w.dir, "settings", "tts.json") || st.Edge {
		t.Errorf("%+v %v", st, err)
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "settings"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(st.PrefsPath, []byte(`{"x": 1.0, "tts": {"enabled": false, "summarize": true}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := w.Enable(t.Context(), reader); err != nil || !out.Enabled {
		t.Error(out, err)
	}
	if _, err := w.SetProvider(t.Context(), reader, SetProviderIn{Provider: ElevenLabs}); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(st.PrefsPath)
	var got map[string]any
	if err != nil || json.Unmarshal(data, &got) != nil || got["x"] != 1.0 {
		t.Fatalf("%s %v", data, err)
	}
	if tts := got["tts"].(map[string]any); tts["auto"] != "always" || tts["provider"] != ElevenLabs || tts["summarize"] != true || len(tts) != 3 {
		t.Errorf("%s", data)
	}
	w.env["OPENAI_API_KEY"] = "k"
	if st, err = w.Status(t.Context(), reader); err != nil || !st.Enabled || st.Auto != "always" || st.Provider != ElevenLabs || !slices.Equal(st.Fallbacks, []string{OpenAI}) || !st.OpenAIKey || st.ElevenLabsKey {
		t.Errorf("%+v %v", st, err)
	}
	if out, err := w.Disable(t.Context(), reader); err != nil || out.Enabled {
		t.Error(out, err)
	}
	if _, err := w.SetProvider(t.Context(), reader, SetProviderIn{Provider: "siri"}); !errors.Is(err, ErrProvider) {
		t.Error(err)
	}
	ps, err := w.Providers(t.Context(), reader)
	if err != nil || len(ps.Speakers) != 3 || len(ps.Speakers[0].Voices) != 14 || !ps.Speakers[0].Configured || ps.Speakers[2].Configured || ps.Active != ElevenLabs {
		t.Errorf("%+v %v", ps, err)
	}
	// A file that is damaged is neither read as something else nor written over.
	if err := os.WriteFile(st.PrefsPath, []byte(`{"tts":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Status(t.Context(), reader); !errors.Is(err, ErrPrefs) {
		t.Error(err)
	}
	if _, err := w.Enable(t.Context(), reader); !errors.Is(err, ErrPrefs) {
		t.Error(err)
	}
	if data, _ := os.ReadFile(st.PrefsPath); string(data) != `{"tts":` {
		t.Errorf("%s", data)
	}
	other := filepath.Join(w.dir, "other.json")
	w.env["OPENCLAW_TTS_PREFS"] = other
	if st, err := w.Status(t.Context(), reader); err != nil || st.PrefsPath != other {
		t.Errorf("%+v %v", st, err)
	}
}

func TestConfiguration(t *testing.T) {
	w := newWorld(t, `{}`)
	if out, err := w.Configuration(t.Context(), reader, ConfigIn{}); err != nil || out.Talk != nil || out.MainKey != "" {
		t.Errorf("%+v %v", out, err)
	}
	w = newWorld(t, `{session: {mainKey: "x"}, ui: {seamColor: "#ff0000"}, talk: {voiceId: "v", voiceAliases: {a: "b"}, apiKey: "`+theKey+`", interruptOnSpeech: false}}`)
	out, err := w.Configuration(t.Context(), reader, ConfigIn{})
	if err != nil || out.MainKey != "main" || out.SeamColor != "#ff0000" || out.Talk == nil || out.Talk.Provider != ElevenLabs || len(out.Talk.Providers) != 1 ||
		out.Talk.Active.VoiceID != "v" || out.Talk.Active.Aliases["a"] != "b" || out.Talk.Active.APIKey != redacted || out.Talk.Providers[0].APIKey != redacted || *out.Talk.InterruptOnSpeech {
		t.Errorf("%+v %+v %v", out, out.Talk, err)
	}
	if _, err := w.Configuration(t.Context(), reader, ConfigIn{Secrets: true}); !errors.Is(err, ErrSecrets) {
		t.Error(err)
	}
	voice := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead, identity.ScopeTalkSecrets}}
	if out, err := w.Configuration(t.Context(), voice, ConfigIn{Secrets: true}); err != nil || out.Talk.Active.APIKey != theKey {
		t.Errorf("%+v %v", out, err)
	}
	w = newWorld(t, `{talk: {provider: "b", providers: {a: {voiceId: "1"}, b: {modelId: "2"}}}}`)
	if out, err := w.Configuration(t.Context(), reader, ConfigIn{}); err != nil || len(out.Talk.Providers) != 2 || out.Talk.Active.ModelID != "2" {
		t.Errorf("%+v %v", out, err)
	}
}

func TestMode(t *testing.T) {
	w := newWorld(t, `{}`)
	mobile := false
	w.cfg.Mobile = func() bool { return mobile }
	phase := "listening"
	if out, err := w.SetMode(t.Context(), reader, ModeIn{Enabled: true, Phase: &phase}); err != nil || !out.Enabled || len(w.told) != 1 || w.told[0].At.IsZero() {
		t.Errorf("%+v %v", out, err)
	}
	web := reader
	web.ClientMode = "webchat"
	if _, err := w.SetMode(t.Context(), web, ModeIn{}); !errors.Is(err, ErrNoMobile) || len(w.told) != 1 {
		t.Error(err)
	}
	mobile = true
	if _, err := w.SetMode(t.Context(), web, ModeIn{}); err != nil || len(w.told) != 2 {
		t.Error(err)
	}
	long := strings.Repeat("x", maxPhase+1)
	if _, err := w.SetMode(t.Context(), reader, ModeIn{Phase: &long}); !errors.Is(err, ErrPhase) {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	w := newWorld(t, `{}`)
	w.sweep() // nothing is there
	path, err := w.keep([]byte("x"), ".mp3")
	if err != nil {
		t.Fatal(err)
	}
	old, other := filepath.Join(w.cfg.AudioDir, audioPrefix+"old.opus"), filepath.Join(w.cfg.AudioDir, "notes.mp3")
	for _, p := range []string{old, other} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(-time.Hour)
		if err := os.Chtimes(p, past, past); err != nil {
			t.Fatal(err)
		}
	}
	w.sweep()
	for p, want := range map[string]bool{path: true, other: true, old: false} {
		if _, err := os.Stat(p); (err == nil) != want {
			t.Errorf("%s: %v", p, err)
		}
	}
}
