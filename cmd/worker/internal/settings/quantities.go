package settings

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// days are units that time.ParseDuration does not know.
var days = regexp.MustCompile(`(\d+(?:\.\d+)?)d`)

func duration(field func(*Settings) *time.Duration, least, most time.Duration) setter {
	return func(s *Settings, v string) error {
		plain := days.ReplaceAllStringFunc(strings.ReplaceAll(v, " ", ""), func(d string) string {
			n, _ := strconv.ParseFloat(strings.TrimSuffix(d, "d"), 64) // digits, by the pattern
			return strconv.FormatFloat(24*min(n, 1e5), 'f', -1, 64) + "h"
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
