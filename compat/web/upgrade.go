package web

import (
	"net/http"
	"strings"
)

// Upgrading reports whether a request asks for another protocol: the header Upgrade counts only where
// Connection names it. The offer to go on in HTTP/2, which some clients make with every request, may
// be ignored and is.
func Upgrading(r *http.Request) bool {
	offered := r.Header.Get("Upgrade")
	if offered == "" || strings.EqualFold(strings.TrimSpace(offered), "h2c") {
		return false
	}
	for _, v := range r.Header["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// CheckUpgrade refuses what is no proper request for a WebSocket, in the order and words of the
// original (protocol.md §1.2). It prepares what is left for the library: version 8 has the frames of
// version 13.
func CheckUpgrade(rw http.ResponseWriter, r *http.Request) bool {
	version := single(r, "Sec-Websocket-Version")
	switch {
	case r.Method != http.MethodGet:
		return badUpgrade(rw, http.StatusMethodNotAllowed, "Invalid HTTP method")
	case !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		return badUpgrade(rw, http.StatusBadRequest, "Invalid Upgrade header")
	case !properKey(single(r, "Sec-Websocket-Key")):
		return badUpgrade(rw, http.StatusBadRequest, "Missing or invalid Sec-WebSocket-Key header")
	case version != "13" && version != "8":
		rw.Header().Set("Sec-WebSocket-Version", "13, 8")
		return badUpgrade(rw, http.StatusBadRequest, "Missing or invalid Sec-WebSocket-Version header")
	case !properProtocols(r.Header["Sec-Websocket-Protocol"]):
		return badUpgrade(rw, http.StatusBadRequest, "Invalid Sec-WebSocket-Protocol header")
	case r.ContentLength != 0:
		return badUpgrade(rw, http.StatusBadRequest, "An upgrade has no body")
	}
	// That version names the origin of a web page so.
	if old, ok := r.Header["Sec-Websocket-Origin"]; ok && version == "8" && r.Header["Origin"] == nil {
		r.Header["Origin"] = old
	}
	// What was checked is what the library reads.
	r.Header["Sec-Websocket-Version"] = []string{"13"}
	r.Header["Sec-Websocket-Key"] = []string{single(r, "Sec-Websocket-Key")}
	return true
}

// single is the value of a header that came once.
func single(r *http.Request, name string) string {
	if v := r.Header[name]; len(v) == 1 {
		return strings.TrimSpace(v[0])
	}
	return ""
}

// properKey reports whether a key is sixteen bytes in base64.
func properKey(key string) bool {
	if len(key) != 24 || !strings.HasSuffix(key, "==") {
		return false
	}
	for _, c := range []byte(key[:22]) {
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/':
		default:
			return false
		}
	}
	return true
}

// properProtocols reports whether the offered protocols are tokens, each once.
func properProtocols(lines []string) bool {
	if len(lines) == 0 {
		return true
	}
	seen := map[string]bool{}
	for name := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name = strings.Trim(name, " \t")
		if name == "" || seen[name] || strings.ContainsFunc(name, notToken) {
			return false
		}
		seen[name] = true
	}
	return true
}

// notToken reports whether a character has no place in a token of HTTP.
func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

func badUpgrade(rw http.ResponseWriter, status int, why string) bool {
	rw.Header()["Content-Type"] = []string{"text/html"}
	rw.Header().Set("Connection", "close")
	rw.WriteHeader(status)
	_, _ = rw.Write([]byte(why))
	return false
}

// RefuseUpgrade ends an upgrade without a word, as the original does where the path is malformed.
func RefuseUpgrade(rw http.ResponseWriter) {
	rw.Header().Set("Connection", "close")
	rw.WriteHeader(http.StatusUnauthorized)
}
