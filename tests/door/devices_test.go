package door

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/errs"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

// keeper is somebody who decides on devices, at one door. Answers are "ok" or the refusal.
type keeper interface {
	approve(request string) string
	reject(request string) string
	remove(device string) string
	rotate(device, role string, scopes []string) string
	revoke(device, role string) string
}

// keeperGRPC comes by gRPC: in process as the local socket's handlers are called, or from elsewhere.
type keeperGRPC struct {
	ctx context.Context
	c   devicesv1.DeviceServiceClient
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return strings.TrimSpace(info.GetReason() + " " + info.GetMetadata()["scope"])
		}
	}
	return err.Error()
}

func (k keeperGRPC) approve(r string) string {
	_, err := k.c.ApprovePairing(k.ctx, &devicesv1.ApprovePairingRequest{RequestId: r})
	return outcome(err)
}

func (k keeperGRPC) reject(r string) string {
	_, err := k.c.RejectPairing(k.ctx, &devicesv1.RejectPairingRequest{RequestId: r})
	return outcome(err)
}

func (k keeperGRPC) remove(d string) string {
	_, err := k.c.RemoveDevice(k.ctx, &devicesv1.RemoveDeviceRequest{DeviceId: d})
	return outcome(err)
}

func (k keeperGRPC) rotate(d, role string, scopes []string) string {
	_, err := k.c.RotateToken(k.ctx, &devicesv1.RotateTokenRequest{DeviceId: d, Role: role, Scopes: scopes})
	return outcome(err)
}

func (k keeperGRPC) revoke(d, role string) string {
	_, err := k.c.RevokeToken(k.ctx, &devicesv1.RevokeTokenRequest{DeviceId: d, Role: role})
	return outcome(err)
}

type keeperREST struct {
	t          *testing.T
	url, token string
}

func (k keeperREST) do(verb, path string, body any) string {
	k.t.Helper()
	status, answer := sendJSON(k.t, verb, k.url+path, k.token, body)
	if status == http.StatusOK {
		return "ok"
	}
	var p struct {
		Code   string
		Fields map[string]string
	}
	if err := json.Unmarshal(answer, &p); err != nil {
		k.t.Fatalf("%d %s", status, answer)
	}
	return strings.TrimSpace(p.Code + " " + p.Fields["scope"])
}

func sendJSON(t *testing.T, verb, url, token string, body any) (code int, answer []byte) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, verb, url, strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var raw json.RawMessage
	if err := json.NewDecoder(res.Body).Decode(&raw); err != nil {
		t.Fatalf("%s: %v", res.Status, err)
	}
	return res.StatusCode, raw
}

func (k keeperREST) approve(r string) string {
	return k.do(http.MethodPost, "/v1/device-requests/"+r+":approve", object{})
}

func (k keeperREST) reject(r string) string {
	return k.do(http.MethodPost, "/v1/device-requests/"+r+":reject", object{})
}
func (k keeperREST) remove(d string) string { return k.do(http.MethodDelete, "/v1/devices/"+d, nil) }
func (k keeperREST) rotate(d, role string, scopes []string) string {
	return k.do(http.MethodPost, "/v1/devices/"+d+"/tokens/"+role+":rotate", object{"scopes": scopes})
}

func (k keeperREST) revoke(d, role string) string {
	return k.do(http.MethodPost, "/v1/devices/"+d+"/tokens/"+role+":revoke", object{})
}

type keeperLegacy struct{ c *legacy }

// legacyNames are the words of the legacy door for the refusals of this story.
var legacyNames = map[string]string{
	"unknown requestId": "identity.unknown_request", "unknown deviceId": "identity.unknown_device", "unknown deviceId/role": "identity.unknown_token",
}

func (k keeperLegacy) call(method string, params object) string {
	f := k.c.call(method, params)
	if f["ok"] == true {
		return "ok"
	}
	_, text := failure(f)
	if scope, ok := strings.CutPrefix(text, "missing scope: "); ok {
		return "identity.beyond_caller " + scope
	}
	if name := legacyNames[text]; name != "" {
		return name
	}
	return text
}

func (k keeperLegacy) approve(r string) string {
	return k.call("device.pair.approve", object{"requestId": r})
}

func (k keeperLegacy) reject(r string) string {
	return k.call("device.pair.reject", object{"requestId": r})
}

func (k keeperLegacy) remove(d string) string {
	return k.call("device.pair.remove", object{"deviceId": d})
}

func (k keeperLegacy) rotate(d, role string, scopes []string) string {
	p := object{"deviceId": d, "role": role}
	if len(scopes) > 0 {
		p["scopes"] = scopes
	}
	return k.call("device.token.rotate", p)
}

func (k keeperLegacy) revoke(d, role string) string {
	return k.call("device.token.revoke", object{"deviceId": d, "role": role})
}

// theDoors are the ways in for a device that is paired.
var theDoors = []string{"grpc", "remote", "rest", "legacy"}

func (h *house) keeper(t *testing.T, door string, k kind) keeper {
	t.Helper()
	c, err := h.identity.Bearer(context.Background(), k.token, identity.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	switch door {
	case "grpc":
		c.Door = identity.DoorGRPC
		return keeperGRPC{rpc.WithCaller(context.Background(), c), devicesv1.NewDeviceServiceClient(h.channel)}
	case "remote":
		return keeperGRPC{bearer(k.token), devicesv1.NewDeviceServiceClient(h.remote.conn)}
	case "rest":
		return keeperREST{t, h.http.URL, k.token}
	}
	return keeperLegacy{connectDevice(t, strings.Replace(h.http.URL, "http", "ws", 1), k)}
}

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func idOf(name string) string {
	return identity.DeviceID(keyOf(name).Public().(ed25519.PublicKey))
}

// connectDevice connects a paired device with its token alone.
func connectDevice(t *testing.T, url string, k kind) *legacy {
	t.Helper()
	c, hello := helloDevice(t, url, k)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	return c
}

// helloDevice does the same and returns the answer.
func helloDevice(t *testing.T, url string, k kind) (*legacy, object) {
	t.Helper()
	nonce := make(chan string, 1)
	c := dialLegacy(t, nil, url, func(name string, payload object) {
		if name == "connect.challenge" {
			nonce <- fmt.Sprint(payload["nonce"])
		}
	})
	n, now := <-nonce, time.Now().UnixMilli()
	key := keyOf(k.name)
	text := identity.Signed{
		DeviceID: idOf(k.name), ClientID: "test", ClientMode: "test", Role: k.role, Scopes: k.scopes, SignedAt: now,
		Token: k.token, Nonce: n, Platform: "linux",
	}.Payload("v3")
	var scopes []string
	for _, s := range k.scopes {
		scopes = append(scopes, string(s))
	}
	hello := c.call("connect", params(string(k.role), "", scopes, object{
		"auth": object{"deviceToken": k.token},
		"device": object{
			"id": idOf(k.name), "publicKey": identity.EncodeKey(key.Public().(ed25519.PublicKey)), "nonce": n, "signedAt": now,
			"signature": base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text))),
		},
	}))
	return c, hello
}

// asks leaves a request of a device that is elsewhere.
func (h *house) asks(t *testing.T, name string, role identity.Role, scopes ...identity.Scope) string {
	t.Helper()
	key := keyOf(name)
	f := identity.Signed{
		DeviceID: idOf(name), ClientID: "test", ClientMode: "test", Role: role, Scopes: scopes, SignedAt: time.Now().UnixMilli(),
		Token: secretText, Nonce: "n", Platform: "linux",
	}
	a := identity.Attempt{
		Role: role, Scopes: scopes, ClientID: "test", ClientMode: "test", Platform: "linux", Token: secretText, Nonce: "n",
		Device: &identity.Proof{
			ID: f.DeviceID, PublicKey: identity.EncodeKey(key.Public().(ed25519.PublicKey)), SignedAt: f.SignedAt, Nonce: "n",
			Signature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(f.Payload("v3")))),
		},
	}
	_, err := h.identity.Admit(context.Background(), a)
	e, ok := errs.As(err)
	if !ok || e.Field("requestId") == "" {
		t.Fatalf("%v", err)
	}
	return e.Field("requestId")
}

func (h *house) kind(name identity.Scope) kind {
	return h.kinds[slices.IndexFunc(h.kinds, func(k kind) bool { return k.name == string(name) })]
}

// decideAll is one story with devices at one door: what is answered, and what is on disk then.
func decideAll(t *testing.T, door string) (told, kept []string) {
	h := newHouse(t)
	weak, strong := h.keeper(t, door, h.kind(identity.ScopePairing)), h.keeper(t, door, h.kind(identity.ScopeAdmin))
	reader := h.asks(t, "reader", identity.RoleOperator, identity.ScopeRead)
	equal := h.asks(t, "equal", identity.RoleOperator, identity.ScopePairing)
	read := []string{"operator.read"}
	for _, step := range []struct {
		name string
		do   func() string
	}{
		{"approve more than one holds", func() string { return weak.approve(reader) }},
		{"approve what one holds", func() string { return weak.approve(equal) }},
		{"approve what is not there", func() string { return weak.approve("missing") }},
		{"approve as an admin", func() string { return strong.approve(reader) }},
		{"approve again", func() string { return strong.approve(reader) }},
		{"reject", func() string { return weak.reject(h.asks(t, "late", identity.RoleOperator, identity.ScopeAdmin)) }},
		{"reject what is not there", func() string { return weak.reject("missing") }},
		{"rotate what one does not hold", func() string { return weak.rotate(idOf("reader"), "operator", nil) }},
		{"rotate to what one does not hold", func() string { return weak.rotate(idOf("reader"), "operator", read) }},
		{"rotate", func() string { return weak.rotate(idOf("equal"), "operator", nil) }},
		{"rotate to more than was approved", func() string { return strong.rotate(idOf("reader"), "operator", []string{"operator.admin"}) }},
		{"rotate a role that is not there", func() string { return strong.rotate(idOf("reader"), "node", nil) }},
		{"rotate a device that is not there", func() string { return strong.rotate("missing", "operator", nil) }},
		{"rotate as an admin", func() string { return strong.rotate(idOf("reader"), "operator", read) }},
		{"revoke one that holds more", func() string { return weak.revoke(idOf("reader"), "operator") }},
		{"revoke an equal", func() string { return weak.revoke(idOf("equal"), "operator") }},
		{"revoke a role that is not there", func() string { return weak.revoke(idOf("equal"), "node") }},
		{"remove one that holds more", func() string { return weak.remove(idOf("reader")) }},
		{"remove as an admin", func() string { return strong.remove(idOf("reader")) }},
		{"remove again", func() string { return strong.remove(idOf("reader")) }},
	} {
		told = append(told, step.name+": "+step.do())
	}
	rows, err := h.store.Audit(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer(idOf("reader"), "reader", idOf("equal"), "equal", idOf("late"), "late",
		idOf("operator.pairing"), "weak", idOf("operator.admin"), "strong")
	for _, r := range rows {
		if r.Kind == "device.pair" {
			continue // those who were there before
		}
		if r.At.IsZero() {
			t.Errorf("a row without a time: %+v", r)
		}
		kept = append(kept, names.Replace(fmt.Sprintf("%s by %s of %s %s %v", r.Kind, r.Subject, r.DeviceID, r.Role, r.Scopes)))
	}
	devices, err := h.store.Devices()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if name := names.Replace(d.ID); name == "reader" || name == "equal" || name == "late" {
			tok := d.Tokens[identity.RoleOperator]
			kept = append(kept, fmt.Sprintf("%s has %v, revoked %v, rotated %v", name, tok.Scopes, !tok.RevokedAt.IsZero(), !tok.RotatedAt.IsZero()))
		}
	}
	return told, kept
}

// The same decisions by four doors: the same answers, and the same on disk.
func TestDecisionsByEveryDoor(t *testing.T) {
	wantTold := []string{
		"approve more than one holds: identity.beyond_caller operator.read",
		"approve what one holds: ok",
		"approve what is not there: identity.unknown_request",
		"approve as an admin: ok",
		"approve again: identity.unknown_request",
		"reject: ok",
		"reject what is not there: identity.unknown_request",
		"rotate what one does not hold: identity.beyond_caller operator.read",
		"rotate to what one does not hold: identity.beyond_caller operator.read",
		"rotate: ok",
		"rotate to more than was approved: identity.unknown_token",
		"rotate a role that is not there: identity.unknown_token",
		"rotate a device that is not there: identity.unknown_token",
		"rotate as an admin: ok",
		"revoke one that holds more: identity.beyond_caller operator.read",
		"revoke an equal: ok",
		"revoke a role that is not there: identity.unknown_token",
		"remove one that holds more: identity.beyond_caller operator.read",
		"remove as an admin: ok",
		"remove again: identity.unknown_device",
	}
	wantKept := []string{
		"device.approve by device:weak of equal operator [operator.pairing]",
		"device.approve by device:strong of reader operator [operator.read]",
		"device.reject by device:weak of late operator [operator.admin]",
		"device.rotate by device:weak of equal operator [operator.pairing]",
		"device.rotate by device:strong of reader operator [operator.read]",
		"device.revoke by device:weak of equal operator [operator.pairing]",
		"device.remove by device:strong of reader operator [operator.read]",
		"equal has [operator.pairing], revoked true, rotated true",
	}
	for _, door := range theDoors {
		t.Run(door, func(t *testing.T) {
			told, kept := decideAll(t, door)
			if d := cmp.Diff(wantTold, told); d != "" {
				t.Errorf("answers: %s", d)
			}
			if d := cmp.Diff(wantKept, kept); d != "" {
				t.Errorf("on disk: %s", d)
			}
		})
	}
}

// enrolls makes an enrolment by a door and returns its outcome and the token.
func (h *house) enrolls(t *testing.T, door, secret, name string) (string, string) {
	t.Helper()
	key := keyOf(name)
	in := &devicesv1.EnrollRequest{PublicKey: identity.EncodeKey(key.Public().(ed25519.PublicKey)), Platform: "linux"}
	in.Signature = base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(identity.EnrollText(secret, idOf(name), "linux", ""))))
	if door == "rest" {
		code, answer := sendJSON(t, http.MethodPost, h.http.URL+"/v1/devices:enroll", secret,
			object{"publicKey": in.GetPublicKey(), "signature": in.GetSignature(), "platform": "linux"})
		var out struct{ Token, Code string }
		if err := json.Unmarshal(answer, &out); err != nil {
			t.Fatal(err)
		}
		if code == http.StatusOK {
			return "ok", out.Token
		}
		return out.Code, ""
	}
	ctx, conn := bearer(secret), grpc.ClientConnInterface(h.remote.conn)
	if door == "grpc" {
		c, err := h.identity.Bearer(context.Background(), secret, identity.Peer{})
		if err != nil {
			e, _ := errs.As(err)
			return e.Code, ""
		}
		ctx, conn = rpc.WithCaller(context.Background(), c), h.channel
	}
	out, err := devicesv1.NewDeviceServiceClient(conn).Enroll(ctx, in)
	return outcome(err), out.GetToken()
}

// Who holds an invite may enrol, by every door but the legacy one, and do nothing else by any; and once.
func TestInvited(t *testing.T) {
	h := newHouse(t)
	invite := func() string {
		t.Helper()
		out, err := h.identity.CreateInvite(context.Background(), identity.Internal(), identity.InviteIn{Role: "operator", Scopes: []identity.Scope{identity.ScopeRead}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Secret
	}
	secret := invite()
	k := kind{name: "invited", role: identity.RoleInvited, token: secret}
	for _, op := range h.catalogue.All() {
		if op.Method == "" {
			continue
		}
		want := "role invited"
		if op.Role == identity.RoleInvited {
			want = allowed
		}
		for door, got := range map[string]string{"grpc": h.byGRPC(t, k, op), "remote": ask(bearer(secret), t, h.remote.conn, op), "rest": h.byREST(t, k, op)} {
			if got != want && got != "" {
				t.Errorf("%s by %s: %s, want %s", op.Method, door, got, want)
			}
		}
	}
	_, hello := connect(t, strings.Replace(h.http.URL, "http", "ws", 1), params("operator", secret, []string{"operator.read"}, nil), nil)
	if code, _ := failure(hello); code != "AUTH_TOKEN_MISMATCH" {
		t.Errorf("by the legacy door: %v", hello)
	}
	for i, door := range []string{"grpc", "remote", "rest"} {
		if i > 0 {
			secret = invite()
		}
		got, token := h.enrolls(t, door, secret, "enrolled by "+door)
		if got != "ok" || token == "" {
			t.Errorf("%s: %s", door, got)
			continue
		}
		op, _ := h.catalogue.ByLegacy("node.list")
		if got := h.byREST(t, kind{token: token}, op); got != allowed {
			t.Errorf("the token from %s: %s", door, got)
		}
		for _, again := range []string{"grpc", "remote", "rest"} {
			if got, _ := h.enrolls(t, again, secret, "another"); got != "identity.invite" {
				t.Errorf("again by %s: %s", again, got)
			}
		}
	}
}
