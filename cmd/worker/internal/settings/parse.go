package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// setter parses a text into the field it was made for.
type setter = func(*Settings, string) error

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

func text(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		if strings.TrimSpace(v) != v || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return errors.New("has blanks at its ends or control characters (a line break?); take them out")
		}
		return nil
	}
}

// plainText is text that may have blanks at its ends.
func plainText(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		_, err := printable(v)
		return err
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

// adobeURL is httpURL for a service of Adobe's whose own host has it at base, and whose endpoints, which the worker
// adds by itself, begin with the segment endpoint. Where the meaning is plain, its error quotes the value to set.
func adobeURL(base, endpoint string, field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		if err := httpURL(field)(s, v); err != nil {
			return err
		}
		u, err := url.Parse(*field(s))
		if err != nil {
			return err
		}
		if before, _, found := strings.Cut(u.Path+"/", "/"+endpoint+"/"); found {
			if strings.HasSuffix(u.Hostname(), ".adobe.io") {
				before = base
			}
			return fmt.Errorf("has the path of an endpoint, which the worker adds by itself%s", suchAs(u.Scheme+"://"+u.Host+before))
		}
		if strings.HasSuffix(u.Hostname(), ".adobe.io") && base != "" && u.Path != base {
			return fmt.Errorf("does not have the path of the service at this host%s", suchAs(u.Scheme+"://"+u.Host+base))
		}
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
