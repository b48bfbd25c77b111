package admin

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"ringfence/appliance/supervise"
	"ringfence/internal/task"
)

// Metrics is the daemon's own registry. Names are ringfence_area_thing_unit; a counter ends in _total. Areas know no
// Prometheus: they count, and the composition root shows their counts here by func.
type Metrics struct{ registry *prometheus.Registry }

// NewMetrics makes a registry with what holds for the process.
func NewMetrics(version string) *Metrics {
	m := &Metrics{prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ringfence_build_info", Help: "Always 1; the label is the release.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(info)
	m.Counter("ringfence_task_panics_total", "Panics recovered; each ended one call, flow or session.", func() float64 { return float64(task.Panics()) })
	return m
}

var metricName = regexp.MustCompile(`^ringfence_[a-z][a-z0-9]*(_[a-z0-9]+)+$`)

// check panics on a name that breaks the convention: names are constants in the code.
func check(name string) string {
	if !metricName.MatchString(name) {
		panic(fmt.Sprintf("metric %q is not named ringfence_area_thing_unit", name))
	}
	return name
}

// Gauge shows a present value.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: check(name), Help: help}, value))
}

// Counter shows a count that somebody else keeps.
func (m *Metrics) Counter(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: check(name), Help: help}, value))
}

// Sample is one value of a family with one label.
type Sample struct {
	Label string
	Value float64
}

// Gauges shows a family of present values by one label, counters when the name ends in _total. The func returns every value
// at each time, zeros included.
func (m *Metrics) Gauges(name, help, label string, values func() []Sample) {
	kind := prometheus.GaugeValue
	if len(name) > 6 && name[len(name)-6:] == "_total" {
		kind = prometheus.CounterValue
	}
	m.registry.MustRegister(&family{desc: prometheus.NewDesc(check(name), help, []string{label}, nil), kind: kind, values: values})
}

// Counts makes counters by one label, every known value visible as zero from the start. Unknown labels are not counted apart
// but as "other", so that no stranger can make new ones.
func (m *Metrics) Counts(name, help, label string, known ...string) func(value string) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: check(name), Help: help}, []string{label})
	m.registry.MustRegister(vec)
	counters := map[string]prometheus.Counter{}
	for _, k := range append(known, "other") {
		counters[k] = vec.WithLabelValues(k)
	}
	return func(value string) {
		c, ok := counters[value]
		if !ok {
			c = counters["other"]
		}
		c.Inc()
	}
}

// Durations makes a histogram in seconds.
func (m *Metrics) Durations(name, help string, buckets ...float64) func(time.Duration) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: check(name), Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return func(d time.Duration) { h.Observe(d.Seconds()) }
}

// Services shows the health of every service.
func (m *Metrics) Services(health func() []supervise.Health) {
	samples := func(value func(supervise.Health) float64) func() []Sample {
		return func() []Sample {
			var out []Sample
			for _, h := range health() {
				out = append(out, Sample{h.Name, value(h)})
			}
			return out
		}
	}
	m.Gauges("ringfence_service_up", "Whether the service serves.", "service", samples(func(h supervise.Health) float64 {
		if h.Up {
			return 1
		}
		return 0
	}))
	m.Gauges("ringfence_service_restarts_total", "Failures after which the service was started again.", "service",
		samples(func(h supervise.Health) float64 { return float64(h.Restarts) }))
}

type family struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func() []Sample
}

// Describe implements prometheus.Collector.
func (f *family) Describe(ch chan<- *prometheus.Desc) { ch <- f.desc }

// Collect implements prometheus.Collector.
func (f *family) Collect(ch chan<- prometheus.Metric) {
	for _, s := range f.values() {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, s.Value, s.Label)
	}
}

func (m *Metrics) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
	})
}

func limit(ln net.Listener, n int) net.Listener { return netutil.LimitListener(ln, n) }
