package trustadmin

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"slices"
	"strings"

	"ringfence/appliance/admin"
	"ringfence/appliance/provision"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// RecoverInfo is the answer to trust recover: what is known of the phone's trust, and what to do, in the order of trying.
type RecoverInfo struct {
	Device string   `json:"device"`
	Model  string   `json:"model"`
	Known  []string `json:"known"`
	Steps  []string `json:"steps"`
	// Leads is the signer of another system by whose key the phone is led over at its next start.
	Leads string `json:"leads,omitempty"`
}

func (k *Keeper) recover(_ context.Context, r admin.Request) (any, error) {
	p, err := k.declared(r.Args[0])
	if err != nil {
		return nil, err
	}
	answer := RecoverInfo{Device: p.Device, Model: p.Model, Known: k.known(p.Device)}
	if list := r.Flags["list"]; list != "" {
		b, err := admin.Carried(list)
		if err != nil {
			return nil, err
		}
		l, err := tlv.Parse(b)
		if err == nil {
			err = l.Verify(l.Filename)
		}
		if err != nil {
			return nil, admin.Refuse("that is no trust list that a phone holds: %v", err)
		}
		err = k.recoverFrom(&answer, l)
		return answer, err
	}
	if len(k.foreign.Load().signers) > 0 {
		if err := k.files.LeadWith(p.Device, ""); err != nil {
			return nil, err
		}
		if c := k.files.Led(p.Device); c != nil {
			answer.Leads = c.Subject.CommonName
		}
		answer.Steps = append(answer.Steps, fmt.Sprintf("restart the phone up to %d times: its next lists are signed by the keys of other systems that pki.trusted names, one after the other; "+
			"ringfence trust show %s tells when it has come over", len(k.foreign.Load().signers), p.Device))
	}
	answer.Steps = append(answer.Steps,
		"find out whose list the phone holds: copy ITL"+p.Device+".tlv or ITLFile.tlv from the server that it used before (tftp, or HTTP port 6970), then "+
			"ringfence trust recover "+p.Device+" --list FILE says what helps",
		"the other system is Ringfence and runs: there, ringfence trust release "+p.Device+" --reason \"moves\", and wait until the phone has restarted",
		"the other system is Ringfence and is lost: ringfence trust restore with its exported recovery key, before this appliance has phones of its own",
		"the other system is a call manager that runs: have it publish an empty list (parameter \"Prepare Cluster for Rollback to pre 8.0\", then restart its TVS and TFTP services), "+
			"restart the phone there once, then bring it here")
	answer.Steps = append(answer.Steps, byHand(p)...)
	return answer, nil
}

// recoverFrom says what helps a phone that holds a known list, and does what can be done from here.
func (k *Keeper) recoverFrom(answer *RecoverInfo, l *tlv.List) error {
	ours, _, err := k.files.List("")
	if err != nil {
		return err
	}
	own, err := tlv.Parse(ours)
	if err != nil {
		return fmt.Errorf("trust list: %w", err)
	}
	sast := l.Certificates(trust.SAST)
	var names []string
	for _, c := range sast {
		names = append(names, c.Subject.CommonName)
	}
	answer.Known = append(answer.Known, fmt.Sprintf("that list was signed on %s by %s, and takes a next one from %s", when(l.Time), l.SignerName, strings.Join(names, " or ")))
	p, ok := k.o.Doc().Phone(answer.Device)
	if !ok {
		return provision.ErrNotFound
	}
	if tlv.Continues(l, own) == nil {
		answer.Steps = []string{"restart the phone: it takes this appliance's list"}
		return nil
	}
	again := "restart the phone: it gets a list signed by %s, which it takes, and this appliance's own at the start after that"
	if k.leadsBack(l) {
		answer.Steps = []string{fmt.Sprintf(again, "a signer of before that this appliance still has")}
		return nil
	}
	for _, s := range k.foreign.Load().signers {
		if slices.ContainsFunc(sast, func(c *x509.Certificate) bool { return c.Equal(s.Cert) }) {
			if err := k.files.LeadWith(p.Device, provision.CertID(s.Cert)); err != nil {
				return err
			}
			answer.Leads = s.Cert.Subject.CommonName
			answer.Steps = []string{fmt.Sprintf(again, s.Cert.Subject.CommonName+" ("+s.Name+")")}
			return nil
		}
	}
	answer.Steps = append(answer.Steps,
		"if you have the private key of "+strings.Join(names, " or of ")+": put it and its certificate into one PEM file that only root can read, name it under pki.trusted with roles: [SAST], "+
			"ringfence config reload, and give this order again",
		"if one of them is the recovery key of another Ringfence: ringfence trust restore with its exported file, before this appliance has phones of its own",
		"if that system still runs: let it vouch for this appliance's signer in its TVS with the role SAST (ringfence trust export writes the certificate), or let it publish an empty list, then restart the phone there once")
	answer.Steps = append(answer.Steps, byHand(p)...)
	return nil
}

// known says what this appliance has seen of a phone's trust.
func (k *Keeper) known(device string) []string {
	var out []string
	switch l, ok := k.files.FetchedList(device); {
	case !ok:
		out = append(out, "it never fetched a trust list here")
	case l.Current:
		out = append(out, "it fetched the present trust list on "+when(l.At)+"; whether it took it, phones do not say")
	default:
		out = append(out, "it fetched an older trust list on "+when(l.At))
	}
	if cert, ok := k.o.Authority.CurrentLSC(device); ok {
		out = append(out, "it has enrolled here: its certificate is good until "+cert.NotAfter.Format("2006-01-02"))
	} else {
		out = append(out, "it has no certificate of this appliance")
	}
	if k.o.Registered != nil {
		if k.o.Registered(device) {
			out = append(out, "it is registered here, so that it does trust this appliance, or needs no trust list")
		} else {
			out = append(out, "it is not registered here")
		}
	}
	if r, ok := k.files.Released(device); ok {
		out = append(out, "it was given away by "+r.By+" on "+when(r.At)+": "+r.Text+"; ringfence trust release "+device+" --undo takes that back")
	}
	return out
}

// byHand is what somebody has to do at the phone when nothing else helps (provisioning.md §1.3), by model.
func byHand(p *config.Phone) []string {
	erase := "at the phone: Settings, (Admin Settings), Security, Trust List, ITL File, unlock with **#, Erase"
	last := "last, the factory reset: hold # while the power comes until the line keys blink, then 123456789*0#; the phone loses its certificate too, so that ringfence cert enroll " +
		p.Device + " has to let it in again"
	m, _ := config.Model(p.Model)
	switch {
	case p.Model == "8941" || p.Model == "8945" || m.Series == "6900":
		erase = "at the phone: Settings, Administrator Settings, Reset Settings, Security Settings (this model has no entry for the list alone)"
	case m.Series == "7900":
		last += "; a phone of this series then asks for its firmware (term" + p.Model[2:] + ".default.loads), which must be on the server"
	}
	return []string{erase, last}
}

func printRecover(w io.Writer, i RecoverInfo) {
	fmt.Fprintf(w, "phone %s, model %s\n", i.Device, i.Model)
	for _, s := range i.Known {
		fmt.Fprintf(w, "  %s\n", clean(s))
	}
	if i.Leads != "" {
		fmt.Fprintf(w, "its next list is signed by %s\n", clean(i.Leads))
	}
	fmt.Fprintln(w, "what to do, in this order, until one helps:")
	for n, s := range i.Steps {
		fmt.Fprintf(w, "%3d. %s\n", n+1, clean(s))
	}
}

// ReleasedInfo is the answer to trust release.
type ReleasedInfo struct {
	Devices []string `json:"devices"`
	Told    []string `json:"told"` // to restart
	Undone  bool     `json:"undone"`
}

func (k *Keeper) release(ctx context.Context, r admin.Request) (any, error) {
	all, undo, reason := r.Flags["all"] != "", r.Flags["undo"] != "", strings.TrimSpace(r.Flags["reason"])
	switch {
	case all == (len(r.Args) == 1):
		return nil, admin.Usage("trust release: either DEVICE or --all")
	case !undo && reason == "":
		return nil, admin.Usage("trust release: --reason is missing: the phone works here no more from its next start")
	}
	var devices []string
	if all {
		for _, p := range k.o.Doc().Phones {
			devices = append(devices, p.Device)
		}
	} else {
		p, err := k.declared(r.Args[0])
		if err != nil {
			return nil, err
		}
		devices = append(devices, p.Device)
	}
	answer := ReleasedInfo{Devices: []string{}, Told: []string{}, Undone: undo}
	for _, d := range devices {
		_, gone := k.files.Released(d)
		if gone != undo {
			continue
		}
		var err error
		if undo {
			err = k.files.Keep(d)
		} else {
			err = k.files.Release(d, by(r), reason)
		}
		if err != nil {
			return nil, err
		}
		answer.Devices = append(answer.Devices, d)
		if len(answer.Told) < pushMost && k.o.Restart != nil && k.o.Registered != nil && k.o.Registered(d) && k.o.Restart(ctx, d) == nil {
			answer.Told = append(answer.Told, d)
		}
	}
	return answer, nil
}

func printReleased(w io.Writer, i ReleasedInfo) {
	what := "given away: the next list names no service, so that the phone takes another system's"
	if i.Undone {
		what = "kept: the next list is an ordinary one"
	}
	fmt.Fprintf(w, "%d phones are %s", len(i.Devices), what)
	if len(i.Devices) > 0 {
		fmt.Fprintf(w, ": %s", some(i.Devices))
	}
	fmt.Fprintln(w)
	if n := len(i.Devices) - len(i.Told); n > 0 {
		fmt.Fprintf(w, "%d of them were not told to restart (not registered, or in a call): they fetch it at their next start\n", n)
	}
}

// foreignSigners are the keys of other systems, for leading phones over.
func (k *Keeper) foreignSigners() []trust.Signer {
	var out []trust.Signer
	for _, s := range k.foreign.Load().signers {
		out = append(out, s.Signer)
	}
	return out
}

// Believes tells whether a phone was seen to trust this appliance: it has enrolled here, or registered.
func (k *Keeper) Believes(device string) bool {
	if issued := k.o.Authority.Issued(device); slices.ContainsFunc(issued, func(r pki.Record) bool { return r.State != pki.Unconfirmed }) {
		return true
	}
	return k.o.EverRegistered != nil && k.o.EverRegistered(device)
}
