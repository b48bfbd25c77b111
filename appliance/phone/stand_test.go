package phone

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// moment is a note and the time that passes after it.
type moment struct {
	step, text string
	failed     bool
	then       time.Duration
}

func file(name string) moment { return moment{step: "file", text: "GET " + name + " 200, 4096 bytes"} }
func refused(name string) moment {
	return moment{step: "file", text: "GET " + name + " 404", failed: true}
}
func itl() moment { return moment{step: "trust", text: "RRQ ITLSEP001122AA0001.tlv, 3100 bytes"} }

func ok(step, text string) moment   { return moment{step: step, text: text} }
func fail(step, text string) moment { return moment{step: step, text: text, failed: true} }

func (m moment) wait(d time.Duration) moment { m.then = d; return m }

// times repeats moments.
func times(n int, ms ...moment) (out []moment) {
	for range n {
		out = append(out, ms...)
	}
	return out
}

func join(parts ...[]moment) (out []moment) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

const (
	plainFile  = "SEP001122AA0001.cnf.xml"
	signedName = "SEP001122AA0001.cnf.xml.sgn"
)

var (
	declared = Facts{Declared: true, Secure: true}
	stub     = ok("file", "asked for "+signedName+" over http, got the stub that makes it enrol: it has no certificate yet, signed")
	dial     = ok("file", "asked for dial-SEP001122AA0001.xml.sgn over http, got its dial template, signed")
	keys     = ok("file", "asked for keys-SEP001122AA0001.xml.sgn over http, got its soft keys, signed")
	fetched  = []moment{ok("trust", "asked for CTLSEP001122AA0001.tlv over http, not found"), itl(), file(plainFile), dial, keys}
	enrolled = append(join(fetched), ok("capf", "certificate 1f installed"))
	gotIn    = ok("register", "registered from 192.0.2.31 over TLS, load sip88xx.14-2-1, last reset cm-closed-tcp (4)")
)

func TestStand(t *testing.T) {
	hit := map[string]bool{}
	for _, c := range []struct {
		name    string
		facts   Facts
		moments []moment
		state   string
		rule    string
		missing Step
	}{
		{"never seen", declared, nil, StateUnseen, "never seen", File},
		{"nobody declared it and it never came", Facts{}, nil, StateUnseen, "", File},
		{"first morning under way", declared, fetched, StateBooting, "", CAPF},
		{"non-secure phone under way", Facts{Declared: true}, fetched, StateBooting, "", Register},
		{"enrolled, about to register", Facts{Declared: true, Secure: true, Certificate: true}, enrolled, StateBooting, "", Register},
		{"registered", Facts{Declared: true, Secure: true, Registered: true}, append(join(enrolled), gotIn), StateRegistered, "", ""},
		{"registered, record lost", Facts{Declared: true, Registered: true}, nil, StateRegistered, "", ""},
		{"multiplatform firmware", declared, []moment{ok("file", "DHCP from CP-8841-3PCC"), refused(plainFile)}, StateStuck, "multiplatform firmware", File},
		{"not declared", Facts{}, []moment{refused(plainFile), refused("XMLDefault.cnf.xml")}, StateWaiting, "not declared", File},
		{"foreign trust list, asking every 15 s", declared, times(5, itl(), file(signedName).wait(15*time.Second)), StateStuck, "foreign trust list", Trust},
		{"foreign trust list, encrypted before", declared, times(2, itl(), file("SEP001122AA0001.cnf.xml.enc.sgn").wait(time.Minute)), StateStuck, "foreign trust list", Trust},
		{"our own trust list: signed and further", declared, []moment{itl(), file(signedName), dial, ok("capf", "nothing to do")}, StateBooting, "", Register},
		{"our trust list, since it enrolled here", Facts{Declared: true, Secure: true, Certificate: true}, times(4, itl(), file(signedName).wait(15*time.Second)), StateStuck, "configuration rejected", File},
		{"our trust list, since it registered here", declared, join([]moment{gotIn.wait(time.Hour)}, times(4, itl(), file(signedName).wait(15*time.Second))), StateStuck, "configuration rejected", File},
		{"device file refused", declared, times(3, itl(), refused(plainFile).wait(20*time.Second)), StateStuck, "file cannot be made", File},
		{"transfer breaks off", declared, times(3, itl(), file(plainFile), fail("file", "asked for "+plainFile+" over http, and stopped taking it after 1400 of 9000 bytes").wait(20*time.Second)), StateStuck, "transfer breaks off", File},
		{"no longer passes the lint", declared, []moment{fail("file", "its new files are not served, phones would drop them: label too long")}, StateStuck, "file cannot be made", File},
		{"sealed file without a certificate", declared, []moment{itl(), file(plainFile), fail("file", "asked for SEP001122AA0001.cnf.xml.enc.sgn over http, not found: it has no certificate yet")}, StateStuck, "file cannot be made", File},
		{"refused at first only", declared, []moment{itl(), refused(plainFile), file(plainFile), dial}, StateBooting, "", CAPF},
		{"rejected as a whole", declared, times(4, itl(), file(plainFile), ok("file", "asked for AppDialRules.xml over http, not found").wait(15*time.Second)), StateStuck, "configuration rejected", File},
		{"every 45 s", declared, times(4, itl(), file(plainFile).wait(45*time.Second)), StateStuck, "no usable configuration arrives", File},
		{"our disk while enrolling", declared, append(join(fetched), fail("capf", "refused: server: pki: phone SEP001122AA0001: key: store has failed")), StateStuck, "enrolment fault of ours", CAPF},
		{"wrong code", declared, append(join(fetched), fail("capf", "refused: wrong code")), StateStuck, "enrolment code", CAPF},
		{"throttled", declared, append(join(fetched), fail("capf", "refused: too many wrong codes or proofs in the last 15 minutes, not looked at")), StateStuck, "enrolment code", CAPF},
		{"unknown to CAPF", declared, append(join(fetched), fail("capf", "refused: device \"SEP001122AA0001\" is not declared")), StateStuck, "enrolment not due", CAPF},
		{"lost after the certificate", declared, append(join(fetched), fail("capf", "connection lost after the certificate was sent; the enrolment stays due")), StateStuck, "certificate not installed", CAPF},
		{"phone made no key", declared, append(join(fetched), fail("capf", "refused: phone made no key: reason 7")), StateStuck, "enrolment key", CAPF},
		{"enrolment lost", declared, append(join(fetched), fail("capf", "connection lost while waiting")), StateStuck, "enrolment failed", CAPF},
		{"enrolment failed, then worked", declared, append(join(fetched), fail("capf", "refused: wrong code").wait(time.Second), ok("capf", "certificate installed")), StateBooting, "", Register},
		{"foreign certificate met", declared, append(join(fetched), fail("tvs", "asked about other.example.net: not one of ours, the phone will not trust it")), StateStuck, "certificate not vouched for", Trust},
		{"VPN certificate", declared, []moment{fail("vpn", "certificate refused: revoked")}, StateStuck, "VPN certificate", VPN},
		{"VPN policy", declared, []moment{fail("vpn", "log-in refused: authentication failed: policy staff does not accept certificates alone")}, StateStuck, "VPN policy", VPN},
		{"VPN pool", declared, []moment{fail("vpn", "log-in refused: no free address in the pool")}, StateStuck, "VPN addresses", VPN},
		{"VPN without entitlement", declared, []moment{fail("vpn", "certificate refused: device SEP001122AA0001 has no VPN policy")}, StateStuck, "VPN policy", VPN},
		{"VPN sessions", declared, []moment{fail("vpn", "log-in refused: too many sessions")}, StateStuck, "VPN addresses", VPN},
		{"VPN password", declared, []moment{fail("vpn", "log-in refused: authentication failed: name or password")}, StateStuck, "VPN log-in", VPN},
		{"wrong user", declared, append(join(enrolled), fail("register", "403, wrong user 302 in the answer")), StateStuck, "user of a secondary line", Register},
		{"wrong password", declared, append(join(enrolled), fail("register", "wrong password from 192.0.2.31")), StateStuck, "wrong password", Register},
		{"client certificate", declared, append(join(enrolled), fail("sip", "TLS handshake: unknown certificate authority")), StateStuck, "client certificate", Register},
		{"certificate of another device", declared, append(join(enrolled), fail("register", "the client certificate names SEP001122AA0002")), StateStuck, "client certificate", Register},
		{"no client certificate", declared, append(join(enrolled), fail("register", "encrypted mode, but the client gave no certificate")), StateStuck, "client certificate", Register},
		{"without TLS", declared, append(join(enrolled), fail("register", "encrypted mode, but the connection is not TLS")), StateStuck, "not over TLS", Register},
		{"two phones", Facts{Declared: true, Registered: true}, append(join(enrolled), gotIn, fail("register", "two phones use this name: 192.0.2.31 and 192.0.2.32")), StateRegistered, "two phones of one name", ""},
		{"too many connections", declared, append(join(enrolled), fail("sip", "connection limit of this address")), StateStuck, "too many", Register},
		{"unknown line", declared, append(join(enrolled), fail("register", "no such line 399")), StateStuck, "unknown line", Register},
		{"refused for another reason", declared, append(join(enrolled), fail("register", "400, no Contact")), StateStuck, "registration refused", Register},
		{"nonsense for SIP", declared, append(join(enrolled), fail("sip", "malformed start line")), StateStuck, "SIP connection", Register},
		{"CAPF never reached after the stub", declared, []moment{itl(), stub.wait(2 * time.Minute)}, StateStuck, "enrolment does not begin", CAPF},
		{"CAPF never reached", declared, join(fetched, []moment{dial.wait(2 * time.Minute)}), StateStuck, "enrolment does not begin", CAPF},
		{"non-secure phone never reaches SIP", Facts{Declared: true}, join(fetched, []moment{dial.wait(2 * time.Minute)}), StateStuck, "registration does not begin", Register},
		{"secure phone never reaches SIP", Facts{Declared: true, Secure: true, Certificate: true}, join(enrolled, []moment{dial.wait(2 * time.Minute)}), StateStuck, "registration does not begin", Register},
		{"fetched and no dial template", declared, []moment{itl(), file(plainFile).wait(2 * time.Minute)}, StateStuck, "configuration not accepted", File},
		{"trust list only", declared, []moment{itl().wait(2 * time.Minute)}, StateStuck, "device file not asked", File},
		{"firmware missing", declared, append(join(enrolled), times(2, refused("sip88xx.14-2-1.loads"))...), StateBooting, "firmware missing", Register},
		{"firmware missing, registered", Facts{Declared: true, Registered: true}, append(times(2, refused("sip88xx.14-2-1.loads")), gotIn), StateRegistered, "firmware missing", ""},
		{"unplugged", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "connection closed").wait(20*time.Minute)), StateStuck, "gone", Register},
		{"closed a moment ago", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "connection closed").wait(time.Minute)), StateBooting, "", File},
		{"restarting itself", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "told to restart"), ok("register", "unregistered cm-reset")), StateBooting, "", File},
		{"restarting itself by reason", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "unregistered, said goodbye: reset-restart")), StateBooting, "", File},
		{"said goodbye", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "unregistered, said goodbye: phone-keypad"), ok("register", "connection closed")), StateAway, "goodbye", ""},
		{"said goodbye long ago", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "unregistered, said goodbye").wait(5*time.Hour)), StateAway, "goodbye", ""},
		{"said goodbye and boots again", declared, append(join(enrolled), gotIn.wait(time.Hour), ok("register", "unregistered, said goodbye"), itl()), StateBooting, "", File},
		{"ran out", declared, append(join(enrolled), gotIn.wait(time.Hour), fail("register", "registration expired")), StateStuck, "gone", Register},
		{"an alarm is no registration", declared, append(join(enrolled), ok("register", "alarm LastTimeInit, ReasonForOutOfService 25 (before registration, from 192.0.2.31)")), StateBooting, "", Register},
		{"fell silent", Facts{Declared: true, Certificate: true, Secure: true}, append(join(enrolled), ok("register", "alarm LastTimeInit").wait(20*time.Minute)), StateStuck, "silent", File},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := NewRecorder(Options{Local: memory{}, Facts: func(string) Facts { return c.facts }})
				for _, m := range c.moments {
					r.Note(sep, m.step, m.text, m.failed)
					time.Sleep(m.then + time.Millisecond)
				}
				got := r.Stand(sep)
				rule := ""
				if got.Advice != nil {
					rule = got.Advice.Rule
					if got.Advice.What == "" || got.Advice.Do == "" || got.Advice.Page == "" || rule != "never seen" && got.Advice.Seen == nil {
						t.Errorf("incomplete advice: %+v", got.Advice)
					}
				}
				if got.State != c.state || rule != c.rule || got.Missing != c.missing {
					t.Errorf("got state %s, rule %q, missing %q; want %s, %q, %q\nrecord:\n%s", got.State, rule, got.Missing, c.state, c.rule, c.missing,
						strings.Join(brief(r.Record(sep)), "\n"))
				}
				if len(got.Steps) != len(bootOrder) {
					t.Errorf("%d steps", len(got.Steps))
				}
			})
		})
		hit[c.rule] = true
	}
	for _, r := range rules {
		if !hit[r.name] {
			t.Errorf("rule %q is not tested", r.name)
		}
	}
}

func TestStepsOfARegisteredPhone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		facts := declared
		r := NewRecorder(Options{Local: memory{}, Facts: func(string) Facts { return facts }})
		states := func() (out string) {
			for _, s := range r.Stand(sep).Steps {
				out += string(s.Step) + ":" + s.State + " "
			}
			return strings.TrimSpace(out)
		}
		for _, c := range []struct {
			m    moment
			want string
		}{
			{itl(), "file:missing trust:done capf:missing vpn:not needed register:missing"},
			{file(plainFile), "file:done trust:done capf:missing vpn:not needed register:missing"},
			{fail("capf", "refused: wrong code"), "file:done trust:done capf:failed vpn:not needed register:missing"},
			{ok("capf", "certificate installed"), "file:done trust:done capf:done vpn:not needed register:missing"},
			{ok("vpn", "tunnel up"), "file:done trust:done capf:done vpn:done register:missing"},
			{fail("register", "403, wrong password"), "file:done trust:done capf:done vpn:done register:failed"},
		} {
			r.Note(sep, c.m.step, c.m.text, c.m.failed)
			time.Sleep(time.Second)
			if got := states(); got != c.want {
				t.Errorf("after %q:\ngot  %s\nwant %s", c.m.text, got, c.want)
			}
		}
		r.Note(sep, "register", "registered over TLS", false)
		facts.Registered = true
		if got, want := states(), "file:done trust:done capf:done vpn:done register:done"; got != want {
			t.Errorf("registered: %s", got)
		}
		if s := r.Stand(sep); !s.Since.Equal(time.Now()) || s.Missing != "" {
			t.Errorf("registered since %v, missing %q", s.Since, s.Missing)
		}
	})
}

func TestRuleTextsAreForHumans(t *testing.T) {
	for _, r := range rules {
		for _, text := range []string{r.what, r.do} {
			if text == "" || strings.HasSuffix(text, ".") || strings.Contains(text, "\n") || len(text) > 500 {
				t.Errorf("rule %q: text %q", r.name, text)
			}
		}
		if r.page == "" || r.step == "" {
			t.Errorf("rule %q lacks page or step", r.name)
		}
	}
}
