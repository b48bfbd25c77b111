package provision

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"ringfence/config"
	"ringfence/trust"
)

// Phones that come from another system, and phones that go to one. Fields of the State:
//
//	trust/lead/DEVICE     how a phone of another system is led over, JSON
//	trust/release/DEVICE  a phone that is given away, JSON
//
// A phone that holds another system's list takes only what a SAST of that list has signed. Where the administrator has that
// system's key, a phone that was never seen to trust this appliance gets lists signed by it in turn, each of which names
// this appliance's signer beside it: from then on the phone takes ours.

// lead is how far leading a phone over has come.
type lead struct {
	Tries  int       `json:"tries"`            // lists delivered
	Signer string    `json:"signer,omitempty"` // CertID of the one that its list names, if that is known
	Asked  bool      `json:"asked,omitempty"`  // by an administrator, whatever the phone was seen to trust
	At     time.Time `json:"at"`
}

// Release is a phone that is given away.
type Release struct {
	By   string    `json:"by"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// LeadWith has a phone's next lists signed by the signer of another system, or for "" by each in turn, although the phone may
// have been seen to trust this appliance once. signer is a CertID.
func (f *Files) LeadWith(device, signer string) error {
	return f.save("trust/lead/"+device, lead{Signer: signer, Asked: true, At: f.o.Now().UTC().Truncate(time.Second)})
}

// Led tells by whose signature the phone would be led over at its next start, nil when by nobody's.
func (f *Files) Led(device string) *x509.Certificate {
	if s, ok := f.leader(device); ok {
		return s.Cert
	}
	return nil
}

// leader is the signer of another system that signs the phone's next list.
func (f *Files) leader(device string) (trust.Signer, bool) {
	if f.o.Trust.Foreign == nil {
		return trust.Signer{}, false
	}
	all := f.o.Trust.Foreign()
	if len(all) == 0 {
		return trust.Signer{}, false
	}
	var l lead
	f.load("trust/lead/"+device, &l)
	if !l.Asked && f.o.Believes != nil && f.o.Believes(device) {
		return trust.Signer{}, false
	}
	if l.Signer != "" {
		i := slices.IndexFunc(all, func(s trust.Signer) bool { return CertID(s.Cert) == l.Signer })
		if i < 0 || l.Tries > 0 {
			return trust.Signer{}, false
		}
		return all[i], true
	}
	// Each in turn, then this appliance's own. Somebody who asked gets one round.
	n := len(all) + 1
	if l.Asked && l.Tries >= n || l.Tries%n == len(all) {
		return trust.Signer{}, false
	}
	return all[l.Tries%n], true
}

// tried counts a list that was delivered to a phone that is being led over.
func (f *Files) tried(device string) {
	if f.o.Trust.Foreign == nil || len(f.o.Trust.Foreign()) == 0 {
		return
	}
	var l lead
	f.load("trust/lead/"+device, &l)
	if !l.Asked && f.o.Believes != nil && f.o.Believes(device) {
		return
	}
	l.Tries++
	l.At = f.o.Now().UTC().Truncate(time.Second)
	if err := f.save("trust/lead/"+device, l); err != nil {
		f.log.Error("leading a phone over not kept", "phone", device, "err", err)
	}
}

// Release gives a phone away: its next list names signers and no service, so that it asks for files in clear and believes the
// next system that it meets (tlv.md §8).
func (f *Files) Release(device, by, text string) error {
	return f.save("trust/release/"+device, Release{By: by, Text: text, At: f.o.Now().UTC().Truncate(time.Second)})
}

// Keep takes Release back: the phone's next list is an ordinary one.
func (f *Files) Keep(device string) error {
	if f.o.State == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTime)
	defer cancel()
	if err := f.o.State.Write(ctx, nil, "trust/release/"+device); err != nil {
		return fmt.Errorf("provision: phone %s: %w", device, err)
	}
	return nil
}

// Released tells whether a phone is given away.
func (f *Files) Released(device string) (r Release, ok bool) {
	return r, f.load("trust/release/"+device, &r)
}

// special replaces the content of a phone's list where the phone is given away or comes from elsewhere.
func (f *Files) special(phone *config.Phone, entries []trust.Entry, signer trust.Signer, all []trust.Signer) (_ []trust.Entry, by trust.Signer, what string, ok bool) {
	if phone == nil {
		return nil, signer, "", false
	}
	if _, gone := f.Released(phone.Device); gone {
		only := slices.DeleteFunc(slices.Clone(entries), func(e trust.Entry) bool { return e.Role != trust.SAST })
		if old, ok := f.bridge(phone, all); ok {
			only, signer = bridgeEntries(only, signer, old), old
		}
		return only, signer, ", which names no service: the phone is given away", true
	}
	if old, ok := f.bridge(phone, all); ok {
		return bridgeEntries(entries, signer, old), old, ", signed by " + old.Cert.Subject.CommonName + ", the only signer that the phone knows", true
	}
	if old, ok := f.leader(phone.Device); ok {
		return bridgeEntries(entries, signer, old), old, ", signed by " + old.Cert.Subject.CommonName + " of another system, to lead the phone over", true
	}
	return nil, signer, "", false
}
