package pki

import (
	"context"
	"fmt"
	"strings"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/provisioner"
)

// reasonCodes are the reasons of RFC 5280 §5.3.1 that make sense here. Any other text is kept, and coded as unspecified.
var reasonCodes = map[string]int{
	"unspecified": 0, "keycompromise": 1, "affiliationchanged": 3, "superseded": 4, "cessationofoperation": 5,
}

// Revoke revokes a certificate. It counts from the moment Revoke returns: VerifyDevice, CurrentLSC and Find look at the
// record each time. The appliance's own certificates in use cannot be revoked, since phones would be cut off: replace
// them first.
func (a *Authority) Revoke(ctx context.Context, serial, reason string) error {
	n, ok := parseSerial(serial)
	if !ok {
		return fmt.Errorf("pki: serial %.64q: %w", serial, ErrUnknown)
	}
	serial = serialText(n)
	i, ok := a.info(serial)
	if !ok {
		return fmt.Errorf("pki: serial %s: %w", serial, ErrUnknown)
	}
	if a.IsRevoked(serial) {
		return nil
	}
	if i.Device == "" && !i.Role.given() && i.Role != RoleIssuer && a.stateOf(serial, i) == Current {
		return fmt.Errorf("pki: certificate %s of role %s is in use: replace it first", serial, i.Role)
	}
	cert, err := a.certificate(serial)
	if err != nil {
		return fmt.Errorf("pki: revoke: %w", err)
	}
	engine, err := a.smallstep()
	if err != nil {
		return fmt.Errorf("pki: revoke: %w", err)
	}
	code := reasonCodes[strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(reason))]
	// Crt with ACME set is how the engine is told that the caller, not a token, is the authority to revoke.
	err = engine.Revoke(provisioner.NewContextWithMethod(ctx, provisioner.RevokeMethod), &authority.RevokeOptions{
		Serial: n.String(), Reason: reason, ReasonCode: code, PassiveOnly: true, ACME: true, Crt: cert,
	})
	if err != nil {
		return fmt.Errorf("pki: revoke %s: %w", serial, err)
	}
	a.log.Info("revoked", "serial", serial, "phone", i.Device, "reason", reason)
	return nil
}

// RevokeDevice revokes every certificate of a device that still proves it: the phone was stolen or given away.
func (a *Authority) RevokeDevice(ctx context.Context, device, reason string) (n int, err error) {
	for _, r := range a.Issued(device) {
		if r.State != Current && r.State != Unconfirmed {
			continue
		}
		if err := a.Revoke(ctx, r.Serial, reason); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// ReasonText is the reason of a code of RFC 5280 §5.3.1, as Revoke takes it.
func ReasonText(code int) string {
	for text, c := range reasonCodes {
		if c == code {
			return text
		}
	}
	return "unspecified"
}
