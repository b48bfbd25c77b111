package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"ringfence/appliance/store"
	"ringfence/config"
	"ringfence/sip/plan"
	"ringfence/vpn"
)

// open finds the authority for the configuration: the file, or the stored revisions.
func (a *appliance) openSource() (*config.Document, error) {
	if a.ConfigPath != "" {
		a.source = config.FileSource(a.ConfigPath)
	} else {
		revisions, err := config.OpenRevisions(a.store, time.Now)
		if err != nil {
			return nil, err
		}
		a.source = config.StoredSource(revisions)
	}
	doc, notices, err := a.source.Load()
	if err != nil {
		return nil, err
	}
	a.say(notices)
	return doc, nil
}

// say logs notices: they tell what is declared and not served, or unwise.
func (a *appliance) say(notices []config.Notice) {
	for _, n := range notices {
		a.log.Info("configuration", "notice", n.String())
	}
}

// OfflineComment is that of revisions of ApplyOffline. In the image nobody but init makes one: of what lies at the machine.
const OfflineComment = "applied while the daemon was not running"

// ApplyOffline stores the next revision of the configuration while no daemon runs on the state directory.
func ApplyOffline(ctx context.Context, stateDir, author, comment string, data []byte) (config.Revision, string, error) {
	s, err := store.Open(store.Options{Dir: stateDir, Appliance: "ringfence", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return config.Revision{}, "", err
	}
	defer s.Close()
	revisions, err := config.OpenRevisions(s, time.Now)
	if err != nil {
		return config.Revision{}, "", err
	}
	return revisions.Apply(ctx, author, comment, data)
}

// Effect is what a new document has changed.
type Effect struct {
	Revision string   `json:"revision,omitempty"`
	Diff     string   `json:"diff,omitempty"`
	Changes  []string `json:"changes"`
	// AtStart are changes that wait for the next start of the daemon.
	AtStart []string `json:"at_next_start,omitempty"`
	// Host tells that the machine's network is declared otherwise now.
	Host string `json:"host,omitempty"`
	// Phones are those whose files have changed; they read them when they are restarted.
	Phones []string `json:"phones_to_restart,omitempty"`
}

// atStart are the parts of the document that are read once.
var atStart = []struct {
	path string
	of   func(*config.Document) any
}{
	{"node", func(d *config.Document) any { n := d.Node; n.Host = config.Machine{}; return n }},
	{"pki", func(d *config.Document) any { p := d.PKI; p.Trusted, p.RestartPhones = nil, ""; return p }},
	{"sip", func(d *config.Document) any { return d.SIP }},
	{"site.domain", func(d *config.Document) any { return d.Site.Domain }},
	{"records.homer", func(d *config.Document) any { return d.Records.Homer }},
	{"vpn.enabled", func(d *config.Document) any { return d.VPN.Enabled }},
	{"vpn.user_roots", func(d *config.Document) any { return d.VPN.UserRoots }},
	{"vpn.user_crls", func(d *config.Document) any { return d.VPN.UserCRLs }},
	{"vpn.max_sessions", func(d *config.Document) any { return d.VPN.MaxSessions }},
	{"vpn.hosts", func(d *config.Document) any { return d.VPN.Hosts }},
}

// switchTo makes doc the document in force. Calls that run keep the plan they began with; state is not touched.
func (a *appliance) switchTo(ctx context.Context, doc *config.Document) (Effect, error) {
	a.switching.Lock()
	defer a.switching.Unlock()
	old := a.doc()
	var e Effect
	for _, c := range config.Diff(old, doc) {
		e.Changes = append(e.Changes, c.String())
	}
	if e.hostDiffers(old, doc); a.host != nil {
		defer a.host.Look(ctx)
	}
	for _, s := range atStart {
		if !reflect.DeepEqual(s.of(old), s.of(doc)) {
			e.AtStart = append(e.AtStart, s.path)
		}
	}
	before := map[string]any{}
	for _, p := range old.Phones {
		if s, err := a.files.Stamps(p.Device); err == nil {
			before[p.Device] = s
		}
	}
	if g := a.gateway.get(); g != nil {
		if err := g.SetPolicies(vpn.PoliciesOf(doc.VPN)); err != nil {
			return e, fmt.Errorf("the VPN refuses the new policies, nothing was changed: %w", err)
		}
	}
	a.current.Store(doc)
	a.endStrangers()
	if err := a.syncWireGuard(ctx); err != nil {
		a.log.Error("WireGuard devices", "err", err)
	}
	a.plan.Store(plan.Compile(doc))
	a.features.Reload(doc)
	a.trust.Reload(doc)
	if err := a.passwords.generate(ctx); err != nil {
		return e, err
	}
	a.sip.State().DeclareSwitches(doc.Switches()...)
	a.sip.State().Reload()
	for _, p := range doc.Phones {
		if s, err := a.files.Stamps(p.Device); err == nil && before[p.Device] != nil && before[p.Device] != any(s) {
			e.Phones = append(e.Phones, p.Device)
		}
	}
	slices.Sort(e.Phones)
	a.log.Info("configuration changed", "changes", len(e.Changes), "at_next_start", e.AtStart, "phones_to_restart", len(e.Phones))
	return e, nil
}

// switching keeps changes of the document one at a time.
type switching struct{ sync.Mutex }

// listenFault explains why a listener could not be had, and what to do.
func listenFault(service string, at config.Endpoint, err error) error {
	var op *net.OpError
	if !errors.As(err, &op) {
		return fmt.Errorf("%s: %w", service, err)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: port %d needs rights that this process does not have: run as root, give it CAP_NET_BIND_SERVICE, or choose a port above 1023 (%w)", service, at.Port(), err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: another process listens at %s already: stop it or choose another port (%w)", service, at, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this machine does not have the address %s: correct it in the configuration (%w)", service, at.Addr(), err)
	}
	return fmt.Errorf("%s: %w", service, err)
}
