package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// journal is what must be known after a crash. It lies in one file, which is replaced as a whole.
type journal struct {
	Confirmed *Spec     `json:"confirmed,omitempty"` // in force at every start
	Pending   *Spec     `json:"pending,omitempty"`   // applied and not confirmed
	Before    *snapshot `json:"before,omitempty"`    // what Pending has touched and Confirmed does not know
	Boot      string    `json:"boot,omitempty"`      // start of the machine that Before is of
	Returned  *Return   `json:"returned,omitempty"`  // the last change that did not stay
}

// Return tells of a change that did not stay.
type Return struct {
	At  time.Time `json:"at"`
	Why string    `json:"why"`
}

// journalName is the file in the state directory.
const journalName = "host.json"

func readJournal(dir string) (journal, error) {
	var j journal
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		return j, fmt.Errorf("journal of the machine's network: %w", err)
	}
	return j, nil
}

// write replaces the file, and returns when it is on the disk.
func (j journal) write(dir string) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, journalName)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("journal of the machine's network: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("journal of the machine's network: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bootID is another one after each start of the machine.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
