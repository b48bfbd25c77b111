package tunnel

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCreateWithoutRights takes the rights from one thread and lets it try.
func TestCreateWithoutRights(t *testing.T) {
	got := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread without rights ends with the goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			got <- err
			return
		}
		d, err := Create("rftest0", []Network{{Address: netip.MustParsePrefix("10.99.0.1/24"), MTU: 1290}})
		if err == nil {
			d.Close()
		}
		got <- err
	}()
	if err := <-got; !errors.Is(err, ErrNoRights) {
		t.Errorf("%v, want %v", err, ErrNoRights)
	}
}
