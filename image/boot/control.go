package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/release"
	"ringfence/image/slot"
	"ringfence/image/update"
)

// serveControl listens for the daemon, which asks on behalf of administrators. Only root and the daemon's user can connect.
// Nothing is believed: an update is checked here, by the keys of this image.
//
//	POST /update    the update file as body; answers Outcome and starts the machine again
//	POST /reboot, /poweroff, /reset
//	POST /links     names of links as JSON: the daemon has configured these, and init leaves them alone
//	POST /hostname  a name as JSON
func (s *system) serveControl() error {
	_ = os.Remove(Socket)
	ln, err := net.Listen("unix", Socket)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(Socket, 0o660), os.Chown(Socket, 0, release.UID)); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /update", s.handleUpdate)
	mux.HandleFunc("POST /links", s.handleLinks)
	mux.HandleFunc("POST /hostname", s.handleName)
	mux.HandleFunc("POST /reboot", s.handleEnd(func() { s.reboot("asked for") }))
	mux.HandleFunc("POST /poweroff", s.handleEnd(func() { s.powerOff("asked for") }))
	mux.HandleFunc("POST /reset", s.handleEnd(s.factoryReset))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Minute, IdleTimeout: time.Minute}
	s.tasks.Go("control", func(context.Context) {
		if err := srv.Serve(ln); err != nil {
			s.log.Error("control socket", "err", err)
		}
	})
	return nil
}

// answerPause lets an answer get out before the machine ends.
const answerPause = time.Second

func (s *system) handleEnd(end func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		select {
		case s.updates <- struct{}{}:
		default:
			refuse(w, errors.New("an update is being written"))
			return
		}
		w.WriteHeader(http.StatusAccepted)
		s.tasks.Go("end", func(context.Context) { time.Sleep(answerPause); end() })
	}
}

func refuse(w http.ResponseWriter, err error) {
	w.WriteHeader(http.StatusConflict)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

func (s *system) handleUpdate(w http.ResponseWriter, r *http.Request) {
	select {
	case s.updates <- struct{}{}:
	default:
		refuse(w, errors.New("another update is being written"))
		return
	}
	o, err := s.takeUpdate(r.Body)
	if err != nil {
		<-s.updates
		s.log.Error("update refused", "err", err)
		refuse(w, err)
		return
	}
	_ = json.NewEncoder(w).Encode(o)
	s.tasks.Go("update", func(context.Context) { time.Sleep(answerPause); s.reboot("update to " + o.Version) })
}

// takeUpdate writes an update into the other slot and makes it the next one to start.
func (s *system) takeUpdate(r io.Reader) (Outcome, error) {
	if s.disk == nil {
		return Outcome{}, errors.New("there is no disk")
	}
	if !s.view.get().Committed && !s.recovery {
		return Outcome{}, errors.New("this release has not proven itself yet; try again in a few minutes")
	}
	head := make([]byte, update.HeadSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return Outcome{}, errors.New("this is no update of this product")
	}
	info, key, err := update.Open(head, s.about.Keys)
	if err != nil {
		return Outcome{}, err
	}
	target := s.slot.Other()
	p, device, err := s.disk.part(slotPart(target))
	if err != nil {
		return Outcome{}, err
	}
	if err := info.Fits(s.about.Arch, p.Size(), s.floor()); err != nil {
		return Outcome{}, err
	}
	s.log.Info("update", "version", info.Version, "slot", target, "key", key.Name, "bytes", info.Size)
	began := time.Now()
	// From here on the other slot is nothing that could be started.
	if _, err := s.disk.setSlots(func(st slot.State) slot.State { return st.Set(target, 0) }); err != nil {
		return Outcome{}, err
	}
	if err := writeSlot(device, info, r); err != nil {
		return Outcome{}, err
	}
	o := Outcome{Version: info.Version, Slot: target, State: onTrial, At: time.Now().UTC(), Phones: s.view.getDaemon().Registered}
	if err := writeJSON(updateFile, o); err != nil {
		return Outcome{}, err
	}
	state, err := s.disk.setSlots(func(st slot.State) slot.State { return st.Set(target, 1) })
	if err != nil {
		return Outcome{}, err
	}
	s.view.set(func(v *Status) { v.Update, v.Slots = &o, state.String() })
	s.log.Info("update written and verified", "version", info.Version, "took", time.Since(began).Round(time.Millisecond))
	return o, nil
}

// writeSlot writes the content, makes the drive forget what it has in memory, reads it back, and compares the hash.
func writeSlot(device string, info update.Info, r io.Reader) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := info.Copy(w, r); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return fmt.Errorf("write the slot: %w", err)
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkFlush, 0); e != 0 {
		return fmt.Errorf("flush the slot: %w", e)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := info.Copy(io.Discard, bufio.NewReaderSize(f, 1<<20)); err != nil {
		return fmt.Errorf("read the slot back: %w", err)
	}
	return nil
}

// maxOrder bounds the body of a small order.
const maxOrder = 16 << 10

func (s *system) handleLinks(w http.ResponseWriter, r *http.Request) {
	var names []string
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder)).Decode(&names); err != nil {
		refuse(w, errors.New("no list of links"))
		return
	}
	s.network.leave(names)
	s.log.Info("links left to the daemon", "links", names)
	w.WriteHeader(http.StatusAccepted)
}

func (s *system) handleName(w http.ResponseWriter, r *http.Request) {
	var name string
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder)).Decode(&name); err != nil || !hostName.MatchString(name) {
		refuse(w, errors.New("no host name"))
		return
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}
