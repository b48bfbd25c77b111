package state

import (
	"context"
	"time"

	"github.com/emiago/sipgo/sip"
)

// Pong is how one place where a line is registered answered an OPTIONS.
type Pong struct {
	Line string        // the line that was asked; of a Cisco phone line 1, whichever was meant
	Peer string        // address
	Code int           // 0: no answer
	Took time.Duration // until the answer
	Err  error
}

// Ping asks everybody who is registered as a line whether they are there, by OPTIONS. A Cisco phone is asked at its first line,
// and its answer is for all of them (sip-overview.md §10). It returns when all have answered or ctx has ended.
func (s *State) Ping(ctx context.Context, line string) ([]Pong, error) {
	a, ok := s.opt.Accounts.Line(line)
	if !ok {
		return nil, ErrUnknownLine
	}
	bindings := s.opt.Registrar.Lookup(line)
	if a.Device != "" {
		bindings = s.opt.Registrar.Device(a.Device)
		bindings = bindings[:min(1, len(bindings))]
	}
	results := make(chan Pong, registrarContacts)
	sent := 0
	for _, b := range bindings {
		if !b.Reachable() || sent == registrarContacts {
			continue
		}
		p, began := Pong{Line: b.Line, Peer: b.Flow.Remote().String()}, time.Now()
		req := request(sip.OPTIONS, b, "server")
		req.AppendHeader(sip.NewHeader("Accept", "application/sdp"))
		_, err := s.opt.Transactions.Request(b.Flow, req, func(res *sip.Response, err error) {
			if err == nil && res.StatusCode < 200 {
				return
			}
			p.Took, p.Err = time.Since(began), err
			if err == nil {
				p.Code = res.StatusCode
			}
			results <- p
		})
		if err == nil {
			sent++
		}
	}
	if sent == 0 {
		return nil, ErrNotRegistered
	}
	out := make([]Pong, 0, sent)
	for range sent {
		select {
		case p := <-results:
			out = append(out, p)
		case <-ctx.Done():
			if len(out) == 0 {
				return nil, ctx.Err()
			}
			return out, nil
		}
	}
	return out, nil
}
