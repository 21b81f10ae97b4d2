package runtime

// Version is the release of hanzod. Clients of the legacy door see it as the server's version.
const Version = "0.1.0"
