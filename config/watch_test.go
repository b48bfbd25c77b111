package config

import "testing"

func TestMayWatch(t *testing.T) {
	d := &Document{
		Phones: []Phone{{Device: "SEP001122AA0001"}, {Device: "SEP001122AA0002"}},
		Lines: []Line{
			{Number: "301", Phone: "SEP001122AA0001", Index: 1, WatchedBy: []string{"312"}}, {Number: "311", Phone: "SEP001122AA0001", Index: 2, WatchedBy: []string{"none"}},
			{Number: "302", Phone: "SEP001122AA0002", Index: 1, WatchedBy: []string{"all"}}, {Number: "312", Phone: "SEP001122AA0002", Index: 2, WatchedBy: []string{"all"}},
			{Number: "309", WatchedBy: []string{"all"}},
		},
	}
	d.link()
	for _, tc := range []struct {
		name, watcher, number string
		want                  bool
	}{
		{"everybody", "309", "302", true},
		{"the one who is named", "312", "301", true},
		{"another line of the phone that is named", "302", "301", true},
		{"somebody else", "309", "301", false},
		{"nobody", "302", "311", false},
		{"its own phone", "301", "311", true},
		{"itself", "311", "311", true},
		{"a stranger", "999", "302", false},
		{"what is no line", "309", "381", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := d.MayWatch(tc.watcher, tc.number); got != tc.want {
				t.Errorf("MayWatch(%s, %s) = %v", tc.watcher, tc.number, got)
			}
		})
	}
}
