package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func offer() Message {
	return Message{Reply: true, ID: 0x01020304, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Type: Ack, Yours: netip.MustParseAddr("192.0.2.10"), Server: netip.MustParseAddr("192.0.2.1"),
		Mask: netip.MustParseAddr("255.255.255.128"), Router: netip.MustParseAddr("192.0.2.1"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("192.0.2.54")}, Lease: time.Hour}
}

func TestRoundTrip(t *testing.T) {
	request := Message{ID: 7, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Type: Request, Yours: netip.IPv4Unspecified(), Requested: netip.MustParseAddr("192.0.2.10"), Server: netip.MustParseAddr("192.0.2.1"), Hostname: "ringfence"}
	for _, want := range []Message{offer(), request} {
		var got Message
		if err := got.Unmarshal(want.Marshal()); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got, want, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("got, want:\n%s", d)
		}
	}
}

func TestPrefix(t *testing.T) {
	for _, c := range []struct{ mask, yours, want string }{
		{"255.255.255.128", "192.0.2.10", "192.0.2.10/25"},
		{"0.0.0.0", "192.0.2.10", "192.0.2.10/0"},
		{"255.0.255.0", "192.0.2.10", ""},
		{"255.255.255.0", "0.0.0.0", ""},
		{"255.255.255.0", "224.0.0.1", ""},
	} {
		m := Message{Mask: netip.MustParseAddr(c.mask), Yours: netip.MustParseAddr(c.yours)}
		p, err := m.Prefix()
		if (err == nil) != (c.want != "") || err == nil && p.String() != c.want {
			t.Errorf("%s %s: %s, %v, want %q", c.yours, c.mask, p, err, c.want)
		}
	}
	if p, err := (Message{Yours: netip.MustParseAddr("192.0.2.10")}).Prefix(); err != nil || p.Bits() != 24 {
		t.Errorf("no mask: %s, %v", p, err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(offer().Marshal())
	f.Add(append(make([]byte, 236), 0x63, 0x82, 0x53, 0x63, 1, 4, 255))
	f.Add(append(make([]byte, 236), 0x63, 0x82, 0x53, 0x63, 0, 51, 3, 1, 2, 3, 6, 5, 1, 2, 3, 4, 5, 53, 0, 255))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		if m.Unmarshal(b) == nil {
			_, _ = m.Prefix()
		}
	})
}
