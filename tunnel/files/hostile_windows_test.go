package files_test

import "testing"

func allocated(testing.TB, string) int64 { return 0 }
