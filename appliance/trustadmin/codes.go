package trustadmin

import (
	"context"
	"fmt"
	"html"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"rsc.io/qr"

	"ringfence/appliance/admin"
	"ringfence/pki"
)

// CodeInfo is a one-time code of a phone.
type CodeInfo struct {
	Device string    `json:"device"`
	Label  string    `json:"label,omitempty"`
	Lines  []string  `json:"lines,omitempty"`
	Code   string    `json:"code"`
	Until  time.Time `json:"until"`
	By     string    `json:"by"`
}

// text is what the QR code says: whoever scans it reads the digits from a screen while typing them at the phone.
func (c CodeInfo) text() string { return c.Device + " " + c.Code }

func (k *Keeper) codeInfo(c pki.Code) CodeInfo {
	doc := k.o.Doc()
	info := CodeInfo{Device: c.Device, Code: c.Digits, Until: c.Until, By: c.By}
	if p, ok := doc.Phone(c.Device); ok {
		info.Label = p.Label
	}
	for _, l := range doc.LinesOf(c.Device) {
		info.Lines = append(info.Lines, string(l.Number))
	}
	return info
}

// Codes is the answer to cert codes.
type Codes struct {
	Site  string     `json:"site"`
	Codes []CodeInfo `json:"codes"`
	HTML  bool       `json:"html,omitempty"`
	QR    bool       `json:"qr,omitempty"`
}

func (k *Keeper) codes(_ context.Context, r admin.Request) (any, error) {
	doc := k.o.Doc()
	answer := Codes{Site: doc.Site.Name, Codes: []CodeInfo{}, HTML: r.Flags["html"] != "", QR: r.Flags["qr"] != "" || len(r.Args) == 1}
	only := ""
	if len(r.Args) == 1 {
		p, err := k.declared(r.Args[0])
		if err != nil {
			return nil, err
		}
		only = p.Device
	}
	for i := range doc.Phones {
		d := doc.Phones[i].Device
		if only != "" && d != only {
			continue
		}
		if c, ok := k.o.Authority.Code(d); ok {
			answer.Codes = append(answer.Codes, k.codeInfo(c))
		}
	}
	if only != "" && len(answer.Codes) == 0 {
		return nil, admin.Refuse("phone %s has no code that is still good: ringfence cert enroll %s --code makes one", only, only)
	}
	return answer, nil
}

func printCodes(w io.Writer, c Codes) {
	if c.HTML {
		printCodePage(w, c)
		return
	}
	printCodeText(w, c.Codes, c.QR)
}

func printCodeText(w io.Writer, codes []CodeInfo, withQR bool) {
	if len(codes) == 0 {
		fmt.Fprintln(w, "no code is waiting to be typed")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PHONE\tLABEL\tLINES\tCODE\tGOOD UNTIL")
	for _, c := range codes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Device, clean(c.Label), strings.Join(c.Lines, " "), c.Code, when(c.Until))
	}
	t.Flush()
	if withQR {
		for _, c := range codes {
			drawn, _ := admin.QR(c.text(), qr.M) // no name and no code is too long
			fmt.Fprintf(w, "\n%s  code %s\n%s", c.Device, c.Code, drawn)
		}
	}
	fmt.Fprintln(w, "\nat the phone: Settings, (Admin Settings), Security, LSC, Update, then the code")
}

// printCodePage writes a page with a card for each phone, for printing and cutting.
func printCodePage(w io.Writer, c Codes) {
	fmt.Fprintf(w, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s: codes of phones</title><style>
body{font-family:sans-serif;margin:1cm}
.card{display:inline-block;width:8.4cm;height:5cm;border:1px dashed #888;padding:.4cm;margin:.1cm;page-break-inside:avoid;vertical-align:top;overflow:hidden}
.card svg{float:right;width:3.2cm;height:3.2cm}
.code{font-size:22pt;font-family:monospace;margin:.3cm 0}
small{color:#444}
</style></head><body>
`, html.EscapeString(c.Site))
	for _, x := range c.Codes {
		fmt.Fprintf(w, `<div class="card">%s<b>%s</b><br>%s %s<div class="code">%s</div><small>Settings, (Admin Settings), Security, LSC, Update, then the code. Good once, until %s.</small></div>
`, svgQR(x.text()), html.EscapeString(x.Device), html.EscapeString(x.Label), html.EscapeString(strings.Join(x.Lines, ", ")), html.EscapeString(x.Code), x.Until.Local().Format(time.DateOnly))
	}
	fmt.Fprintln(w, "</body></html>")
}

// svgQR draws a QR code as one path.
func svgQR(text string) string {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return ""
	}
	var path []string
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			if !code.Black(x, y) {
				continue
			}
			from := x
			for x+1 < code.Size && code.Black(x+1, y) {
				x++
			}
			path = append(path, fmt.Sprintf("M%d %dh%dv1h-%dz", from, y, x+1-from, x+1-from))
		}
	}
	return fmt.Sprintf(`<svg viewBox="-4 -4 %d %d"><path d="%s"/></svg>`, code.Size+8, code.Size+8, strings.Join(path, ""))
}
