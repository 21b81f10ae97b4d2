package promises

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// recorded are the clients of all recordings that have a device, each once.
func recorded(t *testing.T) []dial.Options {
	t.Helper()
	files, err := filepath.Glob("../../fixtures/gateway/*/*.json")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d recordings: %v", len(files), err)
	}
	seen := map[string]dial.Options{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var r struct {
			Steps []struct {
				Frame struct {
					Method string
					Params json.RawMessage
				}
			}
		}
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Steps {
			var p struct {
				Client struct{ ID, Mode, Version, Platform, DeviceFamily, ModelIdentifier string }
				Role   string
				Scopes []identity.Scope
				Device struct {
					Sign struct{ Version string } `json:"$sign"`
				}
			}
			if s.Frame.Method != "connect" || json.Unmarshal(s.Frame.Params, &p) != nil || p.Device.Sign.Version == "" || p.Client.ID == "" {
				continue // others are bad on purpose
			}
			o := dial.Options{
				Client: dial.Client{
					ID: p.Client.ID, Mode: p.Client.Mode, Version: p.Client.Version, Platform: p.Client.Platform, DeviceFamily: p.Client.DeviceFamily,
					ModelIdentifier: p.Client.ModelIdentifier,
				},
				Role: identity.Role(p.Role), Scopes: p.Scopes, SignatureVersion: p.Device.Sign.Version,
			}
			if o.Role == "" {
				o.Role = identity.RoleOperator
			}
			key, err := json.Marshal([]any{o.Client, o.Role, o.Scopes, o.SignatureVersion})
			if err != nil {
				t.Fatal(err)
			}
			seen[string(key)] = o
		}
	}
	var keys []string
	for k := range seen {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]dial.Options, len(keys))
	for i, k := range keys {
		out[i] = seen[k]
	}
	return out
}

// TestR12TokensOutliveUpdates: no upgrade and no downgrade of a client that was ever recorded, nor of the
// daemon's process, takes its token away. A new version of the operating system asks once, status of
// devices names it, one answer mends it, and the device comes back with the token it has. A lost token
// is had again with one step.
func TestR12TokensOutliveUpdates(t *testing.T) {
	state := ""
	var a *attacked
	restart := func() {
		t.Helper()
		if a != nil {
			if err := a.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		a = attackWith(t, hanzodtest.Options{GRPC: true, StateDir: state})
		state = a.StateDir
	}
	restart()
	type installed struct {
		o     dial.Options
		token string
	}
	var all []*installed
	clients := recorded(t)
	if len(clients) < 8 {
		t.Fatalf("%d clients are recorded", len(clients))
	}
	page := func(o dial.Options) bool {
		return strings.HasSuffix(o.Client.ID, "control-ui") || o.Client.Mode == "webchat"
	}
	for _, o := range clients {
		i := &installed{o: o}
		i.o.Device = newDevice(t)
		if page(o) {
			i.o.Header = map[string][]string{"Origin": {"http://localhost:18789"}}
		}
		role := i.o.Role
		i.o.URL, i.o.Auth = a.WS(), dial.Auth{Token: a.Token}
		if role == identity.RoleNode {
			// The secret lets nodes in without pairing; one that is to have a token is invited.
			i.token = a.enrolled(i.o)
		} else {
			i.token = a.connect(i.o).Hello().DeviceToken
		}
		if i.token == "" {
			t.Fatalf("%+v has no token", o.Client)
		}
		all = append(all, i)
	}
	try := func(what string, i *installed, change func(*dial.Options)) {
		t.Helper()
		for _, auth := range []dial.Auth{{DeviceToken: i.token}, {Token: i.token}} {
			o := i.o
			o.URL, o.Auth = a.WS(), auth
			change(&o)
			c, err := a.dial(o)
			if err != nil {
				t.Errorf("%s: %+v: %v", what, o.Client, err)
				return
			}
			if got := c.Hello().DeviceToken; got != i.token {
				t.Errorf("%s: %+v is told another token", what, o.Client)
			}
			_ = c.Close()
		}
	}
	for range 2 {
		for _, i := range all {
			for _, version := range []string{"0.0.1", "1.0.0", "2026.3.7", "2026.12.31", "99.0.0-beta.1", "dev"} {
				try("version "+version, i, func(o *dial.Options) { o.Client.Version = version })
			}
			for _, signature := range []string{"v2", "v3", "v2"} {
				try("signature "+signature, i, func(o *dial.Options) { o.SignatureVersion = signature })
			}
			try("a new name", i, func(o *dial.Options) { o.Client.DisplayName = "Renamed" })
			try("another model", i, func(o *dial.Options) { o.Client.ModelIdentifier = "Next1,1" })
			try("other letters", i, func(o *dial.Options) { o.Client.Platform = " " + strings.ToUpper(o.Client.Platform) + " " })
			try("fewer scopes", i, func(o *dial.Options) { o.Scopes = nil })
		}
		restart()
	}

	// A new version of the operating system.
	for _, i := range all {
		i.o.URL, i.o.Auth = a.WS(), dial.Auth{DeviceToken: i.token}
		old := i.o.Client.Platform
		for _, platform := range []string{old + " 99.1", old} { // and back
			o := i.o
			o.Client.Platform = platform
			_, err := a.dial(o)
			refused, ok := errors.AsType[*dial.RefusedError](err)
			if !ok || refused.Detail("reason") != "metadata-upgrade" {
				t.Fatalf("%s: %v", platform, err)
			}
			list, err := a.local().Devices.ListDevices(a.ctx(), &devicesv1.ListDevicesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if p := list.GetPending(); len(p) != 1 || p[0].GetRequestId() != refused.Detail("requestId") || !p[0].GetRepair() || p[0].GetDeviceId() != o.Device.ID {
				t.Fatalf("the repair is not named: %v", p)
			}
			found, err := a.local().System.Diagnose(a.ctx(), &systemv1.DiagnoseRequest{})
			if err != nil || !slices.ContainsFunc(found.GetFindings(), func(f *systemv1.Finding) bool {
				return f.GetCheck() == "pairing.devices" && f.GetSeverity() == systemv1.Severity_SEVERITY_WARNING &&
					strings.Contains(f.GetWhat(), "repair") && strings.Contains(f.GetNext(), "hanzoctl devices approve "+o.Device.ID[:12])
			}) {
				t.Fatalf("the doctor does not name the repair: %v %v", found, err)
			}
			if _, err := a.local().Devices.ApprovePairing(a.ctx(), &devicesv1.ApprovePairingRequest{RequestId: refused.Detail("requestId")}); err != nil {
				t.Fatal(err)
			}
			c, err := a.dial(o)
			if err != nil || c.Hello().DeviceToken != i.token {
				t.Errorf("%s: approved, and with the token that it has: %v", platform, err)
				continue
			}
			_ = c.Close()
		}
	}

	// A token that is lost, with and without the secret.
	for _, i := range all {
		o := i.o
		o.Auth = dial.Auth{}
		if _, err := a.dial(o); err == nil {
			t.Errorf("%+v is let in with nothing", o.Client)
		}
		if o.Role == identity.RoleOperator {
			o.Auth = dial.Auth{Token: a.Token}
			if c, err := a.dial(o); err != nil || c.Hello().DeviceToken != i.token {
				t.Errorf("%+v is not told its token again: %v", o.Client, err)
			}
		}
		fresh := a.enrolled(i.o)
		o = i.o
		o.Auth = dial.Auth{DeviceToken: fresh}
		if _, err := a.dial(o); err != nil {
			t.Errorf("%+v enrolled again: %v", o.Client, err)
		}
	}
}

// enrolled invites a device as what it connects as and returns its token.
func (a *attacked) enrolled(o dial.Options) string {
	a.t.Helper()
	in := &devicesv1.CreateInviteRequest{Role: string(o.Role)}
	for _, s := range o.Scopes {
		if o.Role == identity.RoleOperator {
			in.Scopes = append(in.Scopes, string(s))
		}
	}
	if o.Role == identity.RoleOperator && len(in.Scopes) == 0 {
		in.Scopes = []string{string(identity.ScopeRead)}
	}
	invite, err := a.local().Devices.CreateInvite(a.ctx(), in)
	if err != nil {
		a.t.Fatal(err)
	}
	text := identity.EnrollText(invite.GetSecret(), o.Device.ID, o.Client.Platform, o.Client.DeviceFamily)
	out, err := a.remote(invite.GetSecret()).Devices.Enroll(a.ctx(), &devicesv1.EnrollRequest{
		PublicKey: o.Device.PublicKey(), Signature: o.Device.Sign(text), Platform: o.Client.Platform, DeviceFamily: o.Client.DeviceFamily,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return out.GetToken()
}
