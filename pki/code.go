package pki

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"ringfence/pki/capf"
)

// Code is a one-time code that an administrator gave to a phone. It is kept sealed, so that it can be shown again until the
// phone has enrolled with it, or its time is over.
type Code struct {
	Device string    `json:"-"`
	Digits string    `json:"digits"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"`
}

// codeDigits is the length of a random code: with 5 guesses in 10 minutes the right one is a matter of years.
const codeDigits = 8

func codeKey(device string) string { return deviceKey(device, "onetime") }

// SetCode gives a phone a code and schedules its installation, in one group. Empty digits are replaced by random ones. A code
// that the phone had before is good no more.
func (a *Authority) SetCode(ctx context.Context, device, digits, by string, valid time.Duration) (Code, error) {
	fail := func(err error) (Code, error) { return Code{}, fmt.Errorf("pki: code for phone %s: %w", device, err) }
	switch {
	case !validDevice(device):
		return Code{}, fmt.Errorf("pki: %.64q is no name of a device", device)
	case digits != "" && (len(digits) < 4 || len(digits) > 15 || strings.Trim(digits, "0123456789") != ""):
		return fail(errors.New("a code has 4 to 15 digits"))
	case valid <= 0:
		return fail(errors.New("it would be good for no time"))
	}
	defer a.lock(device)()
	if digits != "" && a.codeSpent(device, digits) {
		return fail(errors.New("the phone has enrolled with these digits before: take others"))
	}
	for digits == "" || a.codeSpent(device, digits) {
		n, err := rand.Int(rand.Reader, new(big.Int).Exp(big.NewInt(10), big.NewInt(codeDigits), nil))
		if err != nil {
			return fail(err)
		}
		digits = fmt.Sprintf("%0*d", codeDigits, n)
	}
	c := Code{Device: device, Digits: digits, By: by, At: a.now(), Until: a.now().Add(valid)}
	plain, err := json.Marshal(c)
	if err != nil {
		return fail(err)
	}
	order, err := json.Marshal(Scheduled{Name: capf.Install.String(), By: by, At: a.now()})
	if err != nil {
		return fail(err)
	}
	err = a.opts.State.Write(ctx, map[string][]byte{codeKey(device): a.seal.seal(codeKey(device), plain), deviceKey(device, "operation"): order})
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// Code returns the code that a phone can enrol with, if an administrator gave it one that is still good.
func (a *Authority) Code(device string) (Code, bool) {
	sealed, ok := a.opts.State.Get(codeKey(device))
	if !ok || len(sealed) == 0 {
		return Code{}, false
	}
	plain, err := a.seal.open(codeKey(device), sealed)
	if err != nil {
		return Code{}, false // another appliance's, or spent
	}
	c := Code{}
	if json.Unmarshal(plain, &c) != nil || a.now().After(c.Until) || a.codeSpent(device, c.Digits) {
		return Code{}, false
	}
	c.Device = device
	return c, true
}
