package admin

import (
	"time"

	"ringfence/appliance/phone"
	"ringfence/image/boot"
)

// StatusInfo is the appliance at a glance.
type StatusInfo struct {
	Appliance string        `json:"appliance"`
	Address   string        `json:"address"`
	Version   string        `json:"version"`
	Config    string        `json:"config"` // file, or revision when the store holds it
	StateDir  string        `json:"state_dir"`
	Started   time.Time     `json:"started"`
	Services  []ServiceInfo `json:"services"`
	Phones    Count         `json:"phones"`
	Lines     Count         `json:"lines"`
	Calls     int           `json:"calls"`
	VPN       int           `json:"vpn_sessions"`
	Stuck     []string      `json:"stuck,omitempty"`   // declared phones that need a hand
	Waiting   []string      `json:"waiting,omitempty"` // devices that ask but are not declared, the most persistent ones
	MoreWait  int           `json:"more_waiting,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"`
	Authority string        `json:"authority,omitempty"` // SHA-256 of the certificate authority's root
	Machine   *MachineInfo  `json:"machine,omitempty"`
	Image     *boot.Status  `json:"image,omitempty"` // what init tells, where this is the appliance image
}

// MachineInfo is the machine: its disk, sensors and clock.
type MachineInfo struct {
	DataSize    uint64  `json:"data_size"` // bytes of the file system with the state
	DataFree    uint64  `json:"data_free"`
	Sensor      string  `json:"sensor,omitempty"` // the hottest
	Celsius     float64 `json:"celsius,omitempty"`
	Clock       string  `json:"clock,omitempty"` // whom it follows, where this daemon keeps it
	ClockSynced bool    `json:"clock_synced"`
}

// Count is how many of a kind are registered.
type Count struct {
	Declared   int `json:"declared"`
	Registered int `json:"registered"`
}

// ServiceInfo is one supervised service.
type ServiceInfo struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Up       bool      `json:"up"`
	Listen   []string  `json:"listen,omitempty"` // tcp 0.0.0.0:6970
	Error    string    `json:"error,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Restarts uint64    `json:"restarts"`
}

// PhoneInfo is a device. Lists carry it without boot record and files.
type PhoneInfo struct {
	Device       string            `json:"device"`
	Declared     bool              `json:"declared"`
	Model        string            `json:"model,omitempty"`
	Label        string            `json:"label,omitempty"`
	Security     string            `json:"security,omitempty"` // encrypted or nonsecure
	State        string            `json:"state"`              // unseen, waiting, booting, stuck, away, registered
	Lines        []PhoneLine       `json:"lines"`
	Registration *RegistrationInfo `json:"registration,omitempty"`
	LSC          *CertInfo         `json:"lsc,omitempty"`
	ITL          *FileInfo         `json:"itl,omitempty"`   // trust list as last fetched
	Files        []FileInfo        `json:"files,omitempty"` // last fetched, the newest first
	VPNPolicy    string            `json:"vpn_policy,omitempty"`
	VPN          *VPNSessionInfo   `json:"vpn_session,omitempty"`
	DND          bool              `json:"dnd"`
	HuntLogin    bool              `json:"hunt_login"`
	Watches      []WatchedInfo     `json:"watches,omitempty"`
	Warnings     []string          `json:"warnings,omitempty"`
	Stand        *phone.Stand      `json:"stand,omitempty"`
	Boot         []phone.Entry     `json:"boot,omitempty"`
	// More stands in a last entry without device: so many further devices wait. phone list --waiting shows them.
	More int `json:"more,omitempty"`
}

// PasswordInClear is the warning that every non-secure phone carries.
const PasswordInClear = "the SIP password is sent in clear, in the device file and to whoever reads along, because the phone is non-secure; set security: encrypted where the phone can be enrolled"

// PhoneLine is a line on a device.
type PhoneLine struct {
	Index  int    `json:"index"`
	Number string `json:"number"`
	Label  string `json:"label,omitempty"`
}

// RegistrationInfo is a live registration.
type RegistrationInfo struct {
	Transport string    `json:"transport"` // TLS, TCP, UDP
	Remote    string    `json:"remote"`
	Contact   string    `json:"contact,omitempty"`
	UserAgent string    `json:"user_agent,omitempty"`
	Since     time.Time `json:"since"`
	Expires   time.Time `json:"expires,omitzero"`
	// Of Cisco phones: firmware, why it last started, and the key of service control.
	Load           string `json:"load,omitempty"`
	InactiveLoad   string `json:"inactive_load,omitempty"`
	LastReset      string `json:"last_reset,omitempty"`
	RegisterCallID string `json:"register_call_id,omitempty"`
}

// WatchedInfo is a number that a phone watches by a key.
type WatchedInfo struct {
	Number    string `json:"number"`
	Shows     string `json:"shows"`
	Confirmed bool   `json:"confirmed"` // the phone has acknowledged that
}

// FileInfo is a file as a phone fetched it.
type FileInfo struct {
	Name      string    `json:"name"`
	Transport string    `json:"transport"` // http, https, tftp
	Status    string    `json:"status"`    // 200, 404, aborted
	Bytes     int64     `json:"bytes"`
	At        time.Time `json:"at"`
}

// LineInfo is a number.
type LineInfo struct {
	Number        string             `json:"number"`
	Name          string             `json:"name,omitempty"`
	Label         string             `json:"label,omitempty"`
	User          string             `json:"user,omitempty"`
	Device        string             `json:"device,omitempty"`
	Index         int                `json:"index,omitempty"`
	Registered    bool               `json:"registered"`
	Registrations []RegistrationInfo `json:"registrations,omitempty"`
	Phase         string             `json:"phase"` // idle, ringing, active, held
	Calls         int                `json:"calls"`
	Forward       string             `json:"forward,omitempty"`
	DND           bool               `json:"dnd"`
	LoggedOut     bool               `json:"logged_out,omitempty"` // of hunt groups
	OffHook       bool               `json:"off_hook,omitempty"`
	Shows         string             `json:"shows,omitempty"` // on keys that watch it
	New           int                `json:"new_messages,omitempty"`
	Old           int                `json:"old_messages,omitempty"`
	Voicemail     string             `json:"voicemail,omitempty"`
	Watchers      []string           `json:"watchers,omitempty"` // lines that watch it
}

// CertInfo is a certificate of the authority.
type CertInfo struct {
	Role      string    `json:"role"` // SAST, CCM, TFTP … or LSC
	Device    string    `json:"device,omitempty"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	Key       string    `json:"key"` // RSA 2048, P-256
	SHA256    string    `json:"sha256,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after"`
	State     string    `json:"state"` // current, next, unconfirmed, superseded, revoked, expired
	Reason    string    `json:"reason,omitempty"`
}

// VPNSessionInfo is a VPN session.
type VPNSessionInfo struct {
	ID         string    `json:"id"`
	Device     string    `json:"device,omitempty"`
	User       string    `json:"user,omitempty"`
	Policy     string    `json:"policy"`
	Method     string    `json:"method"` // certificate, password, wireguard
	State      string    `json:"state"`  // granted, up, away
	Address    string    `json:"address"`
	Address6   string    `json:"address6,omitempty"`
	Remote     string    `json:"remote"`
	UserAgent  string    `json:"user_agent,omitempty"`
	Host       string    `json:"host,omitempty"` // as the client names itself
	Link       string    `json:"link"`           // TLS 1.2 AES…, WireGuard, or down
	Datagrams  string    `json:"datagrams,omitempty"`
	Payload    string    `json:"payload,omitempty"` // what packets to the client go through: tcp, udp
	MTU        int       `json:"mtu,omitempty"`
	Connects   int       `json:"connects"`
	Since      time.Time `json:"since"`
	LastSeen   time.Time `json:"last_seen,omitzero"`
	PacketsIn  uint64    `json:"packets_in"`
	PacketsOut uint64    `json:"packets_out"`
	BytesIn    uint64    `json:"bytes_in"`
	BytesOut   uint64    `json:"bytes_out"`
	LossIn     float64   `json:"loss_in"` // part of the client's datagrams that did not arrive
	// RoundTrip is the latest one that a probe measured; RoundTrips counts those up to 5, 10, 20, 50, 100, 200, 500, 1000 ms and
	// above.
	RoundTrip  float64  `json:"round_trip_ms"`
	RoundTrips []uint32 `json:"round_trips"`
	Dropped    VPNDrops `json:"dropped"`
}

// VPNDrops counts packets of a session that were not carried.
type VPNDrops struct {
	Forbidden uint64 `json:"forbidden"`      // by the policy
	Foreign   uint64 `json:"foreign_source"` // with another source address than the session's
	Malformed uint64 `json:"malformed"`
	TooBig    uint64 `json:"too_big"`
	NoLink    uint64 `json:"no_link"`   // while the client was away
	Congested uint64 `json:"congested"` // its line takes less
}

// CallInfo is a call.
type CallInfo struct {
	ID       string    `json:"id"`
	From     string    `json:"from"`
	FromName string    `json:"from_name,omitempty"`
	To       string    `json:"to"`
	ToName   string    `json:"to_name,omitempty"`
	State    string    `json:"state"` // ringing, active, held …
	Started  time.Time `json:"started"`
	Answered time.Time `json:"answered,omitzero"`
	Legs     []LegInfo `json:"legs"`
}

// LegInfo is one side of a call.
type LegInfo struct {
	Line      string `json:"line"`
	Device    string `json:"device,omitempty"`
	Direction string `json:"direction"` // in, out, as the appliance sees it
	State     string `json:"state"`
	Codec     string `json:"codec,omitempty"`
	Encrypted bool   `json:"encrypted"`
	Suite     string `json:"suite,omitempty"`
	Direct    bool   `json:"direct,omitempty"` // audio goes, or went, to the other phone without the appliance
	Packets   Flow   `json:"packets"`
}

// Flow counts packets of a leg, and how its audio is.
type Flow struct {
	In   uint64 `json:"in"`
	Out  uint64 `json:"out"`
	Lost uint64 `json:"lost"`
	Late uint64 `json:"late,omitempty"` // came, but too late for an ordinary phone
	// From the phone, as measured here, and to the phone, as it reports. Missing where nothing is known yet.
	From *Quality `json:"from,omitempty"`
	To   *Quality `json:"to,omitempty"`
}

// Quality is one direction of a leg's audio in the last seconds.
type Quality struct {
	MOS    float64 `json:"mos"`   // of the E-model, 1 to 4.4
	Worst  float64 `json:"worst"` // of all intervals yet
	Loss   float64 `json:"loss_percent"`
	Jitter float64 `json:"jitter_ms"`
	Delay  float64 `json:"delay_ms"` // one way, estimated
}

// Sources are where the built-in verbs get their answers; the composition root fills them in. Lists come in the order in
// which they are to be shown.
type Sources struct {
	Status      func() StatusInfo
	Phones      func(waiting bool) []PhoneInfo        // waiting: only those that wait to be declared, all of them
	Phone       func(device string) (PhoneInfo, bool) // declared, or waiting to be
	Lines       func() []LineInfo
	Line        func(number string) (LineInfo, bool)
	Certs       func() []CertInfo
	VPNSessions func() []VPNSessionInfo
	Calls       func() []CallInfo
}
