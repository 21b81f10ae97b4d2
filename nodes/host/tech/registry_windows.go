package tech

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// hives are the roots, by their names.
var hives = map[string]registry.Key{
	"HKLM": registry.LOCAL_MACHINE, "HKEY_LOCAL_MACHINE": registry.LOCAL_MACHINE,
	"HKCU": registry.CURRENT_USER, "HKEY_CURRENT_USER": registry.CURRENT_USER,
	"HKCR": registry.CLASSES_ROOT, "HKEY_CLASSES_ROOT": registry.CLASSES_ROOT,
	"HKU": registry.USERS, "HKEY_USERS": registry.USERS,
	"HKCC": registry.CURRENT_CONFIG, "HKEY_CURRENT_CONFIG": registry.CURRENT_CONFIG,
}

// kinds are the kinds of values, by name.
var kinds = map[string]uint32{
	"none": registry.NONE, "sz": registry.SZ, "expand_sz": registry.EXPAND_SZ, "binary": registry.BINARY, "dword": registry.DWORD,
	"dword_big_endian": registry.DWORD_BIG_ENDIAN, "link": registry.LINK, "multi_sz": registry.MULTI_SZ,
	"resource_list": registry.RESOURCE_LIST, "full_resource_descriptor": registry.FULL_RESOURCE_DESCRIPTOR,
	"resource_requirements_list": registry.RESOURCE_REQUIREMENTS_LIST, "qword": registry.QWORD,
}

func kindName(n uint32) string {
	for name, k := range kinds {
		if k == n {
			return name
		}
	}
	return strconv.FormatUint(uint64(n), 10)
}

// split reads a key: a hive and a path below it.
func split(key string) (registry.Key, string, error) {
	name, path, _ := strings.Cut(key, `\`)
	hive, ok := hives[strings.ToUpper(name)]
	if !ok {
		return 0, "", errs.New(errs.Invalid, `a key begins with HKLM, HKCU, HKCR, HKU or HKCC, and a \ before what is below`)
	}
	return hive, strings.TrimSuffix(path, `\`), nil
}

func callRegistry(p message.RegistryCall) (out message.RegistryResult, err error) {
	hive, path, err := split(p.Key)
	if err != nil {
		return out, err
	}
	switch p.Op {
	case "set":
		return out, set(hive, path, p)
	case "delete":
		return out, remove(hive, path, p)
	}
	access := uint32(registry.QUERY_VALUE)
	if p.Op == "list" {
		access |= registry.ENUMERATE_SUB_KEYS
	}
	k, err := registry.OpenKey(hive, path, access)
	if err != nil {
		return out, registryFault(err, p)
	}
	defer k.Close()
	if p.Op == "get" {
		v, err := value(k, p.Name)
		if err != nil {
			return out, registryFault(err, p)
		}
		if len(v.Value) > listBytes {
			return out, errs.New(errs.Exhausted, "the value is too large for one message")
		}
		out.Values = []message.RegistryValue{v}
		return out, nil
	}
	return list(k, p)
}

// list answers with keys and values, as many as fit; the values come with the first keys.
func list(k registry.Key, p message.RegistryCall) (out message.RegistryResult, err error) {
	keys, err := k.ReadSubKeyNames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return out, registryFault(err, p)
	}
	size := 0
	fits := func(v any) bool {
		b, _ := json.Marshal(v) // of texts
		size += len(b) + 1
		return size <= listBytes
	}
	if p.After == "" {
		names, err := k.ReadValueNames(-1)
		if err != nil && !errors.Is(err, io.EOF) {
			return out, registryFault(err, p)
		}
		for _, name := range names {
			v, err := value(k, name)
			if err != nil {
				continue // it went away meanwhile
			}
			if !fits(v) {
				// A large one is asked for by its name.
				size = 0
				for _, have := range out.Values {
					fits(have)
				}
				v.Value = nil
				if !fits(v) {
					return out, errs.New(errs.Exhausted, "the key has too many values for one message; ask for them by name")
				}
			}
			out.Values = append(out.Values, v)
		}
	}
	slices.SortFunc(keys, cmp.Compare[string])
	first, found := slices.BinarySearch(keys, p.After)
	if found {
		first++
	}
	for _, name := range keys[first:] {
		if !fits(name) {
			out.More = true
			break
		}
		out.Keys = append(out.Keys, name)
	}
	return out, nil
}

// value reads a value as JSON.
func value(k registry.Key, name string) (message.RegistryValue, error) {
	n, kind, err := k.GetValue(name, nil)
	if err != nil && !errors.Is(err, registry.ErrShortBuffer) {
		return message.RegistryValue{}, err
	}
	v := message.RegistryValue{Name: name, Kind: kindName(kind)}
	var any any
	switch kind {
	case registry.SZ, registry.EXPAND_SZ:
		any, _, err = k.GetStringValue(name)
	case registry.MULTI_SZ:
		any, _, err = k.GetStringsValue(name)
	case registry.DWORD, registry.QWORD:
		any, _, err = k.GetIntegerValue(name)
	default:
		b := make([]byte, n)
		if n, _, err = k.GetValue(name, b); err == nil {
			any = base64.StdEncoding.EncodeToString(b[:n])
		}
	}
	if err != nil {
		return v, err
	}
	v.Value, err = json.Marshal(any)
	return v, err
}

// set writes a value; the key is made when it is not there.
func set(hive registry.Key, path string, p message.RegistryCall) error {
	kind := strings.ToLower(p.Kind)
	var text string
	var list []string
	var number uint64
	var binary []byte
	bad := errs.New(errs.Invalid, "value is a text for sz and expand_sz, a list of texts for multi_sz, a number for dword and qword, base64 for binary; kind is one of these")
	switch kind {
	case "sz", "expand_sz":
		if json.Unmarshal(p.Value, &text) != nil {
			return bad
		}
	case "multi_sz":
		if json.Unmarshal(p.Value, &list) != nil {
			return bad
		}
	case "dword", "qword":
		bits := 32
		if kind == "qword" {
			bits = 64
		}
		var err error
		if number, err = strconv.ParseUint(strings.Trim(string(p.Value), `"`), 10, bits); err != nil {
			return bad
		}
	case "binary":
		if json.Unmarshal(p.Value, &binary) != nil {
			return bad
		}
	default:
		return bad
	}
	k, _, err := registry.CreateKey(hive, path, registry.SET_VALUE)
	if err != nil {
		return registryFault(err, p)
	}
	defer k.Close()
	switch kind {
	case "sz":
		err = k.SetStringValue(p.Name, text)
	case "expand_sz":
		err = k.SetExpandStringValue(p.Name, text)
	case "multi_sz":
		err = k.SetStringsValue(p.Name, list)
	case "dword":
		err = k.SetDWordValue(p.Name, uint32(number)) //nolint:gosec // it was read with 32 bits
	case "qword":
		err = k.SetQWordValue(p.Name, number)
	case "binary":
		err = k.SetBinaryValue(p.Name, binary)
	}
	if err != nil {
		return registryFault(err, p)
	}
	return nil
}

// remove removes a value, or without a name a key that has no keys below it.
func remove(hive registry.Key, path string, p message.RegistryCall) error {
	if p.Name == "" {
		if path == "" {
			return errs.New(errs.Denied, "a root of the registry is not removed")
		}
		if err := registry.DeleteKey(hive, path); err != nil {
			return registryFault(err, p)
		}
		return nil
	}
	k, err := registry.OpenKey(hive, path, registry.SET_VALUE)
	if err != nil {
		return registryFault(err, p)
	}
	defer k.Close()
	if err := k.DeleteValue(p.Name); err != nil {
		return registryFault(err, p)
	}
	return nil
}

func registryFault(err error, p message.RegistryCall) error {
	switch {
	case errors.Is(err, registry.ErrNotExist):
		return errs.New(errs.NotFound, fmt.Sprintf("%q %q: not in the registry", p.Key, p.Name))
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return errs.New(errs.Denied, "the user of this node may not do that, or there are keys below: "+err.Error())
	}
	return errs.New(errs.Unavailable, "the registry says: "+err.Error())
}
