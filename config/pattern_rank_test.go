package config

import "testing"

func TestNarrower(t *testing.T) {
	for _, tc := range []struct {
		a, b, number string
		want         bool
	}{
		{"911", "9XX", "911", true},
		{"9XX", "911", "911", false},
		{"9NXXXXXX", "9.", "95550100", true},
		{"9011X.", "9.", "9011495550100", true},
		{"9(NXXXXXX|1NXXNXXXXXX)", "9X.", "95550100", true},
		{"9[2-4]XX", "9NXX", "9300", true},
		{"91XX", "9XX1", "9101", true}, // from the left
		{"9X.", "9X.", "955", false},
	} {
		a, err := CompilePattern(tc.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := CompilePattern(tc.b)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Narrower(b, tc.number); got != tc.want {
			t.Errorf("%s before %s for %s: %v, want %v", tc.a, tc.b, tc.number, got, tc.want)
		}
	}
}

func TestAmbiguous(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"9[2-4]XX", "9[3-5]XX", true},
		{"9NXX", "9[2-4]XX", false},
		{"9(1|2)XX", "9(2|3)XX", true},
		{"9X.", "9X.", true},
		{"9X.", "9XX", false},
		{"8X.", "9X.", false},
		{"+49X.", "+[1-9]X.", false},
		{"9XXX", "9XX", false},
		{"*1X", "*1[0-9]", true},
	} {
		a, err := CompilePattern(tc.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := CompilePattern(tc.b)
		if err != nil {
			t.Fatal(err)
		}
		n := a.Ambiguous(b)
		if (n != "") != tc.want || n != "" && (!a.Match(n) || !b.Match(n)) {
			t.Errorf("%s and %s: %q, want ambiguous %v", tc.a, tc.b, n, tc.want)
		}
	}
}

func FuzzPatternRank(f *testing.F) {
	for _, s := range [][3]string{{"9(NXXXXXX|1NXXNXXXXXX)", "9X.", "95550100"}, {"+49.", "[1-36]#*", "1#*"}, {"((1|2)|3).", "X.", "30"}} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, x, y, number string) {
		a, err := CompilePattern(x)
		if err != nil {
			return
		}
		b, err := CompilePattern(y)
		if err != nil {
			return
		}
		if a.Match(number) && b.Match(number) && a.Narrower(b, number) && b.Narrower(a, number) {
			t.Errorf("%s and %s are each narrower than the other for %s", x, y, number)
		}
		if n := a.Ambiguous(b); n != "" && (!a.Match(n) || !b.Match(n)) {
			t.Errorf("%s and %s do not both match %s", x, y, n)
		}
	})
}
