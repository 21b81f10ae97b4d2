package config

import "io/fs"

// Source is the text of a configuration: of its file, and of the files that this includes. It holds
// secrets as the files do.
type Source struct {
	// Exists says that there is a file; without one Text is empty.
	Exists bool
	Text   []byte
	// Includes are by absolute path, as the including file names them.
	Includes map[string][]byte
}

// Source is what the configuration was read from. It may not be changed.
func (c *Config) Source() Source { return *c.source }

// read returns the text of the main file.
func (o Options) read(path string) ([]byte, error) {
	switch {
	case o.Source == nil:
		return readFile(path, maxFileBytes)
	case !o.Source.Exists:
		return nil, fs.ErrNotExist
	}
	return o.Source.Text, nil
}

// include returns the text of an included file. One that is not there is read from the disk.
func (s *Source) include(path string) ([]byte, bool) {
	if s == nil {
		return nil, false
	}
	text, ok := s.Includes[path]
	return text, ok
}
