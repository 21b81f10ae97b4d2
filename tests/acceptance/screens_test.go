//go:build unix

package acceptance

import (
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/tests/browser"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const screenWidth, screenHeight = 640, 480

// realScreen is an X server of one color, and a VNC server that shows it.
func realScreen(t *testing.T, paint uint32) (port int) {
	t.Helper()
	for _, p := range []string{"Xvfb", "x11vnc"} {
		if _, err := exec.LookPath(p); err != nil {
			notHere(t, "V1", p+" is not installed (apt-get install xvfb x11vnc)")
		}
	}
	dir := t.TempDir()
	number, err := os.Create(filepath.Join(dir, "display"))
	if err != nil {
		t.Fatal(err)
	}
	defer number.Close()
	x := exec.CommandContext(t.Context(), "Xvfb", "-displayfd", "3", "-screen", "0", fmt.Sprintf("%dx%dx24", screenWidth, screenHeight), "-noreset", "-nolisten", "tcp", "-ac")
	x.ExtraFiles = []*os.File{number}
	run(t, x)
	var display string
	proc.Until(t, "the X server", func() bool {
		b, _ := os.ReadFile(number.Name())
		display = strings.TrimSpace(string(b))
		return strings.HasSuffix(string(b), "\n")
	})
	paintRoot(t, display, paint)
	port = proc.FreePort(t)
	v := exec.CommandContext(t.Context(), "x11vnc", "-display", ":"+display, "-rfbport", strconv.Itoa(port), "-localhost", "-forever", "-shared", "-nopw", "-quiet", "-norc", "-noxdamage")
	v.Env = append(os.Environ(), "HOME="+dir)
	run(t, v)
	proc.Until(t, "the VNC server", func() bool {
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return port
}

// run starts a program that ends with the test.
func run(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
}

// paintRoot gives the root window of an X server a color, by the X protocol.
func paintRoot(t *testing.T, display string, paint uint32) {
	t.Helper()
	c, err := net.Dial("unix", "/tmp/.X11-unix/X"+display)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte{'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 8)
	if _, err := io.ReadFull(c, head); err != nil || head[0] != 1 {
		t.Fatalf("the X server lets nobody in: %v %v", head, err)
	}
	body := make([]byte, 4*int(binary.LittleEndian.Uint16(head[6:])))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	at := 32 + (int(binary.LittleEndian.Uint16(body[16:]))+3)/4*4 + 8*int(body[21]) // behind vendor and formats
	root := binary.LittleEndian.Uint32(body[at:])
	request := func(words ...uint32) (out []byte) {
		for _, w := range words {
			out = binary.LittleEndian.AppendUint32(out, w)
		}
		return out
	}
	// ChangeWindowAttributes with a background, ClearArea of everything, GetInputFocus to wait for both.
	asked := append(request(2|4<<16, root, 1<<1, paint), request(61|4<<16, root, 0, 0)...)
	if _, err := c.Write(append(asked, request(43|1<<16)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
}

// shows reports whether a picture has a color in its middle.
func shows(p image.Image, paint uint32) bool {
	b := p.Bounds()
	got := color.NRGBAModel.Convert(p.At((b.Min.X+b.Max.X)/2, (b.Min.Y+b.Max.Y)/2)).(color.NRGBA)
	near := func(a uint8, b uint32) bool { return int(a)-int(b&0xff) < 24 && int(b&0xff)-int(a) < 24 }
	return near(got.R, paint>>16) && near(got.G, paint>>8) && near(got.B, paint)
}

// snapshot takes a picture with a VNC client.
func snapshot(t *testing.T, address string, paint uint32) {
	t.Helper()
	if _, err := exec.LookPath("vncsnapshot"); err != nil {
		notHere(t, "V1", "vncsnapshot is not installed (apt-get install vncsnapshot)")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	file := filepath.Join(home, "shot.jpg")
	// What follows the colon counts from port 5900.
	c := proc.Run(t, home, "vncsnapshot", nil, "-quiet", "-allowblank", host+":"+strconv.Itoa(n-5900), file).Wait(t, time.Minute)
	f, err := os.Open(file)
	if err != nil {
		t.Fatalf("vncsnapshot ended with %d: %s%s", c.Code, c.Stdout.String(), c.Stderr.String())
	}
	defer f.Close()
	p, err := jpeg.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if p.Bounds().Dx() != screenWidth || p.Bounds().Dy() != screenHeight || !shows(p, paint) {
		t.Errorf("the picture of %v shows something else: %v", p.Bounds(), p.At(screenWidth/2, screenHeight/2))
	}
}

// bridge listens for VNC clients and carries each to a WebSocket.
func bridge(t *testing.T, address string, header http.Header) string {
	t.Helper()
	var l net.Listener
	for { // vncsnapshot counts from 5900
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l.Addr().(*net.TCPAddr).Port > 5999 {
			break
		}
		_ = l.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				ws, _, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"binary"}})
				if err != nil {
					return
				}
				defer ws.CloseNow()
				ws.SetReadLimit(1 << 20)
				far := websocket.NetConn(ctx, ws, websocket.MessageBinary)
				go func() { _, _ = io.Copy(far, c); _ = far.Close() }()
				_, _ = io.Copy(c, far)
			}()
		}
	}()
	return l.Addr().String()
}

// browse starts a browser.
func browse(t *testing.T) *browser.Page {
	t.Helper()
	path, ok := browser.Find()
	if !ok {
		notHere(t, "V1", "no chromium is installed (apt-get install chromium)")
	}
	return browser.Open(t, path, 900, 700)
}

// connectedBox waits for a node of a name, and returns its id.
func connectedBox(t *testing.T, d *proc.Daemon, name string) (id string) {
	t.Helper()
	proc.Until(t, "the node "+name, func() bool {
		_, list := rest(t, d, "GET", "/v1/nodes?connected_only=true", nil)
		for _, n := range slicesOf(list["nodes"]) {
			if n.(object)["displayName"] == name {
				id, _ = n.(object)["nodeId"].(string)
			}
		}
		return id != ""
	})
	return id
}

func TestV1Screens(t *testing.T) {
	accept(t, "V1")
	const here, there = 0x2060c0, 0xc04020
	local, remote := realScreen(t, here), realScreen(t, there)
	d := proc.Start(t, proc.Options{Env: []string{"BOT_VNC_PORT=" + strconv.Itoa(local)}})
	home := proc.Dir(t)
	proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + d.Socket()},
		"node", "--state-dir", filepath.Join(home, "node"), "--display-name", "box", "--vnc", "127.0.0.1:"+strconv.Itoa(remote))
	box := connectedBox(t, d, "box")
	// One at the JSON link has no channels: its screen comes by a carrier.
	other := proc.Dir(t)
	proc.Run(t, other, proc.Build(t, "hanzod", proc.Tested),
		[]string{"TUNNEL_URL=" + strings.Replace(d.WS(), "ws://", "ws://node:"+proc.Token+"@", 1) + "/v1/tunnel", "BOT_VNC_PORT=" + strconv.Itoa(remote)},
		"node", "--state-dir", other, "--node-id", "linked", "--display-name", "linked", "--security", "full", "--ask", "off")
	linked := connectedBox(t, d, "linked")
	bearer := http.Header{"Authorization": {"Bearer " + proc.Token}}
	for _, c := range []struct {
		name, node, query string
		paint             uint32
	}{{"local", "", "", here}, {"box", box, "?nodeId=" + box, there}, {"linked", linked, "?nodeId=" + url.QueryEscape(linked), there}} {
		t.Run(c.name, func(t *testing.T) {
			path := "/v1/screen"
			if c.node != "" {
				path = "/v1/nodes/" + c.node + "/screen"
			}
			if code, got := rest(t, d, "GET", path, nil); code != 200 || got["screen"].(object)["available"] != true {
				t.Errorf("%d %v", code, got)
			}
			snapshot(t, bridge(t, d.WS()+"/vnc"+c.query, bearer), c.paint)
			// As people do it.
			at := net.JoinHostPort("127.0.0.1", strconv.Itoa(proc.FreePort(t)))
			args := []string{"screen", "--listen", at}
			if c.node != "" {
				args = append(args, c.name)
			}
			ctl := d.Ctl(args...)
			proc.Until(t, "the relay", func() bool { return strings.Contains(ctl.Stderr.String(), at) })
			snapshot(t, at, c.paint)
			ctl.End(syscall.SIGINT)

			if ws, res, err := websocket.Dial(t.Context(), d.WS()+"/vnc"+c.query, nil); err == nil || res == nil || res.StatusCode != 401 {
				if ws != nil {
					_ = ws.CloseNow()
				}
				t.Errorf("a stranger was let in, or was told something else: %v", err)
			}
			code, made := rest(t, d, "POST", path+"/tokens", object{})
			token, _ := made["token"].(string)
			if code != 200 || token == "" {
				t.Fatalf("%d %v", code, made)
			}
			p := browse(t)
			address := d.URL() + made["viewerPath"].(string)
			p.Do("Page.navigate", object{"url": address + "#token=" + token}, nil)
			connected := func() bool { return p.Eval(`document.body && document.body.dataset.state`) == "connected" }
			proc.UntilFor(t, time.Minute, "the viewer", connected)
			var picture image.Image
			var raw []byte
			proc.UntilFor(t, 30*time.Second, "the picture", func() bool {
				picture, raw = p.Shot()
				return shows(picture, c.paint)
			})
			if dir := os.Getenv("SCREENS_KEEP"); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, c.name+".png"), raw, 0o600); err != nil {
					t.Error(err)
				}
			}
			if at := p.Eval("location.href"); at != address {
				t.Errorf("the address of the page is %s", at)
			}
			// Reloaded, the page goes on: the browser was let in. Another one is not, with the same token.
			p.Do("Page.reload", object{}, nil)
			proc.UntilFor(t, time.Minute, "the viewer again", connected)
			q := browse(t)
			q.Do("Page.navigate", object{"url": address + "#token=" + token}, nil)
			proc.UntilFor(t, time.Minute, "the refusal", func() bool {
				return strings.Contains(q.Eval(`document.getElementById('said') && document.getElementById('said').textContent`), "token")
			})
			if q.Eval("!!document.getElementById('screen')") != "false" {
				t.Error("the page of the screen was shown")
			}
			ws, res, err := websocket.Dial(t.Context(), d.WS()+"/vnc"+c.query, &websocket.DialOptions{Subprotocols: []string{"binary", "hanzo-screen." + token}})
			if err == nil {
				_ = ws.CloseNow()
			}
			if err == nil || res == nil || res.StatusCode != 401 {
				t.Errorf("a token was used again: %v", err)
			}
			for _, out := range d.Outputs() {
				if strings.Contains(out, token) {
					t.Error("the token is in the log")
				}
			}
		})
	}
}

// The page says why a screen cannot be shown.
func TestV1NoScreenYet(t *testing.T) {
	accept(t, "V1")
	port := proc.FreePort(t)
	d := proc.Start(t, proc.Options{Env: []string{"BOT_VNC_PORT=" + strconv.Itoa(port)}})
	code, made := rest(t, d, "POST", "/v1/screen/tokens", object{})
	if code != 200 {
		t.Fatalf("%d %v", code, made)
	}
	p := browse(t)
	p.Do("Page.navigate", object{"url": d.URL() + made["viewerPath"].(string) + "#token=" + made["token"].(string)}, nil)
	proc.UntilFor(t, time.Minute, "the reason", func() bool {
		return strings.Contains(p.Eval(`document.getElementById('said') && document.getElementById('said').textContent`), "Cannot connect to VNC server at 127.0.0.1:"+strconv.Itoa(port))
	})
}
