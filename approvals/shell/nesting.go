package shell

import "strings"

// maxOpeners bounds what may begin something nested in a text that is parsed as a whole. The parser
// recurses on it, and takes a second for 64 KiB of nothing else; a line that people write has a few.
const maxOpeners = 512

// nests reports whether a text has more openers than that.
func nests(text string) bool {
	n := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '(', '`', '{', '[':
			n++
		case 'i', 'w', 'u', 'f', 'c', '!':
			for _, w := range [...]string{"if", "while", "until", "for", "case", "!"} {
				if strings.HasPrefix(text[i:], w) {
					n++
				}
			}
		}
	}
	return n > maxOpeners
}
