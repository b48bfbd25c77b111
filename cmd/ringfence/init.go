package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"ringfence/appliance"
	"ringfence/appliance/admin"
	"ringfence/appliance/phone"
	"ringfence/config"
	"ringfence/image/boot"
)

// initRole is PID 1 of the image. It does not return.
func initRole() {
	w := watcher{client: admin.Client{Socket: boot.DaemonSock, Verbs: appliance.Verbs()}}
	boot.Run(boot.Options{Version: appliance.Version, Ask: w.ask, Address: declaredAddress})
}

// watcher asks the daemon how it is, on behalf of init.
type watcher struct {
	client     admin.Client
	registered []string
	listed     time.Time
}

// listEvery bounds how often every phone is asked for: with thousands that is work.
const listEvery = 5 * time.Second

func (w *watcher) ask(ctx context.Context, _ string) (boot.DaemonStatus, error) {
	var st admin.StatusInfo
	if err := w.verb(ctx, "status", &st); err != nil {
		return boot.DaemonStatus{}, err
	}
	d := boot.DaemonStatus{Name: st.Appliance, Address: st.Address, Phones: st.Phones.Declared, Warnings: st.Warnings, CA: st.Authority}
	for _, s := range st.Services {
		if !s.Up {
			text := s.Name
			if s.Error != "" {
				text += " (" + s.Error + ")"
			}
			d.Down = append(d.Down, text)
		}
	}
	if st.Phones.Registered == 0 {
		w.registered = nil
		return d, nil
	}
	if time.Since(w.listed) > listEvery {
		var all []admin.PhoneInfo
		if err := w.verb(ctx, "phone list", &all); err != nil {
			return d, err
		}
		w.registered, w.listed = nil, time.Now()
		for _, p := range all {
			if p.Declared && p.State == phone.StateRegistered {
				w.registered = append(w.registered, p.Device)
			}
		}
	}
	d.Registered = w.registered
	return d, nil
}

func (w *watcher) verb(ctx context.Context, name string, into any) error {
	i := slices.IndexFunc(w.client.Verbs, func(v admin.Verb) bool { return v.Name == name })
	if i < 0 {
		return errors.New("this program has no verb " + name)
	}
	b, err := w.client.Do(ctx, w.client.Verbs[i], admin.Request{})
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// declaredAddress checks a document and tells the address that it gives the appliance.
func declaredAddress(document []byte) (string, error) {
	d, _, err := config.ParseStored("ringfence.yaml", document)
	if err != nil {
		return "", err
	}
	return d.Node.Address.String(), nil
}
