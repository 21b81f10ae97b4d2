package door

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/runtime"
)

// fileNode is a daemon with a node whose link has channels, or has none.
type fileNode struct {
	d    *hanzodtest.Daemon
	c    *client.Client
	id   string
	root string
}

func newFileNode(t *testing.T, link string) *fileNode {
	t.Helper()
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{"gateway": map[string]any{
		"auth":  map[string]any{"mode": "token", "token": hanzodtest.Token},
		"nodes": map[string]any{"allowCommands": []string{"file.list", "file.stat", "file.read", "file.write", "file.hash", "file.remove", "file.mkdir", "file.rename"}},
	}}})
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	n := &fileNode{d: d, root: t.TempDir()}
	ctx, cancel := context.WithCancel(context.Background())
	done, online := make(chan error, 1), make(chan struct{})
	var once sync.Once
	state := t.TempDir()
	o := runtime.NodeOptions{
		StateDir: state, DisplayName: "box", Token: d.Token, Host: "127.0.0.1", Port: number, Socket: d.Socket(), Link: link, Console: io.Discard, Companion: "off",
		Files: []string{n.root},
		OnState: func(s host.State) {
			if s.Phase == host.Connected {
				once.Do(func() { close(online) })
			}
		},
	}
	if link == "tunnel" {
		o.Host, o.Port, o.Link, o.Socket = "", 0, "", ""
		o.Tunnel, o.Workspace = &runtime.TunnelOptions{URL: d.WS() + "/v1/tunnel", InstanceID: "box"}, t.TempDir()
	}
	go func() { done <- runtime.RunNode(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the node host: %v", err)
		}
	})
	select {
	case <-online:
	case <-time.After(patience):
		t.Fatal("the node does not connect")
	}
	if n.c, err = client.Dial(t.Context(), client.Options{Socket: d.Socket()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.c.Close() })
	all, err := n.c.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{})
	if err != nil || len(all.GetNodes()) != 1 {
		t.Fatal(all, err)
	}
	n.id = all.GetNodes()[0].GetNodeId()
	return n
}

// write sends a file as gRPC has it, all of it or without the end.
func (n *fileNode) write(t *testing.T, begin *tunnelv1.FileUpload, data []byte, whole []byte) (*tunnelv1.WriteFileResponse, error) {
	t.Helper()
	begin.NodeId = n.id
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := n.c.Files.WriteFile(ctx)
	if err != nil {
		return nil, err
	}
	send := func(m *tunnelv1.WriteFileRequest) {
		if err == nil {
			err = s.Send(m)
		}
	}
	send(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Begin{Begin: begin}})
	for p := data; len(p) > 0; {
		k := min(len(p), 200_000)
		send(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Data{Data: p[:k]}})
		p = p[k:]
	}
	if whole != nil {
		send(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Sha256{Sha256: whole}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_ = s.CloseSend()
	return s.Recv()
}

func fileCode(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	return ""
}

// The same calls do the same over a link with channels and over one without, by gRPC and by REST.
func TestFilesByEveryDoor(t *testing.T) {
	for _, link := range []string{"grpc", "websocket", "tunnel"} {
		t.Run(link, func(t *testing.T) { filesBy(t, newFileNode(t, link)) })
	}
}

func filesBy(t *testing.T, n *fileNode) {
	ctx := t.Context()
	data := make([]byte, 1_300_000)
	rand.Read(data)
	sum := sha256.Sum256(data)
	size := int64(len(data))
	at := func(name string) string { return filepath.Join(n.root, name) }
	same := func(name string, want []byte) {
		t.Helper()
		if got, err := os.ReadFile(at(name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another file: %v", name, err)
		}
	}

	// Whole, of a known size and of an unknown one.
	out, err := n.write(t, &tunnelv1.FileUpload{Path: "a", Size: &size}, data, sum[:])
	if err != nil || !bytes.Equal(out.GetEntry().GetSha256(), sum[:]) {
		t.Fatal(out, err)
	}
	same("a", data)
	if _, err := n.write(t, &tunnelv1.FileUpload{Path: "b/c", Parents: true}, data, sum[:]); err != nil {
		t.Fatal(err)
	}
	same("b/c", data)
	if _, err := n.write(t, &tunnelv1.FileUpload{Path: "a", Size: &size}, data, sum[:]); fileCode(err) != "files.exists" {
		t.Error(err)
	}
	// In parts: what was acknowledged stays, another beginning is refused, the rest completes it.
	if _, err := n.write(t, &tunnelv1.FileUpload{Path: "d", UploadId: "upload-one", Size: &size}, data[:700_000], nil); fileCode(err) != "files.no_end" {
		t.Error(err)
	}
	held, err := n.c.Files.GetUpload(ctx, &tunnelv1.GetUploadRequest{NodeId: n.id, Path: "d", UploadId: "upload-one"})
	if err != nil || held.GetHeld() == 0 || held.GetHeld() > 700_000 {
		t.Fatal(held, err)
	}
	rest := data[held.GetHeld():]
	bad := sha256.Sum256([]byte("x"))
	if _, err := n.write(t, &tunnelv1.FileUpload{Path: "d", UploadId: "upload-one", Size: &size, Offset: held.GetHeld(), PrefixSha256: bad[:]}, rest, sum[:]); fileCode(err) != "files.prefix" {
		t.Error(err)
	}
	if _, err := os.Stat(at("d")); err == nil {
		t.Error("there is a half file")
	}
	if _, err := n.write(t, &tunnelv1.FileUpload{Path: "d", UploadId: "upload-one", Size: &size, Offset: held.GetHeld(), PrefixSha256: held.GetSha256()}, rest, sum[:]); err != nil {
		t.Fatal(err)
	}
	same("d", data)
	// Another checksum than what was sent: nothing is left.
	for _, small := range []bool{true, false} {
		p, s := data, size
		if small {
			p, s = data[:100], 100
		}
		if _, err := n.write(t, &tunnelv1.FileUpload{Path: "e", Size: &s}, p, bad[:]); fileCode(err) != "files.checksum" {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(at(".hanzo-part-*")); len(left) > 0 {
		t.Error("left behind:", left)
	}
	// Ranges.
	length := int64(600_000)
	s, err := n.c.Files.ReadFile(ctx, &tunnelv1.ReadFileRequest{NodeId: n.id, Path: "a", Offset: 100_000, Length: &length})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if end := m.GetEnd(); end != nil {
			part := sha256.Sum256(data[100_000:700_000])
			if !bytes.Equal(end.GetSha256(), part[:]) || end.GetBytes() != length || end.GetEof() {
				t.Errorf("%+v", end)
			}
			break
		}
		got = append(got, m.GetData()...)
	}
	if !bytes.Equal(got, data[100_000:700_000]) {
		t.Error("another range")
	}

	n.rest(t, data)
	for _, path := range []string{"../x", "/etc/passwd"} {
		if _, err := n.c.Files.StatFile(ctx, &tunnelv1.StatFileRequest{NodeId: n.id, Path: path}); fileCode(err) != "files.outside" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// rest is the same by REST.
func (n *fileNode) rest(t *testing.T, data []byte) {
	sum := sha256.Sum256(data)
	do := func(method, path string, body io.Reader, header ...string) (*http.Response, []byte) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, n.d.URL()+"/v1/nodes/"+n.id+"/files"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+n.d.Token)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, b
	}
	tag := `"` + hex.EncodeToString(sum[:]) + `"`
	res, b := do("PUT", "/r/s?parents=true&mode=0600", bytes.NewReader(data), "Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	if res.StatusCode != 200 || res.Header.Get("ETag") != tag {
		t.Fatal(res.Status, string(b))
	}
	res, b = do("GET", "/r/s", nil)
	if res.StatusCode != 200 || !bytes.Equal(b, data) || res.Header.Get("ETag") != tag || res.Header.Get("Content-Type") != "application/octet-stream" {
		t.Error(res.Status, res.Header, len(b))
	}
	if res, b = do("GET", "//"+strings.TrimPrefix(filepath.ToSlash(n.root), "/")+"/r/s", nil, "Range", "bytes=10-19"); res.StatusCode != 206 || !bytes.Equal(b, data[10:20]) || res.Header.Get("Content-Range") != "bytes 10-19/"+strconv.Itoa(len(data)) {
		t.Error(res.Status, res.Header, string(b))
	}
	if _, b = do("GET", "/r/s", nil, "Range", "bytes=-5"); !bytes.Equal(b, data[len(data)-5:]) {
		t.Error(len(b))
	}
	if res, _ = do("GET", "/r/s", nil, "Range", "bytes=99999999-"); res.StatusCode != 416 {
		t.Error(res.Status)
	}
	if res, b = do("GET", "/r/s", nil, "If-None-Match", tag); res.StatusCode != 304 || len(b) > 0 {
		t.Error(res.Status)
	}
	if res, b = do("HEAD", "/r/s", nil); res.StatusCode != 200 || len(b) > 0 || res.ContentLength != int64(len(data)) {
		t.Error(res.Status, res.ContentLength)
	}
	if res, _ = do("PUT", "/r/s", strings.NewReader("x"), "If-None-Match", "*"); res.StatusCode != 409 {
		t.Error(res.Status)
	}
	if res, _ = do("PUT", "/r/s", strings.NewReader("x"), "If-Match", `"other"`); res.StatusCode != 412 {
		t.Error(res.Status)
	}
	if res, _ = do("PUT", "/r/s", bytes.NewReader(data), "Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(make([]byte, 32))+":"); res.StatusCode != 409 {
		t.Error(res.Status)
	}
	if got, _ := os.ReadFile(filepath.Join(n.root, "r", "s")); !bytes.Equal(got, data) {
		t.Error("a refused write has changed the file")
	}
	if res, b = do("GET", ":list?path=r", nil); res.StatusCode != 200 || !bytes.Contains(b, []byte(`"s"`)) {
		t.Error(res.Status, string(b))
	}
	if res, b = do("GET", ":stat?path=r/s", nil); res.StatusCode != 200 || !bytes.Contains(b, []byte(`"size":"`+strconv.Itoa(len(data)))) && !bytes.Contains(b, []byte(strconv.Itoa(len(data)))) {
		t.Error(res.Status, string(b))
	}
	if res, _ = do("GET", "/r", nil); res.StatusCode != 409 {
		t.Error(res.Status)
	}
	if res, _ = do("GET", "/..%2Fx", nil); res.StatusCode != 403 {
		t.Error(res.Status)
	}
	if res, b = do("DELETE", "/r?recursive=true", nil); res.StatusCode != 200 {
		t.Error(res.Status, string(b))
	}
	if _, err := os.Stat(filepath.Join(n.root, "r")); err == nil {
		t.Error("it is still there")
	}
	r, err := http.Get(n.d.URL() + "/v1/nodes/" + n.id + "/files/a")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != 401 {
		t.Error(r.Status)
	}
}
