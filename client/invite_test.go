package client

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/identity"
)

var invite = Invite{
	Addresses: []string{"box.lan:18790", "[fd00::1]:18790"}, Pin: strings.Repeat("0a", 32), Secret: "hzi_secret", Role: "node", Name: "box",
}

func TestInviteCode(t *testing.T) {
	code := invite.Code()
	for _, c := range []string{code, "  " + code + "\n", code[:10] + "\r\n " + code[10:], code + "=="} {
		got, err := ParseInvite(c)
		if err != nil || !cmp.Equal(got, invite) {
			t.Errorf("%v\n%s", err, cmp.Diff(invite, got))
		}
	}
	for _, name := range []string{"", "../x", "-x", "a b", strings.Repeat("x", 64)} {
		odd := invite
		odd.Name = name
		if got, err := ParseInvite(odd.Code()); err != nil || got.Name != "" {
			t.Errorf("%q: %+v %v", name, got, err)
		}
	}
	for name, c := range map[string]string{
		"nothing":     " \n",
		"cut":         code[:len(code)/2],
		"other text":  "hanzoctl enroll " + code,
		"too long":    strings.Repeat("A", maxInviteCode+1),
		"no JSON":     base64.RawURLEncoding.EncodeToString([]byte("hzi_secret")),
		"newer":       base64.RawURLEncoding.EncodeToString([]byte(`{"v":2,"s":"hzi_secret","r":"node"}`)),
		"no secret":   Invite{Role: "node"}.Code(),
		"bad secret":  Invite{Role: "node", Secret: "a\nb"}.Code(),
		"no role":     Invite{Secret: "hzi_secret"}.Code(),
		"other role":  Invite{Secret: "hzi_secret", Role: "invited"}.Code(),
		"short pin":   Invite{Secret: "hzi_secret", Role: "node", Pin: "0a"}.Code(),
		"odd pin":     Invite{Secret: "hzi_secret", Role: "node", Pin: strings.Repeat("x", 64)}.Code(),
		"a URL":       Invite{Secret: "hzi_secret", Role: "node", Addresses: []string{"https://box.lan/x"}}.Code(),
		"port 0":      Invite{Secret: "hzi_secret", Role: "node", Addresses: []string{"box.lan:0"}}.Code(),
		"no host":     Invite{Secret: "hzi_secret", Role: "node", Addresses: []string{":18790"}}.Code(),
		"many places": Invite{Secret: "hzi_secret", Role: "node", Addresses: make([]string, maxInviteAddresses+1)}.Code(),
	} {
		_, err := ParseInvite(c)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeBadInvite || strings.Contains(e.Message, "hzi_secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The text that is signed here is the one that the daemon checks.
func TestEnrollText(t *testing.T) {
	got := enrollText("hzi_x", "d", Machine{Name: "n", Platform: "linux", Family: "Linux"})
	if want := identity.EnrollText("hzi_x", "d", "linux", "Linux"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzParseInvite: what is taken can be written and read again, and nothing panics.
func FuzzParseInvite(f *testing.F) {
	f.Add(invite.Code())
	f.Add("e30")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"v":1,"s":"x","r":"node","a":["h:1"],"p":null}`)))
	f.Fuzz(func(t *testing.T, code string) {
		i, err := ParseInvite(code)
		if err != nil {
			return
		}
		again, err := ParseInvite(i.Code())
		if err != nil || !cmp.Equal(i, again) {
			t.Errorf("%v\n%s", err, cmp.Diff(i, again))
		}
	})
}
