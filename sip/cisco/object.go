package cisco

import "encoding/xml"

// Objects of the phone's XML interface that go with a datapassthrough request (sip-calls.md §6, §17, §18).

type execute struct {
	XMLName xml.Name `xml:"CiscoIPPhoneExecute"`
	Items   []executeItem
}

type executeItem struct {
	XMLName xml.Name `xml:"ExecuteItem"`
	URL     string   `xml:"URL,attr"`
}

// Execute is the object that makes a phone follow URIs: a page, Play:FILE, Init:Services.
func Execute(urls ...string) []byte {
	var e execute
	for _, u := range urls {
		e.Items = append(e.Items, executeItem{URL: u})
	}
	return object(e)
}

// TextScreen is a text with soft keys.
type TextScreen struct {
	XMLName xml.Name    `xml:"CiscoIPPhoneText"`
	Title   string      `xml:"Title"`
	Text    string      `xml:"Text"`
	Prompt  string      `xml:"Prompt"`
	Keys    []ScreenKey `xml:"SoftKeyItem"`
}

// ScreenKey is a soft key of a screen.
type ScreenKey struct {
	Name     string `xml:"Name"`
	Position int    `xml:"Position"`
	URL      string `xml:"URL"`
}

// Marshal writes the object.
func (t *TextScreen) Marshal() []byte { return object(t) }

func object(v any) []byte {
	body, err := xml.MarshalIndent(v, "", "")
	if err != nil {
		return nil // plain strings always marshal
	}
	return append([]byte(xml.Header), body...)
}
