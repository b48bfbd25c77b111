package legacytls

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// Alerts (RFC 5246 §7.2 and its forerunners) that are sent or looked at.
const (
	alertCloseNotify            = 0
	alertUnexpectedMessage      = 10
	alertBadRecordMAC           = 20
	alertRecordOverflow         = 22
	alertHandshakeFailure       = 40
	alertBadCertificate         = 42
	alertUnsupportedCertificate = 43
	alertIllegalParameter       = 47
	alertDecodeError            = 50
	alertDecryptError           = 51
	alertProtocolVersion        = 70
	alertInternalError          = 80
	alertInappropriateFallback  = 86
	alertNoRenegotiation        = 100

	levelWarning = 1
	levelFatal   = 2
)

// Fault is a peer that was sent a fatal alert, and why. The reason is for our log; the peer gets the alert alone.
type Fault struct {
	Alert  tls.AlertError
	Reason error
}

// Error says why.
func (f *Fault) Error() string { return f.Reason.Error() }

// Unwrap gives the reason.
func (f *Fault) Unwrap() error { return f.Reason }

func fault(alert byte, format string, args ...any) error {
	return &Fault{tls.AlertError(alert), fmt.Errorf(format, args...)}
}

// alertFor is the alert that an error deserves.
func alertFor(err error) (byte, bool) {
	if f, ok := errors.AsType[*Fault](err); ok {
		return byte(f.Alert), true
	}
	if errors.Is(err, errMessage) {
		return alertDecodeError, true
	}
	return 0, false
}

// PeerAlert is a fatal alert that the peer sent.
type PeerAlert struct{ Alert tls.AlertError }

// Error names the alert.
func (p *PeerAlert) Error() string { return "peer sent alert: " + p.Alert.Error() }

// Unwrap gives the alert.
func (p *PeerAlert) Unwrap() error { return p.Alert }
