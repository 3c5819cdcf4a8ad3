package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// setter parses a text into the field it was made for.
type setter = func(*Settings, string) error

// harmless texts are too short for a token that was set in the wrong place.
var harmless = regexp.MustCompile(`^[A-Za-z0-9.,:+*/_-]{1,16}$`)

// shape describes a value that is no secret by its place, but might be one by mistake.
func shape(s string) string {
	switch {
	case s == "":
		return "nothing"
	case harmless.MatchString(s):
		return strconv.Quote(s)
	default:
		return fmt.Sprintf("a text of %d bytes", len(s))
	}
}

func text(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		if strings.TrimSpace(v) != v || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return errors.New("has blanks at its ends or control characters (a line break?); take them out")
		}
		return nil
	}
}

func duration(field func(*Settings) *time.Duration, least, most time.Duration) setter {
	return func(s *Settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%s is no duration; want a number with a unit, such as 500ms, 30s or 2m", shape(v))
		}
		if d < least || d > most {
			return fmt.Errorf("%s is out of bounds; want %s to %s", shape(v), short(least), short(most))
		}
		*field(s) = d
		return nil
	}
}

// short writes a duration without the zero units at its end.
func short(d time.Duration) string {
	t := d.String()
	if strings.HasSuffix(t, "m0s") {
		t = strings.TrimSuffix(t, "0s")
	}
	if strings.HasSuffix(t, "h0m") {
		t = strings.TrimSuffix(t, "0m")
	}
	return t
}

func integer(field func(*Settings) *int, least, most int) setter {
	return func(s *Settings, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%s is no whole number from %d to %d", shape(v), least, most)
		}
		*field(s) = n
		return nil
	}
}

func replicas(field func(*Settings) *int) setter {
	parse := integer(field, 1, 5)
	return func(s *Settings, v string) error {
		if err := parse(s, v); err != nil || *field(s)%2 == 0 {
			return fmt.Errorf("%s replicas are not possible; want 1 on a single server, 3 or 5 in a cluster", shape(v))
		}
		return nil
	}
}

func boolean(field func(*Settings) *bool) setter {
	return func(s *Settings, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%s is neither true nor false", shape(v))
		}
		*field(s) = b
		return nil
	}
}

func oneOf(field func(*Settings) *string, allowed ...string) setter {
	return func(s *Settings, v string) error {
		if !slices.Contains(allowed, v) {
			return fmt.Errorf("%s is none of %s", shape(v), strings.Join(allowed, ", "))
		}
		*field(s) = v
		return nil
	}
}

func logLevel(s *Settings, v string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[strings.ToLower(v)]
	if !ok {
		return fmt.Errorf("%s is none of debug, info, warn, error", shape(v))
	}
	s.LogLevel = level
	return nil
}

func file(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		if v == "" {
			return nil
		}
		return readable(v, false)
	}
}

func directory(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		if v == "" {
			return nil
		}
		return readable(v, true)
	}
}

// readable reports why a file, or a directory, can't be used. Somebody may have set the contents
// where a path belongs, so only the system's own words are quoted, not the path.
func readable(path string, dir bool) error {
	kind := "file"
	if dir {
		kind = "directory"
	}
	f, err := os.Open(path)
	if err != nil {
		if perr := (*os.PathError)(nil); errors.As(err, &perr) {
			err = perr.Err
		}
		return fmt.Errorf("its %s can't be read (%w); want the path of a %s that this user may read", kind, err, kind)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.IsDir() != dir {
		return fmt.Errorf("is not the path of a %s", kind)
	}
	return nil
}

var mountSegment = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

func mountPath(field func(*Settings) *string, optional bool) setter {
	return func(s *Settings, v string) error {
		v = strings.Trim(v, "/")
		*field(s) = v
		if v == "" && optional {
			return nil
		}
		for seg := range strings.SplitSeq(v, "/") {
			if !mountSegment.MatchString(seg) || seg == "." || seg == ".." {
				return errors.New(`is not a path of segments of letters, digits, "_", "." and "-", such as flow/tenants`)
			}
		}
		return nil
	}
}

// httpURL accepts an https URL, or an http one whose host is a loopback address.
func httpURL(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		if err := privateURL(v); err != nil {
			return err
		}
		*field(s) = strings.TrimRight(v, "/")
		return nil
	}
}

// privateURL reports why nobody should send credentials to a URL: over http only this machine may be named.
func privateURL(v string) error {
	u, err := plainURL(v)
	if err != nil {
		return err
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return fmt.Errorf("is plain http to %s, where others could read the credentials; want https (http is for loopback addresses only)", u.Hostname())
	}
	return nil
}

// plainURL parses an http or https URL that holds no secret.
func plainURL(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("is not a URL; want https://<host> with an optional port and path")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, errors.New("has user info, a query or a fragment; want https://<host> with an optional port and path")
	}
	return u, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// natsHost tells a host from a secret in the wrong place, as far as that goes.
var natsHost = regexp.MustCompile(`^[A-Za-z0-9._:%-]{1,253}$`)

// natsURLs accepts what nats.Connect does, with a scheme optional as there.
func natsURLs(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		for one := range strings.SplitSeq(v, ",") {
			one = strings.TrimSpace(one)
			if !strings.Contains(one, "://") {
				one = "nats://" + one
			}
			u, err := url.Parse(one)
			if err != nil || !natsHost.MatchString(u.Hostname()) || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) ||
				strings.Trim(u.Path, "/") != "" && !strings.HasPrefix(u.Scheme, "ws") || u.RawQuery != "" || u.Fragment != "" {
				return errors.New("has a part that is no NATS URL; want nats://<host>:<port> (or tls, ws, wss), several separated by commas")
			}
		}
		return nil
	}
}

func address(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		host, port, err := net.SplitHostPort(v)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil || n < 0 || n > math.MaxUint16 || strings.ContainsAny(host, "/ ") {
			return fmt.Errorf("%s is no address; want <host>:<port> or :<port>", shape(v))
		}
		*field(s) = v
		return nil
	}
}

var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func hosts(field func(*Settings) *[]string) setter {
	return func(s *Settings, v string) error {
		var list []string
		for one := range strings.SplitSeq(v, ",") {
			one = strings.ToLower(strings.TrimSpace(one))
			if len(one) > 253 || !hostName.MatchString(one) {
				return fmt.Errorf("%s is no host name; want hosts such as azuredatabricks.net, separated by commas, without scheme, wildcard, port or path", shape(one))
			}
			list = append(list, one)
		}
		*field(s) = list
		return nil
	}
}
