package sessions

import "github.com/hanzoai/hanzod/errs"

// The errors of this package. Fields name the occurrence.
var (
	ErrKeyRequired = errs.Define(errs.Invalid, "sessions.key_required", "name the session: its key is required")
	ErrKeyTooLong  = errs.Define(errs.Invalid, "sessions.key_too_long", "the key of a session may have 512 bytes at the most, and none may be NUL")
	// ErrWebchat has the field "action".
	ErrWebchat = errs.Define(errs.Denied, "sessions.webchat", "webchat clients cannot change sessions; use chat.send for session-scoped updates")
	// ErrMainSession has the field "key".
	ErrMainSession = errs.Define(errs.Conflict, "sessions.main", "the main session cannot be deleted; reset it instead")
	// ErrActive has the field "key".
	ErrActive = errs.Define(errs.Unavailable, "sessions.active", "the session is still active; try again in a moment")

	ErrChooseOne = errs.Define(errs.Invalid, "sessions.choose_one", "name the session by its key, its id or its label, not by several of them")
	ErrChoose    = errs.Define(errs.Invalid, "sessions.choose", "name the session by its key, its id or its label")
	// ErrNotFound has the field "name".
	ErrNotFound = errs.Define(errs.NotFound, "sessions.not_found", "there is no such session")
	// ErrLabelNotFound has the field "label".
	ErrLabelNotFound = errs.Define(errs.NotFound, "sessions.label_not_found", "no session has that label")
	// ErrManyIDs has the fields "name" and "keys".
	ErrManyIDs = errs.Define(errs.Conflict, "sessions.many_ids", "several sessions have that id; name one by its key")
	// ErrManyLabels has the fields "label" and "keys".
	ErrManyLabels = errs.Define(errs.Conflict, "sessions.many_labels", "several sessions have that label; name one by its key")

	ErrLabelEmpty = errs.Define(errs.Invalid, "sessions.label_empty", "a label has at least one character")
	ErrLabelLong  = errs.Define(errs.Invalid, "sessions.label_long", "a label may have 64 characters at the most")
	// ErrLabelTaken has the field "label".
	ErrLabelTaken = errs.Define(errs.Exists, "sessions.label_taken", "another session has that label")
	// ErrValue has the fields "name", the field of the session, and "use", what it may be.
	ErrValue = errs.Define(errs.Invalid, "sessions.value", "the value is not one of those that the field may have")
	// ErrXHigh has the field "models".
	ErrXHigh = errs.Define(errs.Invalid, "sessions.xhigh", "the model does not think that much")
	// ErrSpawn has the field "name", spawnedBy or spawnDepth, and "why": only, changed, cleared or empty.
	ErrSpawn      = errs.Define(errs.Invalid, "sessions.spawn", "who spawned a session is set once, for sessions of sub-agents only")
	ErrSpawnDepth = errs.Define(errs.Invalid, "sessions.spawn_depth", "spawnDepth is an integer that is not negative")
	ErrExecNode   = errs.Define(errs.Invalid, "sessions.exec_node", "execNode is empty")
	ErrModelEmpty = errs.Define(errs.Invalid, "sessions.model_empty", "name a model as provider/name")
	// ErrModel has the field "model".
	ErrModel = errs.Define(errs.Invalid, "sessions.model", "that is no model; name it as provider/name")
	// ErrModelNotAllowed has the field "model".
	ErrModelNotAllowed = errs.Define(errs.Invalid, "sessions.model_not_allowed", "the model is not among agents.defaults.models; add it there first")
	ErrModels          = errs.Define(errs.Unavailable, "sessions.models", "the models are not known yet; try again later")

	ErrNoSession = errs.Define(errs.NotFound, "sessions.none", "there is no such session; it begins with its first message")
	// ErrTranscript has the cause in "cause".
	ErrTranscript = errs.Define(errs.Unavailable, "sessions.transcript", "the transcript could not be written")
	ErrText       = errs.Define(errs.Invalid, "sessions.text", "the message is empty")
	ErrTextLong   = errs.Define(errs.Invalid, "sessions.text_long", "a message may have 8 MiB and its label 100 characters at the most")
	ErrTooMany    = errs.Define(errs.Exhausted, "sessions.too_many", "there are 100,000 sessions; delete some first, or let session.maintenance do it")

	// ErrFileName is a transcript with a name that is no plain file name.
	ErrFileName = errs.Define(errs.Invalid, "sessions.file_name", "the id of a session has letters, digits, dots, dashes and underscores only")
	// ErrNotRegular is a transcript, or one of its directories, that is a link or something else; it has the field "path".
	ErrNotRegular = errs.Define(errs.Conflict, "sessions.not_regular", "the transcript is not a regular file; remove what is in its place")
	// ErrLine is a line that holds a line feed, or none at all.
	ErrLine = errs.Define(errs.Invalid, "sessions.line", "a line of a transcript is not empty and holds no line feed")
	// ErrMove is a change that holds while its transcript could not be put aside.
	ErrMove = errs.Define(errs.Unavailable, "sessions.move", "the session was changed, but its transcript could not be put aside; that happens at the next start")
)
