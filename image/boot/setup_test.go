package boot

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestAskSetup(t *testing.T) {
	for _, c := range []struct {
		name, current, typed, want string
		static                     bool
		err                        error
	}{
		{"keeps DHCP", "192.0.2.7", "\n\ny\n", "node:\n  name: ringfence\n  address: 192.0.2.7\n", false, nil},
		{"name and address", "192.0.2.7", "hall\n192.0.2.10/24 192.0.2.1\nyes\n", "node:\n  name: hall\n  address: 192.0.2.10\n", true, nil},
		{"mistakes are asked again", "", "my hall\nhall\n\n192.0.2.10\n127.0.0.1/8\n192.0.2.10/24\ny\n", "node:\n  name: hall\n  address: 192.0.2.10\n", true, nil},
		{"not confirmed", "192.0.2.7", "\n\n\n", "", false, errAborted},
	} {
		var out bytes.Buffer
		a, err := askSetup(bufio.NewReader(strings.NewReader(c.typed)), &out, c.current)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		} else if err == nil && (string(a.document()) != c.want || (a.static != nil) != c.static) {
			t.Errorf("%s: %q, static %v\n%s", c.name, a.document(), a.static, out.String())
		}
	}
	if _, err := askSetup(bufio.NewReader(strings.NewReader("hall\n")), &bytes.Buffer{}, ""); err == nil {
		t.Error("a line that was cut off is no answer")
	}
}
