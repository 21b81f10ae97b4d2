package compat

import (
	"maps"
	"strconv"

	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/talk"
)

// voice binds the methods that are about voice.
func (d *Door) voice() map[string]binding {
	t := d.cfg.Talk
	mode := unary(methods.TalkModeFromLegacy, t.SetMode, methods.TalkModeToLegacy)
	mode.first = t.CheckMode
	return map[string]binding{
		"talk.config":     waiting(unary(methods.TalkConfigFromLegacy, t.Configuration, methods.TalkConfigToLegacy)),
		"talk.mode":       mode,
		"tts.status":      waiting(unary(none, plain(t.Status), methods.TTSStatusToLegacy)),
		"tts.providers":   waiting(unary(none, plain(t.Providers), methods.TTSProvidersToLegacy)),
		"tts.enable":      waiting(unary(none, plain(t.Enable), methods.TTSEnabledToLegacy)),
		"tts.disable":     waiting(unary(none, plain(t.Disable), methods.TTSEnabledToLegacy)),
		"tts.setProvider": waiting(unary(methods.TTSSetProviderFromLegacy, t.SetProvider, methods.TTSSetProviderToLegacy)),
		"tts.convert":     waiting(unary(methods.TTSConvertFromLegacy, t.Convert, methods.TTSConvertToLegacy)),
	}
}

// The texts of talk.* and tts.*.
func init() {
	maps.Copy(words, map[string]wording{
		talk.ErrSecrets.Code:  invalid("missing scope: operator.talk.secrets"),
		talk.ErrNoMobile.Code: unavailable("talk disabled: no connected iOS/Android nodes"),
		talk.ErrPhase.Code:    ownText,
		talk.ErrText.Code:     invalid("tts.convert requires text"),
		talk.ErrTextLong.Code: built(func(e *errs.Error) wire.ErrorShape {
			chars, _ := e.Fields["chars"].(int)
			most, _ := e.Fields["max"].(int)
			return wire.ErrorShape{Code: codeUnavailable, Message: "Text too long (" + strconv.Itoa(chars) + " chars, max " + strconv.Itoa(most) + ")"}
		}),
		talk.ErrProvider.Code: invalid("Invalid provider. Use openai, elevenlabs, or edge."),
		talk.ErrConvert.Code: built(func(e *errs.Error) wire.ErrorShape {
			return wire.ErrorShape{Code: codeUnavailable, Message: "TTS conversion failed: " + e.Field("why")}
		}),
		talk.ErrBusy.Code:  unavailable(talk.ErrBusy.Text),
		talk.ErrPrefs.Code: unavailable(talk.ErrPrefs.Text),
		talk.ErrFile.Code:  unavailable(talk.ErrFile.Text),
	})
}
