// Package cisco holds the codecs of Cisco's enterprise SIP phones: remotecc requests and responses, multipart bodies, PIDF
// with Cisco's extensions, dialog-info, Call-Info, reset reasons, alarms, service control, message summary, RTP statistics,
// AS feature events and service URIs (sip-overview.md §5-9, sip-registration.md §2-9, sip-state.md, sip-calls.md §1, §31).
//
// Codecs only: no sockets, no clock, no logging. Marshal writes what the server of the pages writes, byte for byte, with CRLF
// line ends; Unmarshal takes what phones send: any order, unknown elements, blanks, either line end. Both directions exist for
// each message, since the simulated phone speaks them too.
//
// # Texts
//
// Texts are Go strings in UTF-8, except that the byte 0x80 followed by one ASCII character stands for a phrase in the phone's
// language (Phrase). A document that holds such a text is written and read as iso-8859-1 (sip-calls.md §1.3). In SIP headers
// the raw bytes are sent.
//
// # Content types
//
// The constants Type… name the media types.
//
// Left out: kpml, x-cisco-config, CTI; phones know them, nothing here uses them.
package cisco

// Media types of bodies (sip-overview.md §6.1).
const (
	TypeRequest        = "application/x-cisco-remotecc-request+xml"
	TypeResponse       = "application/x-cisco-remotecc-response+xml"
	TypeCM             = "application/x-cisco-remotecc-cm+xml"
	TypeAlarm          = "application/x-cisco-alarm+xml"
	TypePIDF           = "application/pidf+xml"
	TypeCPIMPIDF       = "application/cpim-pidf+xml"
	TypeDialogInfo     = "application/dialog-info+xml"
	TypeMessageSummary = "application/simple-message-summary"
	TypeServiceControl = "text/plain"
	TypeFeatureEvent   = "application/x-as-feature-event+xml"
	TypeMultipart      = "multipart/mixed"
)

// TokenRegistration is the Refer-To of a phone that asks to come back (sip-registration.md §7.3); compare without case.
const TokenRegistration = "urn:X-cisco-remotecc:token-registration"

// SIS is the level of features that the server announces (sip-calls.md §1.5).
const SIS = "X-cisco-sis-10.0.0"
