package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/internal/feature"
)

// TestOldPhoneEncrypted leads a 7900, which knows nothing newer than TLS 1.0, through its morning in encrypted mode on listeners that
// were switched to it, next to a phone that does better on the same ports.
func TestOldPhoneEncrypted(t *testing.T) {
	feature.Proves(t, "SEC-3", "SEC-6")
	d := newDaemon(t, strings.Replace(strings.Replace(three, "    security: nonsecure\n", "", 1), "  listen:\n", "  listen:\n    legacy_tls: [capf, tvs, sip]\n", 1))
	cleo, ada := d.newPhone("SEP001122AA0003", "7965", 3), d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(cleo)
	d.ready(ada)
	ca, cc := connect(t, ada, cleo, "303")
	hear(t, ca, cc)
	if got := cc.Audio().Suite; got != "AES_CM_128_HMAC_SHA1_32" {
		t.Errorf("the 7965 uses %q, want AES_CM_128_HMAC_SHA1_32", got)
	}
	if got := ca.CallInfo("security"); got != "Encrypted" {
		t.Errorf("security shown to ada is %q, want Encrypted", got)
	}
	if err := cc.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)
	unharmed(t, ada, cleo)
}
