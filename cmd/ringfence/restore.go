package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"ringfence/appliance"
	"ringfence/appliance/admin"
)

const restoreHelp = `usage: ringfence --state DIR restore FILE [--passphrase-file FILE] [--replace] [--check] [--json]

Makes DIR the state directory of the appliance that wrote the backup: the same keys and certificates, so that its phones go on
trusting it. No daemon may run on DIR. Nothing is changed before the whole backup was read and opened.

  --passphrase-file FILE   file whose first line is the passphrase; else $RINGFENCE_PASSPHRASE, else it is asked for
  --replace                DIR holds an appliance already: put it aside, into a folder of DIR
  --check                  only read the backup to its end and open what it holds

An appliance and its restored copy must never run at the same time.
`

// restore is local: there is no daemon yet.
func (p *program) restore(g places, args []string) int {
	fs := flag.NewFlagSet("restore", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	passphrase := fs.String("passphrase-file", "", "")
	replace := fs.Bool("replace", false, "")
	check := fs.Bool("check", false, "")
	asJSON := fs.Bool("json", false, "")
	var file string
	for len(args) > 0 { // flags may stand before and after the file
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(p.stdout, restoreHelp)
			return admin.ExitOK
		} else if err != nil {
			return p.wrong("restore: %v; ringfence help restore lists the flags", err)
		}
		if args = fs.Args(); len(args) == 0 {
			break
		}
		if file != "" {
			return p.wrong("restore takes one file, and %q is another", args[0])
		}
		file, args = args[0], args[1:]
	}
	if file == "" {
		return p.wrong("restore: which backup? ringfence help restore")
	}
	secret, err := admin.Passphrase(*passphrase, admin.Ask)
	if err != nil {
		return p.broken(err)
	}
	state := g.state
	if state == "" {
		state = defaultState
	}
	do := func() (any, string, error) {
		if *check {
			r, err := appliance.CheckBackup(file, secret)
			return r.Manifest, fmt.Sprintf("%s is whole: %s of %s, release %s, %d files\n", file, r.Appliance, r.Created.Format(time.RFC3339), r.Version, len(r.Files)), err
		}
		r, err := appliance.Restore(file, state, secret, *replace)
		text := fmt.Sprintf("%s is %s as of %s\n", state, r.Appliance, r.Created.Format(time.RFC3339))
		if r.Replaced != "" {
			text += "what was there before is in " + r.Replaced + "\n"
		}
		switch {
		case r.Document != "":
			text += "its configuration lies in " + r.Document + ": put it where it belongs, check the addresses under node:, and start with run --config\n"
		default:
			text += "its configuration is stored; start with ringfence run\n"
		}
		return r, text, err
	}
	answer, text, err := do()
	if err != nil {
		return p.broken(err)
	}
	if *asJSON {
		if err := json.NewEncoder(p.stdout).Encode(answer); err != nil {
			return p.broken(err)
		}
		return admin.ExitOK
	}
	fmt.Fprint(p.stdout, text)
	return admin.ExitOK
}

// backupOffline writes a backup of a state directory that no daemon works on.
func (p *program) backupOffline(g places, args []string) int {
	fs := flag.NewFlagSet("backup", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	passphrase := fs.String("passphrase-file", "", "")
	document := fs.String("config", "", "")
	var file string
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return p.wrong("without a daemon: ringfence --state DIR backup FILE [--config FILE] [--passphrase-file FILE]")
		}
		if args = fs.Args(); len(args) == 0 {
			break
		}
		file, args = args[0], args[1:]
	}
	if file == "" {
		return p.wrong("without a daemon: ringfence --state DIR backup FILE [--config FILE] [--passphrase-file FILE]")
	}
	secret, err := admin.Passphrase(*passphrase, admin.AskTwice)
	if err != nil {
		return p.broken(err)
	}
	b, err := appliance.BackupOffline(g.state, *document, file, secret)
	if err != nil {
		return p.broken(err)
	}
	fmt.Fprintf(p.stdout, "%s: %d bytes\n", b.File, b.Bytes)
	return admin.ExitOK
}
