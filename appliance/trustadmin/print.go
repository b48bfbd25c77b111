package trustadmin

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"ringfence/pki"
	"ringfence/trust"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func digestName(d trust.Digest) string {
	if d == trust.SHA1 {
		return "SHA-1"
	}
	return "SHA-512"
}

// clean makes text of certificates fit for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func some(names []string) string {
	const most = 6
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

func printPlans(w io.Writer, plans []pki.Plan) {
	if len(plans) == 0 {
		fmt.Fprintln(w, "no rotation is under way")
	}
	for _, p := range plans {
		switch {
		case p.Ended:
			fmt.Fprintf(w, "%s: rotated; no phone was to be waited for any more\n", p.Role)
		case p.Stage == "":
			fmt.Fprintf(w, "%s: would be rotated like this; nothing was changed\n", p.Role)
		default:
			fmt.Fprintf(w, "%s: rotation by %s, stage %s since %s\n", p.Role, clean(p.By), p.Stage, when(p.Since))
		}
		for _, s := range p.Steps {
			mark := " "
			if s.Done {
				mark = "x"
			}
			fmt.Fprintf(w, "  [%s] %-8s %s", mark, s.Name, s.Text)
			if !s.Until.IsZero() && !s.Done {
				fmt.Fprintf(w, "; goes on at the latest on %s", s.Until.Local().Format(time.DateOnly))
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "  concerns %d phones\n", len(p.Devices))
		if len(p.Missing) > 0 {
			fmt.Fprintf(w, "  waits for %d of them: %s\n", len(p.Missing), some(p.Missing))
		}
	}
}

func printRevoked(w io.Writer, r RevokedInfo) {
	if r.Device != "" {
		fmt.Fprintf(w, "phone %s: ", clean(r.Device))
	}
	fmt.Fprintf(w, "revoked %s\n", strings.Join(r.Serials, ", "))
	if r.Device != "" {
		fmt.Fprintf(w, "it gets no certificate again until you say so: ringfence cert enroll %s\n", clean(r.Device))
	}
}

func printList(w io.Writer, l ListInfo) {
	fmt.Fprintf(w, "%s version %s, %s, %d bytes, signed by %s at %s\n", l.File, l.Version, l.Digest, l.Bytes, clean(l.Signer), when(l.Signed))
	fmt.Fprintf(w, "SHA-256 %s\n\n", l.SHA256)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROLE\tSUBJECT\tENDS\tHERE")
	for _, e := range l.Entries {
		here := e.Use
		if here == "" {
			here = "not of this appliance"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.Role, clean(e.Subject), e.NotAfter.Local().Format(time.DateOnly), here)
	}
	t.Flush()
}

func printTrust(w io.Writer, i TrustInfo) {
	printList(w, i.List)
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PHONE\tFETCHED\tLIST\tNOW\t")
	missing := 0
	for _, f := range i.Fetches {
		state := "an older one"
		switch {
		case f.At.IsZero():
			state = "none yet"
		case f.Current:
			state = "this one"
		}
		now := "not registered"
		if f.Registered {
			now = "registered"
		}
		if !f.Current {
			missing++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.Device, when(f.At), state, now, clean(f.Special))
	}
	t.Flush()
	fmt.Fprintf(w, "%d of %d phones have fetched this list", len(i.Fetches)-missing, len(i.Fetches))
	if missing > 0 {
		fmt.Fprint(w, "; the others get it at their next start (ringfence phone restart)")
	}
	fmt.Fprintln(w)
	if len(i.Rotations) > 0 {
		fmt.Fprintln(w)
		printPlans(w, i.Rotations)
	}
	for _, warning := range i.Warnings {
		fmt.Fprintf(w, "warning: %s\n", clean(warning))
	}
}

func printVerified(w io.Writer, v VerifiedInfo) {
	if v.List.File != "" {
		printList(w, v.List)
		fmt.Fprintln(w)
	}
	if v.Good {
		fmt.Fprintln(w, "the list is well-formed and its signature is right")
	} else {
		fmt.Fprintf(w, "refused: %s\n", clean(v.Fault))
	}
	fmt.Fprintln(w, v.Advice)
}

func printExported(w io.Writer, e ExportedInfo) {
	fmt.Fprintf(w, "written into %s: %s\n", clean(e.Dir), strings.Join(e.Files, ", "))
	fmt.Fprintln(w, "keep the .age files and the passphrase apart from the appliance and apart from each other")
}

func printRestored(w io.Writer, r RestoredInfo) {
	if r.Signer == "" {
		fmt.Fprintln(w, "the root's key is on the appliance again")
		return
	}
	fmt.Fprintf(w, "trust lists are signed by %s from now on; phones that know it take them at their next start\n", clean(r.Signer))
}

func printForced(w io.Writer, f ForcedInfo) {
	if f.Was == "" {
		fmt.Fprintln(w, "no list was held back")
		return
	}
	fmt.Fprintln(w, "published; phones that hold the list before refuse it until that is deleted by hand")
}

func printCRL(w io.Writer, c CRLInfo) { fmt.Fprint(w, c.PEM) }
