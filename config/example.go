package config

import (
	_ "embed"
	"slices"
)

//go:embed example.yaml
var example []byte

//go:embed example-site.yaml
var exampleSite []byte

// Example is a document that runs unprivileged on the loopback address of any machine.
func Example() []byte { return slices.Clone(example) }

// ExampleSite is a document for a small site with real phones, on the ports that they ask for.
func ExampleSite() []byte { return slices.Clone(exampleSite) }
