package runtime

import (
	"math"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/events"
)

func TestLimitOf(t *testing.T) {
	for _, c := range []struct {
		name, groups string
		files        map[string]string
		want         int64
		ok           bool
	}{
		{"version 2", "0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/memory.max": "max\n", "/sys/fs/cgroup/a/memory.max": "67108864\n"}, 64 << 20, true},
		{"the smaller one", "0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/memory.max": "1000\n", "/sys/fs/cgroup/a/memory.max": "67108864\n"}, 1000, true},
		{"no limit", "0::/\n", map[string]string{"/sys/fs/cgroup/memory.max": "max\n"}, 0, false},
		{"version 1", "9:name=systemd:/x\n4:memory:/x\n3:cpu:/x\n", map[string]string{
			"/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "268435456\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 256 << 20, true},
		{"version 1 without a limit", "4:memory:/\n", map[string]string{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0, false},
		{"nothing", "", nil, 0, false},
		{"odd", "x\n::\n0::../..\n0::/a\n", map[string]string{"/sys/fs/cgroup/a/memory.max": "-5\n"}, 0, false},
	} {
		got, ok := limitOf(c.groups, func(f string) string { return c.files[f] })
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %d, %v", c.name, got, ok)
		}
	}
}

// What may wait for slow readers fits into the memory that there is.
func TestFitMemory(t *testing.T) {
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	for limit, want := range map[int64]int64{math.MaxInt64: events.MaxHeld, 100 << 20: 20 << 20, 1 << 20: minHeld, 1 << 40: events.MaxHeld} {
		debug.SetMemoryLimit(limit)
		if _, grouped := groupLimit(); grouped && limit == math.MaxInt64 {
			continue // this test itself runs with a limit
		}
		if got := fitMemory(); got > want+1<<20 || got < want-1<<20 {
			t.Errorf("of %d bytes %d may wait; want about %d", limit, got, want)
		}
	}
}

func TestProgramRanges(t *testing.T) {
	const smaps = `00400000-01200000 r-xp 00000000 fe:00 12  /usr/bin/a program
Size:              14336 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01200000-01300000 r--p 00e00000 fe:00 12  /usr/bin/a program
Anonymous:            12 kB
01300000-01400000 rw-p 00f00000 fe:00 12  /usr/bin/a program
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 99  /usr/bin/other
Anonymous:             0 kB
7f0000002000-7f0000003000 r--s 00000000 fe:00 12  /usr/bin/a program
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7ffd-8 nonsense
`
	got := programRanges(strings.NewReader(smaps), "/usr/bin/a program")
	if len(got) != 1 || got[0] != (addresses{0x400000, 0x1200000}) {
		t.Errorf("got %x", got)
	}
}
