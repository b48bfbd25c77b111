package boot

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"ringfence/image/slot"
)

// Status is what init knows. It lies in StatusFile, from where the daemon shows it to administrators, and on the console.
type Status struct {
	Version   string    `json:"version"`
	Phase     string    `json:"phase"` // starting, running, ending
	Slot      slot.ID   `json:"slot"`
	Slots     string    `json:"slots,omitempty"` // the state block
	Committed bool      `json:"committed"`       // this slot has proven itself since the start
	Recovery  bool      `json:"recovery,omitempty"`
	TestKeys  bool      `json:"test_keys,omitempty"`
	Firmware  string    `json:"firmware,omitempty"` // pc, efi
	Disk      string    `json:"disk,omitempty"`
	Secure    bool      `json:"secure_boot,omitempty"` // the firmware verified what it started
	Data      string    `json:"data,omitempty"`        // what is wrong with the data partition
	DataSize  uint64    `json:"data_size,omitempty"`
	DataFree  uint64    `json:"data_free,omitempty"`
	Memory    uint64    `json:"memory,omitempty"`      // bytes of the machine
	MemUsed   uint64    `json:"memory_used,omitempty"` // that nobody else could have
	Watchdog  string    `json:"watchdog,omitempty"`
	Links     []Link    `json:"links,omitempty"`
	Config    string    `json:"config,omitempty"` // where the configuration came from
	Clock     string    `json:"clock,omitempty"`  // why the time is doubtful
	Update    *Outcome  `json:"update,omitempty"` // the last one
	Notes     []string  `json:"notes,omitempty"`
	Gate      string    `json:"gate,omitempty"` // what the slot still has to prove
	Daemon    string    `json:"daemon,omitempty"`
	Crashes   int       `json:"crashes,omitempty"`
	Started   int       `json:"daemon_starts"`
	Boot      string    `json:"boot"`                  // random, another for each start
	Ready     float64   `json:"ready_after,omitempty"` // seconds from PID 1 to the first answer that all services are up
	At        time.Time `json:"at"`
}

// Link is one network interface.
type Link struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses,omitempty"`
	Gateway   string   `json:"gateway,omitempty"`
	How       string   `json:"how,omitempty"` // dhcp, static
}

// Outcome of an update.
type Outcome struct {
	Version string    `json:"version"`
	Slot    slot.ID   `json:"slot"`
	State   string    `json:"state"` // on trial, committed, returned
	At      time.Time `json:"at"`
	Phones  []string  `json:"phones,omitempty"` // registered just before
}

// view is the status, and the only way to change it.
type view struct {
	mu     sync.Mutex // guards the rest
	status Status
	daemon DaemonStatus
}

func (v *view) set(change func(*Status)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.status)
}

func (v *view) get() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status
}

func (v *view) setDaemon(d DaemonStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.daemon = d
}

func (v *view) getDaemon() DaemonStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.daemon
}

// publish writes the status where the daemon finds it. It is in memory, so nothing waits for a disk.
func (s *system) publish() {
	size, free := dataUse()
	total, available := memory()
	s.view.set(func(v *Status) {
		v.DataSize, v.DataFree, v.At = size, free, time.Now().UTC()
		v.Memory, v.MemUsed = total, total-min(available, total)
	})
	b, err := json.MarshalIndent(s.view.get(), "", "  ")
	if err == nil {
		if err = os.WriteFile(StatusFile+".new", b, 0o644); err == nil {
			err = os.Rename(StatusFile+".new", StatusFile)
		}
	}
	if err != nil {
		s.log.Error("status", "err", err)
	}
}

// ReadStatus reads what init tells; it fails where there is no init of this kind.
func ReadStatus() (Status, error) {
	var st Status
	b, err := os.ReadFile(StatusFile)
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(b, &st)
}
