package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/task"
)

// Options of a Keeper.
type Options struct {
	Dir      string        // where the journal is kept
	Declared func() Spec   // of the document in force
	Needs    func() []Rule // what listeners and VPN need of the firewall
	Tunnel   string        // TUN device of the VPN
	// Present: what is declared was put at the machine by somebody who has it in hands, as on a seed partition. It is put into force at the
	// start without being confirmed.
	Present bool
	Own     func(ctx context.Context, links []string) error // tells another manager of links to leave these alone; may be nil
	SetName func(name string) error                         // sets the host name; the system call when nil
	Resolv  string                                          // resolv.conf; /etc/resolv.conf when empty
	Sysctl  string                                          // /proc/sys when empty
	Log     *slog.Logger                                    // may be nil
}

// Keeper puts what is declared into force, and brings back what was before.
type Keeper struct {
	o      Options
	log    *slog.Logger
	m      machine
	orders chan func()
	leased chan leaseNews
	begun  chan struct{} // closed when what was confirmed is in force
	done   chan struct{} // closed when Run has ended
	tasks  *task.Group

	// Owned by Run's goroutine.
	j       journal
	clients map[string]context.CancelFunc
	leases  map[string]lease
	expiry  *time.Timer
	until   time.Time
	carrier map[string]bool

	mu   sync.Mutex // guards view
	view View
}

// View is how the machine stands to what is declared.
type View struct {
	State    string     `json:"state"` // off, confirmed, differs, unconfirmed
	Until    time.Time  `json:"until,omitzero"`
	Links    []LinkView `json:"links,omitempty"`
	DNS      []string   `json:"dns,omitempty"`
	Firewall []string   `json:"firewall,omitempty"`
	Denied   uint64     `json:"denied"`  // packets to this machine
	Stopped  uint64     `json:"stopped"` // packets through it
	Problem  string     `json:"problem,omitempty"`
	Returned *Return    `json:"returned,omitempty"`
}

// LinkView is a link as the kernel has it.
type LinkView struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"` // port, vlan, bond
	Up        bool     `json:"up"`   // it has a carrier
	Addresses []string `json:"addresses"`
	Zones     []string `json:"zones,omitempty"`
	DHCP      string   `json:"dhcp,omitempty"` // leased, asking
}

// States of a View.
const (
	StateOff         = "off"
	StateConfirmed   = "confirmed"
	StateDiffers     = "differs"
	StateUnconfirmed = "unconfirmed"
)

type leaseNews struct {
	link string
	got  lease
	gone bool
}

// New reads the journal. Nothing of the machine is touched before Run.
func New(o Options) (*Keeper, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolv == "" {
		o.Resolv = "/etc/resolv.conf"
	}
	if o.Sysctl == "" {
		o.Sysctl = "/proc/sys"
	}
	if o.SetName == nil {
		o.SetName = func(name string) error { return unix.Sethostname([]byte(name)) }
	}
	j, err := readJournal(o.Dir)
	if err != nil {
		return nil, err
	}
	return &Keeper{o: o, log: o.Log, m: machine{resolv: o.Resolv, sysctl: o.Sysctl, setName: o.SetName, log: o.Log}, j: j,
		orders: make(chan func()), leased: make(chan leaseNews), begun: make(chan struct{}), done: make(chan struct{}),
		clients: map[string]context.CancelFunc{}, leases: map[string]lease{}, carrier: map[string]bool{}}, nil
}

// Begun is closed when Run has put into force what was confirmed, as far as it could.
func (k *Keeper) Begun() <-chan struct{} { return k.begun }

// Run is the owner of the machine's network until ctx ends. A change that is unconfirmed then returns. It runs once.
func (k *Keeper) Run(ctx context.Context) error {
	defer close(k.done)
	k.tasks = task.NewGroup(ctx, k.log)
	defer k.tasks.Stop()
	k.begin(ctx)
	close(k.begun)
	updates := make(chan netlink.LinkUpdate, 16)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		k.log.Info("changes of links are not told", "err", err)
	}
	k.expiry = time.NewTimer(time.Hour)
	defer k.expiry.Stop()
	k.expiry.Stop()
	settle := time.NewTimer(time.Hour)
	defer settle.Stop()
	if k.View().Problem == "" {
		settle.Stop()
	} else {
		settle.Reset(retryTime) // a module that is not loaded yet, a port that the kernel has not found yet
	}
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			if k.j.Pending != nil {
				k.comeBack(context.WithoutCancel(ctx), "the daemon was stopped before the change was confirmed")
			}
			return nil
		case f := <-k.orders:
			f()
		case n := <-k.leased:
			k.lease(ctx, n)
		case u, ok := <-updates:
			if !ok {
				updates = nil
				continue
			}
			if k.changed(u) {
				settle.Reset(settleTime)
			}
		case <-settle.C:
			if !k.again(ctx) {
				settle.Reset(retryTime)
			}
		case <-k.expiry.C:
			k.comeBack(ctx, "nobody confirmed it")
		case <-refresh.C:
			k.look()
		}
	}
}

const (
	settleTime   = 300 * time.Millisecond // several events come together
	retryTime    = 3 * time.Second
	refreshEvery = 15 * time.Second
	orderTime    = 30 * time.Second
)

// active is the spec that is in force.
func (k *Keeper) active() Spec {
	switch {
	case k.j.Pending != nil:
		return *k.j.Pending
	case k.j.Confirmed != nil:
		return *k.j.Confirmed
	}
	return Spec{}
}

// begin brings the machine to what was last confirmed.
func (k *Keeper) begin(ctx context.Context) {
	defer k.look()
	if k.j.Pending != nil {
		k.comeBack(ctx, "the daemon ended before the change was confirmed")
	}
	declared := k.o.Declared()
	if k.o.Present && !declared.Empty() && (k.j.Confirmed == nil || !reflect.DeepEqual(*k.j.Confirmed, declared)) {
		if path, why := k.m.lacks(declared); why != "" {
			k.problem(fmt.Sprintf("node.host.%s: %s", path, why))
		}
		k.j.Confirmed = &declared
		if err := k.j.write(k.o.Dir); err != nil {
			k.log.Error("machine's network", "err", err)
		}
	}
	if k.j.Confirmed == nil {
		return
	}
	if err := k.enforce(ctx, *k.j.Confirmed, false); err != nil {
		k.log.Error("machine's network", "err", err)
		k.problem(err.Error())
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (k *Keeper) problem(s string) {
	k.mu.Lock()
	k.view.Problem = s
	k.mu.Unlock()
}

// enforce puts a spec into force as a whole.
func (k *Keeper) enforce(ctx context.Context, s Spec, anew bool) error {
	if k.o.Own != nil {
		if err := k.o.Own(ctx, s.names()); err != nil {
			return fmt.Errorf("take over the network: %w", err)
		}
	}
	if err := k.m.reconcile(s, k.leases); err != nil {
		return err
	}
	if err := k.filter(s); err != nil {
		return err
	}
	if anew && s.Firewall != nil {
		// Connections that began under other rules are judged by these: whoever has just locked himself out notices, and cannot confirm.
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			k.log.Info("connections from before stay open", "err", err)
		}
	}
	k.askFor(s)
	return nil
}

// filter makes the firewall of a spec the one in force.
func (k *Keeper) filter(s Spec) error {
	if s.Firewall == nil {
		return remove()
	}
	rules := compile(s, k.o.Needs(), k.o.Tunnel)
	if forwards(rules) {
		if err := errors.Join(k.m.set("net/ipv4/ip_forward", "1")); err != nil {
			return fmt.Errorf("let packets pass: %w", rights(err))
		}
	}
	return replace(rules)
}

// again makes right what has changed by itself, as a port that came back. It tells whether all is as it shall be.
func (k *Keeper) again(ctx context.Context) bool {
	defer k.look()
	s := k.active()
	if s.Empty() {
		return true
	}
	before := k.View().Problem
	_, why := k.m.lacks(s)
	if why == "" && before == "" {
		why = text(k.m.reconcile(s, k.leases))
	} else if why == "" {
		why = text(k.enforce(ctx, s, false)) // the rest was not reached the last time
	}
	if why != "" && why != before {
		k.log.Error("machine's network", "err", why)
	}
	k.problem(why)
	return why == ""
}

// changed notes the carrier of declared links, and tells whether something is to be made right.
func (k *Keeper) changed(u netlink.LinkUpdate) bool {
	name := u.Attrs().Name
	if !slices.Contains(k.active().names(), name) {
		return false
	}
	up := u.IfInfomsg.Flags&unix.IFF_RUNNING != 0 && u.Header.Type != unix.RTM_DELLINK
	if was, known := k.carrier[name]; known && was != up {
		if up {
			k.log.Info("link is up again", "link", name)
		} else {
			k.log.Warn("link is down", "link", name)
		}
	}
	k.carrier[name] = up
	return true
}

// order has f run by the owner.
func (k *Keeper) order(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	select {
	case k.orders <- func() { defer close(ran); f() }:
	case <-k.done:
		return errors.New("the machine's network is not served any more")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-ran:
	case <-k.done:
	}
	return nil
}

// Fault is what keeps a declaration from being applied. Path is that of the value below node.host, empty when no value is to blame.
type Fault struct{ Path, Why string }

// Error is the fault for people.
func (f *Fault) Error() string { return f.Why }

// Apply puts what is declared into force. Unless Confirm follows within the time, everything returns to what it was. It tells until when.
func (k *Keeper) Apply(ctx context.Context, within time.Duration) (until time.Time, err error) {
	if e := k.order(ctx, func() { until, err = k.apply(ctx, within) }); e != nil {
		return until, e
	}
	return until, err
}

// ErrSame is returned when what is declared is in force already.
var ErrSame = errors.New("what is declared is in force already")

// ErrPending is returned when a change waits to be confirmed.
var ErrPending = errors.New("the change before this one is not confirmed yet; ringfence host confirm, or wait until it has returned")

func (k *Keeper) apply(ctx context.Context, within time.Duration) (time.Time, error) {
	declared := k.o.Declared()
	switch {
	case k.j.Pending != nil:
		return time.Time{}, ErrPending
	case k.j.Confirmed != nil && reflect.DeepEqual(*k.j.Confirmed, declared), k.j.Confirmed == nil && declared.Empty():
		return time.Time{}, ErrSame
	}
	if path, why := k.m.lacks(declared); why != "" {
		return time.Time{}, &Fault{Path: path, Why: why}
	}
	var confirmed Spec
	if k.j.Confirmed != nil {
		confirmed = *k.j.Confirmed
	}
	known := confirmed.names()
	before, err := k.m.snapshot(slices.DeleteFunc(declared.names(), func(n string) bool { return slices.Contains(known, n) }))
	if err != nil {
		return time.Time{}, err
	}
	next := k.j
	next.Pending, next.Before, next.Boot, next.Returned = &declared, before, bootID(), nil
	if err := next.write(k.o.Dir); err != nil {
		return time.Time{}, err
	}
	k.j = next
	if err := k.enforce(ctx, declared, true); err != nil {
		k.comeBack(ctx, err.Error())
		return time.Time{}, fmt.Errorf("%w\nnothing was changed", err)
	}
	k.problem("")
	k.until = time.Now().Add(within)
	k.expiry.Reset(within)
	k.log.Info("machine's network changed, not confirmed", "within", within)
	k.look()
	return k.until, nil
}

// Confirm keeps the change.
func (k *Keeper) Confirm(ctx context.Context) (err error) {
	if e := k.order(ctx, func() { err = k.confirm() }); e != nil {
		return e
	}
	return err
}

// ErrNothing is returned when there is nothing to confirm.
var ErrNothing = errors.New("no change waits to be confirmed")

func (k *Keeper) confirm() error {
	if k.j.Pending == nil {
		if r := k.j.Returned; r != nil {
			return fmt.Errorf("%w; the last one has returned at %s: %s", ErrNothing, r.At.Local().Format(time.TimeOnly), r.Why)
		}
		return ErrNothing
	}
	next := journal{Confirmed: k.j.Pending}
	if next.Confirmed.Empty() {
		next.Confirmed = nil
	}
	if err := next.write(k.o.Dir); err != nil {
		return err
	}
	k.j = next
	k.expiry.Stop()
	k.log.Info("machine's network confirmed")
	k.look()
	return nil
}

// comeBack returns to what was before the pending change.
func (k *Keeper) comeBack(ctx context.Context, why string) {
	if k.expiry != nil {
		k.expiry.Stop()
	}
	k.log.Warn("machine's network returns to what it was", "why", why)
	next := journal{Confirmed: k.j.Confirmed, Returned: &Return{At: time.Now().UTC(), Why: why}}
	before := k.j.Before
	if k.j.Boot != bootID() {
		before = nil // the machine has started since, and its system has made the network anew
	}
	k.j.Pending = nil // from here on active is what is returned to
	var errs []error
	target := k.active()
	k.askFor(target)
	errs = append(errs, k.m.dropMade(target))
	if before != nil {
		errs = append(errs, k.m.restore(before))
	}
	if err := k.m.reconcile(target, k.leases); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, k.filter(target))
	if k.o.Own != nil {
		errs = append(errs, k.o.Own(ctx, target.names()))
	}
	if err := errors.Join(errs...); err != nil {
		k.log.Error("machine's network", "err", err)
		next.Returned.Why += "; not all came back: " + err.Error()
	}
	if err := next.write(k.o.Dir); err != nil {
		k.log.Error("machine's network", "err", err)
	}
	k.j = next
	k.look()
}

// look makes the view anew.
func (k *Keeper) look() {
	s := k.active()
	v := View{State: StateOff, Returned: k.j.Returned}
	declared := k.o.Declared()
	switch {
	case k.j.Pending != nil:
		v.State, v.Until = StateUnconfirmed, k.until
	case !reflect.DeepEqual(declared, s) && !(declared.Empty() && s.Empty()):
		v.State = StateDiffers
	case !s.Empty():
		v.State = StateConfirmed
	}
	for _, l := range s.Links {
		x := LinkView{Name: l.Name, Kind: "port", Zones: l.Zones, Addresses: []string{}}
		switch {
		case l.VLAN > 0:
			x.Kind = fmt.Sprintf("vlan %d on %s", l.VLAN, l.On)
		case len(l.Bond) > 0:
			x.Kind = "bond " + l.Mode
		}
		if l.DHCP {
			x.DHCP = "asking"
			if _, ok := k.leases[l.Name]; ok {
				x.DHCP = "leased"
			}
		}
		if n, err := netlink.LinkByName(l.Name); err == nil {
			x.Up = n.Attrs().RawFlags&unix.IFF_RUNNING != 0
			k.carrier[l.Name] = x.Up
			if addresses, err := netlink.AddrList(n, netlink.FAMILY_ALL); err == nil {
				for _, a := range addresses {
					if !a.IP.IsLinkLocalUnicast() {
						x.Addresses = append(x.Addresses, prefixOf(a).String())
					}
				}
			}
		}
		v.Links = append(v.Links, x)
	}
	for _, a := range s.DNS {
		v.DNS = append(v.DNS, a.String())
	}
	if s.Firewall != nil {
		v.Denied, v.Stopped = dropped()
		zones := s.zones(k.o.Tunnel)
		for _, r := range append(k.o.Needs(), s.Firewall.Allow...) {
			if len(zones[r.From]) > 0 && (r.To == Appliance || len(zones[r.To]) > 0) {
				v.Firewall = append(v.Firewall, r.String())
			}
		}
	}
	k.mu.Lock()
	v.Problem = k.view.Problem
	k.view = v
	k.mu.Unlock()
}

// View tells how the machine stood when it was last looked at.
func (k *Keeper) View() View {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.view
}

// Show looks anew, and tells.
func (k *Keeper) Show(ctx context.Context) (View, error) {
	err := k.order(ctx, k.look)
	return k.View(), err
}

// Warnings are for the status.
func (k *Keeper) Warnings() []string {
	v := k.View()
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch v.State {
	case StateUnconfirmed:
		add("the machine's network was changed and returns at %s unless ringfence host confirm follows", v.Until.Local().Format(time.TimeOnly))
	case StateDiffers:
		add("the machine's network is not as declared: ringfence host apply puts node.host into force")
	}
	if v.Problem != "" {
		add("the machine's network: %s", v.Problem)
	}
	if v.Returned != nil {
		add("the last change of the machine's network did not stay (%s): %s", v.Returned.At.Local().Format(time.DateTime), v.Returned.Why)
	}
	for _, l := range v.Links {
		if !l.Up {
			add("%s has no carrier: cable, switch port or power at the other end", l.Name)
		} else if l.DHCP == "asking" {
			add("%s has no address: no DHCP server answers", l.Name)
		}
	}
	return out
}

// Look has the view made anew, as after a change of the document.
func (k *Keeper) Look(ctx context.Context) { _ = k.order(ctx, k.look) }
