package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/sip/call"
	"ringfence/sip/feature/mailbox"
	"ringfence/sip/plan"
)

// setupMailboxes gives calls somewhere to go that nobody takes, and serves the numbers of built-in services.
func (a *appliance) setupMailboxes(o *call.Options) error {
	a.restoreMessages()
	var err error
	a.boxes, err = mailbox.New(context.Background(), mailbox.Options{
		Dir: filepath.Join(a.StateDir, "voicemail"), Store: a.store, Messages: a.sip.State().SetMessages, PIN: a.pinOf, Room: a.space.Room, Log: a.log,
	})
	if err != nil {
		return err
	}
	o.Numbers[plan.Mailbox] = a.boxes.Deposit
	o.Numbers[plan.Built] = func(c *call.Call, n plan.Object) {
		switch n.Name {
		case "voicemail":
			a.boxes.Retrieve(c, n)
		case "echo test":
			mailbox.Echo(c, n)
		default:
			a.log.Info("number is not served", "dialled", n.Number, "service", n.Name)
			c.Refuse(503)
		}
	}
	return nil
}

// pinOf is the PIN of the owner of a line.
func (a *appliance) pinOf(line string) string {
	l, ok := a.doc().Line(line)
	if !ok {
		return ""
	}
	u, ok := a.doc().User(l.User)
	if !ok {
		return ""
	}
	return u.PIN.Reveal()
}

func voicemailVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "voicemail list", Args: "[NUMBER]", Max: 1, Short: "the messages of a mailbox, or of all", Print: printMessages},
		{Name: "voicemail delete", Args: "NUMBER MESSAGE", Min: 2, Max: 2, Short: "delete a message", Change: true, Print: printText},
	}
}

func (a *appliance) voicemailHandlers() map[string]admin.Handler {
	return map[string]admin.Handler{"voicemail list": a.voicemailList, "voicemail delete": a.voicemailDelete}
}

func (a *appliance) voicemailList(_ context.Context, r admin.Request) (any, error) {
	numbers := a.boxes.Numbers()
	if len(r.Args) == 1 {
		numbers = r.Args
	}
	out := []mailbox.Message{}
	for _, n := range numbers {
		out = append(out, a.boxes.List(n)...)
	}
	return out, nil
}

func printMessages(w io.Writer, answer json.RawMessage) error {
	var all []mailbox.Message
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no message")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MAILBOX\tMESSAGE\tFROM\tLEFT\tLENGTH\tHEARD")
	for _, m := range all {
		heard := "no"
		if m.Heard {
			heard = "yes"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Box, m.ID, m.From+" "+m.Name, m.At.Local().Format("2006-01-02 15:04:05"),
			time.Duration(m.Seconds*float64(time.Second)).Round(time.Second), heard)
	}
	return tw.Flush()
}

func (a *appliance) voicemailDelete(ctx context.Context, r admin.Request) (any, error) {
	for _, m := range a.boxes.List(r.Args[0]) {
		if m.ID == r.Args[1] {
			if err := a.boxes.Delete(ctx, m.Box, m.ID); err != nil {
				return nil, admin.Refuse("message %s: %v", m.ID, err)
			}
			return say("message %s of %s is deleted", m.ID, m.Box)
		}
	}
	return nil, admin.Refuse("mailbox %s has no message %s; ringfence voicemail list shows them", r.Args[0], r.Args[1])
}
