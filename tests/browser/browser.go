//go:build unix

// Package browser drives a headless Chromium for tests, over the protocol of its developer tools.
//
// A browser ends with its test. The methods of Page may be called from one goroutine at a time.
package browser

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// Limits.
const (
	startTime = time.Minute
	callTime  = time.Minute
	stopTime  = 10 * time.Second
	// Patience is how long WaitFor waits.
	Patience = 30 * time.Second
	pollTime = 50 * time.Millisecond
	// maxMessage bounds what the browser says at once: a picture.
	maxMessage = 64 << 20
	// maxFaults bounds the faults that are kept.
	maxFaults = 1000
)

// Find is the browser of this machine; ok is false where none is installed.
func Find() (path string, ok bool) {
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, true
		}
	}
	return "", false
}

// Page is a tab.
type Page struct {
	tb testing.TB
	ws *websocket.Conn

	mu      sync.Mutex
	n       int
	waiting map[int]chan reply
	faults  []string
	sent    []string // requests that have left, "METHOD URL"
}

type reply struct {
	Result json.RawMessage
	Error  json.RawMessage
}

// Open starts a browser of a size in pixels, with one empty page.
func Open(tb testing.TB, path string, width, height int) *Page {
	tb.Helper()
	dir := proc.Dir(tb) // programs of the browser may still write while it ends
	c := exec.CommandContext(tb.Context(), path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--remote-debugging-port=0", "--window-size="+strconv.Itoa(width)+","+strconv.Itoa(height), "--user-data-dir="+dir, "about:blank")
	c.Env = append(os.Environ(), "HOME="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Wait() }()
	tb.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // its whole group, which is ours
		select {
		case <-ended:
		case <-time.After(stopTime):
			tb.Error("the browser does not end")
		}
	})
	var port string
	proc.UntilFor(tb, startTime, "the browser", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "DevToolsActivePort"))
		port, _, _ = strings.Cut(string(b), "\n")
		return port != ""
	})
	res, err := http.Get("http://127.0.0.1:" + port + "/json/list")
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	var tabs []struct {
		Type string
		URL  string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(res.Body).Decode(&tabs); err != nil {
		tb.Fatal(err)
	}
	for _, tab := range tabs {
		if tab.Type != "page" {
			continue
		}
		ws, _, err := websocket.Dial(tb.Context(), tab.URL, nil)
		if err != nil {
			tb.Fatal(err)
		}
		ws.SetReadLimit(maxMessage)
		p := &Page{tb: tb, ws: ws, waiting: map[int]chan reply{}}
		read := make(chan struct{})
		go func() { defer close(read); p.read(tb.Context()) }()
		tb.Cleanup(func() { _ = ws.CloseNow(); <-read })
		for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
			p.Do(domain+".enable", nil, nil)
		}
		return p
	}
	tb.Fatal("the browser has no page")
	return nil
}

// For makes another test the one that fails where the page does not do as it should, until that one ends.
func (p *Page) For(tb testing.TB) {
	before := p.tb
	p.tb = tb
	tb.Cleanup(func() { p.tb = before })
}

// read takes what the browser says until it ends.
func (p *Page) read(ctx context.Context) {
	for {
		_, b, err := p.ws.Read(ctx)
		if err != nil {
			p.mu.Lock()
			for id, c := range p.waiting {
				delete(p.waiting, id)
				close(c)
			}
			p.waiting = nil
			p.mu.Unlock()
			return
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			reply
		}
		if json.Unmarshal(b, &m) != nil {
			continue
		}
		p.mu.Lock()
		if c := p.waiting[m.ID]; m.ID != 0 && c != nil {
			delete(p.waiting, m.ID)
			c <- m.reply
		} else if m.Method != "" {
			p.event(m.Method, m.Params)
		}
		p.mu.Unlock()
	}
}

// event keeps what a person would see in the console.
func (p *Page) event(method string, params json.RawMessage) {
	fault := ""
	switch method {
	case "Runtime.exceptionThrown":
		var e struct {
			ExceptionDetails struct {
				Text      string
				URL       string
				Exception struct{ Description string }
			}
		}
		_ = json.Unmarshal(params, &e)
		fault = "exception: " + e.ExceptionDetails.Text + " " + e.ExceptionDetails.Exception.Description
	case "Runtime.consoleAPICalled":
		var e struct {
			Type string
			Args []struct {
				Value       any
				Description string
			}
		}
		_ = json.Unmarshal(params, &e)
		if e.Type != "error" && e.Type != "assert" && e.Type != "warning" {
			return
		}
		fault = "console " + e.Type + ":"
		for _, a := range e.Args {
			fault += fmt.Sprint(" ", a.Value, a.Description)
		}
	case "Log.entryAdded":
		var e struct {
			Entry struct{ Level, Text, URL string }
		}
		_ = json.Unmarshal(params, &e)
		if e.Entry.Level != "error" && e.Entry.Level != "warning" {
			return
		}
		fault = "log " + e.Entry.Level + ": " + e.Entry.Text + " " + e.Entry.URL
	case "Network.requestWillBeSent":
		var e struct{ Request struct{ Method, URL string } }
		_ = json.Unmarshal(params, &e)
		if len(p.sent) < maxFaults {
			p.sent = append(p.sent, e.Request.Method+" "+e.Request.URL)
		}
		return
	default:
		return
	}
	if len(p.faults) < maxFaults {
		p.faults = append(p.faults, fault)
	}
}

// Faults are the exceptions, errors and warnings of the page's console since the last call.
func (p *Page) Faults() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.faults
	p.faults = nil
	return out
}

// Requests are the requests that the page has sent since the last call, as "METHOD URL".
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.sent
	p.sent = nil
	return out
}

// Do calls a method of the browser; out may be nil.
func (p *Page) Do(method string, params, out any) {
	p.tb.Helper()
	if err := p.Try(method, params, out); err != nil {
		p.tb.Fatal(method, err)
	}
}

// Try is Do that returns its error.
func (p *Page) Try(method string, params, out any) error {
	ctx, cancel := context.WithTimeout(p.tb.Context(), callTime)
	defer cancel()
	if params == nil {
		params = struct{}{}
	}
	came := make(chan reply, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return errors.New("the browser has ended")
	}
	p.n++
	id := p.n
	p.waiting[id] = came
	p.mu.Unlock()
	b, err := json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	if err == nil {
		err = p.ws.Write(ctx, websocket.MessageText, b)
	}
	if err != nil {
		return err
	}
	select {
	case r, ok := <-came:
		switch {
		case !ok:
			return errors.New("the browser has ended")
		case r.Error != nil:
			return errors.New(string(r.Error))
		case out != nil:
			return json.Unmarshal(r.Result, out)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Go opens an address and waits until it is loaded.
func (p *Page) Go(address string) {
	p.tb.Helper()
	p.Do("Page.navigate", map[string]any{"url": address}, nil)
	p.WaitFor("document.readyState === 'complete' && location.href !== 'about:blank'", "the page at "+address)
}

// Eval returns what an expression is, as text; "" while the page is changing.
func (p *Page) Eval(expression string) string {
	p.tb.Helper()
	var out struct {
		Result           struct{ Value any }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	if p.Try("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &out) != nil {
		return ""
	}
	if e := out.ExceptionDetails; e != nil {
		p.tb.Logf("%.200s: %s %s", expression, e.Text, e.Exception.Description)
		return ""
	}
	if out.Result.Value == nil {
		return ""
	}
	return fmt.Sprint(out.Result.Value)
}

// WaitFor waits until an expression is true.
func (p *Page) WaitFor(expression, what string) {
	p.tb.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(pollTime) {
		if p.Eval("!!("+expression+")") == "true" {
			return
		}
		if time.Now().After(deadline) {
			p.tb.Fatalf("waited %v for %s\nthe page shows: %.2000s\nfaults: %q", Patience, what, p.Eval("document.body && document.body.innerText"), p.Faults())
		}
	}
}

// Click presses the mouse over the first element that an expression returns; it waits for it to be there.
func (p *Page) Click(element, what string) {
	p.tb.Helper()
	p.WaitFor(element, what)
	var at struct{ X, Y float64 }
	text := p.Eval("(() => { const e = " + element + "; e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return JSON.stringify({X: r.x + r.width / 2, Y: r.y + r.height / 2}) })()")
	if err := json.Unmarshal([]byte(text), &at); err != nil {
		p.tb.Fatalf("%s is nowhere: %q", what, text)
	}
	for _, kind := range []string{"mouseMoved", "mousePressed", "mouseReleased"} {
		p.Do("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// Type puts text into the element that has the focus.
func (p *Page) Type(text string) {
	p.tb.Helper()
	p.Do("Input.insertText", map[string]any{"text": text}, nil)
}

// Shot is what the page looks like, also as PNG.
func (p *Page) Shot() (image.Image, []byte) {
	p.tb.Helper()
	var out struct{ Data string }
	p.Do("Page.captureScreenshot", map[string]any{"format": "png"}, &out)
	b, err := base64.StdEncoding.DecodeString(out.Data)
	if err != nil {
		p.tb.Fatal(err)
	}
	i, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		p.tb.Fatal(err)
	}
	return i, b
}
