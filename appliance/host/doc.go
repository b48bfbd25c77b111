// Package host configures the machine that the appliance runs on, as node.host declares it: interfaces, VLANs, bonds, addresses, routes,
// names, firewall and clock. It works by netlink alone, wherever the process may (CAP_NET_ADMIN): in the image and on ordinary Linux.
//
// Nothing is touched that is not declared, and a change that an administrator applies returns by itself unless it is confirmed:
//
//	           ┌────────── apply ──────────┐        ┌── confirm ──▶ confirmed: put into force at every start
//	confirmed ─┘                           └▶ pending
//	     ▲                                          └── time, a failure, the end of the process, a crash ──┐
//	     └───────────────────────────── return ◀─────────────────────────────────────────────────────────┘
//
// The pending state is written and fsynced before the first change (journal.go), so that a start after a crash finds it and returns.
//
// keeper.go is the owner and its one goroutine, links.go brings the kernel from what is to what shall be, firewall.go makes the
// rules and replaces them in one transaction, clock.go follows time servers, health.go looks at carriers, disks and temperatures.
//
// What it leaves out: bridges, tunnels, policy routing, DHCPv6, Wi-Fi, and everything that another program of the machine configures.
package host
