package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// phones measures Cisco phones: what a registered one holds in the daemon's memory, what the first registration of thousands
// costs with all that the daemon sends after it, and what a refresh costs. Over TCP, then over TLS with certificates.
func (b *bench) phones(ctx context.Context) error {
	n := b.scale(b.fleetSize)
	if b.transport != "TLS" {
		d, err := b.newDaemon(ctx, "phones-tcp", site{phones: n})
		if err != nil {
			return err
		}
		err = b.fleet(ctx, d, "TCP", nil)
		also(&err, d)
		if err != nil {
			return fmt.Errorf("TCP: %w", err)
		}
	}
	if b.transport == "TCP" {
		return nil
	}
	certificates, err := b.certificates()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.tmp, "trust")
	d, err := b.startDaemon(ctx, "daemon", filepath.Join(dir, "ringfence.yaml"), filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	if err = b.fleet(ctx, d, "TLS", certificates); err != nil {
		d.mu.Lock()
		_ = os.WriteFile(filepath.Join(b.out, "daemon-tls.log"), d.log.Bytes(), 0o644)
		d.mu.Unlock()
	}
	also(&err, d)
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	return nil
}

// connectPhones registers every phone of the site, each from its own address on its own connection. A connection that fails is
// tried again after a second, as phones do, and counted; an answer that is no 401 and no 200 is an error.
func (b *bench) connectPhones(ctx context.Context, n int, certificates []tls.Certificate) (all []*client, lost int64, err error) {
	all = make([]*client, n)
	var again atomic.Int64
	err = each(n, b.coming, func(i int) error {
		for {
			c, err := connectPhone(ctx, i, certificates)
			if err == nil {
				c.cisco, c.user = device(i), phoneNumber(i)
				c.start()
				if err = c.register(ctx); err == nil {
					all[i] = c
					return nil
				}
				c.close()
				if errors.Is(err, errAnswer) {
					return err
				}
			}
			if again.Add(1) > int64(n) {
				return err
			}
			sleep(ctx, time.Second)
		}
	})
	if err != nil {
		closeAll(all)
		return nil, 0, err
	}
	return all, again.Load(), nil
}

func connectPhone(ctx context.Context, i int, certificates []tls.Certificate) (*client, error) {
	if certificates == nil {
		return dial(ctx, phoneAddress(i), daemonAddress, portSIP, nil)
	}
	cfg := phoneTLS()
	cfg.Certificates = certificates[i : i+1]
	return dial(ctx, phoneAddress(i), daemonAddress, portTLS, cfg)
}

func closeAll(all []*client) {
	for _, c := range all {
		if c != nil {
			c.close()
		}
	}
}

func (b *bench) fleet(ctx context.Context, d *daemon, transport string, certificates []tls.Certificate) error {
	n := b.scale(b.fleetSize)
	sleep(ctx, b.settle())
	empty, err := d.memory()
	if err != nil {
		return err
	}
	before, began := d.cpu(), time.Now()
	all, lost, err := b.connectPhones(ctx, n, certificates)
	if err != nil {
		return err
	}
	defer closeAll(all)
	took := time.Since(began)
	// Bulk update and lamps follow the answer.
	served := took
	for quiet, last := 0, int64(-1); quiet < 5 && ctx.Err() == nil; quiet++ {
		var sum int64
		for _, c := range all {
			sum += c.asked.Load()
		}
		if sum != last {
			quiet, last, served = 0, sum, time.Since(began)
		}
		sleep(ctx, 100*time.Millisecond)
	}
	cost := per(d.cpu()-before, n, time.Millisecond)
	what := "new TCP connection"
	if certificates != nil {
		what = "new TLS connection with certificate"
	}
	b.report.add(row{Name: "first registration over " + transport, Value: cost, Unit: "ms CPU",
		Beside: fmt.Sprintf("%s, digest, bulk update, lamp; %d phones, %d at a time, in %v, the last lamp after %v; %d connections tried again", what, n, b.coming, took.Round(10*time.Millisecond), served.Round(10*time.Millisecond), lost)})
	sleep(ctx, b.settle())
	fresh, err := d.memory()
	if err != nil {
		return err
	}
	freshGo := runtimeMemory(ctx)
	if err := b.refresh(ctx, d, "REGISTER refresh over "+transport, all); err != nil {
		return err
	}
	sleep(ctx, b.settle())
	full, err := d.memory()
	if err != nil {
		return err
	}
	fullGo := runtimeMemory(ctx)
	sleep(ctx, b.settle()) // for pages go back some seconds after a load, which takes time of its own
	if err := b.steady(ctx, d, transport, all); err != nil {
		return err
	}
	steady, err := d.memory()
	if err != nil {
		return err
	}
	each := func(m memory) float64 { return float64(m.RSS-empty.RSS) / float64(n) / kib }
	b.report.add(
		row{Name: "memory per phone over " + transport + ", just registered", Value: each(fresh), Unit: "KiB", Goal: 40,
			Beside: fmt.Sprintf("RSS %s to %s MiB%s", figure(float64(empty.RSS)/mib), figure(float64(fresh.RSS)/mib), freshGo)},
		row{Name: "memory per phone over " + transport + ", after the load", Value: each(full), Unit: "KiB", Goal: 40,
			Beside: fmt.Sprintf("RSS %s MiB, after all the refreshes above%s", figure(float64(full.RSS)/mib), fullGo)},
		row{Name: "memory per phone over " + transport + ", refreshing at 120 s", Value: each(steady), Unit: "KiB", Goal: 40,
			Beside: fmt.Sprintf("RSS %s MiB%s", figure(float64(steady.RSS)/mib), runtimeMemory(ctx))},
	)
	return nil
}

// refresh lets registered clients refresh one after the other, 16 at once.
func (b *bench) refresh(ctx context.Context, d *daemon, name string, all []*client) error {
	const atOnce = 16
	var turn atomic.Int64
	user, system := d.split()
	before := d.cpu()
	n, took, times, err := load(ctx, b.span(), atOnce, func(w int) error {
		// Worker w has every sixteenth client, so that none is used twice at a time.
		return all[(int(turn.Add(1))/atOnce*atOnce+w)%(len(all)/atOnce*atOnce)].register(ctx)
	})
	if err != nil {
		return err
	}
	cost := per(d.cpu()-before, n, time.Millisecond)
	u, s := d.split()
	b.report.add(row{Name: name, Value: cost, Unit: "ms CPU",
		Beside: fmt.Sprintf("%s/s, with its 401; p99 %v; kernel %.0f %%", figure(float64(n)/took.Seconds()),
			quantile(times, 0.99).Round(10*time.Microsecond), 100*float64(s-system)/max(1, float64(u-user+s-system)))})
	return nil
}

// steady lets all refresh at the pace of an expiry of 120 s for a while, evenly, and reports what of a core that takes.
func (b *bench) steady(ctx context.Context, d *daemon, transport string, all []*client) error {
	const expires = 120 * time.Second
	span := 4 * b.span()
	pause := expires / time.Duration(len(all))
	var failed atomic.Pointer[error]
	var under sync.WaitGroup
	before, began := d.cpu(), time.Now()
	done := 0
	for ; time.Since(began) < span && ctx.Err() == nil && failed.Load() == nil; done++ {
		c := all[done%len(all)]
		under.Go(func() {
			if err := c.register(ctx); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
		sleep(ctx, time.Until(began.Add(time.Duration(done+1)*pause)))
	}
	under.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	took := time.Since(began)
	r := row{Name: fmt.Sprintf("%d phones over %s refresh at 120 s", len(all), transport), Value: 100 * float64(d.cpu()-before) / float64(took), Unit: "% of a core",
		Beside: fmt.Sprintf("%d refreshes in %v", done, took.Round(time.Second))}
	if len(all) >= 10000 {
		r.Goal = 5
	}
	b.report.add(r)
	return nil
}

// runtimeMemory asks the daemon's metrics what its runtime uses the memory for; "" when they cannot be had.
func runtimeMemory(ctx context.Context) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+daemonAddress+":9090/metrics", nil)
	if err != nil {
		return ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	v := map[string]float64{}
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), " "); ok {
			v[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	m := func(name string) string { return figure(v["go_memstats_"+name+"_bytes"] / mib) }
	return fmt.Sprintf("; Go: heap %s in use, %s allocated (next collection at %s), stacks %s MiB", m("heap_inuse"), m("heap_alloc"), m("next_gc"), m("stack_inuse"))
}
