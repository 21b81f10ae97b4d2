package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/goccy/go-yaml"

	"github.com/hanzoai/hanzod/ops"
)

// parity is fixtures/parity.yaml.
type parity struct {
	Methods []struct {
		Group  string   `yaml:"group"`
		Beyond bool     `yaml:"beyond"`
		Names  []string `yaml:"names"`
	} `yaml:"methods"`
	NodeMethods []string                  `yaml:"nodeMethods"`
	Refused     map[string]map[string]any `yaml:"refused"`
	Events      []string                  `yaml:"events"`
	Rows        []struct {
		Area       string `yaml:"area"`
		Row        string `yaml:"row"`
		Recordings string `yaml:"recordings"`
		Suite      string `yaml:"suite"`
	} `yaml:"rows"`
}

func loadParity(t testing.TB) *parity {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(moduleRoot(t), "fixtures", "parity.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var p parity
	if err := yaml.UnmarshalWithOptions(data, &p, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return &p
}

// TestParityRows keeps fixtures/parity.yaml whole: each name once, each pattern of recordings alive,
// every method and event of a recording on the list.
func TestParityRows(t *testing.T) {
	t.Parallel()
	p := loadParity(t)
	names := map[string]bool{}
	for _, g := range p.Methods {
		for _, n := range g.Names {
			if names[n] {
				t.Errorf("method %s stands twice", n)
			}
			names[n] = true
		}
	}
	own, err := loadFolder(filepath.Join(moduleRoot(t), "fixtures", "gateway"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Rows {
		re, err := regexp.Compile(r.Recordings)
		if err != nil {
			t.Errorf("%s: %v", r.Row, err)
			continue
		}
		if r.Recordings != "" && !slices.ContainsFunc(own, func(s *scenario) bool { return re.MatchString(s.name) }) {
			t.Errorf("row %q: no recording fits %s", r.Row, r.Recordings)
		}
	}
	for _, s := range own {
		for _, e := range s.events() {
			if !slices.Contains(p.Events, e) {
				t.Errorf("%s: event %s is not on the list", s.name, e)
			}
		}
	}
}

// methods are the methods that a scenario calls and whose answer it looks at.
func (s *scenario) methods() []string {
	answered := map[string]bool{}
	for _, step := range s.steps {
		if f := step.obj("frame"); f != nil && step.vals["recv"] != nil && f.str("id") != "" {
			answered[f.str("id")] = true
		}
	}
	var out []string
	for _, step := range s.steps {
		f := step.obj("frame")
		if f == nil || step.vals["send"] == nil || !answered[f.str("id")] {
			continue
		}
		if m := f.str("method"); m != "" && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// events are the events that a scenario expects.
func (s *scenario) events() []string {
	var out []string
	for _, step := range s.steps {
		f := step.obj("frame")
		if f == nil || step.vals["recv"] == nil {
			continue
		}
		if e := f.str("event"); e != "" && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// tally counts the recordings that pick chooses.
type tally struct{ passed, failed, waiting int }

func count(rs []result, pick func(*scenario) bool) tally {
	var c tally
	for _, r := range rs {
		switch {
		case !pick(r.scenario):
		case r.status == red:
			c.failed++
		case r.status == needs:
			c.waiting++
		default:
			c.passed++
		}
	}
	return c
}

func (c tally) String() string {
	if c == (tally{}) {
		return "no recording"
	}
	return fmt.Sprintf("%d green, %d red, %d not run", c.passed, c.failed, c.waiting)
}

// TestParity prints the checklist. It reports and does not judge, unless PARITY=strict: then every
// row that counts for the cutover must hold.
func TestParity(t *testing.T) {
	mode := os.Getenv("PARITY")
	if mode == "" {
		t.Skip("prints the parity checklist with PARITY=1, demands all of it with PARITY=strict")
	}
	p := loadParity(t)
	rs := results(t)
	facts := probe(t, p)
	root := moduleRoot(t)

	var b strings.Builder
	open := 0
	row := func(holds, counts bool, format string, args ...any) {
		mark := "x"
		if !holds {
			mark = " "
			if counts {
				open++
			}
		}
		fmt.Fprintf(&b, "[%s] %s\n", mark, fmt.Sprintf(format, args...))
	}
	for _, g := range p.Methods {
		fmt.Fprintf(&b, "\nmethods: %s\n", g.Group)
		for _, name := range g.Names {
			f := facts.methods[name]
			c := count(rs, func(s *scenario) bool { return slices.Contains(s.methods(), name) })
			row(f.served && c.failed == 0 && c.passed > 0, !g.Beyond, "%-32s %-28s %s", name, f, c)
		}
	}
	fmt.Fprintf(&b, "\nevents\n")
	for _, e := range p.Events {
		c := count(rs, func(s *scenario) bool { return slices.Contains(s.events(), e) })
		doors := "not announced"
		if facts.events[e] {
			doors = "legacy"
		}
		row(facts.events[e] && c.failed == 0, true, "%-32s %-28s %s", e, doors, c)
	}
	area := ""
	for _, r := range p.Rows {
		if r.Area != area {
			area = r.Area
			fmt.Fprintf(&b, "\n%s\n", area)
		}
		var c tally
		if r.Recordings != "" {
			re := regexp.MustCompile(r.Recordings) // TestParityRows compiles each
			c = count(rs, func(s *scenario) bool { return re.MatchString(s.name) })
		}
		suite := r.Suite
		_, err := os.Stat(filepath.Join(root, filepath.FromSlash(r.Suite)))
		if err != nil {
			suite += " (does not exist)"
		}
		row(err == nil && c.failed == 0 && c.waiting == 0, true, "%s: %s; suite %s", r.Row, c, suite)
	}
	fmt.Fprintf(&b, "\nrows that do not hold yet: %d (the group beyond does not count)\n", open)
	fmt.Print(b.String())
	if mode == "strict" && open > 0 {
		t.Errorf("%d rows of the parity checklist do not hold", open)
	}
}

// served says by which doors an operation can be reached.
type served struct {
	served  bool // on the legacy door
	checked bool // the answer was a refusal of the parameters
	unknown bool // the daemon does not know the name at all
	note    string
	grpc    bool
	rest    bool
}

func (s served) String() string {
	var doors []string
	switch {
	case s.served:
		doors = append(doors, "legacy")
	case s.unknown:
		doors = append(doors, "unknown method")
	case s.note != "":
		doors = append(doors, s.note)
	default:
		doors = append(doors, "not yet")
	}
	if s.grpc {
		doors = append(doors, "gRPC")
	}
	if s.rest {
		doors = append(doors, "REST")
	}
	return strings.Join(doors, ", ")
}

// notServed stands in the answer to a method that the daemon knows and does not serve.
const notServed = "is not served by this version of hanzod yet"

type facts struct {
	methods map[string]served
	events  map[string]bool
}

// probe asks a daemon of its own for every method, with parameters that do nothing.
func probe(t *testing.T, p *parity) facts {
	t.Helper()
	const plainSetup = "handshake/token-ok"
	own, err := loadFolder(filepath.Join(moduleRoot(t), "fixtures", "gateway"), "")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(own, func(s *scenario) bool { return s.name == plainSetup })
	if i < 0 {
		t.Fatalf("no recording %s to take the config from", plainSetup)
	}
	d, err := startDaemon(buildDaemon(t), own[i].config, own[i].env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	}()
	token := own[i].config.obj("gateway").obj("auth").str("token")
	addr := fmt.Sprintf("127.0.0.1:%d", d.port)
	f := facts{methods: map[string]served{}, events: map[string]bool{}}
	operator, hello := login(t, addr, token, "operator")
	defer operator.close()
	node, _ := login(t, addr, token, "node")
	defer node.close()

	if features := hello.obj("features"); features != nil {
		list, _ := features.vals["events"].([]any)
		for _, e := range list {
			if s, ok := e.(string); ok {
				f.events[s] = true
			}
		}
	}
	catalogue, err := ops.Load()
	if err != nil {
		t.Fatal(err)
	}
	rest := operationIDs(t, addr)
	for _, g := range p.Methods {
		for _, name := range g.Names {
			c := operator
			if slices.Contains(p.NodeMethods, name) {
				c = node
			}
			params := json.RawMessage("{}")
			if q, ok := p.Refused[name]; ok {
				if params, err = json.Marshal(q); err != nil {
					t.Fatal(err)
				}
			}
			s := classify(c, name, params)
			if op, ok := catalogue.ByLegacy(name); ok && op.Method != "" {
				s.grpc = true
				s.rest = rest[operationID(op.Method)]
			} else if s.checked {
				// Parameters are checked before a method is looked for, so a refusal of them does not
				// say that it is served; what is served has an RPC.
				s.served = false
			}
			f.methods[name] = s
		}
	}
	return f
}

// operationID is the name of an RPC in an OpenAPI document: "/pkg.Service/Method" is "Service_Method".
func operationID(method string) string {
	service, rpc, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "_" + rpc
}

// operationIDs are those of the daemon's OpenAPI document; none when it does not serve one.
func operationIDs(t *testing.T, addr string) map[string]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), httpTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range regexp.MustCompile(`"operationId":\s*"([^"]+)"`).FindAllSubmatch(data, -1) {
		out[string(m[1])] = true
	}
	return out
}

// login connects as an operator with every scope or as a node, and returns the hello.
func login(t *testing.T, addr, token, role string) (*conn, *object) {
	t.Helper()
	c, err := dial(addr, "/", http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	frame := `{"type":"req","id":"hello","method":"connect","params":{"minProtocol":3,"maxProtocol":3,
		"client":{"id":"cli","version":"1.0.0","platform":"linux","mode":"cli"},"role":"operator",
		"scopes":["operator.admin","operator.read","operator.write","operator.approvals","operator.pairing"],"auth":{}}}`
	if role == "node" {
		frame = `{"type":"req","id":"hello","method":"connect","params":{"minProtocol":3,"maxProtocol":3,
			"client":{"id":"node-host","version":"1.0.0","platform":"linux","mode":"node"},"role":"node","auth":{},
			"device":{"$sign":{"device":"parity","version":"v3"}}}}`
	}
	v, err := parse([]byte(frame))
	if err != nil {
		t.Fatal(err)
	}
	f := v.(*object)
	f.obj("params").obj("auth").set("token", token)
	c.until(recvTimeout, func() bool { return c.nonce != "" || c.ended })
	c.mu.Lock()
	nonce := c.nonce
	c.mu.Unlock()
	if err := sign(f.obj("params"), nonce, time.Now()); err != nil {
		t.Fatal(err)
	}
	res, err := call(c, f)
	if err != nil {
		t.Fatalf("connect as %s: %v", role, err)
	}
	hello := res.obj("payload")
	if res.vals["ok"] != true || hello == nil {
		t.Fatalf("connect as %s: %s", role, shown(res))
	}
	return c, hello
}

// call sends a request and takes the first response to it.
func call(c *conn, frame *object) (*object, error) {
	if err := c.send(websocket.MessageText, encode(frame)); err != nil {
		return nil, err
	}
	var res *object
	c.until(recvTimeout, func() bool {
		for i, f := range c.queue {
			if f.str("type") == "res" && f.str("id") == frame.str("id") {
				res = f
				c.queue = slices.Delete(c.queue, i, i+1)
				return true
			}
		}
		return c.ended
	})
	if res == nil {
		return nil, fmt.Errorf("no answer within %v%s", recvTimeout, c.seen())
	}
	return res, nil
}

// classify calls a method and reads from the answer whether the daemon serves it.
func classify(c *conn, method string, params json.RawMessage) served {
	f := newObject()
	f.set("type", "req")
	f.set("id", "probe-"+method)
	f.set("method", method)
	v, err := parse(params)
	if err != nil {
		return served{note: err.Error()}
	}
	f.set("params", v)
	res, err := call(c, f)
	if err != nil {
		return served{note: "no answer"}
	}
	message := ""
	if e := res.obj("error"); e != nil {
		message = e.str("message")
	}
	switch {
	case strings.Contains(message, notServed):
		return served{}
	case message == "unknown method: "+method:
		return served{unknown: true}
	}
	return served{served: true, checked: strings.HasPrefix(message, "invalid "+method+" params:")}
}
