package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// start measures how long the daemon needs until every service is ready, and what it holds when nobody calls: with the
// embedded example on a new state directory, with its keys made, and with thousands of phones.
func (b *bench) start(ctx context.Context) error {
	example, err := exec.CommandContext(ctx, filepath.Join(b.bin, "ringfence"), "config", "example").Output()
	if err != nil {
		return fmt.Errorf("config example: %w", err)
	}
	config := filepath.Join(b.tmp, "example.yaml")
	if err := os.WriteFile(config, example, 0o600); err != nil {
		return err
	}
	var first, again []time.Duration
	var idle memory
	for i := range 3 {
		state := filepath.Join(b.tmp, fmt.Sprintf("start-%d", i))
		for try := range 4 {
			d, err := b.startDaemon(ctx, "daemon", config, state)
			if err != nil {
				return err
			}
			if try == 0 {
				first = append(first, d.took)
			} else {
				again = append(again, d.took)
			}
			if i == 2 && try == 3 {
				sleep(ctx, b.settle())
				if idle, err = d.memory(); err != nil {
					_ = d.stop()
					return err
				}
			}
			if err := d.stop(); err != nil {
				return err
			}
		}
	}
	n := b.scale(2000)
	d, err := b.newDaemon(ctx, "start-many", site{phones: n, secure: true})
	if err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	if d, err = b.startDaemon(ctx, "daemon", filepath.Join(b.tmp, "start-many", "ringfence.yaml"), filepath.Join(b.tmp, "start-many", "state")); err != nil {
		return err
	}
	many := d.took
	sleep(ctx, b.settle())
	manyIdle, err := d.memory()
	also(&err, d)
	if err != nil {
		return err
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.report.add(
		row{Name: "start, first time (keys are made)", Value: ms(median(first)), Unit: "ms", Beside: span(first)},
		row{Name: "start, keys there", Value: ms(median(again)), Unit: "ms", Goal: 300, Beside: span(again)},
		row{Name: fmt.Sprintf("start, keys there, %d phones declared", n), Value: ms(many), Unit: "ms"},
		row{Name: "memory idle (RSS)", Value: float64(idle.RSS) / mib, Unit: "MiB", Goal: 60,
			Beside: fmt.Sprintf("PSS %s MiB, anonymous %s MiB", figure(float64(idle.PSS)/mib), figure(float64(idle.Anonymous)/mib))},
		row{Name: fmt.Sprintf("memory idle (RSS), %d phones declared", n), Value: float64(manyIdle.RSS) / mib, Unit: "MiB",
			Beside: fmt.Sprintf("PSS %s MiB, anonymous %s MiB", figure(float64(manyIdle.PSS)/mib), figure(float64(manyIdle.Anonymous)/mib))},
	)
	return nil
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

// quantile of times; 0 when there are none.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// span says from where to where times lie.
func span(d []time.Duration) string {
	return fmt.Sprintf("median of %d, %v to %v", len(d), slices.Min(d).Round(time.Millisecond), slices.Max(d).Round(time.Millisecond))
}
