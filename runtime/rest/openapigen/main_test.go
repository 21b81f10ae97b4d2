package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const merged = `{"info":{"title":"system"},"paths":{"/v1/x":{"get":{"operationId":"S_WatchX","responses":{
"default":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/google.rpc.Status"}}}},
"200":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/X"}}}}}}}},
"components":{"schemas":{"google.rpc.Status":{},"X":{}}}}`

func TestRun(t *testing.T) {
	var first []byte
	for range 2 {
		dir := filepath.Join(t.TempDir(), "new")
		if err := run(strings.NewReader(merged), []string{dir}); err != nil {
			t.Fatal(err)
		}
		doc, err := os.ReadFile(filepath.Join(dir, "openapi.json"))
		if err != nil {
			t.Fatal(err)
		}
		small, err := os.Open(filepath.Join(dir, "openapi.json.gz"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(small)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(r); err != nil || !bytes.Equal(text, doc) {
			t.Fatalf("what is compressed differs: %v", err)
		}
		if err := small.Close(); err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, doc) {
			t.Error("two runs differ")
		}
		first = doc
		for _, want := range []string{`"title": "hanzod"`, "#/components/schemas/Problem", "application/x-ndjson", "text/event-stream"} {
			if !strings.Contains(string(doc), want) {
				t.Errorf("no %s in %s", want, doc)
			}
		}
		if strings.Contains(string(doc), "google.rpc.Status") {
			t.Error("the default error is still there")
		}
		if _, err := os.Stat(filepath.Join(dir, "openapi.go")); err != nil {
			t.Error(err)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for _, in := range []string{``, `{}`, `{"components":{}}`, `{"components":{"schemas":{}}}`} {
		if err := run(strings.NewReader(in), []string{t.TempDir()}); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
	if err := run(strings.NewReader(merged), nil); err == nil {
		t.Error("no directory is taken")
	}
}
