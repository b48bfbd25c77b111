package admin

import (
	"time"

	"ringfence/appliance/phone"
)

// A fixed world for the printers and the socket: times lie in the past, so that they print as dates.
var (
	morning  = time.Date(2026, 5, 4, 8, 0, 0, 0, time.UTC)
	expires  = time.Date(2036, 5, 4, 8, 0, 0, 0, time.UTC)
	lscOf1   = CertInfo{Role: "LSC", Device: "SEP001122AA0001", Subject: "CN=SEP001122AA0001", Issuer: "CN=Issuing CA", Serial: "1f2e", Key: "RSA 2048", NotAfter: expires, State: "current"}
	tunnelOf = VPNSessionInfo{ID: "7", Device: "SEP001122AA0001", Policy: "phones", Method: "certificate", Address: "10.99.0.2", Remote: "203.0.113.9:51000",
		Link: "TLS 1.2", Datagrams: "DTLS 1.2 AES256-GCM-SHA384 with 203.0.113.9:51001", Payload: "udp", UserAgent: "Cisco SVC IPPhone Client", Since: morning,
		State: "up", Address6: "fd00::2", PacketsIn: 9000, PacketsOut: 12, BytesIn: 12 << 20, BytesOut: 900, LossIn: 0.015, RoundTrip: 12.25, RoundTrips: []uint32{0, 0, 3},
		Connects: 1, MTU: 1290, Dropped: VPNDrops{Forbidden: 2}}
	phone1 = PhoneInfo{
		Device: "SEP001122AA0001", Declared: true, Model: "8851", Label: "Front", Security: "encrypted", State: phone.StateRegistered,
		Lines: []PhoneLine{{1, "301", "301"}, {2, "302", "Sales"}}, HuntLogin: true,
		Registration: &RegistrationInfo{Transport: "TLS", Remote: "10.99.0.2:51240", Contact: "<sip:6ba2@10.99.0.2:51240;transport=tls>", UserAgent: "Cisco-CP8851/14.2.1\x1b[2J", Since: morning},
		LSC:          &lscOf1, ITL: &FileInfo{Name: "ITLSEP001122AA0001.tlv", Transport: "http", Status: "200", Bytes: 3100, At: morning},
		Files:     []FileInfo{{"SEP001122AA0001.cnf.xml.enc.sgn", "http", "200", 9000, morning}},
		VPNPolicy: "phones", VPN: &tunnelOf,
		Stand: &phone.Stand{Device: "SEP001122AA0001", State: phone.StateRegistered, Since: morning, Steps: []phone.StepStand{
			{Step: phone.File, State: phone.StepDone, At: morning, Text: "SEP001122AA0001.cnf.xml.enc.sgn, 200"}, {Step: phone.VPN, State: phone.StepSkipped}}},
		Boot: []phone.Entry{
			{First: morning, Last: morning.Add(15 * time.Second), Count: 2, Step: phone.File, Text: "SEP001122AA0001.cnf.xml.enc.sgn, 200"},
			{First: morning, Last: morning, Count: 1, Step: phone.Register, Text: "403, wrong password", Failed: true}},
	}
	phone2 = PhoneInfo{
		Device: "SEP001122AA0002", Declared: true, Model: "7965", Security: "nonsecure", State: phone.StateStuck, Lines: []PhoneLine{{1, "303", ""}},
		Warnings: []string{PasswordInClear},
		Stand: &phone.Stand{Device: "SEP001122AA0002", State: phone.StateStuck, Missing: phone.Trust, Steps: []phone.StepStand{{Step: phone.Trust, State: phone.StepMissing}},
			Advice: &phone.Advice{Rule: "foreign trust list", Page: "§1.2", Step: phone.Trust, What: "it holds another list", Do: "erase it"}},
	}
	waiting = PhoneInfo{Device: "SEP00AABBCCDD01", State: phone.StateWaiting}
)

func sample() Sources {
	phones := []PhoneInfo{phone1, phone2, waiting}
	lines := []LineInfo{
		{Number: "301", Name: "Ada Example", Device: "SEP001122AA0001", Index: 1, Registered: true, Phase: "active", Calls: 1, Forward: "303",
			Registrations: []RegistrationInfo{*phone1.Registration}},
		{Number: "310", Phase: "idle"},
	}
	return Sources{
		Status: func() StatusInfo {
			return StatusInfo{Appliance: "east", Address: "192.0.2.10", Version: "1.0.0", Config: "/etc/ringfence.yaml", StateDir: "/var/lib/ringfence", Started: morning,
				Services: []ServiceInfo{{Name: "sip", State: "running", Up: true, Listen: []string{"tcp 0.0.0.0:5060"}, Since: morning},
					{Name: "vpn", State: "failed", Error: "no TUN device", Since: morning, Restarts: 4}},
				Phones: Count{2, 1}, Lines: Count{4, 3}, Calls: 1, VPN: 1, Stuck: []string{"SEP001122AA0002"}, Waiting: []string{"SEP00AABBCCDD01"},
				Warnings: []string{"vpn is off"}}
		},
		Phones: func(bool) []PhoneInfo { return phones },
		Phone: func(device string) (PhoneInfo, bool) {
			for _, p := range phones {
				if p.Device == device {
					return p, true
				}
			}
			return PhoneInfo{}, false
		},
		Lines: func() []LineInfo { return lines },
		Line: func(number string) (LineInfo, bool) {
			for _, l := range lines {
				if l.Number == number {
					return l, true
				}
			}
			return LineInfo{}, false
		},
		Certs: func() []CertInfo {
			return []CertInfo{{Role: "SAST", Subject: "CN=SAST", Serial: "01", Key: "RSA 2048", NotAfter: expires, State: "current"}, lscOf1}
		},
		VPNSessions: func() []VPNSessionInfo { return []VPNSessionInfo{tunnelOf} },
		Calls: func() []CallInfo {
			return []CallInfo{{ID: "c1", From: "301", FromName: "Ada Example", To: "303", State: "active", Started: morning, Answered: morning.Add(4 * time.Second),
				Legs: []LegInfo{{Line: "301", Codec: "G.722", Encrypted: true}, {Line: "303", Codec: "PCMU"}}}}
		},
	}
}
