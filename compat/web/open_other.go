//go:build !unix

package web

const openNonblock = 0
