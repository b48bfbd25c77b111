package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what a Unix address holds (unix(7)).
const maxSocketPath = 107

// maxControlConns bounds the connections to the control socket; further ones wait.
const maxControlConns = 32

// listenSocket binds path with mode 0600 and makes its folder when missing. A socket that a dead daemon left is replaced, one
// that answers or a file of another kind is not.
func listenSocket(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("control socket %s: path of %d bytes, at most %d: choose a shorter --socket", path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("control socket %s: a file of another kind is in the way", path)
		}
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("control socket %s: another ringfence answers there; give this one its own --socket", path)
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Until here the umask ruled; who slipped in is still asked for his user by peerOf.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &controlListener{UnixListener: ln.(*net.UnixListener), room: make(chan struct{}, maxControlConns), done: make(chan struct{})}, nil
}

// controlListener asks of each connection who is at its other end, and bounds their number.
type controlListener struct {
	*net.UnixListener
	room chan struct{} // holds one token per open connection
	done chan struct{}
	once sync.Once
}

type controlConn struct {
	*net.UnixConn
	peer    Peer
	release func()
}

// Accept waits for room, then for a connection.
func (l *controlListener) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptUnix()
	if err != nil {
		<-l.room
		return nil, err
	}
	conn := &controlConn{UnixConn: c, peer: peerOf(c), release: sync.OnceFunc(func() { <-l.room })}
	return conn, nil
}

// Close ends the listener and removes the socket.
func (l *controlListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.UnixListener.Close()
}

// Close ends the connection and makes room.
func (c *controlConn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}

// nobody is a peer whom the kernel does not name.
var nobody = Peer{UID: -1}

func peerOf(c *net.UnixConn) Peer {
	sc, err := c.SyscallConn()
	if err != nil {
		return nobody
	}
	peer := nobody
	_ = sc.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			peer = Peer{UID: int(cred.Uid), PID: int(cred.Pid)}
		}
	})
	return peer
}

type peerKey struct{}

// withPeer keeps the peer of a connection for its requests.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	peer := nobody
	if cc, ok := c.(*controlConn); ok {
		peer = cc.peer
	}
	return context.WithValue(ctx, peerKey{}, peer)
}

// allowed tells whether the peer may give orders: root, or the user as whom the daemon runs.
func (p Peer) allowed() bool { return p.UID == 0 || p.UID == os.Geteuid() }
