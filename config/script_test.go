package config

import (
	"strings"
	"testing"
)

// TestScriptFaultsHaveTheirLine: a fault in a block of text is told where it stands in the file.
func TestScriptFaultsHaveTheirLine(t *testing.T) {
	text := site + `rules:
  - match: "30X"
    script: |
      # evening
      def route(call):
          if call.time.hour >= 18:
              return opne('x')
`
	_, _, err := Parse("test.yaml", []byte(text))
	list, ok := err.(Errors)
	if !ok || len(list) != 1 {
		t.Fatalf("%v", err)
	}
	e := list[0]
	line := strings.Count(text[:strings.Index(text, "opne")], "\n") + 1
	column := strings.Index(strings.Split(text, "\n")[line-1], "opne") + 1
	if e.Line != line || e.Column != column || e.Message != "undefined: opne" || e.Path != "rules[0].script" || e.Hint == "" {
		t.Errorf("%+v, want line %d, column %d", e, line, column)
	}
}
