package host_test

import "testing"

// BenchmarkListed is a run that the allow-list covers, BenchmarkApproved one that comes with the files
// that were approved, BenchmarkFree one that needs neither.
func BenchmarkListed(b *testing.B) {
	h, _ := newHost(b, `{"version":1,"agents":{"main":{"security":"allowlist","ask":"on-miss","allowlist":[{"pattern":"/**/true"}]}}}`)
	for b.Loop() {
		if a := ask(b, h, "system.run", m{"command": []string{"true"}}); !a.Success {
			b.Fatalf("%+v", a)
		}
	}
}

func BenchmarkApproved(b *testing.B) {
	h, _ := newHost(b, "")
	run, _ := approve(b, h, m{"command": []string{"true"}})
	for b.Loop() {
		if a := ask(b, h, "system.run", run); !a.Success {
			b.Fatalf("%+v", a)
		}
	}
}

func BenchmarkFree(b *testing.B) {
	h, _ := newHost(b, full)
	for b.Loop() {
		if a := ask(b, h, "system.run", m{"command": []string{"true"}}); !a.Success {
			b.Fatalf("%+v", a)
		}
	}
}
