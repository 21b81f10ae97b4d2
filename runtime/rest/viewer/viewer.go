// Package viewer holds the page that shows a screen in a browser, and noVNC, which it is made with: a pinned release
// (novnc.pin) whose files are unchanged, under the licenses beside them (novnc/LICENSE.txt).
//
// It imports the standard library, does nothing when the program starts, and keeps nothing.
package viewer

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"path"
	"strings"
	"sync"
)

//go:embed signin.html viewer.html viewer.css viewer.js novnc
var files embed.FS

// Page is the page of a screen, and Policy what it may load.
func Page() []byte { return read("viewer.html") }

// Policy is the Content-Security-Policy of Page. Cursors and pictures of a screen are data addresses.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors 'self'"

// SignIn is the page for who shows no credential, whole in itself, and the Content-Security-Policy that lets it run what
// it holds and nothing else.
var SignIn = sync.OnceValues(func() (page []byte, policy string) {
	page = read("signin.html")
	hash := func(tag string) string {
		_, rest, _ := strings.Cut(string(page), "<"+tag+">")
		text, _, _ := strings.Cut(rest, "</"+tag+">")
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return page, "default-src 'none'; script-src " + hash("script") + "; style-src " + hash("style") +
		"; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
})

// types of the files that a page loads.
var types = map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

// File is what Page loads, by its path below the page, with its type.
func File(name string) (data []byte, contentType string, ok bool) {
	switch name {
	case "viewer.css", "viewer.js":
	default:
		if !strings.HasPrefix(name, "novnc/") || path.Clean(name) != name {
			return nil, "", false
		}
		if rest, ok := strings.CutPrefix(name, "novnc/vendor/"); ok {
			name = "novnc/third_party/" + rest // where the modules of Go keep it
		}
	}
	contentType, ok = types[path.Ext(name)]
	if !ok {
		return nil, "", false
	}
	data, err := files.ReadFile(name)
	return data, contentType, err == nil
}

func read(name string) []byte {
	data, err := files.ReadFile(name)
	if err != nil {
		panic("viewer: " + name + " is not embedded") // a fault of the build
	}
	return data
}
