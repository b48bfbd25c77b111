package serve

import (
	"context"
	"net"
	"net/http"
	"time"

	"ringfence/internal/task"
)

// drain is how long answers that are under way may take when a server stops: a phone that loses half a file starts over
// elsewhere.
const drain = 2 * time.Second

// HTTP serves ln by srv for Life.Run: when group is stopped, what is being answered may end.
func HTTP(srv *http.Server, ln net.Listener, group *task.Group) error {
	group.Go("drain", func(ctx context.Context) {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(ln)
	if group.Context().Err() == nil {
		srv.Close()
	}
	return err
}
