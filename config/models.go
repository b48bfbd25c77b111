package config

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// PhoneModel is what is known of a model of phone.
type PhoneModel struct {
	Model         string `json:"model"`
	Product       string `json:"product"` // CP-8851
	Series        string `json:"series"`  // 6900, 7800, 7900, 8800, 8900, 9900
	EncodingGroup string `json:"encoding_group"`
	FormFactor    string `json:"form_factor"`
	MaxCalls      int    `json:"max_calls_per_line"` // 0 where no reference tells
	LineKeys      int    `json:"line_keys"`

	ExpansionModules []string   `json:"expansion_modules"` // kinds that fit
	Screen           *Screen    `json:"screen"`
	Wallpaper        *Wallpaper `json:"wallpaper"`

	RingList      string `json:"ring_list"` // name of the ring list file
	UserLocaleJar string `json:"user_locale_jar"`
	TonesFile     string `json:"tones_file"`
	LoadPrefix    string `json:"load_prefix"`
	LayoutControl string `json:"layout_control"` // softkeys or featurePolicy
	BootProfile   string `json:"boot_profile"`
	Firmware      string `json:"firmware"`

	Video          bool     `json:"video"`
	VPN            bool     `json:"vpn"`
	TLSMax         string   `json:"tls_max"` // 1.0 or 1.2
	ECCertificates bool     `json:"ec_certificates"`
	SRTP           []string `json:"srtp"` // suites in order of preference
	SRTPTagBits    []int    `json:"srtp_tag_bits"`
	Bluetooth      bool     `json:"bluetooth"`
	WiFi           bool     `json:"wifi"`
	ProductTypeID  int      `json:"product_type_id"` // loadInformation<N> of XMLDefault.cnf.xml; 0 where unknown
	Transports     []string `json:"provisioning_transports"`
	MPPConvertible bool     `json:"mpp_convertible"`
}

// Screen is the display of a model.
type Screen struct {
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Type   string `json:"type"`
	Touch  bool   `json:"touch"`
}

// Wallpaper is what background images a model takes.
type Wallpaper struct {
	Dir           string `json:"dir"`
	Width         int    `json:"width"`
	Height        int    `json:"height"`
	Depth         int    `json:"depth"`
	PreviewWidth  int    `json:"preview_width"`
	PreviewHeight int    `json:"preview_height"`
	Type          string `json:"type"`
}

// ExpansionModule is a side car with further keys.
type ExpansionModule struct {
	Name      string     `json:"-"`
	Keys      int        `json:"lines"`
	Series    string     `json:"series"`
	Models    []string   `json:"models"`
	NeedsLoad bool       `json:"needs_load"`
	Wallpaper *Wallpaper `json:"wallpaper"`
}

// Encoding holds the numbers by which the models of one encoding group write off, on, and, for the 7900 series, their locked
// forms.
type Encoding map[string]int

type modelTable struct {
	Encodings map[string]map[string]Encoding `json:"encodings"`
	Modules   map[string]ExpansionModule     `json:"expansion_modules"`
	Models    []PhoneModel                   `json:"models"`
}

//go:embed phone-models.json
var modelsJSON []byte

var models = sync.OnceValue(func() *modelTable {
	t := &modelTable{}
	if err := json.Unmarshal(modelsJSON, t); err != nil {
		panic(fmt.Sprintf("config: embedded phone-models.json: %v", err))
	}
	return t
})

// Model finds a model by its number, as in 8851.
func Model(name string) (PhoneModel, bool) {
	t := models()
	i := slices.IndexFunc(t.Models, func(m PhoneModel) bool { return m.Model == name })
	if i < 0 {
		return PhoneModel{}, false
	}
	return t.Models[i], true
}

// Models lists every known model.
func Models() []PhoneModel { return slices.Clone(models().Models) }

// Module finds an expansion module by its name, as in BEKEM.
func Module(name string) (ExpansionModule, bool) {
	m, ok := models().Modules[name]
	m.Name = name
	return m, ok
}

// Encode gives the number by which a model writes the state (off, on, off_locked, on_locked) of one of the elements whose
// coding differs between series: anonymousCallBlock, callerIdBlocking, callWaiting, callLogBlfEnabled.
func (m PhoneModel) Encode(element, state string) (int, bool) {
	n, ok := models().Encodings[m.EncodingGroup][element][state]
	return n, ok
}

func modelNames() []string {
	var out []string
	for _, m := range models().Models {
		out = append(out, m.Model)
	}
	return out
}
