package migrate

import "maps"

// noted is the hash that the last run wrote of a thing, "" for none.
func (r *run) noted(part, name string) string { return r.last.Parts[part][name] }

// allNoted are the hashes of a part by name. They may be noted anew meanwhile.
func (r *run) allNoted(part string) map[string]string { return maps.Clone(r.last.Parts[part]) }

// note keeps the hash of a thing for the next run; "" forgets it.
func (r *run) note(part, name, sum string) {
	if r.last.Parts == nil {
		r.last.Parts = map[string]map[string]string{}
	}
	if r.last.Parts[part] == nil {
		r.last.Parts[part] = map[string]string{}
	}
	if sum == "" {
		delete(r.last.Parts[part], name)
		return
	}
	r.last.Parts[part][name] = sum
}

// expect says how many bytes a part has to move.
func (r *run) expect(part string, n int64) {}

// step says that so many more bytes of a part were looked at.
func (r *run) step(part string, n int64) {}
