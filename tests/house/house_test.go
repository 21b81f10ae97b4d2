// Package house holds the rules of who may import whom, so that neither a disabled linter nor a new
// package slips past them.
package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hanzoai/hanzod/"

type pkg struct {
	ImportPath string
	Imports    []string
	Name       string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Name", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	var all []pkg
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rule says what a room may import of ours. Paths are below the module; one that ends in "/..."
// covers what is beneath it.
type rule struct {
	room  string
	may   []string
	about string
}

var leaves = []string{"errs", "identity", "events", "config", "config/json5", "config/schema"}

// rules are read in order: the first whose room fits a package holds.
var rules = []rule{
	{"errs", nil, "errs is the lowest leaf"},
	{"config/json5", nil, "the JSON5 reader knows no daemon"},
	{"config/schema", []string{"config/json5"}, "the description of the keys knows no daemon"},
	{"secrets/source", []string{"config/json5", "config/schema"}, "where secrets are knows no daemon"},
	{"config", []string{"errs", "config/json5", "config/schema", "secrets/source"}, "a leaf"},
	{"identity", []string{"errs"}, "a leaf"},
	{"identity/...", []string{"errs", "identity"}, "how identity learns of requests and of other services"},
	{"events", []string{"errs", "identity"}, "a leaf"},
	{"ops", []string{"identity", "errs", "gen/..."}, "the catalogue is read from the generated descriptors"},
	{"gate", []string{"errs", "identity", "events", "ops"}, "the gate decides on operations and callers only"},
	{"approvals/shell", nil, "what a command would run is a question to the text and to the file system"},
	{"approvals/policy", []string{"errs", "approvals/shell", "config/json5"}, "the policy of a machine knows no daemon"},
	{"approvals/audit", nil, "the chain of the audit log knows no daemon, and is checked without one"},
	{"approvals", append(slices.Clone(leaves), "approvals/audit", "approvals/policy", "approvals/shell"), "a domain imports leaves and its own"},
	{"tunnel/wire", nil, "the frames know nobody: both ends use them"},
	{"tunnel/eager", nil, "how sockets are read knows nobody: both ends use it"},
	{"tunnel/mux", []string{"tunnel/wire", "tunnel/eager"}, "streams on carriers are the same for both ends"},
	{"tunnel/tech/message", nil, "the messages know nobody: both ends use them"},
	{"tunnel/driver", []string{"errs", "tunnel/wire", "tunnel/mux"}, "the client's end of a tunnel links nothing of the daemon"},
	{"tunnel/...", append(slices.Clone(leaves), "tunnel/..."), "a domain imports leaves and its own"},
	{"nodes/host", []string{"errs"}, "the node host gets its policy through an interface"},
	{"nodes/host/...", []string{"errs", "nodes/host", "nodes/host/...", "tunnel/..."}, "the commands of a machine stand on what does the work"},
	{"nodes/push/pushtest", []string{"nodes/push"}, "for tests"},
	{"nodes/push", []string{"errs"}, "the client of the push service knows no daemon"},
	{"nodes", append(slices.Clone(leaves), "nodes/push"), "a domain imports leaves and its own"},
	{"system/doctor", nil, "what is looked at, and how it is told: hanzoctl prints it too"},
	{"system", append(slices.Clone(leaves), "system/doctor"), "a domain imports leaves and its own"},
	{"hooks", leaves, "a domain imports leaves only"},
	{"cron", leaves, "a domain imports leaves only"},
	{"config/live", leaves, "the running configuration is a domain: who may change it, what a change does"},
	{"sessions/transcript", []string{"errs"}, "the format of a transcript knows no daemon"},
	{"sessions/...", append(slices.Clone(leaves), "sessions", "sessions/transcript"), "a domain imports leaves and its own"},
	{"agents/...", append(slices.Clone(leaves), "agents"), "a domain imports leaves and its own"},
	{"heartbeat", leaves, "a domain imports leaves only"},
	{"secrets", leaves, "a domain imports leaves only"},
	{"wizard", leaves, "a domain imports leaves only"},
	{"talk", leaves, "a domain imports leaves only"},
	{"channels", leaves, "a domain imports leaves only"},
	{"runs", leaves, "a domain imports leaves only: nodes and approvals reach it through interfaces"},
	{"store/...", append(slices.Clone(leaves), "approvals", "approvals/audit", "nodes", "nodes/push", "runs", "system", "store/...",
		"sessions", "sessions/transcript", "cron", "heartbeat", "talk", "agents", "tunnel/..."), "the store implements what domains declare"},
	{"compat/wire", nil, "the wire kit knows no daemon"},
	{"compat/schema", []string{"compat/wire"}, "schemas need the wire kit only"},
	{"compat/methods", append(slices.Clone(leaves), "compat/wire", "approvals", "approvals/policy", "nodes", "nodes/push", "system",
		"sessions", "sessions/...", "agents", "agents/...", "cron", "config/live", "heartbeat", "secrets", "wizard", "talk", "channels", "runs", "tunnel/..."), "codecs stand between wire and domains"},
	{"compat/gather", []string{"tunnel/eager"}, "a connection below TLS"},
	{"compat/socket", []string{"errs", "compat/gather", "tunnel/mux", "tunnel/wire"}, "a WebSocket whose messages are written whole"},
	{"compat/hoody", append(slices.Clone(leaves), "identity/peer", "compat/wire", "compat/socket", "nodes", "tunnel/...", "ops", "gate", "system"), "both halves of the carrier dialect: its door, and its dialler"},
	{"compat/tech", append(slices.Clone(leaves), "tunnel/tech/...", "ops", "gate"), "the HTTP endpoints of technician sessions as the original has them"},
	{"compat/hanzotunnel", append(slices.Clone(leaves), "identity/peer", "compat/socket", "compat/wire", "nodes", "nodes/host", "tunnel/...", "ops", "gate", "system"), "both halves of the link protocol: the door, and the dialler"},
	{"compat/dial", append(slices.Clone(leaves), "compat/socket", "compat/wire", "nodes/host"), "the client half of the dialect"},
	{"compat/companion", []string{"identity/peer/owner"}, "the socket between a node host and an app knows neither"},
	{"compat/web", append(slices.Clone(leaves), "identity/peer", "compat/wire", "hooks", "system"), "the legacy HTTP routes"},
	{"compat", append(slices.Clone(leaves), "identity/peer", "compat/...", "approvals", "approvals/policy", "nodes", "nodes/push", "system", "ops", "gate",
		"sessions", "sessions/...", "agents", "agents/...", "cron", "config/live", "heartbeat", "secrets", "wizard", "talk", "channels", "runs", "tunnel/..."), "the legacy door sees neither gen nor store nor runtime"},
	{"client/clienttest", []string{"errs", "identity", "gen/...", "client/...", "approvals/audit"}, "for tests, with a log whose chain is real"},
	{"client/tailnet", []string{"client", "identity/tailnet"}, "the client of the tailnet's own service is the daemon's"},
	{"client/...", []string{"errs", "identity", "gen/...", "client/...", "tunnel/wire", "tunnel/mux", "tunnel/driver", "tunnel/tech/message"}, "the client links nothing of the daemon"},
	{"cmd/hanzoctl", []string{"approvals/audit", "client/...", "tunnel/driver", "tunnel/tech/message", "gen/...", "compat/companion", "config/json5", "system/doctor"}, "the command line asks a daemon; it holds none, and checks an exported log without one. It may be the companion app; the JSON5 reader is for files that people hand it"},
	{"cmd/hanzod", []string{"runtime", "runtime/backup", "runtime/checks", "runtime/original", "runtime/service", "system/doctor", "client", "config", "store", "errs"}, "flags and wiring; it carries a client of another machine to the socket"},
	{"cmd/docs/...", []string{"cmd/docs"}, "man pages and completions of any command line; the programs link it in builds for packages alone"},
	{"migrate", append(slices.Clone(leaves), "approvals", "approvals/policy", "nodes", "nodes/push", "sessions", "sessions/transcript", "cron", "agents", "heartbeat", "talk", "system", "compat/wire", "compat/methods"), "a state directory of the original in, and back out: leaves, domains, and the JSON of the original"},
	{"gen/...", []string{"gen/..."}, "generated"},
	{"runtime/metrics", []string{"ops", "errs", "identity"}, "metrics know operations only"},
	{"runtime/...", []string{"..."}, "the composition root may import everything"},
	{"hanzodtest", []string{"..."}, "for tests"},
	{"tests/...", []string{"..."}, "for tests"},
	{"examples/...", []string{"client/...", "gen/..."}, "examples show what others can do"},
}

func fits(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

func TestWhoMayImportWhom(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		i := slices.IndexFunc(rules, func(r rule) bool { return fits(r.room, room) })
		if i < 0 {
			t.Errorf("%s has no rule: give it one", room)
			continue
		}
		r := rules[i]
		for _, imp := range p.Imports {
			ours, ok := strings.CutPrefix(imp, module)
			if !ok || ours == room {
				continue
			}
			if !slices.ContainsFunc(r.may, func(m string) bool { return fits(m, ours) }) {
				t.Errorf("%s imports %s: %s", room, ours, r.about)
			}
			if ours == "runtime" && room != "cmd/hanzod" && room != "hanzodtest" && !strings.HasPrefix(room, "tests/") {
				t.Errorf("%s imports runtime: only cmd/hanzod and hanzodtest may", room)
			}
		}
	}
}

// keepers are libraries that stay behind one door of ours.
var keepers = map[string][]string{
	"charm.land/":                                   {"examples/...", "tests/..."},
	"github.com/brutella/dnssd":                     {"client/tailnet", "tests/..."}, // in tests, another voice on the network
	"golang.org/x/net/dns/dnsmessage":               {"client/discover"},
	"golang.org/x/net/http/httpguts":                {"tunnel/bindings"},
	"golang.org/x/net/ipv4":                         {"client/discover"},
	"golang.org/x/net/ipv6":                         {"client/discover"},
	"go.etcd.io/bbolt":                              {"store/...", "tests/..."},
	"golang.org/x/crypto/ssh":                       {"client/ssh", "client/tailnet", "tests/..."},
	"tailscale.com/":                                {"client/tailnet", "tests/..."},
	"github.com/coder/websocket":                    {"compat/...", "runtime/rest", "tests/..."},
	"github.com/godbus/dbus/v5":                     {"nodes/host/tech", "tests/..."},
	"github.com/fsnotify/fsnotify":                  {"compat/web", "config/live", "tests/..."},
	"github.com/prometheus/":                        {"runtime/...", "tests/..."},
	"google.golang.org/protobuf/encoding/protojson": {"runtime/rest", "client/...", "cmd/hanzoctl", "gen/...", "tests/..."},
	"github.com/spf13/cobra":                        {"cmd/..."},
	"google.golang.org/grpc":                        {"runtime/...", "client/...", "cmd/hanzoctl", "gen/...", "examples/...", "tests/..."},
	"mvdan.cc/sh/":                                  {"approvals/shell"},
	"github.com/kardianos/service":                  {"runtime/service"},
	"github.com/coreos/go-oidc/":                    {"identity/iam"},
	"github.com/go-jose/go-jose/v4":                 {"identity/...", "nodes/push/...", "tests/..."},
	"github.com/minio/minio-go/v7":                  {"tunnel/checkpoint/...", "tests/..."},
	"filippo.io/age":                                {"tunnel/checkpoint/...", "tests/..."},
	"github.com/creack/pty":                         {"tunnel/terminal", "tests/..."},
	"github.com/charmbracelet/x/conpty":             {"tunnel/terminal"},
}

func TestLibrariesStayBehindOneDoor(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			for lib, rooms := range keepers {
				if imp != lib && !strings.HasPrefix(imp, strings.TrimSuffix(lib, "/")+"/") {
					continue
				}
				if !slices.ContainsFunc(rooms, func(r string) bool { return fits(r, room) }) {
					t.Errorf("%s imports %s, which belongs to %v", room, imp, rooms)
				}
			}
		}
	}
}

// No domain type carries a tag of a wire format: codecs live at the doors. Findings are what two programs print
// alike.
func TestDomainsHaveNoJSONTags(t *testing.T) {
	cmd := exec.Command("grep", "-rnE", "`json:", "--include=*.go", "--exclude=*_test.go",
		"../../errs", "../../identity", "../../events", "../../nodes", "../../system", "../../approvals", "../../runs",
		"../../cron", "../../config/live", "../../heartbeat", "../../secrets", "../../wizard", "../../talk", "../../channels", "../../sessions", "../../agents", "../../tunnel",
		"--exclude-dir=transcript", "--exclude-dir=host", "--exclude-dir=policy", "--exclude-dir=audit", "--exclude-dir=push", "--exclude-dir=iam", "--exclude-dir=doctor", "--exclude-dir=checkpoint", "--exclude-dir=wire", "--exclude-dir=message")
	if out, err := cmd.Output(); err == nil {
		t.Errorf("JSON tags in a domain:\n%s", out)
	}
}
