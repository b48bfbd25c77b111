package cstp

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestFrameGolden(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Frame
		want string
	}{
		{"keepalive has no payload", Frame{Keepalive, nil}, "STF\x01\x00\x00\x07\x00"},
		{"data", Frame{Data, []byte("E...")}, "STF\x01\x00\x04\x00\x00E..."},
		{"bye", Frame{Disconnect, []byte("\xb0bye")}, "STF\x01\x00\x04\x05\x00\xb0bye"},
		{"long payload has a big endian length", Frame{DPDResponse, bytes.Repeat([]byte{9}, 0x123)}, "STF\x01\x01\x23\x04\x00" + strings.Repeat("\x09", 0x123)},
	} {
		got := c.f.Append(nil)
		if string(got) != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		f, rest, err := Next(append(got, "next"...))
		if err != nil || f.Type != c.f.Type || !bytes.Equal(f.Payload, c.f.Payload) || string(rest) != "next" {
			t.Errorf("%s: decoded %v %q rest %q err %v", c.name, f.Type, f.Payload, rest, err)
		}
	}
}

func TestNextSplitAtEveryByte(t *testing.T) {
	whole := Frame{Data, []byte("0123456789")}.Append(nil)
	for n := range whole {
		if _, _, err := Next(whole[:n]); !errors.Is(err, ErrShort) {
			t.Errorf("first %d bytes: %v, want %v", n, err, ErrShort)
		}
	}
}

func TestNextRefuses(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"wrong magic at once", "S0", ErrMagic},
		{"wrong version", "STF\x02\x00\x00\x00\x00", ErrMagic},
		{"last header byte not zero", "STF\x01\x00\x00\x00\x01", ErrMagic},
		{"longer than a record", "STF\x01\xff\xff\x00\x00", ErrTooLong},
		{"HTTP", "GET / HTTP/1.1\r\n", ErrMagic},
	} {
		if _, _, err := Next([]byte(c.in)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestDisconnectReason(t *testing.T) {
	for _, c := range []struct {
		name, in string
		code     byte
		text     string
	}{
		{"empty", "", 0, ""},
		{"user's wish", "\xb0Client received SIGTERM", 0xb0, "Client received SIGTERM"},
		{"control bytes go", "\x01a\x00b\nc\x7f", 1, "abc"},
		{"bounded", "\x02" + strings.Repeat("x", 500), 2, strings.Repeat("x", 200)},
	} {
		code, text := DisconnectReason([]byte(c.in))
		if code != c.code || text != c.text {
			t.Errorf("%s: %#x %q, want %#x %q", c.name, code, text, c.code, c.text)
		}
	}
}

func FuzzNext(f *testing.F) {
	f.Add([]byte("STF\x01\x00\x04\x00\x00E..."))
	f.Add([]byte("STF\x01\xff\xff\x00\x00"))
	f.Add([]byte("STF\x01\x00\x00\x07\x00STF\x01\x00\x01\x03\x00a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			fr, rest, err := Next(b)
			if err != nil {
				return
			}
			whole := b[:len(b)-len(rest)]
			if got := fr.Append(nil); !bytes.Equal(got, whole) {
				t.Fatalf("re-encoded %q, want %q", got, whole)
			}
			DisconnectReason(fr.Payload)
			b = rest
		}
	})
}
