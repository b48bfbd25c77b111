package trustadmin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/capf"
)

// enrolVerbs are the orders about phones' certificates.
func enrolVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "cert enroll", Args: "[DEVICE]", Max: 1, Change: true, Short: "let a phone get a new certificate at its next start", Print: printer(printEnrolled),
			Help: "With DEVICE you vouch for the phone: where pki.lsc.auth is null_string it is asked for no proof, even if it had a certificate (it was reset or replaced).\n" +
				"With --all every phone in encrypted mode, and those that have a certificate prove themselves by it; the other flags choose among them.\n" +
				"With --code somebody has to type a one-time code at the phone (Settings, Security, LSC, Update), which is printed; cert codes prints it again.",
			Flags: []admin.Flag{
				{Name: "all", Usage: "every phone", Bool: true}, {Name: "expiring", Usage: "with --all: only those whose certificate ends within this time: 60d"},
				{Name: "model", Usage: "with --all: only this model"}, {Name: "group", Usage: "with --all: only phones of the members of this hunt group"},
				{Name: "issuer", Usage: "with --all: only those whose certificate's issuer has this in its name; old: any but the present issuing CA"},
				{Name: "code", Usage: "make a one-time code for each", Bool: true}, {Name: "code-is", Usage: "with DEVICE: the one-time code, 4 to 15 digits"},
				{Name: "valid", Usage: "how long codes are good: 14d unless said otherwise"},
				{Name: "now", Usage: "restart those that are registered and not in a call", Bool: true}, {Name: "dry-run", Usage: "show, do nothing", Bool: true}}},
		{Name: "cert fetch", Args: "DEVICE", Min: 1, Max: 1, Change: true, Short: "ask a phone at its next start which certificate it holds", Print: printer(printOrdered)},
		{Name: "cert delete", Args: "DEVICE", Min: 1, Max: 1, Change: true, Short: "have a phone delete its certificate at its next start", Print: printer(printOrdered),
			Help: "It enrols anew at the start after that, unless it is declared otherwise by then."},
		{Name: "cert progress", Short: "how far the last cert enroll --all has come, and what the other phones wait for", Print: printer(printProgress)},
		{Name: "cert codes", Args: "[DEVICE]", Max: 1, Short: "the one-time codes that are still good, with QR codes", Print: printer(printCodes),
			Flags: []admin.Flag{{Name: "html", Usage: "a page to print, one card for each phone", Bool: true}, {Name: "qr", Usage: "QR codes also for many phones", Bool: true}}},
	}
}

// codeLife is how long a code is good unless said otherwise.
const codeLife = 14 * 24 * time.Hour

// Enrolled is the answer to cert enroll.
type Enrolled struct {
	Scheduled []string   `json:"scheduled"`
	Good      []string   `json:"good"`      // left alone: their certificate is good for longer
	Nonsecure []string   `json:"nonsecure"` // have no certificates
	Others    int        `json:"others"`    // left alone: not chosen
	Codes     []CodeInfo `json:"codes,omitempty"`
	Told      []string   `json:"told,omitempty"` // to restart
	DryRun    bool       `json:"dry_run,omitempty"`
}

// filter chooses phones.
type filter struct {
	model, issuer string
	group         string
	devices       []string // of the group
	within        time.Duration
}

func (k *Keeper) filterOf(r admin.Request) (f filter, err error) {
	f.model, f.issuer, f.group = r.Flags["model"], r.Flags["issuer"], r.Flags["group"]
	all := r.Flags["all"] != ""
	if text, ok := r.Flags["expiring"]; ok {
		if f.within, err = parseDays(text); err != nil || !all {
			return f, admin.Usage("cert enroll: --expiring goes with --all and takes days: 60d")
		}
	}
	if !all && (f.model != "" || f.issuer != "" || f.group != "") {
		return f, admin.Usage("cert enroll: --model, --group and --issuer go with --all")
	}
	if f.model != "" {
		if _, ok := config.Model(f.model); !ok {
			return f, admin.Usage("cert enroll: %s is no model", f.model)
		}
	}
	if f.group != "" {
		doc := k.o.Doc()
		i := slices.IndexFunc(doc.Groups, func(g config.Group) bool { return string(g.Number) == f.group || g.Name == f.group })
		if i < 0 {
			var names []string
			for _, g := range doc.Groups {
				names = append(names, string(g.Number))
			}
			return f, admin.Undeclared("group", f.group, names)
		}
		for _, n := range doc.Groups[i].Members {
			if l, ok := doc.Line(string(n)); ok && l.Phone != "" {
				f.devices = append(f.devices, l.Phone)
			}
		}
	}
	return f, nil
}

// text is the filter as typed.
func (f filter) text() string {
	var out []string
	for _, x := range []struct{ name, value string }{{"model", f.model}, {"group", f.group}, {"issuer", f.issuer}} {
		if x.value != "" {
			out = append(out, x.name+" "+x.value)
		}
	}
	if f.within > 0 {
		out = append(out, fmt.Sprintf("expiring within %d days", int(f.within.Hours()/24)))
	}
	if len(out) == 0 {
		return "all"
	}
	return strings.Join(out, ", ")
}

func (k *Keeper) enroll(ctx context.Context, r admin.Request) (any, error) {
	everybody, dry := r.Flags["all"] != "", r.Flags["dry-run"] != ""
	f, err := k.filterOf(r)
	if err != nil {
		return nil, err
	}
	life := codeLife
	if text, ok := r.Flags["valid"]; ok {
		if life, err = parseDays(text); err != nil {
			return nil, admin.Usage("cert enroll: --valid takes days: 14d")
		}
	}
	withCode := r.Flags["code"] != "" || r.Flags["code-is"] != ""
	switch {
	case everybody == (len(r.Args) == 1):
		return nil, admin.Usage("cert enroll: either DEVICE or --all")
	case everybody && r.Flags["code-is"] != "":
		return nil, admin.Usage("cert enroll: one code for all phones is none: --code makes one for each")
	}
	answer := Enrolled{Scheduled: []string{}, Good: []string{}, Nonsecure: []string{}, DryRun: dry}
	if !everybody {
		p, err := k.declared(r.Args[0])
		if err != nil {
			return nil, err
		}
		if p.Security == config.SecurityNonsecure {
			return nil, admin.Refuse("phone %s is in non-secure mode and has no certificate", p.Device)
		}
		answer.Scheduled = append(answer.Scheduled, p.Device)
	} else {
		k.choose(f, &answer)
	}
	if dry {
		return answer, nil
	}
	if everybody {
		if err := k.remember(ctx, job{At: k.o.Now().UTC(), By: by(r), What: f.text(), Devices: answer.Scheduled}); err != nil {
			return nil, err
		}
	}
	for _, d := range answer.Scheduled {
		switch {
		case withCode:
			c, err := k.o.Authority.SetCode(ctx, d, r.Flags["code-is"], by(r), life)
			if err != nil {
				return nil, admin.Refuse("%s", strings.TrimPrefix(err.Error(), "pki: "))
			}
			answer.Codes = append(answer.Codes, k.codeInfo(c))
		case everybody:
			if err := k.o.Authority.ScheduleRenewal(ctx, d, by(r)); err != nil {
				return nil, err
			}
		default:
			if err := k.o.Authority.Schedule(ctx, d, capf.Install, by(r)); err != nil {
				return nil, err
			}
		}
	}
	if r.Flags["now"] != "" && k.o.Restart != nil {
		answer.Told = k.restart(ctx, answer.Scheduled)
	}
	return answer, nil
}

// Ordered is the answer to cert fetch and cert delete.
type Ordered struct {
	Device    string `json:"device"`
	Operation string `json:"operation"`
}

// order schedules an operation that needs nothing but a name.
func (k *Keeper) order(op capf.Operation) admin.Handler {
	return func(ctx context.Context, r admin.Request) (any, error) {
		p, err := k.declared(r.Args[0])
		if err != nil {
			return nil, err
		}
		if p.Security == config.SecurityNonsecure {
			return nil, admin.Refuse("phone %s is in non-secure mode and is not asked for certificates", p.Device)
		}
		return Ordered{p.Device, op.String()}, k.o.Authority.Schedule(ctx, p.Device, op, by(r))
	}
}

func printOrdered(w io.Writer, o Ordered) {
	fmt.Fprintf(w, "phone %s: %s at its next start, or when somebody presses Update there\n", o.Device, o.Operation)
}

// choose divides the declared phones.
func (k *Keeper) choose(f filter, answer *Enrolled) {
	issuing := ""
	if id, err := k.o.Authority.Identity(pki.RoleCAPF); err == nil {
		issuing = string(id.Leaf.RawSubject) + string(id.Leaf.SubjectKeyId)
	}
	doc := k.o.Doc()
	for i := range doc.Phones {
		p := &doc.Phones[i]
		cert, has := k.o.Authority.CurrentLSC(p.Device)
		wanted := (f.model == "" || f.model == p.Model) && (f.group == "" || slices.Contains(f.devices, p.Device))
		switch {
		case f.issuer == "":
		case !has:
			wanted = false
		case f.issuer == "old":
			wanted = wanted && string(cert.RawIssuer)+string(cert.AuthorityKeyId) != issuing
		default:
			wanted = wanted && strings.Contains(strings.ToLower(cert.Issuer.String()), strings.ToLower(f.issuer))
		}
		switch {
		case !wanted:
			answer.Others++
		case p.Security == config.SecurityNonsecure:
			answer.Nonsecure = append(answer.Nonsecure, p.Device)
		case f.within > 0 && has && cert.NotAfter.Sub(k.o.Now()) > f.within:
			answer.Good = append(answer.Good, p.Device)
		default:
			answer.Scheduled = append(answer.Scheduled, p.Device)
		}
	}
}

// restart tells registered phones to start anew, one after the other, as long as somebody waits for the answer. Those that it
// did not come to do so by themselves, or at the next order.
func (k *Keeper) restart(ctx context.Context, devices []string) (told []string) {
	for _, d := range devices {
		if k.o.Registered != nil && !k.o.Registered(d) {
			continue
		}
		if len(told) >= pushMost || len(told) > 0 && !pause(ctx, pushPause) {
			break
		}
		one, cancel := context.WithTimeout(ctx, pushWait)
		if k.o.Restart(one, d) == nil {
			told = append(told, d)
		}
		cancel()
	}
	return told
}

// job is the last order that named no single phone.
type job struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	What    string    `json:"what"`
	Devices []string  `json:"devices"`
}

const jobKey = "trust/enrol"

func (k *Keeper) remember(ctx context.Context, j job) error {
	if k.o.State == nil {
		return nil
	}
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return k.o.State.Write(ctx, map[string][]byte{jobKey: b})
}

// Progress is the answer to cert progress.
type Progress struct {
	What   string          `json:"what,omitempty"` // the last cert enroll --all; empty when there was none
	By     string          `json:"by,omitempty"`
	At     time.Time       `json:"at,omitzero"`
	Total  int             `json:"total"`
	Done   int             `json:"done"`
	Phones []ProgressPhone `json:"phones"` // all that are due, whoever ordered it
}

// ProgressPhone is a phone for which a certificate is due.
type ProgressPhone struct {
	Device     string    `json:"device"`
	Why        string    `json:"why"`
	Ends       time.Time `json:"ends,omitzero"` // of the certificate that it has
	Registered bool      `json:"registered"`
	Ordered    bool      `json:"ordered"` // by the last cert enroll --all
	Code       bool      `json:"code"`    // somebody has to type one
}

func (k *Keeper) progress(context.Context, admin.Request) (any, error) {
	answer := Progress{Phones: []ProgressPhone{}}
	var j job
	if k.o.State != nil {
		if b, ok := k.o.State.Get(jobKey); ok && json.Unmarshal(b, &j) == nil {
			answer.What, answer.By, answer.At, answer.Total = j.What, j.By, j.At, len(j.Devices)
		}
	}
	doc := k.o.Doc()
	for i := range doc.Phones {
		p := &doc.Phones[i]
		ordered := slices.Contains(j.Devices, p.Device)
		if p.Security == config.SecurityNonsecure {
			if ordered {
				answer.Total--
			}
			continue
		}
		op, why := k.o.Authority.Due(p.Device, capf.KeyKind(doc.LSCKey(p)))
		if op == capf.None {
			if ordered {
				answer.Done++
			}
			continue
		}
		x := ProgressPhone{Device: p.Device, Why: why, Ordered: ordered}
		if op != capf.Install {
			x.Why = op.String() + " " + why
		}
		if cert, ok := k.o.Authority.CurrentLSC(p.Device); ok {
			x.Ends = cert.NotAfter
		}
		_, x.Code = k.o.Authority.Code(p.Device)
		x.Registered = k.o.Registered != nil && k.o.Registered(p.Device)
		answer.Phones = append(answer.Phones, x)
	}
	for _, d := range j.Devices {
		if _, ok := doc.Phone(d); !ok {
			answer.Total--
		}
	}
	return answer, nil
}

// parseDays reads 60d, or a duration as Go writes it.
func parseDays(text string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		days, err := strconv.Atoi(n)
		if err != nil || days < 1 || days > 36500 {
			return 0, errors.New("not a number of days")
		}
		return time.Duration(days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil && d <= 0 {
		err = errors.New("not in the future")
	}
	return d, err
}

func printEnrolled(w io.Writer, e Enrolled) {
	verb := "get"
	if e.DryRun {
		verb = "would get"
	}
	fmt.Fprintf(w, "%d phones %s a new certificate at their next start", len(e.Scheduled), verb)
	if len(e.Scheduled) > 0 {
		fmt.Fprintf(w, ": %s", some(e.Scheduled))
	}
	fmt.Fprintln(w)
	if len(e.Good) > 0 {
		fmt.Fprintf(w, "%d have one that is good for longer\n", len(e.Good))
	}
	if len(e.Nonsecure) > 0 {
		fmt.Fprintf(w, "%d are in non-secure mode and have none\n", len(e.Nonsecure))
	}
	if e.Others > 0 {
		fmt.Fprintf(w, "%d were not chosen\n", e.Others)
	}
	if len(e.Told) > 0 {
		fmt.Fprintf(w, "%d were told to restart now\n", len(e.Told))
	}
	if len(e.Codes) > 0 {
		fmt.Fprintln(w)
		printCodeText(w, e.Codes, len(e.Codes) == 1)
	}
}

func printProgress(w io.Writer, p Progress) {
	if p.What == "" {
		fmt.Fprintln(w, "there was no cert enroll --all yet")
	} else {
		fmt.Fprintf(w, "cert enroll --all (%s) by %s at %s: %d of %d phones are done  %s\n", p.What, clean(p.By), when(p.At), p.Done, p.Total, bar(p.Done, p.Total))
	}
	if len(p.Phones) == 0 {
		fmt.Fprintln(w, "nothing is due")
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PHONE\tCERTIFICATE ENDS\tDUE BECAUSE\tWAITS FOR")
	for _, x := range p.Phones {
		ends, waits := "none", "its next start; it is not registered"
		if !x.Ends.IsZero() {
			ends = x.Ends.Local().Format(time.DateOnly)
		}
		switch {
		case x.Code:
			waits = "somebody to type its code (ringfence cert codes " + x.Device + ")"
		case x.Registered:
			waits = "its next start (ringfence phone restart " + x.Device + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", x.Device, ends, clean(x.Why), waits)
	}
	t.Flush()
}

// bar draws a part of a whole.
func bar(part, whole int) string {
	const width = 20
	full := width
	if whole > 0 {
		full = min(width, max(0, part)*width/whole)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}
