package config

import (
	"strings"
	"testing"
)

func TestShownTextHidesSecrets(t *testing.T) {
	for name, text := range map[string]string{
		"plain":               minimal + "users:\n  - id: a\n    password: " + hunter + "\n",
		"with a comment":      minimal + "users:\n  - id: a\n    password: " + hunter + " # mine\n",
		"double quotes":       minimal + "users:\n  - id: a\n    password: \"a\\\"" + hunter + "\"\n",
		"single quotes":       minimal + "users:\n  - id: a\n    password: 'a''" + hunter + "' # mine\n",
		"braces":              minimal + "users: [{id: a, password: \"" + hunter + "\", name: A}, {id: b, password: " + hunter + "}]\n",
		"quoted key":          minimal + "users: [{\"id\": a, \"password\": \"" + hunter + "\"}]\n",
		"anchor":              minimal + "users: [{id: a, name: &p " + hunter + "}, {id: b, password: *p}]\n",
		"merge":               minimal + "users: [&u {id: a, password: " + hunter + "}, {<<: *u, id: b}]\n",
		"carriage returns":    strings.ReplaceAll(minimal+"users:\n  - id: a\n    password: "+hunter+"\n", "\n", "\r\n"),
		"wide characters":     minimal + "users: [{name: \"Bürö ☎\", password: \"" + hunter + "\", id: a}]\n",
		"comment":             minimal + "# old password: " + hunter + "\n",
		"misspelt":            minimal + "users: [{id: a, pasword: " + hunter + "}]\n",
		"unknown key":         minimal + "users: [{id: a, geheim: " + hunter + "}]\n",
		"wrong kind":          minimal + "users: [{id: a, password: {text: " + hunter + "}}]\n",
		"not YAML":            minimal + "users: [{id: a, password: " + hunter + "\n",
		"another section":     minimal + "phones: [{device: SEP001122AA0001, model: 8851, password: " + hunter + ", capf_code: \"" + hunter + "\"}]\nlines: [{number: \"1\", password: " + hunter + "}]\n",
		"two in a line":       minimal + "users: [{id: a, password: \"" + hunter + "\", pin: \"" + hunter + "\"}]\n",
		"reference to a file": minimal + "users: [{id: a, password: {file: /etc/secret}}, {id: b, password: " + hunter + "}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			shown := strings.Join(redactable("t", []byte(text)).redactedText(), "\n")
			if strings.Contains(shown, hunter) {
				t.Errorf("shown:\n%s", shown)
			}
			if !strings.Contains(shown, "192.0.2.10") || strings.Count(shown, "\n") != strings.Count(text, "\n") {
				t.Errorf("more than secrets is hidden:\n%s", shown)
			}
		})
	}
	shown := strings.Join(redactable("t", []byte(minimal+"users:\n  - id: a\n    password: {env: NAME} # from there\n    pin: \"1234\" # four\n")).redactedText(), "\n")
	if !strings.Contains(shown, "password: {env: NAME} # from there") || !strings.Contains(shown, "pin: [redacted] # four") {
		t.Errorf("shown:\n%s", shown)
	}
}
