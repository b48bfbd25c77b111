// Package appliance is the composition root: it builds every service from the declared document, connects the areas with
// each other, and runs them under one supervisor.
//
// Start with setup: it is one straight line in the order of dependencies. declared.go, roles.go and sources.go are the small
// adapters between what areas declare as interfaces and what other areas are.
package appliance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/backup"
	"ringfence/appliance/callrecord"
	"ringfence/appliance/host"
	"ringfence/appliance/netsvc"
	"ringfence/appliance/phone"
	"ringfence/appliance/provision"
	"ringfence/appliance/provision/phonefile"
	"ringfence/appliance/store"
	"ringfence/appliance/supervise"
	"ringfence/appliance/trustadmin"
	"ringfence/config"
	"ringfence/internal/memory"
	"ringfence/internal/sdnotify"
	"ringfence/internal/task"
	"ringfence/media"
	"ringfence/pki"
	"ringfence/sip"
	"ringfence/sip/call"
	"ringfence/sip/feature"
	"ringfence/sip/feature/mailbox"
	"ringfence/sip/feature/record"
	"ringfence/sip/plan"

	"ringfence/vpn"
)

// Version is the release, set when the binary is built.
var Version = "devel"

// Options of Run.
type Options struct {
	ConfigPath string // the declared document; "" takes the newest revision in the store
	StateDir   string // what must outlive the process
	Socket     string // control socket
	Log        *slog.Logger
	Version    string
	PaceMemory bool // keep the process small for its phones; it sets what GOGC sets
}

// stopTime bounds an orderly stop.
const stopTime = 10 * time.Second

// Run serves until ctx ends and returns nil after an orderly stop. Whatever keeps it from starting is returned before
// anything was served; the state directory is then as it was, but for what a first start makes.
func Run(ctx context.Context, o Options) (err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = Version
	}
	if o.PaceMemory {
		g := task.NewGroup(ctx, o.Log)
		defer g.Stop()
		g.Go("memory", memory.Keep)
	}
	a := &appliance{Options: o, log: o.Log, began: time.Now()}
	defer func() { err = errors.Join(err, a.teardown()) }()
	if err := a.setup(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it was starting
		}
		return err
	}
	if err := a.supervisor.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	o.Log.Info("ready", "took", time.Since(a.began), "version", o.Version, "state", o.StateDir)
	a.tell(sdnotify.Ready)
	a.heartbeat(ctx)
	o.Log.Info("stopping")
	a.tell(sdnotify.Stopping)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	return a.supervisor.Stop(stop)
}

// tell says to the process that started us how we are; it may not listen.
func (a *appliance) tell(messages ...string) {
	if _, err := sdnotify.Send(messages...); err != nil {
		a.log.Warn("parent not told", "err", err)
	}
}

// heartbeat keeps telling the parent that all is well, where it wants to hear that, until ctx ends. A store that takes nothing
// any more is not well: what phones and users set would be lost, and only a new start reads the file anew.
func (a *appliance) heartbeat(ctx context.Context) {
	every := sdnotify.Interval() / 3
	if every <= 0 {
		<-ctx.Done()
		return
	}
	for {
		if err := a.store.Err(); err == nil {
			a.supervisor.Health() // hangs where the supervisor does
			a.tell(sdnotify.Watchdog, sdnotify.Status(fmt.Sprintf("%d calls, %d VPN sessions", len(a.calls.Snapshot()), len(a.vpnSessions()))))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// appliance is what setup has built.
type appliance struct {
	Options
	log        *slog.Logger
	began      time.Time
	source     *config.Source
	current    atomic.Pointer[config.Document]
	plan       atomic.Pointer[plan.Plan]
	switching  switching
	supervisor *supervise.Supervisor

	store     *store.Store
	local     *store.Local
	recorder  *phone.Recorder
	ca        *pki.Authority
	roles     *roles
	trust     *trustadmin.Keeper
	enrolment *pki.Enrolment
	passwords *passwords
	files     *provision.Files
	media     *media.Engine
	sip       *sip.Server
	calls     *call.Manager
	features  *feature.Features
	tapes     *record.Recordings
	records   *callrecord.Keeper
	boxes     *mailbox.Boxes
	sounds    *sounds
	rollouts  *rollouts
	host      *host.Keeper
	time      *host.Clock
	space     *host.Space
	saver     *saver
	gateway   holder[vpn.Gateway]
	userRoots []*x509.Certificate
	noVPN     string // why there is no VPN though it is declared
	clock     holder[netsvc.NTPServer]
	noTime    atomic.Pointer[string] // why no time is served though it is declared

	updates updater

	undo []teardown // newest last
}

type teardown struct {
	name string
	f    func() error
}

// doc is the document in force.
func (a *appliance) doc() *config.Document { return a.current.Load() }

// after registers what undoes the step that was just taken.
func (a *appliance) after(name string, f func() error) {
	a.undo = append(a.undo, teardown{name, f})
}

// teardown undoes setup in reverse order.
func (a *appliance) teardown() error {
	var errs []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		if err := a.undo[i].f(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.undo[i].name, err))
		}
	}
	a.undo = nil
	return errors.Join(errs...)
}

// setup builds everything in dependency order. Listeners are bound by the services' Start, under the supervisor.
func (a *appliance) setup(ctx context.Context) (err error) {
	name := "ringfence"
	if a.ConfigPath != "" {
		// Faults of the file are found before anything is made in the state directory.
		d, _, err := config.Load(a.ConfigPath)
		if err != nil {
			return err
		}
		name = d.Node.Name
	}
	if err := backup.Pending(a.StateDir); err != nil {
		return err
	}
	if a.store, err = store.Open(store.Options{Dir: a.StateDir, Appliance: name, Log: a.log}); err != nil {
		return err
	}
	a.after("state.db", a.store.Close)
	document, err := a.openSource()
	if err != nil {
		return err
	}
	a.current.Store(document)
	if err := a.startHost(ctx); err != nil {
		return err
	}
	a.space = a.newSpace()
	doc, node := a.doc, document.Node
	if a.local, err = store.OpenLocal(store.LocalOptions{Dir: a.StateDir, Log: a.log}); err != nil {
		return err
	}
	a.after("local.db", a.local.Close)

	a.passwords = &passwords{doc: doc, state: a.store}
	if err := a.passwords.generate(ctx); err != nil {
		return err
	}

	micRoots, err := readCertificates("pki.mic_roots", a.doc().PKI.MICRoots)
	if err != nil {
		return err
	}
	if a.userRoots, err = readCertificates("vpn.user_roots", a.doc().VPN.UserRoots); err != nil {
		return err
	}
	organization := a.doc().PKI.Organization
	if organization == "" {
		organization = a.doc().Site.Name
	}
	if a.ca, err = pki.Open(ctx, pki.Options{
		State: a.store, KeyFile: filepath.Join(a.StateDir, "pki.key"), Node: node.Name, Organization: organization,
		Addresses: addresses(node.Address), VPNHosts: a.doc().VPN.Hosts, LSCDays: a.doc().PKI.LSC.Days, MICRoots: micRoots,
		PublishURL: a.doc().PKI.PublishURL,
		Phones:     trustadmin.Phones(doc), Log: a.log,
	}); err != nil {
		return err
	}
	a.roles = &roles{ca: a.ca}
	if a.trust, err = trustadmin.New(trustadmin.Options{Authority: a.ca, Doc: doc, Revoked: a.shutOut, Restart: a.restartPhone, Registered: a.reachable, State: a.store,
		EverRegistered: func(device string) bool { return a.recorder.Ever(device) }, Log: a.log}); err != nil {
		return err
	}

	a.recorder = phone.NewRecorder(phone.Options{Local: a.local, Facts: a.facts, Log: a.log,
		Declared: func(device string) bool { _, ok := a.doc().Phone(device); return ok }})
	note := a.recorder.Note
	a.enrolment = pki.NewEnrolment(a.ca, a.mayEnrol)

	if a.files, err = provision.NewFiles(provision.Options{
		Doc:       doc,
		Password:  func(device string) string { p, _ := a.passwords.of(device); return p },
		LSC:       a.ca.CurrentLSC,
		VPNHashes: a.trust.VPNHashes,
		Offers: phonefile.Park | phonefile.Pickup | phonefile.Conference | phonefile.Divert | phonefile.CallBack | phonefile.QualityReport | phonefile.MaliciousCall | phonefile.Record |
			phonefile.HuntLogin | phonefile.MeetMe | phonefile.AbbreviatedDial,
		Trust:    a.trust.Provision(),
		AuthMode: a.enrolment.AuthMode,
		State:    a.store, Local: a.local, Note: note, Log: a.log,
		Fetched: func(string) { a.trust.Nudge() }, Believes: a.trust.Believes, Appliances: callServers,
	}); err != nil {
		return err
	}
	a.trust.Use(a.files)

	if a.media, err = media.New(media.Options{Address: node.Media.Address, First: node.Media.Ports.First, Last: node.Media.Ports.Last, Log: a.log}); err != nil {
		return err
	}
	a.after("media", func() error { a.media.Stop(); return nil })
	if err := a.setupSIP(); err != nil {
		return err
	}

	a.rollouts = newRollouts(a.log)
	a.after("roll-outs", func() error { a.rollouts.tasks.Stop(); return nil })

	a.updates.tasks = task.NewGroup(context.Background(), a.log)
	a.after("updates", func() error { a.updates.tasks.Stop(); return nil })
	a.supervisor = supervise.New(a.log)
	a.addMachine()
	a.addServices(note)
	if err := a.addCerts(); err != nil {
		return err
	}

	metrics := a.metrics()
	return a.addAdmin(admin.Options{
		Socket: a.Socket, Verbs: Verbs(), Handlers: a.handlers(), Metrics: metrics, Listen: node.Listen.Metrics.AddrPort,
		Health: a.supervisor.Health, Log: a.log,
	})
}
