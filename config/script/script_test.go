package script

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var evening = Call{From: "301", Name: "Ada", Dialled: "95550100", Time: time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)}

func TestRun(t *testing.T) {
	for _, tc := range []struct{ name, text, to, fault, did string }{
		{name: "goes on", text: "def route(call):\n    pass"},
		{name: "time, line and number", text: "LATE = 18\ndef route(call):\n    if call.time.hour >= LATE and call.time.weekday == 'thu' and call.line == '301' and call.dialled.startswith('9'):\n        return 'voicemail:301'", to: "voicemail:301"},
		{name: "date and name", text: "def route(call):\n    return call.time.date + call.name + str(call.time.day + call.time.month + call.time.year + call.time.minute)", to: "2026-12-24Ada2062"},
		{name: "fields", text: "def route(call):\n    return field('callforward') + field('donotdisturb', '302') + str(field('x', line='399'))", to: "301.callforward302.donotdisturbNone"},
		{name: "sets", text: "def route(call):\n    set('callforward', '303')\n    set('donotdisturb', 'yes', line='302')", did: "301.callforward=303 302.donotdisturb=yes "},
		{name: "set that is refused", text: "def route(call):\n    set('mailbox', '1')", fault: "line 2: set: read only"},
		{name: "another type", text: "def route(call):\n    return 303", fault: "route returned a int"},
		{name: "fault on its line", text: "def route(call):\n    x = 1\n    return x // 0", fault: "line 3: floored division by zero"},
		{name: "fault in a function of its own", text: "def f(x):\n    return x.nothing\ndef route(call):\n    return f(call)", fault: "line 2: struct has no .nothing"},
		{name: "steps without end", text: "def route(call):\n    for x in range(1000000):\n        pass", fault: "line 2: Starlark computation cancelled: too many steps"},
		{name: "frozen", text: "SEEN = []\ndef route(call):\n    SEEN.append(call.line)", fault: "line 3: append: cannot append to frozen list"},
		{name: "many sets", text: "def route(call):\n    for x in range(9):\n        set('callforward', '303')", fault: "line 3: set is called more than 8 times"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := Compile(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			did := ""
			to, err := s.Run(evening, Host{
				Field: func(line, name string) (string, bool) { return line + "." + name, line != "399" },
				Set: func(line, name, value string) error {
					if name == "mailbox" {
						return errors.New("set: read only")
					}
					did += fmt.Sprintf("%s.%s=%s ", line, name, value)
					return nil
				},
			})
			if to != tc.to || tc.fault == "" && did != tc.did {
				t.Errorf("returned %q and did %q", to, did)
			}
			if fault := fmt.Sprint(err); (err == nil) != (tc.fault == "") || err != nil && !strings.HasPrefix(fault, tc.fault) {
				t.Errorf("fault %q, want %q", fault, tc.fault)
			}
		})
	}
}

func TestCompile(t *testing.T) {
	for _, tc := range []struct{ name, text, fault string }{
		{"nothing", "", "line 1: the script has no function route"},
		{"no function", "route = 3", "line 1: the script has no function route"},
		{"no Starlark", "def route(call)\n    pass", "line 2: got newline"},
		{"unknown name", "def route(call):\n    return open('/etc/passwd')", "line 2: undefined: open"},
		{"another module", "load('x.star', 'y')\ndef route(call):\n    pass", "line 1: a script cannot load others"},
		{"two parameters", "\ndef route(call, more):\n    pass", "line 2: route takes the call"},
		{"any parameters", "def route(*calls):\n    pass", "line 1: route takes the call"},
		{"work outside of the function", "x = field('callforward')\ndef route(call):\n    pass", "line 1: field may be used inside of route only"},
		{"no end outside of the function", "X = [x for x in range(1000000)]\ndef route(call):\n    pass", "line 1: Starlark computation cancelled"},
		{"recursion is refused when it runs, loops of while at once", "def route(call):\n    while True:\n        pass", "line 2:"},
		{"too long", "#" + strings.Repeat("x", MaxText), "the script is longer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Compile(tc.text)
			if err == nil || !strings.HasPrefix(err.Error(), tc.fault) {
				t.Errorf("%v, want %q", err, tc.fault)
			}
		})
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("def route(call):\n    return 'busy'")
	f.Add("load('a', 'b')")
	f.Add("def route(call):\n    return [x for x in range(10)]")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Compile(text)
		if err != nil {
			return
		}
		_, _ = s.Run(evening, Host{
			Field: func(string, string) (string, bool) { return "", false }, Set: func(string, string, string) error { return nil },
		})
	})
}
