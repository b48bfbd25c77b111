package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"

	"ringfence/internal/task"
)

// ClockOptions of a Clock.
type ClockOptions struct {
	Servers func(ctx context.Context) []string // asked before each round; at most maxServers count
	// Newest is the beginning of the newest certificate that was issued here: the clock never goes behind it. Zero where there is none.
	Newest func() time.Time
	// Built is when this release was made. A time before it, or more than clockMost after it, is nobody's.
	Built time.Time
	Dir   string // where the last known time is kept
	Log   *slog.Logger

	Query  func(server string) (Answer, error) // by SNTP when nil
	Adjust Adjuster                            // the kernel when nil
	Now    func() time.Time
}

// Answer of a time server.
type Answer struct {
	Offset time.Duration // what has to be added to our clock
	Error  time.Duration // how far the server itself may be off, with the way
}

// Adjuster changes the clock.
type Adjuster interface {
	Slew(by time.Duration) error // gradually
	Step(to time.Time) error
}

// Clock follows time servers.
//
//	answers ─ most of them agree? ─ no ─▶ left alone, said
//	             │ yes
//	             ├─ less than half a second off ─▶ slewed
//	             ├─ behind ─────────────────────▶ stepped, unless absurdly far
//	             └─ ahead ──────────────────────▶ stepped back, but never to before the newest certificate
type Clock struct {
	o   ClockOptions
	log *slog.Logger

	mu   sync.Mutex // guards the rest
	view ClockView
}

// ClockView is how the clock stands.
type ClockView struct {
	Servers []string      `json:"servers,omitempty"`
	Synced  bool          `json:"synced"`
	Offset  time.Duration `json:"offset"`
	At      time.Time     `json:"at,omitzero"` // of the last agreement
	Problem string        `json:"problem,omitempty"`
}

// Bounds and intervals.
const (
	maxServers  = 8
	slewMost    = 500 * time.Millisecond // what the kernel takes at once (adjtimex(2))
	agreeWithin = 250 * time.Millisecond
	clockMost   = 15 * 365 * 24 * time.Hour

	roundFirst = 16 * time.Second
	roundMost  = 1024 * time.Second
	queryTime  = 5 * time.Second
	keepEvery  = time.Hour
)

// ClockFile in the state directory has the last known time, for a start without a battery clock.
const ClockFile = "clock.json"

// NewClock makes a Clock; nothing is asked before Run.
func NewClock(o ClockOptions) *Clock {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Query == nil {
		o.Query = query
	}
	if o.Adjust == nil {
		o.Adjust = kernelClock{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Clock{o: o, log: o.Log}
}

// View tells how the clock stood after the last round.
func (c *Clock) View() ClockView {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view
}

// Run follows the servers until ctx ends.
func (c *Clock) Run(ctx context.Context) error {
	every := roundFirst
	var kept time.Time
	for {
		if c.Round(ctx) {
			every = min(2*every, roundMost)
		} else {
			every = roundFirst
		}
		if v := c.View(); v.Synced && time.Since(kept) > keepEvery {
			kept = time.Now()
			if err := keepTime(c.o.Dir, c.o.Now()); err != nil {
				c.log.Error("keep the time", "err", err)
			}
		}
		pause(ctx, every)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Round asks every server once and acts. It tells whether the clock is right now.
func (c *Clock) Round(ctx context.Context) bool {
	servers := c.o.Servers(ctx)
	servers = servers[:min(len(servers), maxServers)]
	if len(servers) == 0 {
		c.set(func(v *ClockView) { v.Servers, v.Synced, v.Problem = nil, false, "" })
		return false
	}
	type result struct {
		Answer
		err error
	}
	results := make([]result, len(servers))
	tasks := task.NewGroup(ctx, c.log)
	for i, s := range servers {
		tasks.Go("time server", func(context.Context) {
			a, err := c.o.Query(s)
			results[i] = result{a, err}
		}, func(err error) {
			if err != nil {
				results[i].err = err
			}
		})
	}
	tasks.Wait()
	var answers []Answer
	var faults []string
	for i, r := range results {
		if r.err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", servers[i], r.err))
		} else {
			answers = append(answers, r.Answer)
		}
	}
	offset, err := agree(answers)
	if len(answers) == 0 {
		err = fmt.Errorf("no time server answers (%s)", strings.Join(faults, "; "))
	}
	now := c.o.Now()
	if err == nil {
		err = c.follow(now, offset)
	}
	if err != nil {
		if c.View().Problem != err.Error() {
			c.log.Warn("the clock is not set", "err", err)
		}
		c.set(func(v *ClockView) { v.Servers, v.Synced, v.Problem = servers, false, err.Error() })
		return false
	}
	c.set(func(v *ClockView) { *v = ClockView{Servers: servers, Synced: true, Offset: offset, At: c.o.Now()} })
	return true
}

func (c *Clock) set(change func(*ClockView)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.view)
}

// agree is the offset that most answers agree on.
func agree(answers []Answer) (time.Duration, error) {
	if len(answers) == 0 {
		return 0, errors.New("no answer")
	}
	sorted := slices.Clone(answers)
	slices.SortFunc(sorted, func(a, b Answer) int { return int((a.Offset - b.Offset) / time.Microsecond) })
	middle := sorted[(len(sorted)-1)/2]
	n := 0
	for _, a := range answers {
		if d := (a.Offset - middle.Offset).Abs(); d <= agreeWithin+a.Error+middle.Error {
			n++
		}
	}
	if 2*n <= len(answers) {
		return 0, fmt.Errorf("the time servers disagree, from %s to %s off", sorted[0].Offset, sorted[len(sorted)-1].Offset)
	}
	return middle.Offset, nil
}

// follow corrects the clock by an offset, as far as certificates allow.
func (c *Clock) follow(now time.Time, offset time.Duration) error {
	to := now.Add(offset)
	switch newest := c.newest(); {
	case to.Before(c.o.Built), to.After(c.o.Built.Add(clockMost)):
		return fmt.Errorf("the time servers say %s, which cannot be with a release of %s", to.UTC().Format(time.DateTime), c.o.Built.UTC().Format(time.DateOnly))
	case offset.Abs() < slewMost:
		return rightsOfClock(c.o.Adjust.Slew(offset))
	case offset < 0 && to.Before(newest):
		return fmt.Errorf("the clock is %s ahead of the time servers, and stays so: certificates were issued here that begin at %s; if the servers are right, it goes back by itself after that moment",
			(-offset).Round(time.Second), newest.UTC().Format(time.DateTime))
	}
	if err := c.o.Adjust.Step(to); err != nil {
		return rightsOfClock(err)
	}
	c.log.Warn("the clock was set", "by", offset)
	return nil
}

func (c *Clock) newest() time.Time {
	if c.o.Newest == nil {
		return time.Time{}
	}
	return c.o.Newest()
}

func rightsOfClock(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set the clock: %w; the daemon needs CAP_SYS_TIME, and a service of systemd ProtectClock=no (docs/appliance.md)", err)
	}
	return err
}

// query asks a server by SNTP (RFC 5905, section 14).
func query(server string) (Answer, error) {
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: queryTime})
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return Answer{}, err
	}
	return Answer{Offset: r.ClockOffset, Error: r.RootDistance}, nil
}

// kernelClock is the clock of the machine.
type kernelClock struct{}

// Slew gives the kernel's loop an offset, and says that the clock is kept (adjtimex(2)).
func (kernelClock) Slew(by time.Duration) error {
	_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_OFFSET | unix.ADJ_STATUS | unix.ADJ_TIMECONST | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR,
		Offset: by.Microseconds(), Status: unix.STA_PLL, Constant: 4, Maxerror: 100_000, Esterror: by.Abs().Microseconds()})
	return err
}

// Step sets the clock.
func (k kernelClock) Step(to time.Time) error {
	ts := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return err
	}
	return k.Slew(0)
}

// keepTime writes down a time that was right.
func keepTime(dir string, now time.Time) error {
	b, err := json.Marshal(now.UTC())
	if err != nil {
		return err
	}
	name := filepath.Join(dir, ClockFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
