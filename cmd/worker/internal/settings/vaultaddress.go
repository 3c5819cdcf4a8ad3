package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// vaultURL accepts the path of a socket, too, as Vault's own client does. Where the meaning is plain, its error
// quotes the value to set.
func vaultURL(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		if *field(s) = strings.TrimRight(v, "/"); v == "" {
			return nil
		}
		if path, ok := strings.CutPrefix(v, "unix:"); ok {
			path, slashes := strings.TrimLeft(path, "/"), len(path)-len(strings.TrimLeft(path, "/"))
			if slashes == 3 && path != "" {
				return nil
			}
			return fmt.Errorf("is not a URL of a socket; want unix:// and its absolute path%s", suchAs("unix:///"+path))
		}
		if at, ok := hostAndPort(v); ok {
			return fmt.Errorf("is not a URL, for it has no scheme; want https://<host>:<port>%s", suchAs("https://"+at))
		}
		if err := privateURL(v); err != nil {
			if u, bad := plainURL(v); bad == nil {
				err = fmt.Errorf("%w%s with VAULT_CACERT, or an agent or sidecar on this machine that adds the token: VAULT_ADDR=http://127.0.0.1:8100 with VAULT_AUTH=none", err, suchAs("https://"+u.Host))
			}
			return err
		}
		u, err := url.Parse(v)
		if err != nil {
			return err
		}
		if path := strings.Trim(u.Path, "/"); path == "v1" || path == "ui" || strings.HasPrefix(path, "v1/") || strings.HasPrefix(path, "ui/") {
			return fmt.Errorf("has a path of Vault's own, which the worker adds by itself%s", suchAs(u.Scheme+"://"+u.Host))
		}
		return nil
	}
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

// awaitedFile accepts the path of a file that somebody else keeps, and that may not be there yet if its directory is.
func awaitedFile(field func(*Settings) *string) setter {
	return func(s *Settings, v string) error {
		*field(s) = v
		if v == "" {
			return nil
		}
		err := readable(v, false)
		if errors.Is(err, fs.ErrNotExist) && filepath.IsAbs(v) && readable(filepath.Dir(v), true) == nil { // else it may be the token itself
			return nil
		}
		return err
	}
}
