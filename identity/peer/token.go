package peer

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// TakeToken takes the token out of a request, so that it goes no further: out of Authorization, as Bearer or as
// the password of Basic, else out of the query as token (tunnel.md §1.2). Two headers, and other schemes, are none;
// presented says that there was something all the same.
func TakeToken(r *http.Request) (token string, presented bool) {
	values := r.Header["Authorization"]
	query := r.URL.Query().Get("token")
	r.Header.Del("Authorization")
	r.URL.RawQuery, r.RequestURI = "", r.URL.EscapedPath()
	if len(values) == 0 {
		return query, query != ""
	}
	if len(values) > 1 {
		return "", true
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	text = strings.TrimSpace(text)
	switch {
	case strings.EqualFold(scheme, "bearer"):
		return text, true
	case strings.EqualFold(scheme, "basic"):
		plain, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return "", true
		}
		_, password, _ := strings.Cut(string(plain), ":")
		return password, true
	}
	return "", true
}
