// Package checkpoint saves what an agent has done and where: its conversation, its commands and the git
// workspace it worked in, as a document with attachments beside it, and makes a workspace out of them again
// (tunnel.md §1.9, §1.10, §7).
//
// It knows no door and no store. Git is run as a program, with nothing of the workspace deciding what else runs.
//
// # The document
//
// A checkpoint is one JSON object, version 1, as the agent bridge writes it: two-space indent, the members in the
// order of Document, everything outside ASCII escaped, no newline at the end. Its key is
// "<instance id>/<checkpoint id>.json", its id "YYYYMMDDTHHMMSSZ-" and eight hex digits, its URL
// "s3://<bucket>/<key>". What version 1 has no place for is in one more member, "hanzo", which the bridge ignores,
// and in attachments: objects of their own under "<instance id>/<checkpoint id>.d/<name>". "hanzo" holds the size
// and SHA-256 of each.
//
//	base.bundle      git bundle of the branches and stashes here, without what the remote has
//	staged.diff      git diff --cached --binary --full-index against HEAD
//	unstaged.diff    git diff --binary --full-index of the work tree against the index
//	files.tar.gz     the files of the work tree that differ from what a checkout gives, and those that git does
//	                 not know and does not ignore, as they are; or the whole directory where there is no repository
//
// workspace.git_diff is git diff --binary HEAD with its last newline, so that the bridge can apply it, as long as it
// has at most 8192 characters; a longer one is cut as the bridge cuts it and is whole in the attachments.
//
// As one stream a checkpoint is a tar: checkpoint.json first, then the attachments in the order of "hanzo"
// (WritePack, ReadPack).
package checkpoint
