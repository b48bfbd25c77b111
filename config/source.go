package config

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

var errNotRead = errors.New("not read")

// ErrReadOnly is returned by whatever would change a configuration that is a file.
var ErrReadOnly = errors.New("the configuration is not changed from here")

// Source is the one authority for the configuration of an appliance: a file that the administrator edits, or the stored
// revisions.
type Source struct {
	path string
	revs *Revisions
}

// FileSource makes the file at path the authority.
func FileSource(path string) *Source {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return &Source{path: path}
}

// StoredSource makes the stored revisions the authority.
func StoredSource(r *Revisions) *Source { return &Source{revs: r} }

// Load gives the document in force: the file as it is now, or the newest revision.
func (s *Source) Load() (*Document, []Notice, error) {
	if s.revs == nil {
		return Load(s.path)
	}
	d, _ := s.revs.Current()
	if d == nil {
		return nil, nil, ErrNoRevision
	}
	return d, s.revs.Notices(), nil
}

// Path is the file, or empty where revisions are the authority.
func (s *Source) Path() string { return s.path }

// Revisions are the stored ones, or nil where a file is the authority.
func (s *Source) Revisions() *Revisions { return s.revs }

// ReadOnly is nil where the configuration can be changed by Apply. Otherwise it says what to do instead.
func (s *Source) ReadOnly() error {
	if s.revs != nil {
		return nil
	}
	return fmt.Errorf("%w: it is the file %s; edit that file, check it with \"ringfence config check %s\", then reload or restart", ErrReadOnly, s.path, s.path)
}

// Apply stores the next revision, as Revisions.Apply does.
func (s *Source) Apply(ctx context.Context, author, text string, data []byte) (Revision, string, error) {
	if err := s.ReadOnly(); err != nil {
		return Revision{}, "", err
	}
	return s.revs.Apply(ctx, author, text, data)
}

// String names the authority.
func (s *Source) String() string {
	if s.revs == nil {
		return "file " + s.path
	}
	if d, rev := s.revs.Current(); d != nil {
		return rev.String()
	}
	return "no stored configuration"
}
