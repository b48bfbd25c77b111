package e2e

// morning is the main job's configuration: two Cisco phones with three lines, one VPN policy, and a softphone's line.
const morning = `
node:
  name: pbx-a
  address: {{.Address}}
  listen:
    provision_http: {{.Address}}:{{.HTTP}}
    provision_https: {{.Address}}:{{.HTTPS}}
    tftp: {{.Address}}:{{.TFTP}}
    capf: 0.0.0.0:{{.CAPF}}
    tvs: 0.0.0.0:{{.TVS}}
    sip_tcp: 0.0.0.0:{{.SIP}}
    sip_udp: 127.0.0.1:{{.SIP}}
    sip_tls: 0.0.0.0:{{.SIPS}}
    vpn: {{.Address}}:{{.VPN}}
    metrics: 127.0.0.1:{{.Metrics}}
  media:
    address: 0.0.0.0
    ports: ` + "{{.Media}}-{{.MediaLast}}" + `
  tunnel:
    device: rf{{.HTTP}}
site:
  name: Example
  domain: pbx.example.com
  time_zone: Europe/Berlin
vpn:
  hosts: ["{{.Address}}:{{.VPN}}"]
  policies:
    - id: phones
      pool: 100.64.77.0/24
numbering:
  extensions: "3XX"
  emergency: ["112"]
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
    model: "7965"
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
