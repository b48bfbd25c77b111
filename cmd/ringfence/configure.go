package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/appliance"
	"ringfence/appliance/admin"
)

// configure runs the config verbs that concern a stored configuration. They go to the daemon; while none runs, apply writes the
// next revision into the state directory itself, which is how a new appliance gets its first one.
func (p *program) configure(g places, args []string) int {
	client := admin.Client{Socket: p.socket(g), Verbs: p.verbs}
	switch {
	case args[1] == "edit" && len(args) == 2:
		return p.edit(client)
	case args[1] == "edit" && (args[2] == "--help" || args[2] == "-h"):
		fmt.Fprint(p.stdout, editHelp)
		return admin.ExitOK
	case args[1] == "edit":
		return p.wrong("config edit takes no %q", args[2])
	case args[1] == "apply" && len(args) > 2 && g.state != "" && !client.Answers():
		return p.applyOffline(g.state, args[2:])
	}
	return client.Command(args, p.stdout, p.stderr)
}

func (p *program) applyOffline(state string, args []string) int {
	for _, a := range args {
		if a == "--help" || a == "-h" {
			return admin.Client{Verbs: p.verbs}.Command([]string{"config", "apply", a}, p.stdout, p.stderr)
		}
	}
	if len(args) != 1 || args[0] == "" || args[0][0] == '-' {
		return p.wrong("no daemon runs on %s, and then config apply takes one FILE and no flag", state)
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return p.broken(err)
	}
	author := "unknown"
	if u, err := user.Current(); err == nil {
		author = u.Username
	}
	revision, diff, err := appliance.ApplyOffline(context.Background(), state, author, appliance.OfflineComment, data)
	if err != nil {
		return p.broken(err)
	}
	fmt.Fprintf(p.stdout, "%s%s\n", diff, revision)
	return admin.ExitOK
}

const editHelp = `usage: ringfence config edit

Opens the stored document in $VISUAL, else $EDITOR, else vi, checks what comes back and makes it the next revision. With a fault
nothing is changed and the text is kept. The text holds secrets: it lies in a folder that only you can read, and is removed.
`

// edit opens the stored configuration in an editor and applies what comes back.
func (p *program) edit(client admin.Client) int {
	editor := p.getenv("VISUAL")
	if editor == "" {
		editor = p.getenv("EDITOR")
	}
	if editor == "" {
		if !p.terminal() {
			return p.wrong("config edit needs a terminal, or an editor in $VISUAL or $EDITOR; a script takes config show --raw and config apply FILE")
		}
		editor = "vi"
	}
	// An editor looks after Ctrl-C itself. Any other end of this program takes the text with it.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	signal.Ignore(os.Interrupt)
	defer signal.Reset(os.Interrupt)
	text, err := p.ask(client, "config show", admin.Request{Flags: map[string]string{"raw": "true"}})
	if err != nil {
		return p.broken(err)
	}
	dir, err := os.MkdirTemp("", "ringfence-edit-")
	if err != nil {
		return p.broken(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "ringfence.yaml") // in a folder that is ours alone: it holds secrets
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return p.broken(err)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "edit", name)
	cmd.WaitDelay = time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, p.stdout, p.stderr
	if err := cmd.Run(); err != nil {
		return p.broken(fmt.Errorf("%s: %w; nothing was changed", editor, err))
	}
	edited, err := os.ReadFile(name)
	if err != nil {
		return p.broken(err)
	}
	if bytes.Equal(edited, []byte(text)) {
		fmt.Fprintln(p.stdout, "nothing was changed")
		return admin.ExitOK
	}
	if code := client.Command([]string{"config", "apply", name, "--comment", "edited"}, p.stdout, p.stderr); code != admin.ExitOK {
		kept := filepath.Join(os.TempDir(), fmt.Sprintf("ringfence-edit-%d.yaml", os.Getpid()))
		if err := os.WriteFile(kept, edited, 0o600); err == nil {
			fmt.Fprintf(p.stderr, "ringfence: nothing was changed; your text is kept in %s\n", kept)
		}
		return code
	}
	return admin.ExitOK
}

// stdinTerminal tells whether somebody sits at standard input.
func stdinTerminal() bool {
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	return err == nil
}

// ask returns a text answer of a verb.
func (p *program) ask(client admin.Client, verb string, req admin.Request) (string, error) {
	for _, v := range client.Verbs {
		if v.Name != verb {
			continue
		}
		answer, err := client.Do(context.Background(), v, req)
		if err != nil {
			return "", err
		}
		var text struct {
			Text string `json:"text"`
		}
		return text.Text, json.Unmarshal(answer, &text)
	}
	return "", errors.New("this program has no verb " + verb)
}

func (p *program) broken(err error) int {
	fmt.Fprintf(p.stderr, "ringfence: %v\n", err)
	return admin.ExitError
}
