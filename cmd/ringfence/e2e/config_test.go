package e2e

import "strings"

// morning is the main job's configuration: two Cisco phones with three lines, one VPN policy, and a softphone's line.
const morning = `
node:
  name: pbx-{{.N}}
  address: {{.Address}}
  listen:
    provision_http: {{.Address}}:6970
    provision_https: {{.Address}}:6971
    tftp: {{.Address}}:69
    capf: {{.Address}}:3804
    tvs: {{.Address}}:2445
    ntp: {{.Address}}:123
    sip_tcp: {{.Address}}:5060
    sip_udp: {{.Address}}:5060
    sip_tls: {{.Address}}:5061
    vpn: {{.Address}}:443
    certs: {{.Address}}:6974
    metrics: {{.Address}}:9090
  media:
    address: {{.Address}}
  tunnel:
    device: rf{{.N}}
site:
  name: Example
  domain: pbx.example.com
  time_zone: Europe/Berlin
vpn:
  hosts: ["{{.Address}}"]
  policies:
    - id: phones
      pool: {{.Pool}}.0/24
numbering:
  extensions: "3XX"
users:
  - {id: ada, name: Ada, password: "` + vpnPassword + `", vpn: phones}
  - {id: ben, name: "Ben <&> Söhne"}
  - {id: cleo, name: Cleo}
phones:
  - device: SEP001122AA0001
    model: "8851"
    password: "` + adaPassword + `"
    vpn: phones
    keys: [{blf: "302", label: Ben}]
  - device: SEP001122AA0002
    model: "8841"
    password: "` + benPassword + `"
    keys: [{blf: "301", label: Ada}]
lines:
  - {number: "301", user: ada, phone: SEP001122AA0001, index: 1}
  - {number: "311", user: ada, phone: SEP001122AA0001, index: 2}
  - {number: "302", user: ben, phone: SEP001122AA0002, index: 1, ring_seconds: 4}
  - {number: "303", user: cleo, password: "` + cleoPassword + `"}
`

// Secrets of the configurations above; the leak test searches for each.
const (
	vpnPassword  = "Tunnel7Kestrel42"
	adaPassword  = "k7Qm2Vx9RtPwAda1"
	benPassword  = "x4Zn8Lb3YsGhBen2"
	cleoPassword = "w9Tc5Jd6UkMfCleo"
)

// three is morning with a third phone, a 7900 in the clear.
var three = strings.Replace(strings.Replace(morning, "lines:\n", `  - device: SEP001122AA0003
    model: "7965"
    security: nonsecure
    password: "`+cleoPassword+`"
    keys: [{blf: "302", label: Ben}]
lines:
`, 1), `  - {number: "303", user: cleo, password: "`+cleoPassword+`"}`, `  - {number: "303", user: cleo, phone: SEP001122AA0003, index: 1}`, 1)
