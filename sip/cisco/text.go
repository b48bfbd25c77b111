package cisco

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ServiceControl is the body of a service-control NOTIFY (sip-registration.md §6).
type ServiceControl struct {
	Action         string // restart, reset, check-version, apply-config, call-preservation, prt-report
	RegisterCallID string
	Stamps         *Stamps // nil: the action needs none
	Extra          []Param // further lines: CUCMResult, LoadId, LoadServer ...
}

// Stamps are the versions of what the phone has downloaded. An empty one is written as zeros, which always differs: the phone
// downloads again.
type Stamps struct{ Config, Dialplan, Softkey, FeatureControl string }

const zeroStamp = "00000000-0000-0000-0000-000000000000"

// Marshal writes the lines.
func (s *ServiceControl) Marshal() []byte {
	var b strings.Builder
	b.WriteString("action=" + s.Action + "\r\nRegisterCallId={" + s.RegisterCallID + "}\r\n")
	if s.Stamps != nil {
		for _, v := range []Param{
			{"Config", s.Stamps.Config}, {"Dialplan", s.Stamps.Dialplan}, {"Softkey", s.Stamps.Softkey}, {"FeatureControl", s.Stamps.FeatureControl},
		} {
			if v.Value == "" {
				v.Value = zeroStamp
			}
			b.WriteString(v.Name + "VersionStamp={" + v.Value + "}\r\n")
		}
	}
	for _, p := range s.Extra {
		b.WriteString(p.Name + "=" + p.Value + "\r\n")
	}
	return []byte(b.String())
}

// Unmarshal reads the lines.
func (s *ServiceControl) Unmarshal(b []byte) error {
	if len(b) > maxDocument {
		return errors.New("service control: too long")
	}
	*s = ServiceControl{}
	stamp := func() *Stamps {
		if s.Stamps == nil {
			s.Stamps = &Stamps{}
		}
		return s.Stamps
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		bare := strings.TrimSuffix(strings.TrimPrefix(value, "{"), "}")
		if bare == zeroStamp {
			bare = ""
		}
		switch key {
		case "action":
			s.Action = value
		case "RegisterCallId":
			s.RegisterCallID = bare
		case "ConfigVersionStamp":
			stamp().Config = bare
		case "DialplanVersionStamp":
			stamp().Dialplan = bare
		case "SoftkeyVersionStamp":
			stamp().Softkey = bare
		case "FeatureControlVersionStamp":
			stamp().FeatureControl = bare
		default:
			if len(s.Extra) < 32 {
				s.Extra = append(s.Extra, Param{key, value})
			}
		}
	}
	if s.Action == "" {
		return errors.New("service control: no action")
	}
	return nil
}

// MessageSummary is RFC 3842 (sip-state.md §7). Cisco phones take it without the urgent counters, old ones only so.
type MessageSummary struct {
	New, Old int
	Account  string // sip:8500@10.20.0.5, "" for none
	Urgent   bool   // write " (0/0)" for other vendors
}

// Marshal writes the lines.
func (m *MessageSummary) Marshal() []byte {
	var b strings.Builder
	b.WriteString("Messages-Waiting: " + choose(m.New > 0, "yes", "no") + "\r\n")
	if m.Account != "" {
		b.WriteString("Message-Account: " + m.Account + "\r\n")
	}
	fmt.Fprintf(&b, "Voice-Message: %d/%d%s\r\n", m.New, m.Old, choose(m.Urgent, " (0/0)", ""))
	return []byte(b.String())
}

// Unmarshal reads the lines.
func (m *MessageSummary) Unmarshal(b []byte) error {
	if len(b) > maxDocument {
		return errors.New("message summary: too long")
	}
	*m = MessageSummary{}
	found := false
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(key) {
		case "messages-waiting":
			found = true
			if strings.EqualFold(value, "yes") && m.New == 0 {
				m.New = 1
			}
		case "message-account":
			m.Account = value
		case "voice-message":
			counts, urgent, ok := strings.Cut(value, " ")
			m.Urgent = ok && strings.HasPrefix(urgent, "(")
			n, o, _ := strings.Cut(counts, "/")
			nv, err1 := strconv.Atoi(n)
			ov, err2 := strconv.Atoi(o)
			if err1 != nil || err2 != nil || nv < 0 || ov < 0 {
				return errors.New("message summary: counters")
			}
			m.New, m.Old = nv, ov
		}
	}
	if !found {
		return errors.New("message summary: no Messages-Waiting")
	}
	return nil
}

// ServiceURI is the user part of a Request-URI that calls a service (sip-overview.md §8): x-cisco-serviceuri-NAME or -NAME-ARG.
type ServiceURI struct{ Name, Arg string }

const serviceURI = "x-cisco-serviceuri-"

// ParseServiceURI splits a user part; ok is false if it calls no service.
func ParseServiceURI(user string) (u ServiceURI, ok bool) {
	if len(user) <= len(serviceURI) || !strings.EqualFold(user[:len(serviceURI)], serviceURI) {
		return ServiceURI{}, false
	}
	u.Name, u.Arg, _ = strings.Cut(user[len(serviceURI):], "-")
	u.Name = strings.ToLower(u.Name)
	return u, u.Name != ""
}

// String is the user part.
func (u ServiceURI) String() string {
	if u.Arg == "" {
		return serviceURI + u.Name
	}
	return serviceURI + u.Name + "-" + u.Arg
}
