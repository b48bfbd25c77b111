package config

import "slices"

// Files names every file that the document at path is made of: itself, what it includes, and the files of its secrets. A copy
// of them is a copy of the configuration. A file that cannot be read is missing from the list; Load tells about it.
func Files(path string) []string {
	data, err := readRegular(path, maxFileBytes)
	if err != nil {
		return nil
	}
	return append([]string{path}, filesOf(path, data, false)...)
}

// StoredFiles names the files of secrets that the document of a stored revision reads.
func StoredFiles(data []byte) []string { return filesOf("stored", data, true) }

func filesOf(name string, data []byte, stored bool) (files []string) {
	sys := realSystem()
	sys.stored = stored
	sys.read = func(name string, limit int64) ([]byte, error) {
		data, err := readRegular(name, limit)
		if err == nil && !slices.Contains(files, name) {
			files = append(files, name)
		}
		return data, err
	}
	_, _, _ = parse(name, data, sys)
	return files
}
