// Package docs writes what a package of hanzod brings beside the programs: man pages and completions for
// shells, from the commands themselves. The programs do not link it; builds with the tag "docs" do.
//
// It imports nothing of ours and owns no goroutine.
package docs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// Date is the time that pages bear: SOURCE_DATE_EPOCH, seconds since 1970, so that the same source gives
// the same pages.
func Date(getenv func(string) string) (time.Time, error) {
	text := getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, errors.New("set SOURCE_DATE_EPOCH to the time of the source, in seconds since 1970")
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// Write writes the man pages of root and its commands to man/ in dir, and the completions to completions/.
// It changes the texts of root, which is not to be run any more.
func Write(root *cobra.Command, dir, version string, date time.Time) error {
	if err := completions(root, filepath.Join(dir, "completions")); err != nil {
		return err
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	escape(root)
	pages := filepath.Join(dir, "man")
	if err := os.MkdirAll(pages, 0o755); err != nil {
		return err
	}
	page := func(c *cobra.Command, section, synopsis string) error {
		var b bytes.Buffer
		h := &doc.GenManHeader{Section: section, Date: &date, Source: root.Name() + " " + version, Manual: "Hanzo"}
		if err := doc.GenMan(c, h, &b); err != nil {
			return err
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + "." + section
		return os.WriteFile(filepath.Join(pages, name), []byte(tidy(b.String(), date, synopsis)), 0o644)
	}
	var commands func(c *cobra.Command) error
	commands = func(c *cobra.Command) error {
		if err := page(c, "1", ""); err != nil {
			return err
		}
		for _, sub := range c.Commands() {
			if !sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand() {
				continue
			}
			if err := commands(sub); err != nil {
				return err
			}
		}
		return nil
	}
	if err := commands(root); err != nil {
		return err
	}
	for _, c := range root.Commands() {
		if !c.IsAdditionalHelpTopicCommand() {
			continue
		}
		if err := page(c, "7", root.Name()+" help "+c.Name()); err != nil {
			return err
		}
	}
	return nil
}

// tidy makes a page of the library into one that formatters do not complain about: a full date, flags as a
// list, no blank lines. synopsis takes the place of the usage when it is not empty.
func tidy(page string, date time.Time, synopsis string) string {
	var out []string
	verbatim, usage, flags := false, false, false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		last := len(out) - 1
		switch {
		case strings.HasPrefix(line, ".SH "):
			flags = strings.HasPrefix(line, ".SH OPTIONS")
		}
		switch {
		case flags && synopsis != "":
			continue // a topic has none
		case line == ".EX" || line == ".EE":
			verbatim = line == ".EX"
		case verbatim:
		case line == "":
			continue
		case strings.HasPrefix(line, ".TH "):
			line = strings.Replace(line, date.Format(`"Jan 2006"`), date.Format(`"2006-01-02"`), 1)
		case usage && synopsis != "":
			line = `\fB` + synopsis + `\fP`
		case strings.HasPrefix(line, "\t") && last > 0 && strings.HasPrefix(out[last], `\fB-`):
			flag := out[last]
			if out[last-1] == ".PP" {
				out = out[:last-1]
			} else {
				out = out[:last]
			}
			out = append(out, ".TP", flag)
			line = line[1:]
		}
		if synopsis != "" && strings.HasPrefix(line, `\fB`) {
			line = strings.ReplaceAll(line, "(7)", "(1)") // its parent is a command
		}
		usage = line == ".SH SYNOPSIS"
		out = append(out, line)
	}
	return strings.Join(out, "\n") + "\n"
}

// completions writes what bash, zsh, fish and PowerShell load.
func completions(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := root.Name()
	return errors.Join(
		root.GenBashCompletionFileV2(filepath.Join(dir, name+".bash"), true),
		root.GenZshCompletionFile(filepath.Join(dir, "_"+name)),
		root.GenFishCompletionFile(filepath.Join(dir, name+".fish"), true),
		root.GenPowerShellCompletionFileWithDesc(filepath.Join(dir, name+".ps1")),
	)
}

// special are the characters that mean something in Markdown, which is what the pages are made from.
var special = regexp.MustCompile("[\\\\`*_<>\\[\\]#]")

func plain(text string) string { return special.ReplaceAllString(text, `\$0`) }

// escape makes texts that people read on a terminal into such that come out the same in a page: what is
// indented stays as it stands.
func escape(c *cobra.Command) {
	c.Short = plain(c.Short)
	c.Long = blocks(c.Long)
	for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) {
			if f.Annotations["docs"] != nil {
				return
			}
			f.Usage = plain(f.Usage)
			f.Annotations = map[string][]string{"docs": {"escaped"}}
		})
	}
	for _, sub := range c.Commands() {
		escape(sub)
	}
}

// blocks escapes a text, and leaves what is indented to stand as it is.
func blocks(text string) string {
	var b strings.Builder
	was := true // whether the line before was indented or empty
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, "\n")
		switch {
		case bare == "":
			b.WriteString("\n")
			was = true
		case strings.HasPrefix(bare, "  "), strings.HasPrefix(bare, "\t"):
			if !was {
				b.WriteString("\n")
			}
			b.WriteString("    " + strings.Replace(line, "\t", "  ", 1))
			was = true
		default:
			b.WriteString(plain(line))
			was = false
		}
	}
	return b.String()
}
