package identity_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/hanzoai/hanzod/identity"
)

// BenchmarkAdmit is what a connect costs here: with a device that is new, and with one that is known.
func BenchmarkAdmit(b *testing.B) {
	for _, known := range []bool{false, true} {
		b.Run(map[bool]string{false: "new", true: "known"}[known], func(b *testing.B) {
			w := newWorld(b, identity.AuthToken)
			attempts := make([]identity.Attempt, b.N)
			for i := range attempts {
				dev := "known"
				if !known {
					dev = fmt.Sprint("d", i)
				}
				attempts[i] = w.sign(w.attempt(dev, "operator.admin", "operator.read"))
			}
			if known {
				w.pair("known", identity.RoleOperator, "operator.admin", "operator.read")
			}
			var next atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := w.svc.Admit(context.Background(), attempts[next.Add(1)-1]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
