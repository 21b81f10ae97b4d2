// Package link holds node hosts to one behaviour over every link that they may have to a daemon. Its
// tests need a Unix system: they run shell commands.
package link
