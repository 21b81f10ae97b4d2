// Package sshtest gives tests a real OpenSSH server on loopback: host keys, an authorized key and a home
// directory of its own, in a directory of its own.
//
// It serves each connection with "sshd -i", so that a test holds the listener and the processes: it can cut
// connections, stop them without a word and count them. It needs the program sshd (Debian: openssh-server)
// and runs as root or as an ordinary user, who can then log in as nobody but himself. Tests are skipped,
// with the reason, where there is no sshd that runs.
//
// A Server owns its goroutines and processes and ends them with the test.
package sshtest
