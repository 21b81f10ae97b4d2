package store

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
)

// recordTypes are the records that are written over. A hanzod that opened a database of a newer schema
// keeps the fields of theirs that it does not know.
var recordTypes = map[string]reflect.Type{
	string(bucketDevices):           reflect.TypeFor[deviceRecord](),
	string(bucketDeviceRequests):    reflect.TypeFor[requestRecord](),
	string(bucketInvites):           reflect.TypeFor[inviteRecord](),
	string(bucketNodeNames):         reflect.TypeFor[nodeNameRecord](),
	string(bucketNodeRequests):      reflect.TypeFor[nodeRequestRecord](),
	string(bucketNodePairings):      reflect.TypeFor[nodePairingRecord](),
	string(bucketPushRegistrations): reflect.TypeFor[pushRecord](),
	string(bucketApprovals):         reflect.TypeFor[approvalRecord](),
	string(bucketGrants):            reflect.TypeFor[grantRecord](),
	string(bucketRuns):              reflect.TypeFor[runRecord](),
	string(bucketRunOutput):         reflect.TypeFor[runOutput](),
	string(bucketSessions):          reflect.TypeFor[sessionRecord](),
	string(bucketSessionRest):       reflect.TypeFor[sessionRest](),
	string(bucketCronJobs):          reflect.TypeFor[cronJobRecord](),
	string(bucketLinkKeys):          reflect.TypeFor[linkKeyRecord](),
	string(bucketLinks):             reflect.TypeFor[linkRecord](),
	string(bucketTerminals):         reflect.TypeFor[terminalRecord](),
	string(bucketTechSessions):      reflect.TypeFor[techRecord](),
}

// carry returns the record that takes the place of old, with the fields of old that the struct of its
// bucket does not have. What cannot be read as such a record stays as the caller made it.
func carry(bucket, old, value []byte) []byte {
	typ, ok := recordTypes[string(bucket)]
	if !ok || len(old) < 2 || len(value) < 2 || old[0] != value[0] {
		return value
	}
	merged, changed := carryObject(typ, old[1:], value[1:])
	if !changed {
		return value
	}
	return append([]byte{value[0]}, merged...)
}

// carryObject merges what typ does not know from one JSON object into another.
func carryObject(typ reflect.Type, old, value []byte) (merged []byte, changed bool) {
	var before, after map[string]json.RawMessage
	if json.Unmarshal(old, &before) != nil || json.Unmarshal(value, &after) != nil || before == nil || after == nil {
		return value, false
	}
	fields := fieldsOf(typ)
	for name, text := range before {
		of, known := fields[strings.ToLower(name)] // as encoding/json finds fields
		if !known {
			after[name], changed = text, true
			continue
		}
		if next, ok := after[name]; ok {
			if m, c := carryValue(of, text, next); c {
				after[name], changed = m, true
			}
		}
	}
	if !changed {
		return value, false
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(after) != nil {
		return value, false
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), true
}

// carryValue goes on in structs and in maps of them. The elements of a list have no names by which the
// old one could be found.
func carryValue(typ reflect.Type, old, value json.RawMessage) (merged json.RawMessage, changed bool) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case typ == timeType:
	case typ.Kind() == reflect.Struct:
		return carryObject(typ, old, value)
	case typ.Kind() == reflect.Map && typ.Elem().Kind() == reflect.Struct:
		var before, after map[string]json.RawMessage
		if json.Unmarshal(old, &before) != nil || json.Unmarshal(value, &after) != nil {
			break
		}
		for key, next := range after {
			if was, ok := before[key]; ok {
				if m, c := carryObject(typ.Elem(), was, next); c {
					after[key], changed = m, true
				}
			}
		}
		if changed {
			if b, err := json.Marshal(after); err == nil {
				return b, true
			}
		}
	}
	return value, false
}

// fieldsOf are the types of the fields of a record by their names in lower case.
func fieldsOf(typ reflect.Type) map[string]reflect.Type {
	out := make(map[string]reflect.Type, typ.NumField())
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case f.Anonymous && name == "":
			maps.Copy(out, fieldsOf(f.Type))
			continue
		case name == "":
			name = f.Name
		}
		out[strings.ToLower(name)] = f.Type
	}
	return out
}
