package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// watchers measures how soon a change of state reaches everybody who watches it: one phone is taken off-hook and put on-hook, and
// 500 others have a key of it, each on a connection of its own. The time ends when the last of them has its NOTIFY in hand, so
// that reading them all by this program is in it.
func (b *bench) watchers(ctx context.Context) (err error) {
	const watched = 0
	n := b.scale(500)
	d, err := b.newDaemon(ctx, "watchers", site{phones: n + 1, watched: true})
	if err != nil {
		return err
	}
	defer also(&err, d)
	all, _, err := b.connectPhones(ctx, n+1, nil)
	if err != nil {
		return err
	}
	defer closeAll(all)
	// Every first lamp is repeated once; nothing else is to be under way.
	for quiet, last := 0, int64(-1); quiet < 20 && ctx.Err() == nil; quiet++ {
		var sum int64
		for _, c := range all {
			sum += c.asked.Load()
		}
		if sum != last || sum < 3*int64(n) {
			quiet, last = 0, sum
		}
		sleep(ctx, 100*time.Millisecond)
	}
	var left atomic.Int64
	var busy, counting atomic.Bool
	told := make(chan time.Time, 1)
	for _, c := range all[1:] {
		f := func(m *message) {
			if counting.Load() && m.method == "NOTIFY" && bytes.Contains(m.body, []byte("on-the-phone")) == busy.Load() && left.Add(-1) == 0 {
				told <- time.Now()
			}
			c.ok(m)
		}
		c.watch.Store(&f)
	}
	phone := all[watched]
	var times []time.Duration
	before, rounds := d.cpu(), b.scale(40)
	for i := range rounds {
		state := "trying"
		if i%2 == 1 {
			state = "terminated"
		}
		left.Store(int64(n))
		busy.Store(i%2 == 0)
		counting.Store(true)
		began := time.Now()
		if err := phone.hook(ctx, state); err != nil {
			return err
		}
		select {
		case at := <-told:
			times = append(times, at.Sub(began))
		case <-time.After(answerTime):
			return fmt.Errorf("after %v %d of %d watchers are not told that the phone is %s", answerTime, left.Load(), n, state)
		case <-ctx.Done():
			return ctx.Err()
		}
		sleep(ctx, 100*time.Millisecond)
	}
	b.report.add(row{Name: fmt.Sprintf("state change, %d watchers: the last is told", n), Value: float64(median(times)) / float64(time.Millisecond), Unit: "ms", Goal: 50,
		Beside: fmt.Sprintf("median of %d, p90 %v, all in %v; %s µs CPU a NOTIFY and its answer", rounds, quantile(times, 0.9).Round(100*time.Microsecond),
			quantile(times, 1).Round(100*time.Microsecond), figure(per(d.cpu()-before, rounds*n, time.Microsecond)))})
	return nil
}

// hook says that the receiver was lifted ("trying") or laid down ("terminated").
func (c *client) hook(ctx context.Context, state string) error {
	c.cseq++
	to := "<sip:" + c.user + "@" + c.server + ">"
	body := `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="1" state="partial" entity="sip:` +
		c.user + "@" + c.server + `"><dialog id="` + c.user + `"><state>` + state + "</state></dialog></dialog-info>\n"
	c.write(c.request("NOTIFY", "sip:"+c.user+"@"+c.server, to+";tag="+c.tag, to, fmt.Sprintf("hook-%x@%s", branches.Add(1), c.local), c.cseq, body,
		"Event: dialog", "Subscription-State: active", "Contact: <"+c.contact()+">", "Content-Type: application/dialog-info+xml", ciscoAgent))
	m, err := c.next(ctx)
	if err == nil && m.code != 200 {
		err = fmt.Errorf("NOTIFY of %s answered %s", c.user, strings.TrimSpace(m.lines[0]))
	}
	return err
}
