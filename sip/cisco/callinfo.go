package cisco

import (
	"fmt"
	"strings"
)

// CallInfo is the header Call-Info: <urn:x-cisco-remotecc:FEATURE>; key=value; ... (sip-overview.md §5, sip-calls.md §1.4).
type CallInfo struct {
	Feature string  // callinfo, hold, resume, barge, cbarge
	Params  []Param // in order; a flag has an empty value
}

// Get returns the value of a parameter, without quotes, and whether it is there.
func (c *CallInfo) Get(name string) (string, bool) {
	for _, p := range c.Params {
		if strings.EqualFold(p.Name, name) {
			return p.Value, true
		}
	}
	return "", false
}

// Marshal writes the header's value. Values with blanks or separators are quoted.
func (c *CallInfo) Marshal() string {
	var b strings.Builder
	b.WriteString("<urn:x-cisco-remotecc:" + c.Feature + ">")
	for _, p := range c.Params {
		b.WriteString("; " + p.Name)
		switch {
		case p.Value == "":
		case strings.ContainsAny(p.Value, " ;,<>"):
			b.WriteString(`="` + p.Value + `"`)
		default:
			b.WriteString("=" + p.Value)
		}
	}
	return b.String()
}

// Unmarshal reads the header's value; blanks are free, the order too.
func (c *CallInfo) Unmarshal(s string) error {
	if len(s) > 4096 {
		return fmt.Errorf("call-info: too long")
	}
	s = strings.TrimSpace(s)
	end := strings.IndexByte(s, '>')
	const urn = "<urn:x-cisco-remotecc:"
	if end < 0 || len(s) < len(urn) || !strings.EqualFold(s[:len(urn)], urn) {
		return fmt.Errorf("call-info: not remotecc")
	}
	*c = CallInfo{Feature: strings.ToLower(s[len(urn):end])}
	if c.Feature == "" {
		return fmt.Errorf("call-info: no feature")
	}
	for _, f := range splitOutside(s[end+1:], ';') {
		name, value, _ := strings.Cut(f, "=")
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		c.Params = append(c.Params, Param{name, strings.Trim(strings.TrimSpace(value), `"`)})
	}
	return nil
}

// HuntPilot writes the value of huntpiloturi: quotes of the name as %22, blanks as %20 (sip-calls.md §19).
func HuntPilot(name, number, host string) string {
	return "%22" + escapeName(name) + "%22 <sip:" + escapeName(number) + "@" + host + ">"
}

func escapeName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.!~*'()+#", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// splitOutside splits at sep outside double quotes. A missing closing quote ends with the text.
func splitOutside(s string, sep byte) []string {
	var out []string
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

// Stats are RTP-RxStat or RTP-TxStat of a phone (sip-calls.md §31). What is no known number stays in Params, in order.
type Stats struct {
	Seconds, Packets, Octets, Late, Lost, Jitter int
	Params                                       []Param // everything else, the inner list flattened
}

// Get returns another value, or "".
func (s *Stats) Get(name string) string {
	for _, p := range s.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Unmarshal reads the header's value. It never fails: bad numbers are ignored, as are fields without a name.
func (s *Stats) Unmarshal(v string) {
	*s = Stats{}
	if len(v) > 4096 {
		v = v[:4096]
	}
	for _, f := range splitOutside(v, ',') {
		name, value, _ := strings.Cut(f, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if strings.HasPrefix(value, `"`) {
			for inner := range strings.SplitSeq(strings.Trim(value, `"`), ";") {
				k, x, _ := strings.Cut(inner, "=")
				if k = strings.TrimSpace(k); k != "" {
					s.Params = append(s.Params, Param{k, strings.TrimSpace(x)})
				}
			}
			continue
		}
		field := map[string]*int{
			"dur": &s.Seconds, "pkt": &s.Packets, "oct": &s.Octets, "latepkt": &s.Late, "lostpkt": &s.Lost, "avgjit": &s.Jitter,
		}[strings.ToLower(name)]
		var n int
		if field != nil {
			if _, err := fmt.Sscanf(value, "%d", &n); err == nil && n >= 0 {
				*field = n
			}
		} else if name != "" {
			s.Params = append(s.Params, Param{name, value})
		}
	}
}

// Marshal writes the header's value, for the receiving direction with late and lost packets.
func (s *Stats) Marshal(receive bool) string {
	v := fmt.Sprintf("Dur=%d,Pkt=%d,Oct=%d", s.Seconds, s.Packets, s.Octets)
	list := "tvqMetrics"
	if receive {
		v += fmt.Sprintf(",LatePkt=%d,LostPkt=%d,AvgJit=%d", s.Late, s.Lost, s.Jitter)
		list = "VQMetrics"
	}
	if len(s.Params) == 0 {
		return v
	}
	inner := make([]string, len(s.Params))
	for i, p := range s.Params {
		inner[i] = p.Name + "=" + p.Value
	}
	return v + "," + list + `="` + strings.Join(inner, ";") + `"`
}
