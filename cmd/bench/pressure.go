package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// pressure measures how the back-to-back agent behaves with much to do: how late answers get through at half of what it can, how
// soon a feature key is answered beside 100 calls/s, and what thousands of calls that are up need.
func (b *bench) pressure(ctx context.Context) (err error) {
	d, err := b.newDaemon(ctx, "pressure", site{phones: 16, lines: 1000, calls: 20})
	if err != nil {
		return err
	}
	defer func() { also(&err, d) }()
	if err := b.paced(ctx); err != nil {
		return err
	}
	return b.manyCalls(ctx, d)
}

// pace makes calls at a rate, spread over pairs, until span is over, and returns how late each answer got to its caller.
func pace(ctx context.Context, pairs []*pair, rate float64, span time.Duration) (answers []time.Duration, err error) {
	var mu sync.Mutex
	for _, p := range pairs {
		p.delay = func(d time.Duration) { mu.Lock(); answers = append(answers, d); mu.Unlock() }
	}
	begin, every := time.Now(), time.Duration(float64(len(pairs))/rate*float64(time.Second))
	err = each(len(pairs), len(pairs), func(w int) error {
		next := begin.Add(every * time.Duration(w) / time.Duration(len(pairs)))
		for ; next.Before(begin.Add(span)); next = next.Add(every) {
			sleep(ctx, time.Until(next))
			k, err := pairs[w].invite(ctx)
			if err != nil {
				return err
			}
			if err := k.bye(ctx); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	return answers, err
}

// paced measures answers at half load, and a key beside 100 calls/s.
func (b *bench) paced(ctx context.Context) error {
	const atOnce = 32
	pairs, all, err := b.pairs(ctx, daemonAddress, atOnce)
	if err != nil {
		return err
	}
	defer closeAll(all)
	n, took, _, err := load(ctx, b.span(), atOnce, func(w int) error {
		k, err := pairs[w].invite(ctx)
		if err != nil {
			return err
		}
		return k.bye(ctx)
	})
	if err != nil {
		return err
	}
	full := float64(n) / took.Seconds()
	answers, err := pace(ctx, pairs, full/2, b.span())
	if err != nil {
		return err
	}
	late := row{Name: "answer of the callee to the caller at half load, p99", Value: milliseconds(quantile(answers, 0.99)), Unit: "ms", Goal: 20,
		Beside: fmt.Sprintf("%s calls/s of %s; median %v", figure(full/2), figure(full), quantile(answers, 0.5).Round(10*time.Microsecond))}

	phones, _, err := b.connectPhones(ctx, 1, nil)
	if err != nil {
		return err
	}
	defer closeAll(phones)
	over := make(chan error, 1)
	go func() {
		_, err := pace(ctx, pairs, 100, 2*b.span())
		over <- err
	}()
	var keys []time.Duration
	for {
		select {
		case err := <-over:
			if err != nil {
				return err
			}
			b.report.add(late, row{Name: "feature key answered (202) beside 100 calls/s, p99", Value: milliseconds(quantile(keys, 0.99)), Unit: "ms",
				Goal: 10, Beside: fmt.Sprintf("HLog, kept on disk; median %v of %d", quantile(keys, 0.5).Round(10*time.Microsecond), len(keys))})
			return nil
		case <-time.After(40 * time.Millisecond):
		}
		took, err := press(ctx, phones[0], "HLog")
		if err != nil {
			return err
		}
		keys = append(keys, took)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// press presses a key of a Cisco phone and tells how long the answer took.
func press(ctx context.Context, c *client, key string) (time.Duration, error) {
	id := branches.Add(1)
	body := "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<x-cisco-remotecc-request>\n<softkeyeventmsg>\n<softkeyevent>" + key + "</softkeyevent>\n" +
		"<dialogid><callid></callid><localtag></localtag><remotetag></remotetag></dialogid>\n<linenumber>1</linenumber>\n</softkeyeventmsg>\n</x-cisco-remotecc-request>\n"
	me := "<sip:" + c.user + "@" + c.server + ">"
	began := time.Now()
	c.write(c.request("REFER", "sip:"+c.server, fmt.Sprintf("%s;tag=%x", me, id), "<sip:"+c.server+">", fmt.Sprintf("%x@%s", id, c.local), 1, body,
		"Contact: <"+c.contact()+">", "Require: norefersub", "Referred-By: "+me, fmt.Sprintf("Refer-To: cid:%x", id), fmt.Sprintf("Content-Id: <%x>", id),
		ciscoAgent, "Content-Type: application/x-cisco-remotecc-request+xml"))
	m, err := c.next(ctx)
	if err == nil && m.code != 202 {
		err = fmt.Errorf("key %s answered %s", key, m.lines[0])
	}
	return time.Since(began), err
}

// manyCalls lets thousands of calls be up at once.
func (b *bench) manyCalls(ctx context.Context, d *daemon) error {
	const perPair = 6
	n := b.scale(500)
	pairs, all, err := b.pairs(ctx, daemonAddress, n)
	if err != nil {
		return err
	}
	defer closeAll(all)
	empty, err := d.memory()
	if err != nil {
		return err
	}
	began, before := time.Now(), d.cpu()
	up := make([][perPair]*call, n)
	if err := each(n, 16, func(i int) (err error) {
		for j := range perPair {
			if up[i][j], err = pairs[i].invite(ctx); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("calls at once: %w", err)
	}
	took, cost := time.Since(began), d.cpu()-before
	sleep(ctx, b.settle())
	full, err := d.memory()
	if err != nil {
		return err
	}
	if err := each(n, 16, func(i int) error {
		for _, k := range up[i] {
			if err := k.bye(ctx); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	b.report.add(row{Name: fmt.Sprintf("memory per call, with %d calls up", n*perPair), Value: float64(full.RSS-empty.RSS) / 1024 / float64(n*perPair), Unit: "KiB RSS",
		Beside: fmt.Sprintf("begun in %v with %.2f ms of processor each; both ends' ports open", took.Round(10*time.Millisecond), per(cost, n*perPair, time.Millisecond))})
	return nil
}
