// Command list prints every row of the feature table with the tests that claim it, and what the last run said of them.
//
//	list [-table docs/feature-table.md] [-results FILE] [-proven]
//
// It reads the claims from the source (calls of feature.Proves in _test.go files) and the verdicts from the file that
// RINGFENCE_FEATURES named during the last test run. A claim of a row that the table does not have is an error (exit 1).
package main

import (
	"bufio"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

type row struct{ id, check string }

type claim struct{ test, file string }

var rowLine = regexp.MustCompile(`^\| ([A-Z0-9]{2,4}-[0-9R]+[a-z]?) \| ([^|]*) \|`)

func main() { os.Exit(run()) }

func run() int {
	table := flag.String("table", "docs/feature-table.md", "the feature table")
	results := flag.String("results", "build/features.tsv", "verdicts of the last run, may be missing")
	proven := flag.Bool("proven", false, "print only rows that a test claims")
	flag.Parse()

	rows, err := readTable(*table)
	if err != nil {
		fmt.Fprintln(os.Stderr, "features:", err)
		return 1
	}
	claims, err := readClaims(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "features:", err)
		return 1
	}
	verdicts := readResults(*results)

	known, claimed, passed := map[string]bool{}, 0, 0
	for _, r := range rows {
		known[r.id] = true
		cs := claims[r.id]
		if len(cs) > 0 {
			claimed++
		} else if *proven {
			continue
		}
		fmt.Printf("%-8s %s\n", r.id, r.check)
		ok := len(cs) > 0
		for _, c := range cs {
			v := verdicts[r.id+"\t"+c.test]
			if v == "" {
				v = "not run"
			}
			ok = ok && v == "pass"
			fmt.Printf("         %-8s %s (%s)\n", v, c.test, c.file)
		}
		if ok {
			passed++
		}
	}
	fmt.Printf("\n%d rows, %d claimed by a test, %d of those passed in the last run\n", len(rows), claimed, passed)
	bad := 0
	for id, cs := range claims {
		if !known[id] {
			fmt.Fprintf(os.Stderr, "features: %s claims %s, which the table does not have\n", cs[0].test, id)
			bad = 1
		}
	}
	return bad
}

func readTable(name string) ([]row, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var rows []row
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if m := rowLine.FindStringSubmatch(sc.Text()); m != nil {
			rows = append(rows, row{m[1], strings.TrimSpace(m[2])})
		}
	}
	return rows, sc.Err()
}

// readClaims finds the calls of feature.Proves below dir; a call inside a subtest's closure counts for the whole test.
func readClaims(dir string) (map[string][]claim, error) {
	claims := map[string][]claim{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "Proves" {
					return true
				}
				if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "feature" {
					return true
				}
				for _, a := range call.Args[1:] {
					if lit, ok := a.(*ast.BasicLit); ok {
						id, _ := strconv.Unquote(lit.Value)
						claims[id] = append(claims[id], claim{fn.Name.Name, path})
					}
				}
				return true
			})
		}
		return nil
	})
	for _, cs := range claims {
		sort.Slice(cs, func(i, j int) bool { return cs[i].test < cs[j].test })
	}
	return claims, err
}

// readResults maps "ID\tTest" to the worst verdict; a subtest's verdict counts for its test.
func readResults(name string) map[string]string {
	out := map[string]string{}
	b, err := os.ReadFile(name)
	if err != nil {
		return out
	}
	rank := map[string]int{"": 0, "pass": 1, "skip": 2, "fail": 3}
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			continue
		}
		test, _, _ := strings.Cut(f[1], "/")
		k := f[0] + "\t" + test
		if rank[f[2]] > rank[out[k]] {
			out[k] = f[2]
		}
	}
	return out
}
