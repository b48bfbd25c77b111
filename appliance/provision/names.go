package provision

import (
	"regexp"
	"strings"
)

// maxName bounds the names that are looked at. The longest published one has 35 characters.
const maxName = 255

// Normalise makes a name comparable: no leading slashes, slashes only and single ones. It refuses what could lead out of
// the published set (provisioning.md §3.4). HTTP names are percent-decoded once before.
func Normalise(s string) (string, bool) {
	if len(s) > maxName {
		return "", false
	}
	s = strings.ReplaceAll(s, `\`, "/")
	var parts []string
	for part := range strings.SplitSeq(s, "/") {
		switch {
		case part == "": // leading, double or trailing slash
			continue
		case part == "." || part == "..":
			return "", false
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 || len(parts[0]) == 2 && parts[0][1] == ':' {
		return "", false
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return "", false
		}
	}
	return strings.Join(parts, "/"), true
}

// kind is what a name stands for.
type kind int

const (
	kindOther      kind = iota
	kindList            // ITLFile.tlv
	kindDeviceList      // ITLSEP<MAC>.tlv
	kindCTL             // CTLSEP<MAC>.tlv, CTLFile.tlv: none are published
	kindConfig          // SEP<MAC>.cnf.xml
	kindDial            // dial-SEP<MAC>.xml
	kindKeys            // keys-SEP<MAC>.xml
	kindFeature         // feat-SEP<MAC>.xml
)

// name is a parsed file name.
type name struct {
	text   string // normalised, letter case as asked
	kind   kind
	device string // SEP and MAC in upper case, "" for files of no device
	signed bool   // .sgn
	sealed bool   // .enc.sgn
}

var (
	listName   = regexp.MustCompile(`(?i)\A(ITL|CTL)(FILE|SEP[0-9A-F]{12})\.tlv\z`)
	configName = regexp.MustCompile(`(?i)\A(SEP[0-9A-F]{12})\.cnf\.xml(\.enc\.sgn|\.sgn)?\z`)
	partName   = regexp.MustCompile(`(?i)\A(dial|keys|feat)-(SEP[0-9A-F]{12})\.xml(\.sgn)?\z`)
)

// parseName reads a normalised name. Letter case never matters: phones are not consistent (provisioning.md §1.4), and no
// two published names differ by it alone.
func parseName(s string) name {
	n := name{text: s}
	if m := listName.FindStringSubmatch(s); m != nil {
		which := strings.ToUpper(m[2])
		if which != "FILE" {
			n.device = which
		}
		switch {
		case strings.EqualFold(m[1], "CTL"):
			n.kind = kindCTL
		case n.device != "":
			n.kind = kindDeviceList
		default:
			n.kind = kindList
		}
		return n
	}
	if m := configName.FindStringSubmatch(s); m != nil {
		n.kind, n.device = kindConfig, strings.ToUpper(m[1])
		n.signed = m[2] != ""
		n.sealed = strings.EqualFold(m[2], ".enc.sgn")
		return n
	}
	if m := partName.FindStringSubmatch(s); m != nil {
		n.device, n.signed = strings.ToUpper(m[2]), m[3] != ""
		switch strings.ToLower(m[1]) {
		case "dial":
			n.kind = kindDial
		case "keys":
			n.kind = kindKeys
		case "feat":
			n.kind = kindFeature
		}
	}
	return n
}

// mediaType of a file; no load is known to look at it.
func (n name) mediaType() string {
	if !n.signed && (n.kind == kindConfig || n.kind == kindDial || n.kind == kindKeys || n.kind == kindFeature) {
		return "text/xml"
	}
	return "application/octet-stream"
}
