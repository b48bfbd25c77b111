package dhcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Ports (RFC 2131, section 4.1).
const (
	serverPort = 67
	clientPort = 68
)

// pollEvery is how soon the end of a context is noticed.
const pollEvery = 250 * time.Millisecond

// ErrNoAnswer is returned when no server has answered in time.
var ErrNoAnswer = errors.New("no DHCP server answers")

// AskContext goes through discover, offer, request and ack on one interface, whose name and address it is given, until ctx ends;
// again is an address that is wanted again, if there is one.
func AskContext(ctx context.Context, device string, mac [6]byte, hostname string, again netip.Addr) (Message, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Message{}, fmt.Errorf("DHCP: %w", err)
	}
	defer unix.Close(fd)
	for _, e := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.BindToDevice(fd, device),
		unix.Bind(fd, &unix.SockaddrInet4{Port: clientPort}),
	} {
		if e != nil {
			return Message{}, fmt.Errorf("DHCP on %s: %w", device, e)
		}
	}
	m := Message{ID: rand.Uint32(), MAC: mac, Type: Discover, Hostname: hostname, Requested: again}
	offer, err := exchange(ctx, fd, m, Offer)
	if err != nil {
		return offer, err
	}
	m.Type, m.Requested, m.Server = Request, offer.Yours, offer.Server
	ack, err := exchange(ctx, fd, m, Ack)
	if err != nil {
		return ack, err
	}
	if ack.Type == Nak {
		return ack, errors.New("the DHCP server takes its offer back")
	}
	return ack, nil
}

// exchange sends until an answer of the kind comes; the pause doubles (RFC 2131, section 4.1).
func exchange(ctx context.Context, fd int, m Message, want byte) (Message, error) {
	b := make([]byte, 1500)
	for pause := time.Second; ; pause = min(2*pause, 8*time.Second) {
		if ctx.Err() != nil {
			return Message{}, ErrNoAnswer
		}
		to := &unix.SockaddrInet4{Port: serverPort, Addr: netip.AddrFrom4([4]byte{255, 255, 255, 255}).As4()}
		if err := unix.Sendto(fd, m.Marshal(), 0, to); err != nil {
			return Message{}, fmt.Errorf("DHCP: %w", err)
		}
		for until := time.Now().Add(pause); ; {
			left := time.Until(until)
			if left <= 0 || ctx.Err() != nil {
				break
			}
			tv := unix.NsecToTimeval(max(min(left, pollEvery), time.Millisecond).Nanoseconds())
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
				return Message{}, err
			}
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				if err == unix.EAGAIN || err == unix.EINTR {
					continue
				}
				return Message{}, fmt.Errorf("DHCP: %w", err)
			}
			var got Message
			if got.Unmarshal(b[:n]) == nil && got.Reply && got.ID == m.ID && got.MAC == m.MAC && (got.Type == want || want == Ack && got.Type == Nak) {
				return got, nil
			}
		}
	}
}
