package shell

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// How a line is read (nodes-approvals.md §3.5).
//
// The parser says where words, quotes, operators and here-documents begin and end. The allow-list reads
// everything else as plain words: a keyword, an assignment, a variable, a comment are words like any
// other, because Enforced runs them as such. So the parser is given a copy of the line in which the
// characters that would make something else of them are replaced, one byte by one byte; words are then
// cut out of the line itself, at the places the parser found. In that copy there is nothing left that
// nests, so no input makes the parser recurse.
//
// What is neither a word nor an operator that the allow-list knows (a redirection, a substitution, a
// group, a line end) is a word in the copy too. It is found when the word is cut out, and fails the part
// of the chain that it stands in.

// maxBars bounds the bars, ampersands and semicolons of a line, because the parser recurses on them.
const maxBars = 8192

// maxHeredocs bounds the here-documents of a line, which is parsed again for them.
const maxHeredocs = 256

// A piece is one part of the chain.
type piece struct {
	reason string // why it is not understood
	segs   []Segment
}

// linePool keeps parsers and their buffers.
var linePool = sync.Pool{New: func() any {
	return &lineParser{parser: syntax.NewParser(syntax.Variant(syntax.LangPOSIX))}
}}

type lineParser struct {
	parser *syntax.Parser
	src    bytes.Reader
	copy   []byte
	atoms  []atom
	quote  string // what an open quote began with
}

// leaf is one simple command of a tree.
type leaf struct {
	op       string // before it
	from, to int    // its text, without the operators
	stmt     *syntax.Stmt
}

// readLine splits a line into pieces. A reason is a failure of the whole.
func readLine(text string) (pieces []piece, exact, heredoc bool, reason string) {
	switch {
	case len(text) > MaxText:
		return nil, false, false, "the command line is too long"
	case !utf8.ValidString(text):
		return nil, false, false, "invalid UTF-8"
	case trim(text) == "":
		return nil, false, false, "empty command"
	case continues(text):
		return nil, false, false, "line continuation"
	case strings.Count(text, "|")+strings.Count(text, "&")+strings.Count(text, ";") > maxBars:
		return nil, false, false, "too many commands"
	case strings.Count(text, "<<") > maxHeredocs:
		return nil, false, false, "too many here-documents"
	}
	p := linePool.Get().(*lineParser)
	defer linePool.Put(p)

	// White space around the parts of a chain is none of theirs, but where there is no chain a line end
	// is part of the one command.
	inner := trim(text)
	leaves, open, reason := p.chain(inner)
	chained := slices.ContainsFunc(leaves, func(l leaf) bool { return l.op != "" && l.op != "|" })
	if reason != "" {
		return nil, false, false, reason
	}
	if startsHeredoc(inner) {
		return p.heredocs(text, inner, leaves, chained), false, true, ""
	}
	if i := strings.Index(text, inner); !chained && (strings.ContainsAny(text[:i], "\n\r") || strings.ContainsAny(text[i+len(inner):], "\n\r")) {
		return nil, false, false, "unsupported shell token: newline"
	}
	exact = !strings.ContainsFunc(text, odd) && !strings.Contains(text, "|||")
	lines := strings.Count(text, "\n") // outside of words
	for i, l := range leaves {
		if l.op != "|" {
			pieces = append(pieces, piece{})
		}
		last := &pieces[len(pieces)-1]
		if last.reason != "" {
			continue
		}
		if i >= open {
			last.reason, last.segs = openEnd, nil
			continue
		}
		seg, ok, why := p.segment(inner, l)
		if why != "" {
			last.reason, last.segs = why, nil
			continue
		}
		last.segs = append(last.segs, seg)
		exact = exact && ok
		for _, w := range seg.Argv {
			lines -= strings.Count(w, "\n")
		}
	}
	return pieces, exact && lines == 0, false, ""
}

// chain parses a text without here-documents. The leaves from open on stand in a last part that does not
// end: those before it are judged by themselves.
func (p *lineParser) chain(text string) (leaves []leaf, open int, reason string) {
	leaves, reason = p.parse(text, false)
	open = len(leaves)
	end := ""
	switch {
	case reason == openEnd:
		end = p.quote
		if end == `"` && (len(text)-len(strings.TrimRight(text, `\`)))%2 == 1 {
			end = `""`
		}
	case reason != "" && (len(text)-len(strings.TrimRight(text, "|")))%2 == 1:
		end = " %"
	default:
		return leaves, open, reason
	}
	var why string
	if leaves, why = p.parse(text+end, false); why != "" {
		return nil, 0, reason
	}
	open = len(leaves) - 1
	for open > 0 && leaves[open].op == "|" {
		open--
	}
	leaves[len(leaves)-1].to = len(text)
	return leaves, open, ""
}

// heredocs reads a line that has here-documents. The chain is split without knowing of them; each of its parts
// then has its own. A line without a chain is one part.
func (p *lineParser) heredocs(text, inner string, leaves []leaf, chained bool) []piece {
	parts := []leaf{{}}
	texts := []string{text}
	if chained {
		parts, texts = parts[:0], texts[:0]
		for i, l := range leaves {
			if l.op == "|" {
				continue
			}
			to := l.to
			for j := i + 1; j < len(leaves) && leaves[j].op == "|"; j++ {
				to = leaves[j].to
			}
			parts, texts = append(parts, l), append(texts, trim(inner[l.from:to]))
		}
	}
	var pieces []piece
	for i, part := range parts {
		segs, why := p.withHeredocs(texts[i])
		if len(segs) > 0 {
			segs[0].Op = part.op
		}
		pieces = append(pieces, piece{segs: segs, reason: why})
	}
	return pieces
}

// withHeredocs reads one part of a chain that may have here-documents.
func (p *lineParser) withHeredocs(text string) ([]Segment, string) {
	bodies := startsHeredoc(text)
	leaves, reason := p.parse(text, bodies)
	if reason != "" {
		return nil, reason
	}
	var segs []Segment
	end := 0
	for i := range leaves {
		l := &leaves[i]
		if i > 0 && l.op != "|" {
			return nil, "unsupported shell token: " + l.op
		}
		atoms, why := p.cut(text, l.stmt)
		if why != "" {
			return nil, why
		}
		for _, a := range atoms {
			if strings.ContainsAny(text[end:a.from], "\n\r") {
				return nil, "unsupported shell token: newline"
			}
			end = a.to
		}
		if bodies && i == len(leaves)-1 {
			if why := afterHeredocs(text, end, leaves); why != "" {
				return nil, why
			}
			l.to = end
		}
		seg, _, why := p.segment(text, *l)
		if why != "" {
			return nil, why
		}
		segs = append(segs, seg)
	}
	return segs, ""
}

// afterHeredocs judges the here-documents of a part whose words end at end.
func afterHeredocs(text string, end int, leaves []leaf) string {
	var last *syntax.Redirect
	for _, l := range leaves {
		for _, r := range l.stmt.Redirs {
			last = r
			if why := judgeHeredoc(text, r); why != "" {
				return why
			}
		}
	}
	if last == nil {
		if strings.ContainsAny(text[end:], "\n\r") {
			return "unsupported shell token: newline"
		}
		return ""
	}
	// A real shell and this one must agree on where the last body ends, and nothing may follow it.
	tail := strings.TrimSuffix(strings.TrimSuffix(text[end:], "\n"), "\r")
	tail = strings.TrimSuffix(tail[strings.LastIndexByte(tail, '\n')+1:], "\r")
	if last.Op == syntax.DashHdoc {
		tail = strings.TrimLeft(tail, "\t")
	}
	if delim, _, ok := delimiter(text, last.Word); !ok || delim != tail {
		return "text after a here-document"
	}
	return ""
}

// judgeHeredoc refuses a here-document whose delimiter shells read in different ways, and one whose
// body runs something.
func judgeHeredoc(text string, r *syntax.Redirect) string {
	_, quoted, ok := delimiter(text, r.Word)
	switch {
	case !ok:
		return "the delimiter of a here-document is partly quoted"
	case quoted || r.Hdoc == nil:
		return ""
	}
	body := text[offset(r.Hdoc.Pos()):max(offset(r.Hdoc.Pos()), min(offset(r.Hdoc.End()), len(text)))]
	if substitutes(body, "({") {
		return "command substitution in unquoted heredoc"
	}
	return ""
}

// delimiter returns the delimiter of a here-document: wholly quoted, or not at all.
func delimiter(text string, w *syntax.Word) (delim string, quoted, ok bool) {
	if w == nil || len(w.Parts) != 1 {
		return "", false, false
	}
	src := strings.TrimSuffix(text[offset(w.Pos()):offset(w.End())], "\r") // the parser counts it to the word before
	switch w.Parts[0].(type) {
	case *syntax.SglQuoted, *syntax.DblQuoted:
		delim, quoted = src[1:len(src)-1], true
		if strings.ContainsAny(delim, "\n\r") {
			return "", false, false
		}
	default:
		delim = src
	}
	return delim, quoted, delim != "" && !strings.ContainsAny(delim, "\\\"'()<>`")
}

// parse reads the copy of a text and returns its simple commands in order.
func (p *lineParser) parse(text string, heredocs bool) ([]leaf, string) {
	var ok bool
	if p.copy, ok = flat(p.copy[:0], text, heredocs); !ok {
		return nil, "unsupported characters beside a here-document"
	}
	p.src.Reset(p.copy)
	file, err := p.parser.Parse(&p.src, "")
	if err != nil {
		reason := parseReason(err)
		if p.quote = "'"; strings.Contains(err.Error(), `"`) {
			p.quote = `"`
		}
		return nil, reason
	}
	if len(file.Stmts) == 0 || len(file.Last) > 0 {
		return nil, "empty command"
	}
	var leaves []leaf
	from, op := 0, ""
	for i, s := range file.Stmts {
		var why string
		if leaves, why = flatten(leaves, text, s, op, from); why != "" {
			return nil, why
		}
		last := &leaves[len(leaves)-1]
		switch end := s.Semicolon; {
		case end.IsValid() && i < len(file.Stmts)-1:
			last.to = offset(end)
			from, op = last.to+1, ";"
		case end.IsValid():
			return nil, "unsupported shell token: ;"
		case i < len(file.Stmts)-1:
			return nil, "unsupported shell token: newline"
		default:
			last.to = len(text)
		}
		if len(leaves) > MaxSegments {
			return nil, "too many commands"
		}
	}
	return leaves, ""
}

// flatten appends the simple commands of a statement. Whatever is no simple command, and no list or
// pipeline of them, fails.
func flatten(out []leaf, text string, s *syntax.Stmt, op string, from int) ([]leaf, string) {
	if s.Negated || s.Background || s.Coprocess || s.Disown {
		return nil, "unsupported shell syntax"
	}
	switch cmd := s.Cmd.(type) {
	case nil:
	case *syntax.CallExpr:
		if len(cmd.Assigns) > 0 {
			return nil, "unsupported shell syntax"
		}
	case *syntax.BinaryCmd:
		if len(s.Redirs) > 0 || len(out) > MaxSegments {
			return nil, "unsupported shell syntax"
		}
		out, why := flatten(out, text, cmd.X, op, from)
		if why != "" {
			return nil, why
		}
		switch cmd.Op {
		case syntax.AndStmt, syntax.OrStmt, syntax.Pipe:
		default:
			return nil, "unsupported shell token: " + cmd.Op.String()
		}
		at := offset(cmd.OpPos)
		out[len(out)-1].to = at
		at += len(cmd.Op.String())
		if text[at] == '|' { // `a ||| b`: the empty pipeline part vanishes
			at++
		}
		return flatten(out, text, cmd.Y, cmd.Op.String(), at)
	default:
		return nil, "unsupported shell syntax"
	}
	return append(out, leaf{op: op, from: from, stmt: s}), ""
}

// segment cuts the words of a simple command out of the text. exact says that a shell runs the same.
func (p *lineParser) segment(text string, l leaf) (seg Segment, exact bool, reason string) {
	atoms, reason := p.cut(text, l.stmt)
	if reason != "" {
		return Segment{}, false, reason
	}
	exact = true
	argv := make([]string, 0, len(atoms))
	literal := len(atoms) > 0 && (text[atoms[0].from:atoms[0].to] != atoms[0].value || !slices.Contains(reserved, atoms[0].value))
	for i := 0; i < len(atoms); {
		word, n := atoms[i].value, 1 // atoms that touch are one word
		for i+n < len(atoms) && atoms[i+n].from == atoms[i+n-1].to {
			n++
		}
		if n > 1 {
			var b strings.Builder
			for _, a := range atoms[i : i+n] {
				b.WriteString(a.value)
			}
			word = b.String()
		}
		for _, a := range atoms[i : i+n] {
			exact = exact && a.exact
			literal = literal && (i > 0 || !a.expands)
		}
		argv, i = append(argv, word), i+n
	}
	first := true
	for _, w := range argv {
		if w == "" {
			exact = false
			if first {
				return Segment{}, false, "the first word is empty"
			}
		}
		first = false
	}
	argv = slices.DeleteFunc(argv, func(w string) bool { return w == "" })
	if len(argv) == 0 {
		return Segment{}, false, "unable to parse shell segment"
	}
	raw := trim(text[l.from:l.to])
	if strings.HasSuffix(raw, `\`) && strings.Index(text[l.from:l.to], raw)+l.from+len(raw) < atoms[len(atoms)-1].to {
		return Segment{}, false, openEnd // a protected blank at the end
	}
	seg = Segment{Raw: raw, Op: l.op, Argv: argv, literal: literal}
	return seg, exact && !evaluates(argv[0]), ""
}

// An atom is a piece of a word, or the operator of a here-document.
type atom struct {
	from, to int
	value    string
	exact    bool // every shell takes it as it is
	expands  bool // a shell may put something else in its place
}

// cut returns the atoms of a simple command in order. They are good until the next call.
func (p *lineParser) cut(text string, s *syntax.Stmt) ([]atom, string) {
	p.atoms = p.atoms[:0]
	if call, ok := s.Cmd.(*syntax.CallExpr); ok {
		for _, w := range call.Args {
			if why := p.word(text, w); why != "" {
				return nil, why
			}
		}
	}
	for _, r := range s.Redirs {
		if r.Op != syntax.Hdoc && r.Op != syntax.DashHdoc {
			return nil, "unsupported shell token: " + r.Op.String()
		}
		if r.N != nil {
			from, to := offset(r.N.Pos()), offset(r.N.End())
			p.atoms = append(p.atoms, atom{from: from, to: to, value: text[from:to]})
		}
		at := offset(r.OpPos)
		p.atoms = append(p.atoms, atom{from: at, to: at + len(r.Op.String()), value: r.Op.String()})
		if why := p.word(text, r.Word); why != "" {
			return nil, why
		}
	}
	if len(s.Redirs) > 0 {
		slices.SortStableFunc(p.atoms, func(a, b atom) int { return a.from - b.from })
	}
	return p.atoms, ""
}

func (p *lineParser) word(text string, w *syntax.Word) string {
	for _, part := range w.Parts {
		from, to := offset(part.Pos()), offset(part.End())
		if from < 0 || to > len(text) || from > to {
			return "unsupported shell syntax"
		}
		if strings.HasPrefix(text[to:], "\n") && to > from && text[to-1] == '\r' { // the parser counts it to the word
			to--
		}
		a := atom{from: from, to: to, exact: true}
		src := text[from:to]
		why := ""
		switch part := part.(type) {
		case *syntax.Lit:
			a.value, a.exact, why = unquoted(src)
			a.expands = !a.exact && strings.Contains(src, "$")
		case *syntax.SglQuoted:
			a.value = src[1 : len(src)-1]
		case *syntax.DblQuoted:
			a.value, a.exact, why = doubleQuoted(src[1 : len(src)-1])
			a.expands = !a.exact && strings.Contains(src, "$")
			for _, inner := range part.Parts {
				if _, ok := inner.(*syntax.Lit); !ok {
					return "unsupported shell syntax"
				}
			}
		default:
			return "unsupported shell syntax"
		}
		if why != "" {
			return "unsupported shell token: " + why
		}
		p.atoms = append(p.atoms, a)
	}
	return ""
}

func offset(p syntax.Pos) int { return int(p.Offset()) }

// reserved are the words that open, close or change commands in some shell.
var reserved = []string{
	"if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in", "select", "function", "time",
	"coproc", "repeat", "foreach", "end", "nocorrect", "noglob", "{", "}", "!", "[[", "]]", "((",
}

// evaluates reports whether a shell, given this first word, runs or loads something else than a program
// of that name.
func evaluates(word string) bool {
	switch word {
	case "eval", "exec", ".", "source", "command", "builtin", "trap", "alias", "unalias", "set", "shopt", "setopt", "unset", "hash",
		"export", "readonly", "typeset", "declare", "local", "let", "enable", "autoload", "zmodload", "emulate", "fc", "bind", "complete",
		"return", "break", "continue", "exit", "logout", "read", "mapfile", "readarray", "getopts", "cd", "pushd", "popd", "umask", "ulimit":
		return true
	}
	return strings.Contains(word, "=") || slices.Contains(reserved, word)
}

// posixReserved are the words that the parser takes for more than words.
func posixReserved(w string) bool {
	switch len(w) {
	case 2:
		return w == "if" || w == "fi" || w == "do" || w == "in"
	case 3:
		return w == "for"
	case 4:
		return w == "then" || w == "else" || w == "elif" || w == "done" || w == "case" || w == "esac"
	case 5:
		return w == "while" || w == "until"
	}
	return false
}

// parseReason says in words why the parser gave up.
func parseReason(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "quote"):
		return openEnd
	case strings.Contains(text, "here-document"):
		return "unterminated heredoc"
	}
	return "unable to parse shell segment"
}
