// Package answer reads what nodes answer to session.* and status.get (tunnel.md §1.5, §1.10), and the facts that the
// daemon keeps beside documents, as JSON.
package answer

import (
	"bytes"
	"encoding/json"
	"errors"
)

// errShape is JSON that is not what it should be.
var errShape = errors.New("not the answer of this command")

// Checkpoint is the answer to session.checkpoint.
type Checkpoint struct {
	ID    string `json:"checkpoint_id"`
	URL   string `json:"checkpoint_url"`
	Key   string `json:"key"`
	Stats Stats  `json:"session_stats"`
}

// Stats count what a session holds.
type Stats struct {
	Conversation int `json:"conversation_count"`
	Commands     int `json:"command_count"`
	Scrollback   int `json:"scrollback_count"`
}

// ReadCheckpoint reads one, which has an URL or a key.
func ReadCheckpoint(raw []byte) (a Checkpoint, err error) {
	if err = json.Unmarshal(raw, &a); err == nil && a.URL == "" && a.Key == "" {
		err = errShape
	}
	return a, err
}

// Restore is the answer to session.restore and session.apply.
type Restore struct {
	From      string `json:"restored_from"`
	Platform  string `json:"source_platform"`
	ID        string `json:"checkpoint_id"`
	Timestamp string `json:"timestamp"`
	Stats
	Git   *Git   `json:"git_restore"`
	Steps []Step `json:"steps"`
	// OK is nil when the node does not say it.
	OK *bool `json:"ok"`
}

// Git is what the bridge says of the workspace.
type Git struct {
	Clone string  `json:"clone"`
	Apply *string `json:"apply_diff"`
}

// Step is what a node of ours says of it.
type Step struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail"`
}

// ReadRestore reads one.
func ReadRestore(raw []byte) (a Restore, err error) {
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return a, errShape
	}
	err = json.Unmarshal(raw, &a)
	return a, err
}

// Status is the part of the answer to status.get that a migration shows.
type Status struct {
	Status  string `json:"status"`
	Session Stats  `json:"session"`
}

// ReadStatus reads one.
func ReadStatus(raw []byte) (a Status, err error) {
	err = json.Unmarshal(raw, &a)
	return a, err
}

// RestoreParams are the parameters of session.restore.
func RestoreParams(url string) []byte { return marshal(map[string]string{"checkpoint_url": url}) }

// ApplyParams are the parameters of session.apply.
func ApplyParams(force, dryRun bool) []byte {
	return marshal(map[string]bool{"force": force, "dryRun": dryRun})
}

// Meta is what the daemon keeps beside a document that it stored in clear.
type Meta struct {
	Format int    `json:"format"`
	SHA256 string `json:"sha256"` // of the document
	Owner  string `json:"owner,omitempty"`
}

// Marshal writes it.
func (m Meta) Marshal() []byte { return append(marshal(m), '\n') }

// ReadMeta reads it.
func ReadMeta(raw []byte) (m Meta, err error) {
	if err = json.Unmarshal(raw, &m); err == nil && (m.Format != 1 || len(m.SHA256) != 64) {
		err = errShape
	}
	return m, err
}

func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers and switches
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
