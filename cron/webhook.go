package cron

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
)

// errAddress refuses addresses that no webhook has.
var errAddress = errors.New("webhooks are not sent to link-local, multicast or unspecified addresses")

// hooks post webhooks. Who may add jobs is an admin, so a post may go to this machine and its network; it never
// goes to the addresses where clouds keep the credentials of their machines.
type hooks struct {
	log   *slog.Logger
	queue chan post
	once  sync.Once
	c     *http.Client
}

// post is a webhook on its way.
type post struct {
	url, token, job string
	body            map[string]any
}

func newHooks(log *slog.Logger) *hooks { return &hooks{log: log, queue: make(chan post, hookQueue)} }

// run posts until ctx ends.
func (h *hooks) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range hookWorkers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case p := <-h.queue:
					if err := h.send(ctx, p); err != nil {
						h.log.Warn("a cron webhook was not delivered", "job", p.job, "host", hostOf(p.url), "error", err)
					}
				}
			}
		})
	}
	wg.Wait()
	if h.c != nil {
		h.c.CloseIdleConnections()
	}
}

// offer queues a post; it does not wait.
func (h *hooks) offer(p post) {
	select {
	case h.queue <- p:
	default:
		h.log.Warn("a cron webhook was dropped: too many wait", "job", p.job, "host", hostOf(p.url))
	}
}

func hostOf(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Hostname()
	}
	return ""
}

func (h *hooks) client() *http.Client {
	h.once.Do(func() {
		d := &net.Dialer{Timeout: hookTime, Control: func(_, address string, _ syscall.RawConn) error {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return err
			}
			if i := strings.IndexByte(host, '%'); i >= 0 {
				host = host[:i]
			}
			if ip := net.ParseIP(host); ip == nil || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
				return errAddress
			}
			return nil
		}}
		h.c = &http.Client{
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSHandshakeTimeout: hookTime, MaxIdleConns: hookWorkers,
				ResponseHeaderTimeout: hookTime, ForceAttemptHTTP2: true,
			},
			// A redirect to another host would hand it what was meant for this one.
			CheckRedirect: func(r *http.Request, via []*http.Request) error {
				if len(via) > hookHops || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
					return http.ErrUseLastResponse
				}
				return nil
			},
		}
	})
	return h.c
}

// send posts one webhook. Its errors hold neither the token nor the address, which may be secret too.
func (h *hooks) send(ctx context.Context, p post) error {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false)
	if err := e.Encode(p.body); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, &body)
	if err != nil {
		return errors.New("the address cannot be used")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "hanzod")
	if p.token != "" {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	res, err := h.client().Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address
		}
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %d", res.StatusCode)
	}
	return nil
}

// eventBody is a finished event as clients get it.
func eventBody(e *Entry) map[string]any {
	out := map[string]any{"jobId": e.JobID, "action": "finished", "status": string(e.Status), "deliveryStatus": e.DeliveryStatus}
	for k, v := range map[string]string{
		"error": e.Error, "summary": e.Summary, "deliveryError": e.DeliveryError, "sessionId": e.SessionID, "sessionKey": e.SessionKey,
		"model": e.Model, "provider": e.Provider,
	} {
		if v != "" {
			out[k] = v
		}
	}
	if e.Delivered != nil {
		out["delivered"] = *e.Delivered
	}
	if e.RunAtMs != 0 {
		out["runAtMs"] = e.RunAtMs
	}
	if e.DurationMs != nil {
		out["durationMs"] = *e.DurationMs
	}
	if e.NextRunMs != 0 {
		out["nextRunAtMs"] = e.NextRunMs
	}
	if e.ExitCode != nil {
		out["exitCode"] = *e.ExitCode
	}
	return out
}
