//go:build !linux

package main

import (
	"errors"
	"time"
)

var errMemory = errors.New("memory is measured on Linux only")

func memoryOf(int) (memory, error) { return memory{}, errMemory }

func cpuOf(int) time.Duration { return 0 }

func usageNow() usage { return usage{} }
