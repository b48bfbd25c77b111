package appliance

import "testing"

func TestWithEntry(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"block", "a: 1\nphones:\n    # ours\n    - {device: X}\nb: 2\n", "a: 1\nphones:\n    - NEW\n    # ours\n    - {device: X}\nb: 2\n"},
		{"block at the margin", "phones:\n- device: X\n  model: 1\n", "phones:\n- NEW\n- device: X\n  model: 1\n"},
		{"flow", "phones: [{device: X}]\n", "phones: [NEW, {device: X}]\n"},
		{"empty flow", "phones: []\n", "phones: [NEW]\n"},
		{"absent", "a: 1\n", "a: 1\nphones:\n  - NEW\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := withEntry(tt.text, "phones", "NEW"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
