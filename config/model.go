package config

import "net/netip"

// Document is everything an administrator declares, after includes are merged, defaults filled in and all checks passed.
// It is immutable: a reload makes a new one. What users and phones change (forward, DND, hunt login, registrations,
// certificates) is state and never stands here (design: "Declared, then state").
//
// It has two roots. Node is true of this appliance only and is never given to the other one of a pair; all the rest is
// shared by a pair.
type Document struct {
	Node      Node        `yaml:"node" doc:"This appliance alone: its addresses, ports and names. Never given to the other appliance of a pair."`
	Site      Site        `yaml:"site" doc:"What all phones and users have in common."`
	SIP       SIP         `yaml:"sip" doc:"Limits and timers of the PBX."`
	PKI       PKI         `yaml:"pki" doc:"Certificate authority and the certificates of phones."`
	VPN       VPN         `yaml:"vpn" doc:"Gateway for phones and people outside."`
	Numbering Numbering   `yaml:"numbering" doc:"Numbers in general; dial templates of phones are made from it."`
	Users     []User      `yaml:"users" doc:"People."`
	Phones    []Phone     `yaml:"phones" doc:"Devices that this appliance provisions."`
	Lines     []Line      `yaml:"lines" doc:"Numbers that ring at phones."`
	Groups    []Group     `yaml:"groups" doc:"Hunt groups."`
	Parking   []ParkLot   `yaml:"parking" doc:"Ranges of park slots."`
	Paging    []PageGroup `yaml:"paging" doc:"Numbers that page several phones."`
	Intercom  []Intercom  `yaml:"intercom" doc:"Numbers that reach intercom lines."`
	Rooms     []Rooms     `yaml:"rooms" doc:"Ranges of conference rooms."`
	Services  Services    `yaml:"services" doc:"Numbers of built-in services."`
	Features  Features    `yaml:"features" doc:"How the keys of phones behave."`
	Schedules []Schedule  `yaml:"schedules" doc:"Opening hours."`
	Rules     []Rule      `yaml:"rules" doc:"Decisions about calls of lines, taken before their number is looked up; the first one that says where a call goes counts. Emergency numbers and feature codes are never asked about."`
	RoutesIn  []RouteIn   `yaml:"routes_in" doc:"Calls from trunks."`
	RoutesOut []RouteOut  `yaml:"routes_out" doc:"Calls to trunks."`

	Records Records `yaml:"records" doc:"What is kept of calls."`

	Include []string `yaml:"include" doc:"Files or patterns of files to read as well, relative to this one; lists are appended in order, a value set twice is an error."`

	index  *index
	lookup *lookup
}

// Node is the part of the document that belongs to this appliance alone.
type Node struct {
	Name    string     `yaml:"name" default:"ringfence" pattern:"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$" want:"letters, digits and - as in a host name" doc:"Name of this appliance, in certificates and logs."`
	Address netip.Addr `yaml:"address" required:"true" doc:"IPv4 address that phones are told for every service. Required."`
	Listen  Listen     `yaml:"listen" doc:"Address and port of every listener."`
	Media   Media      `yaml:"media" doc:"Where RTP is received."`
	Tunnel  Tunnel     `yaml:"tunnel" doc:"TUN device of the VPN."`
	Update  Update     `yaml:"update" doc:"Where the appliance image looks for newer releases of itself."`
	Backup  Backup     `yaml:"backup" doc:"Backups that are made by themselves."`
	Host    Machine    `yaml:"host" doc:"Network, firewall and time of the machine itself. What is not declared here is left alone. ringfence host apply puts it into force, and it returns by itself unless ringfence host confirm follows."`
}

// Backup makes encrypted backups from time to time, reads each to its end, and keeps some. With a folder or a url they begin with the start.
type Backup struct {
	Folder     string   `yaml:"folder" max:"255" pattern:"^/" want:"an absolute path like /var/backups/ringfence" doc:"Folder that backups are written to, such as a mounted share. None is kept here when empty."`
	URL        string   `yaml:"url" max:"255" pattern:"^https?://[^@]*/$" want:"a folder that takes PUT, like https://dav.example.net/ringfence/" doc:"WebDAV folder, out of the house, that each backup is sent to by HTTP PUT."`
	User       string   `yaml:"user" max:"64" doc:"Name for the url; none when empty."`
	Password   Secret   `yaml:"password" doc:"Password for the url."`
	Passphrase Secret   `yaml:"passphrase" pattern:"^[ -~]{10,128}$" want:"10 to 128 printable ASCII characters" doc:"Opens the backups. Keep it elsewhere too: without it they are worth nothing."`
	Every      Duration `yaml:"every" default:"24h" min:"10s" max:"720h" doc:"Time between two backups."`
	Keep       int      `yaml:"keep" default:"14" min:"1" max:"1000" doc:"How many are kept; the oldest go first."`
}

// Machine is the machine itself: what an operating system would be asked to configure. It is served wherever the rights exist, in the image and on ordinary Linux.
type Machine struct {
	Interfaces []Interface     `yaml:"interfaces" doc:"Network interfaces. One that is not named is left alone, and with a firewall nothing comes in from it."`
	Routes     []HostRoute     `yaml:"routes" doc:"Routes besides those of the interfaces' gateways."`
	DNS        []netip.Addr    `yaml:"dns" doc:"Servers for names, written to resolv.conf. Those that DHCP names when empty."`
	Search     []Host          `yaml:"search" doc:"Domains that names without dot are looked for in."`
	SetName    bool            `yaml:"set_name" default:"false" doc:"Make node.name the host name of the machine."`
	NTP        []Host          `yaml:"ntp" doc:"Time servers that this machine's clock follows. In the image those of site.ntp when empty; on ordinary Linux the clock is left alone then."`
	Firewall   MachineFirewall `yaml:"firewall" doc:"What may come in, and pass through."`
	Confirm    Duration        `yaml:"confirm" default:"60s" min:"5s" max:"3600s" doc:"How long host apply waits for host confirm before everything returns to what it was."`
}

// Interface is a network interface of the machine: a port, a VLAN on one, or a bond of several.
type Interface struct {
	Name      string             `yaml:"name" required:"true" max:"15" pattern:"^[A-Za-z0-9][A-Za-z0-9_.-]*$" want:"at most 15 letters, digits, _ . or -" doc:"Name, as the kernel has it; of VLANs and bonds, as it shall be."`
	VLAN      int                `yaml:"vlan" default:"0" min:"0" max:"4094" doc:"Tag of a VLAN, which on: carries; 0 is none."`
	On        string             `yaml:"on" max:"15" doc:"Interface that carries the VLAN."`
	Bond      []string           `yaml:"bond" max:"15" pattern:"^[A-Za-z0-9][A-Za-z0-9_.-]*$" want:"names of ports" doc:"Ports that this bond is made of."`
	Mode      string             `yaml:"mode" default:"active-backup" enum:"active-backup,802.3ad,balance-xor,balance-rr,balance-tlb,balance-alb,broadcast" doc:"Mode of a bond: active-backup needs nothing of the switch, 802.3ad is LACP."`
	Addresses []InterfaceAddress `yaml:"addresses" doc:"Static addresses with the length of their network: 192.0.2.10/24."`
	DHCP      bool               `yaml:"dhcp" default:"false" doc:"Ask for an IPv4 address."`
	IPv6      string             `yaml:"ipv6" default:"auto" enum:"auto,static,off" doc:"auto takes addresses and routes from router advertisements besides the static ones, static is those alone, off is no IPv6 at all."`
	Gateway   netip.Addr         `yaml:"gateway" doc:"IPv4 router for everything that has no other route."`
	Gateway6  netip.Addr         `yaml:"gateway6" doc:"The same for IPv6."`
	MTU       int                `yaml:"mtu" default:"0" min:"0" max:"9216" doc:"Largest packet, 576 and more (IPv6: 1280); 0 leaves it alone."`
	Zones     []string           `yaml:"zones" enum:"phones,administration,outside,vpn,pair" doc:"What this network is to the firewall: phones, administration, outside, vpn, pair; several where one network is all of it. The TUN device of the VPN is vpn by itself."`
}

// HostRoute is a route of the machine.
type HostRoute struct {
	To  netip.Prefix `yaml:"to" required:"true" doc:"Network behind the router."`
	Via netip.Addr   `yaml:"via" doc:"Router; the network is on the interface itself when empty."`
	On  string       `yaml:"on" max:"15" doc:"Interface; that of the router when empty."`
}

// MachineFirewall denies what nobody asked for. Between zones nothing passes, and from each zone the appliance can be reached for what it serves there.
type MachineFirewall struct {
	Enabled    bool           `yaml:"enabled" default:"false" doc:"Filter packets. Interfaces need zones then."`
	Allow      []FirewallRule `yaml:"allow" doc:"What is open besides what the listeners of this appliance need."`
	Masquerade []string       `yaml:"masquerade" max:"15" doc:"Interfaces behind whose address other zones are hidden when they pass (NAT)."`
}

// FirewallRule opens something.
type FirewallRule struct {
	From     string       `yaml:"from" required:"true" enum:"phones,administration,outside,vpn,pair" doc:"Zone that it comes from."`
	To       string       `yaml:"to" default:"appliance" enum:"appliance,phones,administration,outside,vpn,pair" doc:"Zone that it goes to, or appliance: this machine."`
	Source   netip.Prefix `yaml:"source" doc:"Only from this network."`
	Dest     netip.Prefix `yaml:"destination" doc:"Only to this network."`
	Protocol string       `yaml:"protocol" default:"any" enum:"any,tcp,udp,icmp" doc:"any, tcp, udp or icmp."`
	Ports    string       `yaml:"ports" number:"true" pattern:"^[0-9]{1,5}(-[0-9]{1,5})?$" want:"a port or a range: 443 or 8000-8100" doc:"Port or range of ports of tcp and udp; all when empty."`
}

// Update says where newer releases are looked for. It concerns the appliance image only.
type Update struct {
	URL    string   `yaml:"url" max:"255" pattern:"^https?://" want:"a URL like https://www.example.net/ringfence-amd64.rfu" doc:"Update file. It is installed when it is newer, signed by a release key, and did not fail here before. Nothing is looked for when empty."`
	Window string   `yaml:"window" pattern:"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$" want:"a time of the day like 02:00-05:00" doc:"Time of the day, in site.time_zone, in which a release may be fetched and installed, which ends every call; any when empty."`
	Every  Duration `yaml:"every" default:"24h" min:"10s" max:"720h" doc:"How often it is looked at, from the start on."`
}

// Listen holds the address and port of every listener. The value off switches one off.
type Listen struct {
	ProvisionHTTP  Endpoint `yaml:"provision_http" default:"0.0.0.0:6970" doc:"Files of phones over HTTP. Phones know no other port than 6970."`
	ProvisionHTTPS Endpoint `yaml:"provision_https" default:"0.0.0.0:6971" doc:"Device file over HTTPS, for trust lists of version 1.1."`
	TFTP           Endpoint `yaml:"tftp" default:"0.0.0.0:69" doc:"Files of phones over TFTP."`
	CAPF           Endpoint `yaml:"capf" default:"0.0.0.0:3804" doc:"Certificate enrolment."`
	TVS            Endpoint `yaml:"tvs" default:"0.0.0.0:2445" doc:"Trust verification."`
	SIPTCP         Endpoint `yaml:"sip_tcp" default:"0.0.0.0:5060" doc:"SIP over TCP."`
	SIPUDP         Endpoint `yaml:"sip_udp" default:"0.0.0.0:5060" doc:"SIP over UDP, for other vendors' phones."`
	SIPTLS         Endpoint `yaml:"sip_tls" default:"0.0.0.0:5061" doc:"SIP over TLS."`
	NTP            Endpoint `yaml:"ntp" default:"0.0.0.0:123" doc:"Time for phones. They know no other port than 123. When another program of this machine serves the time there already, that one is left in peace."`
	VPN            Endpoint `yaml:"vpn" default:"0.0.0.0:443" doc:"AnyConnect login and tunnel (TCP). Phones accept no other UDP port than 443."`
	WireGuard      Endpoint `yaml:"wireguard" default:"off" doc:"WireGuard for laptops and mobiles (UDP). Another port than 51820, which the link of a pair uses: 0.0.0.0:51821."`
	Certs          Endpoint `yaml:"certs" default:"0.0.0.0:6974" doc:"Revocation lists, OCSP and CA certificates over plain HTTP, and SCEP where pki.scep is on."`
	ACME           Endpoint `yaml:"acme" default:"off" doc:"ACME over HTTPS, for pki.acme: 0.0.0.0:6975."`
	Metrics        Endpoint `yaml:"metrics" default:"127.0.0.1:9090" doc:"Prometheus metrics and health."`
	LegacyTLS      []string `yaml:"legacy_tls" enum:"capf,tvs,sip,vpn" doc:"Listeners that also speak TLS 1.0 with RSA key exchange, for phones that know nothing newer (6900, 7900, 8900, 9900 series): capf, tvs, sip, vpn. Such phones need capf, tvs and sip for encrypted mode."`
}

// Media says where RTP is received.
type Media struct {
	Address netip.Addr `yaml:"address" default:"0.0.0.0" doc:"Local address of RTP sockets."`
	Ports   PortRange  `yaml:"ports" default:"16384-32766" doc:"RTP ports; each stream takes an even one and the next for RTCP."`
}

// Tunnel is the TUN device of the VPN on this appliance.
type Tunnel struct {
	Device string `yaml:"device" default:"ringfence0" pattern:"^[A-Za-z0-9_.-]{1,15}$" want:"at most 15 letters, digits, _ . or -" doc:"Name of the TUN device, at most 15 characters."`
}

// Site is what all phones and users have in common.
type Site struct {
	Name       string       `yaml:"name" default:"Ringfence" max:"64" doc:"Shown at the top of screens and in certificates as organisation."`
	Domain     string       `yaml:"domain" default:"ringfence.invalid" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]{0,62})(\\.[A-Za-z0-9_-]{1,63})*$" want:"a domain like pbx.example.net" doc:"SIP domain and digest realm. Changing it changes what phones hash passwords with."`
	TimeZone   string       `yaml:"time_zone" default:"UTC" doc:"IANA name of the zone of phones and schedules."`
	Language   string       `yaml:"language" default:"en" enum:"en,de" doc:"Language of texts: en or de."`
	Date       string       `yaml:"date_template" default:"D.M.Y" pattern:"^(D[-/.]M|M[-/.]D)[-/.]YY?A?$" want:"a layout like D.M.Y, M/D/YYA or D-M-YY" doc:"Date layout on phones: D and M in either order, separator / - or ., Y or YY, a trailing A for the 12 hour clock."`
	Appliances []netip.Addr `yaml:"appliances" doc:"Addresses of the appliances that phones use, the preferred one first, at most 5; node.address of each is one of them. This appliance alone when empty."`
	NTP        []Host       `yaml:"ntp" doc:"Time servers that phones use; this appliance's address when empty."`
}

// SIP holds what the PBX needs besides users and lines.
type SIP struct {
	RegisterExpires Duration   `yaml:"register_expires" default:"120s" min:"60s" max:"3600s" doc:"Granted to Cisco phones (60s to 3600s). 120s lets them notice a dead appliance soon."`
	MaxMessageBytes int        `yaml:"max_message_bytes" default:"65536" min:"4096" max:"1048576" doc:"Largest SIP message that is read."`
	MaxFlows        int        `yaml:"max_flows" default:"20000" min:"1" max:"1000000" doc:"Connections in all."`
	MaxFlowsPerIP   int        `yaml:"max_flows_per_source" default:"2000" min:"1" max:"1000000" doc:"Connections of one source address."`
	SRTP            SRTPPolicy `yaml:"srtp" default:"prefer" doc:"require, prefer or never, for phones in encrypted mode: require refuses a call with an unencrypted leg."`
	DirectMedia     bool       `yaml:"direct_media" default:"false" doc:"Phones of a call send their audio to each other instead of through the appliance, where both are encrypted or both are not, neither is behind address translation or in a VPN pool that is not routed, and no feature needs to hear the call."`
	SessionExpires  Duration   `yaml:"session_expires" default:"1800s" min:"0s" max:"86400s" doc:"RFC 4028 session interval offered to those who support timers; 0 is off."`
}

// PKI declares the certificate authority.
type PKI struct {
	Organization string     `yaml:"organization" max:"64" doc:"O of all certificates; site.name when empty."`
	LSC          LSCPolicy  `yaml:"lsc" doc:"Certificates issued to phones."`
	MICRoots     []string   `yaml:"mic_roots" doc:"PEM files of manufacturing CAs, for phones that prove themselves by MIC."`
	ITLVersion   ITLVersion `yaml:"itl_version" default:"auto" doc:"1.0, 1.1, or auto: 1.1 for models with EC certificates."`
	PublishURL   string     `yaml:"publish_url" max:"120" pattern:"^http://[A-Za-z0-9._:\\[\\]-]+$" want:"scheme, host and port alone: http://192.0.2.10:6974" doc:"Beginning of the addresses of revocation lists, OCSP and CA certificates, written into certificates that are issued from then on; they carry none when empty. It is node.listen.certs as others reach it."`
	ACME         ACME       `yaml:"acme" doc:"Certificates for web servers and the like, fetched by ACME clients."`
	SCEP         SCEP       `yaml:"scep" doc:"Certificates for devices that speak SCEP, such as Wi-Fi phones."`

	RestartPhones string                `yaml:"restart_phones" default:"at_night" enum:"at_night,at_once,never" doc:"When registered phones, not in a call, are restarted to fetch a changed trust list: at_night (from 1 to 5 o'clock of the site) for renewals that begin by themselves and at once for rotations that somebody orders; at_once for both; never."`
	Trusted       []TrustedCertificates `yaml:"trusted" doc:"Certificates of other systems that phones shall trust, as during a migration."`
}

// ACME says for whom the ACME endpoint issues (RFC 8555).
type ACME struct {
	Enabled  bool          `yaml:"enabled" default:"false" doc:"Serve ACME at node.listen.acme: https://HOST:6975/directory."`
	Domains  []string      `yaml:"domains" pattern:"^(\\*\\.)?[a-z0-9]([a-z0-9-]{0,62})(\\.[a-z0-9-]{1,63})*$" want:"a name in lower case like web.example.net, or *.example.net" doc:"Names that certificates are issued for; *.example.net is every name below it."`
	Days     int           `yaml:"days" default:"90" min:"1" max:"825" doc:"Life in days (1 to 825)."`
	Resolver Endpoint      `yaml:"resolver" doc:"DNS server to ask for the names when a client proves that they are its own; the system's when empty."`
	Accounts []ACMEAccount `yaml:"accounts" doc:"Who may make an account (external account binding); anybody who proves a name when empty."`
}

// ACMEAccount is an external account binding.
type ACMEAccount struct {
	ID  string `yaml:"id" required:"true" max:"64" pattern:"^[A-Za-z0-9._-]+$" want:"letters, digits and . _ -" doc:"Key identifier (kid) that the client is told."`
	Key Secret `yaml:"key" required:"true" pattern:"^[A-Za-z0-9_-]{32,128}$" want:"32 to 128 characters of base64url, as openssl rand -hex 32 prints them" doc:"HMAC key of that client, base64url."`
}

// SCEP says for whom the SCEP endpoint issues (RFC 8894).
type SCEP struct {
	Enabled   bool         `yaml:"enabled" default:"false" doc:"Serve SCEP at node.listen.certs, http://HOST:6974/scep."`
	Days      int          `yaml:"days" default:"365" min:"1" max:"3560" doc:"Life in days (1 to 3560)."`
	Names     []string     `yaml:"names" max:"64" pattern:"^(\\*\\.)?[A-Za-z0-9]([A-Za-z0-9._@-]*)$" want:"a common name like phone1.example.net, or *.example.net" doc:"Common names that the shared challenge is good for; *.example.net is every name below it."`
	Challenge Secret       `yaml:"challenge" pattern:"^[ -~]{8,128}$" want:"8 to 128 printable ASCII characters" doc:"Challenge password shared by all names."`
	Clients   []SCEPClient `yaml:"clients" doc:"Devices with a challenge password of their own."`
}

// SCEPClient is a device with a challenge password of its own.
type SCEPClient struct {
	Name      string `yaml:"name" required:"true" max:"64" pattern:"^[A-Za-z0-9][A-Za-z0-9._@-]*$" want:"the common name that the device asks for" doc:"Common name that the device asks for."`
	Challenge Secret `yaml:"challenge" required:"true" pattern:"^[ -~]{8,128}$" want:"8 to 128 printable ASCII characters" doc:"Its challenge password."`
}

// TrustedCertificates are certificates of another system.
type TrustedCertificates struct {
	Name   string   `yaml:"name" required:"true" max:"32" pattern:"^[a-z0-9][a-z0-9_-]*$" want:"lower-case letters, digits, - and _" doc:"Unique; shown by trust show."`
	Files  []string `yaml:"files" doc:"PEM files, or trust lists (.tlv) of the other system, whose certificates and roles are taken. A PEM file with the private key of a SAST leads the other system's phones over to this one (docs/trust.md); nobody else may be able to read it."`
	Roles  []string `yaml:"roles" enum:"SAST,CCM,CCM+TFTP,TFTP,CAPF,APP-SERVER,TVS" doc:"What the certificates of PEM files are good for: SAST, CCM, CCM+TFTP, TFTP, CAPF, APP-SERVER, TVS. Trust lists say it themselves."`
	TTL    Duration `yaml:"ttl" default:"24h" min:"1s" max:"2592000s" doc:"How long phones may keep what TVS says about them."`
	Listed bool     `yaml:"listed" doc:"Put them into phones' trust lists too (but no SAST, for which lists have no room). Otherwise TVS vouches for them."`
}

// LSCPolicy says what certificates phones get.
type LSCPolicy struct {
	Key  KeyKind  `yaml:"key" default:"auto" doc:"rsa2048, rsa3072, rsa4096, p256, p384, p521, or auto: rsa2048, since encrypted device files need RSA."`
	Days int      `yaml:"days" default:"365" min:"1" max:"3560" doc:"Life in days (1 to 3560)."`
	Auth CAPFAuth `yaml:"auth" default:"null_string" doc:"Proof asked of a phone: null_string (of one without a certificate, nothing), code (the code, later its certificate), lsc (its certificate, without one the manufacturer's, MIC) or mic (the MIC each time)."`

	SessionProof string `yaml:"session_proof" default:"auto" enum:"auto,required,waived" doc:"Whether a proof by certificate must be bound to the session by the phone's MIC, so that it cannot be replayed: auto asks for it if pki.mic_roots says whose MICs to believe; required, waived."`
}

// VPN declares gateway, pools and who may log in.
type VPN struct {
	Enabled  bool        `yaml:"enabled" default:"true" doc:"Serve the VPN."`
	Hosts    []string    `yaml:"hosts" pattern:"^([A-Za-z0-9][A-Za-z0-9._-]*|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$" want:"a name or address, with a port if it is not 443: vpn.example.net" doc:"Names or addresses (with optional port) under which phones reach the gateway from outside; url1 to url3 of phones."`
	Policies []VPNPolicy `yaml:"policies" doc:"The first one is the default of phones and users."`

	UserRoots   []string `yaml:"user_roots" doc:"PEM files of the authorities whose client certificates prove people. The common name is the user's id, or the e-mail address in it is the user's."`
	UserCRLs    []string `yaml:"user_crls" doc:"Files, PEM or DER, of the lists of revoked certificates that those authorities sign. Exchanging a file is enough: a revoked certificate is refused at once, and its owner's sessions end within seconds. While a list has never been readable no certificate of a person is taken."`
	MaxSessions int      `yaml:"max_sessions" default:"4096" min:"1" max:"100000" doc:"Sessions of the gateway in all."`
}

// VPNPolicy is a group of VPN users with its pool and rights.
type VPNPolicy struct {
	ID           string         `yaml:"id" required:"true" max:"32" pattern:"^[a-z0-9][a-z0-9_-]*$" want:"lower-case letters, digits, - and _" doc:"Name; also the group path, https://HOST/ID. The path /svc is always the first policy."`
	Label        string         `yaml:"label" max:"64" doc:"Name in the list of groups; the id when empty."`
	Listed       bool           `yaml:"listed" default:"false" doc:"Offer it in the list of groups before log-in (AnyConnect, openconnect)."`
	Pool         netip.Prefix   `yaml:"pool" required:"true" doc:"Inner IPv4 addresses; the first host address is the appliance's own."`
	Pool6        netip.Prefix   `yaml:"pool6" doc:"Inner IPv6 addresses, at least a /126 and at most a /64; none when empty. Needs an mtu of 1280 or more."`
	Routed       bool           `yaml:"routed" default:"false" doc:"The network of the house has routes to the pool. Phones in such pools may exchange audio with each other and with phones of the house directly, where their lines allow direct_media. Otherwise all audio goes through the appliance."`
	Auth         []VPNAuth      `yaml:"auth" default:"[certificate, password]" doc:"Accepted ways to log in."`
	SecondFactor bool           `yaml:"second_factor" default:"false" doc:"Ask people for a one-time password after the password (users.totp). Phones and certificates are not asked."`
	Routes       []netip.Prefix `yaml:"routes" doc:"Split-include routes sent to the client, and open to people; none is a default route. They open neither other clients nor the appliance beyond its telephony services."`
	Exclude      []netip.Prefix `yaml:"exclude" doc:"Networks that the client reaches outside the tunnel. 0.0.0.0/32 is its local network, where AnyConnect allows that."`
	DNS          []netip.Addr   `yaml:"dns" doc:"Resolvers sent to the client."`
	Domain       Host           `yaml:"domain" doc:"Default domain of the client."`
	SplitDNS     []Host         `yaml:"split_dns" doc:"Domains that the client asks the resolvers of the tunnel for; all when empty."`
	MTU          int            `yaml:"mtu" default:"1290" min:"576" max:"1500" doc:"Inner MTU offered (576 to 1500)."`
	DPD          Duration       `yaml:"dpd" default:"30s" min:"0s" max:"3600s" doc:"Silence after which the peer is probed."`
	Keepalive    Duration       `yaml:"keepalive" default:"20s" min:"0s" max:"3600s" doc:"Interval of keep-alive frames from the client."`
	Rekey        Duration       `yaml:"rekey" default:"0s" min:"0s" max:"604800s" doc:"The client makes a new tunnel after this, with new keys and the same address; 0 is never."`
	Idle         Duration       `yaml:"idle_timeout" default:"0s" min:"0s" max:"604800s" doc:"A session without payload ends after this; 0 is never."`
	Session      Duration       `yaml:"session_timeout" default:"0s" min:"0s" max:"2592000s" doc:"A session ends this long after log-in, reconnects included; 0 is never."`
	Disconnected Duration       `yaml:"disconnected_timeout" default:"120s" min:"0s" max:"86400s" doc:"How long address and cookie outlive a lost connection."`
	MaxSessions  int            `yaml:"max_sessions" default:"2" min:"1" max:"100" doc:"Sessions of one person at once. A phone has one, the newest."`
	Banner       string         `yaml:"banner" max:"500" doc:"Shown after log-in."`
	Allow        []VPNRule      `yaml:"allow" doc:"What phones and people of this policy may reach besides the telephony services of the appliance (and people the routes)."`
}

// VPNRule opens inner destinations.
type VPNRule struct {
	To       netip.Prefix `yaml:"to" required:"true" doc:"Network, or one address as 192.0.2.10/32."`
	Protocol string       `yaml:"protocol" default:"any" enum:"any,tcp,udp,icmp" doc:"any, tcp, udp or icmp."`
	Ports    string       `yaml:"ports" number:"true" pattern:"^[0-9]{1,5}(-[0-9]{1,5})?$" want:"a port or a range: 443 or 8000-8100" doc:"Port or range of ports of tcp and udp; all when empty."`
}

// Numbering describes numbers in general; dial templates are generated from it.
type Numbering struct {
	Extensions    string   `yaml:"extensions" doc:"Patterns of internal numbers, X is any digit: 3XX. Several are separated by spaces. When set, every internal number must match one."`
	OutsidePrefix Digits   `yaml:"outside_prefix" doc:"Dialled before outside numbers."`
	Country       Digits   `yaml:"country" doc:"Country code without +."`
	Emergency     []Digits `yaml:"emergency" doc:"Emergency numbers as dialled."`
}

// User is a person.
type User struct {
	ID         string            `yaml:"id" required:"true" max:"64" pattern:"^[A-Za-z0-9][A-Za-z0-9._@-]*$" want:"letters, digits and . _ @ -" doc:"Unique name; also the VPN user name."`
	Name       string            `yaml:"name" max:"64" doc:"Display name."`
	Email      string            `yaml:"email" max:"254" pattern:"^[^@\\s]+@[^@\\s]+$" want:"an address like ada@example.net" doc:"Address for voicemail and notices."`
	Language   string            `yaml:"language" enum:"en,de" doc:"Initial value; users may change it. site.language when empty."`
	Password   Secret            `yaml:"password" pattern:"^[ -~]{8,128}$" want:"8 to 128 printable ASCII characters" doc:"VPN password."`
	VPN        string            `yaml:"vpn" doc:"VPN policy; no VPN with a password when empty."`
	TOTP       Secret            `yaml:"totp" pattern:"^[A-Za-z2-7 =-]{16,128}$" want:"at least 16 characters of base32 (A to Z, 2 to 7), as authenticator apps take them" doc:"Secret of the one-time passwords, for policies with second_factor. ringfence vpn totp makes one."`
	WireGuard  []WireGuardPeer   `yaml:"wireguard" doc:"Devices that connect by WireGuard with this person's policy. ringfence vpn wireguard add makes others without the document."`
	PIN        Secret            `yaml:"pin" pattern:"^[0-9]{4,12}$" want:"4 to 12 digits" doc:"Initial PIN; users may change it."`
	SpeedDials map[string]Digits `yaml:"speed_dials" keys:"^[1-9][0-9]?$" wantkeys:"an index from 1 to 99" doc:"Initial values, index 1 to 99 to number; users may change them."`
}

// WireGuardPeer is a laptop or mobile of a person.
type WireGuardPeer struct {
	Name      string `yaml:"name" required:"true" max:"32" pattern:"^[a-z0-9][a-z0-9_-]*$" want:"lower-case letters, digits, - and _" doc:"Unique name of the device."`
	PublicKey string `yaml:"public_key" required:"true" pattern:"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$" want:"a WireGuard public key, 44 characters" doc:"Its public key."`
	PSK       Secret `yaml:"preshared_key" pattern:"^[A-Za-z0-9+/]{43}=$" want:"a WireGuard key, 44 characters" doc:"Pre-shared key, optional."`
}

// Phone is a device.
type Phone struct {
	Device   string       `yaml:"device" required:"true" pattern:"^SEP[0-9A-F]{12}$" want:"SEP and the MAC address in upper case: SEP001122AA0001" doc:"SEP and the MAC in upper-case hexadecimal: SEP001122AA0001. Required."`
	Model    string       `yaml:"model" required:"true" number:"true" doc:"Number of the model: 8851. Required."`
	Label    string       `yaml:"label" max:"12" doc:"Text at the top of the screen, at most 12 characters."`
	Security SecurityMode `yaml:"security" default:"encrypted" doc:"encrypted (TLS and SRTP) or nonsecure (TCP and RTP, password in clear in the device file)."`
	Password Secret       `yaml:"password" pattern:"^[A-Za-z0-9]{8,30}$" want:"8 to 30 letters and digits" doc:"SIP digest password, 8 to 30 letters and digits. Generated and kept as state when empty."`
	VPN      string       `yaml:"vpn" doc:"VPN policy of this phone; its device file has no VPN when empty."`
	VPNPass  Secret       `yaml:"vpn_password" pattern:"^[ -~]{8,128}$" want:"8 to 128 printable ASCII characters" doc:"Password with which the phone itself logs in to the VPN, where its policy takes passwords. With it the phone asks for the password alone, without a name."`
	LSCKey   KeyKind      `yaml:"lsc_key" doc:"Overrides pki.lsc.key for this phone."`
	CAPFCode Secret       `yaml:"capf_code" pattern:"^[0-9]{4,15}$" want:"4 to 15 digits" doc:"One-time code typed at the phone where pki.lsc.auth is code."`
	DND      string       `yaml:"dnd" default:"reject" enum:"reject,silent" doc:"What do-not-disturb does to calls: reject gives the caller the busy rule, silent shows them without ringing."`
	Keys     []Key        `yaml:"keys" doc:"Line keys after those of the lines."`
	Modules  []string     `yaml:"modules" enum:"7914,7915,7916,BEKEM,CP-8800-Audio,CP-8800-Video,CKEM" number:"true" doc:"Expansion modules from left to right, at most 3; their keys follow those of the phone."`
	Load     string       `yaml:"load" max:"64" pattern:"^[A-Za-z0-9._-]*$" want:"letters, digits, . _ and -" doc:"Firmware load without .loads; the phone keeps its own when empty."`
}

// Key is a line key that is not a line. Exactly one of blf, speed, park and url is set.
type Key struct {
	Label string `yaml:"label" max:"30" doc:"Text beside the key; the number when empty."`
	BLF   Digits `yaml:"blf" doc:"Number to watch; pressing it calls or picks up."`
	Speed Digits `yaml:"speed" doc:"Number to dial."`
	Park  Digits `yaml:"park" doc:"Park slot."`
	URL   string `yaml:"url" max:"255" pattern:"^https?://" want:"a URL like https://www.example.net/menu" doc:"XML service."`
}

// Line is a number that phones show. A line without a phone is a softphone's or other vendor's: it registers with its own
// number and password.
type Line struct {
	Number        Digits     `yaml:"number" required:"true" doc:"Unique. Required."`
	User          string     `yaml:"user" doc:"Owner, a users id."`
	Phone         string     `yaml:"phone" doc:"Device that shows it."`
	Index         int        `yaml:"index" default:"1" min:"1" max:"200" doc:"Place on that device, from 1; index 1 registers."`
	Shared        []Shared   `yaml:"shared" doc:"Further phones that show the same number: a shared line. A call rings on all of them, and each shows what the others do with it."`
	Barge         string     `yaml:"barge" default:"cbarge" enum:"off,barge,cbarge" doc:"Whether another phone of a shared line may step into its calls: barge makes three parties at most, cbarge a conference; off."`
	Password      Secret     `yaml:"password" pattern:"^[A-Za-z0-9]{8,30}$" want:"8 to 30 letters and digits" doc:"SIP password of a line without phone."`
	Label         string     `yaml:"label" max:"30" doc:"Text beside the key; the number when empty."`
	CallerID      CallerID   `yaml:"caller_id" doc:"How the line presents itself."`
	Rights        []string   `yaml:"rights" default:"[internal]" max:"30" pattern:"^[a-z][a-z0-9_-]*$" want:"a name in lower case" doc:"What may be called: internal, local, national, international, premium, or names of routes_out rights."`
	MaxCalls      int        `yaml:"max_calls" default:"4" min:"1" max:"200" doc:"Calls at once, up to the model's limit."`
	BusyAt        int        `yaml:"busy_at" default:"2" min:"1" max:"200" doc:"Number of calls from which a further one finds the line busy; the default is never above max_calls."`
	RingSeconds   int        `yaml:"ring_seconds" default:"30" min:"1" max:"600" doc:"How long a call rings before on_no_answer."`
	OnBusy        Dest       `yaml:"on_busy" default:"busy" doc:"Where a call goes that finds the line busy."`
	OnNoAnswer    Dest       `yaml:"on_no_answer" default:"hangup" doc:"Where a call goes that nobody answers."`
	OnUnreachable Dest       `yaml:"on_unreachable" default:"hangup" doc:"Where a call goes when the line is not registered."`
	OnIDivert     Dest       `yaml:"on_idivert" default:"busy" doc:"Where the iDivert key sends a call."`
	Forward       Digits     `yaml:"forward" doc:"Initial forward-all target; users change it."`
	Pickup        Pickup     `yaml:"pickup" doc:"Pickup groups."`
	ParkLot       string     `yaml:"park_lot" doc:"Lot of the Park key, a parking id."`
	WatchedBy     []string   `yaml:"watched_by" default:"[all]" number:"true" pattern:"^(all|none|[0-9*#]{1,30})$" want:"all, none, or the numbers of lines" doc:"Who may see whether this line is busy, by lamp keys and call lists: all, none, or numbers of lines. The phone of the line itself always may."`
	AutoAnswer    []Digits   `yaml:"auto_answer" doc:"Numbers whose calls the phone answers by itself, on its speaker, unless it is in a call or in do-not-disturb."`
	HuntLogin     bool       `yaml:"hunt_login_default" default:"true" doc:"Initial value; users change it."`
	Record        RecordMode `yaml:"record" default:"on_demand" doc:"never, on_demand (by key) or always."`
	DirectMedia   string     `yaml:"direct_media" default:"default" enum:"default,on,off" doc:"Whether audio may go to the other phone directly: default (as sip.direct_media says), on, off. Both lines of a call must agree."`
	Voicemail     Digits     `yaml:"voicemail" doc:"Number of the messages key; services.voicemail when empty."`
	Music         string     `yaml:"music" default:"default" pattern:"^[a-z0-9][a-z0-9-]*$" want:"a name in lower case" max:"32" doc:"What those hear whom this line puts on hold: the name of a sound (ringfence sound add). The built-in melody where there is no such sound."`
}

// Shared is a further phone that shows a line.
type Shared struct {
	Phone string `yaml:"phone" required:"true" doc:"Device that shows it too."`
	Index int    `yaml:"index" default:"1" min:"1" max:"200" doc:"Place on that device, from 1."`
}

// CallerID is how a line presents itself.
type CallerID struct {
	Name     string `yaml:"name" max:"30" doc:"The user's name when empty."`
	External Digits `yaml:"external" doc:"Number shown to the outside."`
	CallBack Digits `yaml:"call_back" number:"true" doc:"Number that phones keep in their call lists for calls of this line and dial from there, as that of a group; the line's own when empty."`
}

// Pickup groups of a line.
type Pickup struct {
	MemberOf []int    `yaml:"member_of" doc:"Groups whose members may pick up calls of this line."`
	MayPick  []int    `yaml:"may_pick" doc:"Groups of which this line may pick up calls."`
	Other    []int    `yaml:"other" doc:"Groups of the key for other pickup."`
	Notify   []string `yaml:"notify" enum:"from,to,beep" doc:"What is shown or heard when a call of the group rings: from, to, beep."`
	Seconds  int      `yaml:"notify_seconds" default:"5" min:"0" max:"60" doc:"How long that notice is shown, and the least time between two."`
}

// Group is a hunt group.
type Group struct {
	Number        Digits   `yaml:"number" required:"true" doc:"Number of the group."`
	Name          string   `yaml:"name" max:"30" doc:"Name that members see."`
	Strategy      string   `yaml:"strategy" default:"all" enum:"all,ordered,round_robin,longest_idle,random" doc:"all, ordered, round_robin, longest_idle, random."`
	Members       []Digits `yaml:"members" doc:"Numbers of lines or of other groups."`
	LoginRequired bool     `yaml:"login_required" default:"true" doc:"Ring only members that are logged in by the HLog key."`
	RingSeconds   int      `yaml:"ring_seconds" default:"30" min:"1" max:"600" doc:"How long a call rings before on_no_answer."`
	MemberSeconds int      `yaml:"member_seconds" default:"10" min:"1" max:"600" doc:"How long one member rings before the next, where members ring in turn."`
	ShowPilot     bool     `yaml:"show_pilot" default:"true" doc:"Show number and name of the group to the member that rings."`
	OnNoAnswer    Dest     `yaml:"on_no_answer" default:"hangup" doc:"Where a call goes that no member answers."`
	OnBusy        Dest     `yaml:"on_busy" doc:"Where a call goes when every member that is logged in is busy; on_no_answer when empty."`
	OnEmpty       Dest     `yaml:"on_empty" default:"congestion" doc:"Where a call goes when no member is logged in."`
	Music         string   `yaml:"music" pattern:"^[a-z0-9][a-z0-9-]*$" want:"a name in lower case" max:"32" doc:"What callers of the group hear when a member puts them on hold, a sound; that of the member's line when empty."`
}

// ParkLot is a range of park slots.
type ParkLot struct {
	ID       string   `yaml:"id" required:"true" max:"32" pattern:"^[A-Za-z0-9][A-Za-z0-9._@-]*$" want:"letters, digits and . _ @ -" doc:"Name of the lot."`
	Slots    string   `yaml:"slots" required:"true" pattern:"^[0-9]+(-[0-9]+)?$" want:"a range of numbers like 381-389" number:"true" doc:"Range of numbers: 381-389."`
	Seconds  int      `yaml:"seconds" default:"60" min:"5" max:"3600" doc:"How long a call stays parked."`
	Reminder int      `yaml:"reminder_seconds" default:"50" min:"0" max:"3600" doc:"When the parker is reminded; 0 is never, and the default where seconds is shorter."`
	Comeback Comeback `yaml:"comeback" doc:"What happens to a call that nobody retrieves."`
	Music    string   `yaml:"music" default:"default" pattern:"^[a-z0-9][a-z0-9-]*$" want:"a name in lower case" max:"32" doc:"What the parked party hears: the name of a sound (ringfence sound add). The built-in melody where there is no such sound."`
	Order    string   `yaml:"order" default:"first" enum:"first,rotating,random" doc:"Which free slot is taken: first, rotating or random."`
}

// Comeback is what happens to a parked call that nobody retrieves.
type Comeback struct {
	ToParker bool `yaml:"to_parker" default:"true" doc:"Ring the one who parked the call first."`
	Seconds  int  `yaml:"seconds" default:"15" min:"1" max:"600" doc:"How long the parker rings."`
	Then     Dest `yaml:"then" default:"hangup" doc:"Where the call goes after that."`
}

// PageGroup is a paging number.
type PageGroup struct {
	Number      Digits     `yaml:"number" required:"true" doc:"Number that starts the page."`
	Name        string     `yaml:"name" max:"30" doc:"Name, for destinations like page:shop."`
	Members     []Digits   `yaml:"members" doc:"Numbers of lines that hear it."`
	Mode        string     `yaml:"mode" default:"unicast" enum:"multicast,unicast" doc:"multicast or unicast."`
	Group       netip.Addr `yaml:"group" doc:"Multicast address."`
	Port        int        `yaml:"port" default:"20480" min:"20480" max:"32768" doc:"Port on the phones, an even one."`
	Codec       string     `yaml:"codec" default:"G.722" enum:"G.711,G.722" doc:"G.711 or G.722; the oldest phones take G.711 alone."`
	Volume      int        `yaml:"volume" default:"0" min:"0" max:"100" doc:"Percent of the loudest; 0 is what the user of the phone has chosen."`
	Text        string     `yaml:"text" default:"From {caller.number}" max:"100" doc:"Shown on the phones; {caller.number}, {caller.name}, {line.number} and {group.name} are filled in."`
	Beep        bool       `yaml:"beep" default:"true" doc:"Beep before the page."`
	IncludeBusy bool       `yaml:"include_busy" default:"false" doc:"Page phones that are in a call too."`
	MarkBusy    bool       `yaml:"mark_busy" default:"false" doc:"Show the lines of paged phones as busy on lamps while the page lasts."`
}

// Intercom is a number that reaches intercom lines.
type Intercom struct {
	Number  Digits            `yaml:"number" required:"true" doc:"Number that calls every member."`
	Members map[string]Digits `yaml:"members" keys:"^[0-9]+$" wantkeys:"the number of a line" doc:"Line to its intercom line."`
	Timeout int               `yaml:"timeout" default:"3" min:"1" max:"60" doc:"Seconds until an intercom line that does not answer is given up."`
}

// Rooms is a range of conference rooms.
type Rooms struct {
	Range  string `yaml:"range" required:"true" pattern:"^[0-9]+(-[0-9]+)?$" want:"a range of numbers like 360-369" number:"true" doc:"Range of numbers: 360-369."`
	Host   string `yaml:"host" default:"meetme_key" enum:"meetme_key,anyone" doc:"Who opens a room: meetme_key is the one who presses MeetMe and dials it, and whose leaving closes it; anyone is whoever dials it first, and the last to leave closes it."`
	Guests string `yaml:"guests" default:"wait_for_host" enum:"wait_for_host" doc:"What becomes of guests before that: wait_for_host, they are told that there is no such number."`
	Record bool   `yaml:"record" default:"false" doc:"Record every conference."`
}

// Services are numbers of built-in services.
type Services struct {
	Voicemail Digits            `yaml:"voicemail" doc:"Own mailbox; the messages key dials it."`
	EchoTest  Digits            `yaml:"echo_test" doc:"Hear yourself."`
	Time      Digits            `yaml:"time" doc:"Time of day."`
	Directory Digits            `yaml:"directory" doc:"Dial by name."`
	Codes     map[string]string `yaml:"codes" keys:"^(forward_on|forward_off|dnd_toggle|pickup|pickup_number|hunt_toggle|privacy_toggle|hide_number|show_number|intercom|last_caller|record_toggle|park)$" wantkeys:"one of forward_on, forward_off, dnd_toggle, pickup, pickup_number, hunt_toggle, privacy_toggle, hide_number, show_number, intercom, last_caller, record_toggle, park" pattern:"^[0-9*#]+$" want:"digits, * and # in quotes" doc:"Feature codes for phones without keys: forward_on, forward_off, dnd_toggle, pickup, pickup_number, hunt_toggle, privacy_toggle, hide_number, show_number, intercom, last_caller, record_toggle, park."`
}

// Features is how the keys of phones behave.
type Features struct {
	Conference     Conference `yaml:"conference" doc:"Conferences made by key."`
	TransferRecall int        `yaml:"transfer_recall_seconds" default:"30" min:"0" max:"600" doc:"How long the one who has transferred a call rings when nobody answers it; 0 is never."`
	CallbackHours  int        `yaml:"callback_hours" default:"12" min:"1" max:"168" doc:"How long a wish to be called back is kept."`
	Recording      Recording  `yaml:"recording" doc:"How calls are recorded; which ones, lines say."`
	QualityURL     string     `yaml:"quality_url" max:"255" pattern:"^https?://" want:"a URL like http://www.example.net/quality-report" doc:"Questionnaire that the QRT key opens on the phone; name=DEVICE is added. None when empty."`
}

// Conference is how conferences made by key behave.
type Conference struct {
	EveryoneAdmin bool `yaml:"everyone_admin" default:"true" doc:"Every Cisco phone in a conference may list, mute, remove and add; otherwise only the one that made it."`
	Keep          bool `yaml:"keep" default:"false" doc:"The conference goes on after its last administrator has left; otherwise everybody is released."`
	MaxGuests     int  `yaml:"max_guests" default:"60" min:"3" max:"500" doc:"Parties of one conference."`
}

// Recording says how calls are recorded.
type Recording struct {
	By             string `yaml:"by" default:"either" enum:"phone,appliance,either" doc:"phone: the phone's built-in bridge sends copies, and a call whose phone does not is not recorded; appliance: what passes through the appliance is recorded; either: the appliance where the phone does not."`
	KeepDays       int    `yaml:"keep_days" default:"90" min:"0" max:"3650" doc:"Days that recordings are kept; 0 is for ever."`
	WarningSeconds int    `yaml:"warning_seconds" default:"0" min:"0" max:"600" doc:"A tone tells both parties that they are recorded, at first and then every so many seconds; 0 is none."`
}

// Records says what is kept of calls.
type Records struct {
	KeepDays int    `yaml:"keep_days" default:"365" min:"0" max:"3650" doc:"Days that call records are kept; 0 is for ever."`
	Homer    string `yaml:"homer" max:"255" pattern:"^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$" want:"a host and port like 192.0.2.9:9060" doc:"Collector that gets the SIP messages of calls, secrets removed, by HEP version 3 over UDP. Read at the start. None when empty."`
}

// Schedule is a set of open hours.
type Schedule struct {
	ID       string   `yaml:"id" required:"true" max:"32" pattern:"^[A-Za-z0-9][A-Za-z0-9._@-]*$" want:"letters, digits and . _ @ -" doc:"Name, for routes_in."`
	Zone     string   `yaml:"zone" doc:"IANA zone; site.time_zone when empty."`
	Weekly   string   `yaml:"weekly" required:"true" want:"mon-fri 08:30-17:30" doc:"mon-fri 08:30-17:30, several joined by ;."`
	Except   []string `yaml:"except" doc:"Days or ranges of days: 2026-12-24..2027-01-01."`
	Override string   `yaml:"override" max:"32" doc:"Name of the manual switch that closes by hand. When it is a number, like *28, dialling it turns the switch, and keys can watch it."`
}

// Rule decides about calls of lines.
type Rule struct {
	Match  string            `yaml:"match" max:"100" want:"a pattern like 3XX" doc:"Pattern of the number as dialled; any when empty."`
	From   []Digits          `yaml:"from" doc:"Lines whose calls it is about; all when empty."`
	When   string            `yaml:"when" doc:"Schedule that must be open; always when empty."`
	Unless string            `yaml:"unless" doc:"Schedule that must not be open."`
	If     map[string]string `yaml:"if" keys:"^[a-z_]{1,30}$" wantkeys:"the name of a field, as line get lists them" doc:"Fields of the calling line and the values that they must have."`
	Called map[string]string `yaml:"if_called" keys:"^[a-z_]{1,30}$" wantkeys:"the name of a field, as line get lists them" doc:"The same of the line that is called; not so for a number that is no line's."`
	Set    map[string]string `yaml:"set" keys:"^(callforward|donotdisturb|huntgroup)$" wantkeys:"callforward, donotdisturb or huntgroup" doc:"Fields of the calling line that are set when the call is made; its phone is told."`
	Script string            `yaml:"script" max:"16384" doc:"A Starlark function route(call) that returns a destination, or None for the call to go on (docs/plan-rules.md)."`
	To     Dest              `yaml:"to" doc:"Where the call goes; it goes on when empty."`
}

// RouteIn takes calls from trunks.
type RouteIn struct {
	Trunk  string `yaml:"trunk" max:"32" doc:"Trunk that the call comes from; any when empty."`
	Number Digits `yaml:"number" doc:"Called number; any when empty."`
	When   string `yaml:"when" doc:"Schedule that must be open; always when empty."`
	To     Dest   `yaml:"to" required:"true" doc:"Where the call goes."`
	Else   Dest   `yaml:"else" doc:"Where it goes outside the schedule."`
}

// RouteOut sends calls to trunks.
type RouteOut struct {
	Match          string   `yaml:"match" required:"true" max:"100" want:"a pattern like 9NXXXXXX" doc:"Pattern: digits, X any digit, Z 1 to 9, N 2 to 9, [..], (a|b), a final . for one or more of any."`
	Strip          int      `yaml:"strip" default:"0" min:"0" max:"30" doc:"Digits dropped in front before the number goes out."`
	Right          string   `yaml:"right" default:"local" max:"30" pattern:"^[a-z][a-z0-9_-]*$" want:"a name in lower case" doc:"Right that a line needs: local, national, international, premium or a name of your own."`
	Via            []string `yaml:"via" doc:"Trunks in order of preference."`
	CallbackPrefix Digits   `yaml:"callback_prefix" doc:"Put before a number in the call lists of phones, so that calling back works."`
}
