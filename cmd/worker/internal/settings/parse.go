package settings

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The functions in this file read the texts of variables. Their errors say what would be right, and quote
// nothing that may be a secret in the wrong place.

// harmless texts are too short for a token that was set in the wrong place.
var harmless = regexp.MustCompile(`^[A-Za-z0-9.,:;+*/_%µ\[\](){}<>"' -]{1,16}$`)

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

func control(r rune) bool { return r < ' ' || r == 0x7f }

func text(v string) (string, error) {
	if strings.TrimSpace(v) != v || strings.ContainsFunc(v, control) {
		return v, errors.New("has blanks at its ends or control characters (a line break?); take them out")
	}
	return v, nil
}

// plainText is text that may have blanks at its ends.
func plainText(v string) (string, error) {
	if strings.ContainsFunc(v, control) {
		return "", errors.New("want no control characters in it")
	}
	return v, nil
}

var booleans = map[string]bool{ // :: word in small letters → value
	"1": true, "t": true, "true": true, "y": true, "yes": true, "on": true,
	"0": false, "f": false, "false": false, "n": false, "no": false, "off": false,
}

func boolean(v string) (bool, error) {
	b, ok := booleans[strings.ToLower(v)]
	if !ok {
		return false, fmt.Errorf("%s is neither true nor false", shape(v))
	}
	return b, nil
}

func oneOf(allowed ...string) func(string) (string, error) {
	return func(v string) (string, error) {
		if v = strings.ToLower(v); !slices.Contains(allowed, v) {
			return "", fmt.Errorf("%s is none of %s", shape(v), strings.Join(allowed, ", "))
		}
		return v, nil
	}
}

func logLevel(v string) (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[strings.ToLower(v)]
	if !ok {
		return 0, fmt.Errorf("%s is none of debug, info, warn, error", shape(v))
	}
	return level, nil
}

// Numbers.

// days are units that time.ParseDuration does not know.
var days = regexp.MustCompile(`(\d+(?:\.\d+)?)d`)

func duration(least, most time.Duration) func(string) (time.Duration, error) {
	return func(v string) (time.Duration, error) {
		plain := days.ReplaceAllStringFunc(strings.ReplaceAll(v, " ", ""), func(d string) string {
			n, _ := strconv.ParseFloat(strings.TrimSuffix(d, "d"), 64) // digits, by the pattern
			return strconv.FormatFloat(24*min(n, 1e5), 'f', -1, 64) + "h"
		})
		d, err := time.ParseDuration(plain)
		if _, nerr := strconv.ParseFloat(plain, 64); err != nil && nerr == nil {
			return 0, fmt.Errorf("%s is no duration; want a number with a unit, such as %ss", shape(v), plain)
		}
		if err != nil {
			return 0, fmt.Errorf("%s is no duration; want a number with a unit, such as 500ms, 30s, 2m, 24h or 1d", shape(v))
		}
		if d < least || d > most {
			return 0, fmt.Errorf("%s is out of bounds; want %s to %s", shape(v), short(least), short(most))
		}
		return d, nil
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

func integer(least, most int) func(string) (int, error) {
	return func(v string) (int, error) {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("%s is no whole number from %d to %d", shape(v), least, most)
		}
		return n, nil
	}
}

func replicas(v string) (int, error) {
	switch v {
	case "1", "3", "5":
		return int(v[0] - '0'), nil
	}
	return 0, fmt.Errorf("%s replicas are not possible; want 1 on a single server, 3 or 5 in a cluster", shape(v))
}

var sizeText = regexp.MustCompile(`^(\d{1,18}(?:\.\d{1,3})?)([kmgt]?)(i?)b?$`)

// leastSize has room for a request of the greatest size and its record.
const leastSize = 512 << 10

// size accepts bytes: 1GB and 1G are 10^9, 1GiB and 1Gi are 2^30.
func size(v string) (int64, error) {
	if v == "0" {
		return 0, nil
	}
	m := sizeText.FindStringSubmatch(strings.ToLower(strings.ReplaceAll(v, " ", "")))
	if m == nil {
		return 0, fmt.Errorf("%s is no size; want bytes, or a number with a unit, such as 512MiB or 1GB", shape(v))
	}
	number, _ := strconv.ParseFloat(m[1], 64) // a number, by the pattern
	base := 1000.0
	if m[3] != "" {
		base = 1024
	}
	if m[2] != "" {
		number *= math.Pow(base, float64(1+strings.Index("kmgt", m[2])))
	}
	if number < leastSize || number > 1<<53 {
		return 0, fmt.Errorf("%s is out of bounds; want at least 512KiB", shape(v))
	}
	return int64(number), nil
}

// Files.

func file(v string) (string, error) { return v, readable(v, false) }

func directory(v string) (string, error) { return v, readable(v, true) }

// awaitedFile accepts the path of a file that somebody else keeps, and that may not be there yet if its directory is.
func awaitedFile(v string) (string, error) {
	err := readable(v, false)
	if errors.Is(err, fs.ErrNotExist) && filepath.IsAbs(v) && readable(filepath.Dir(v), true) == nil { // else it may be the token itself
		return v, nil
	}
	return v, err
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

const maxContent = 1 << 20 // bytes

// contentOf returns the beginning of a file, as much of it as is read here at all.
func contentOf(path string) ([]byte, error) {
	if err := readable(path, false); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.New("its file can't be read")
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxContent))
	if err != nil {
		return nil, errors.New("its file can't be read")
	}
	return content, nil
}

// Paths and subjects.

var mountSegment = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

func mountPath(v string) (string, error) {
	v = strings.Trim(v, "/")
	for seg := range strings.SplitSeq(v, "/") {
		if !mountSegment.MatchString(seg) || seg == "." || seg == ".." {
			return v, errors.New(`is not a path of segments of letters, digits, "_", "." and "-", such as flow/tenants`)
		}
	}
	return v, nil
}

var subjectParts = regexp.MustCompile(`^[^\s.*>]+(\.[^\s.*>]+)*$`)

// subject accepts a subject without wildcards; one dot at its end is taken off.
func subject(v string) (string, error) {
	v = strings.TrimSuffix(v, ".")
	if v != "" && !subjectParts.MatchString(v) {
		return v, fmt.Errorf("%s is no beginning of a subject; want tokens separated by dots, without blanks and wildcards", shape(v))
	}
	return v, nil
}

func subjectToken(v string) (string, error) {
	if strings.Contains(v, ".") || !subjectParts.MatchString(v) {
		return v, fmt.Errorf("%s is no name of a domain; want what the hub has as jetstream { domain: … }, without dots, blanks and wildcards", shape(v))
	}
	return v, nil
}

// splitList returns the parts of a list that commas, blanks or line breaks separate.
func splitList(v string) []string {
	return strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

// Hosts and URLs.

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// address accepts <host>:<port> to listen on.
func address(v string) (string, error) {
	host, port, err := net.SplitHostPort(v)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > math.MaxUint16 || strings.ContainsAny(host, "/ ") {
		want := "<host>:<port> or :<port>"
		if u, uerr := url.Parse(v); uerr == nil && u.Scheme != "" && u.Host != "" && u.Port() != "" {
			want = u.Host
		} else if n, err := strconv.Atoi(v); err == nil && n >= 0 && n <= math.MaxUint16 {
			want = ":" + v
		}
		return "", fmt.Errorf("%s is no address (<host>:<port>); want %s", shape(v), want)
	}
	return v, nil
}

var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func hosts(v string) ([]string, error) {
	list := splitList(strings.ToLower(v))
	for _, one := range list {
		if len(one) <= 253 && hostName.MatchString(one) {
			continue
		}
		want := "hosts such as azuredatabricks.net"
		parts := strings.FieldsFunc(one, func(r rune) bool { return r == ';' })
		if strings.Contains(one, ";") && len(parts) > 0 && !slices.ContainsFunc(parts, func(p string) bool { return !hostName.MatchString(p) }) {
			want = strings.Join(parts, ",")
		} else if bare := bareHost(one); bare != "" {
			want = bare
		}
		return nil, fmt.Errorf("%s is no host name; want %s, several separated by commas, without scheme, wildcard, port or path", shape(one), want)
	}
	if len(list) == 0 {
		return nil, errors.New("has no host in it; want hosts such as azuredatabricks.net, separated by commas")
	}
	return list, nil
}

// bareHost returns the host that a URL or a wildcard is about; empty where that is not plain.
func bareHost(v string) string {
	v = strings.Trim(v, "\"'`[](){}<> ")
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

// natsHost tells a host from a secret in the wrong place, as far as that goes.
var natsHost = regexp.MustCompile(`^[A-Za-z0-9._:%-]{1,253}$`)

// natsURLs accepts what nats.Connect does, with a scheme optional as there.
func natsURLs(v string) (string, error) {
	urls := splitList(v)
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
			return strings.Join(urls, ","), fmt.Errorf("has a part that is no NATS URL; want %s (or tls, ws, wss), several separated by commas", want)
		}
		if strings.HasPrefix(u.Scheme, "ws") {
			sockets++
		}
	}
	list := strings.Join(urls, ",")
	switch {
	case len(urls) == 0:
		return "", errors.New("has no URL in it; want nats://<host>:<port>")
	case sockets > 0 && sockets < len(urls):
		return list, errors.New("mixes WebSockets (ws, wss) with others, which one connection can't; want one kind")
	}
	return list, nil
}

func socksURL(v string) (string, error) {
	if !strings.Contains(v, "://") {
		v = "socks5://" + v
	}
	if u, err := url.Parse(v); err != nil || u.Host == "" || u.Scheme != "socks5" && u.Scheme != "socks5h" {
		return v, errors.New("is no SOCKS proxy; want socks5://<host>:<port>")
	}
	return v, nil
}

// hostPort is a host name with an optional port, which a secret in the wrong place is not likely to be.
var hostPort = regexp.MustCompile(`^([a-z0-9-]+\.)+[a-z]{2,}(:\d{1,5})?$`)

// httpURL parses an http or https URL that holds no secret.
func httpURL(v string) (*url.URL, error) {
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

// privately reports why nobody should send credentials to a URL: over http only this machine may be named.
func privately(u *url.URL) error {
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return fmt.Errorf("is plain http to %s, where others could read the credentials; want https (http is for loopback addresses only)", u.Hostname())
	}
	return nil
}

// quotable is what an error may show of an address: no user info, no query.
var quotable = regexp.MustCompile(`^(https?://|unix:///)?[A-Za-z0-9./_-]{1,200}(:[0-9]{1,5})?$|^(https?://)?\[[0-9a-f:.]{2,45}\](:[0-9]{1,5})?$`)

// suchAs returns "; set <value>" where the value may be quoted, else nothing.
func suchAs(value string) string {
	if !quotable.MatchString(value) {
		return ""
	}
	return "; set " + value
}

// adobeURL accepts the URL of a service of Adobe's, whose own host has it at base, and whose endpoints, which the
// worker adds by itself, begin with the segment endpoint. Where the meaning is plain, its error quotes the value to set.
func adobeURL(base, endpoint string) func(string) (string, error) {
	return func(v string) (string, error) {
		u, err := httpURL(v)
		if err == nil {
			err = privately(u)
		}
		if err != nil {
			return "", err
		}
		path, v := strings.TrimRight(u.Path, "/"), strings.TrimRight(v, "/")
		adobes := strings.HasSuffix(u.Hostname(), ".adobe.io")
		if before, _, found := strings.Cut(path+"/", "/"+endpoint+"/"); found {
			if adobes {
				before = base
			}
			return v, fmt.Errorf("has the path of an endpoint, which the worker adds by itself%s", suchAs(u.Scheme+"://"+u.Host+before))
		}
		if adobes && base != "" && path != base {
			return v, fmt.Errorf("does not have the path of the service at this host%s", suchAs(u.Scheme+"://"+u.Host+base))
		}
		return v, nil
	}
}

// vaultURL accepts the path of a socket, too, as Vault's own client does. Where the meaning is plain, its error
// quotes the value to set.
func vaultURL(v string) (string, error) {
	if v = strings.TrimRight(v, "/"); v == "" { // an agent's may do
		return "", nil
	}
	if path, ok := strings.CutPrefix(v, "unix:"); ok {
		path, slashes := strings.TrimLeft(path, "/"), len(path)-len(strings.TrimLeft(path, "/"))
		if slashes == 3 && path != "" {
			return v, nil
		}
		return v, fmt.Errorf("is not a URL of a socket; want unix:// and its absolute path%s", suchAs("unix:///"+path))
	}
	if at, ok := hostAndPort(v); ok {
		return v, fmt.Errorf("is not a URL, for it has no scheme; want https://<host>:<port>%s", suchAs("https://"+at))
	}
	u, err := httpURL(v)
	if err != nil {
		return v, err
	}
	if err := privately(u); err != nil {
		return v, fmt.Errorf("%w%s with VAULT_CACERT, or an agent or sidecar on this machine that adds the token: VAULT_ADDR=http://127.0.0.1:8100 with VAULT_AUTH=none", err, suchAs("https://"+u.Host))
	}
	if first, _, _ := strings.Cut(strings.Trim(u.Path, "/"), "/"); first == "v1" || first == "ui" {
		return v, fmt.Errorf("has a path of Vault's own, which the worker adds by itself%s", suchAs(u.Scheme+"://"+u.Host))
	}
	return v, nil
}

var bareAddress = regexp.MustCompile(`^([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}/*$`)

// hostAndPort returns an address that was given without a scheme, or with one of another protocol.
func hostAndPort(v string) (string, bool) {
	for _, scheme := range []string{"", "tcp://", "vault://", "//"} {
		if at, ok := strings.CutPrefix(v, scheme); ok && bareAddress.MatchString(at) {
			return strings.TrimRight(at, "/"), true
		}
	}
	return "", false
}
