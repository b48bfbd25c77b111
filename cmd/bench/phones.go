package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// phones measures Cisco phones: what a registered one holds in the daemon's memory, what the first registration of thousands
// costs with all that the daemon sends after it, and what a refresh costs. Over TCP, then over TLS with certificates.
func (b *bench) phones(ctx context.Context) error {
	n := b.scale(b.fleetSize)
	d, err := b.newDaemon(ctx, "phones-tcp", site{phones: n})
	if err != nil {
		return err
	}
	err = b.fleet(ctx, d, "TCP", nil)
	also(&err, d)
	if err != nil {
		return fmt.Errorf("TCP: %w", err)
	}
	certificates, err := b.certificates()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.tmp, "trust")
	if d, err = b.startDaemon(ctx, "daemon", filepath.Join(dir, "ringfence.yaml"), filepath.Join(dir, "state")); err != nil {
		return err
	}
	err = b.fleet(ctx, d, "TLS", certificates)
	also(&err, d)
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	return nil
}

// connectPhones registers every phone of the site, each from its own address on its own connection.
func (b *bench) connectPhones(ctx context.Context, n int, certificates []tls.Certificate) ([]*client, error) {
	all := make([]*client, n)
	err := each(n, 32, func(i int) (err error) {
		if certificates != nil {
			cfg := phoneTLS()
			cfg.Certificates = certificates[i : i+1]
			all[i], err = dial(ctx, phoneAddress(i), daemonAddress, portTLS, cfg)
		} else {
			all[i], err = dial(ctx, phoneAddress(i), daemonAddress, portSIP, nil)
		}
		if err != nil {
			return err
		}
		all[i].cisco, all[i].user = device(i), phoneNumber(i)
		all[i].start()
		return all[i].register(ctx)
	})
	if err != nil {
		closeAll(all)
		return nil, err
	}
	return all, nil
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
	all, err := b.connectPhones(ctx, n, certificates)
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
		Beside: fmt.Sprintf("%s, digest, bulk update, lamp; %d phones in %v, the last lamp after %v", what, n, took.Round(10*time.Millisecond), served.Round(10*time.Millisecond))})
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
	each := func(m memory) float64 { return float64(m.RSS-empty.RSS) / float64(n) / kib }
	b.report.add(
		row{Name: "memory per phone over " + transport + ", just registered", Value: each(fresh), Unit: "KiB", Goal: 40,
			Beside: fmt.Sprintf("RSS %s to %s MiB%s", figure(float64(empty.RSS)/mib), figure(float64(fresh.RSS)/mib), freshGo)},
		row{Name: "memory per phone over " + transport + ", after the load", Value: each(full), Unit: "KiB", Goal: 40,
			Beside: fmt.Sprintf("RSS %s MiB, after all the refreshes above%s", figure(float64(full.RSS)/mib), runtimeMemory(ctx))},
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
