// Command dist builds what is handed out: archives for each system, packages for Debian and RPM systems,
// and their checksums. The same commit gives the same bytes, whenever and wherever it is built with the
// same Go. It is a module of its own, so that the daemon's tree holds nothing of it.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// variant is one way to build the programs.
type variant struct {
	name, tags string
	// limit is what a program may weigh, in bytes.
	limit int64
}

// The bars are 45 MB for the programs as most want them, and 65 with a tailnet built in.
var variants = []variant{{"hanzod", "", 45_000_000}, {"hanzod-tailnet", "tailnet", 65_000_000}}

// platform is a system and an architecture, as Go names them.
type platform struct{ os, arch string }

var platforms = []platform{
	{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"},
}

// programs are what is built.
var programs = []string{"hanzod", "hanzoctl"}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dist: "+err.Error())
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	f := flag.NewFlagSet("dist", flag.ContinueOnError)
	root := f.String("root", "../..", "where the source is")
	dir := f.String("out", "../../dist", "where the result goes; what is there is removed")
	name := f.String("variant", "", "one variant alone: hanzod or hanzod-tailnet")
	only := f.String("only", "", "platforms to build, such as linux/amd64,windows/arm64 (default all)")
	f.StringVar(&maintainer, "maintainer", maintainer, "whom packages name, as Name <address>")
	if err := f.Parse(args); err != nil {
		return err
	}
	wanted, err := choose(*only)
	if err != nil {
		return err
	}
	if *name != "" && !slices.ContainsFunc(variants, func(v variant) bool { return v.name == *name }) {
		return fmt.Errorf("-variant: there is no variant %q", *name)
	}
	src, err := readSource(*root)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "hanzod %s (%s), %s\n", src.version, src.revision, src.goVersion)
	if err := clear(*dir); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hanzod-dist")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	var heavy []string
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tMB\tbar\t")
	for _, v := range variants {
		if *name != "" && v.name != *name {
			continue
		}
		extras, err := src.extras(v, filepath.Join(work, v.name))
		if err != nil {
			return err
		}
		for _, p := range wanted {
			fmt.Fprintf(out, "building %s for %s/%s\n", v.name, p.os, p.arch)
			built, err := src.build(v, p, filepath.Join(work, v.name, p.os, p.arch))
			if err != nil {
				return err
			}
			for _, b := range built {
				row := fmt.Sprintf("%s %s/%s %s", v.name, p.os, p.arch, b.name)
				fmt.Fprintf(table, "%s\t%.1f\t%.0f\t\n", row, mb(int64(len(b.text))), mb(v.limit))
				if int64(len(b.text)) > v.limit {
					heavy = append(heavy, row)
				}
			}
			if err := archive(*dir, v, p, src, append(slices.Clone(built), extras.forArchive(p)...)); err != nil {
				return err
			}
			if p.os == "linux" {
				if err := pack(*dir, v, p, src, built, extras); err != nil {
					return err
				}
			}
		}
	}
	if err := src.note(*dir); err != nil {
		return err
	}
	if err := sums(*dir, table); err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(heavy) > 0 {
		return fmt.Errorf("too large: %s", strings.Join(heavy, ", "))
	}
	return nil
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

// choose reads a list of platforms.
func choose(only string) ([]platform, error) {
	if only == "" {
		return platforms, nil
	}
	var out []platform
	for s := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(platforms, func(p platform) bool { return p.os+"/"+p.arch == s })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no platform %q", s)
		}
		out = append(out, platforms[i])
	}
	return out, nil
}

// clear makes an empty directory for the result. One that holds something else is left alone.
func clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	ours := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == sumsName })
	if len(entries) > 0 && !ours {
		return fmt.Errorf("%s holds something that is no result of dist; choose another directory with -out", dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// It marks the directory as ours, also when what comes next fails.
	return os.WriteFile(filepath.Join(dir, sumsName), nil, 0o644)
}

// sumsName is the file of checksums, in the form that sha256sum -c reads.
const sumsName = "SHA256SUMS"

// sums writes the checksums of all files of a directory, and shows how large they are.
func sums(dir string, table io.Writer) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintln(table, "\t\t\t")
	for _, e := range entries { // sorted
		if e.Name() == sumsName {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(sum[:]), e.Name())
		fmt.Fprintf(table, "%s\t%.1f\t\t\n", e.Name(), mb(int64(len(text))))
	}
	return os.WriteFile(filepath.Join(dir, sumsName), []byte(b.String()), 0o644)
}
