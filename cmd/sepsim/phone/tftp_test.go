package phone

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestTFTP(t *testing.T) {
	f := newFiles(t)
	server := netip.AddrPortFrom(loopback, uint16(f.tftpPort))
	for _, size := range []int{0, 1, 511, 512, 513, 1024, 2048, 5000} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		f.put("x", want)
		for _, blksize := range []int{0, 1024} {
			got, err := tftpGet(t.Context(), hostNetwork{local: loopback}, server, "x", blksize, time.Second)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes in blocks of %d: %d, %v", size, blksize, len(got), err)
			}
		}
	}
	if _, err := tftpGet(t.Context(), hostNetwork{local: loopback}, server, "y", 0, time.Second); !errors.Is(err, errNotFound) {
		t.Errorf("absent file: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	silent, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := tftpGet(ctx, hostNetwork{local: loopback}, addrPortOf(silent.LocalAddr()), "x", 0, time.Millisecond); err == nil || errors.Is(err, errNotFound) {
		t.Errorf("silent server: %v", err)
	}
}

func FuzzTFTPPacket(f *testing.F) {
	f.Add([]byte{0, 3, 0, 1, 'x'})
	f.Add([]byte("\x00\x06blksize\x001024\x00"))
	f.Add([]byte("\x00\x05\x00\x01File not found\x00"))
	f.Add([]byte{0, 6, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p tftpPacket
		_ = p.unmarshal(b)
	})
}
