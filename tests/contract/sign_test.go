package contract

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// signPayload is the text that a device signs in the handshake (protocol.md §4.5).
func signPayload(version, deviceID string, params *object, signedAt, nonce string) (string, error) {
	client := params.obj("client")
	if client == nil {
		client = newObject()
	}
	role := params.str("role")
	if role == "" {
		role = "operator"
	}
	var scopes []string
	list, _ := params.vals["scopes"].([]any)
	for _, s := range list {
		t, _ := s.(string)
		scopes = append(scopes, t)
	}
	token := ""
	if auth := params.obj("auth"); auth != nil {
		token = auth.str("deviceToken")
		if t, ok := auth.vals["token"].(string); ok { // an empty token wins over a device token
			token = t
		}
	}
	fields := []string{version, deviceID, client.str("id"), client.str("mode"), role,
		strings.Join(scopes, ","), signedAt, token}
	switch version {
	case "v1":
	case "v2":
		fields = append(fields, nonce)
	case "v3":
		fields = append(fields, nonce, plain(client.str("platform")), plain(client.str("deviceFamily")))
	default:
		return "", fmt.Errorf("$sign: version %q is not known", version)
	}
	return strings.Join(fields, "|"), nil
}

// plain trims and lowers A–Z only, as both sides do for the signed platform.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, strings.TrimSpace(s))
}

// sign replaces a {"$sign":…} block in params.device by the signed device block. params is filled
// already; nonce is the one of the connection.
func sign(params *object, nonce string, now time.Time) error {
	block := params.obj("device")
	if block == nil {
		return nil
	}
	order := block.obj("$sign")
	if order == nil {
		return nil
	}
	for _, k := range order.keys {
		switch k {
		case "device", "version", "skewMs", "tamper", "nonce", "override":
		default:
			return fmt.Errorf("$sign: member %q is not known", k)
		}
	}
	d := deviceOf(order.str("device"))
	if n, ok := order.vals["nonce"].(string); ok {
		nonce = n
	} else if nonce == "" {
		return errors.New("$sign: the connection has not received a challenge yet")
	}
	at := now.UnixMilli()
	if n, ok := order.vals["skewMs"].(json.Number); ok {
		skew, err := n.Int64()
		if err != nil {
			return fmt.Errorf("$sign: skewMs: %w", err)
		}
		at += skew
	}
	signedAt := strconv.FormatInt(at, 10)
	text, err := signPayload(order.str("version"), d.id, params, signedAt, nonce)
	if err != nil {
		return err
	}
	switch t := order.vals["tamper"]; t {
	case nil:
	case "signature":
		text += "|tampered"
	default:
		return fmt.Errorf("$sign: tamper %v is not known", t)
	}
	out := newObject()
	out.set("id", d.id)
	out.set("publicKey", d.publicKey)
	out.set("signature", base64.RawURLEncoding.EncodeToString(ed25519.Sign(d.key, []byte(text))))
	out.set("signedAt", json.Number(signedAt))
	out.set("nonce", nonce)
	if o := order.obj("override"); o != nil {
		for _, k := range o.keys {
			out.set(k, o.vals[k])
		}
	}
	params.set("device", out)
	return nil
}
