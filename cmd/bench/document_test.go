package main

import (
	"testing"

	"ringfence/config"
)

// TestDocument holds the generated documents against the daemon's own checks.
func TestDocument(t *testing.T) {
	for name, s := range map[string]site{
		"encrypted phones": {phones: 300, secure: true, rsa: 10},
		"clear and lines":  {phones: 300, lines: 40},
		"tunnel":           {tunnels: true, stream: streamAddress},
	} {
		t.Run(name, func(t *testing.T) {
			doc, _, err := config.Parse("bench.yaml", []byte(s.document()))
			if err != nil {
				t.Fatal(err)
			}
			if len(doc.Phones) != s.phones || len(doc.Lines) != s.phones+s.lines {
				t.Errorf("%d phones, %d lines", len(doc.Phones), len(doc.Lines))
			}
		})
	}
}
