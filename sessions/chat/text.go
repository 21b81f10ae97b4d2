package chat

import (
	"fmt"
	"strings"
)

// stopWords end runs when a message says nothing else (sessions-chat.md §7; frozen).
var stopWords = func() map[string]bool {
	out := map[string]bool{}
	for w := range strings.SplitSeq("stop,esc,abort,wait,exit,interrupt,halt,stopp,pare,detente,deten,detén,arrete,arrête,anhalten,aufhören,hoer auf,"+
		"停止,やめて,止めて,रुको,توقف,стоп,остановись,останови,остановить,прекрати,stop openclaw,openclaw stop,stop action,stop current action,stop run,"+
		"stop current run,stop agent,stop the agent,stop don't do anything,stop dont do anything,stop do not do anything,stop doing anything,"+
		"do not do that,please stop,stop please,/stop", ",") {
		out[w] = true
	}
	return out
}()

// stops reports whether a message asks for nothing but an end.
func stops(text string) bool {
	text = strings.NewReplacer("’", "'", "`", "'").Replace(strings.ToLower(text))
	text = strings.Join(strings.Fields(text), " ")
	return stopWords[strings.TrimSpace(strings.TrimRight(text, ".!?…,，。;；:：'\"’”)]}"))]
}

func anyContent(list []Attachment) bool {
	for _, a := range list {
		if a.Content != "" {
			return true
		}
	}
	return false
}

// checkAttachments demands base64 of a size that is allowed. What has no content is passed over.
func checkAttachments(list []Attachment) error {
	n := 0
	for _, a := range list {
		if a.Content == "" {
			continue
		}
		n++
		label := first(a.FileName, a.Type, fmt.Sprintf("attachment-%d", n))
		data := strings.TrimSpace(a.Content)
		if head, rest, ok := strings.Cut(data, ";base64,"); ok && strings.HasPrefix(head, "data:") && len(head) > len("data:") && !strings.Contains(head, ";") {
			data = rest
		}
		if !isBase64(data) {
			return ErrAttachment.With("what", "attachment "+label+": invalid base64 content")
		}
		if size := len(data)/4*3 - strings.Count(data[len(data)-2:], "="); size > maxAttachment {
			return ErrAttachment.With("what", fmt.Sprintf("attachment %s: exceeds size limit (%d > %d bytes)", label, size, maxAttachment))
		}
	}
	return nil
}

func isBase64(s string) bool {
	if s == "" || len(s)%4 != 0 {
		return false
	}
	body := strings.TrimRight(s, "=")
	if len(s)-len(body) > 2 || body == "" {
		return false
	}
	for i := range len(body) {
		switch c := body[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/':
		default:
			return false
		}
	}
	return true
}
