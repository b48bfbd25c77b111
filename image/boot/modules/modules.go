// Package modules finds and loads kernel modules without modprobe: the builder writes an index from what modules say about
// themselves, and the init role loads by name or by the alias that a device shows.
//
// The index is text, a module a line: file, name, dependencies, soft dependencies and aliases, separated by tabs, the lists by
// spaces. Modules stay compressed; the kernel unpacks and verifies them itself.
package modules

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Module is one kernel module.
type Module struct {
	File    string // in the folder of modules
	Name    string
	Deps    []string // names
	Soft    []string // names or aliases that should be there before
	Aliases []string // patterns of path.Match
}

// Index is every module of an image.
type Index []Module

// Name is a module's name as the kernel has it: without folder and endings, with _ for -.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// Sort brings the index into an order that does not depend on how it was made.
func (x Index) Sort() { sort.Slice(x, func(i, j int) bool { return x[i].Name < x[j].Name }) }

// Marshal writes the index.
func (x Index) Marshal() []byte {
	var b bytes.Buffer
	for _, m := range x {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\n", m.File, m.Name, strings.Join(m.Deps, " "), strings.Join(m.Soft, " "), strings.Join(m.Aliases, " "))
	}
	return b.Bytes()
}

// Parse reads an index.
func Parse(b []byte) (Index, error) {
	var x Index
	for i, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 5 {
			return nil, fmt.Errorf("index of modules: line %d has %d fields", i+1, len(f))
		}
		x = append(x, Module{File: f[0], Name: f[1], Deps: strings.Fields(f[2]), Soft: strings.Fields(f[3]), Aliases: strings.Fields(f[4])})
	}
	return x, nil
}

// Loader loads modules. Its methods may be called from several goroutines.
type Loader struct {
	log    *slog.Logger
	insert func(file string) error // gives the module to the kernel
	byName map[string]*Module
	exact  map[string][]*Module // by aliases without wildcards
	wild   []pattern            // sorted by prefix

	mu     sync.Mutex // guards the rest, and keeps loading in order
	loaded map[string]bool
	seen   map[string]bool // aliases of devices
}

type pattern struct {
	prefix, glob string
	module       *Module
}

// NewLoader makes a Loader. insert gets a file's name of the index.
func NewLoader(x Index, insert func(file string) error, log *slog.Logger) *Loader {
	l := &Loader{log: log, insert: insert, byName: map[string]*Module{}, exact: map[string][]*Module{}, loaded: map[string]bool{}, seen: map[string]bool{}}
	for i := range x {
		m := &x[i]
		l.byName[m.Name] = m
		for _, a := range m.Aliases {
			if at := strings.IndexAny(a, "*?["); at >= 0 {
				l.wild = append(l.wild, pattern{a[:at], a, m})
			} else {
				l.exact[a] = append(l.exact[a], m)
			}
		}
	}
	return l
}

// Load loads a module by its name or by an alias, with all that it needs. A module that is there already is no error.
func (l *Loader) Load(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loadLocked(name)
}

// loadLocked holds l.mu.
func (l *Loader) loadLocked(name string) error {
	if m := l.byName[Name(name)]; m != nil {
		return l.insertLocked(m)
	}
	var errs []error
	for _, m := range l.exact[name] {
		errs = append(errs, l.insertLocked(m))
	}
	if len(l.exact[name]) == 0 {
		return fmt.Errorf("module %s: not in this image", name)
	}
	return errors.Join(errs...)
}

// insertLocked holds l.mu.
func (l *Loader) insertLocked(m *Module) error {
	if l.loaded[m.Name] {
		return nil
	}
	l.loaded[m.Name] = true
	for _, s := range m.Soft {
		_ = l.loadLocked(s) // built into the kernel, or not needed on this machine
	}
	for _, d := range m.Deps {
		if dep := l.byName[d]; dep != nil {
			if err := l.insertLocked(dep); err != nil {
				return err
			}
		}
	}
	if err := l.insert(m.File); err != nil {
		return fmt.Errorf("module %s: %w", m.Name, err)
	}
	return nil
}

// Coldplug loads the modules for every alias, as devices show them, and returns how many aliases were new.
func (l *Loader) Coldplug(aliases []string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := 0
	for _, a := range aliases {
		if a == "" || l.seen[a] {
			continue
		}
		l.seen[a] = true
		fresh++
		for _, m := range l.matching(a) {
			if err := l.insertLocked(m); err != nil {
				l.log.Info("module not loaded", "alias", a, "err", err) // many drivers decline a device that is not theirs
			}
		}
	}
	return fresh
}

func (l *Loader) matching(alias string) []*Module {
	out := slices.Clone(l.exact[alias])
	for _, p := range l.wild {
		if !strings.HasPrefix(alias, p.prefix) || slices.Contains(out, p.module) {
			continue
		}
		if ok, err := filepath.Match(p.glob, alias); err == nil && ok {
			out = append(out, p.module)
		}
	}
	return out
}
