package phone

import "crypto/tls"

// manners are the habits of a model, from provisioning §14, sip-registration §11, sip-state §14 and sip-calls §33.
type manners struct {
	series   string
	product  string // CP-…, in the TVS device name
	agent    string // User-Agent of SIP
	typeID   string // model.ccm.cisco.com
	load     string // running load, in the Reason header
	lineKeys int
	jar      string // user locale file

	http    bool   // asks HTTP 6970 before TFTP
	https   bool   // understands list version 1.1: HTTPS 6971, EC keys
	maxTLS  uint16 // highest version as a client
	rsaKX   bool   // TLS by RSA key exchange only
	suites  []string
	sis     string // X-cisco-sis version
	strict  bool   // answers 400 when host and port of the Request-URI are not its own
	oneLoad bool   // Reason has Load= in place of ActiveLoad= and InactiveLoad=
	oneChar bool   // off-hook NOTIFY carries one character of the name in From, To and Request-URI
	codecs  []audioFormat
}

// The SRTP suites by their SDES names.
const (
	suite80     = "AES_CM_128_HMAC_SHA1_80"
	suite32     = "AES_CM_128_HMAC_SHA1_32"
	suiteGCM128 = "AEAD_AES_128_GCM"
	suiteGCM256 = "AEAD_AES_256_GCM"
)

// audioFormat is one entry of the phone's offer.
type audioFormat struct {
	pt     int
	rtpmap string
	fmtp   string
}

// Codec order of a recorded 7800/8800 offer (calls §2.1).
var codecs8800 = []audioFormat{
	{114, "opus/48000/2", "maxplaybackrate=16000;sprop-maxcapturerate=16000;maxaveragebitrate=64000;stereo=0;sprop-stereo=0;usedtx=0"},
	{9, "G722/8000", ""},
	{113, "AMR-WB/16000", "octet-align=0;mode-change-capability=2"},
	{115, "AMR-WB/16000", "octet-align=1;mode-change-capability=2"},
	{0, "PCMU/8000", ""},
	{8, "PCMA/8000", ""},
	{116, "iLBC/8000", "mode=20"},
	{18, "G729/8000", "annexb=yes"},
}

// Codecs of the 7900 from the table of calls §27.3; their order is not recorded there.
var codecs7900 = []audioFormat{
	{102, "L16/16000", ""},
	{9, "G722/8000", ""},
	{0, "PCMU/8000", ""},
	{8, "PCMA/8000", ""},
	{116, "iLBC/8000", "mode=20"},
	{124, "ISAC/16000", ""},
	{18, "G729/8000", "annexb=no"},
}

var series7900 = manners{
	series: "7900", load: "SIP45.9-4-2SR3-1S", maxTLS: tls.VersionTLS10, rsaKX: true, suites: []string{suite32},
	sis: "6.0.0", oneLoad: true, oneChar: true, codecs: codecs7900,
}

var series6900 = manners{
	series: "6900", load: "SIP69xx.9-4-1-3SR3", maxTLS: tls.VersionTLS10, suites: []string{suite80, suite32},
	sis: "5.1.0", codecs: codecs7900,
}

var series8900 = manners{
	series: "8900", load: "SIP894x.9-3-1-18", http: true, maxTLS: tls.VersionTLS10, suites: []string{suite80, suite32},
	sis: "6.0.0", codecs: codecs7900,
}

var series9900 = manners{
	series: "9900", load: "sip9951.9-4-2SR3-1", http: true, maxTLS: tls.VersionTLS10, suites: []string{suite80, suite32},
	sis: "6.0.0", codecs: codecs7900,
}

var series7800 = manners{
	series: "7800", load: "sip78xx.14-1-1-0001-136", http: true, https: true, maxTLS: tls.VersionTLS12,
	suites: []string{suite80, suite32}, sis: "7.0.0", strict: true, codecs: codecs8800,
}

var series8800 = manners{
	series: "8800", load: "sip88xx.14-2-1-0101-58", http: true, https: true, maxTLS: tls.VersionTLS12,
	suites: []string{suite80, suite32}, sis: "7.0.0", strict: true, codecs: codecs8800,
}

func model(base manners, product, agent, typeID string, keys int, jar string) manners {
	base.product, base.agent, base.typeID, base.lineKeys, base.jar = product, agent, typeID, keys, jar
	return base
}

// Type numbers, keys and locale files are those of vectors/phone-models.json.
var models = map[string]manners{
	"6921": model(series6900, "CP-6921", "Cisco-CP6921/9.4.1", "496", 2, "rtl-sip.jar"),
	"6941": model(series6900, "CP-6941", "Cisco-CP6941/9.4.1", "495", 4, "rtl-sip.jar"),
	"6961": model(series6900, "CP-6961", "Cisco-CP6961/9.4.1", "497", 12, "rtl-sip.jar"),
	"7821": model(series7800, "CP-7821", "Cisco-CP7821/14.1.1", "621", 2, "sp-sip.jar"),
	"7841": model(series7800, "CP-7841", "Cisco-CP7841/14.1.1", "622", 4, "sp-sip.jar"),
	"7861": model(series7800, "CP-7861", "Cisco-CP7861/14.1.1", "623", 16, "sp-sip.jar"),
	"7942": model(series7900, "CP-7942G", "Cisco-CP7942G/9.4.2", "434", 2, "mk-sip.jar"),
	"7945": model(series7900, "CP-7945G", "Cisco-CP7945G/9.4.2", "435", 2, "be-sip.jar"),
	"7962": model(series7900, "CP-7962G", "Cisco-CP7962G/9.4.2", "404", 6, "mk-sip.jar"),
	"7965": model(series7900, "CP-7965G", "Cisco-CP7965G/9.4.2", "436", 6, "be-sip.jar"),
	"7975": model(series7900, "CP-7975G", "Cisco-CP7975G/9.4.2", "437", 8, "td-sip.jar"),
	"8841": model(series8800, "CP-8841", "Cisco-CP8841/14.2.1", "683", 5, "sl-be-sip.jar"),
	"8851": model(series8800, "CP-8851", "Cisco-CP8851/14.2.1", "684", 5, "sl-be-sip.jar"),
	"8861": model(series8800, "CP-8861", "Cisco-CP8861/14.2.1", "685", 5, "sl-be-sip.jar"),
	"8945": model(series8900, "CP-8945", "Cisco-CP8945/9.3.1", "585", 4, "gb-sccp-sip.jar"),
	"9951": model(series9900, "CP-9951", "Cisco-CP9951/9.4.2", "537", 5, "lk-sip.jar"),
	"9971": model(series9900, "CP-9971", "Cisco-CP9971/9.4.2", "493", 6, "gd-sip.jar"),
}
