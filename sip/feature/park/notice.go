package park

import (
	"fmt"
	"strconv"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
)

// notice is the document that Park Monitor gets ("sip-calls" §10). The misspelt name spaces are part of the interface, and
// entity has no scheme.
func notice(slot, host, event string, version int) []byte {
	state := "terminated"
	if event == "parked" || event == "reminder" {
		state = "confirmed"
	}
	uri := "sip:" + slot + "@" + host
	return []byte(`<?xml version="1.0" encoding="UTF-8"?>
<dialog-info xmlns="urn:ietf:parmams:xml:ns:dialog-info" xmlns:call="urn:x-cisco:parmams:xml:ns:dialog-info:dialog:callinfo-dialog" ` +
		`xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="` + strconv.Itoa(version) + `" state="full" entity="` + slot + "@" + host + `">
<dialog id="` + slot + `">
<state>` + state + `</state>
<call:park><event>` + event + `</event></call:park>
<local><identity display="">` + uri + `</identity></local>
<remote><identity display="">` + uri + `</identity></remote>
</dialog>
</dialog-info>
`)
}

// note tells the parker's phone what has become of the call, if it asked.
func (s *slot) note(event, host string) {
	if s.key == nil {
		return
	}
	s.notes++
	state := "terminated;reason=noresource"
	if event == "parked" || event == "reminder" {
		state = fmt.Sprintf("active;expires=%d", s.lot.Seconds)
	}
	s.key.Notify(state, cisco.TypeDialogInfo, notice(s.number, host, event, s.notes))
}

// hostOf is the server's address as it stands in the notices.
func hostOf(c *call.Call) string { return c.Manager().Address().String() }
