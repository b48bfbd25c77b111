package config

import (
	"slices"
	"strings"
)

// destKinds are the kinds of destination, and whether a name follows (dialplan §2).
var destKinds = map[string]bool{
	"busy": false, "congestion": false, "hangup": false, "repeat": false,
	"extension": true, "voicemail": true, "group": true, "queue": true, "ivr": true, "room": true, "page": true,
	"external": true, "announce": true,
}

// Split returns the kind of a destination and what follows the colon: extension and 301, or busy and nothing.
func (d Dest) Split() (kind, target string) {
	kind, target, _ = strings.Cut(string(d), ":")
	return kind, target
}

// ParseDest reads a destination as it is written in a document.
func ParseDest(s string) (Dest, error) { return parseDest(s) }

func parseDest(s string) (Dest, error) {
	const hint = "a destination like extension:301, voicemail:301, group:370, external:+15550100, busy, congestion or hangup"
	kind, target, colon := strings.Cut(s, ":")
	named, ok := destKinds[kind]
	switch {
	case !ok:
		if _, err := parseDigits(s); err == nil {
			return "", faultf("write extension:"+s+" for a line, external:"+s+" for a number outside", "the destination %q does not say of what kind it is", clip(s))
		}
		var names []string
		for k := range destKinds {
			names = append(names, k)
		}
		slices.Sort(names)
		if near := nearest(kind, names); near != "" {
			return "", faultf("did you mean "+near+"?", "unknown kind of destination %q", clip(kind))
		}
		return "", faultf(hint, "unknown kind of destination %q", clip(kind))
	case named && target == "":
		return "", faultf("write "+kind+":NAME", "the destination %q does not say which", clip(s))
	case !named && colon:
		return "", faultf("write "+kind+" alone", "%q takes nothing after the colon", kind)
	}
	if kind == "extension" || kind == "external" || kind == "voicemail" || kind == "room" {
		if _, err := parseDigits(target); err != nil {
			return "", err
		}
	}
	return Dest(s), nil
}
