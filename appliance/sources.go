package appliance

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"

	"ringfence/appliance/admin"
	"ringfence/appliance/phone"
	"ringfence/config"
	"ringfence/image/boot"
	"ringfence/pki"
	"ringfence/sip/registrar"
)

// sources answers the verbs from what the services know.
func (a *appliance) sources() admin.Sources {
	return admin.Sources{
		Status:      a.status,
		Phones:      a.phones,
		Phone:       a.phone,
		Lines:       a.lines,
		Line:        a.line,
		Certs:       a.certs,
		VPNSessions: a.vpnSessions,
		Calls:       a.callInfos,
	}
}

func (a *appliance) status() admin.StatusInfo {
	s := admin.StatusInfo{
		Appliance: a.doc().Node.Name, Address: a.doc().Node.Address.String(), Version: a.Version, Config: a.source.String(), StateDir: a.StateDir,
		Started: a.began, Services: admin.ServicesOf(a.supervisor.Health()), Warnings: append(a.ca.Warnings(), a.trust.Warnings()...),
		Calls: len(a.calls.Snapshot()), VPN: len(a.vpnSessions()),
	}
	listens := a.listeners()
	for i := range s.Services {
		s.Services[i].Listen = listens[s.Services[i].Name]
	}
	if why := a.noTime.Load(); why != nil && len(a.doc().Site.NTP) == 0 {
		s.Warnings = append(s.Warnings, "no time service, which phones are told to ask: "+*why)
	}
	s.Warnings = append(s.Warnings, a.machineWarnings()...)
	s.Machine = a.machineInfo()
	if a.noVPN != "" {
		s.Warnings = append(s.Warnings, "no VPN: "+a.noVPN)
	}
	if roots := a.ca.Roots(); len(roots) > 0 {
		sum := sha256.Sum256(roots[0].Raw)
		s.Authority = hex.EncodeToString(sum[:])
	}
	if st, err := boot.ReadStatus(); err == nil {
		s.Image = &st
	}
	for _, p := range a.phones(false) {
		switch {
		case p.More > 0:
			s.MoreWait = p.More
			continue
		case !p.Declared:
			s.Waiting = append(s.Waiting, p.Device)
			continue
		case p.State == phone.StateStuck:
			s.Stuck = append(s.Stuck, p.Device)
		}
		s.Phones.Declared++
		if p.State == phone.StateRegistered {
			s.Phones.Registered++
		}
	}
	for _, l := range a.lines() {
		s.Lines.Declared++
		if l.Registered {
			s.Lines.Registered++
		}
	}
	return s
}

// listeners are the addresses of each service as configured.
func (a *appliance) listeners() map[string][]string {
	l := a.doc().Node.Listen
	out := map[string][]string{}
	add := func(service, network string, e config.Endpoint) {
		if !e.Off() {
			out[service] = append(out[service], network+" "+e.String())
		}
	}
	add("http", "tcp", l.ProvisionHTTP)
	add("https", "tcp", l.ProvisionHTTPS)
	add("tftp", "udp", l.TFTP)
	add("capf", "tcp", l.CAPF)
	add("tvs", "tcp", l.TVS)
	add("sip", "tcp", l.SIPTCP)
	add("sip", "tls", l.SIPTLS)
	add("sip", "udp", l.SIPUDP)
	if a.clock.get() != nil {
		add("ntp", "udp", l.NTP)
	}
	if a.noVPN == "" {
		add("vpn", "tcp", l.VPN)
		add("vpn", "wireguard", l.WireGuard)
	}
	certListeners(a.doc(), add)
	add("admin", "http", l.Metrics)
	return out
}

// maxWaiting is how many devices that wait to be declared are listed unless all are asked for: names can be invented.
const maxWaiting = 10

// phones are the declared phones in the document's order, then those that wait to be declared, the most persistent ones first; or
// all that wait.
func (a *appliance) phones(waiting bool) []admin.PhoneInfo {
	var out []admin.PhoneInfo
	if !waiting {
		for i := range a.doc().Phones {
			out = append(out, a.phoneInfo(&a.doc().Phones[i]))
		}
	}
	unknown := slices.DeleteFunc(a.recorder.Devices(), func(s phone.Seen) bool { return s.Declared })
	slices.SortStableFunc(unknown, func(x, y phone.Seen) int {
		return cmp.Or(cmp.Compare(y.Notes, x.Notes), y.Last.Compare(x.Last))
	})
	for i, s := range unknown {
		if i == maxWaiting && !waiting {
			return append(out, admin.PhoneInfo{State: phone.StateWaiting, Lines: []admin.PhoneLine{}, More: len(unknown) - maxWaiting})
		}
		out = append(out, admin.PhoneInfo{Device: s.Device, State: a.recorder.Stand(s.Device).State})
	}
	return out
}

func (a *appliance) phone(device string) (admin.PhoneInfo, bool) {
	var info admin.PhoneInfo
	if p, ok := a.doc().Phone(device); ok {
		info = a.phoneInfo(p)
	} else if record := a.recorder.Record(device); len(record) > 0 {
		info = admin.PhoneInfo{Device: device}
	} else {
		return info, false
	}
	for _, w := range a.watchers(device) {
		if w.By == "key" && w.Device == device {
			info.Watches = append(info.Watches, admin.WatchedInfo{Number: w.Number, Shows: w.Shows, Confirmed: w.Confirmed})
		}
	}
	stand := a.recorder.Stand(device)
	info.State, info.Stand, info.Boot = stand.State, &stand, a.recorder.Record(device)
	return info, true
}

func (a *appliance) phoneInfo(p *config.Phone) admin.PhoneInfo {
	info := admin.PhoneInfo{Device: p.Device, Declared: true, Model: p.Model, Label: p.Label, Security: string(p.Security),
		State: a.recorder.Stand(p.Device).State, VPNPolicy: p.VPN, DND: a.sip.State().DND(p.Device), HuntLogin: a.sip.State().HuntLogin(p.Device)}
	for _, l := range a.doc().LinesOf(p.Device) {
		info.Lines = append(info.Lines, admin.PhoneLine{Index: l.Index, Number: string(l.Number), Label: l.Label})
	}
	for _, b := range a.sip.Registrar().Device(p.Device) {
		if b.Reachable() {
			r := registration(b)
			info.Registration = &r
			break
		}
	}
	if lsc, ok := a.ca.CurrentLSC(p.Device); ok {
		if r, ok := a.ca.Find(lsc.Raw); ok {
			c := certInfo(r, lsc)
			info.LSC = &c
		}
	}
	if f, ok := a.files.FetchedList(p.Device); ok {
		status := "current"
		if !f.Current {
			status = "outdated: the phone gets the new list at its next start"
		}
		info.ITL = &admin.FileInfo{Name: "trust list " + f.Hash[:min(12, len(f.Hash))], Status: status, At: f.At}
	}
	if p.Security == config.SecurityNonsecure {
		info.Warnings = append(info.Warnings, admin.PasswordInClear)
	}
	if warnings, err := a.files.Check(p.Device); err != nil {
		info.Warnings = append(info.Warnings, "its files cannot be made: "+err.Error())
	} else {
		info.Warnings = append(info.Warnings, warnings...)
	}
	for _, s := range a.vpnSessions() {
		if s.Device == p.Device {
			info.VPN = &s
		}
	}
	return info
}

func registration(b *registrar.Binding) admin.RegistrationInfo {
	r := admin.RegistrationInfo{Contact: b.ContactText, UserAgent: b.UserAgent, Since: b.Registered, Expires: b.Expires,
		Load: b.Load, InactiveLoad: b.InactiveLoad, LastReset: b.LastReset}
	if b.Cisco {
		r.RegisterCallID = b.CallID
	}
	if b.Flow != nil {
		r.Transport, r.Remote = b.Flow.Transport(), b.Flow.Remote().String()
	}
	return r
}

func (a *appliance) lines() []admin.LineInfo {
	out := make([]admin.LineInfo, 0, len(a.doc().Lines))
	for i := range a.doc().Lines {
		out = append(out, a.lineInfo(&a.doc().Lines[i]))
	}
	return out
}

func (a *appliance) line(number string) (admin.LineInfo, bool) {
	l, ok := a.doc().Line(number)
	if !ok {
		return admin.LineInfo{}, false
	}
	info := a.lineInfo(l)
	for _, w := range a.watchers(number) {
		if w.Number == number {
			info.Watchers = append(info.Watchers, w.Watcher)
		}
	}
	return info, true
}

func (a *appliance) lineInfo(l *config.Line) admin.LineInfo {
	number := string(l.Number)
	s := a.sip.State().Line(number)
	info := admin.LineInfo{Number: number, Name: declared{a.doc()}.name(l), Label: l.Label, User: l.User, Device: l.Phone, Calls: s.Calls,
		Forward: s.Forward, DND: s.DND, Phase: "idle", LoggedOut: !s.HuntLogin, OffHook: s.OffHook, Shows: s.Shows, New: s.New, Old: s.Old}
	info.Voicemail, _ = a.sip.State().Field(number, "mwiexten")
	if l.Phone != "" {
		info.Index = l.Index
	}
	switch {
	case s.Calls > 0 && s.Held == s.Calls:
		info.Phase = "held"
	case s.Calls > s.Ringing || s.OffHook:
		info.Phase = "active"
	case s.Ringing > 0:
		info.Phase = "ringing"
	}
	for _, b := range a.sip.Registrar().Lookup(number) {
		info.Registered = info.Registered || b.Reachable()
		info.Registrations = append(info.Registrations, registration(b))
	}
	return info
}

func (a *appliance) certs() []admin.CertInfo {
	var out []admin.CertInfo
	for _, r := range a.ca.List() {
		out = append(out, certInfo(r, nil))
	}
	return out
}

func certInfo(r pki.Record, cert *x509.Certificate) admin.CertInfo {
	c := admin.CertInfo{Role: string(r.Role), Device: r.Device, Subject: r.Subject, Serial: r.Serial, Key: r.Key, SHA256: r.Fingerprint,
		NotBefore: r.NotBefore, NotAfter: r.NotAfter, State: string(r.State), Reason: r.Reason}
	if c.Role == "" {
		c.Role = "LSC"
	}
	if cert != nil {
		c.Issuer = cert.Issuer.String()
	}
	return c
}

// metrics shows the areas' counts.
func (a *appliance) metrics() *admin.Metrics {
	m := admin.NewMetrics(a.Version)
	m.Services(a.supervisor.Health)
	count := func(name, help string, value func() int) {
		m.Gauge(name, help, func() float64 { return float64(value()) })
	}
	count("ringfence_sip_registrar_bindings", "Lines registered.", func() int { return len(a.sip.Registrar().All()) })
	count("ringfence_sip_call_calls", "Calls at this moment.", func() int { return len(a.calls.Snapshot()) })
	count("ringfence_vpn_session_sessions", "VPN sessions, connected or waiting to come back.", func() int { return len(a.vpnSessions()) })
	m.Gauges("ringfence_phone_stand_devices", "Declared phones by where they stand.", "state", func() []admin.Sample {
		n := map[string]float64{phone.StateUnseen: 0, phone.StateBooting: 0, phone.StateStuck: 0, phone.StateAway: 0, phone.StateRegistered: 0}
		for i := range a.doc().Phones {
			n[a.recorder.Stand(a.doc().Phones[i].Device).State]++
		}
		var out []admin.Sample
		for state, v := range n {
			out = append(out, admin.Sample{Label: state, Value: v})
		}
		slices.SortFunc(out, func(x, y admin.Sample) int { return strings.Compare(x.Label, y.Label) })
		return out
	})
	t := func(name, help string, value func() uint64) {
		m.Counter(name, help, func() float64 { return float64(value()) })
	}
	t("ringfence_media_relayed_packets_total", "RTP packets passed on.", func() uint64 { return a.media.Totals().Relayed })
	return m
}
