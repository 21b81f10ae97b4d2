package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(tb testing.TB, o Options) (*slog.Logger, func() []map[string]any) {
	tb.Helper()
	if o.Console == nil {
		o.Console = &bytes.Buffer{}
	}
	log, closer, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = closer.Close() })
	return log, func() (rows []map[string]any) {
		tb.Helper()
		text, err := os.ReadFile(o.File)
		if err != nil {
			tb.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			row := map[string]any{}
			if err := json.Unmarshal([]byte(line), &row); err != nil {
				tb.Fatalf("%q: %v", line, err)
			}
			rows = append(rows, row)
		}
		return rows
	}
}

// The shape that readers of logs.tail look for (control-plane.md §1).
func TestFileShape(t *testing.T) {
	log, rows := open(t, Options{File: filepath.Join(t.TempDir(), "deep", "log")})
	log.Info("plain", "n", 1)
	log.With("subsystem", "nodes").Warn("from a part", "node", "x")
	got := rows()
	for i, want := range []struct{ zero, one, level string }{
		{`{"subsystem":"gateway"}`, "plain n=1", "INFO"}, {`{"subsystem":"nodes"}`, "from a part node=x", "WARN"},
	} {
		meta, _ := got[i]["_meta"].(map[string]any)
		if got[i]["0"] != want.zero || got[i]["1"] != want.one || meta["logLevelName"] != want.level || meta["name"] != want.zero || got[i]["msg"] == nil || got[i]["time"] == nil {
			t.Errorf("%v", got[i])
		}
	}
}

func TestLevels(t *testing.T) {
	for name, want := range map[string]string{
		"silent": "", "fatal": "F", "error": "EF", "warn": "WEF", "info": "IWEF", "": "IWEF", "nonsense": "IWEF", "debug": "DIWEF", "TRACE": "DIWEF",
	} {
		var console bytes.Buffer
		counted := 0
		log, rows := open(t, Options{
			File: filepath.Join(t.TempDir(), "log"), Level: name, ConsoleLevel: name, Style: "json", Console: &console,
			OnLine: func(slog.Level) { counted++ },
		})
		log.Debug("D")
		log.Info("I")
		log.Warn("W")
		log.Error("E")
		log.Log(t.Context(), slog.LevelError+4, "F")
		var file, shown strings.Builder
		for _, r := range rows() {
			fmt.Fprint(&file, r["msg"])
		}
		for line := range strings.Lines(console.String()) {
			var r map[string]any
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&shown, r["msg"])
		}
		if file.String() != want || shown.String() != want || counted != len(want) {
			t.Errorf("%s: file %q, console %q, counted %d, want %q", name, file.String(), shown.String(), counted, want)
		}
	}
}

type lazy struct{ v string }

func (l lazy) LogValue() slog.Value {
	return slog.GroupValue(slog.String("token", l.v), slog.String("kind", "lazy"))
}

// What is named like a secret is nowhere: neither in the field, nor in the text, nor in a group, nor
// on the console.
func TestRedaction(t *testing.T) {
	const secret = "hunter2"
	for _, style := range []string{"json", "pretty", "compact"} {
		var console bytes.Buffer
		path := filepath.Join(t.TempDir(), "log")
		log, rows := open(t, Options{File: path, Style: style, Console: &console})
		log.Info("a", "token", secret)
		log.Info("b", "deviceToken", secret, "gateway.auth.PASSWORD", secret, "apiKey", secret, "Authorization", "Bearer "+secret)
		log.Info("c", slog.Group("auth", slog.String("token", secret), slog.String("kind", "x")))
		log.Info("d", slog.Group("outer", slog.Group("inner", slog.String("clientSecret", secret))))
		log.With("sharedSecret", secret).WithGroup("g").With("token", secret).Info("e", "token", secret)
		log.Info("f", "who", lazy{secret})
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string]string{"file": string(text), "console": console.String()} {
			for line := range strings.Lines(got) {
				if strings.Contains(line, secret) {
					t.Errorf("%s, %s: %s", style, name, line)
				}
			}
			if !strings.Contains(got, "[redacted]") {
				t.Errorf("%s, %s: nothing was blanked", style, name)
			}
		}
		if got := rows()[2]["1"]; got != "c auth.token=[redacted] auth.kind=x" {
			t.Errorf("got %q", got)
		}
	}
}

// All files together stay within the bound, every line is whole and the newest are there.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	const total = 64 << 10
	log, _ := open(t, Options{File: path, MaxBytes: total})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				log.Info(strings.Repeat("x", 200), "g", g, "i", i)
			}
		})
	}
	wg.Wait()
	log.Info("the last")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != keep+1 {
		t.Errorf("%d files", len(files))
	}
	sum := int64(0)
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 && os.PathSeparator == '/' {
			t.Errorf("%s has mode %s", f.Name(), info.Mode())
		}
		sum += info.Size()
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !json.Valid([]byte(line)) || !strings.HasSuffix(line, "\n") {
				t.Fatalf("%s holds %q", f.Name(), line)
			}
		}
	}
	if sum > total {
		t.Errorf("%d bytes in all", sum)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "the last") {
		t.Errorf("the last line is not in the file in use: %v", err)
	}
}

// A file that was there is appended to, and counts.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for i := range 3 {
		r, err := openRotating(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r.size != int64(2*i) || r.max != fileBytes {
			t.Errorf("size %d of %d", r.size, r.max)
		}
		if _, err := r.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write([]byte("x\n")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a line after the end: %v", err)
		}
	}
}

// A rotation that fails costs lines, not the log: when the reason is gone, lines are kept again.
func TestRotationFailsForAWhile(t *testing.T) {
	if os.PathSeparator != '/' {
		t.Skip("open files cannot be moved away here")
	}
	dir := filepath.Join(t.TempDir(), "logs")
	path := filepath.Join(dir, "log")
	r, err := openRotating(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	line := []byte(strings.Repeat("x", 3000) + "\n")
	if _, err := r.Write(line); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := r.Write(line); err == nil {
			t.Error("a line went where there is no directory")
		}
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := r.Write(line); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}
