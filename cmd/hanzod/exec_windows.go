package main

// execWith is nil: Windows starts programs in processes of their own only. "hanzod service upgrade" does it.
func execWith([]string) func(string) error { return nil }
