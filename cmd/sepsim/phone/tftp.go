package phone

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// TFTP (RFC 1350) as a phone speaks it: octet mode, and where the model asks for it a block size (RFC 2348).
//
//	RRQ    00 01 name 00 mode 00 [option 00 value 00]…
//	DATA   00 03 block(2) 0…blksize bytes
//	ACK    00 04 block(2)
//	ERROR  00 05 code(2) text 00
//	OACK   00 06 [option 00 value 00]…

const (
	tftpRRQ   = 1
	tftpDATA  = 3
	tftpACK   = 4
	tftpERROR = 5
	tftpOACK  = 6

	tftpTries   = 5
	tftpMaxFile = 1 << 20
)

// errNotFound says that the server answered that there is no such file.
var errNotFound = errors.New("not found")

// tftpPacket is a datagram of the server.
type tftpPacket struct {
	op      uint16
	block   uint16 // DATA; the code of ERROR
	data    []byte // DATA; the text of ERROR
	options map[string]string
}

func (p *tftpPacket) unmarshal(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("tftp: packet of %d bytes", len(b))
	}
	*p = tftpPacket{op: binary.BigEndian.Uint16(b)}
	switch p.op {
	case tftpDATA:
		p.block, p.data = binary.BigEndian.Uint16(b[2:]), b[4:]
	case tftpERROR:
		p.block = binary.BigEndian.Uint16(b[2:])
		text, _, _ := strings.Cut(string(b[4:]), "\x00")
		p.data = []byte(text)
	case tftpOACK:
		fields := strings.Split(strings.TrimSuffix(string(b[2:]), "\x00"), "\x00")
		if len(fields)%2 != 0 {
			return errors.New("tftp: option without value")
		}
		p.options = make(map[string]string, len(fields)/2)
		for i := 0; i < len(fields); i += 2 {
			p.options[strings.ToLower(fields[i])] = fields[i+1]
		}
	default:
		return fmt.Errorf("tftp: opcode %d from a server", p.op)
	}
	return nil
}

func tftpRequest(name string, blksize int) []byte {
	b := binary.BigEndian.AppendUint16(nil, tftpRRQ)
	b = append(b, name...)
	b = append(b, 0)
	b = append(b, "octet\x00"...)
	if blksize > 0 {
		b = append(b, "blksize\x00"+strconv.Itoa(blksize)+"\x00"...)
	}
	return b
}

func tftpAck(block uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{0, tftpACK}, block)
}

// tftpGet reads one file. wait is the first patience for a packet; it doubles with each of five tries.
func tftpGet(ctx context.Context, n Network, server netip.AddrPort, name string, blksize int, wait time.Duration) ([]byte, error) {
	local, err := n.Local(server.Addr())
	if err != nil {
		return nil, err
	}
	sock, err := n.ListenUDP(netip.AddrPortFrom(local, 0))
	if err != nil {
		return nil, fmt.Errorf("tftp: open socket: %w", err)
	}
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() { sock.Close() })
	defer stop()

	t := tftpTransfer{sock: sock, server: server, size: 512, next: 1}
	t.peer = net.UDPAddrFromAddrPort(server)
	t.last = tftpRequest(name, blksize)
	if _, err := sock.WriteTo(t.last, t.peer); err != nil {
		return nil, fmt.Errorf("tftp: ask for %s: %w", name, err)
	}
	buf := make([]byte, 65535)
	tries, patience := 0, wait
	for {
		_ = sock.SetReadDeadline(time.Now().Add(patience))
		k, from, err := sock.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				return nil, fmt.Errorf("tftp: read %s: %w", name, err)
			}
			if tries++; tries >= tftpTries {
				return nil, fmt.Errorf("tftp: %s: no answer", name)
			}
			patience *= 2
			if _, err := sock.WriteTo(t.last, t.peer); err != nil {
				return nil, fmt.Errorf("tftp: ask again for %s: %w", name, err)
			}
			continue
		}
		done, progress, err := t.receive(buf[:k], addrPortOf(from))
		if err != nil {
			return nil, err
		}
		if done {
			return t.content, nil
		}
		if progress {
			tries, patience = 0, wait
		}
	}
}

// tftpTransfer is the client's side of one read.
type tftpTransfer struct {
	sock    net.PacketConn
	server  netip.AddrPort
	peer    net.Addr // the request port until the first answer, then the transfer's own
	fixed   bool
	size    int
	next    uint16
	last    []byte
	content []byte
}

func (t *tftpTransfer) receive(b []byte, from netip.AddrPort) (done, progress bool, err error) {
	if from.Addr() != t.server.Addr() {
		return false, false, nil
	}
	if t.fixed && from != addrPortOf(t.peer) {
		// RFC 1350 §4: another port is told so and does not disturb the transfer.
		_, _ = t.sock.WriteTo([]byte{0, tftpERROR, 0, 5, 'p', 'o', 'r', 't', 0}, net.UDPAddrFromAddrPort(from))
		return false, false, nil
	}
	var p tftpPacket
	if err := p.unmarshal(b); err != nil {
		return false, false, err
	}
	t.peer, t.fixed = net.UDPAddrFromAddrPort(from), true
	switch p.op {
	case tftpERROR:
		if p.block == 1 {
			return false, false, errNotFound
		}
		return false, false, fmt.Errorf("tftp: error %d: %s", p.block, p.data)
	case tftpOACK:
		if t.next != 1 || len(t.content) > 0 {
			return false, false, nil
		}
		if v, ok := p.options["blksize"]; ok {
			n, err := strconv.Atoi(v)
			if err != nil || n < 8 || n > 65464 {
				return false, false, fmt.Errorf("tftp: block size %q answered", v)
			}
			t.size = n
		}
		t.last = tftpAck(0)
	case tftpDATA:
		if p.block != t.next {
			// An older block again: the acknowledgement was lost. Anything else is not ours to answer.
			if p.block == t.next-1 {
				_, _ = t.sock.WriteTo(t.last, t.peer)
			}
			return false, false, nil
		}
		if len(p.data) > t.size {
			return false, false, fmt.Errorf("tftp: block of %d bytes where %d were agreed", len(p.data), t.size)
		}
		if len(t.content)+len(p.data) > tftpMaxFile {
			return false, false, fmt.Errorf("tftp: file above %d bytes", tftpMaxFile)
		}
		t.content = append(t.content, p.data...)
		t.last = tftpAck(t.next)
		t.next++
		done = len(p.data) < t.size
	}
	if _, err := t.sock.WriteTo(t.last, t.peer); err != nil {
		return false, false, fmt.Errorf("tftp: acknowledge: %w", err)
	}
	return done, true, nil
}
