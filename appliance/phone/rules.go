package phone

import (
	"regexp"
	"time"
)

// rule recognises one way of being stuck. Rules are tried in the order of the table, special before general; the first that
// matches speaks. match returns the entry that shows it, or nil.
type rule struct {
	name  string
	page  string // where the protocol pages say so
	step  Step   // that the phone does not get beyond
	warn  bool   // also told of a registered phone: it works, but not all of it
	state string // where it stands then; stuck when empty
	match func(f *facts) *Entry
	what  string
	do    string
}

// settle is the time that a phone may take between two steps: fetching over TFTP takes one 45 s (provisioning.md §3.1).
const settle = 90 * time.Second

// silent: a phone that wants to register tries again at least every three minutes (sip-registration.md §4).
const silent = 10 * time.Minute

const (
	eraseTrustList = "on the phone: Settings, (Admin Settings), Security, Trust List, ITL File, unlock with **#, Erase; models without that entry: reset security settings; " +
		"last resort: hold # at power-on until the line keys blink, then 123456789*0#"
	checkDevice = "run ringfence config check, look for what was changed last (key count, label length, names of files), and restart the phone"
)

var (
	wordsCode        = regexp.MustCompile(`(?i)code|password|proof|no certificate given|too many wrong`)
	wordsUnknown     = regexp.MustCompile(`(?i)unknown|not declared|not due`)
	wordsAfterSent   = regexp.MustCompile(`(?i)after the certificate|did not store`)
	wordsKey         = regexp.MustCompile(`(?i)public key|no key|key generation`)
	wordsCertificate = regexp.MustCompile(`(?i)certificate|handshake`)
	wordsGroup       = regexp.MustCompile(`(?i)policy|group|member`)
	wordsPool        = regexp.MustCompile(`(?i)pool|no (?:free )?address|exhausted|sessions? limit|too many sessions`)
	wordsUser        = regexp.MustCompile(`(?i)\b(?:wrong|other|unknown|unexpected|foreign) (?:digest )?user|user(?:name)? .*(?:instead|not |is )|secondary`)
	wordsPassword    = regexp.MustCompile(`(?i)password|\b403\b|digest|credential|secret`)
	wordsTransfer    = regexp.MustCompile(`(?i)stopped taking|aborted|cut off`)
	wordsOurs        = regexp.MustCompile(`(?i)^refused: server:`)
	wordsNotTLS      = regexp.MustCompile(`(?i)is not TLS|not over TLS`)
	wordsTwo         = regexp.MustCompile(`(?i)two phones`)
	wordsLine        = regexp.MustCompile(`(?i)\b404\b|no such line|unknown line|line .*(?:not|is)|not (?:a )?line`)
	wordsLimit       = regexp.MustCompile(`(?i)limit|too many|throttl|overload|\b503\b`)
	wordsMPP         = regexp.MustCompile(`(?i)-3PCC\b|multiplatform`)
)

// rules is the table. Sections without a page name are of provisioning.md.
var rules = []rule{
	{
		name: "multiplatform firmware", page: "§2", step: File,
		match: func(f *facts) *Entry {
			for i := range f.entries {
				if f.entries[i].class&isMultiplatform != 0 {
					return &f.entries[i]
				}
			}
			return nil
		},
		what: "the phone runs multiplatform (3PCC) firmware, which is another product and does not read these files",
		do:   "convert it to enterprise firmware with the vendor's migration load, or use it as another vendor's phone: a line without phone",
	},
	{
		name: "not declared", page: "§3.1", step: File,
		match: func(f *facts) *Entry {
			if !f.Declared {
				return f.any(File, Trust, CAPF, TVS, VPN, Register, SIP)
			}
			return nil
		},
		what: "the phone asks, but the configuration does not declare it, so it gets no file",
		do:   "add it under phones: with its device name and model, give it a line, and apply; it comes back by itself within a minute",
	},
	{
		name: "foreign trust list", page: "§1.2, §1.3", step: Trust,
		match: func(f *facts) *Entry {
			trusts := f.ever || f.Certificate || f.ok(CAPF) != nil || f.any(TVS, VPN, Register, SIP) != nil
			if f.signed != nil && !f.plainAny && f.accepted == nil && !trusts && f.asked >= 2 {
				return f.signed
			}
			return nil
		},
		what: "the phone asks only for signed files and goes no further: it still holds another system's trust list and rejects ours without showing why",
		do:   "run ringfence trust recover with its name, which says what can be done from here; else " + eraseTrustList,
	},
	{
		name: "transfer breaks off", page: "§3", step: File,
		match: func(f *facts) *Entry {
			if f.refused != nil && wordsTransfer.MatchString(f.refused.Text) && (f.deviceFile == nil || !f.deviceFile.Last.After(f.refused.Last)) {
				return f.refused
			}
			return nil
		},
		what: "the phone asks for its device file but stops taking it half-way",
		do:   "look for a firewall, packet loss or a small MTU between phone and appliance; over a VPN lower the policy's mtu:",
	},
	{
		name: "file cannot be made", page: "§4", step: File,
		match: func(f *facts) *Entry {
			if f.refused != nil && (f.deviceFile == nil || f.refused.Last.After(f.deviceFile.Last)) {
				return f.refused
			}
			return nil
		},
		what: "no usable configuration: the phone asks for its device file and is refused",
		do:   "see the reason in the record; run ringfence config check, and look at the daemon's log for the phone's name",
	},
	{
		name: "configuration rejected", page: "§1.3, §4", step: File,
		match: func(f *facts) *Entry {
			if f.accepted == nil && f.any(CAPF, Register) == nil && again(f.deviceFile, 3, 5*time.Second, 28*time.Second) {
				return f.deviceFile
			}
			return nil
		},
		what: "the phone fetches its device file again about every 15 s: it rejects the document as a whole; the screen redraws and keys seem dead",
		do:   checkDevice + "; a wrong model in phones: makes such files, too",
	},
	{
		name: "no usable configuration arrives", page: "§1.3", step: File,
		match: func(f *facts) *Entry {
			if f.accepted == nil && f.any(CAPF, Register) == nil && again(f.deviceFile, 3, 28*time.Second, 75*time.Second) {
				return f.deviceFile
			}
			return nil
		},
		what: "the phone goes through the same short list of files about every 45 s: no usable configuration arrives",
		do:   "the answer is lost or cut on its way: look for a firewall or a small MTU between phone and appliance, and try the other transport (HTTP 6970 or TFTP)",
	},
	{
		name: "enrolment fault of ours", page: "capf.md §8", step: CAPF,
		match: func(f *facts) *Entry { return f.failure(wordsOurs, CAPF) },
		what:  "enrolment failed on the appliance's side",
		do:    "see the reason in the record and the daemon's log for the phone's name; ringfence status shows whether the store or the authority is down",
	},
	{
		name: "enrolment code", page: "capf.md §8", step: CAPF,
		match: func(f *facts) *Entry { return f.failure(wordsCode, CAPF) },
		what:  "enrolment refused: the code or proof was wrong",
		do:    "type the phone's capf_code at the phone (Settings, Security, LSC, Update), or set pki.lsc.auth: null_string; after too many wrong codes wait a quarter of an hour",
	},
	{
		name: "enrolment not due", page: "capf.md §8", step: CAPF,
		match: func(f *facts) *Entry { return f.failure(wordsUnknown, CAPF) },
		what:  "enrolment refused: the appliance knows no such device or nothing is due for it",
		do:    "compare the device name in phones: with the label on the phone's back",
	},
	{
		name: "certificate not installed", page: "capf.md §7, §8", step: CAPF,
		match: func(f *facts) *Entry { return f.failure(wordsAfterSent, CAPF) },
		what:  "the certificate was issued, but the phone did not confirm that it stored it",
		do:    "the phone tries again at 30 s intervals; when it keeps failing, erase its LSC (Settings, Security, LSC, Erase) and restart it",
	},
	{
		name: "enrolment key", page: "capf.md §5", step: CAPF,
		match: func(f *facts) *Entry { return f.failure(wordsKey, CAPF) },
		what:  "the phone could not make a key of the kind that was asked",
		do:    "set lsc_key: rsa2048 for this phone",
	},
	{
		name: "enrolment failed", page: "capf.md §8", step: CAPF,
		match: func(f *facts) *Entry { return f.failure(nil, CAPF) },
		what:  "enrolment failed",
		do:    "the phone tries again at 30 s intervals and at its next start; when it keeps failing, see the reason in the record and whether something between phone and appliance closes connections to the CAPF port",
	},
	{
		name: "certificate not vouched for", page: "tvs.md §3", step: Trust,
		match: func(f *facts) *Entry { return f.failure(nil, TVS) },
		what:  "the phone met a certificate that this appliance does not know and asked about it",
		do:    "something else answers on an address of this appliance (another call manager, a TLS proxy), or the phone's list is from an earlier life of it: restart the phone; if it stays, erase its trust list",
	},
	{
		name: "VPN certificate", page: "anyconnect.md §2, §4", step: VPN,
		match: func(f *facts) *Entry {
			if e := f.failure(wordsCertificate, VPN); e != nil && !wordsGroup.MatchString(e.Text) {
				return e
			}
			return nil
		},
		what: "VPN log-in refused: the phone's certificate is not accepted",
		do:   "see the reason in the record; a revoked, expired or foreign certificate is replaced by starting the phone once inside the network, where it enrols again",
	},
	{
		name: "VPN policy", page: "anyconnect.md §4", step: VPN,
		match: func(f *facts) *Entry { return f.failure(wordsGroup, VPN) },
		what:  "VPN log-in refused: the policy does not take this phone or this way to log in",
		do:    "set vpn: of the phone to a policy whose auth: lists certificate",
	},
	{
		name: "VPN addresses", page: "anyconnect.md §9", step: VPN,
		match: func(f *facts) *Entry { return f.failure(wordsPool, VPN) },
		what:  "VPN log-in refused: no address or session is free",
		do:    "enlarge pool: or max_sessions: of the policy, or end stale ones (ringfence vpn sessions)",
	},
	{
		name: "VPN log-in", page: "anyconnect.md §4", step: VPN,
		match: func(f *facts) *Entry { return f.failure(nil, VPN) },
		what:  "VPN log-in refused",
		do:    "type user name and password again at the phone; after many wrong ones wait until the throttle lets go",
	},
	{
		name: "two phones of one name", page: "sip-registration.md", step: Register, warn: true,
		match: func(f *facts) *Entry { return f.failure(wordsTwo, Register) },
		what:  "two phones use this name and keep taking the registration from each other",
		do:    "find the one that is not it by the addresses in the record; a phone whose configuration was copied, or a softphone with this device's password, must be changed",
	},
	{
		name: "not over TLS", page: "§14", step: Register,
		match: func(f *facts) *Entry { return f.failure(wordsNotTLS, Register) },
		what:  "the phone is declared encrypted but registers without TLS, so it runs on an old device file",
		do:    "restart the phone so that it fetches its file and enrols; or set security: nonsecure",
	},
	{
		name: "user of a secondary line", page: "§1.3, §5", step: Register,
		match: func(f *facts) *Entry { return f.failure(wordsUser, Register) },
		what:  "the phone accepted its configuration but registers with a wrong user: a secondary line carries credentials of its own",
		do:    "restart the phone so that it fetches the generated file, in which only the first line has credentials; if that does not help, erase its configuration",
	},
	{
		name: "client certificate", page: "sip-registration.md §1", step: Register,
		match: func(f *facts) *Entry { return f.failure(wordsCertificate, Register, SIP) },
		what:  "the phone reaches the TLS port, but the connection is refused over certificates",
		do:    "when the phone refuses ours its trust list is foreign or old: " + eraseTrustList + "; when we refuse the phone's: it has to enrol again, restart it inside the network",
	},
	{
		name: "wrong password", page: "sip-registration.md §4", step: Register,
		match: func(f *facts) *Entry { return f.failure(wordsPassword, Register) },
		what:  "registration rejected: the phone answers with a wrong password, so it runs on an old device file",
		do:    "restart the phone so that it fetches its file; when it then goes no further than its files, it rejects them: see whether it asks for signed files only, and erase its trust list",
	},
	{
		name: "too many", page: "sip-registration.md §4", step: Register,
		match: func(f *facts) *Entry { return f.failure(wordsLimit, Register, SIP) },
		what:  "registration put off: a limit of connections or guesses is reached for this address",
		do:    "wait a few minutes; many phones behind one address need a higher sip.max_flows_per_source",
	},
	{
		name: "unknown line", page: "sip-registration.md §4", step: Register,
		match: func(f *facts) *Entry { return f.failure(wordsLine, Register) },
		what:  "the phone registers a number that is not its line",
		do:    "it runs on an old device file: restart it; check that the line with index 1 names this phone",
	},
	{
		name: "registration refused", page: "sip-registration.md §4", step: Register,
		match: func(f *facts) *Entry { return f.failure(nil, Register) },
		what:  "registration refused",
		do:    "see the reason in the record, then restart the phone so that it fetches its file",
	},
	{
		name: "SIP connection", page: "sip-overview.md", step: Register,
		match: func(f *facts) *Entry {
			if f.any(Register) == nil {
				return f.failure(nil, SIP)
			}
			return nil
		},
		what: "the phone connects for SIP but sends nothing that can be served",
		do:   "see the reason in the record; a phone whose device file is from another system shows this, too",
	},
	{
		name: "enrolment does not begin", page: "§1, capf.md §1", step: CAPF,
		match: func(f *facts) *Entry {
			fetched := later(f.deviceFile, f.accepted)
			told := f.accepted != nil || f.deviceFile != nil && f.deviceFile.class&isStub != 0
			if f.Secure && !f.Certificate && told && f.any(CAPF, Register) == nil && f.quiet(fetched, settle) {
				return fetched
			}
			return nil
		},
		what: "the phone fetched a file that tells it to enrol, but it never came to the CAPF port",
		do:   "TCP port 3804 must reach the appliance; a phone that does not trust the CAPF certificate hangs up before it says its name: erase its trust list then",
	},
	{
		name: "registration does not begin", page: "§1", step: Register,
		match: func(f *facts) *Entry {
			if f.accepted != nil && f.any(Register, SIP) == nil && f.quiet(later(f.accepted, f.any(CAPF, VPN)), settle) {
				return f.accepted
			}
			return nil
		},
		what: "the phone accepted its configuration but never came to the SIP port",
		do:   "TCP ports 5060 and 5061 must reach the appliance at node.address; a phone in encrypted mode also needs our certificate in its trust list with the role CCM: restart it once more",
	},
	{
		name: "configuration not accepted", page: "§1.3", step: File,
		match: func(f *facts) *Entry {
			if f.accepted == nil && f.any(CAPF, Register, SIP) == nil && f.quiet(f.deviceFile, settle) {
				return f.deviceFile
			}
			return nil
		},
		what: "the phone fetched its device file but never asked for the dial template that it names: it did not accept the file",
		do:   checkDevice + "; if it asks for signed files only, erase its trust list",
	},
	{
		name: "device file not asked", page: "§1", step: File,
		match: func(f *facts) *Entry {
			if f.deviceFile == nil && f.refused == nil && f.any(CAPF, VPN, Register, SIP) == nil && f.quiet(f.trust, settle) {
				return f.trust
			}
			return nil
		},
		what: "the phone asked for trust lists but never for its device file",
		do:   "it lost the network or restarts in the middle of its boot: check cable, switch port and power; a trust list is answered at once even when there is none",
	},
	{
		name: "goodbye", page: "sip-registration.md §4", step: Register, state: StateAway,
		match: (*facts).goodbye,
		what:  "the phone said goodbye and is not registered",
		do:    "nothing, unless it should be here: it was switched off or told to leave, or it moved to another appliance; the record has its reason",
	},
	{
		name: "gone", page: "sip-registration.md §7", step: Register,
		match: func(f *facts) *Entry {
			var last *Entry
			for i := range f.entries {
				last = later(last, &f.entries[i])
			}
			switch {
			case f.registered == nil:
			case last != nil && isGone(last) && last.Failed: // it ran out: silent for longer than a registration lasts
				return last
			case f.now.Sub(f.newest) > silent:
				return later(f.registered, last)
			}
			return nil
		},
		what: "the phone was registered and has been silent since: it is off, unplugged or its network is down",
		do:   "check power and network at the phone; when it comes back it registers by itself",
	},
	{
		name: "silent", page: "§1", step: File,
		match: func(f *facts) *Entry {
			for i := range f.entries {
				if e := &f.entries[i]; e.Last.Equal(f.newest) && f.now.Sub(f.newest) > silent {
					return e
				}
			}
			return nil
		},
		what: "the phone began to boot and fell silent",
		do:   "check power and network at the phone, and restart it",
	},
	{
		name: "firmware missing", page: "§1.3, §1.5", step: File, warn: true,
		match: func(f *facts) *Entry {
			if f.firmware != nil && f.firmware.Count >= 2 {
				return f.firmware
			}
			return nil
		},
		what: "the phone asks for firmware files that are not there, and will do so at every boot",
		do:   "remove load: of the phone, or provide the files of that load",
	},
}

// unseen is told of a declared phone without any record.
var unseen = Advice{
	Rule: "never seen", Page: "§1, §2", Step: File,
	What: "the phone never asked for anything",
	Do: "its network must hand out this appliance's address as DHCP option 150 (or 66), or set it as Alternate TFTP at the phone; HTTP 6970 and TFTP 69 must reach the appliance; " +
		"compare the device name with the label on the phone's back",
}
