package runtime

// Version is the release of hanzod. Clients of the legacy door see it as the server's version.
//
// It is a variable so that a build can set it.
var Version = "0.1.0"
