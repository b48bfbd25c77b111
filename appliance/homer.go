package appliance

import (
	"context"
	"log/slog"
	"net"

	"ringfence/internal/task"
	"ringfence/sip/trace"
)

// homer sends the messages of calls to a collector. What it cannot send at once is dropped: a trace must not delay a call.
type homer struct {
	log   *slog.Logger
	conn  net.Conn
	queue chan trace.Entry
	tasks *task.Group
}

const (
	maxTraced = 1024 // entries that wait
	agentID   = 2026 // our number as a capture agent
)

// newHomer begins to send to an address.
func newHomer(address string, log *slog.Logger) (*homer, error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return nil, err
	}
	h := &homer{log: log.With("component", "homer"), conn: conn, queue: make(chan trace.Entry, maxTraced)}
	h.tasks = task.NewGroup(context.Background(), log)
	h.tasks.Go("homer", h.run)
	return h, nil
}

// take does not block.
func (h *homer) take(e trace.Entry) {
	select {
	case h.queue <- e:
	default:
	}
}

func (h *homer) run(ctx context.Context) {
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-h.queue:
			_, err := h.conn.Write(trace.HEP(&e, agentID))
			if err != nil && !failed {
				h.log.Info("collector is not reached", "peer", h.conn.RemoteAddr().String(), "err", err)
			}
			failed = err != nil
		}
	}
}

func (h *homer) stop() error {
	h.tasks.Stop()
	return h.conn.Close()
}
