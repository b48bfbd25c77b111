package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/backup"
	"ringfence/appliance/store"
	"ringfence/config"
)

// backupVerb writes a backup while the daemon runs.
func backupVerb() admin.Verb {
	return admin.Verb{Name: "backup", Args: "FILE", Min: 1, Max: 1, Change: true, Short: "write everything that this appliance is into one encrypted file", Print: printBackup,
		Help: "Keys, certificates, configuration, and what users set, as of one moment. The file can be opened with its passphrase alone, so that both\n" +
			"belong out of the house, apart from each other. ringfence restore makes an appliance of it again.",
		Flags: []admin.Flag{{Name: "passphrase-file", Usage: "file whose first line is the passphrase, at least 10 characters; else $" + admin.PassphraseEnv + ", else it is asked for"}},
		Prepare: func(req *admin.Request) (err error) {
			if req.Args[0], err = filepath.Abs(req.Args[0]); err != nil {
				return err
			}
			p, err := admin.Passphrase(req.Flags["passphrase-file"], admin.AskTwice)
			if err != nil {
				return err
			}
			req.Flags = map[string]string{"passphrase-file": p}
			return nil
		}}
}

// BackupInfo is the answer to backup.
type BackupInfo struct {
	File  string   `json:"file"`
	Bytes int64    `json:"bytes"`
	Holds []string `json:"configuration_files,omitempty"` // besides the state
}

func printBackup(w io.Writer, answer json.RawMessage) error {
	var b BackupInfo
	if err := json.Unmarshal(answer, &b); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s: %d bytes, whole and encrypted; keep it and its passphrase apart, and out of this house\n", b.File, b.Bytes)
	return err
}

func (a *appliance) backup(_ context.Context, r admin.Request) (any, error) {
	return writeBackup(r.Args[0], r.Flags["passphrase-file"], a.backupSource())
}

// backupSource is what a backup of this appliance is made of.
func (a *appliance) backupSource() backup.Source {
	var files []string
	if path := a.source.Path(); path != "" {
		files = config.Files(path)
	} else if text, err := a.source.Revisions().Raw(0); err == nil {
		files = config.StoredFiles(text)
	}
	return backup.Source{
		Dir: a.StateDir, Appliance: a.doc().Node.Name, Version: a.Version, Created: time.Now(), Document: a.source.Path(), Files: files, Snapshot: a.store.Snapshot}
}

// BackupOffline writes a backup while no daemon runs on the state directory. document is the file that is the authority, or
// empty.
func BackupOffline(stateDir, document, file, passphrase string) (BackupInfo, error) {
	if _, err := os.Stat(filepath.Join(stateDir, "state.db")); err != nil {
		return BackupInfo{}, fmt.Errorf("nothing to back up: %w", err)
	}
	s, err := store.Open(store.Options{Dir: stateDir, Appliance: "ringfence", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return BackupInfo{}, err
	}
	defer s.Close()
	var files []string
	if document != "" {
		if document, err = filepath.Abs(document); err != nil {
			return BackupInfo{}, err
		}
		files = config.Files(document)
	} else if revisions, err := config.OpenRevisions(s, time.Now); err == nil {
		if text, err := revisions.Raw(0); err == nil {
			files = config.StoredFiles(text)
		}
	}
	return writeBackup(file, passphrase, backup.Source{Dir: stateDir, Appliance: s.Origin(), Version: Version, Created: time.Now(), Document: document, Files: files, Snapshot: s.Snapshot})
}

func writeBackup(file, passphrase string, s backup.Source) (BackupInfo, error) {
	if len(passphrase) < backup.MinPassphrase {
		return BackupInfo{}, admin.Refuse("the passphrase has %d characters, at least %d are wanted", len(passphrase), backup.MinPassphrase)
	}
	err := backup.WriteFile(file, s, passphrase)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return BackupInfo{}, admin.Refuse("no backup was written: %v; the daemon writes it, and as a service it may write to /var/backups/ringfence", err)
	}
	if err != nil {
		return BackupInfo{}, admin.Refuse("no backup was written: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return BackupInfo{}, err
	}
	return BackupInfo{File: file, Bytes: info.Size(), Holds: s.Files}, nil
}

// Restore makes stateDir the state directory of a backup. No daemon may run on it.
func Restore(file, stateDir, passphrase string, replace bool) (backup.Restored, error) {
	f, err := os.Open(file)
	if err != nil {
		return backup.Restored{}, err
	}
	defer f.Close()
	if err := store.Idle(stateDir); err != nil {
		return backup.Restored{}, err
	}
	return backup.Restore(f, stateDir, passphrase, replace, time.Now(), usable)
}

// CheckBackup reads a backup to its end and opens what it holds, in a folder that it removes.
func CheckBackup(file, passphrase string) (backup.Restored, error) {
	dir, err := os.MkdirTemp("", "ringfence-check-")
	if err != nil {
		return backup.Restored{}, err
	}
	defer os.RemoveAll(dir)
	f, err := os.Open(file)
	if err != nil {
		return backup.Restored{}, err
	}
	defer f.Close()
	return backup.Restore(f, dir, passphrase, false, time.Now(), usable)
}

// usable tells whether this program can start on a restored directory, as far as its files go.
func usable(dir string) error {
	s, err := store.Open(store.Options{Dir: dir, Appliance: "ringfence", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	keys := false
	if _, err := os.Stat(filepath.Join(dir, "pki.key")); err == nil {
		keys = true
	}
	if !keys {
		return errors.New("pki.key, which opens all private keys, is missing")
	}
	return os.Remove(filepath.Join(dir, "lock"))
}
