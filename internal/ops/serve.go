package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of a server. A profile of the usual 30 s must fit into the time for an answer.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 60 * time.Second
	shutdownTimeout   = 5 * time.Second
	maxHeaderBytes    = 16 << 10
)

// NewHandler returns the handler that probes and Prometheus talk to: /metrics (the text format, or
// OpenMetrics with exemplars for who asks for it), /healthz and /readyz. Anything but GET and HEAD
// is answered with 405. It answers to every host name, for probes and Prometheus use all sorts: what it
// shows is of no tenant.
func NewHandler(health *Health, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 4,
		Timeout:             readTimeout,
	}))
	mux.HandleFunc("GET /healthz", live)
	mux.HandleFunc("GET /readyz", health.ready)
	return reserved(mux, contentPolicy)
}

// Serve answers on ln until ctx ends, then lets requests under way end for a few seconds. It closes
// ln, and returns nil after an orderly end. Streams of events end at once. Every step of a request has a time limit, headers are at
// most 16 KiB, and there are at most 128 connections. It does not speak TLS or HTTP/2.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         (&connLimit{max: maxConns}).changed,
		BaseContext:       func(net.Listener) context.Context { return withStopping(ctx) },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("ops: serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	err := shutDown(context.WithoutCancel(ctx), server)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		return errors.Join(err, served)
	}
	return err
}

func shutDown(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close() // what still runs is a look, nothing is lost with it
	}
	return err
}
