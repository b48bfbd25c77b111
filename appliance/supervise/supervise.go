// Package supervise runs the services of the daemon: started in order, restarted alone with growing pauses when one fails
// or panics, stopped in reverse order within a deadline, each with a health that others can read (design §1 rule 1).
//
// It is small and ours because what the daemon needs on top of a restart loop, order at both ends, a deadline per service
// and health, is more than the loop itself (docs/decisions/supervision.md).
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ringfence/internal/task"
)

// Service is one server of the daemon. Every func may be nil.
type Service struct {
	Name string
	// Start prepares and returns soon. It runs in the order in which services were added, and again before each restart.
	Start func(ctx context.Context) error
	// Run serves until ctx ends. Returning earlier, with or without an error, is a failure.
	Run func(ctx context.Context) error
	// Stop ends what Start made, before Run's context ends; it has until ctx's deadline. It also runs after a failure, so
	// that Start finds nothing left over.
	Stop func(ctx context.Context) error
	// Health tells why the service, though running, does not serve. It must not block.
	Health func() error
	// Required: when the first Start fails, the daemon does not start. Otherwise it is shown as failed and tried again.
	Required bool
	// Grace bounds the end of the service, Stop has the first half of it; 5 s when 0.
	Grace time.Duration
}

// State of a service.
//
//	waiting ──Start──▶ starting ──▶ running ──Stop──▶ stopping ──▶ stopped
//	                      ▲  │         │
//	                      │  └─▶ failed◀┘  (after a pause starting again)
//	                      └────────┘
type State int

// States of a service.
const (
	Waiting State = iota
	Starting
	Running
	Failed
	Stopping
	Stopped
)

// String names the state.
func (s State) String() string {
	return [...]string{"waiting", "starting", "running", "failed", "stopping", "stopped"}[s]
}

// Health is what a service looks like from outside.
type Health struct {
	Name     string
	State    State
	Up       bool // running and healthy
	Err      error
	Since    time.Time // of the state
	Restarts uint64
}

// Pauses before a restart: doubled from the first to the last; a service that ran for calm begins anew.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	calm       = time.Minute
)

// Supervisor owns services. Add all, Start, then Stop; each of the latter two once, in any order.
type Supervisor struct {
	log   *slog.Logger
	tasks *task.Group

	mu       sync.Mutex // guards the rest
	services []*service
	started  bool
	stopped  bool
}

type service struct {
	Service
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the loop has ended
	looped bool          // the loop was started; guarded by Supervisor.mu

	mu       sync.Mutex // guards the rest
	state    State
	err      error
	since    time.Time
	restarts uint64
}

// New makes a Supervisor without services.
func New(log *slog.Logger) *Supervisor {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("component", "supervise")
	return &Supervisor{log: log, tasks: task.NewGroup(context.Background(), log)}
}

// Add appends a service. It panics after Start and on a name given twice: both are mistakes of the one caller.
func (s *Supervisor) Add(svc Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		panic("supervise: Add after Start")
	}
	for _, other := range s.services {
		if other.Name == svc.Name {
			panic("supervise: two services named " + svc.Name)
		}
	}
	if svc.Grace <= 0 {
		svc.Grace = 5 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.services = append(s.services, &service{Service: svc, ctx: ctx, cancel: cancel, done: make(chan struct{}), since: time.Now()})
}

// Start starts every service in order. When a required one fails, or ctx ends, those already started are stopped again and
// the error is returned.
func (s *Supervisor) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started || s.stopped {
		s.mu.Unlock()
		return errors.New("supervisor was started before")
	}
	s.started = true
	services := s.services
	s.mu.Unlock()
	for _, svc := range services {
		err := ctx.Err()
		if err == nil {
			err = s.first(svc)
		}
		if err != nil {
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return errors.Join(fmt.Errorf("start %s: %w", svc.Name, err), s.Stop(grace))
		}
	}
	return nil
}

// first starts one service and its loop. Only a required one can fail.
func (s *Supervisor) first(svc *service) error {
	began := time.Now()
	err := s.prepare(svc)
	if err != nil && svc.Required {
		svc.set(Failed, err)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return context.Canceled
	}
	svc.looped = true
	s.tasks.Go("service "+svc.Name, func(context.Context) { s.loop(svc, err) }, func(error) { close(svc.done) })
	if err == nil {
		s.log.Info("service started", "service", svc.Name, "took", time.Since(began))
	}
	return nil
}

func (s *Supervisor) prepare(svc *service) error {
	svc.set(Starting, nil)
	err := s.call(svc.Name+" start", svc.Start, svc.ctx)
	if err == nil {
		svc.set(Running, nil)
	}
	return err
}

// call runs f and returns its error or its panic.
func (s *Supervisor) call(name string, f func(context.Context) error, ctx context.Context) (err error) {
	if f == nil {
		return nil
	}
	if p := task.Guard(s.log, name, func() { err = f(ctx) }); p != nil {
		return p
	}
	return err
}

// loop runs a service until it is stopped; err is what its first Start returned.
func (s *Supervisor) loop(svc *service, err error) {
	pause := firstPause
	for {
		if err == nil {
			began := time.Now()
			err = s.serve(svc)
			if svc.ctx.Err() != nil || svc.health().State == Stopping { // Stop may end Run before its context does
				if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errEnded) {
					svc.set(Stopping, err)
				}
				return
			}
			if time.Since(began) >= calm {
				pause = firstPause
			}
			grace, cancel := context.WithTimeout(svc.ctx, svc.Grace)
			if stopErr := s.call(svc.Name+" stop", svc.Stop, grace); stopErr != nil {
				s.log.Error("service not cleaned up", "service", svc.Name, "err", stopErr)
			}
			cancel()
		}
		svc.fail(err)
		s.log.Error("service failed", "service", svc.Name, "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-svc.ctx.Done():
			return
		}
		pause = min(2*pause, lastPause)
		if err = s.prepare(svc); err == nil {
			s.log.Info("service restarted", "service", svc.Name)
		}
	}
}

var errEnded = errors.New("ended by itself")

func (s *Supervisor) serve(svc *service) error {
	if svc.Run == nil {
		<-svc.ctx.Done()
		return nil
	}
	err := s.call(svc.Name, svc.Run, svc.ctx)
	if err == nil && svc.ctx.Err() == nil {
		return errEnded
	}
	return err
}

// Stop ends every service in reverse order, each within its grace and all within ctx, and joins their errors. A service that
// does not end is left behind and named.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return nil
	}
	s.stopped = true
	services := s.services
	s.mu.Unlock()
	var errs []error
	for i := len(services) - 1; i >= 0; i-- {
		errs = append(errs, s.end(ctx, services[i]))
	}
	return errors.Join(errs...)
}

func (s *Supervisor) end(ctx context.Context, svc *service) error {
	s.mu.Lock()
	looped := svc.looped
	s.mu.Unlock()
	if !looped {
		svc.cancel()
		return nil
	}
	began := time.Now()
	wasFailed := svc.health().State == Failed
	svc.set(Stopping, nil)
	grace, cancel := context.WithTimeout(ctx, svc.Grace)
	defer cancel()
	var err error
	if !wasFailed {
		half, cancelHalf := context.WithTimeout(grace, svc.Grace/2)
		err = s.bounded(half, svc)
		cancelHalf()
	}
	svc.cancel()
	select {
	case <-svc.done:
	case <-grace.Done():
		s.log.Error("service did not stop", "service", svc.Name, "took", time.Since(began))
		return errors.Join(err, fmt.Errorf("stop %s: still running after %s", svc.Name, time.Since(began).Round(time.Millisecond)))
	}
	if h := svc.health(); h.Err != nil {
		err = errors.Join(err, h.Err)
	}
	svc.set(Stopped, nil)
	if err != nil {
		return fmt.Errorf("stop %s: %w", svc.Name, err)
	}
	s.log.Info("service stopped", "service", svc.Name, "took", time.Since(began))
	return nil
}

// bounded calls the service's Stop and waits no longer than ctx, even if Stop does not look at it.
func (s *Supervisor) bounded(ctx context.Context, svc *service) error {
	if svc.Stop == nil {
		return nil
	}
	result := make(chan error, 1)
	s.tasks.Go("stop "+svc.Name, func(context.Context) { result <- s.call(svc.Name+" stop", svc.Stop, ctx) })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Health tells the state of every service, in order.
func (s *Supervisor) Health() []Health {
	s.mu.Lock()
	services := s.services
	s.mu.Unlock()
	all := make([]Health, 0, len(services))
	for _, svc := range services {
		h := svc.health()
		if h.State == Running && svc.Health != nil {
			if p := task.Guard(s.log, svc.Name+" health", func() { h.Err = svc.Health() }); p != nil {
				h.Err = p
			}
		}
		h.Up = h.State == Running && h.Err == nil
		all = append(all, h)
	}
	return all
}

// Up tells whether every service serves.
func (s *Supervisor) Up() bool {
	for _, h := range s.Health() {
		if !h.Up {
			return false
		}
	}
	return true
}

func (svc *service) health() Health {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	return Health{Name: svc.Name, State: svc.state, Err: svc.err, Since: svc.since, Restarts: svc.restarts}
}

func (svc *service) set(state State, err error) {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if svc.state == Stopping && state != Stopped && state != Stopping {
		return // a restart that lost the race against Stop
	}
	if svc.state != state {
		svc.since = time.Now()
	}
	svc.state, svc.err = state, err
}

func (svc *service) fail(err error) {
	svc.set(Failed, err)
	svc.mu.Lock()
	svc.restarts++
	svc.mu.Unlock()
}
