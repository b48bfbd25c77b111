package config

import (
	"net/netip"
	"time"
)

// Digits is a dialable string: digits, * and #, optionally a leading +. In YAML it must be quoted, since an unquoted 0123 is
// another number.
type Digits string

// Host is a host name or IP address without port.
type Host string

// Endpoint is host:port of a listener. The zero value is off.
type Endpoint struct{ netip.AddrPort }

// Off tells whether the listener is switched off.
func (e Endpoint) Off() bool { return !e.IsValid() }

// String formats e as it is written in a document.
func (e Endpoint) String() string {
	if e.Off() {
		return "off"
	}
	return e.AddrPort.String()
}

// InterfaceAddress is an address with the length of its network: 192.0.2.10/24.
type InterfaceAddress struct{ netip.Prefix }

// PortRange is an inclusive range of ports, First even.
type PortRange struct{ First, Last uint16 }

// Duration is a time.Duration written as 30s, 5m, 1h.
type Duration time.Duration

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String formats d as it is written in a document.
func (d Duration) String() string { return time.Duration(d).String() }

// Dest is a destination in the plan: extension:301, voicemail:301, group:370, external:+15550100, busy, congestion, hangup ...
type Dest string

// SecurityMode of a phone.
type SecurityMode string

// KeyKind is an algorithm and size of a key: rsa2048, p256 ...
type KeyKind string

// CAPFAuth is the proof that CAPF asks of a phone.
type CAPFAuth string

// VPNAuth is a way to log in to the VPN.
type VPNAuth string

// SRTPPolicy says what becomes of calls whose legs are not all encrypted.
type SRTPPolicy string

// ITLVersion is the version of trust lists.
type ITLVersion string

// RecordMode says when a line's calls are recorded.
type RecordMode string

// Values of the enumerations above.
const (
	SecurityEncrypted SecurityMode = "encrypted"
	SecurityNonsecure SecurityMode = "nonsecure"

	KeyAuto    KeyKind = "auto"
	KeyRSA2048 KeyKind = "rsa2048"
	KeyRSA3072 KeyKind = "rsa3072"
	KeyRSA4096 KeyKind = "rsa4096"
	KeyP256    KeyKind = "p256"
	KeyP384    KeyKind = "p384"
	KeyP521    KeyKind = "p521"

	CAPFNullString CAPFAuth = "null_string"
	CAPFCode       CAPFAuth = "code"
	CAPFLSC        CAPFAuth = "lsc"
	CAPFMIC        CAPFAuth = "mic"

	VPNCertificate VPNAuth = "certificate"
	VPNPassword    VPNAuth = "password"

	SRTPRequire SRTPPolicy = "require"
	SRTPPrefer  SRTPPolicy = "prefer"
	SRTPNever   SRTPPolicy = "never"

	ITLAuto ITLVersion = "auto"
	ITL10   ITLVersion = "1.0"
	ITL11   ITLVersion = "1.1"

	RecordNever    RecordMode = "never"
	RecordOnDemand RecordMode = "on_demand"
	RecordAlways   RecordMode = "always"
)
