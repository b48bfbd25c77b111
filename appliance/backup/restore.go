package backup

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
)

const (
	// pendingName is there from the first change that Restore makes to a state directory until the last. While it is, the
	// directory is half of one appliance and half of another, and Pending says so.
	pendingName = "restore.pending"
	// replacedPrefix begins the folder where Restore puts what was there before.
	replacedPrefix = "before-restore-"
	unpackName     = "restore.part"
)

// ErrNotEmpty: the state directory holds an appliance already.
var ErrNotEmpty = errors.New("holds an appliance already")

// Pending tells, by an error, that a restore into dir was cut off. Such a directory must not be used.
func Pending(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, pendingName)); err == nil {
		return fmt.Errorf("state directory %s: a restore was cut off here; run it again with --replace", dir)
	}
	return nil
}

// Read reads a backup. file is called for each file in it, with its name as in the backup and its content, which it need not
// read to the end. The error says what is wrong with passphrase or file; what was passed to file before is then worth nothing.
func Read(r io.Reader, passphrase string, file func(name string, content io.Reader) error) (Manifest, error) {
	var m Manifest
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return m, err
	}
	plain, err := age.Decrypt(r, id)
	if err != nil {
		return m, errors.New("the passphrase does not open the file, or it is no backup")
	}
	t := tar.NewReader(plain)
	for first := true; ; first = false {
		h, err := t.Next()
		if err == io.EOF && !first {
			break
		}
		if err != nil {
			return m, fmt.Errorf("the backup is cut off or damaged: %w", err)
		}
		if first {
			if h.Name != manifestName || h.Size > 1<<20 {
				return m, errors.New("this is no backup of an appliance")
			}
			if err := json.NewDecoder(t).Decode(&m); err != nil {
				return m, fmt.Errorf("%s: %w", manifestName, err)
			}
			if m.Format != Format {
				return m, fmt.Errorf("the backup has format %d and this program knows %d: use release %s or newer", m.Format, Format, m.Version)
			}
			continue
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || path.Clean(h.Name) != h.Name {
			return m, fmt.Errorf("the backup names a file %q, which none should", h.Name)
		}
		if err := file(h.Name, t); err != nil {
			return m, fmt.Errorf("%s: %w", h.Name, err)
		}
		m.Files = append(m.Files, h.Name)
		m.Bytes += h.Size
	}
	// age checks the last piece when it is read to the end.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return m, fmt.Errorf("the backup is cut off or damaged: %w", err)
	}
	return m, nil
}

// Restored is what Restore did.
type Restored struct {
	Manifest
	Config   string // folder of the files of the configuration, empty when there were none
	Document string // the document in that folder
	Replaced string // folder of what was there before, empty when there was nothing
}

// Restore makes dir the state directory of the backup. With an appliance in it already the error is ErrNotEmpty, unless replace
// is set: then what was there goes into a folder beside. check is called with the unpacked directory before anything in dir
// changes, to say whether this program can use it.
func Restore(r io.Reader, dir, passphrase string, replace bool, now time.Time, check func(dir string) error) (out Restored, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return out, err
	}
	old, err := occupants(dir)
	if err != nil {
		return out, err
	}
	if len(old) > 0 && !replace {
		return out, fmt.Errorf("state directory %s %w (%s); --replace puts it aside", dir, ErrNotEmpty, strings.Join(old, ", "))
	}
	part := filepath.Join(dir, unpackName)
	if err := os.RemoveAll(part); err != nil {
		return out, err
	}
	defer os.RemoveAll(part)
	out.Manifest, err = Read(r, passphrase, func(name string, content io.Reader) error {
		to, ok := strings.CutPrefix(name, stateFolder)
		switch {
		case ok && to != "":
		case name == stateName:
			to = name
		case strings.HasPrefix(name, configFolder):
			to, out.Config = name, filepath.Join(dir, "config")
		default:
			return nil // of a newer release, which this one does without
		}
		return unpack(filepath.Join(part, filepath.FromSlash(to)), content)
	})
	if err != nil {
		return out, err
	}
	if _, err := os.Lstat(filepath.Join(part, stateName)); err != nil {
		return out, errors.New("the backup holds no state.db")
	}
	if out.Config != "" && out.Manifest.Document != "" {
		out.Document = filepath.Join(out.Config, out.Manifest.Document)
	}
	if err := check(part); err != nil {
		return out, fmt.Errorf("what the backup holds cannot be used: %w", err)
	}
	if err := syncTree(part); err != nil {
		return out, err
	}
	if len(old) > 0 {
		out.Replaced = filepath.Join(dir, replacedPrefix+now.UTC().Format("20060102T150405Z"))
	}
	return out, exchange(dir, part, old, out.Replaced)
}

// exchange puts old aside and the content of part into its place, marked from the first step to the last.
func exchange(dir, part string, old []string, aside string) error {
	pending := filepath.Join(dir, pendingName)
	if err := os.WriteFile(pending, nil, 0o600); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	if aside != "" {
		if err := os.MkdirAll(aside, 0o700); err != nil {
			return err
		}
		for _, name := range old {
			if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
				return err
			}
		}
		if err := syncDir(aside); err != nil {
			return err
		}
	}
	fresh, err := os.ReadDir(part)
	if err != nil {
		return err
	}
	for _, e := range fresh {
		if err := os.Rename(filepath.Join(part, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	if err := os.Remove(pending); err != nil {
		return err
	}
	return syncDir(dir)
}

// occupants are the entries of dir that belong to an appliance. Sockets, locks and what earlier restores put aside do not count.
func occupants(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == "lock", name == pendingName, name == unpackName, name == "lost+found", strings.HasPrefix(name, replacedPrefix):
		case e.Type()&fs.ModeSocket != 0:
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

func unpack(path string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = syncDir(path)
		}
		return err
	})
}
