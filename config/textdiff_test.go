package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func textSource(text string) *source { return newSource("t", 0, []byte(text)) }

func TestUnifiedDiff(t *testing.T) {
	for _, tc := range []struct{ name, a, b, want string }{
		{"equal", "a\nb\n", "a\nb\n", ""},
		{"changed", "a\nb\nc\n", "a\nx\nc\n", "--- 1\n+++ 2\n@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"},
		{"added to nothing", "", "a\nb\n", "--- 1\n+++ 2\n@@ -0,0 +1,2 @@\n+a\n+b\n"},
		{"removed", "a\n", "", "--- 1\n+++ 2\n@@ -1,1 +0,0 @@\n-a\n"},
		{"two hunks", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "x\n2\n3\n4\n5\n6\n7\n8\n9\ny\n",
			"--- 1\n+++ 2\n@@ -1,4 +1,4 @@\n-1\n+x\n 2\n 3\n 4\n@@ -7,4 +7,4 @@\n 7\n 8\n 9\n-10\n+y\n"},
		{"joined hunks", "1\n2\n3\n4\n5\n6\n7\n", "x\n2\n3\n4\n5\n6\ny\n",
			"--- 1\n+++ 2\n@@ -1,7 +1,7 @@\n-1\n+x\n 2\n 3\n 4\n 5\n 6\n-7\n+y\n"},
		{"moved", "a\nb\nc\n", "b\nc\na\n", "--- 1\n+++ 2\n@@ -1,3 +1,3 @@\n-a\n b\n c\n+a\n"},
		{"secret changed", "password: hunter2hunter\n", "password: hunter3hunter\n", "--- 1\n+++ 2\n@@ -1,1 +1,1 @@\n-password: [redacted]\n+password: [redacted]\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, unifiedDiff("1", "2", textSource(tc.a), textSource(tc.b))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The edits must rebuild both texts from each other, in order and without a line left out.
func TestCompareLinesRebuilds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		a, b := rapid.SliceOfN(line, 0, 30).Draw(t, "a"), rapid.SliceOfN(line, 0, 30).Draw(t, "b")
		rebuild(t, a, b)
	})
}

func TestCompareLinesBeyondTheBound(t *testing.T) {
	var a, b []string
	for i := range maxEdits {
		a, b = append(a, strings.Repeat("a", i+1)), append(b, strings.Repeat("b", i+1))
	}
	rebuild(t, a, b)
}

func rebuild(t interface{ Fatalf(string, ...any) }, a, b []string) {
	var ga, gb []string
	changes := 0
	for _, e := range compareLines(a, b) {
		if e.op != '+' {
			if e.i != len(ga) {
				t.Fatalf("line %d of a comes at %d", e.i, len(ga))
			}
			ga = append(ga, a[e.i])
		}
		if e.op != '-' {
			if e.j != len(gb) {
				t.Fatalf("line %d of b comes at %d", e.j, len(gb))
			}
			gb = append(gb, b[e.j])
		}
		if e.op == ' ' && a[e.i] != b[e.j] {
			t.Fatalf("%q and %q are not equal", a[e.i], b[e.j])
		}
		if e.op != ' ' {
			changes++
		}
	}
	if strings.Join(ga, "\n") != strings.Join(a, "\n") || strings.Join(gb, "\n") != strings.Join(b, "\n") || len(ga) != len(a) || len(gb) != len(b) {
		t.Fatalf("rebuilt %v and %v from %v and %v", ga, gb, a, b)
	}
	if best := len(a) + len(b) - 2*common(a, b); changes != best {
		t.Fatalf("%d changes, %d would do", changes, best)
	}
}

// common is the length of the longest common subsequence, by the plain table.
func common(a, b []string) int {
	prev := make([]int, len(b)+1)
	for _, x := range a {
		cur := make([]int, len(b)+1)
		for j, y := range b {
			cur[j+1] = max(prev[j+1], cur[j])
			if x == y {
				cur[j+1] = prev[j] + 1
			}
		}
		prev = cur
	}
	return prev[len(b)]
}
