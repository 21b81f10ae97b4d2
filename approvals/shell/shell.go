// Package shell reads a command line or an argv and says what it would run.
package shell

import _ "mvdan.cc/sh/v3/syntax" // the parser
