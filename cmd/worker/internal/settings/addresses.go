package settings

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

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
				parts := strings.FieldsFunc(one, func(r rune) bool { return r == ';' })
				if strings.Contains(one, ";") && len(parts) > 0 && !slices.ContainsFunc(parts, func(p string) bool { return !hostName.MatchString(p) }) {
					want = strings.Join(parts, ",")
				} else if bare := bareHost(one); bare != "" {
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
