package boottest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"ringfence/image"
	"ringfence/image/boot/release"
	"ringfence/image/disk"
	"ringfence/image/slot"
	"ringfence/image/vm"
)

// site is one appliance: a disk, and the place where it looks for releases.
type site struct {
	t        *testing.T
	l        *lab
	dir      string
	disk     string
	firmware string
	offered  atomic.Pointer[string] // file that the server gives
	url      string
	m        *vm.Machine
	slow     atomic.Bool   // the server stops in the middle
	half     chan struct{} // and says so here
	served   chan struct{} // every time a release was given
}

// newSite makes an appliance of the release of that name, switched off.
func newSite(t *testing.T, l *lab, firmware, name string) *site {
	t.Helper()
	s := &site{t: t, l: l, dir: t.TempDir(), firmware: firmware, half: make(chan struct{}, 8), served: make(chan struct{}, 64)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	s.url = fmt.Sprintf("http://10.0.2.2:%d/ringfence.rfu", ln.Addr().(*net.TCPAddr).Port)
	s.disk = filepath.Join(s.dir, "disk.img")
	copySparse(t, l.make(t, name)+".img", s.disk)
	s.seed("")
	t.Cleanup(func() {
		if s.m != nil {
			s.m.Stop()
		}
	})
	return s
}

// seed writes the declared document.
func (s *site) seed(more string) {
	s.t.Helper()
	doc := fmt.Sprintf("node:\n  name: vm\n  address: 10.0.2.15\n  listen:\n    metrics: 0.0.0.0:%d\n  update:\n    url: %s\n    every: 10s\n%s", metricsPort, s.url, more)
	if err := image.WriteSeed(s.disk, map[string][]byte{"ringfence.yaml": []byte(doc)}, epoch); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	name := s.offered.Load()
	if name == nil {
		http.NotFound(w, r)
		return
	}
	f, err := os.Open(*name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	if s.slow.Load() {
		st, _ := f.Stat()
		w.Header().Set("Content-Length", fmt.Sprint(st.Size()))
		_, _ = io.CopyN(w, f, st.Size()/2)
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		s.half <- struct{}{}
		<-r.Context().Done()
		return
	}
	_, _ = io.Copy(w, f)
	select {
	case s.served <- struct{}{}:
	default:
	}
}

func (s *site) offer(file string) { s.offered.Store(&file) }

// start switches the machine on.
func (s *site) start(change ...func(*vm.Options)) {
	s.t.Helper()
	o := vm.Options{Dir: s.dir, Image: s.disk, Firmware: s.firmware, Network: true, Ports: []int{metricsPort, sipPort}}
	for _, c := range change {
		c(&o)
	}
	m, err := vm.Start(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = m
}

// stop pulls the plug.
func (s *site) stop() {
	s.m.Stop()
	s.m = nil
}

// until waits for the appliance to be as wanted.
func (s *site) until(what string, want func(vm.Health) bool) vm.Health {
	s.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	h, err := s.m.Until(ctx, metricsPort, what, want)
	if err != nil {
		s.t.Fatalf("%s: %v", s.firmware, err)
	}
	s.t.Logf("%s: %s after %.0f s (init to answer %.1f s, %d MB of memory used)", s.firmware, what, time.Since(began).Seconds(), h.Image.Ready, h.Image.MemUsed>>20)
	return h
}

// proven is an appliance that runs a release and has committed it.
func proven(version string) func(vm.Health) bool {
	return func(h vm.Health) bool { return h.OK && h.Image.Committed && h.Image.Version == version }
}

// slots is the state on the disk of a machine that is off.
func (s *site) slots() string {
	s.t.Helper()
	f, p := s.open(release.PartState)
	defer f.Close()
	_, st, err := slot.Block(io.NewSectionReader(f, p.Offset(), p.Size()), p.Size())
	if err != nil {
		s.t.Fatal(err)
	}
	return st.String()
}

func (s *site) open(part string) (*os.File, disk.Partition) {
	s.t.Helper()
	f, err := os.OpenFile(s.disk, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	table, err := disk.Read(f, uint64(st.Size()/disk.Sector))
	if err != nil {
		s.t.Fatal(err)
	}
	i, ok := table.Find(part)
	if !ok {
		s.t.Fatalf("no partition %s", part)
	}
	return f, table.Parts[i]
}

// damage changes bytes of a partition of a machine that is off.
func (s *site) damage(part string, at int64, b []byte) {
	s.t.Helper()
	f, p := s.open(part)
	defer f.Close()
	if _, err := f.WriteAt(b, p.Offset()+at); err != nil {
		s.t.Fatal(err)
	}
}

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	st, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Truncate(st.Size()); err != nil {
		t.Fatal(err)
	}
	block, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(block)) {
		n, err := io.ReadFull(in, block)
		if n > 0 && !bytes.Equal(block[:n], zero[:n]) {
			if _, err := out.WriteAt(block[:n], at); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			return
		}
	}
}
