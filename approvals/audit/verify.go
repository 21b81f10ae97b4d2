package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxFaults bounds the faults that a report lists; a log that was written anew has one in every row.
const maxFaults = 20

// Row is one link of the chain, as it is stored or exported.
type Row struct {
	Seq uint64
	// Prev is the hash of the row before, Hash that of this one, as the log says.
	Prev, Hash Hash
	// Record is the version of its layout, one byte, and then a JSON object.
	Record []byte
}

// Mark is a place in the chain: a row and its hash. Somebody who keeps the mark of a log elsewhere can
// tell later whether the rows up to it are still the ones that were there. The zero mark is the
// beginning of the first log row.
type Mark struct {
	Seq  uint64
	Hash Hash
}

// String is the mark as hanzoctl prints and reads it: SEQ:HASH.
func (m Mark) String() string { return strconv.FormatUint(m.Seq, 10) + ":" + m.Hash.String() }

// ParseMark reads what String writes.
func ParseMark(text string) (m Mark, err error) {
	seq, hash, ok := strings.Cut(text, ":")
	if !ok {
		return m, fmt.Errorf("a mark is SEQUENCE:HASH, as audit head prints it")
	}
	if m.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil || strconv.FormatUint(m.Seq, 10) != seq {
		return Mark{}, fmt.Errorf("the part before the colon is no sequence number")
	}
	if m.Hash, err = ParseHash(hash); err != nil {
		return Mark{}, err
	}
	return m, nil
}

// Checkpoint is what a row of the kind checkpoint says: rows up to Seq are gone, Count of them at once.
type Checkpoint struct {
	Seq   uint64    `json:"seq"`
	Hash  string    `json:"hash"`
	Count uint64    `json:"count"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Rule  string    `json:"rule"`
}

// Fault is something that is not as it was written.
type Fault struct {
	// Seq is the row, or where one is missing.
	Seq uint64
	// Kind is changed, missing, order, truncated, rewritten, checkpoint or anomaly.
	Kind string
	// Text says what is wrong, in plain words.
	Text string
}

// The kinds of faults.
const (
	// Changed is a row that is not the one that was written there: changed, moved or inserted.
	Changed = "changed"
	// Missing is rows that are gone without a checkpoint.
	Missing = "missing"
	// Order is a row whose number does not follow.
	Order = "order"
	// Truncated is rows that are gone from the end.
	Truncated = "truncated"
	// Rewritten is a chain that hangs together and is another than that of a mark.
	Rewritten = "rewritten"
	// BadCheckpoint is a checkpoint that does not fit what is there.
	BadCheckpoint = "checkpoint"
	// Anomaly is a row in which the daemon noted at a start that rows were lost.
	Anomaly = "anomaly"
)

// Report is the outcome of a verification.
type Report struct {
	// Rows were looked at, from First to Last.
	Rows        uint64
	First, Last uint64
	// Base is what the first row hangs on, Head the last row.
	Base, Head Mark
	// Pruned is the newest checkpoint, nil when there is none; Checkpoints is how many there are.
	Pruned      *Checkpoint
	Checkpoints uint64
	// Faults are the first of those that were found, More how many others there are.
	Faults []Fault
	More   uint64
	// Notes say what could not be looked at.
	Notes []string
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Faults) == 0 }

// Verifier looks at the rows of a log one after the other, in constant memory. It is not for concurrent
// use.
type Verifier struct {
	chain   Chain
	r       Report
	started bool
	// base is what the log says comes before its first row; nil when that is not what was asked for.
	base    *Mark
	last    Mark
	marks   []Mark
	chained bool // the row that chains an older log was seen
	pruned  *Checkpoint
}

// NewVerifier begins with what the first row says comes before it. Each mark names a row that has to be
// there.
func NewVerifier(marks ...Mark) *Verifier { return &Verifier{marks: marks} }

// From begins at a row that is not looked at. Whole says that it is the base that the log names: a
// checkpoint has to stand for what came before.
func (v *Verifier) From(at Mark, whole bool) {
	v.last, v.r.Base, v.started = at, at, true
	v.pass(at)
	if whole {
		v.base = &at
	}
}

func (v *Verifier) fault(seq uint64, kind, format string, args ...any) {
	if len(v.r.Faults) >= maxFaults {
		v.r.More++
		return
	}
	v.r.Faults = append(v.r.Faults, Fault{Seq: seq, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// pass compares a place with the marks.
func (v *Verifier) pass(at Mark) {
	for i := 0; i < len(v.marks); i++ {
		if v.marks[i].Seq != at.Seq {
			continue
		}
		if v.marks[i].Hash != at.Hash {
			v.fault(at.Seq, Rewritten, "row %d is not the one that the mark %s names: the log was written anew", at.Seq, v.marks[i])
		}
		v.marks = append(v.marks[:i:i], v.marks[i+1:]...)
		i--
	}
}

// Last is the row that was looked at last.
func (v *Verifier) Last() Mark { return v.last }

// Unreadable says that the verification ends here, and why.
func (v *Verifier) Unreadable(err error) {
	v.fault(v.last.Seq+1, Changed, "what comes after row %d cannot be read: %v", v.last.Seq, err)
}

// Skip says that rows were pruned while the verification went on, up to the mark.
func (v *Verifier) Skip(to Mark) {
	if to.Seq > v.last.Seq {
		v.last = to
		v.pass(to)
		v.r.Notes = append(v.r.Notes, fmt.Sprintf("rows up to %d were removed while the log was being verified", to.Seq))
	}
}

// Add looks at the next row.
func (v *Verifier) Add(row Row) {
	if !v.started {
		v.started = true
		v.last = Mark{Seq: row.Seq - 1, Hash: row.Prev}
		v.r.Base = v.last
		v.pass(v.last)
	}
	if v.r.Rows == 0 {
		v.r.First = row.Seq
	}
	v.r.Rows++
	next := v.last.Seq + 1
	switch {
	case row.Seq == next:
	case row.Seq == next+1:
		v.fault(next, Missing, "row %d is missing", next)
	case row.Seq > next:
		v.fault(next, Missing, "rows %d to %d are missing", next, row.Seq-1)
	default:
		v.fault(row.Seq, Order, "row %d comes after row %d", row.Seq, v.last.Seq)
	}
	switch {
	case row.Hash != v.chain.link(row.Seq, row.Prev, row.Record):
		v.fault(row.Seq, Changed, "row %d is not as it was written", row.Seq)
	case row.Seq == next && row.Prev != v.last.Hash:
		v.fault(row.Seq, Changed, "row %d does not follow the row %d that is there", row.Seq, v.last.Seq)
	}
	v.last = Mark{Seq: row.Seq, Hash: row.Hash}
	v.pass(v.last)
	v.read(row)
}

// read looks at the rows that speak of the log itself.
func (v *Verifier) read(row Row) {
	if len(row.Record) == 0 || !bytes.Contains(row.Record, []byte(`"kind":"`)) {
		return
	}
	isCheckpoint := bytes.Contains(row.Record, []byte(`"kind":"checkpoint"`))
	if !isCheckpoint && !bytes.Contains(row.Record, []byte(`"kind":"chained"`)) && !bytes.Contains(row.Record, []byte(`"kind":"anomaly"`)) {
		return
	}
	var rec struct {
		Kind       string      `json:"kind"`
		Detail     string      `json:"detail"`
		Checkpoint *Checkpoint `json:"checkpoint"`
	}
	if json.Unmarshal(row.Record[1:], &rec) != nil {
		return // the chain says whether it was changed
	}
	switch rec.Kind {
	case "chained":
		v.chained = true
	case "anomaly":
		v.fault(row.Seq, Anomaly, "row %d says: %s", row.Seq, rec.Detail)
	case "checkpoint":
		c := rec.Checkpoint
		if c == nil || c.Seq >= row.Seq {
			v.fault(row.Seq, BadCheckpoint, "row %d is a checkpoint that names no row before it", row.Seq)
			return
		}
		v.r.Checkpoints++
		if p := v.pruned; p != nil && c.Seq != p.Seq+c.Count {
			v.fault(row.Seq, BadCheckpoint, "the checkpoint in row %d stands for rows %d to %d, and the one before it ends at row %d",
				row.Seq, c.Seq-c.Count+1, c.Seq, p.Seq)
		}
		v.pruned = c
	}
}

// Report ends the verification. Head is the newest row as the log says, nil when that is not known.
func (v *Verifier) Report(head *Mark) Report {
	v.r.Head, v.r.Last, v.r.Pruned = v.last, v.last.Seq, v.pruned
	if head != nil && *head != v.last {
		if head.Seq > v.last.Seq {
			v.fault(head.Seq, Truncated, "the log ends at row %d; row %d was the newest", v.last.Seq, head.Seq)
		} else {
			v.fault(head.Seq, Truncated, "the head of the log is row %d with another hash, or rows were added behind it", head.Seq)
		}
	}
	for _, m := range v.marks {
		switch {
		case m.Seq > v.last.Seq:
			v.fault(m.Seq, Truncated, "the log ends at row %d; row %d was there when the mark was made", v.last.Seq, m.Seq)
		default:
			v.r.Notes = append(v.r.Notes, fmt.Sprintf("row %d, which a mark names, was removed as too old, or is outside of what was looked at", m.Seq))
		}
	}
	if base := v.base; base != nil && base.Seq > 0 {
		switch {
		case base.Hash == (Hash{}):
			if !v.chained && v.pruned == nil {
				v.fault(base.Seq, BadCheckpoint, "rows 1 to %d are gone, and nothing says why", base.Seq)
			}
		case v.pruned == nil || v.pruned.Seq != base.Seq || v.pruned.Hash != base.Hash.String():
			v.fault(base.Seq, BadCheckpoint, "rows up to %d are gone, and no checkpoint stands for them", base.Seq)
		}
	} else if base != nil && v.pruned != nil {
		v.fault(v.pruned.Seq, BadCheckpoint, "rows up to %d were removed, and are there", v.pruned.Seq)
	}
	if v.base == nil && v.r.Base.Seq > 0 && (v.pruned == nil || v.pruned.Seq != v.r.Base.Seq || v.pruned.Hash != v.r.Base.Hash.String()) {
		v.r.Notes = append(v.r.Notes, fmt.Sprintf("rows up to %d were not looked at", v.r.Base.Seq))
	}
	return v.r
}
