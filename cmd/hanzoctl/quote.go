package main

import "github.com/hanzoai/hanzod/client/show"

// Quote, Text and Lines make text of others fit for a terminal: see package show.

func Quote(argv []string) string { return show.Quote(argv) }

func quoteWord(s string, first bool) string { return show.Word(s, first) }

const safe = show.Plain

func Text(s string) string { return show.Text(s) }

func Lines(s string) string { return show.Lines(s) }

func visible(r rune) bool { return show.Visible(r) }
