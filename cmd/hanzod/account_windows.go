package main

// asAccount runs f: the service manager keeps accounts to itself here.
func asAccount(_ string, f func() error) error { return f() }
