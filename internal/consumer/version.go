package consumer

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/nats-io/nats.go"
)

// version is that of a NATS server; a pre-release counts as its release.
type version [3]int

var (
	// floor is the first server that ends a message for TermWithReason; older ones ignore it.
	floor = version{2, 10, 4}
	// pauseFloor is the first server that can pause a consumer.
	pauseFloor = version{2, 11, 0}
)

var versionPattern = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-+].*)?$`)

func parseVersion(s string) (version, error) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return version{}, fmt.Errorf("%q is no server version", s)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1])
	}
	return v, nil
}

// String returns the version as servers write it, such as "2.10.4".
func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// checkServer fails if the server that nc speaks to is older than least.
func checkServer(nc *nats.Conn, least version, what string) error {
	text := nc.ConnectedServerVersion()
	if text == "" {
		return fmt.Errorf("consumer: %w", nats.ErrDisconnected)
	}
	have, err := parseVersion(text)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	if have.less(least) {
		return fmt.Errorf("consumer: the NATS server is %s; %s needs %s or newer: upgrade nats-server", have, what, least)
	}
	return nil
}
