package config

import "net/netip"

// Document is everything an administrator declares, after includes are merged, defaults filled in and all checks passed.
// It is immutable: a reload makes a new one. What users and phones change (forward, DND, hunt login, registrations,
// certificates) is state and never stands here (design: "Declared, then state").
//
// It has two roots. Node is true of this appliance only and is never given to the other one of a pair; all the rest is
// shared by a pair.
type Document struct {
	Node      Node        `yaml:"node"`
	Site      Site        `yaml:"site"`
	SIP       SIP         `yaml:"sip"`
	PKI       PKI         `yaml:"pki"`
	VPN       VPN         `yaml:"vpn"`
	Numbering Numbering   `yaml:"numbering"`
	Users     []User      `yaml:"users"`
	Phones    []Phone     `yaml:"phones"`
	Lines     []Line      `yaml:"lines"`
	Groups    []Group     `yaml:"groups"`
	Parking   []ParkLot   `yaml:"parking"`
	Paging    []PageGroup `yaml:"paging"`
	Intercom  []Intercom  `yaml:"intercom"`
	Rooms     []Rooms     `yaml:"rooms"`
	Services  Services    `yaml:"services"`
	Schedules []Schedule  `yaml:"schedules"`
	RoutesIn  []RouteIn   `yaml:"routes_in"`
	RoutesOut []RouteOut  `yaml:"routes_out"`
}

// Node is the part of the document that belongs to this appliance alone.
type Node struct {
	Name    string     `yaml:"name" default:"ringfence" doc:"Name of this appliance, in certificates and logs."`
	Address netip.Addr `yaml:"address" doc:"IPv4 address that phones are told for every service. Required."`
	Listen  Listen     `yaml:"listen"`
	Media   Media      `yaml:"media"`
	Tunnel  Tunnel     `yaml:"tunnel"`
}

// Listen holds the address and port of every listener. The empty string or "off" switches a listener off.
type Listen struct {
	ProvisionHTTP  Endpoint `yaml:"provision_http" default:"0.0.0.0:6970" doc:"Files of phones over HTTP. Phones know no other port than 6970."`
	ProvisionHTTPS Endpoint `yaml:"provision_https" default:"0.0.0.0:6971" doc:"Device file over HTTPS, for trust lists of version 1.1."`
	TFTP           Endpoint `yaml:"tftp" default:"0.0.0.0:69" doc:"Files of phones over TFTP."`
	CAPF           Endpoint `yaml:"capf" default:"0.0.0.0:3804" doc:"Certificate enrolment."`
	TVS            Endpoint `yaml:"tvs" default:"0.0.0.0:2445" doc:"Trust verification."`
	SIPTCP         Endpoint `yaml:"sip_tcp" default:"0.0.0.0:5060" doc:"SIP over TCP."`
	SIPUDP         Endpoint `yaml:"sip_udp" default:"0.0.0.0:5060" doc:"SIP over UDP, for other vendors' phones."`
	SIPTLS         Endpoint `yaml:"sip_tls" default:"0.0.0.0:5061" doc:"SIP over TLS."`
	VPN            Endpoint `yaml:"vpn" default:"0.0.0.0:443" doc:"AnyConnect login and tunnel (TCP). Phones accept no other UDP port than 443."`
	Metrics        Endpoint `yaml:"metrics" default:"127.0.0.1:9090" doc:"Prometheus metrics and health."`
}

// Media says where RTP is received.
type Media struct {
	Address netip.Addr `yaml:"address" default:"0.0.0.0" doc:"Local address of RTP sockets."`
	Ports   PortRange  `yaml:"ports" default:"16384-32766" doc:"RTP ports; each stream takes an even one and the next for RTCP."`
}

// Tunnel is the TUN device of the VPN on this appliance.
type Tunnel struct {
	Device string `yaml:"device" default:"ringfence0" doc:"Name of the TUN device, at most 15 characters."`
}

// Site is what all phones and users have in common.
type Site struct {
	Name     string `yaml:"name" default:"Ringfence" doc:"Shown at the top of screens and in certificates as organisation."`
	Domain   string `yaml:"domain" default:"ringfence.invalid" doc:"SIP domain and digest realm. Changing it changes what phones hash passwords with."`
	TimeZone string `yaml:"time_zone" default:"UTC" doc:"IANA name of the zone of phones and schedules."`
	Language string `yaml:"language" default:"en" doc:"Language of texts: en or de."`
	Date     string `yaml:"date_template" default:"D.M.Y" doc:"Date layout on phones: D and M in either order, separator / - or ., Y or YY, a trailing A for the 12 hour clock."`
	NTP      []Host `yaml:"ntp" doc:"Time servers that phones use; this appliance's address when empty."`
}

// SIP holds what the PBX needs besides users and lines.
type SIP struct {
	RegisterExpires Duration   `yaml:"register_expires" default:"120s" doc:"Granted to Cisco phones (60s to 3600s). 120s lets them notice a dead appliance soon."`
	MaxMessageBytes int        `yaml:"max_message_bytes" default:"65536" doc:"Largest SIP message that is read."`
	MaxFlows        int        `yaml:"max_flows" default:"20000" doc:"Connections in all."`
	MaxFlowsPerIP   int        `yaml:"max_flows_per_source" default:"2000" doc:"Connections of one source address."`
	SRTP            SRTPPolicy `yaml:"srtp" default:"prefer" doc:"require, prefer or never, for phones in encrypted mode: require refuses a call with an unencrypted leg."`
	SessionExpires  Duration   `yaml:"session_expires" default:"1800s" doc:"RFC 4028 session interval offered to those who support timers; 0 is off."`
}

// PKI declares the certificate authority.
type PKI struct {
	Organization string     `yaml:"organization" doc:"O of all certificates; site.name when empty."`
	LSC          LSCPolicy  `yaml:"lsc"`
	MICRoots     []string   `yaml:"mic_roots" doc:"PEM files of manufacturing CAs, for phones that prove themselves by MIC."`
	ITLVersion   ITLVersion `yaml:"itl_version" default:"auto" doc:"1.0, 1.1, or auto: 1.1 for models with EC certificates."`
}

// LSCPolicy says what certificates phones get.
type LSCPolicy struct {
	Key  KeyKind  `yaml:"key" default:"auto" doc:"rsa2048, rsa3072, rsa4096, p256, p384, p521, or auto: rsa2048, since encrypted device files need RSA."`
	Days int      `yaml:"days" default:"365" doc:"Life in days (1 to 3560)."`
	Auth CAPFAuth `yaml:"auth" default:"null_string" doc:"Proof asked of a phone without a certificate: null_string, code, lsc or mic."`
}

// VPN declares gateway, pools and who may log in.
type VPN struct {
	Enabled  bool        `yaml:"enabled" default:"true" doc:"Serve the VPN."`
	Hosts    []string    `yaml:"hosts" doc:"Names or addresses (with optional port) under which phones reach the gateway from outside; url1 to url3 of phones."`
	Policies []VPNPolicy `yaml:"policies" doc:"The first one is the default of phones and users."`
}

// VPNPolicy is a group of VPN users with its pool and rights.
type VPNPolicy struct {
	ID           string         `yaml:"id" doc:"Name; also the group path, https://HOST/ID. The path /svc is always the first policy."`
	Pool         netip.Prefix   `yaml:"pool" doc:"Inner IPv4 addresses; the first host address is the appliance's own."`
	Auth         []VPNAuth      `yaml:"auth" default:"[certificate, password]" doc:"Accepted ways to log in."`
	Routes       []netip.Prefix `yaml:"routes" doc:"Split-include routes sent to the client; none is a default route."`
	DNS          []netip.Addr   `yaml:"dns" doc:"Resolvers sent to the client."`
	MTU          int            `yaml:"mtu" default:"1290" doc:"Inner MTU offered (576 to 1500)."`
	DPD          Duration       `yaml:"dpd" default:"30s" doc:"Silence after which the peer is probed."`
	Keepalive    Duration       `yaml:"keepalive" default:"20s" doc:"Interval of keep-alive frames from the client."`
	Idle         Duration       `yaml:"idle_timeout" default:"0s" doc:"A session without payload ends after this; 0 is never."`
	Disconnected Duration       `yaml:"disconnected_timeout" default:"120s" doc:"How long address and cookie outlive a lost connection."`
	MaxSessions  int            `yaml:"max_sessions" default:"2" doc:"Sessions of one device or user at once."`
	Banner       string         `yaml:"banner" doc:"Shown after log-in."`
}

// Numbering describes numbers in general; dial templates are generated from it.
type Numbering struct {
	Extensions    string   `yaml:"extensions" doc:"Pattern of internal numbers, X is any digit: 3XX."`
	OutsidePrefix Digits   `yaml:"outside_prefix" doc:"Dialled before outside numbers."`
	Country       Digits   `yaml:"country" doc:"Country code without +."`
	Emergency     []Digits `yaml:"emergency" doc:"Emergency numbers as dialled."`
}

// User is a person.
type User struct {
	ID         string            `yaml:"id" doc:"Unique name; also the VPN user name."`
	Name       string            `yaml:"name" doc:"Display name."`
	Email      string            `yaml:"email"`
	Language   string            `yaml:"language" doc:"Initial value; users may change it. site.language when empty."`
	Password   Secret            `yaml:"password" doc:"VPN password."`
	VPN        string            `yaml:"vpn" doc:"VPN policy; no VPN with a password when empty."`
	PIN        Secret            `yaml:"pin" doc:"Initial PIN; users may change it."`
	SpeedDials map[string]Digits `yaml:"speed_dials" doc:"Initial values, index 1 to 99 to number; users may change them."`
}

// Phone is a device.
type Phone struct {
	Device   string       `yaml:"device" doc:"SEP and the MAC in upper-case hexadecimal: SEP001122AA0001. Required."`
	Model    string       `yaml:"model" doc:"Number of the model: 8851. Required."`
	Label    string       `yaml:"label" doc:"Text at the top of the screen, at most 12 characters."`
	Security SecurityMode `yaml:"security" default:"encrypted" doc:"encrypted (TLS and SRTP) or nonsecure (TCP and RTP, password in clear in the device file)."`
	Password Secret       `yaml:"password" doc:"SIP digest password, 8 to 30 letters and digits. Generated and kept as state when empty."`
	VPN      string       `yaml:"vpn" doc:"VPN policy of this phone; its device file has no VPN when empty."`
	LSCKey   KeyKind      `yaml:"lsc_key" doc:"Overrides pki.lsc.key for this phone."`
	CAPFCode Secret       `yaml:"capf_code" doc:"One-time code typed at the phone where pki.lsc.auth is code."`
	Keys     []Key        `yaml:"keys" doc:"Line keys after those of the lines."`
	Load     string       `yaml:"load" doc:"Firmware load without .loads; the phone keeps its own when empty."`
}

// Key is a line key that is not a line. Exactly one of BLF, Speed, Park and URL is set.
type Key struct {
	Label string `yaml:"label"`
	BLF   Digits `yaml:"blf" doc:"Number to watch; pressing it calls or picks up."`
	Speed Digits `yaml:"speed" doc:"Number to dial."`
	Park  Digits `yaml:"park" doc:"Park slot."`
	URL   string `yaml:"url" doc:"XML service."`
}

// Line is a number that phones show. A line without a phone is a softphone's or other vendor's: it registers with its own
// number and password.
type Line struct {
	Number        Digits     `yaml:"number" doc:"Unique. Required."`
	User          string     `yaml:"user" doc:"Owner, a users id."`
	Phone         string     `yaml:"phone" doc:"Device that shows it."`
	Index         int        `yaml:"index" default:"1" doc:"Place on that device, from 1; index 1 registers."`
	Password      Secret     `yaml:"password" doc:"SIP password of a line without phone."`
	Label         string     `yaml:"label" doc:"Text beside the key; the number when empty."`
	CallerID      CallerID   `yaml:"caller_id"`
	Rights        []string   `yaml:"rights" default:"[internal]" doc:"What may be called: internal, local, national, international, premium, or names of routes_out rights."`
	MaxCalls      int        `yaml:"max_calls" default:"4" doc:"Calls at once, up to the model's limit."`
	BusyAt        int        `yaml:"busy_at" default:"2" doc:"Number of calls from which a further one finds the line busy."`
	RingSeconds   int        `yaml:"ring_seconds" default:"30"`
	OnBusy        Dest       `yaml:"on_busy" default:"busy"`
	OnNoAnswer    Dest       `yaml:"on_no_answer" default:"hangup"`
	OnUnreachable Dest       `yaml:"on_unreachable" default:"hangup"`
	OnIDivert     Dest       `yaml:"on_idivert" default:"busy"`
	Forward       Digits     `yaml:"forward" doc:"Initial forward-all target; users change it."`
	Pickup        Pickup     `yaml:"pickup"`
	ParkLot       string     `yaml:"park_lot"`
	HuntLogin     bool       `yaml:"hunt_login_default" default:"true" doc:"Initial value; users change it."`
	Record        RecordMode `yaml:"record" default:"on_demand"`
	Voicemail     Digits     `yaml:"voicemail" doc:"Number of the messages key; services.voicemail when empty."`
}

// CallerID is how a line presents itself.
type CallerID struct {
	Name     string `yaml:"name" doc:"The user's name when empty."`
	External Digits `yaml:"external"`
}

// Pickup groups of a line.
type Pickup struct {
	MemberOf []int    `yaml:"member_of"`
	MayPick  []int    `yaml:"may_pick"`
	Other    []int    `yaml:"other"`
	Notify   []string `yaml:"notify" doc:"from, to, beep."`
	Seconds  int      `yaml:"notify_seconds" default:"5"`
}

// Group is a hunt group.
type Group struct {
	Number        Digits   `yaml:"number"`
	Name          string   `yaml:"name"`
	Strategy      string   `yaml:"strategy" default:"all" doc:"all, ordered, round_robin, longest_idle, random."`
	Members       []Digits `yaml:"members"`
	LoginRequired bool     `yaml:"login_required" default:"true"`
	RingSeconds   int      `yaml:"ring_seconds" default:"30"`
	ShowPilot     bool     `yaml:"show_pilot" default:"true"`
	OnNoAnswer    Dest     `yaml:"on_no_answer" default:"hangup"`
	OnEmpty       Dest     `yaml:"on_empty" default:"congestion"`
}

// ParkLot is a range of park slots.
type ParkLot struct {
	ID       string   `yaml:"id"`
	Slots    string   `yaml:"slots" doc:"Range of numbers: 381-389."`
	Seconds  int      `yaml:"seconds" default:"60"`
	Reminder int      `yaml:"reminder_seconds" default:"50"`
	Comeback Comeback `yaml:"comeback"`
	Music    string   `yaml:"music" default:"default"`
	Order    string   `yaml:"order" default:"first" doc:"first, rotating, random."`
}

// Comeback is what happens to a parked call that nobody retrieves.
type Comeback struct {
	ToParker bool `yaml:"to_parker" default:"true"`
	Seconds  int  `yaml:"seconds" default:"15"`
	Then     Dest `yaml:"then" default:"hangup"`
}

// PageGroup is a paging number.
type PageGroup struct {
	Number      Digits     `yaml:"number"`
	Name        string     `yaml:"name"`
	Members     []Digits   `yaml:"members"`
	Mode        string     `yaml:"mode" default:"unicast" doc:"multicast or unicast."`
	Group       netip.Addr `yaml:"group" doc:"Multicast address."`
	Text        string     `yaml:"text" default:"From {caller.number}"`
	Beep        bool       `yaml:"beep" default:"true"`
	IncludeBusy bool       `yaml:"include_busy" default:"false"`
}

// Intercom is a number that reaches intercom lines.
type Intercom struct {
	Number  Digits            `yaml:"number"`
	Members map[string]Digits `yaml:"members" doc:"Line to its intercom line."`
	Timeout int               `yaml:"timeout" default:"3"`
}

// Rooms is a range of conference rooms.
type Rooms struct {
	Range  string `yaml:"range" doc:"Range of numbers: 360-369."`
	Host   string `yaml:"host" default:"meetme_key"`
	Guests string `yaml:"guests" default:"wait_for_host"`
	Record bool   `yaml:"record" default:"false"`
}

// Services are numbers of built-in services.
type Services struct {
	Voicemail Digits            `yaml:"voicemail"`
	EchoTest  Digits            `yaml:"echo_test"`
	Time      Digits            `yaml:"time"`
	Directory Digits            `yaml:"directory"`
	Codes     map[string]string `yaml:"codes" doc:"Feature codes for phones without keys."`
}

// Schedule is a set of open hours.
type Schedule struct {
	ID       string   `yaml:"id"`
	Zone     string   `yaml:"zone" doc:"IANA zone; site.time_zone when empty."`
	Weekly   string   `yaml:"weekly" doc:"mon-fri 08:30-17:30, several joined by ;."`
	Except   []string `yaml:"except" doc:"Days or ranges of days: 2026-12-24..2027-01-01."`
	Override string   `yaml:"override" doc:"Name of the manual switch."`
}

// RouteIn takes calls from trunks.
type RouteIn struct {
	Trunk  string `yaml:"trunk"`
	Number Digits `yaml:"number"`
	When   string `yaml:"when"`
	To     Dest   `yaml:"to"`
	Else   Dest   `yaml:"else"`
}

// RouteOut sends calls to trunks.
type RouteOut struct {
	Match          string   `yaml:"match" doc:"Pattern: digits, X any digit, Z 1 to 9, N 2 to 9, [..], (a|b), a final . for one or more of any."`
	Strip          int      `yaml:"strip" default:"0"`
	Right          string   `yaml:"right" default:"local"`
	Via            []string `yaml:"via"`
	CallbackPrefix Digits   `yaml:"callback_prefix"`
}
