//go:build !linux

package main

import (
	"errors"
	"os"
	"time"
)

var errMemory = errors.New("memory is measured on Linux only")

func memoryOf(int) (memory, error) { return memory{}, errMemory }

func maxRSS(*os.ProcessState) float64 { return 0 }

func cpuOf(int) time.Duration { return 0 }

func usageNow() usage { return usage{} }
