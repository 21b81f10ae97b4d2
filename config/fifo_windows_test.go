package config

func mkfifo(string) error { return nil }
