package cisco

import "fmt"

// FeatureEvent is one message of AS feature events, by which other vendors' phones keep do-not-disturb and forwarding in step
// (sip-state.md §8). Exactly one field of each direction is set.
type FeatureEvent struct {
	SetDND     *FeatureDND     // phone to server
	SetForward *FeatureForward // phone to server
	DND        *FeatureDND     // server to phone
	Forward    *FeatureForward // server to phone
	Response   string          // root element of an answer: SetDoNotDisturbResponse, SetForwardingResponse
}

// FeatureDND is do-not-disturb.
type FeatureDND struct {
	Device string
	On     bool
}

// FeatureForward is forwarding; Type is forwardImmediate, forwardBusy or forwardNoAns.
type FeatureForward struct {
	Device, Type string
	On           bool
	Target       string
}

const csta = ` xmlns="http://www.ecma-international.org/standards/ecma-323/csta/ed3"`

// Marshal writes the document.
func (f *FeatureEvent) Marshal() []byte {
	w := &writer{}
	device := func(name string) {
		if name == "" {
			w.line("<device><notKnown /></device>")
			return
		}
		w.element("device", name)
	}
	yes := func(b bool) string { return choose(b, "true", "false") }
	switch {
	case f.SetDND != nil:
		w.line("<SetDoNotDisturb", csta, ">")
		w.element("device", f.SetDND.Device)
		w.element("doNotDisturbOn", yes(f.SetDND.On))
		w.line("</SetDoNotDisturb>")
	case f.SetForward != nil:
		w.line("<SetForwarding", csta, ">")
		w.element("device", f.SetForward.Device)
		w.element("forwardingType", f.SetForward.Type)
		w.element("activateForward", yes(f.SetForward.On))
		w.element("forwardDN", f.SetForward.Target)
		w.line("</SetForwarding>")
	case f.DND != nil:
		w.line("<DoNotDisturbEvent", csta, ">")
		device(f.DND.Device)
		w.element("doNotDisturbOn", yes(f.DND.On))
		w.line("</DoNotDisturbEvent>")
	case f.Forward != nil:
		w.line("<ForwardingEvent", csta, ">")
		device(f.Forward.Device)
		w.element("forwardingType", f.Forward.Type)
		w.element("forwardStatus", yes(f.Forward.On))
		w.element("forwardTo", f.Forward.Target)
		w.line("</ForwardingEvent>")
	default:
		w.line("<", f.Response, csta, "/>")
	}
	return append([]byte("<?xml version=\"1.0\"?>\r\n"), w.b.String()...)
}

// Unmarshal reads the document; an error for a root element that is no feature event.
func (f *FeatureEvent) Unmarshal(b []byte) error {
	n, err := parse(b)
	if err != nil {
		return fmt.Errorf("feature event: %w", err)
	}
	*f = FeatureEvent{}
	dnd := func() *FeatureDND {
		return &FeatureDND{Device: n.child("device").text, On: n.child("doNotDisturbOn").text == "true"}
	}
	switch n.name {
	case "SetDoNotDisturb":
		f.SetDND = dnd()
	case "DoNotDisturbEvent":
		f.DND = dnd()
	case "SetForwarding":
		f.SetForward = &FeatureForward{
			Device: n.child("device").text, Type: n.child("forwardingType").text,
			On: n.child("activateForward").text == "true", Target: n.child("forwardDN").text,
		}
	case "ForwardingEvent":
		f.Forward = &FeatureForward{
			Device: n.child("device").text, Type: n.child("forwardingType").text,
			On: n.child("forwardStatus").text == "true", Target: n.child("forwardTo").text,
		}
	case "SetDoNotDisturbResponse", "SetForwardingResponse":
		f.Response = n.name
	default:
		return fmt.Errorf("feature event: root element %.40q", n.name)
	}
	return nil
}
