package cisco

import (
	"net/netip"
	"strings"
	"testing"
)

// TestStartMedia holds the documents to "rtp-streaming" §1 and its limits.
func TestStartMedia(t *testing.T) {
	good := StartMedia{Volume: 75, Codec: "G.722", Address: netip.MustParseAddr("192.0.2.10"), Port: 20480}
	want := `<?xml version="1.0" encoding="UTF-8"?>
<startMedia>
<mediaStream receiveVolume="75">
<type>audio</type>
<codec>G.722</codec>
<mode>receive</mode>
<address>192.0.2.10</address>
<port>20480</port>
</mediaStream>
</startMedia>
`
	if got := string(good.Marshal()); got != want || good.Check() != nil {
		t.Errorf("%s, %v", got, good.Check())
	}
	quiet := good
	quiet.Volume = 0
	if got := string(quiet.Marshal()); strings.Contains(got, "receiveVolume") || quiet.Check() != nil {
		t.Errorf("the user's own volume: %s", got)
	}
	for name, change := range map[string]func(*StartMedia){
		"volume": func(s *StartMedia) { s.Volume = 101 }, "negative": func(s *StartMedia) { s.Volume = -1 },
		"codec": func(s *StartMedia) { s.Codec = "opus" }, "odd port": func(s *StartMedia) { s.Port = 20481 },
		"low port": func(s *StartMedia) { s.Port = 20478 }, "high port": func(s *StartMedia) { s.Port = 32770 },
		"no address": func(s *StartMedia) { s.Address = netip.Addr{} }, "IPv6": func(s *StartMedia) { s.Address = netip.IPv6Loopback() },
	} {
		bad := good
		if change(&bad); bad.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if got := string(StopMedia()); !strings.Contains(got, "<stopMedia>\n<mediaStream />\n</stopMedia>") {
		t.Error(got)
	}
}
