package main

import (
	"fmt"
	"net/netip"
	"os/exec"
)

// Addresses of the network for measurements (RFC 2544), all of them local in the namespace:
//
//	198.18.0.1      the daemon      198.18.0.2    the reference
//	198.18.0.9      where the tunnel's stream ends
//	198.19.x.y      phones and lines, each with an address of its own, as the limits per source want it
const (
	daemonAddress    = "198.18.0.1"
	referenceAddress = "198.18.0.2"
	streamAddress    = "198.18.0.9"
)

// phoneAddress is where phone i lives.
func phoneAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 19, byte(i / 250), byte(i%250 + 1)})
}

// prepareNamespace makes the loopback of the new namespace work.
func prepareNamespace() error {
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"route", "add", "local", "198.18.0.0/15", "dev", "lo"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}
