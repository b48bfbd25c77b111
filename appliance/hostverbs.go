package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/host"
	"ringfence/config"
	"ringfence/image/boot"
	"ringfence/internal/task"
)

// startHost puts the machine's network into the state that was last confirmed, before any listener needs an address of it.
func (a *appliance) startHost(ctx context.Context) error {
	o := host.Options{Dir: a.StateDir, Declared: func() host.Spec { return host.SpecOf(a.doc()) }, Needs: func() []host.Rule { return host.Needs(a.doc()) },
		Tunnel: a.doc().Node.Tunnel.Device, Log: a.log}
	if _, err := boot.ReadStatus(); err == nil {
		// In the image init has given every link an address. It leaves alone what is declared, and does what needs more rights.
		o.Own = func(ctx context.Context, links []string) error { return tellInit(ctx, "/links", links) }
		o.SetName = func(name string) error { return tellInit(context.Background(), "/hostname", name) }
		if r := a.source.Revisions(); r != nil {
			_, rev := r.Current()
			o.Present = rev.Comment == OfflineComment
		}
	}
	var err error
	if a.host, err = host.New(o); err != nil {
		return err
	}
	tasks := task.NewGroup(context.WithoutCancel(ctx), a.log)
	tasks.Go("host", func(ctx context.Context) {
		if err := a.host.Run(ctx); err != nil {
			a.log.Error("machine's network", "err", err)
		}
	})
	a.after("host", func() error { tasks.Stop(); return nil })
	select {
	case <-a.host.Begun():
	case <-ctx.Done():
	}
	return nil
}

func tellInit(ctx context.Context, path string, what any) error {
	b, err := json.Marshal(what)
	if err != nil {
		return err
	}
	_, err = askInit(ctx, path, bytes.NewReader(b))
	return err
}

// hostDiffers notes that a new document declares the machine's network otherwise.
func (e *Effect) hostDiffers(old, now *config.Document) {
	if !reflect.DeepEqual(host.SpecOf(old), host.SpecOf(now)) {
		e.Host = "the machine's network stays as it is until ringfence host apply"
	}
}

func hostVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "host show", Short: "the machine's network: links, addresses, firewall, and whether it is as declared", Print: printHost},
		{Name: "host apply", Short: "put node.host into force; it returns by itself unless host confirm follows", Change: true, Print: printText,
			Help: "Connections from before are judged by the new rules too, so that whoever locks himself out cannot confirm it by mistake.\n" +
				"A crash or a restart of the daemon before the confirmation returns too.",
			Flags: []admin.Flag{{Name: "within", Usage: "time for the confirmation, as 5m; node.host.confirm otherwise"}}},
		{Name: "host confirm", Short: "keep what host apply has changed", Change: true, Print: printText},
	}
}

func (a *appliance) hostHandlers() map[string]admin.Handler {
	return map[string]admin.Handler{"host show": a.hostShow, "host apply": a.hostApply, "host confirm": a.hostConfirm}
}

func (a *appliance) hostApply(ctx context.Context, r admin.Request) (any, error) {
	within := a.doc().Node.Host.Confirm.D()
	if text := r.Flags["within"]; text != "" {
		var err error
		if within, err = time.ParseDuration(text); err != nil || within < time.Second || within > time.Hour {
			return nil, admin.Usage("--within %s: a time from 1s to 1h, as 90s or 5m", text)
		}
	}
	_, err := a.host.Apply(ctx, within)
	if fault, ok := errors.AsType[*host.Fault](err); ok && fault.Path != "" {
		at, _ := a.doc().Position("node.host." + fault.Path)
		return nil, admin.Refuse("%s: %s\nnothing was changed: correct node.host.%s, or plug the interface in", at, fault.Why, fault.Path)
	}
	switch {
	case errors.Is(err, host.ErrSame):
		return say("what is declared is in force already; nothing was changed")
	case err != nil:
		return nil, admin.Refuse("%v", err)
	}
	return say("in force for %s: check that you still reach this machine, best with a new connection, then ringfence host confirm; without it everything returns", within)
}

func (a *appliance) hostConfirm(ctx context.Context, _ admin.Request) (any, error) {
	if err := a.host.Confirm(ctx); err != nil {
		return nil, admin.Refuse("%v", err)
	}
	return say("kept, for every start from now on")
}

func (a *appliance) hostShow(ctx context.Context, _ admin.Request) (any, error) {
	return a.host.Show(ctx)
}

func printHost(w io.Writer, answer json.RawMessage) error {
	var v host.View
	if err := json.Unmarshal(answer, &v); err != nil {
		return err
	}
	switch v.State {
	case host.StateOff:
		fmt.Fprintln(w, "nothing is declared under node.host; the machine's network is left alone")
	case host.StateConfirmed:
		fmt.Fprintln(w, "as declared, and confirmed")
	case host.StateDiffers:
		fmt.Fprintln(w, "not as declared: ringfence host apply puts node.host into force")
	case host.StateUnconfirmed:
		fmt.Fprintf(w, "as declared, not confirmed: it returns at %s unless ringfence host confirm follows\n", v.Until.Local().Format(time.TimeOnly))
	}
	if v.Returned != nil {
		fmt.Fprintf(w, "the last change returned at %s: %s\n", v.Returned.At.Local().Format(time.DateTime), v.Returned.Why)
	}
	if v.Problem != "" {
		fmt.Fprintln(w, "not in force:", v.Problem)
	}
	if len(v.Links) > 0 {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "\nLINK\tKIND\tCARRIER\tADDRESSES\tZONES")
		for _, l := range v.Links {
			carrier, addresses := "no", strings.Join(l.Addresses, " ")
			if l.Up {
				carrier = "yes"
			}
			if l.DHCP != "" {
				addresses = strings.TrimSpace(addresses + " (DHCP: " + l.DHCP + ")")
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", l.Name, l.Kind, carrier, orDash(addresses), orDash(strings.Join(l.Zones, " ")))
		}
		tw.Flush()
	}
	if len(v.DNS) > 0 {
		fmt.Fprintf(w, "\nnames are asked of %s\n", strings.Join(v.DNS, ", "))
	}
	if len(v.Firewall) > 0 {
		fmt.Fprintf(w, "\nfirewall: %d packets to this machine and %d through it were refused; open are\n", v.Denied, v.Stopped)
		for _, r := range v.Firewall {
			fmt.Fprintln(w, " ", r)
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
