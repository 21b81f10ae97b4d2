package config

import (
	"reflect"
	"testing"

	"github.com/hanzoai/hanzod/config/json5"
)

// FuzzMigrate moves the keys of older files: what was moved once is in its place, the text says what the tree
// says, and a file without such keys stays as it is.
func FuzzMigrate(f *testing.F) {
	for _, s := range []string{
		commented, `{telegram:{botToken:"x"},channels:{telegram:{enabled:true}}}`, `{routing:{allowFrom:["+1"],bindings:[{agentId:"a",match:{provider:"x",accountID:"y"}}],queue:{byProvider:{x:1}}}}`,
		`{agent:{model:"a/b",allowedModels:["c/d"],modelAliases:{e:"f/g"}},identity:{name:"n"}}`, `{gateway:{token:"t",bind:"0.0.0.0"}}`,
		`{tools:{bash:{}},heartbeat:{every:"1h"},memorySearch:{},messages:{tts:{enabled:true}}}`, `{channels:{discord:{streamMode:"off",threadBindings:{ttlHours:1}}},audio:{transcription:{command:["a"]}}}`,
		`{agents:{list:5},routing:[],identity:null}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := json5.Parse([]byte(text))
		if err != nil {
			return
		}
		before := json5.Stringify(n)
		want, notes := Migrate(n)
		if json5.Stringify(n) != before {
			t.Fatalf("%q was changed in place", text)
		}
		if again, more := Migrate(want); len(more) != 0 || json5.Stringify(again) != json5.Stringify(want) {
			t.Fatalf("%q is moved again: %v", text, more)
		}
		out, said, err := MigrateText([]byte(text))
		if err != nil || !reflect.DeepEqual(said, notes) {
			t.Fatalf("%q: %v %v, and %v of the tree", text, err, said, notes)
		}
		got, err := json5.Parse(out)
		if err != nil || (len(notes) == 0 && string(out) != text) {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		if len(notes) > 0 && json5.Stringify(got) != json5.Stringify(want) {
			t.Fatalf("%q became %q, the tree %s", text, out, json5.Stringify(want))
		}
	})
}
