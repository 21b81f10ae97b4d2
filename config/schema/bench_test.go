package schema

import "testing"

// BenchmarkRoot is what the description costs the start of the daemon.
func BenchmarkRoot(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(keys); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJSONSchema is an answer of config.schema without its text.
func BenchmarkJSONSchema(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = Root().JSONSchema(), Hints(nil)
	}
}
