package bindings

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// tokenParam is the parameter that a browser brings a token with, once; cookiePrefix with the ID of the
	// binding is the cookie that it gets for it.
	tokenParam   = "hanzo_token"
	cookiePrefix = "hanzo_exposed_"
	// minSecret and maxSecret bound a chosen token in bytes, cookieAge is how long a cookie counts, in seconds.
	minSecret = 16
	maxSecret = 256
	cookieAge = 12 * 60 * 60
)

// secret makes a token, or checks a chosen one. Nothing is made for another access.
func secret(a Access, chosen string) (string, error) {
	switch {
	case a != Public && a != Token && a != Operator:
		return "", ErrAccess
	case a != Token:
		return "", nil
	case chosen == "":
		return rand.Text() + rand.Text(), nil
	case len(chosen) < minSecret || len(chosen) > maxSecret || strings.ContainsFunc(chosen, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", ErrAccess
	}
	return chosen, nil
}

func (b *bound) cookie() string { return cookiePrefix + b.ID }

// admitted lets a visitor in or answers. What let it in is taken out of the request.
func (b *bound) admitted(w http.ResponseWriter, r *http.Request, prefix string) bool {
	switch b.Access {
	case Public:
		return true
	case Operator:
		if b.s.cfg.Authenticate != nil {
			c, err := b.s.cfg.Authenticate(r)
			if err == nil && c.Role == identity.RoleOperator && c.Has(identity.ScopeRead) && visible(c, b.Binding) {
				r.Header.Del("Authorization")
				return true
			}
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="hanzod"`)
		problem(w, http.StatusUnauthorized, "unauthenticated", "this is for operators of the gateway: send a bearer token that may read")
		return false
	}
	if b.tokened(w, r, prefix) {
		return false
	}
	if b.shown(r) {
		return true
	}
	w.Header().Add("WWW-Authenticate", `Basic realm="hanzod exposure", charset="UTF-8"`)
	w.Header().Add("WWW-Authenticate", `Bearer realm="hanzod exposure"`)
	problem(w, http.StatusUnauthorized, "unauthenticated", "this needs the token of the binding: as a bearer token, as the password of basic authentication, or once as the parameter "+tokenParam)
	return false
}

func (b *bound) is(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], b.secret[:]) == 1
}

// shown looks for the token in the headers and takes it out of them.
func (b *bound) shown(r *http.Request) bool {
	kind, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	value = strings.TrimSpace(value)
	switch strings.ToLower(kind) {
	case "bearer":
	case "basic":
		plain, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			value = ""
			break
		}
		_, value, _ = strings.Cut(string(plain), ":")
	default:
		value = ""
	}
	if value != "" && b.is(value) {
		r.Header.Del("Authorization")
		return true
	}
	c, err := r.Cookie(b.cookie())
	return err == nil && b.is(c.Value)
}

// tokened takes a token out of the query of a browser into a cookie, with an answer that leads to the same place
// without it. A wrong one is refused where it is: no visitor is led round in a circle.
func (b *bound) tokened(w http.ResponseWriter, r *http.Request, prefix string) bool {
	if !strings.Contains(r.URL.RawQuery, tokenParam+"=") {
		return false
	}
	var token string
	kept := make([]string, 0, 4)
	for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name != tokenParam {
			kept = append(kept, part)
			continue
		}
		if plain, err := url.QueryUnescape(value); err == nil {
			token = plain
		}
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	if token == "" || !b.is(token) {
		problem(w, http.StatusUnauthorized, "unauthenticated", "that is not the token of the binding")
		return true
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		problem(w, http.StatusBadRequest, "invalid", "the parameter "+tokenParam+" is for opening a page; send the token as a bearer token")
		return true
	}
	secure := b.s.proto(r) == "https"
	c := &http.Cookie{Name: b.cookie(), Value: token, Path: prefix + "/", MaxAge: cookieAge, HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode} //nolint:gosec // Secure where the visitor comes by https
	if secure && prefix != "" {
		c.SameSite = http.SameSiteNoneMode // a sandboxed page is another site than its own parts
	}
	http.SetCookie(w, c)
	there := r.URL.EscapedPath()
	if len(kept) > 0 {
		there += "?" + strings.Join(kept, "&")
	}
	if strings.HasPrefix(there, "//") || strings.HasPrefix(there, "/\\") {
		there = "/" // it would lead to another host
	}
	h.Set("Location", there)
	w.WriteHeader(http.StatusSeeOther)
	return true
}

// strip takes cookies out of a request: all of them, or those of bindings.
func strip(h http.Header, all bool) {
	lines := h["Cookie"]
	if len(lines) == 0 {
		return
	}
	if all {
		delete(h, "Cookie")
		return
	}
	found := false
	for _, line := range lines {
		found = found || strings.Contains(line, cookiePrefix)
	}
	if !found {
		return
	}
	var kept []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ";") {
			if part = strings.TrimSpace(part); part != "" && !strings.HasPrefix(part, cookiePrefix) {
				kept = append(kept, part)
			}
		}
	}
	delete(h, "Cookie")
	if len(kept) > 0 {
		h["Cookie"] = []string{strings.Join(kept, "; ")}
	}
}
