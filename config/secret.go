package config

import (
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// Secret is a password or code. It prints as [redacted] in every format, also inside other values; use Reveal where it is
// needed. Two Secrets of the same text are equal under ==.
type Secret struct {
	// A handle, not a string: package fmt prints the unexported fields of structs that hold a Secret without asking its
	// methods, and must find nothing but an address there.
	value unique.Handle[string]
	from  string // file:PATH or env:NAME, if it came from there
}

// NewSecret makes a Secret.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{value: unique.Make(s)}
}

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.Empty() {
		return ""
	}
	return s.value.Value()
}

// Empty tells whether nothing was declared.
func (s Secret) Empty() bool { return s.value == unique.Handle[string]{} }

// From tells where a Secret was taken from, file:PATH or env:NAME; empty if it stands in the document itself.
func (s Secret) From() string { return s.from }

// Equal compares without showing.
func (s Secret) Equal(o Secret) bool { return s.value == o.value }

// String hides the secret.
func (s Secret) String() string { return redacted }

// GoString hides the secret.
func (s Secret) GoString() string { return redacted }

// Format hides the secret under every verb of package fmt.
func (s Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON hides the secret.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML hides the secret.
func (s Secret) MarshalYAML() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
