package phone

import (
	"errors"
	"fmt"
)

// Kind names what the phone refused.
type Kind string

// The kinds of refusal, each with the page that makes the phone do it.
const (
	ListInvalid     Kind = "list-invalid"      // tlv §7 rules 1 to 7: malformed, bad signature, other FILENAME
	ListContinuity  Kind = "list-continuity"   // tlv §7 rule 8: signer is no SAST of the list in force
	FileSigner      Kind = "file-signer"       // sgn: signer outside the list or without the TFTP role
	FileName        Kind = "file-name"         // sgn: FILENAME is not the name asked for
	FileSignature   Kind = "file-signature"    // sgn: bytes are not what was signed, or not signed at all
	FileSealed      Kind = "file-sealed"       // enc: cannot be opened with this phone's certificate, or tampered with
	FileTransport   Kind = "file-transport"    // provisioning §3.1: redirect, chunked or compressed answer, too long
	FileXML         Kind = "file-xml"          // provisioning §4: the phone drops all of the file
	FileSize        Kind = "file-size"         // provisioning §6: dial template above 8191 bytes
	ServerRole      Kind = "server-role"       // certificate is listed, but not for this service
	ServerUnknown   Kind = "server-unknown"    // certificate neither listed nor vouched for by TVS
	SplitRecord     Kind = "split-record"      // capf §1, tvs §1, anyconnect §6: one message in two TLS records
	TVSInvalid      Kind = "tvs-invalid"       // TVS says invalid, or without the role wanted
	CAPFProtocol    Kind = "capf-protocol"     // capf §3: message out of place, certificate not for the key sent
	CAPFRefused     Kind = "capf-refused"      // END_SESSION with another reason than done
	VPNCertificate  Kind = "vpn-certificate"   // certhash: leaf is none of certHash1 to 10
	VPNLogin        Kind = "vpn-login"         // anyconnect §4: no webvpn cookie, no tunnel
	RequestURI      Kind = "request-uri"       // overview §3: user unknown (404) or host:port not its own (400)
	RegisterCallID  Kind = "register-call-id"  // registration §6: service control for another registration
	NotifyDialog    Kind = "notify-dialog"     // state §1: unsolicited NOTIFY with a To tag (481)
	NotifyState     Kind = "notify-state"      // state §1: no Subscription-State (400)
	NotifyBody      Kind = "notify-body"       // overview §9: body that cannot be read (400)
	NotifyEvent     Kind = "notify-event"      // overview §9: event unknown (489)
	RemoteCC        Kind = "remotecc"          // overview §6: XML not well-formed, too many parts, unknown dialog
	Message         Kind = "sip-message"       // not a SIP message: the connection is closed
	RegisterAnswer  Kind = "register-answer"   // registration §3: 200 that a phone cannot live with
	RegisterDenied  Kind = "register-denied"   // registration §4: 4xx to 6xx
	MediaPlain      Kind = "media-plain"       // calls §30: RTP/AVP in encrypted mode without fallback
	MediaSecure     Kind = "media-secure"      // calls §30: RTP/SAVP to a phone in non-secure mode
	Bridge          Kind = "bridge"            // calls §15: a copy of a call is asked for in a way that no page has
	MediaAnswer     Kind = "media-answer"      // calls §27: answer outside the offer, several codecs, other crypto tag
	DialogUnknown   Kind = "dialog-unknown"    // RFC 3261 §12.2.2: 481
	ChallengeAgain  Kind = "challenge-again"   // overview §4: credentials are tried once
	ChallengeMethod Kind = "challenge-unknown" // overview §4: another algorithm than MD5, 407, or qop on a model that has none
)

// Refusal is the error of something that the phone refused.
type Refusal struct {
	Kind Kind
	Text string
	Err  error
}

// Error says the kind and the reason.
func (r *Refusal) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("refused (%s): %s: %v", r.Kind, r.Text, r.Err)
	}
	return fmt.Sprintf("refused (%s): %s", r.Kind, r.Text)
}

// Unwrap is the cause, if any.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(kind Kind, err error, format string, args ...any) *Refusal {
	return &Refusal{Kind: kind, Text: fmt.Sprintf(format, args...), Err: err}
}

// RefusedAs says whether err is, or wraps, a refusal of that kind.
func RefusedAs(err error, kind Kind) bool {
	var r *Refusal
	for errors.As(err, &r) {
		if r.Kind == kind {
			return true
		}
		err = r.Err
	}
	return false
}

// Refusals counts what the phone has refused since it was made, by kind. A phone that met only correct servers has none.
func (p *Phone) Refusals() map[Kind]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[Kind]int, len(p.refusals))
	for k, n := range p.refusals {
		out[k] = n
	}
	return out
}

// Remarks are oddities that a phone bears but that no page allows, in order, the same text once; at most a hundred.
func (p *Phone) Remarks() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.remarks...)
}

const maxRemarks = 100

func (p *Phone) remark(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.remarks {
		if r == text {
			return
		}
	}
	if len(p.remarks) < maxRemarks {
		p.remarks = append(p.remarks, text)
	}
}
