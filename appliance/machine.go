package appliance

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/host"
	"ringfence/appliance/supervise"
	"ringfence/image/boot"
	"ringfence/image/boot/release"
)

// addMachine adds what looks after the machine: room on its disk, and its clock where that is ours to keep.
func (a *appliance) addMachine() {
	a.supervisor.Add(supervise.Service{Name: "disk", Run: a.space.Run})
	if b := a.doc().Node.Backup; b.Folder != "" || b.URL != "" {
		a.saver = a.newSaver(b)
		a.supervisor.Add(supervise.Service{Name: "backup", Run: a.saver.run})
	}
	_, err := boot.ReadStatus()
	if image := err == nil; !image && len(a.doc().Node.Host.NTP) == 0 {
		return
	}
	built := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if about, err := release.Read(); err == nil {
		built = time.Unix(about.Serial, 0)
	}
	a.time = host.NewClock(host.ClockOptions{Servers: a.timeServers, Newest: a.newestCertificate, Built: built, Dir: a.StateDir, Log: a.log})
	a.supervisor.Add(supervise.Service{Name: "clock", Run: a.time.Run})
}

// timeServers are those that are declared for this machine, else those of phones but for ourselves, else those that DHCP named.
func (a *appliance) timeServers(ctx context.Context) []string {
	var out []string
	for _, h := range a.doc().Node.Host.NTP {
		out = append(out, string(h))
	}
	if len(out) > 0 {
		return out
	}
	for _, h := range a.doc().Site.NTP {
		own, err := netip.ParseAddr(string(h))
		if err == nil && (own == a.doc().Node.Address || slices.Contains(a.doc().Site.Appliances, own)) {
			continue // two appliances that follow each other follow nobody
		}
		out = append(out, string(h))
	}
	if len(out) > 0 {
		return out
	}
	return a.host.TimeServers(ctx)
}

// newestCertificate is when the newest certificate that we issued begins.
func (a *appliance) newestCertificate() time.Time {
	var newest time.Time
	for _, r := range a.ca.List() {
		if r.NotBefore.After(newest) {
			newest = r.NotBefore
		}
	}
	return newest
}

// newSpace guards the disk. What is heard may go when there is no room; what is not stays.
func (a *appliance) newSpace() *host.Space {
	heard := host.Shelf{Name: "voicemail", Oldest: func() (string, time.Time, func(context.Context) error, bool) {
		if a.boxes == nil {
			return "", time.Time{}, nil, false
		}
		m, ok := a.boxes.Oldest()
		return "message " + m.ID + " of mailbox " + m.Box, m.At, func(ctx context.Context) error { return a.boxes.Delete(ctx, m.Box, m.ID) }, ok
	}}
	return host.NewSpace(host.SpaceOptions{Dir: a.StateDir, Shelves: []host.Shelf{heard}, Log: a.log})
}

// machineWarnings are about network, disk, heat and clock.
func (a *appliance) machineWarnings() []string {
	out := append(a.host.Warnings(), a.space.Warnings()...)
	out = append(out, host.LookAt("/sys", a.StateDir).Warnings()...)
	if a.saver != nil {
		out = append(out, a.saver.warnings()...)
	}
	if a.time != nil {
		if v := a.time.View(); v.Problem != "" {
			out = append(out, "the clock: "+v.Problem)
		}
	}
	return out
}

func (a *appliance) machineInfo() *admin.MachineInfo {
	h := host.LookAt("/sys", a.StateDir)
	m := &admin.MachineInfo{DataSize: h.Size, DataFree: h.Free}
	if len(h.Temperatures) > 0 {
		m.Sensor, m.Celsius = h.Temperatures[0].Sensor, h.Temperatures[0].Celsius
	}
	if a.time == nil {
		return m
	}
	switch v := a.time.View(); {
	case v.Synced:
		m.ClockSynced = true
		m.Clock = fmt.Sprintf("follows %s, %s off at %s", strings.Join(v.Servers, ", "), v.Offset.Abs().Round(100*time.Microsecond), v.At.Local().Format(time.TimeOnly))
	case len(v.Servers) == 0:
		m.Clock = "follows nobody: node.host.ntp names time servers"
	default:
		m.Clock = "asks " + strings.Join(v.Servers, ", ")
	}
	return m
}
