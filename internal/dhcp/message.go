// Package dhcp is the client side of DHCP (RFC 2131, 2132) as far as an appliance needs it to be reached: discover, request,
// and the handful of options that give it an address, a gateway, and servers for names and the time.
package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Types of messages (RFC 2132, section 9.6).
const (
	Discover byte = 1
	Offer    byte = 2
	Request  byte = 3
	Ack      byte = 5
	Nak      byte = 6
)

// Options (RFC 2132).
const (
	optMask      = 1
	optRouter    = 3
	optDNS       = 6
	optHostname  = 12
	optNTP       = 42
	optRequested = 50
	optLease     = 51
	optType      = 53
	optServer    = 54
	optList      = 55
	optEnd       = 255
)

// Message is a message of DHCP.
//
//	0 op  1 htype  2 hlen  3 hops  4 xid  8 secs  10 flags  12 ciaddr  16 yiaddr  20 siaddr  24 giaddr
//	28 chaddr (16)  44 sname (64)  108 file (128)  236 cookie  240 options
type Message struct {
	Reply     bool
	ID        uint32
	MAC       [6]byte
	Yours     netip.Addr // address that is offered
	Type      byte
	Requested netip.Addr
	Server    netip.Addr
	Mask      netip.Addr
	Router    netip.Addr
	DNS       []netip.Addr
	NTP       []netip.Addr
	Lease     time.Duration
	Hostname  string
}

const (
	cookie    = 0x63825363
	headSize  = 240
	broadcast = 0x8000 // the answer cannot come to an address that is not there yet
)

// Marshal writes a message of a client.
func (m Message) Marshal() []byte {
	b := make([]byte, headSize, 300)
	b[0], b[1], b[2] = 1, 1, 6
	if m.Reply {
		b[0] = 2
	}
	binary.BigEndian.PutUint32(b[4:], m.ID)
	binary.BigEndian.PutUint16(b[10:], broadcast)
	if m.Yours.Is4() {
		copy(b[16:], m.Yours.AsSlice())
	}
	copy(b[28:], m.MAC[:])
	binary.BigEndian.PutUint32(b[236:], cookie)
	option := func(code byte, value []byte) {
		b = append(b, code, byte(len(value)))
		b = append(b, value...)
	}
	address := func(code byte, a netip.Addr) {
		if a.Is4() {
			option(code, a.AsSlice())
		}
	}
	option(optType, []byte{m.Type})
	address(optRequested, m.Requested)
	address(optServer, m.Server)
	address(optMask, m.Mask)
	address(optRouter, m.Router)
	var dns []byte
	for _, a := range m.DNS {
		dns = append(dns, a.AsSlice()...)
	}
	if len(dns) > 0 {
		option(optDNS, dns)
	}
	var ntp []byte
	for _, a := range m.NTP {
		ntp = append(ntp, a.AsSlice()...)
	}
	if len(ntp) > 0 {
		option(optNTP, ntp)
	}
	if m.Lease > 0 {
		option(optLease, binary.BigEndian.AppendUint32(nil, uint32(m.Lease/time.Second)))
	}
	if m.Hostname != "" {
		option(optHostname, []byte(m.Hostname)[:min(len(m.Hostname), 63)])
	}
	if !m.Reply {
		option(optList, []byte{optMask, optRouter, optDNS, optNTP, optLease})
	}
	b = append(b, optEnd)
	for len(b) < 300 {
		b = append(b, 0) // some servers and relays drop what is shorter (RFC 1542, section 2.1)
	}
	return b
}

// Unmarshal reads a message.
func (m *Message) Unmarshal(b []byte) error {
	*m = Message{}
	if len(b) < headSize || binary.BigEndian.Uint32(b[236:]) != cookie {
		return errors.New("no DHCP message")
	}
	m.Reply = b[0] == 2
	m.ID = binary.BigEndian.Uint32(b[4:])
	m.Yours = netip.AddrFrom4([4]byte(b[16:20]))
	copy(m.MAC[:], b[28:])
	for o := b[headSize:]; len(o) > 0 && o[0] != optEnd; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return fmt.Errorf("DHCP option %d is cut off", o[0])
		}
		code, v := o[0], o[2:2+int(o[1])]
		o = o[2+len(v):]
		var a netip.Addr
		if len(v) >= 4 {
			a = netip.AddrFrom4([4]byte(v))
		}
		switch code {
		case optType:
			if len(v) == 1 {
				m.Type = v[0]
			}
		case optMask:
			m.Mask = a
		case optRouter:
			m.Router = a
		case optServer:
			m.Server = a
		case optRequested:
			m.Requested = a
		case optDNS:
			for ; len(v) >= 4 && len(m.DNS) < 4; v = v[4:] {
				m.DNS = append(m.DNS, netip.AddrFrom4([4]byte(v)))
			}
		case optNTP:
			for ; len(v) >= 4 && len(m.NTP) < 4; v = v[4:] {
				m.NTP = append(m.NTP, netip.AddrFrom4([4]byte(v)))
			}
		case optLease:
			if len(v) == 4 {
				m.Lease = time.Duration(binary.BigEndian.Uint32(v)) * time.Second
			}
		case optHostname:
			m.Hostname = string(v)
		}
	}
	return nil
}

// Prefix is the offered address with its network.
func (m Message) Prefix() (netip.Prefix, error) {
	bits := 24
	if m.Mask.Is4() {
		mask := binary.BigEndian.Uint32(m.Mask.AsSlice())
		for bits = 0; bits < 32 && mask&(1<<(31-bits)) != 0; bits++ {
		}
		if mask<<bits != 0 {
			return netip.Prefix{}, fmt.Errorf("mask %s is none", m.Mask)
		}
	}
	if !m.Yours.Is4() || m.Yours.IsUnspecified() || m.Yours.IsMulticast() {
		return netip.Prefix{}, fmt.Errorf("address %s is none", m.Yours)
	}
	return netip.PrefixFrom(m.Yours, bits), nil
}
