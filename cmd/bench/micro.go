package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// micro runs the Go benchmarks of every package that has some.
func (b *bench) micro(ctx context.Context) error {
	packages, err := benchmarked(".")
	if err != nil {
		return err
	}
	span := "200ms"
	if b.quick {
		span = "20ms"
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", span, "-timeout", "4m"}, packages...)...)
	out, err := cmd.CombinedOutput()
	if werr := os.WriteFile(filepath.Join(b.out, "micro.txt"), out, 0o644); werr != nil {
		return werr
	}
	in := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "pkg: "); ok {
			in = strings.TrimPrefix(name, "ringfence/")
		}
		if strings.HasPrefix(line, "Benchmark") && strings.Contains(line, "/op") {
			b.report.Micro = append(b.report.Micro, in+" "+strings.Join(strings.Fields(line), " "))
		}
	}
	if err != nil {
		return fmt.Errorf("go test -bench: %w; see micro.txt", err)
	}
	return nil
}

// benchmarked lists the folders below root whose tests have benchmarks.
func benchmarked(root string) (found []string, err error) {
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != root && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "build") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if folder := "./" + filepath.Dir(path); strings.Contains(string(text), "\nfunc Benchmark") && !slices.Contains(found, folder) {
			found = append(found, folder)
		}
		return nil
	})
	return found, err
}
