package vaulttest

import "time"

// Vault's defaults for the lockout of AppRole logins.
const (
	lockThreshold = 5
	lockDuration  = 15 * time.Minute // from the refusal that reached the threshold
	lockReset     = 15 * time.Minute // without a refusal, after which counting begins anew
)

// refusals are the refused logins of one role.
type refusals struct {
	count int
	last  time.Time
}

// locked reports whether logins of a role are refused whatever they bring. Those are not counted.
func (s *Server) locked(role string) bool {
	r := s.refused[role]
	return r.count >= lockThreshold && s.conf.Now().Sub(r.last) < lockDuration
}

// countRefusal counts a wrong secret id.
func (s *Server) countRefusal(role string) {
	now, r := s.conf.Now(), s.refused[role]
	if now.Sub(r.last) > lockReset {
		r.count = 0
	}
	s.refused[role] = refusals{count: r.count + 1, last: now}
}
