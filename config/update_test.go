package config

import (
	"strings"
	"testing"
	"time"
)

func TestUpdate(t *testing.T) {
	const head = "node:\n  address: 192.0.2.1\n  update:\n"
	d, _, err := Parse("t.yaml", []byte(head+"    url: https://www.example.net/ringfence-amd64.rfu\n"))
	if err != nil || d.Node.Update.Every.D() != 24*time.Hour {
		t.Fatalf("%v, %v", d, err)
	}
	for _, bad := range []string{"    url: ftp://www.example.net/x\n", "    every: 1s\n"} {
		if _, _, err := Parse("t.yaml", []byte(head+bad)); err == nil || !strings.Contains(err.Error(), "t.yaml:4:1") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
