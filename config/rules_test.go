package config

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/config/json5"
)

func TestSensitive(t *testing.T) {
	rule := regexp.MustCompile(`token$|password|secret|api.?key|serviceaccount(ref)?$`)
	not := regexp.MustCompile(`(maxtokens|maxoutputtokens|maxinputtokens|maxcompletiontokens|contexttokens|totaltokens|tokencount|tokenlimit|tokenbudget|passwordfile)$`)
	for _, path := range []string{
		"a.token", "tokens", "a.maxtokens", "passwordfile", "password", "x.secrets.y", "apikey", "api_key", "api..key", "a.apis.key", "apiapikey", "ap.key",
		"serviceaccount", "serviceaccountref", "serviceaccountfile", "token.x", "secret.tokencount", "api", "apik", "apiékey", "",
	} {
		if got, want := sensitive(path), rule.MatchString(path) && !not.MatchString(path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// TestRules are those over several keys, and those with words of their own.
func TestRules(t *testing.T) {
	for in, want := range map[string]string{
		"{channels:{nochannel:{}}}":                                       "- channels.nochannel: unknown channel id: nochannel (line 1)",
		"{channels:{telegram:{dmPolicy:'open'}}}":                         `- channels.telegram.allowFrom: channels.telegram.dmPolicy="open" requires channels.telegram.allowFrom to include "*" (line 1)`,
		"{channels:{slack:{dmPolicy:'nobody'}}}":                          `- channels.slack.dmPolicy: Invalid option: expected one of "pairing"|"allowlist"|"open"|"disabled", got "nobody" (line 1)`,
		"{channels:{telegram:{tokn:''}}}":                                 `- channels.telegram: Unrecognized key: "tokn" (line 1)`,
		"{tools:{allow:['a'],alsoAllow:['b']}}":                           "- tools: tools cannot set both allow and alsoAllow in the same scope (merge allow entries into alsoAllow, or remove allow and use profile + alsoAllow) (line 1)",
		"{tools:{loopDetection:{warningThreshold:30}}}":                   "- tools.loopDetection.criticalThreshold: tools.loopDetection.warningThreshold must be lower than criticalThreshold. (line 1)",
		"{broadcast:{p:['x']},agents:{list:[{id:'a'}]}}":                  `- broadcast.p.0: Unknown agent id "x" (not in agents.list). (line 1)`,
		"{agents:{list:[{id:'a',agentDir:'/d'},{id:'b',agentDir:'/d'}]}}": `- agents.list: Agents "a" and "b" share the directory "/d"; give each an agentDir of its own (line 1)`,
		"{agents:{list:[{id:'a',identity:{avatar:'../x'}}]}}":             "- agents.list.0.identity.avatar: identity.avatar must stay within the agent workspace. (line 1)",
		"{agents:{list:[{id:'a',identity:{avatar:'ftp://x'}}]}}":          "- agents.list.0.identity.avatar: identity.avatar must be a workspace-relative path, http(s) URL, or data URI. (line 1)",
		"{browser:{profiles:{x:{color:'00ff00'}}}}":                       "- browser.profiles.x: Profile must set cdpPort or cdpUrl (line 1)",
		"{browser:{profiles:{x:{cdpPort:1,color:'0',driver:'openclaw'}}}}": `- browser.profiles.x.driver: Invalid input (allowed: "clawd", "extension"), got "openclaw" (line 1)` + "\n" +
			`- browser.profiles.x.color: Profile color must be hex (RRGGBB) (line 1)`,
		"{session:{maintenance:{pruneAfter:'1w',rotateBytes:'x'}}}": "- session.maintenance.pruneAfter: invalid duration (use ms, s, m, h, d) (line 1)\n- session.maintenance.rotateBytes: invalid size (use b, kb, mb, gb, tb) (line 1)",
		"{messages:{queue:{byChannel:{foo:'steer'}}}}":              `- messages.queue.byChannel: Unrecognized key: "foo" (line 1)`,
		"{commands:{native:'yes'}}":                                 `- commands.native: Invalid input (allowed: true, false, "auto") (line 1)`,
		"{models:{providers:{x:{models:[{id:'',name:'n'}]}}}}":      "- models.providers.x.baseUrl: Invalid input: expected string, received undefined (line 1)\n- models.providers.x.models.0.id: Too small: expected string to have >=1 characters (line 1)",
		"{ui:{assistant:{name:'" + strings.Repeat("x", 51) + "'}}}": "- ui.assistant.name: Too big: expected string to have <=50 characters (line 1)",
		"{env:{X:1}}": "- env.X: Invalid input: expected string, received number (line 1)",
		// Keys that documentation mentions and validation refuses (config.md §13).
		"{discovery:{wideArea:{domain:'x'}}}":                       `- discovery.wideArea: Unrecognized key: "domain" (line 1)`,
		"{agents:{list:[{id:'a',params:{}}]}}":                      `- agents.list.0: Unrecognized key: "params" (line 1)`,
		"{tools:{web:{fetch:{readability:true}}}}":                  `- tools.web.fetch: Unrecognized key: "readability" (line 1)`,
		"{tools:{subagents:{model:'x'}}}":                           `- tools.subagents: Unrecognized key: "model" (line 1)`,
		"{tools:{exec:{approvalRunningNoticeMs:1}}}":                `- tools.exec: Unrecognized key: "approvalRunningNoticeMs" (line 1)`,
		"{hooks:{mappings:[{channel:'googlechat'}]}}":               `- hooks.mappings.0.channel: Invalid input (allowed: "last", "whatsapp", "telegram", "discord", "irc", "slack", "signal", "imessage", "msteams"), got "googlechat" (line 1)`,
		"{bindings:[{agentId:'a',match:{channel:'x',nope:1}}]}":     `- bindings.0.match: Unrecognized key: "nope" (line 1)`,
		"{bindings:[{type:'acp',agentId:'a',match:{channel:'x'}}]}": "- bindings.0.match.peer: ACP bindings require match.peer.id to target a concrete conversation. (line 1)\n- bindings.0.match.channel: ACP bindings currently support only \"discord\" and \"telegram\" channels. (line 1)",
		"{agents:{defaults:{sandbox:{docker:{network:'host'}}}}}":   `- agents.defaults.sandbox.docker.network: Sandbox security: network mode "host" is blocked. Use "bridge" or "none" instead. (line 1)`,
		"{secrets:{providers:{x:{source:'exec',command:'a'}}}}":     "- secrets.providers.x.command: secrets.providers.*.command must be an absolute path. (line 1)",
		"{bindings:[{type:'x',agentId:'a',match:{channel:'x'}}]}":   "- bindings.0: Invalid input (line 1)",
		"{secrets:{providers:{x:{source:'file',path:'',no:1}}}}":    "- secrets.providers.x.path: Too small: expected string to have >=1 characters (line 1)\n- secrets.providers.x: Unrecognized key: \"no\" (line 1)",
		"{logging:{level:'loud'}}":                                  `- logging.level: Invalid input (allowed: "silent", "fatal", "error", "warn", "info", "debug", "trace"), got "loud" (line 1)`,
		"{cron:{retry:{maxAttempts:11}}}":                           "- cron.retry.maxAttempts: Too big: expected number to be <=10 (line 1)",
	} {
		_, err := load(t, in)
		got := "nothing"
		if err != nil {
			got = strings.Join(issues(t, err), "\n")
		}
		if !strings.HasPrefix(got, want) && strings.ReplaceAll(hintOff.ReplaceAllString(got, ""), "  ", " ") != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
	_, err := load(t, "{logging:{level:'loud'}}")
	var inv *Invalid
	if inv, _ = err.(*Invalid); inv == nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"silent", "fatal", "error", "warn", "info", "debug", "trace"}, inv.Issues[0].AllowedValues); d != "" ||
		inv.Issues[0].Message != `Invalid input (allowed: "silent", "fatal", "error", "warn", "info", "debug", "trace")` {
		t.Errorf("%+v", inv.Issues[0])
	}
}

var hintOff = regexp.MustCompile(` \(did you mean "[^"]*"\?\)`)

func TestMigrate(t *testing.T) {
	for in, want := range map[string]string{
		"{telegram:{botToken:'x'}}": "{channels:{telegram:{botToken:'x'}}}",
		"{telegram:{botToken:'x',enabled:true},channels:{telegram:{botToken:'y'}}}":                 "{channels:{telegram:{botToken:'y',enabled:true}}}",
		"{gateway:{token:'x',bind:'0.0.0.0'}}":                                                      "{gateway:{bind:'lan',auth:{token:'x'}}}",
		"{agent:{model:'a/b',modelFallbacks:['c/d'],allowedModels:['e/f'],modelAliases:{g:'h/i'}}}": "{agents:{defaults:{model:{primary:'a/b',fallbacks:['c/d']},models:{'e/f':{},'h/i':{alias:'g'}}}}}",
		"{identity:{name:'X'}}": "{agents:{list:[{id:'main',identity:{name:'X'}}]}}",
		"{identity:{name:'X'},agents:{list:[{id:'a'},{id:'b',default:true}]}}": "{agents:{list:[{id:'a'},{id:'b',default:true,identity:{name:'X'}}]}}",
		"{routing:{allowFrom:['1'],agents:{a:{name:'A'}},defaultAgentId:'a',groupChat:{historyLimit:3},queue:{mode:'steer'},agentToAgent:{enabled:true},transcribeAudio:{command:['w','-x'],timeoutSeconds:3}}}": "{channels:{whatsapp:{allowFrom:['1']}},tools:{agentToAgent:{enabled:true},media:{audio:{enabled:true,models:[{type:'cli',command:'w',args:['-x'],timeoutSeconds:3}]}}},messages:{queue:{mode:'steer'},groupChat:{historyLimit:3}},agents:{list:[{id:'a',name:'A',default:true}]}}",
		"{routing:{bindings:[{agentId:'a',match:{provider:'x',accountID:'1'}}]}}":                            "{bindings:[{agentId:'a',match:{channel:'x',accountId:'1'}}]}",
		"{memorySearch:{enabled:false},heartbeat:{every:'1h',showOk:true}}":                                  "{agents:{defaults:{memorySearch:{enabled:false},heartbeat:{every:'1h'}}},channels:{defaults:{heartbeat:{showOk:true}}}}",
		"{tools:{bash:{timeoutSec:3}},messages:{tts:{enabled:true},queue:{byProvider:{slack:'steer'}}}}":     "{tools:{exec:{timeoutSec:3}},messages:{tts:{auto:'always'},queue:{byChannel:{slack:'steer'}}}}",
		"{session:{threadBindings:{ttlHours:3},sendPolicy:{rules:[{action:'deny',match:{provider:'x'}}]}}}":  "{session:{threadBindings:{idleHours:3},sendPolicy:{rules:[{action:'deny',match:{channel:'x'}}]}}}",
		"{channels:{telegram:{streamMode:'block'},discord:{streaming:true,accounts:{a:{streaming:false}}}}}": "{channels:{telegram:{streaming:'block'},discord:{streaming:'partial',accounts:{a:{streaming:'off'}}}}}",
		"{audio:{transcription:{command:['w']}}}":                                                            "{tools:{media:{audio:{enabled:true,models:[{type:'cli',command:'w'}]}}}}",
		"{auth:{profiles:{'anthropic:claude-cli':{provider:'anthropic',mode:'token'}}}}":                     "{auth:{profiles:{'anthropic:claude-cli':{provider:'anthropic',mode:'oauth'}}}}",
	} {
		n, err := json5.Parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		before := json5.Format(n)
		got, notes := Migrate(n)
		w, err := json5.Parse([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if !json5.Equal(got, w) || len(notes) == 0 {
			t.Errorf("%s: %v\n%s", in, notes, cmp.Diff(json5.Format(w), json5.Format(got)))
		}
		if json5.Format(n) != before {
			t.Errorf("%s was changed in place", in)
		}
		if again, notes := Migrate(got); len(notes) > 0 || !json5.Equal(again, got) {
			t.Errorf("%s is migrated twice: %v", in, notes)
		}
		if _, err := load(t, in); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
	out, notes, err := MigrateText([]byte("{\n  // talk\n  telegram: {botToken: 'x'}, // bot\n  // rest\n  logging: {},\n}\n"))
	if want := "{\n  // talk\n  // bot\n  // rest\n  logging: {},\n  channels: {\n    telegram: {\n      botToken: 'x'\n    }\n  },\n}\n"; err != nil || string(out) != want || len(notes) != 1 {
		t.Errorf("%s %v %v", out, notes, err)
	}
	b := newBench(t, "{telegram:{}}")
	v, err := Look(b.opts)
	if err != nil || v.Valid || len(v.LegacyIssues) != 1 || v.LegacyIssues[0].Path != "telegram" || len(v.Issues) != 1 || v.Raw != nil || v.Parsed != nil {
		t.Errorf("%+v %v", v, err)
	}
	// What a client sends must be of today; a patch is migrated.
	if _, err := b.try(EditSet, "{telegram:{}}"); err == nil {
		t.Error("older keys are taken")
	}
	write(t, b.path, "{}")
	if e, err := b.try(EditPatch, "{gateway:{token:'abc'}}"); err != nil || !strings.Contains(string(e.Text), `"auth"`) {
		t.Errorf("%s %v", e.Text, err)
	}
}

func TestSaveMigrated(t *testing.T) {
	text := "{\n  // door\n  gateway: {token: 'abc', bind: '0.0.0.0'}, // end\n}\n"
	b := newBench(t, text)
	c, err := Load(b.opts)
	if err != nil || c.Gateway.Auth.Token.Reveal() != "abc" || c.Gateway.Bind != "lan" || len(c.Migrated) != 2 || len(c.Warnings) != 2 {
		t.Fatalf("%v %v %v", c.Migrated, c.Warnings, err)
	}
	SaveMigrated(c)
	want := "{\n  // door\n  gateway: { bind: 'lan', auth: {\n    token: 'abc'\n  }}, // end\n}\n"
	if d := cmp.Diff(want, b.saved()); d != "" {
		t.Error(d)
	}
	if !strings.Contains(c.Warnings[0], "The file was changed; the one before is config.json.bak.") {
		t.Error(c.Warnings)
	}
	again, err := Load(b.opts)
	if err != nil || len(again.Migrated) != 0 || again.Hash != c.Hash || string(c.Source().Text) != want {
		t.Errorf("%v %v", again.Migrated, err)
	}
	old, err := readFile(b.path+".bak", 1000)
	if err != nil || string(old) != text {
		t.Errorf("%s %v", old, err)
	}
	if v, err := Look(b.opts); err != nil || !v.Valid {
		t.Error(v.Issues, err)
	}
	// Somebody else's change stays.
	write(t, b.path, text)
	c, err = Load(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	write(t, b.path, "{telegram:{}}")
	SaveMigrated(c)
	if b.saved() != "{telegram:{}}" {
		t.Error(b.saved())
	}
}
