// Command mutation runs the end-to-end tests of calls against a daemon in which one feature answers 603, for each feature in turn, and
// checks that every row of that feature fails and no row of another one. It is what `make test-mutation` calls; the daemon is built with
// the tag mutation, and the binary of the tests stands beside it.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mutant is a feature that can be broken.
type mutant struct {
	name  string
	tests string // that claim its rows, and must fail, as a pattern of names
	rows  string // that must fail, as a pattern; every row of them that a test claims
	also  string // that may fail, since the same tests claim them
}

var mutants = []mutant{
	{"transfer", "TestTransfers|TestParkMonitor|TestCallRecords", "^TRF-[1-6]", "^(TRF-|CDR-)"},
	{"park", "TestPark|TestParkMonitor", "^PRK-", "^(BLF-11|TRF-)"},
	{"conference", "TestConference|TestConferenceOfOneAdministrator|TestConferenceIsKept", "^(CNF|CFL)-", "^SNJ-"},
	{"join", "TestKeys|TestJoinAcrossLines", "^SNJ-", ""},
	{"divert", "TestKeys", "^IDV-", ""},
	{"malicious", "TestKeys", "^MCD-", ""},
	{"quality", "TestKeys", "^QRT-", ""},
	{"callback", "TestKeys", "^CBK-", ""},
	{"pickup", "TestPickup|TestParkMonitor|TestFeatureCodes", "^PKU-", "^(BLF-13|AAN-|PKN-)"},
	{"notice", "TestKeys", "^PKN-", ""},
	{"autoanswer", "TestKeys|TestFeatureCodes", "^AAN-[13]", "^AAN-"},
	{"page", "TestPage|TestPageByMulticast", "^STR-", ""},
	{"mailbox", "TestVoicemail|TestEcho", "^(VML-|DP-33)", "^(DP-0|CFS-7|MWI-)"},
	{"meetme", "TestMeetMeAndSpeedDials", "^(CAL-12|DP-2[34])", "^CNF-"},
	{"shared", "TestSharedLine", "^SHL-", ""},
}

// neighbours are a few tests of what is next to the features.
const neighbours = "TestHoldAndResume|TestTransfers|TestPickup|TestPark|TestForward"

// all are the tests of calls.
const all = neighbours + "|TestKeys|TestParkMonitor|TestConference.*|TestPage.*|TestVoicemail|TestEcho|TestMeetMeAndSpeedDials|TestJoinAcrossLines|" +
	"TestHuntGroups|TestFeatureCodes|TestSharedLine|TestNonsecurePhone|TestBusyNoAnswerAndUnknown|TestCallRecords"

func main() {
	dir := flag.String("dir", "build/mutation", "folder with the binaries")
	tests := flag.String("tests", "cmd/ringfence/e2e", "folder that the tests run in")
	few := flag.Bool("neighbours", false, "run the feature's tests and a few others instead of all")
	flag.Parse()
	if err := run(*dir, *tests, *few, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir, tests string, few bool, names []string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mutants {
		if len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		}
		pattern := all
		if few {
			pattern = m.tests + "|" + neighbours
		}
		rows, err := play(dir, tests, m.name, pattern)
		if err != nil {
			return err
		}
		errs = append(errs, judge(m, rows))
	}
	return errors.Join(errs...)
}

// play runs the tests and returns which rows failed.
func play(dir, tests, name, pattern string) (failed map[string]bool, err error) {
	record := filepath.Join(dir, name+".tsv")
	_ = os.Remove(record)
	cmd := exec.Command(filepath.Join(dir, "e2e.test"), "-test.run", "^("+pattern+")$", "-test.timeout", "20m")
	cmd.Dir = tests
	cmd.Env = append(os.Environ(), "RINGFENCE_BIN="+dir, "RINGFENCE_MUTATE="+name, "RINGFENCE_FEATURES="+record)
	out, err := cmd.CombinedOutput() // fails, since tests do
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".log"), out, 0o644); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(record)
	if err != nil {
		return nil, fmt.Errorf("%s: no test has claimed a row: %w", name, err)
	}
	failed = map[string]bool{}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 3 {
			failed[f[0]] = failed[f[0]] || f[2] == "fail"
		}
	}
	return failed, nil
}

// judge says what a mutant has shown.
func judge(m mutant, rows map[string]bool) error {
	must, also := regexp.MustCompile(m.rows), regexp.MustCompile(m.also)
	var failed, survived, others []string
	for row, bad := range rows {
		switch own := must.MatchString(row); {
		case own && bad:
			failed = append(failed, row)
		case own:
			survived = append(survived, row)
		case bad && (m.also == "" || !also.MatchString(row)):
			others = append(others, row)
		}
	}
	slices.Sort(failed)
	slices.Sort(survived)
	slices.Sort(others)
	fmt.Printf("%-11s %d rows fail: %s\n", m.name, len(failed), strings.Join(failed, " "))
	if len(survived) > 0 {
		fmt.Printf("%-11s rows that do not notice: %s\n", "", strings.Join(survived, " "))
	}
	if len(others) > 0 {
		fmt.Printf("%-11s rows of others that fail: %s\n", "", strings.Join(others, " "))
	}
	if len(failed) == 0 || len(others) > 0 || len(survived) > 0 {
		return fmt.Errorf("%s: see above", m.name)
	}
	return nil
}
