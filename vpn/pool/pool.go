// Package pool gives out inner addresses. A name (device or user) gets the same address each time: the assignment is state,
// kept under vpn/addr/POLICY/NAME, and a name that is new begins its search at a place computed from it, so that two
// appliances which have not spoken yet agree nearly always.
package pool

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// ErrFull says that each address of the pool is in use.
var ErrFull = errors.New("no free address in the pool")

// State keeps assignments.
type State interface {
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Pool is the addresses of one policy. Network and gateway address (the first) and the last are never given out.
type Pool struct {
	prefix string // of keys
	net    netip.Prefix
	state  State // may be nil
	log    *slog.Logger

	mu    sync.Mutex          // guards all below
	home  map[string]uint32   // name to its own offset
	owner map[uint32]string   // and back
	used  map[uint32]struct{} // offsets of live sessions
	seen  map[string]uint64   // order of last use
	clock uint64
}

// New reads the assignments of policy from state. Assignments outside the network are forgotten.
func New(policy string, network netip.Prefix, state State, log *slog.Logger) *Pool {
	p := &Pool{prefix: "vpn/addr/" + policy + "/", net: network.Masked(), state: state, log: log,
		home: make(map[string]uint32), owner: make(map[uint32]string), used: make(map[uint32]struct{}), seen: make(map[string]uint64)}
	if state == nil {
		return p
	}
	state.Scan(p.prefix, func(key string, value []byte) bool {
		name := strings.TrimPrefix(key, p.prefix)
		a, err := netip.ParseAddr(string(value))
		if err != nil || !p.net.Contains(a) {
			return true
		}
		off := p.offset(a)
		// Two names may hold one address after a pair was apart: the first keeps it, the other gets a new one.
		if _, taken := p.owner[off]; off < 2 || off > p.last() || taken {
			return true
		}
		p.home[name], p.owner[off] = off, name
		return true
	})
	return p
}

// Network is the pool's address range.
func (p *Pool) Network() netip.Prefix { return p.net }

func (p *Pool) offset(a netip.Addr) uint32 {
	x, base := a.As4(), p.net.Addr().As4()
	return binary.BigEndian.Uint32(x[:]) - binary.BigEndian.Uint32(base[:])
}

func (p *Pool) addr(off uint32) netip.Addr {
	base := p.net.Addr().As4()
	var x [4]byte
	binary.BigEndian.PutUint32(x[:], binary.BigEndian.Uint32(base[:])+off)
	return netip.AddrFrom4(x)
}

// last is the last offset given out; the one behind it is the broadcast address.
func (p *Pool) last() uint32 { return uint32(1)<<(32-p.net.Bits()) - 2 }

// Take gives name its address. If that is in use by another session of the same name, another free one is lent. Release
// returns either.
func (p *Pool) Take(ctx context.Context, name string) (netip.Addr, error) {
	p.mu.Lock()
	off, key, old, err := p.takeLocked(name)
	p.mu.Unlock()
	if err != nil {
		return netip.Addr{}, err
	}
	a := p.addr(off)
	if key != "" && p.state != nil {
		var del []string
		if old != "" {
			del = append(del, p.prefix+old)
		}
		if err := p.state.Write(ctx, map[string][]byte{key: []byte(a.String())}, del...); err != nil {
			p.log.Error("VPN address is not kept for the next start", "name", name, "err", err)
		}
	}
	return a, nil
}

// takeLocked returns the offset, and the key to write with the name that loses its assignment when there is a new one. p.mu is
// held.
func (p *Pool) takeLocked(name string) (off uint32, key, old string, err error) {
	p.clock++
	p.seen[name] = p.clock
	if off, ok := p.home[name]; ok {
		if _, busy := p.used[off]; !busy {
			p.used[off] = struct{}{}
			return off, "", "", nil
		}
		off, old, err = p.searchLocked(name)
		if err == nil {
			p.used[off] = struct{}{}
		}
		if old != "" { // lent for a while, and its owner is away: the owner keeps the assignment
			old = ""
		}
		return off, "", "", err
	}
	if off, old, err = p.searchLocked(name); err != nil {
		return 0, "", "", err
	}
	if old != "" {
		delete(p.home, old)
		delete(p.seen, old)
	}
	p.used[off] = struct{}{}
	p.home[name], p.owner[off] = off, name
	return off, p.prefix + name, old, nil
}

// searchLocked finds a free offset: one that nobody owns, else one whose owner was away longest. p.mu is held.
func (p *Pool) searchLocked(name string) (off uint32, old string, err error) {
	size := p.last() - 1 // offsets 2 to last
	h := fnv.New32a()
	h.Write([]byte(p.prefix + name))
	start := h.Sum32() % size
	if len(p.owner)+len(p.used) < int(2*size) {
		for i := range size {
			off := 2 + (start+i)%size
			_, owned := p.owner[off]
			if _, busy := p.used[off]; !owned && !busy {
				return off, "", nil
			}
		}
	}
	var away []string
	for n, off := range p.home {
		if _, busy := p.used[off]; !busy {
			away = append(away, n)
		}
	}
	if len(away) == 0 {
		return 0, "", ErrFull
	}
	old = slices.MinFunc(away, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.seen[a], p.seen[b]), cmp.Compare(a, b))
	})
	return p.home[old], old, nil
}

// Claim takes a certain address, for a session that comes from elsewhere. It reports false when the address is in use or not of
// the pool.
func (p *Pool) Claim(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.net.Contains(a) {
		return false
	}
	off := p.offset(a)
	if _, busy := p.used[off]; busy || off < 2 || off > p.last() {
		return false
	}
	p.used[off] = struct{}{}
	return true
}

// Release returns an address.
func (p *Pool) Release(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, p.offset(a))
}

// In6 is the IPv6 address that goes with an IPv4 address of the pool: the same offset in network6.
func (p *Pool) In6(a netip.Addr, network6 netip.Prefix) netip.Addr {
	if !network6.IsValid() {
		return netip.Addr{}
	}
	off := p.offset(a)
	if bits := 128 - network6.Bits(); bits < 32 && off >= 1<<bits {
		return netip.Addr{}
	}
	x := network6.Masked().Addr().As16()
	binary.BigEndian.PutUint32(x[12:], binary.BigEndian.Uint32(x[12:])+off)
	return netip.AddrFrom16(x)
}
