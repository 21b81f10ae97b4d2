// Package transcript is the format of the files that hold what was said in a session: JSON Lines, session format
// version 3 (sessions-chat.md §2). Line 1 is the header; every other line is an entry of a tree, linked to its parent
// by parentId, and the last entry read is the current leaf.
//
// Reading is tolerant: a line that is not a JSON object is skipped, a line beyond MaxLine is reported without its
// content, unknown types and members stay in Raw. Nothing here panics on any input. Raw bytes are kept as they are,
// except that what is not UTF-8 becomes U+FFFD, as a JavaScript reader would have it.
//
// Functions here are safe for concurrent use; a Scanner is not. Nothing here writes to a file.
package transcript

// Version is the session format that is written.
const Version = 3

const (
	// MaxLine is the longest line whose content is read, in bytes: three images at the limit of what a client may
	// send, in base64, with room to spare.
	MaxLine = 24 << 20

	// MaxPrefix is how much of a longer line is shown, in bytes: enough for the members that come before the
	// content.
	MaxPrefix = 4 << 10

	// maxDepth is how deep values may nest.
	maxDepth = 10_000

	// firstChunk is how much is read at a time from the end of a file, in bytes; it doubles while a line does not fit,
	// up to lastChunk.
	firstChunk = 64 << 10
	lastChunk  = 4 << 20

	// maxHeader is the longest header line, in bytes. It holds paths and ids.
	maxHeader = 64 << 10
)
