package sessions

import (
	"context"
	"strings"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/identity"
)

// maxLabel is the longest label in UTF-16 units (frozen).
const maxLabel = 64

// ResolveIn names a session in one of three ways.
type ResolveIn struct {
	Key, SessionID, Label         string
	AgentID, SpawnedBy            string
	IncludeGlobal, IncludeUnknown bool
}

// Resolve finds the canonical key of a session (sessions-chat.md §3).
func (s *Service) Resolve(_ context.Context, _ identity.Caller, in ResolveIn) (string, error) {
	key, id := strings.TrimSpace(in.Key), strings.TrimSpace(in.SessionID)
	named := 0
	for _, n := range []string{key, id, strings.TrimSpace(in.Label)} {
		if n != "" {
			named++
		}
	}
	switch {
	case named > 1:
		return "", ErrChooseOne
	case named == 0:
		return "", ErrChoose
	case key != "":
		r, _, ok := s.Lookup(key)
		if !ok {
			return "", ErrNotFound.With("name", key)
		}
		return r.Key, nil
	}
	list := ListIn{AgentID: in.AgentID, SpawnedBy: in.SpawnedBy, IncludeGlobal: in.IncludeGlobal, IncludeUnknown: in.IncludeUnknown}
	var keys []string
	if id != "" {
		// The original looks at the eight newest that hold the text.
		list.Text, list.Limit = id, 8
		for _, row := range s.match(list, s.now()) {
			if row.Entry.SessionID == id || row.Ref.Key == id {
				keys = append(keys, row.Ref.Key)
			}
		}
		switch len(keys) {
		case 0:
			return "", ErrNotFound.With("name", id)
		case 1:
			return keys[0], nil
		}
		return "", ErrManyIDs.With("name", id, "keys", strings.Join(keys, ", "))
	}
	label, err := checkLabel(in.Label)
	if err != nil {
		return "", err
	}
	list.Label, list.Limit = label, 2
	for _, row := range s.match(list, s.now()) {
		keys = append(keys, row.Ref.Key)
	}
	switch len(keys) {
	case 0:
		return "", ErrLabelNotFound.With("label", label)
	case 1:
		return keys[0], nil
	}
	return "", ErrManyLabels.With("label", label, "keys", strings.Join(keys, ", "))
}

// checkLabel trims a label.
func checkLabel(s string) (string, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", ErrLabelEmpty
	case len(utf16.Encode([]rune(s))) > maxLabel:
		return "", ErrLabelLong
	}
	return s, nil
}
