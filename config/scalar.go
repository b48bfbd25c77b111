package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fault is what is wrong with a text and what would be right; the caller adds the place.
type fault struct{ message, hint string }

func (f *fault) Error() string { return f.message + " (" + f.hint + ")" }

func faultf(hint, format string, args ...any) error {
	return &fault{fmt.Sprintf(format, args...), hint}
}

// scalarType is how one Go type is written in a document. The same table drives reading, schema and reference.
type scalarType struct {
	name   string // for the reference
	want   string // completes "want ..."
	quoted bool   // text must be in quotes
	zero   bool   // an unquoted 0 is accepted too
	number bool   // an unquoted number is accepted as it is written
	parse  func(s string) (any, error)
	enum   []string
	schema map[string]any
}

const (
	digitsPattern   = `^\+?[0-9*#]+$`
	hostPattern     = `^[A-Za-z0-9]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*$`
	durationPattern = `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	endpointPattern = `^(off|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}|[0-9.]+:[0-9]{1,5}|)$`
	portsPattern    = `^[0-9]{1,5}-[0-9]{1,5}$`
	destPattern     = `^(busy|congestion|hangup|repeat|(extension|voicemail|group|queue|ivr|room|page|external|announce):.+)$`
	maxDigits       = 30 // a phone's name and authName elements
)

var (
	digitsRE   = regexp.MustCompile(digitsPattern)
	hostRE     = regexp.MustCompile(hostPattern)
	durationRE = regexp.MustCompile(durationPattern)
)

func textSchema(pattern string) map[string]any {
	return map[string]any{"type": "string", "pattern": pattern}
}

func enumOf[T ~string](values ...T) scalarType {
	var names []string
	for _, v := range values {
		names = append(names, string(v))
	}
	return scalarType{
		name: "one of " + strings.Join(names, ", "), want: "one of " + strings.Join(names, ", "), enum: names,
		parse: func(s string) (any, error) {
			if err := oneOf(s, names); err != nil {
				return nil, err
			}
			return T(s), nil
		},
		schema: map[string]any{"type": "string", "enum": names},
	}
}

func oneOf(s string, names []string) error {
	if slices.Contains(names, s) {
		return nil
	}
	hint := "one of " + strings.Join(names, ", ")
	if near := nearest(s, names); near != "" {
		hint = fmt.Sprintf("did you mean %s? One of %s", near, strings.Join(names, ", "))
	}
	return faultf(hint, "unknown value %q", clip(s))
}

// clip bounds what a message repeats of a document.
func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "..."
	}
	return s
}

var scalarTypes = map[reflect.Type]scalarType{
	reflect.TypeFor[Digits](): {
		name: "digits in quotes", want: `digits in quotes, like "301"`, quoted: true,
		parse: func(s string) (any, error) { return parseDigits(s) },
		// The empty text is allowed wherever the key is not required.
		schema: textSchema(`^(\+?[0-9*#]+)?$`),
	},
	reflect.TypeFor[Host](): {
		name: "host name or address", want: "a host name or address without port",
		parse: func(s string) (any, error) {
			if err := checkHost(s); err != nil {
				return nil, err
			}
			return Host(s), nil
		},
		schema: map[string]any{"type": "string"},
	},
	reflect.TypeFor[Endpoint](): {
		name: "address:port or off", want: "an address and port like 0.0.0.0:6970, or off",
		parse: func(s string) (any, error) { return parseEndpoint(s) }, schema: textSchema(endpointPattern),
	},
	reflect.TypeFor[PortRange](): {
		name: "range of ports", want: "a range of ports like 16384-32766",
		parse: func(s string) (any, error) { return parsePortRange(s) }, schema: textSchema(portsPattern),
	},
	reflect.TypeFor[Duration](): {
		name: "duration", want: "a duration like 30s, 5m or 1h", zero: true,
		parse:  func(s string) (any, error) { return parseDuration(s) },
		schema: map[string]any{"anyOf": []any{textSchema(durationPattern), map[string]any{"const": 0}}},
	},
	reflect.TypeFor[netip.Addr](): {
		name: "IP address", want: "an address like 192.0.2.10",
		parse: func(s string) (any, error) {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, faultf("an address like 192.0.2.10", "%q is not an IP address", clip(s))
			}
			return a, nil
		},
		schema: map[string]any{"type": "string"},
	},
	reflect.TypeFor[netip.Prefix](): {
		name: "network", want: "a network like 100.64.10.0/24",
		parse: func(s string) (any, error) {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return nil, faultf("a network like 100.64.10.0/24", "%q is not a network", clip(s))
			}
			if p.Masked() != p {
				return nil, faultf("write "+p.Masked().String(), "%s has bits set to the right of its mask", p)
			}
			return p, nil
		},
		schema: textSchema(`^[0-9A-Fa-f:.]+/[0-9]{1,3}$`),
	},
	reflect.TypeFor[InterfaceAddress](): {
		name: "address/length", want: "an address with the length of its network, like 192.0.2.10/24",
		parse:  func(s string) (any, error) { return parseInterfaceAddress(s) },
		schema: textSchema(`^[0-9A-Fa-f:.]+/[0-9]{1,3}$`),
	},
	reflect.TypeFor[Dest](): {
		name: "destination", want: "a destination like extension:301, busy, congestion or hangup",
		parse:  func(s string) (any, error) { return parseDest(s) },
		schema: textSchema(destPattern),
	},
	reflect.TypeFor[SecurityMode](): enumOf(SecurityEncrypted, SecurityNonsecure),
	reflect.TypeFor[KeyKind]():      enumOf(KeyAuto, KeyRSA2048, KeyRSA3072, KeyRSA4096, KeyP256, KeyP384, KeyP521),
	reflect.TypeFor[CAPFAuth]():     enumOf(CAPFNullString, CAPFCode, CAPFLSC, CAPFMIC),
	reflect.TypeFor[VPNAuth]():      enumOf(VPNCertificate, VPNPassword),
	reflect.TypeFor[SRTPPolicy]():   enumOf(SRTPRequire, SRTPPrefer, SRTPNever),
	reflect.TypeFor[RecordMode]():   enumOf(RecordNever, RecordOnDemand, RecordAlways),
	reflect.TypeFor[ITLVersion]():   itlVersions(),
}

// itlVersions also takes 1.0 and 1.1 without quotes, which YAML reads as numbers.
func itlVersions() scalarType {
	t := enumOf(ITLAuto, ITL10, ITL11)
	t.number = true
	t.schema = map[string]any{"enum": []any{"auto", "1.0", "1.1", 1.0, 1.1}}
	return t
}

func parseDigits(s string) (Digits, error) {
	switch {
	case !digitsRE.MatchString(s):
		return "", faultf(`digits, * and #, with + only in front, like "301"`, "%q is not a number to dial", clip(s))
	case len(s) > maxDigits:
		return "", faultf(fmt.Sprintf("phones take at most %d", maxDigits), "the number has %d characters", len(s))
	}
	return Digits(s), nil
}

func checkHost(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	const hint = "a name like pbx.example.net or an address like 192.0.2.10"
	switch {
	case len(s) > 253 || !hostRE.MatchString(s):
		return faultf(hint, "%q is not a host name or address", clip(s))
	case strings.Trim(s, "0123456789.") == "":
		return faultf(hint, "%q looks like an address but is none", clip(s))
	}
	return nil
}

func parseInterfaceAddress(s string) (InterfaceAddress, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil {
		return InterfaceAddress{p}, nil
	}
	hint := "an address with the length of its network, like 192.0.2.10/24"
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		hint = "add the length of the network: " + a.String() + "/24 where the mask is 255.255.255.0"
	}
	return InterfaceAddress{}, faultf(hint, "%q is not an address with the length of its network", clip(s))
}

func parseEndpoint(s string) (Endpoint, error) {
	if s == "" || s == "off" {
		return Endpoint{}, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err == nil {
		return Endpoint{ap}, nil
	}
	hint := "an address and port like 0.0.0.0:6970, or off"
	if port, cut := strings.CutPrefix(s, ":"); cut {
		hint = "write 0.0.0.0:" + clip(port) + " for all addresses"
	} else if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		hint = "write 0.0.0.0:" + s + " for all addresses"
	} else if a, err := netip.ParseAddr(s); err == nil {
		hint = "add the port: " + netip.AddrPortFrom(a, 6970).String()
	} else if i := strings.LastIndexByte(s, ':'); i > 0 {
		if n, err := strconv.Atoi(s[i+1:]); err == nil && n > 65535 {
			hint = "ports end at 65535"
		}
	}
	return Endpoint{}, faultf(hint, "%q is not an address and port", clip(s))
}

func parsePortRange(s string) (PortRange, error) {
	const want = "a range like 16384-32766, the first even"
	a, b, ok := strings.Cut(s, "-")
	first, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 16)
	last, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 16)
	switch {
	case !ok || err1 != nil || err2 != nil:
		return PortRange{}, faultf(want, "%q is not a range of ports", clip(s))
	case first%2 != 0:
		return PortRange{}, faultf(fmt.Sprintf("RTP takes an even port and RTCP the next; write %d-%d", first+1, last), "the first port %d is odd", first)
	case first < 1024:
		return PortRange{}, faultf("start at 1024 or above", "ports below 1024 are not for RTP")
	case last < first+3:
		return PortRange{}, faultf("a call takes four ports; the usual range is 16384-32766", "the range %s is too small", clip(s))
	}
	return PortRange{uint16(first), uint16(last)}, nil
}

func parseDuration(s string) (Duration, error) {
	const want = "a number and its unit, like 30s, 5m or 1h"
	if s == "0" {
		return 0, nil
	}
	if !durationRE.MatchString(s) {
		hint := want
		if _, err := strconv.Atoi(s); err == nil {
			hint = "say of what: " + s + "s is " + s + " seconds"
		}
		return 0, faultf(hint, "%q is not a duration", clip(s))
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, faultf(want, "%q is not a duration", clip(s))
	}
	return Duration(d), nil
}
