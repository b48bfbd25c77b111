package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringfence/sip/registrar"
)

// ErrUnknownField is returned for a field that no line has, ErrReadOnly for one that nobody can set.
var (
	ErrUnknownField = errors.New("no such field")
	ErrReadOnly     = errors.New("the field cannot be set")
)

// field is one value of a line (sip-options.md §4). set nil: read only.
type field struct {
	get func(s *State, a registrar.Account) string
	set func(s *State, ctx context.Context, line, value string, by Origin) error
}

// fields by their present names; declared are those that Options.Declared answers.
var (
	fields = map[string]field{
		"callforward": {
			func(s *State, a registrar.Account) string { return s.Forward(a.Number) },
			func(s *State, ctx context.Context, line, v string, by Origin) error {
				return s.SetForward(ctx, line, v, by)
			},
		},
		"donotdisturb": {
			func(s *State, a registrar.Account) string { return yes(s.DND(s.DeviceOf(a.Number))) },
			func(s *State, ctx context.Context, line, v string, by Origin) error {
				return toggle(v, func(on bool) error { return s.SetDND(ctx, s.DeviceOf(line), on, by) })
			},
		},
		"huntgroup": {
			func(s *State, a registrar.Account) string { return yes(s.HuntLogin(s.DeviceOf(a.Number))) },
			func(s *State, ctx context.Context, line, v string, by Origin) error {
				return toggle(v, func(on bool) error { return s.SetHuntLogin(ctx, s.DeviceOf(line), on, by) })
			},
		},
		"mwiexten": {get: func(_ *State, a registrar.Account) string { return a.Voicemail }},
		"messages": {get: func(s *State, a registrar.Account) string {
			n, o := s.Messages(a.Number)
			return fmt.Sprintf("%d/%d", n, o)
		}},
		"devicename":      {get: func(_ *State, a registrar.Account) string { return a.Device }},
		"lineindex":       {get: func(_ *State, a registrar.Account) string { return strconv.Itoa(a.Index) }},
		"callerid_name":   {get: func(_ *State, a registrar.Account) string { return a.Name }},
		"callerid_number": {get: func(_ *State, a registrar.Account) string { return a.Number }},
		"maxcalls":        {get: func(_ *State, a registrar.Account) string { return strconv.Itoa(a.MaxCalls) }},
		"busylevel":       {get: func(_ *State, a registrar.Account) string { return strconv.Itoa(a.BusyAt) }},
		"dynamic":         {get: func(*State, registrar.Account) string { return yes(true) }}, // every line registers
		"presence":        {get: func(s *State, a registrar.Account) string { return s.Line(a.Number).Shows }},
		"offhook":         {get: func(s *State, a registrar.Account) string { return yes(s.Line(a.Number).OffHook) }},
		"inuse":           {get: func(s *State, a registrar.Account) string { return strconv.Itoa(s.Line(a.Number).Calls) }},
		"ringing":         {get: func(s *State, a registrar.Account) string { return strconv.Itoa(s.Line(a.Number).Ringing) }},
		"onhold":          {get: func(s *State, a registrar.Account) string { return strconv.Itoa(s.Line(a.Number).Held) }},

		"register_callid": bound(func(b *registrar.Binding) string { return b.CallID }),
		"useragent":       bound(func(b *registrar.Binding) string { return b.UserAgent }),
		"activeload":      bound(func(b *registrar.Binding) string { return b.Load }),
		"inactiveload":    bound(func(b *registrar.Binding) string { return b.InactiveLoad }),
		"lastreset":       bound(func(b *registrar.Binding) string { return b.LastReset }),
		"contact":         bound(func(b *registrar.Binding) string { return b.ContactText }),
		"expire":          bound(func(b *registrar.Binding) string { return strconv.Itoa(max(0, int(time.Until(b.Expires)/time.Second))) }),
		"ipaddr":          reached(func(b *registrar.Binding) string { return b.Flow.Remote().Addr().Unmap().String() }),
		"port":            reached(func(b *registrar.Binding) string { return strconv.Itoa(int(b.Flow.Remote().Port())) }),
		"transport":       reached(func(b *registrar.Binding) string { return strings.ToLower(b.Flow.Transport()) }),
		"status": {get: func(s *State, a registrar.Account) string {
			switch b := s.newest(a.Number); {
			case b == nil:
				return "UNREGISTERED"
			case b.Reachable():
				return "OK"
			}
			return "UNREACHABLE"
		}},
	}
	declaredFields = []string{"callgroup", "pickupgroup", "codecs", "context", "language", "mailbox", "subscribe", "register", "srtp"}
	// synonyms are the names of older dial plans.
	synonyms = map[string]string{
		"vmexten": "mwiexten", "regcallid": "register_callid", "ciscodevicename": "devicename", "ciscolineindex": "lineindex", "ip": "ipaddr",
		"callerid_num": "callerid_number", "limit": "maxcalls", "curcalls": "inuse", "namedcallgroup": "callgroup",
		"namedpickupgroup": "pickupgroup", "hint": "presence",
	}
)

// bound is a field of a line's latest registration, reached one of its connection; empty when there is none.
func bound(get func(*registrar.Binding) string) field {
	return field{get: func(s *State, a registrar.Account) string {
		if b := s.newest(a.Number); b != nil {
			return get(b)
		}
		return ""
	}}
}

func reached(get func(*registrar.Binding) string) field {
	return bound(func(b *registrar.Binding) string {
		if b.Flow == nil {
			return ""
		}
		return get(b)
	})
}

func (s *State) newest(line string) *registrar.Binding {
	if all := s.opt.Registrar.Lookup(line); len(all) > 0 {
		return all[0]
	}
	return nil
}

// toggle reads a value that is on or off as dial plans write it.
func toggle(v string, set func(on bool) error) error {
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "yes", "on", "true", "1", "enable":
		return set(true)
	case "no", "off", "false", "0", "disable", "":
		return set(false)
	}
	return fmt.Errorf("%q is neither yes nor no", v)
}

// FieldNames lists the names that Field knows, without synonyms.
func FieldNames() []string {
	return slices.Sorted(maps.Keys(func() map[string]bool {
		all := make(map[string]bool)
		for n := range fields {
			all[n] = true
		}
		for _, n := range declaredFields {
			all[n] = true
		}
		return all
	}()))
}

func fieldName(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if n, ok := synonyms[name]; ok {
		return n
	}
	return name
}

// Field reads a field of a line by the name that dial plans know, the older synonyms included. A line that does not exist has
// empty fields, so that a plan need not ask first; ok is false for it, and for a field that no line has.
func (s *State) Field(line, name string) (value string, ok bool) {
	a, known := s.opt.Accounts.Line(line)
	if !known {
		return "", false
	}
	name = fieldName(name)
	if f, ok := fields[name]; ok {
		return f.get(s, a), true
	}
	if slices.Contains(declaredFields, name) {
		if s.opt.Declared != nil {
			value, _ = s.opt.Declared(line, name)
		}
		return value, true
	}
	return "", false
}

// SetField sets a field of a line: callforward, donotdisturb, huntgroup. It is durable when SetField returns, and the phone is
// told.
func (s *State) SetField(ctx context.Context, line, name, value string, by Origin) error {
	if _, ok := s.opt.Accounts.Line(line); !ok {
		return ErrUnknownLine
	}
	name = fieldName(name)
	f, ok := fields[name]
	switch {
	case !ok && !slices.Contains(declaredFields, name):
		return fmt.Errorf("%s: %w", name, ErrUnknownField)
	case f.set == nil:
		return fmt.Errorf("%s: %w", name, ErrReadOnly)
	}
	return f.set(s, ctx, line, value, by)
}
