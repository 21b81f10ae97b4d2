package identity_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// FuzzSignature: a signature over some fields is one over these fields alone. Whoever has seen it cannot
// cut the signed text into other fields, move scopes together, or read one version as the other
// (promises.md: the text joins its fields without escaping).
func FuzzSignature(f *testing.F) {
	f.Add("cli", "cli", "operator", "operator.read,operator.write", "tok", "linux", "", uint64(0), false)
	f.Add("openclaw-macos", "ui", "operator", "operator.admin", "a|b", "macOS 15.3", "Mac", uint64(0x8421), true)
	f.Add("cli", "node", "node", "", "", "Linux|x", "", uint64(0xff), false)
	f.Add("", "", "", ",", "tok|nonce-of-this-connection|linux|mac", "|", "|", uint64(1<<63), true)
	f.Add("a", "b", "c", "x,,y", "nonce-of-this-connection", "", "İ", uint64(7), false)
	k := key("fuzz")
	pub := k.Public().(ed25519.PublicKey)
	now := time.UnixMilli(1700000000000)
	f.Fuzz(func(t *testing.T, client, mode, role, scopeText, token, platform, family string, cuts uint64, v2 bool) {
		signed := identity.Signed{
			DeviceID: identity.DeviceID(pub), ClientID: client, ClientMode: mode, Role: identity.Role(role), Scopes: scopesOf(scopeText, cuts),
			SignedAt: now.UnixMilli(), Token: token, Nonce: nonce, Platform: platform, DeviceFamily: family,
		}
		version := "v3"
		if v2 {
			version = "v2"
		}
		text := signed.Payload(version)
		p := identity.Proof{
			ID: signed.DeviceID, PublicKey: identity.EncodeKey(pub), SignedAt: signed.SignedAt, Nonce: nonce,
			Signature: base64.RawURLEncoding.EncodeToString(ed25519.Sign(k, []byte(text))),
		}
		judge := func(got identity.Signed) {
			t.Helper()
			got.DeviceID, got.SignedAt, got.Nonce = signed.DeviceID, signed.SignedAt, nonce
			_, err := p.Verify(got, nonce, now)
			if same := alike(signed, got, v2); err == nil && !same {
				t.Fatalf("%q was signed for\n%+v and counts for\n%+v", text, signed, got)
			}
		}
		if _, err := p.Verify(signed, nonce, now); err != nil {
			return // who signs such fields is not let in with them
		}
		// The same text in other fields.
		parts := strings.Split(text, "|")
		if len(parts) < 9 {
			t.Fatalf("%q", text)
		}
		body := parts[2:] // client, mode, role, scopes, time, token, nonce, …
		fields, rest := make([]string, 0, 9), body
		for n := 8; n >= 0 && len(rest) > 0; n-- {
			take := 1
			if cuts&(1<<n) != 0 && len(rest) > n+1 {
				take = len(rest) - n
			}
			fields, rest = append(fields, strings.Join(rest[:take], "|")), rest[take:]
		}
		for len(fields) < 9 {
			fields = append(fields, "")
		}
		other := identity.Signed{
			ClientID: fields[0], ClientMode: fields[1], Role: identity.Role(fields[2]), Scopes: scopesOf(fields[3], cuts>>9),
			Token: fields[5], Platform: fields[7], DeviceFamily: fields[8],
		}
		judge(other)
		other.Scopes = signed.Scopes
		judge(other)
		other = signed
		other.Scopes = scopesOf(scopeText, cuts>>9)
		judge(other)
		other = signed
		other.Token, other.Platform, other.DeviceFamily = token+"|"+nonce+"|"+platform, family, ""
		judge(other)
	})
}

// scopesOf cuts a list at some of its commas.
func scopesOf(text string, cuts uint64) []identity.Scope {
	var out []identity.Scope
	from := 0
	for i, c := range []byte(text) {
		if c == ',' && cuts&1 == 0 {
			out, from = append(out, identity.Scope(text[from:i])), i+1
		}
		if c == ',' {
			cuts >>= 1
		}
	}
	if text == "" && cuts&1 == 0 {
		return nil
	}
	return append(out, identity.Scope(text[from:]))
}

// alike reports whether two sets of fields mean the same; version v2 says nothing of the machine.
func alike(a, b identity.Signed, v2 bool) bool {
	return a.ClientID == b.ClientID && a.ClientMode == b.ClientMode && a.Role == b.Role && slices.Equal(a.Scopes, b.Scopes) &&
		a.Token == b.Token && (v2 || identity.NormalMetadata(a.Platform) == identity.NormalMetadata(b.Platform) &&
		identity.NormalMetadata(a.DeviceFamily) == identity.NormalMetadata(b.DeviceFamily))
}

// FuzzEnrollText: what a device signs to enrol means one thing.
func FuzzEnrollText(f *testing.F) {
	f.Add("hzi_a", "id", "linux", "", "hzi_a", "id", "linux", "")
	f.Add("hzi_a", "id", "linux\nmac", "", "hzi_a", "id", "linux", "mac")
	f.Fuzz(func(t *testing.T, s1, d1, p1, f1, s2, d2, p2, f2 string) {
		for _, text := range []string{d1, p1, f1, d2, p2, f2} {
			if strings.Contains(text, "\n") {
				return // refused when enrolling
			}
		}
		same := s1 == s2 && d1 == d2 && p1 == p2 && f1 == f2
		if (identity.EnrollText(s1, d1, p1, f1) == identity.EnrollText(s2, d2, p2, f2)) != same {
			t.Fatalf("%q %q %q %q and %q %q %q %q", s1, d1, p1, f1, s2, d2, p2, f2)
		}
	})
}
