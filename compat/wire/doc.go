// Package wire is the kit for the legacy JSON dialect: reading, writing and re-writing JSON the way a JavaScript
// peer does, the field types whose absent, null and value states differ, and the request, response and event frames
// (protocol.md §2).
//
// The dialect matters because text produced here travels inside strings (paramsJSON) and inside hashes (the approval
// environment binding), where one different byte is a different answer.
//
// It imports the standard library only, starts no goroutines and keeps no state apart from a cache of struct layouts.
package wire
