// Package phone is a simulated Cisco enterprise SIP phone. It is a peer of the appliance and not its friend: it does what
// the protocol pages say that a phone does, in the phone's order and with the phone's fixed names, checks what a phone
// checks and refuses what a phone refuses. Each refusal has a kind, a counter and an event, so that a test can make a
// server wrong and see the phone refuse (Phone.Refusals). What a phone bears but a correct server would not do is kept
// apart as a remark (Phone.Remarks).
//
// Implemented from the pages provisioning (§1 to 5, 6), tlv (§7), sgn, enc, tvs, capf, certhash, anyconnect (§4 to 6),
// sip-overview, sip-registration, sip-state and sip-calls (§1 to 4, 24, 27, 30, 31). The manners of a model (8851, 7965 and
// their relatives) stand in model.go. It shares with the appliance only the codecs of the binary formats (trust/tlv, sgn,
// enc, tvs, pki/capf, the CSTP client); its SIP messages, SDP, XML, TFTP and audio are its own, so that a misreading on one
// side is not hidden by the same misreading on the other.
//
// Left out: UDP transport for SIP (the pages advise against it), the keep-alive towards a standby member and the fall-back
// token, the limit on presence notices while the screen starts (state §1), DTLS in the VPN, XML services, video, and every
// audio codec but G.711: the others go out as frames that say what tone they stand for.
package phone
