package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// linesSite is the daemon of lines, calls and media: ordinary lines, which any SIP client can be.
func (b *bench) linesSite() site { return site{lines: 1000} }

// connectLines registers ordinary lines first to last-1 over TCP, each from its own address.
func (b *bench) connectLines(ctx context.Context, server string, first, last int) ([]*client, error) {
	all := make([]*client, last-first)
	err := each(len(all), 32, func(i int) (err error) {
		if all[i], err = dial(ctx, phoneAddress(first+i), server, portSIP, nil); err != nil {
			return err
		}
		all[i].user = lineNumber(first + i)
		all[i].start()
		return all[i].register(ctx)
	})
	if err != nil {
		closeAll(all)
		return nil, err
	}
	return all, nil
}

// lines measures ordinary lines, whose registrations another server can serve as well: the same load on both.
func (b *bench) lines(ctx context.Context) (err error) {
	d, err := b.newDaemon(ctx, "lines", b.linesSite())
	if err != nil {
		return err
	}
	ours, err := b.refreshLines(ctx, d, daemonAddress)
	var check row
	if err == nil {
		check, err = b.sipp(ctx, d)
	}
	also(&err, d)
	if err != nil {
		return err
	}
	k, err := b.kamailio(ctx)
	if err != nil {
		return err
	}
	var theirs [2]row
	if k != nil {
		theirs, err = b.refreshLines(ctx, k, referenceAddress)
		also(&err, k)
		if err != nil {
			return fmt.Errorf("kamailio: %w", err)
		}
	}
	for i := range ours {
		ours[i].beside(theirs[i], "kamailio", 2)
	}
	b.report.add(ours[0], check, ours[1])
	return nil
}

// refreshLines lets ordinary lines refresh their registrations: challenged each time, then with a nonce that they know.
func (b *bench) refreshLines(ctx context.Context, d *daemon, server string) (rows [2]row, err error) {
	const atOnce = 16
	n := b.scale(500) / atOnce * atOnce
	all, err := b.connectLines(ctx, server, 0, n)
	if err != nil {
		return rows, err
	}
	defer closeAll(all)
	for i, name := range []string{"ordinary line: REGISTER over TCP, with its 401", "ordinary line: REGISTER over TCP, nonce known"} {
		var turn atomic.Int64
		before := d.cpu()
		done, took, times, err := load(ctx, b.span(), atOnce, func(w int) error {
			c := all[(int(turn.Add(1))/atOnce*atOnce+w)%n]
			if i == 0 {
				c.forget()
			}
			return c.register(ctx)
		})
		if err != nil {
			return rows, err
		}
		rows[i] = row{Name: name, Value: per(d.cpu()-before, done, time.Millisecond), Unit: "ms CPU",
			Beside: fmt.Sprintf("%s/s, p99 %v", figure(float64(done)/took.Seconds()), quantile(times, 0.99).Round(10*time.Microsecond))}
	}
	return rows, nil
}

//go:embed testdata/register.xml
var registerScenario []byte

// sipp repeats the measurement with Debian's sipp as the generator: one connection for all lines.
func (b *bench) sipp(ctx context.Context, d *daemon) (row, error) {
	r := row{Name: "the same, sipp as generator"}
	program, err := exec.LookPath("sipp")
	if err != nil {
		r.Beside = "sipp is not installed"
		return r, nil
	}
	n, count := b.scale(500), b.scale(20000)
	users := strings.Builder{}
	users.WriteString("SEQUENTIAL\n")
	for i := range n {
		fmt.Fprintf(&users, "%s;[authentication username=%s password=%s]\n", lineNumber(i), lineNumber(i), password)
	}
	scenario, list := filepath.Join(b.tmp, "register.xml"), filepath.Join(b.tmp, "users.csv")
	if err := errors.Join(os.WriteFile(scenario, registerScenario, 0o600), os.WriteFile(list, []byte(users.String()), 0o600)); err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, program, "-sf", scenario, "-inf", list, "-t", "t1", "-i", phoneAddress(0).String(), "-m", strconv.Itoa(count), "-l", "16",
		"-r", "50000", "-timeout", "30", "-nostdin", fmt.Sprintf("%s:%d", daemonAddress, portSIP))
	cmd.Dir = b.tmp
	cmd.Env = append(os.Environ(), "TERM=dumb")
	before, began := d.cpu(), time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, fmt.Errorf("sipp: %w: %.500s", err, out)
	}
	r.Value, r.Unit = per(d.cpu()-before, count, time.Millisecond), "ms CPU"
	r.Beside = figure(float64(count)/time.Since(began).Seconds()) + "/s, one connection for all"
	return r, nil
}
