package config

import (
	"strings"
	"testing"
	"time"
)

func TestTrustedCertificates(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"no file", "trusted: [{name: old}]", "names no file"},
		{"no name", "trusted: [{files: [old.tlv]}]", "name"},
		{"odd name", "trusted: [{name: Old One, files: [old.tlv]}]", "lower-case"},
		{"two of a name", "trusted: [{name: old, files: [a.tlv]}, {name: old, files: [b.tlv]}]", "old is taken"},
		{"no roles", "trusted: [{name: old, files: [a.pem]}]", "has to be said by roles"},
		{"no roles for one of two", "trusted: [{name: old, files: [a.tlv, b.pem]}]", "has to be said by roles"},
		{"unknown role", "trusted: [{name: old, files: [a.pem], roles: [VPN]}]", "VPN"},
		{"file without name", "trusted: [{name: old, files: [\"\"]}]", "file without name"},
		{"long-lived answers", "trusted: [{name: old, files: [a.tlv], ttl: 721h}]", "ttl"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := faultsOf(t, minimal+"pki: {"+tc.text+"}")
			for _, e := range errs {
				if strings.Contains(e.Error(), tc.want) {
					return
				}
			}
			t.Errorf("want %q in %v", tc.want, errs)
		})
	}
	d, notices := mustParse(t, minimal+"pki: {trusted: [{name: old, files: [a.tlv, B.TLV], roles: [CCM]}, {name: other, files: [c.pem], roles: [SAST, CCM+TFTP], ttl: 1h, listed: true}]}")
	if got := d.PKI.Trusted; len(got) != 2 || got[0].TTL.D() != 24*time.Hour || !got[1].Listed || got[1].TTL.D() != time.Hour {
		t.Errorf("trusted: %+v", got)
	}
	if len(notices) == 0 || !strings.Contains(notices[0].String(), "changes nothing") {
		t.Errorf("notices: %v", notices)
	}
}

func TestProofsThatNobodyCanGive(t *testing.T) {
	for text, want := range map[string]string{
		"lsc: {auth: mic}":               "no phone can enrol",
		"lsc: {auth: lsc}":               "only phones that have a certificate",
		"lsc: {session_proof: required}": "no phone can renew",
	} {
		_, notices := mustParse(t, minimal+"pki: {"+text+"}")
		found := false
		for _, n := range notices {
			found = found || strings.Contains(n.String(), want)
		}
		if !found {
			t.Errorf("%s: want %q in %v", text, want, notices)
		}
		if _, notices := mustParse(t, minimal+"pki: {mic_roots: [mic.pem], "+text+"}"); strings.Contains(strings.Join(texts(notices), "\n"), want) {
			t.Errorf("%s with roots: %v", text, notices)
		}
	}
}

func texts(notices []Notice) (out []string) {
	for _, n := range notices {
		out = append(out, n.String())
	}
	return out
}
