package provision

import (
	"errors"
	"strings"
	"testing"

	"ringfence/trust"
)

func TestNotes(t *testing.T) {
	w := newWorld(t)
	w.lsc[phone7965] = "lsc"
	for _, c := range []struct {
		name string
		over Transport
		want string
	}{
		{"ITL" + phone8851 + ".tlv", HTTP, phone8851 + " trust asked for ITLSEP001122AA0001.tlv over HTTP, got the trust list, version 1.1 false"},
		{"CTL" + phone8851 + ".tlv", TFTP, phone8851 + " trust asked for CTLSEP001122AA0001.tlv over TFTP, not found false"},
		{phone8851 + ".cnf.xml.sgn", HTTP, "got the stub that makes it enrol: it has no certificate yet, signed false"},
		{phone8851 + ".cnf.xml.enc.sgn", HTTP, "not found: it has no certificate yet true"},
		{phone7965 + ".cnf.xml.sgn", HTTP, "got the stub that points to its sealed file, signed false"},
		{phone7965 + ".cnf.xml.enc.sgn", HTTP, "got its device file, sealed to its certificate false"},
		{phoneOpen + ".cnf.xml", TFTP, "over TFTP, got its device file in clear, with its password (security: nonsecure) false"},
		{"SEP00112233FFFF.cnf.xml", HTTP, "SEP00112233FFFF file asked for SEP00112233FFFF.cnf.xml over HTTP, not found: no phone SEP00112233FFFF is declared true"},
	} {
		f, err := w.get(c.name, c.over)
		if got := w.lastNote(); !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: noted %q, want %q", c.name, got, c.want)
		}
		if err == nil {
			f.Lost(5)
			if got := w.lastNote(); !strings.Contains(got, "stopped taking it after 5 of ") {
				t.Errorf("%s: noted %q", c.name, got)
			}
		}
	}
}

func TestSignersFailure(t *testing.T) {
	w := newWorld(t)
	w.o.Trust.FileSigner = func(string) (trust.Signer, error) { return trust.Signer{}, errors.New("no key") }
	if _, err := w.get(phone8851+".cnf.xml.sgn", HTTP); err == nil {
		t.Error("signed without key")
	}
	if got := w.lastNote(); !strings.Contains(got, "no key") {
		t.Errorf("noted %q", got)
	}
}
