package runtime

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// osName is the operating system and its version.
func osName() string {
	v := windows.RtlGetVersion()
	return fmt.Sprintf("windows %d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
}
