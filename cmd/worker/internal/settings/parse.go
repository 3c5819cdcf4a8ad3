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

// days are units that time.ParseDuration does not know.
var days = regexp.MustCompile(`(\d+)d`)

func duration(field func(*Settings) *time.Duration, least, most time.Duration) setter {
	return func(s *Settings, v string) error {
		plain := days.ReplaceAllStringFunc(strings.ReplaceAll(v, " ", ""), func(d string) string {
			n, _ := strconv.Atoi(strings.TrimSuffix(d, "d"))
			return strconv.Itoa(min(n, 1e5)*24) + "h"
		})
		d, err := time.ParseDuration(plain)
		if _, nerr := strconv.ParseFloat(plain, 64); err != nil && nerr == nil {
			return fmt.Errorf("%s is no duration; want a number with a unit, such as %ss", shape(v), plain)
		}
		if err != nil {
			return fmt.Errorf("%s is no duration; want a number with a unit, such as 500ms, 30s, 2m, 24h or 1d", shape(v))
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

var booleans = map[string]bool{ // :: word in small letters → value
	"1": true, "t": true, "true": true, "y": true, "yes": true, "on": true,
	"0": false, "f": false, "false": false, "n": false, "no": false, "off": false,
}

func boolean(field func(*Settings) *bool) setter {
	return func(s *Settings, v string) error {
		b, ok := booleans[strings.ToLower(v)]
		if !ok {
			return fmt.Errorf("%s is neither true nor false", shape(v))
		}
		*field(s) = b
		return nil
	}
}

func oneOf(field func(*Settings) *string, allowed ...string) setter {
	return func(s *Settings, v string) error {
		if v = strings.ToLower(v); !slices.Contains(allowed, v) {
			return fmt.Errorf("%s is none of %s", shape(v), strings.Join(allowed, ", "))
		}
		*field(s) = v
		return nil
	}
}

func logLevel(s *Settings, v string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError}
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

// vaultURL accepts the path of a socket, too, as Vault's own client does.
func vaultURL(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = strings.TrimRight(v, "/")
		if path, ok := strings.CutPrefix(v, "unix://"); ok && strings.HasPrefix(path, "/") {
			return nil
		}
		return privateURL(v)
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

// hostPort is a host name with an optional port, which a secret in the wrong place is not likely to be.
var hostPort = regexp.MustCompile(`^([a-z0-9-]+\.)+[a-z]{2,}(:\d{1,5})?$`)

// plainURL parses an http or https URL that holds no secret.
func plainURL(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		want := "https://<host>"
		if !strings.Contains(v, "://") && hostPort.MatchString(v) {
			want = "https://" + v
		}
		return nil, fmt.Errorf("is not a URL; want %s with an optional port and path", want)
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
		urls := splitList(v)
		defer func() { *field(s) = strings.Join(urls, ",") }()
		sockets := 0
		for i, one := range urls {
			if !strings.Contains(one, "://") {
				one = "nats://" + one
			}
			u, err := url.Parse(one)
			if err == nil && u.Scheme == "tcp" { // as Kubernetes has it in NATS_PORT
				u.Scheme = "nats"
				urls[i] = u.String()
			}
			if err != nil || !natsHost.MatchString(u.Hostname()) || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) ||
				strings.Trim(u.Path, "/") != "" && !strings.HasPrefix(u.Scheme, "ws") || u.RawQuery != "" || u.Fragment != "" {
				want := "nats://<host>:<port>"
				if err == nil && strings.HasPrefix(u.Scheme, "http") && u.User == nil && natsHost.MatchString(u.Host) {
					want = "nats://" + u.Host
				}
				return fmt.Errorf("has a part that is no NATS URL; want %s (or tls, ws, wss), several separated by commas", want)
			}
			if strings.HasPrefix(u.Scheme, "ws") {
				sockets++
			}
		}
		if len(urls) == 0 {
			return errors.New("has no URL in it; want nats://<host>:<port>")
		}
		if sockets > 0 && sockets < len(urls) {
			return errors.New("mixes WebSockets (ws, wss) with others, which one connection can't; want one kind")
		}
		return nil
	}
}

// splitList returns the parts of a list that commas, blanks or line breaks separate.
func splitList(v string) []string {
	return strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

// plainText is text that may have blanks at its ends.
func plainText(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		_, err := printable(v)
		return err
	}
}

var subjectParts = regexp.MustCompile(`^[^\s.*>]+(\.[^\s.*>]+)*$`)

// subject accepts a subject without wildcards; one dot at its end is taken off.
func subject(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		v = strings.TrimSuffix(v, ".")
		*field(s) = v
		if v != "" && !subjectParts.MatchString(v) {
			return fmt.Errorf("%s is no beginning of a subject; want tokens separated by dots, without blanks and wildcards", shape(v))
		}
		return nil
	}
}

func subjectToken(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		if v != "" && (strings.Contains(v, ".") || !subjectParts.MatchString(v)) {
			return fmt.Errorf("%s is no name of a domain; want what the hub has as jetstream { domain: … }, without dots, blanks and wildcards", shape(v))
		}
		return nil
	}
}

func socksURL(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		if v == "" {
			return nil
		}
		if !strings.Contains(v, "://") {
			v = "socks5://" + v
		}
		*field(s) = v
		if u, err := url.Parse(v); err != nil || u.Host == "" || u.Scheme != "socks5" && u.Scheme != "socks5h" {
			return errors.New("is no SOCKS proxy; want socks5://<host>:<port>")
		}
		return nil
	}
}

var sizeText = regexp.MustCompile(`^(\d{1,18})(?:\.(\d{1,3}))?([kmgt]?)(i?)b?$`)

// leastSize has room for a request of the greatest size and its record.
const leastSize = 512 << 10

// size accepts bytes: 1GB and 1G are 10^9, 1GiB and 1Gi are 2^30.
func size(field func(*Settings) *int64) setter {
	return func(s *Settings, v string) error {
		m := sizeText.FindStringSubmatch(strings.ToLower(strings.ReplaceAll(v, " ", "")))
		if v == "" || v == "0" {
			return nil
		}
		if m == nil {
			return fmt.Errorf("%s is no size; want bytes, or a number with a unit, such as 512MiB or 1GB", shape(v))
		}
		number, _ := strconv.ParseFloat(m[1]+"."+m[2]+"0", 64)
		base := 1000.0
		if m[4] != "" {
			base = 1024
		}
		number *= math.Pow(base, float64(1+strings.Index("kmgt", m[3])))
		if m[3] == "" {
			number /= base
		}
		if number < leastSize || number > 1<<53 {
			return fmt.Errorf("%s is out of bounds; want at least 512KiB", shape(v))
		}
		*field(s) = int64(number)
		return nil
	}
}

func address(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		host, port, err := net.SplitHostPort(v)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil || n < 0 || n > math.MaxUint16 || strings.ContainsAny(host, "/ ") {
			want := "<host>:<port> or :<port>"
			if u, uerr := url.Parse(v); uerr == nil && u.Scheme != "" && u.Host != "" && u.Port() != "" {
				want = u.Host
			} else if n, err := strconv.Atoi(v); err == nil && n >= 0 && n <= math.MaxUint16 {
				want = ":" + v
			}
			return fmt.Errorf("%s is no address (<host>:<port>); want %s", shape(v), want)
		}
		*field(s) = v
		return nil
	}
}

var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func hosts(field func(*Settings) *[]string) setter {
	return func(s *Settings, v string) error {
		var list []string
		for _, one := range splitList(strings.ToLower(v)) {
			if len(one) > 253 || !hostName.MatchString(one) {
				want := "hosts such as azuredatabricks.net"
				if bare := bareHost(one); bare != "" {
					want = bare
				}
				return fmt.Errorf("%s is no host name; want %s, several separated by commas, without scheme, wildcard, port or path", shape(one), want)
			}
			list = append(list, one)
		}
		if len(list) == 0 {
			return errors.New("has no host in it; want hosts such as azuredatabricks.net, separated by commas")
		}
		*field(s) = list
		return nil
	}
}

// bareHost returns the host that a URL or a wildcard is about; empty where that is not plain.
func bareHost(v string) string {
	_, rest, found := strings.Cut(v, "://")
	if !found {
		rest = v
	}
	rest, _, _ = strings.Cut(rest, "/")
	rest, _, _ = strings.Cut(rest, ":")
	rest = strings.Trim(strings.TrimPrefix(rest, "*."), ".")
	if len(rest) > 253 || !hostName.MatchString(rest) {
		return ""
	}
	return rest
}
