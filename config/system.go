package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// system is what a document may reach outside its own text: files that it includes, files and variables that hold secrets.
type system struct {
	read   func(name string, limit int64) ([]byte, error)
	glob   func(pattern string) ([]string, error)
	getenv func(name string) (string, bool)
	stored bool // the document is a stored revision, which has no folder and includes nothing
}

func realSystem() system {
	return system{read: readRegular, glob: filepath.Glob, getenv: os.LookupEnv}
}

// readRegular reads a whole file of at most limit bytes. Anything but a regular file is refused before it is read, so that
// a document that names a pipe or a device cannot hold up the daemon.
func readRegular(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a folder")}
	case !st.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("has more than %d bytes", limit)}
	}
	return data, err
}

// reason is an error of the file system in the words of a message: the path and what is the matter with it.
func reason(err error) string {
	var pe *fs.PathError
	switch {
	case !errors.As(err, &pe):
		return err.Error()
	case errors.Is(err, fs.ErrNotExist):
		return pe.Path + " does not exist"
	case errors.Is(err, fs.ErrPermission):
		return pe.Path + " may not be read"
	}
	return pe.Path + " " + pe.Err.Error()
}
