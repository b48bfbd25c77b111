package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"ringfence/appliance/admin"
	"ringfence/config"
)

const runHelp = `usage: ringfence run [--config FILE] [--state DIR] [--socket PATH] [--log-format text|json] [--log-level debug|info|warn|error]

Runs the daemon in the foreground and logs to standard error. SIGTERM and SIGINT stop it in order, with exit status 0; a second
one ends it at once; SIGHUP is ignored, ringfence config reload reads the file again. When it cannot start, it says why in one line and ends with 1.

  --config FILE     the declared document; ringfence config check FILE finds its faults. Without it the document in force is the
                    newest one that ringfence config apply has stored in the state directory
  --state DIR       keys, certificates and what users set; made when missing (` + defaultState + `)
  --socket PATH     control socket for the verbs
  --log-format      text or json (text)
  --log-level       debug, info, warn or error (info)
`

const placesHelp = `
The verbs ask a running daemon. Its control socket is --socket PATH, else $` + socketEnv + `, else ringfence.sock in --state DIR,
else ` + defaultSocket + `.
Exit status: 0 it worked, 1 the answer is no or nobody answered, 2 the command was wrong.
`

// help lists everything.
func (p *program) help(w io.Writer) {
	fmt.Fprint(w, "usage: ringfence [--socket PATH | --state DIR] COMMAND ...\n\n")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "  run\trun the daemon in the foreground\n")
	fmt.Fprint(tw, "  config check FILE\tfind every fault of a document\n")
	fmt.Fprint(tw, "  config example [--site]\ta document to begin with, for this machine alone or for a site\n")
	fmt.Fprint(tw, "  config schema, reference\tthe keys of the document, for an editor and for people\n")
	fmt.Fprint(tw, "  config edit\tchange the stored document in an editor\n")
	for _, v := range p.verbs {
		fmt.Fprintf(tw, "  %s\t%s\n", strings.TrimSpace(v.Name+" "+v.Args), v.Short)
	}
	fmt.Fprint(tw, "  restore FILE\tmake an appliance of a backup again\n")
	fmt.Fprint(tw, "  image keys, build, seed, boot\tmake the bootable image, and try it in QEMU\n")
	fmt.Fprint(tw, "  version\tprint the release\n")
	fmt.Fprint(tw, "  help [COMMAND]\tprint this, or more about one command\n")
	tw.Flush()
	fmt.Fprint(w, placesHelp)
}

func (p *program) helpOn(args []string) int {
	switch {
	case len(args) == 0:
		p.help(p.stdout)
		return admin.ExitOK
	case args[0] == "run" && len(args) == 1:
		fmt.Fprint(p.stdout, runHelp)
		return admin.ExitOK
	case len(args) == 2 && args[0] == "config" && args[1] == "edit":
		fmt.Fprint(p.stdout, editHelp)
		return admin.ExitOK
	case args[0] == "image":
		fmt.Fprint(p.stdout, imageHelp)
		return admin.ExitOK
	case args[0] == "config" && localConfig(args):
		return config.Command([]string{"help"}, p.stdout, p.stderr)
	case args[0] == "restore" && len(args) == 1:
		fmt.Fprint(p.stdout, restoreHelp)
		return admin.ExitOK
	case args[0] == "version" || args[0] == "help":
		p.help(p.stdout)
		return admin.ExitOK
	}
	v, rest, err := admin.Client{Verbs: p.verbs}.Find(args)
	if err != nil {
		return p.wrong("%v", err)
	}
	if len(rest) > 0 {
		return p.wrong("no verb %q; ringfence help lists them", strings.Join(args, " "))
	}
	admin.Help(p.stdout, v)
	return admin.ExitOK
}
