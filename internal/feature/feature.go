// Package feature ties tests to the rows of docs/feature-table.md. A row counts as proven only by a test that calls Proves,
// speaks to the real daemon over its sockets and asserts what the row's Wire column says; `make features` lists them.
package feature

import (
	"fmt"
	"os"
	"testing"
)

// Proves says that t proves the rows ids. When the environment names a file in RINGFENCE_FEATURES, one line per row is
// appended to it with the test's name and whether it passed.
func Proves(t testing.TB, ids ...string) {
	t.Helper()
	path := os.Getenv("RINGFENCE_FEATURES")
	t.Cleanup(func() {
		if path == "" {
			return
		}
		verdict := "pass"
		switch {
		case t.Failed():
			verdict = "fail"
		case t.Skipped():
			verdict = "skip"
		}
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Errorf("feature record: %v", err)
			return
		}
		defer f.Close()
		for _, id := range ids {
			fmt.Fprintf(f, "%s\t%s\t%s\n", id, t.Name(), verdict)
		}
	})
}
