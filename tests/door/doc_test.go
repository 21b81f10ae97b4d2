// Package door holds the doors to one promise: the same caller and the same operation get the same
// verdict and the same effect by gRPC, by REST and by the legacy protocol.
package door

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}
