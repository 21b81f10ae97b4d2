//go:build unix

package promises

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// configClient talks to the daemon of a socket.
func configClient(t *testing.T, socket string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// applyText replaces the configuration by what change makes of it, to be confirmed within the window.
func applyText(t *testing.T, c *client.Client, window time.Duration, change func(string) string) {
	t.Helper()
	now, err := c.Config.GetConfig(t.Context(), &configv1.GetConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Config.ApplyConfig(t.Context(), &configv1.ApplyConfigRequest{
		Raw: change(now.GetText()), BaseHash: now.GetHash(), Text: true, RestartDelay: durationpb.New(0), Confirm: durationpb.New(window),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// letsIn reports whether the REST door takes a token.
func letsIn(url, token string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/status", nil)
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK || res.StatusCode == http.StatusForbidden
}

// TestR19UndoesItself: a change that cuts the operator off is undone without the operator.
func TestR19UndoesItself(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"another token": func(s string) string {
			return strings.Replace(s, `token: "__OPENCLAW_REDACTED__"`, `token: "another-token-0123456789"`, 1)
		},
		"another mode": func(s string) string {
			return strings.Replace(s, `mode: "token", token: "__OPENCLAW_REDACTED__"`, `mode: "password", password: "another-0123456789"`, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startGood(t)
			url := d.URL()
			if !letsIn(url, d.Token) {
				t.Fatal("the token does not let in before the change")
			}
			applyText(t, configClient(t, d.Socket()), 5*time.Second, change)
			eventually(t, "the change is in force and cuts off", func() bool { _, n := d.Latest(); return n == 2 && !letsIn(url, d.Token) })
			eventually(t, "the change is undone", func() bool { _, n := d.Latest(); return n == 3 && letsIn(url, d.Token) })
			if got, err := os.ReadFile(configOf(d)); err != nil || string(got) != goodConfig {
				t.Errorf("the file is not as it was: %v\n%s", err, got)
			}
			if _, err := os.Stat(filepath.Join(d.StateDir, "config.undo.json")); err == nil {
				t.Error("what undoes the change is still there")
			}
		})
	}
	t.Run("confirmed", func(t *testing.T) {
		t.Parallel()
		d := startGood(t)
		c := configClient(t, d.Socket())
		applyText(t, c, 5*time.Second, func(s string) string { return strings.Replace(s, "0m", "9m", 1) })
		eventually(t, "the change is in force", func() bool { _, n := d.Latest(); return n == 2 })
		eventually(t, "it is confirmed", func() bool {
			_, err := c.Config.ConfirmConfig(t.Context(), &configv1.ConfirmConfigRequest{})
			return err == nil
		})
		time.Sleep(6 * time.Second)
		if got, _ := os.ReadFile(configOf(d)); !strings.Contains(string(got), "9m") {
			t.Errorf("the confirmed change is gone:\n%s", got)
		}
	})
	t.Run("it does not start", func(t *testing.T) {
		t.Parallel()
		d := startGood(t)
		var lc net.ListenConfig
		taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		_, port, _ := net.SplitHostPort(taken.Addr().String())
		applyText(t, configClient(t, d.Socket()), time.Minute, func(s string) string {
			return strings.Replace(s, "gateway: {", `gateway: { grpc: { enabled: true, port: `+port+` },`, 1)
		})
		eventually(t, "it is undone at once", func() bool {
			got, err := os.ReadFile(configOf(d))
			_, n := d.Latest()
			return err == nil && string(got) == goodConfig && n == 2
		})
		if !letsIn(d.URL(), d.Token) {
			t.Error("the daemon does not serve")
		}
	})
}

// TestR19KilledInTheWindow: a daemon that is killed while a change waits for an answer undoes it when it starts too
// late, and goes on waiting when it does not.
func TestR19KilledInTheWindow(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{})
	path := filepath.Join(d.State, "config.json")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	applyText(t, d.Client(t), 6*time.Second, func(s string) string { return strings.Replace(s, `"0m"`, `"9m"`, 1) })
	log := filepath.Join(d.State, "logs", "hanzod.log")
	proc.Until(t, "the change waits to be confirmed", func() bool {
		text, _ := os.ReadFile(log)
		return strings.Contains(string(text), "undoes itself unless")
	})
	d.Kill()
	d.Start() // within the window
	if got, _ := os.ReadFile(path); string(got) == string(before) {
		t.Fatal("a start within the window undid the change")
	}
	d.Kill()
	time.Sleep(7 * time.Second)
	d.Start()
	if got, _ := os.ReadFile(path); string(got) != string(before) {
		t.Errorf("a start after the window did not undo the change:\n%s", got)
	}
	text, _ := os.ReadFile(log)
	if !strings.Contains(string(text), "not confirmed") {
		t.Error("the log does not say that the change is undone")
	}
}

// TestR19KilledWhileWriting: whenever the daemon is killed, the file is the one of before or one of after.
func TestR19KilledWhileWriting(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long")
	}
	d := proc.Start(t, proc.Options{})
	path := filepath.Join(d.State, "config.json")
	edit := func(c *client.Client, i int) error {
		_, err := c.Config.EditConfig(t.Context(), &configv1.EditConfigRequest{Patch: fmt.Sprintf("{session:{idleMinutes:%d}}", i)})
		return err
	}
	acknowledged := 1
	if err := edit(d.Client(t), acknowledged); err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		c := d.Client(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := acknowledged + 1; ; i++ {
				if edit(c, i) != nil {
					return
				}
				acknowledged = i
			}
		}()
		time.Sleep(time.Duration(60+40*round) * time.Millisecond)
		d.End(syscall.SIGKILL)
		<-done
		d.Start()
		out, err := d.Client(t).Config.GetConfig(t.Context(), &configv1.GetConfigRequest{Key: "session.idleMinutes"})
		if err != nil || !out.GetValid() || out.GetFault() != "" {
			text, _ := os.ReadFile(path)
			t.Fatalf("after a kill: %v %v\n%s", out, err, text)
		}
		got := int(out.GetConfig().GetNumberValue())
		if got != acknowledged && got != acknowledged+1 {
			t.Errorf("the file says %d, %d was acknowledged", got, acknowledged)
		}
		acknowledged = got
	}
}

// TestR19EverySurface: what runs with another configuration than that of its file says so wherever one looks.
func TestR19EverySurface(t *testing.T) {
	d := startGood(t)
	writeConfig(t, configOf(d), `{ logging: { level: "loud" } }`)
	eventually(t, "the bad file is seen", func() bool { return d.ConfigFault() != "" })
	for _, args := range [][]string{{"status"}, {"doctor"}, {"config", "get"}} {
		got := ctlOf(t, d, args...)
		if !strings.Contains(got, "logging.level") {
			t.Errorf("hanzoctl %v does not name it:\n%s", args, got)
		}
	}
	if !strings.Contains(d.LogText(), "logging.level") {
		t.Error("the log does not name it")
	}
}

// ctlOf is what hanzoctl prints, to both outputs.
func ctlOf(t *testing.T, d *hanzodtest.Daemon, args ...string) string {
	t.Helper()
	bin := proc.Build(t, "hanzoctl", proc.Shipped)
	c := proc.Run(t, t.TempDir(), bin, proc.Env(t.TempDir(), "HANZOD_STATE_DIR="+d.StateDir), args...).Wait(t, proc.Patience)
	return c.Stdout.String() + c.Stderr.String()
}
