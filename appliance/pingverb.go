package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"ringfence/appliance/admin"
)

// pong is one answer of `line ping`.
type pong struct {
	Line         string  `json:"line"`
	Peer         string  `json:"peer"`
	Code         int     `json:"code"` // 0: none
	Milliseconds float64 `json:"ms"`
	Error        string  `json:"error,omitempty"`
}

func pingVerb() admin.Verb {
	return admin.Verb{Name: "line ping", Args: "NUMBER", Min: 1, Max: 1, Short: "ask whoever is registered as a line whether they are there (OPTIONS)", Print: printPongs,
		Help: "A Cisco phone is asked at its first line, whichever of its lines is named."}
}

func (a *appliance) linePing(ctx context.Context, r admin.Request) (any, error) {
	number := r.Args[0]
	if err := a.knownLine(ctx, number); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answers, err := a.sip.State().Ping(ctx, number)
	if err != nil {
		return nil, admin.Refuse("line %s: %v", number, err)
	}
	out := make([]pong, len(answers))
	for i, p := range answers {
		out[i] = pong{Line: p.Line, Peer: p.Peer, Code: p.Code, Milliseconds: float64(p.Took.Microseconds()) / 1000}
		if p.Err != nil {
			out[i].Error = p.Err.Error()
		}
	}
	return out, nil
}

func printPongs(w io.Writer, answer json.RawMessage) error {
	var all []pong
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	for _, p := range all {
		said := fmt.Sprintf("answered %d after %.1f ms", p.Code, p.Milliseconds)
		if p.Error != "" {
			said = "did not answer: " + p.Error
		}
		if _, err := fmt.Fprintf(w, "%s at %s %s\n", p.Line, p.Peer, said); err != nil {
			return err
		}
	}
	return nil
}
