package door

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience is how long a test waits for what should be there at once.
const patience = 20 * time.Second

type object = map[string]any

// legacy is a raw client of the legacy protocol. One goroutine reads; close waits for it.
type legacy struct {
	tb   testing.TB
	ws   *websocket.Conn
	done chan struct{}

	mu      sync.Mutex
	next    int
	waiting map[string]chan object
	onEvent func(name string, payload object)
}

// connect dials and sends connect with the parameters; it returns the answer.
func connect(tb testing.TB, url string, params object, onEvent func(string, object)) (*legacy, object) {
	tb.Helper()
	return connectBy(tb, nil, url, params, onEvent)
}

// connectBy is connect with an HTTP client of one's own.
func connectBy(tb testing.TB, web *http.Client, url string, params object, onEvent func(string, object)) (*legacy, object) {
	tb.Helper()
	c := dialLegacy(tb, web, url, onEvent)
	return c, c.call("connect", params)
}

// dialLegacy opens a connection that is not let in yet.
func dialLegacy(tb testing.TB, web *http.Client, url string, onEvent func(string, object)) *legacy {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: web})
	if err != nil {
		tb.Fatal(err)
	}
	ws.SetReadLimit(-1)
	c := &legacy{tb: tb, ws: ws, done: make(chan struct{}), waiting: map[string]chan object{}, onEvent: onEvent}
	go c.read()
	tb.Cleanup(c.close)
	return c
}

func (c *legacy) close() {
	_ = c.ws.CloseNow() // the test is over
	<-c.done
}

func (c *legacy) read() {
	defer close(c.done)
	for {
		_, data, err := c.ws.Read(context.Background())
		if err != nil {
			c.mu.Lock()
			for id, ch := range c.waiting {
				close(ch)
				delete(c.waiting, id)
			}
			c.waiting = nil
			c.mu.Unlock()
			return
		}
		var f object
		if err := json.Unmarshal(data, &f); err != nil {
			c.tb.Errorf("no JSON: %s", data)
			continue
		}
		if f["type"] == "event" {
			if c.onEvent != nil {
				payload, _ := f["payload"].(object)
				c.onEvent(fmt.Sprint(f["event"]), payload)
			}
			continue
		}
		id := fmt.Sprint(f["id"])
		c.mu.Lock()
		ch := c.waiting[id]
		delete(c.waiting, id)
		c.mu.Unlock()
		if ch != nil {
			ch <- f
		}
	}
}

// send asks and returns where the answer will be.
func (c *legacy) send(method string, params any) chan object {
	c.tb.Helper()
	c.mu.Lock()
	c.next++
	id := fmt.Sprintf("r%d", c.next)
	ch := make(chan object, 1)
	if c.waiting == nil {
		close(ch)
	} else {
		c.waiting[id] = ch
	}
	c.mu.Unlock()
	text, err := json.Marshal(object{"type": "req", "id": id, "method": method, "params": params})
	if err != nil {
		c.tb.Fatal(err)
	}
	_ = c.ws.Write(context.Background(), websocket.MessageText, text) // a lost connection shows in the answer
	return ch
}

// call asks and waits for the first answer.
func (c *legacy) call(method string, params any) object {
	c.tb.Helper()
	select {
	case f, ok := <-c.send(method, params):
		if !ok {
			c.tb.Fatalf("%s: the connection ended", method)
		}
		return f
	case <-time.After(patience):
		c.tb.Fatalf("%s: no answer", method)
	}
	return nil
}

// failure is code and text of a failed answer, "" for one that did not fail.
func failure(f object) (code, message string) {
	e, _ := f["error"].(object)
	if e == nil {
		return "", ""
	}
	d, _ := e["details"].(object)
	code, _ = d["code"].(string)
	message, _ = e["message"].(string)
	return code, message
}

func params(role, token string, scopes []string, more object) object {
	p := object{
		"minProtocol": 3, "maxProtocol": 3, "role": role, "scopes": scopes,
		"client": object{"id": "test", "version": "1", "platform": "linux", "mode": "test"},
		"auth":   object{"token": token},
	}
	if scopes == nil {
		p["scopes"] = []string{}
	}
	maps.Copy(p, more)
	return p
}
