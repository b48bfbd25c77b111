// Package backup puts everything that an appliance is into one encrypted file, and makes an appliance of such a file again.
//
// A backup is age (passphrase) over tar. In it, in this order:
//
//	backup.json     Manifest: what it is, of which appliance, when
//	state.db        the log of everything durable, as of one moment
//	state/…         every other file of the state directory: pki.key first of all, mail, recordings
//	config/…        the document where a file is the authority, what it includes, and the files of secrets, by whole path
//
// Left out are local.db (bindings and boot records, which phones make anew), sockets and locks. age tells a file that was cut
// off or changed from a whole one, so there are no further sums.
package backup

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
)

// Format of the backups written here. A newer one is refused by Read.
const Format = 1

// scryptWork is age's work factor: 2^18 rounds take about a second. Tests take fewer.
var scryptWork = 18

// MinPassphrase is short for a passphrase but long for something typed; age makes each guess cost about a second.
const MinPassphrase = 10

const (
	manifestName = "backup.json"
	stateName    = "state.db"
	stateFolder  = "state/"
	configFolder = "config/"
)

// skipped are files of the state directory that are of the running process alone, or written apart.
var skipped = []string{stateName, "local.db", "lock", pendingName, "reserve", "reserve.new", "host.json", "clock.json"}

// Manifest says what a backup is.
type Manifest struct {
	Format    int       `json:"format"`
	Appliance string    `json:"appliance"`
	Version   string    `json:"version"`  // of the program that wrote it
	Created   time.Time `json:"created"`  // UTC
	Document  string    `json:"document"` // path of the document, empty where revisions in state.db are the authority
	Files     []string  `json:"files"`    // found while reading, not written: names as in the backup
	Bytes     int64     `json:"bytes"`    // found while reading: unpacked
}

// Source is what to back up.
type Source struct {
	Dir       string // state directory
	Appliance string
	Version   string
	Created   time.Time
	Document  string   // path of the document, empty where there is none
	Files     []string // files of the configuration, the document included
	// Snapshot is store.Store's.
	Snapshot func(fn func(size int64, write func(io.Writer) error) error) error
}

// Write writes a backup of s to w.
func Write(w io.Writer, s Source, passphrase string) error {
	if len(passphrase) < MinPassphrase {
		return fmt.Errorf("passphrase of %d characters, at least %d are wanted", len(passphrase), MinPassphrase)
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return err
	}
	to.SetWorkFactor(scryptWork)
	sealed, err := age.Encrypt(w, to)
	if err != nil {
		return err
	}
	t := tar.NewWriter(sealed)
	head, err := json.Marshal(Manifest{Format: Format, Appliance: s.Appliance, Version: s.Version, Created: s.Created.UTC(), Document: s.Document})
	if err != nil {
		return err
	}
	if err := add(t, manifestName, int64(len(head)), s.Created, func(w io.Writer) error { _, err := w.Write(head); return err }); err != nil {
		return err
	}
	err = s.Snapshot(func(size int64, write func(io.Writer) error) error { return add(t, stateName, size, s.Created, write) })
	if err != nil {
		return err
	}
	if err := addState(t, s.Dir); err != nil {
		return err
	}
	for _, path := range s.Files {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s is not a whole path", path)
		}
		if err := addFile(t, configFolder+strings.TrimPrefix(filepath.ToSlash(path), "/"), path); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return sealed.Close()
}

// addState adds what lies in the state directory besides the database. A file that goes away meanwhile was none to keep.
func addState(t *tar.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(dir, path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != dir:
			return nil
		case err != nil:
			return err
		case relErr != nil:
			return relErr
		case d.IsDir() && (strings.HasPrefix(rel, replacedPrefix) || rel == unpackName):
			return fs.SkipDir
		case !d.Type().IsRegular() || slices.Contains(skipped, rel):
			return nil
		}
		if err := addFile(t, stateFolder+filepath.ToSlash(rel), path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func addFile(t *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return add(t, name, info.Size(), info.ModTime(), func(w io.Writer) error {
		// Something may be writing at its end: what was there when we looked is taken.
		_, err := io.CopyN(w, f, info.Size())
		return err
	})
}

func add(t *tar.Writer, name string, size int64, at time.Time, write func(io.Writer) error) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: at.UTC().Truncate(time.Second), Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := write(t); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// WriteFile writes a backup as the file at path, which must not exist: whole and on the disk, or not at all.
func WriteFile(path string, s Source, passphrase string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists", path)
	}
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(path + ".part")
		}
	}()
	if err := Write(f, s, passphrase); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(path+".part", path); err != nil { // unlike rename, never over another file
		return err
	}
	if err := os.Remove(path + ".part"); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
