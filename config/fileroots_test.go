package config

import (
	"path/filepath"
	"reflect"
	"testing"
)

func TestFileRoots(t *testing.T) {
	c := mustLoad(t, `{nodeHost: {files: {roots: ['~/work', '/srv/data:ro']}}}`)
	want := []FileRoot{{Path: filepath.Join(c.Home, "work")}, {Path: abs(t, "/srv/data"), ReadOnly: true}}
	if !reflect.DeepEqual(c.NodeHost.FileRoots, want) {
		t.Errorf("%+v", c.NodeHost.FileRoots)
	}
	if c := mustLoad(t, `{}`); c.NodeHost.FileRoots != nil {
		t.Errorf("%+v", c.NodeHost.FileRoots)
	}
}
