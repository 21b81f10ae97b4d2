package contract

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// standInMode makes this test binary play the daemon, so that starting and stopping one can be tested.
const standInMode = "CONTRACT_STAND_IN"

// standIn checks how it was started, serves /readyz, and answers /asked with how often it was asked that.
func standIn(mode string, args []string) int {
	if mode == "dies" {
		fmt.Fprintln(os.Stderr, "cannot read the config")
		return 1
	}
	if len(args) != 7 || args[0] != "run" || args[1] != "--config" || args[3] != "--state-dir" || args[5] != "--port" {
		fmt.Fprintln(os.Stderr, "called as", args)
		return 2
	}
	home := os.Getenv("HOME")
	data, err := os.ReadFile(args[2])
	var config struct {
		Port      int    `json:"port"`
		Workspace string `json:"workspace"`
	}
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err != nil || fmt.Sprint(config.Port) != args[6] || config.Workspace != home+"/w" ||
		args[2] != filepath.Join(home, ".openclaw", "openclaw.json") || args[4] != filepath.Join(home, ".openclaw") {
		fmt.Fprintln(os.Stderr, "wrong config or folders", err, string(data), args)
		return 3
	}
	if len(os.Environ()) != 5 && runtime.GOOS != "windows" {
		fmt.Fprintln(os.Stderr, "environment is not clean", os.Environ())
		return 4
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	l, err := net.Listen("tcp", "127.0.0.1:"+args[6])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 5
	}
	var asked atomic.Int64
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/asked" {
			_, _ = io.WriteString(w, fmt.Sprint(asked.Add(1)))
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	<-stop
	switch mode {
	case "stubborn":
		<-ended // nobody ends it
	case "dirty":
		return 7
	case "panics":
		fmt.Fprintln(os.Stderr, "panic: recovered and logged")
	}
	_ = srv.Close()
	<-ended
	return 0
}

func standInScenario(t *testing.T, name, mode string, shared bool, steps string) *scenario {
	t.Helper()
	s, err := parseScenario([]byte(fmt.Sprintf(`{"shared":%v,"gateway":{"config":{"port":"$port","workspace":"$home/w"},
		"env":{%q:%q,"EXTRA":"$home"}},"steps":[%s]}`, shared, standInMode, mode, steps)), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRun(t *testing.T) {
	t.Parallel()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	asked := func(n int) string {
		return fmt.Sprintf(`{"http":{"method":"GET","path":"/asked"},"status":200,"text":"%d"}`, n)
	}
	withNeeds := standInScenario(t, "a/needs", "ok", false, asked(1))
	withNeeds.needs = "a companion"
	list := []*scenario{
		standInScenario(t, "a/alone", "ok", false, asked(1)),
		standInScenario(t, "a/alone-too", "ok", false, asked(1)),
		standInScenario(t, "a/shared-1", "ok", true, asked(1)),
		standInScenario(t, "a/shared-2", "ok", true, asked(2)),
		standInScenario(t, "b/dies", "dies", false, asked(1)),
		standInScenario(t, "b/wrong", "ok", false, asked(2)),
		withNeeds,
	}
	want := []string{"a/alone green", "a/alone-too green", "a/needs needs", "a/shared-1 green", "a/shared-2 green",
		"b/dies red cannot read the config", "b/wrong red at text"}
	if runtime.GOOS != "windows" { // a killed process tells nothing
		list = append(list,
			standInScenario(t, "c/dirty", "dirty", false, asked(1)),
			standInScenario(t, "c/panics", "panics", false, asked(1)),
			standInScenario(t, "c/stubborn", "stubborn", false, asked(1)))
		want = append(want, "c/dirty red did not end cleanly", "c/panics red output holds", "c/stubborn red did not end within")
	}
	rs := run(bin, list)
	if len(rs) != len(want) {
		t.Fatalf("%d results, want %d", len(rs), len(want))
	}
	for i, r := range rs {
		f := strings.SplitN(want[i], " ", 3)
		if r.name != f[0] || string(r.status) != f[1] {
			t.Errorf("result %d is %s %s, want %s: %v", i, r.name, r.status, want[i], r.err)
		}
		if len(f) == 3 && (r.err == nil || !strings.Contains(r.err.Error(), f[2])) {
			t.Errorf("%s: %v, want %q", r.name, r.err, f[2])
		}
	}
	text := table(rs)
	rows := strings.Split(text, "\n")
	if !slices.ContainsFunc(rows, func(l string) bool { return strings.Join(strings.Fields(l), " ") == "a 5 4 0 0 1" }) {
		t.Errorf("table:\n%s", text)
	}
}
