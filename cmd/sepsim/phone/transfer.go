package phone

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// BlindTransfer holds the call, refers the other side to a number and hangs up once the server reports success (calls
// §4.1). On failure the call stays held.
func (c *Call) BlindTransfer(ctx context.Context, number string) error {
	if c.State() == Connected {
		if err := c.hold(ctx, "transfer"); err != nil {
			return fmt.Errorf("transfer: %w", err)
		}
	}
	return c.refer(ctx, fmt.Sprintf("<sip:%s@%s>", number, c.l.member.Host))
}

// Consult holds the call for a transfer and calls a number on the same line: the first half of an attended transfer.
func (c *Call) Consult(ctx context.Context, number string) (*Call, error) {
	if c.State() == Connected {
		if err := c.hold(ctx, "transfer"); err != nil {
			return nil, fmt.Errorf("transfer: %w", err)
		}
	}
	return c.p.CallFrom(ctx, c.line.Index, number)
}

// ConsultFor is Consult for another purpose: conference.
func (c *Call) ConsultFor(ctx context.Context, purpose, number string) (*Call, error) {
	if c.State() == Connected {
		if err := c.hold(ctx, purpose); err != nil {
			return nil, fmt.Errorf("%s: %w", purpose, err)
		}
	}
	return c.p.CallFrom(ctx, c.line.Index, number)
}

// Transfer connects the two other sides of this call and of the consultation, which may still ring where the configuration
// allows it (calls §4.2, §4.3). The server ends the consultation, the phone ends this call.
func (c *Call) Transfer(ctx context.Context, consult *Call) error {
	switch consult.State() {
	case Connected, Held:
	case RingOut:
		if !c.conf.Semi {
			return errors.New("transfer: semiAttendedTransfer is off")
		}
	default:
		return fmt.Errorf("transfer: consultation is %s", consult.State())
	}
	if c.State() == Connected {
		if err := c.hold(ctx, "transfer"); err != nil {
			return fmt.Errorf("transfer: %w", err)
		}
	}
	p := c.p
	p.mu.Lock()
	number := userOf(consult.remoteURIBare())
	// From the view of the one who gets the Replaces: to-tag is the server's where this phone has called.
	replaces := fmt.Sprintf("%s;to-tag=%s;from-tag=%s", consult.callID, consult.remoteTag, consult.localTag)
	p.mu.Unlock()
	return c.refer(ctx, fmt.Sprintf("<sip:%s@%s?Replaces=%s>", number, c.l.member.Host, escapeHeader(replaces)))
}

func (c *Call) remoteURIBare() string { return nameAddrOf(c.remoteURI).uri }

// escapeHeader escapes a header value inside a URI (RFC 3261 §19.1.1).
func escapeHeader(s string) string {
	return strings.NewReplacer("+", "%20").Replace(url.QueryEscape(s))
}

func (c *Call) refer(ctx context.Context, to string) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	p := c.p
	p.mu.Lock()
	c.sipfrag = ""
	p.mu.Unlock()
	_, res, err := c.exchange(ctx, "REFER", func(m *message) {
		m.add("Referred-By", "%s <sip:%s@%s>", quote(c.line.shown()), c.line.Name, c.l.member.Host)
		m.add("Refer-To", "%s", to)
		m.add("Allow", "%s", allow)
	})
	c.done()
	switch {
	case err != nil:
		return fmt.Errorf("transfer: %w", err)
	case res.status/100 != 2:
		return fmt.Errorf("transfer: %d %s", res.status, res.reason)
	case res.status != 202:
		p.remark("REFER answered %d, not 202", res.status)
	}
	var result string
	err = p.Wait(ctx, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		result = c.sipfrag
		return result != "" && !strings.HasPrefix(result, "SIP/2.0 1") || c.state == Ended
	})
	switch {
	case err != nil:
		return fmt.Errorf("transfer: no report: %w", err)
	case result == "" || strings.HasPrefix(result, "SIP/2.0 1"):
		return errors.New("transfer: call ended without a report")
	case !strings.HasPrefix(result, "SIP/2.0 2"):
		return fmt.Errorf("transfer: reported %q", result)
	}
	// The phone ends the leg that carried its REFER (calls §4.1).
	return c.bye(ctx, "transferred")
}
