package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"ringfence/appliance/supervise"
	"ringfence/image/boot"
	"ringfence/internal/task"
)

// Options of a Server.
type Options struct {
	Socket   string             // path of the control socket
	Verbs    []Verb             // Verbs() when nil
	Handlers map[string]Handler // by the name of their verb; Sources.Handlers() and more
	Metrics  *Metrics           // shown at /metrics; nil: no such page
	Listen   netip.AddrPort     // of /metrics and /healthz; invalid: no such listener
	Health   func() []supervise.Health
	Log      *slog.Logger
}

func (o *Options) validate() error {
	if o.Socket == "" {
		return errors.New("no control socket given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Health == nil {
		o.Health = func() []supervise.Health { return nil }
	}
	if o.Verbs == nil {
		o.Verbs = Verbs()
	}
	names := map[string]bool{}
	for _, v := range o.Verbs {
		if o.Handlers[v.Name] == nil {
			return fmt.Errorf("verb %q has no handler", v.Name)
		}
		names[v.Name] = true
	}
	for name := range o.Handlers {
		if !names[name] {
			return fmt.Errorf("handler %q has no verb", name)
		}
	}
	return nil
}

// Server serves the control socket, metrics and health.
type Server struct {
	o       Options
	log     *slog.Logger
	control net.Listener
	metrics net.Listener // nil when there is none
	servers []*http.Server
	closing sync.Once
	stopErr error
}

// Limits of both listeners: nobody here sends much or slowly.
const (
	maxBody      = 1 << 20
	headerTime   = 5 * time.Second
	requestTime  = 30 * time.Second
	idleTime     = 60 * time.Second
	stopTime     = 2 * time.Second
	maxHeader    = 16 << 10
	maxScrapers  = 32 // connections to the metrics listener
	maxArguments = 64
)

// New binds the listeners.
func New(o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	s := &Server{o: o, log: o.Log.With("component", "admin")}
	var err error
	if s.control, err = listenSocket(o.Socket); err != nil {
		return nil, err
	}
	if o.Listen.IsValid() {
		ln, err := net.Listen("tcp", o.Listen.String())
		if err != nil {
			s.control.Close()
			return nil, fmt.Errorf("node.listen.metrics: %w", err)
		}
		s.metrics = limit(ln, maxScrapers)
	}
	return s, nil
}

// Addr is the address of metrics and health, nil when there is none.
func (s *Server) Addr() net.Addr {
	if s.metrics == nil {
		return nil
	}
	return s.metrics.Addr()
}

// Run serves until ctx ends or a listener fails, once: a restart takes a New Server.
func (s *Server) Run(ctx context.Context) error {
	g := task.NewGroup(ctx, s.log)
	failed := make(chan error, 2)
	serve := func(name string, ln net.Listener, h http.Handler) {
		srv := &http.Server{
			Handler: h, ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: requestTime, IdleTimeout: idleTime,
			MaxHeaderBytes: maxHeader, ConnContext: withPeer, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		s.servers = append(s.servers, srv)
		s.log.Info("listening", "listener", name, "addr", ln.Addr().String())
		g.Go("admin "+name, func(context.Context) {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	serve("control", s.control, s.controlHandler())
	if s.metrics != nil {
		serve("metrics", s.metrics, s.publicHandler())
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.stop()
	g.Stop()
	return errors.Join(err, s.stopErr)
}

// Close gives up the listeners of a Server whose Run was never called; after Run it does nothing.
func (s *Server) Close() { s.stop() }

func (s *Server) stop() {
	s.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		for _, srv := range s.servers {
			if err := srv.Shutdown(ctx); err != nil {
				_ = srv.Close()
			}
		}
		_ = s.control.Close()
		if s.metrics != nil {
			_ = s.metrics.Close()
		}
	})
}

func (s *Server) controlHandler() http.Handler {
	mux := http.NewServeMux()
	for _, v := range s.o.Verbs {
		mux.HandleFunc(v.method()+" "+v.path(), func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, v) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, &Error{http.StatusNotFound, "the daemon knows no " + r.Method + " " + r.URL.Path + "; is it of another release than this command?"})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := r.Context().Value(peerKey{}).(Peer)
		if !peer.allowed() {
			s.log.Info("control refused", "peer", peer.UID)
			s.refuse(w, &Error{http.StatusForbidden, fmt.Sprintf("user %d may not give orders here: only root and the user of the daemon may", peer.UID)})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// answer runs the handler of a verb.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, v Verb) {
	req, err := readRequest(w, r, v)
	if err != nil {
		s.refuse(w, err)
		return
	}
	began := time.Now()
	var answer any
	if p := task.Guard(s.log, "verb "+v.Name, func() { answer, err = s.o.Handlers[v.Name](r.Context(), req) }); p != nil {
		err = p
	}
	if v.Change {
		args := req.Args
		if v.Prepare != nil {
			args = nil // content of a file, which may hold secrets
		}
		s.log.Info("order", "verb", v.Name, "args", args, "peer", req.Peer.UID, "err", err, "took", time.Since(began))
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func readRequest(w http.ResponseWriter, r *http.Request, v Verb) (req Request, err error) {
	if v.Change {
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil && !errors.Is(err, io.EOF) {
			return req, Usage("%s: body is not JSON: %v", v.Name, err)
		}
	} else {
		req.Flags = map[string]string{}
		for name, values := range r.URL.Query() {
			if name == "arg" {
				req.Args = values
			} else {
				req.Flags[name] = values[len(values)-1]
			}
		}
	}
	req.Peer, _ = r.Context().Value(peerKey{}).(Peer)
	if n := len(req.Args); n < v.Min || n > v.Max || n > maxArguments {
		return req, Usage("usage: ringfence %s", v.Usage())
	}
	for name := range req.Flags {
		if !v.hasFlag(name) {
			return req, Usage("%s has no flag %q", v.Name, name)
		}
	}
	return req, nil
}

func (v Verb) hasFlag(name string) bool {
	for _, f := range v.Flags {
		if f.Name == name {
			return true
		}
	}
	return false
}

// refusal is how an error travels.
type refusal struct {
	Error string `json:"error"`
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if e, ok := errors.AsType[*Error](err); ok {
		status = e.Status
	}
	writeJSON(w, status, refusal{err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // for people and scripts, not for pages: contacts are written with angle brackets
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, "{\"error\": %q}\n", err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// healthInfo is the body of /healthz.
type healthInfo struct {
	OK       bool          `json:"ok"`
	Services []ServiceInfo `json:"services"`
	Image    *imageInfo    `json:"image,omitempty"`
}

// imageInfo is what everybody on the administrators' network may know of the image.
type imageInfo struct {
	Version   string  `json:"version"`
	Slot      string  `json:"slot"`
	Slots     string  `json:"slots"`
	Committed bool    `json:"committed"`
	Recovery  bool    `json:"recovery"`
	Firmware  string  `json:"firmware"`
	Update    string  `json:"update,omitempty"` // on trial, committed, returned
	Boot      string  `json:"boot"`
	Ready     float64 `json:"ready_after"`
	DataSize  uint64  `json:"data_size"`
	DataFree  uint64  `json:"data_free"`
	Memory    uint64  `json:"memory"`
	MemUsed   uint64  `json:"memory_used"`
	Disk      string  `json:"disk"`
	Watchdog  string  `json:"watchdog"`
	TestKeys  bool    `json:"test_keys,omitempty"`
}

func imageOf() *imageInfo {
	st, err := boot.ReadStatus()
	if err != nil {
		return nil
	}
	i := &imageInfo{Version: st.Version, Slot: string(st.Slot), Slots: st.Slots, Committed: st.Committed, Recovery: st.Recovery, Firmware: st.Firmware, Boot: st.Boot,
		Ready: st.Ready, DataSize: st.DataSize, DataFree: st.DataFree, Memory: st.Memory, MemUsed: st.MemUsed, Disk: st.Disk, Watchdog: st.Watchdog, TestKeys: st.TestKeys}
	if st.Update != nil {
		i.Update = st.Update.State
	}
	return i
}

// ServicesOf shows the supervisor's view as ServiceInfo.
func ServicesOf(all []supervise.Health) []ServiceInfo {
	out := make([]ServiceInfo, 0, len(all))
	for _, h := range all {
		info := ServiceInfo{Name: h.Name, State: h.State.String(), Up: h.Up, Since: h.Since, Restarts: h.Restarts}
		if h.Err != nil {
			info.Error = h.Err.Error()
		}
		out = append(out, info)
	}
	return out
}

func (s *Server) publicHandler() http.Handler {
	mux := http.NewServeMux()
	if s.o.Metrics != nil {
		mux.Handle("GET /metrics", s.o.Metrics.handler(s.log))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		info := healthInfo{OK: true, Services: ServicesOf(s.o.Health()), Image: imageOf()}
		for i := range info.Services {
			svc := &info.Services[i]
			info.OK = info.OK && svc.Up
			svc.Error = "" // may name addresses and paths: for the control socket only
		}
		status := http.StatusOK
		if !info.OK {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, info)
	})
	return mux
}
