package state

import (
	"context"
	"fmt"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/transaction"
)

// CheckSync asks whoever is registered as a line that is no Cisco phone's to look for a new configuration (NOTIFY check-sync); the
// enterprise firmware only answers it and does nothing (sip-registration.md §6). It returns when all have answered, with how many
// obeyed.
func (s *State) CheckSync(ctx context.Context, line string) (int, error) {
	if _, ok := s.opt.Accounts.Line(line); !ok {
		return 0, ErrUnknownLine
	}
	results := make(chan error, registrarContacts)
	sent := 0
	for _, b := range s.opt.Registrar.Lookup(line) {
		if !b.Reachable() || sent == registrarContacts {
			continue
		}
		req := request(sip.NOTIFY, b, line)
		req.AppendHeader(sip.NewHeader("Event", "check-sync"))
		req.AppendHeader(sip.NewHeader("Subscription-State", "terminated;reason=noresource"))
		_, err := s.opt.Transactions.Request(b.Flow, req, func(res *sip.Response, err error) {
			switch {
			case err != nil:
				results <- err
			case res.StatusCode >= 300:
				results <- fmt.Errorf("answered %d %s", res.StatusCode, transaction.Header(res, "Warning"))
			case res.StatusCode >= 200:
				results <- nil
			}
		})
		if err == nil {
			sent++
		}
	}
	if sent == 0 {
		return 0, ErrNotRegistered
	}
	obeyed, last := 0, error(nil)
	for range sent {
		select {
		case err := <-results:
			if last = err; err == nil {
				obeyed++
			}
		case <-ctx.Done():
			if obeyed > 0 {
				return obeyed, nil // the others are not there any more
			}
			return 0, ctx.Err()
		}
	}
	if obeyed == 0 {
		return 0, last
	}
	return obeyed, nil
}

// registrarContacts is how many places a line is asked at.
const registrarContacts = 10
