package provision

import (
	"errors"
	"time"
)

// scenario is one way the world and the request can be.
type scenario struct {
	name    string
	setup   func(*sim)
	want    string   // outcome, whatever faults there are
	reason  Reason   // of a failure without any fault
	or      []Reason // failures that faults may lead to as well, for they take time from the deadline
	through []string // paths that it is there for: it must take each of them without any fault
	never   []string // paths that it must not take without any fault
}

// scenarios lists them: first what the Flow Service does to a POST, then what else is in the way.
func scenarios() []scenario {
	var all []scenario
	for _, some := range [][]scenario{
		plainScenarios(), promiseScenarios(), tokenScenarios(), slotScenarios(), directScenarios(), gateScenarios(), restScenarios(),
		lookFirstScenarios(), graceScenarios(), ledgerScenarios(), ifExistsScenarios(), retryScenarios(), resolveScenarios(),
		habitScenarios(), takenScenarios(), stateScenarios(),
	} {
		all = append(all, some...)
	}
	return all
}

func plainScenarios() []scenario {
	lost := postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 504}}
	return []scenario{
		{name: "made at once", want: OutcomeCreated},
		{name: "throttled first", setup: posts(says(VerdictThrottled)), want: OutcomeCreated},
		{name: "made, but the answer is 504", setup: posts(lost), want: OutcomeCreated},
		{name: "500 and not made", setup: posts(says(VerdictUnknown)), want: OutcomeCreated, through: []string{viaAbsent}},
		{name: "token refused once", setup: posts(says(VerdictUnauthorized)), want: OutcomeCreated},
		{name: "token refused twice, but not in a row", want: OutcomeCreated,
			setup: posts(says(VerdictUnauthorized), says(VerdictThrottled), says(VerdictUnauthorized))},
		{name: "token refused for a minute", setup: passesAfter(time.Minute, VerdictUnauthorized), want: OutcomeCreated, through: []string{viaHandBack}},
		{name: "denied without a word for a minute", setup: passesAfter(time.Minute, VerdictDenied), want: OutcomeCreated, through: []string{viaHandBack}},
		{name: "denied without a word", setup: passesAfter(time.Hour, VerdictDenied), want: OutcomeFailed, reason: ReasonFlowDenied, through: []string{viaHandBack}},
		{name: "rejected until the secret is newer", setup: func(s *sim) {
			s.post = func(n int) postAnswer {
				if n > 0 {
					return postAnswer{made: true}
				}
				s.secrets.token++
				return says(VerdictRejected)
			}
		}, want: OutcomeCreated, through: []string{viaReread}},
		{name: "token refused for good", setup: func(s *sim) { s.post = always(VerdictUnauthorized) }, want: OutcomeFailed, reason: ReasonFlowDenied},
		{name: "rejected", setup: func(s *sim) { s.post = always(VerdictRejected) }, want: OutcomeFailed, reason: ReasonFlowRejected},
		{name: "invalid", setup: func(s *sim) { s.msgs[0].d.Invalid = Fail(ReasonInvalidRequest, "no name") },
			want: OutcomeFailed, reason: ReasonInvalidRequest},
		{name: "two requests of one tenant", setup: func(s *sim) {
			s.send(secondRequest())
			s.post = answers(says(VerdictThrottled), lost)
		}, want: OutcomeCreated},
	}
}

// passesAfter answers POSTs with a refusal that passes after d.
func passesAfter(d time.Duration, v Verdict) func(*sim) {
	return func(s *sim) {
		began := s.now
		s.post = func(int) postAnswer {
			if s.now.Sub(began) >= d {
				return postAnswer{made: true}
			}
			a := says(v)
			a.err.Passing = true
			return a
		}
	}
}

// posts sets how the first POSTs are answered.
func posts(as ...postAnswer) func(*sim) { return func(s *sim) { s.post = answers(as...) } }

func answers(as ...postAnswer) func(int) postAnswer {
	return func(n int) postAnswer {
		if n < len(as) {
			return as[n]
		}
		return postAnswer{made: true}
	}
}

func says(v Verdict) postAnswer {
	return postAnswer{err: &CallError{Verdict: v, Target: TargetFlow, Cause: CauseStatus, Status: 400}}
}

func secondRequest() Request {
	r := testRequest()
	r.Key.ID = "r-2"
	return r
}

// promise is an answer of success that names no connection.
func promise(made bool) postAnswer {
	return postAnswer{made: made, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 201}}
}

func promiseScenarios() []scenario {
	return []scenario{
		{name: "promised, and made", setup: posts(promise(true)), want: OutcomeCreated, through: []string{viaPromise}},
		{name: "promised, but not made", setup: posts(promise(false)), want: OutcomeCreated, through: []string{viaPromise, viaAbsent}},
		{name: "promised again and again", setup: func(s *sim) {
			s.tweak = hasty(20 * time.Minute)
			s.post = func(int) postAnswer { return promise(false) }
		}, want: OutcomeFailed, reason: ReasonOutcomeUnknown, through: []string{viaPromise, viaAbsent, viaUnknown}},
	}
}

// imsSays makes every Authorize fail.
func imsSays(v Verdict, status int) func(int) error {
	err := &CallError{Verdict: v, Target: TargetIMS, Cause: CauseStatus, Status: status, Passing: v == VerdictDenied}
	return func(int) error { return err }
}

// imsSaysAt makes some calls of Authorize fail.
func imsSaysAt(v Verdict, status, from, to int) func(int) error {
	fail := imsSays(v, status)
	return func(n int) error {
		if from <= n && n < to {
			return fail(n)
		}
		return nil
	}
}

func tokenScenarios() []scenario {
	return []scenario{
		{name: "IMS down, then up", setup: func(s *sim) { s.ims = imsSaysAt(VerdictNotSent, 503, 0, 3) },
			want: OutcomeCreated, through: []string{viaIMS}},
		{name: "IMS refuses the tenant", setup: func(s *sim) { s.ims = imsSays(VerdictDenied, 400) },
			want: OutcomeFailed, reason: ReasonFlowDenied, through: []string{viaIMS}},
		{name: "IMS refuses until the credentials are newer", setup: stale,
			want: OutcomeCreated, through: []string{viaIMS}, never: []string{viaHandBack}},
		{name: "IMS refuses for a minute", setup: func(s *sim) {
			began, refuse := s.now, imsSays(VerdictDenied, 401)
			s.ims = func(n int) error {
				if s.now.Sub(began) < time.Minute {
					return refuse(n)
				}
				return nil
			}
		}, want: OutcomeCreated, or: []Reason{ReasonFlowDenied}, through: []string{viaIMS, viaHandBack}},
		{name: "IMS down while a POST is open", setup: func(s *sim) {
			s.post = answers(promise(true))
			s.ims = imsSaysAt(VerdictNotSent, 503, 1, 5)
		}, want: OutcomeCreated, through: []string{viaIMS, viaPromise}},
	}
}

// slotsAfter returns a weather of slots: the n-th is waited for that long, those after them not.
func slotsAfter(waits ...time.Duration) func(*sim) {
	return func(s *sim) {
		s.slot = func(n int) time.Duration {
			if n < len(waits) {
				return waits[n]
			}
			return 0
		}
	}
}

func slotScenarios() []scenario {
	return []scenario{
		{name: "a slot after a moment", setup: slotsAfter(10 * time.Millisecond), want: OutcomeCreated,
			through: []string{viaSlotWait}, never: []string{viaNoSlot, viaHandBack}},
		{name: "a slot after a minute", setup: slotsAfter(time.Minute), want: OutcomeCreated,
			through: []string{viaSlotWait}, never: []string{viaNoSlot, viaHandBack}},
		{name: "a slot in the third delivery", setup: slotsAfter(2*simPatience, 3*simPatience, time.Second), want: OutcomeCreated,
			through: []string{viaNoSlot, viaHandBack}},
		{name: "a slot for another POST is waited for", setup: func(s *sim) {
			s.post = answers(postAnswer{err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Status: 503, RetryAfter: 10 * time.Minute}})
			slotsAfter(0, 2*simPatience, time.Minute)(s)
		}, want: OutcomeCreated, through: []string{viaNoSlot, viaAlone, viaHandBack, viaAbsent}},
		{name: "announced, and sent a while after", setup: func(s *sim) { s.begin = func(int) time.Duration { return 5 * time.Second } },
			want: OutcomeCreated, through: []string{viaBegin}, never: []string{viaNotBegun}},
		{name: "announced, and not sent the first time", setup: func(s *sim) {
			s.begin = func(n int) time.Duration { return []time.Duration{simLease, 0}[min(n, 1)] }
		}, want: OutcomeCreated, through: []string{viaNotBegun}},
		{name: "no slot before the deadline", setup: func(s *sim) {
			s.tweak = func(c *Config) { c.RequestDeadline = 5 * time.Minute }
			s.slot = func(int) time.Duration { return 2 * simPatience }
		}, want: OutcomeFailed, reason: ReasonFlowUnavailable, through: []string{viaNoSlot, viaHandBack}},
		{name: "a slot just after the deadline", setup: func(s *sim) {
			s.tweak = func(c *Config) { c.RequestDeadline = time.Minute }
			s.slot = func(int) time.Duration { return time.Minute + time.Second }
		}, want: OutcomeFailed, reason: ReasonFlowUnavailable, through: []string{viaSlotWait}},
	}
}

// ahead has the first n chances to read a message directly taken, under the weather of setup.
func ahead(n int, setup func(*sim)) func(*sim) {
	return func(s *sim) {
		if setup != nil {
			setup(s)
		}
		s.ahead = func(i int) bool { return i < n }
	}
}

func directScenarios() []scenario {
	lost := postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 504}}
	direct := []string{viaDirect, viaSilent}
	return []scenario{
		{name: "read directly, and made at once", setup: ahead(1, nil), want: OutcomeCreated, through: direct},
		{name: "read directly three times", setup: ahead(3, nil), want: OutcomeCreated, through: direct},
		{name: "read directly, and the answer lost", setup: ahead(1, posts(lost)), want: OutcomeCreated, through: direct},
		{name: "read directly, 500 and not made", setup: ahead(2, posts(says(VerdictUnknown))), want: OutcomeCreated, through: []string{viaDirect, viaAbsent}},
		{name: "read directly, and rejected", setup: ahead(1, func(s *sim) { s.post = always(VerdictRejected) }), want: OutcomeFailed, reason: ReasonFlowRejected, through: direct},
		{name: "read directly, and invalid", setup: ahead(1, func(s *sim) { s.msgs[0].d.Invalid = Fail(ReasonInvalidRequest, "no name") }),
			want: OutcomeFailed, reason: ReasonInvalidRequest, through: direct},
		{name: "read directly, given back, and delivered", setup: ahead(1, slotsAfter(2*simPatience)), want: OutcomeCreated, through: []string{viaDirect, viaNoSlot}},
		{name: "read directly while the Flow Service isn't called", setup: func(s *sim) {
			ahead(2, nil)(s)
			s.gate = closed(s, TargetFlow, 0, 5*time.Minute)
		}, want: OutcomeCreated, through: []string{viaDirect, viaGate(TargetFlow), viaHandBack}},
	}
}

// closed returns a weather of gates: target isn't called from one moment of the run to another.
func closed(s *sim, target Target, from, to time.Duration) func(Target) time.Duration {
	began := s.now
	return func(t Target) time.Duration {
		if since := s.now.Sub(began); t == target && from <= since && since < to {
			return to - since
		}
		return 0
	}
}

func gateScenarios() []scenario {
	return []scenario{
		{name: "the Flow Service isn't called for a while", setup: func(s *sim) { s.gate = closed(s, TargetFlow, 0, 5*time.Minute) },
			want: OutcomeCreated, through: []string{viaGate(TargetFlow), viaHandBack}},
		{name: "Vault isn't called for a while", setup: func(s *sim) { s.gate = closed(s, TargetVault, 0, 3*time.Minute) },
			want: OutcomeCreated, through: []string{viaGate(TargetVault), viaHandBack}},
		{name: "the gate closes behind a POST", setup: func(s *sim) {
			s.post = func(n int) postAnswer {
				if n > 0 {
					return postAnswer{made: true}
				}
				s.gate = closed(s, TargetFlow, 0, 20*time.Minute)
				return says(VerdictUnknown)
			}
		}, want: OutcomeCreated, through: []string{viaGate(TargetFlow), viaHandBack, viaAbsent}},
		{name: "the gate stays closed behind a POST", setup: func(s *sim) {
			s.tweak = func(c *Config) { c.RequestDeadline = 5 * time.Minute }
			s.post = func(int) postAnswer {
				s.gate = closed(s, TargetFlow, 0, 24*time.Hour)
				return says(VerdictUnknown)
			}
		}, want: OutcomeFailed, reason: ReasonOutcomeUnknown, through: []string{viaGate(TargetFlow), viaHandBack, viaUnknown}},
	}
}

// later is an answer that asks to be left alone for d.
func later(v Verdict, status int, d time.Duration) postAnswer {
	return postAnswer{err: &CallError{Verdict: v, Target: TargetFlow, Cause: CauseThrottled, Status: status, RetryAfter: d}}
}

func restScenarios() []scenario {
	return []scenario{
		{name: "429 for seconds", setup: posts(later(VerdictThrottled, 429, 10*time.Second)), want: OutcomeCreated, through: []string{viaAlone}},
		{name: "429 for longer than a message may rest", setup: posts(later(VerdictThrottled, 429, 20*time.Minute)),
			want: OutcomeCreated, through: []string{viaAlone, viaHandBack}},
		{name: "503 for minutes", setup: posts(later(VerdictUnknown, 503, 10*time.Minute)),
			want: OutcomeCreated, through: []string{viaAlone, viaHandBack, viaAbsent}},
		{name: "429 past the deadline", setup: func(s *sim) {
			s.tweak = func(c *Config) { c.RequestDeadline = 10 * time.Minute }
			s.post = func(int) postAnswer { return later(VerdictThrottled, 429, time.Hour) }
		}, want: OutcomeFailed, reason: ReasonFlowUnavailable, through: []string{viaAlone, viaHandBack}},
	}
}

// earlier adds the connection that the request made under a ledger that is lost.
func earlier(s *sim) {
	existing(s, func(f *Found) { f.ID, f.Description = "c0", testRequest().Key.Mark() })
}

// stale makes IMS refuse the credentials that the first caller has, and puts newer ones into Vault.
func stale(s *sim) {
	refuse := imsSays(VerdictDenied, 401)
	s.ims = func(n int) error {
		if n > 0 {
			return nil
		}
		s.secrets.creds++
		return refuse(n)
	}
}

func lookFirstScenarios() []scenario {
	young := func(s *sim) {
		created := s.now.Add(time.Minute)
		s.tweak = func(c *Config) { c.LedgerCreated = created }
	}
	replaced := func(s *sim) {
		until := s.now.Add(10 * time.Minute)
		s.tweak = func(c *Config) { c.LookFirstUntil = func() time.Time { return until } }
	}
	return []scenario{
		{name: "older than the ledger", setup: young, want: OutcomeCreated, through: []string{viaFirst}},
		{name: "older than the ledger, and made under the old one", setup: func(s *sim) { young(s); earlier(s) },
			want: OutcomeCreated, through: []string{viaFirst}},
		{name: "the first write shows that the ledger lost records", setup: func(s *sim) { lossSeen(s); earlier(s) },
			want: OutcomeCreated, through: []string{viaFirst}},
		{name: "the first write shows that the ledger lost records, and nothing was made", setup: lossSeen,
			want: OutcomeCreated, through: []string{viaFirst}},
		{name: "the ledger took another's place, and the first looks fail", setup: func(s *sim) {
			replaced(s)
			earlier(s)
			s.list = outage(s, 0, 30*time.Second)
		}, want: OutcomeCreated, through: []string{viaFirst, viaNoList}},
		{name: "older than the ledger, and the credentials are stale", setup: func(s *sim) { young(s); stale(s) },
			want: OutcomeCreated, through: []string{viaFirst, viaIMS}},
		{name: "older than the ledger, 500 and not made", setup: func(s *sim) { young(s); s.post = answers(says(VerdictUnknown)) },
			want: OutcomeCreated, through: []string{viaFirst, viaAbsent}},
	}
}

var errOutage = errors.New("it can't be had")

// outage returns a function that fails from one moment of the run to another.
func outage(s *sim, from, to time.Duration) func() error {
	began := s.now
	return func() error {
		if since := s.now.Sub(began); from <= since && since < to {
			return errOutage
		}
		return nil
	}
}

// goneFrom makes a secret missing from one moment of the run to another, before which it may not end a request
// that was told of it less than the grace after the first of them.
func goneFrom(s *sim, secret string, from, to time.Duration) {
	began := s.now
	within := func() bool { since := s.now.Sub(began); return from <= since && since < to }
	s.gone = func(which string) bool { return which == secret && within() }
	s.believes = func(Reason) bool { return within() && s.now.Sub(began) >= from+simGrace }
}

// flickers makes a secret missing at every other read, as behind servers of which one lags.
func flickers(s *sim, secret string) {
	reads := 0
	s.gone = func(which string) bool {
		if which == secret {
			reads++
		}
		return which == secret && reads%2 == 1
	}
	s.believes = func(Reason) bool { return false }
}

func graceScenarios() []scenario {
	const day = 24 * time.Hour
	gone := func(secret string, to time.Duration) func(*sim) { return func(s *sim) { goneFrom(s, secret, 0, to) } }
	rests := []string{viaMissing, viaGrace}
	refusedThenGone := func(to time.Duration) func(*sim) {
		return func(s *sim) {
			s.post = func(n int) postAnswer {
				if n > 0 {
					return postAnswer{made: true}
				}
				goneFrom(s, secretToken, 0, to)
				s.believes = nil // it is the refusal that is told
				s.secrets.token++
				return says(VerdictRejected)
			}
		}
	}
	return []scenario{
		{name: "the token's secret appears", setup: gone(secretToken, 3*time.Second), want: OutcomeCreated, through: rests},
		{name: "the tenant's secret appears", setup: gone(secretAdobe, 3*time.Second), want: OutcomeCreated, through: rests},
		{name: "the token's secret stays missing", setup: gone(secretToken, day), want: OutcomeFailed, reason: ReasonSecretNotFound, through: rests},
		{name: "the tenant's secret stays missing", setup: gone(secretAdobe, day), want: OutcomeFailed, reason: ReasonTenantUnknown, through: rests},
		{name: "one server of Vault lags", setup: func(s *sim) { flickers(s, secretToken) }, want: OutcomeCreated,
			through: []string{viaMissing}, never: []string{viaGrace}},
		{name: "one secret appears, then the other is missing", setup: func(s *sim) {
			began := s.now
			s.gone = func(which string) bool {
				since := s.now.Sub(began)
				return which == secretAdobe && since < 8*time.Second || which == secretToken && since < 16*time.Second
			}
			s.believes = func(Reason) bool { return false }
		}, want: OutcomeCreated, through: rests},
		{name: "missing, and the deadline comes before the grace", setup: func(s *sim) {
			goneFrom(s, secretToken, 0, day)
			s.tweak = func(c *Config) { c.RequestDeadline = 5 * time.Second }
		}, want: OutcomeFailed, reason: ReasonSecretNotFound, through: rests},
		{name: "missing, and Vault is away in between", setup: func(s *sim) {
			goneFrom(s, secretToken, 0, 5*time.Second)
			s.gate = closed(s, TargetVault, 6*time.Second, 3*time.Minute)
		}, want: OutcomeCreated, through: rests},
		{name: "missing, without a grace", setup: func(s *sim) {
			goneFrom(s, secretToken, 0, day)
			s.believes = nil
			s.tweak = func(c *Config) { c.SecretGrace = 0 }
		}, want: OutcomeFailed, reason: ReasonSecretNotFound, through: []string{viaMissing}, never: []string{viaGrace}},
		{name: "rejected, and the newer token lags", setup: refusedThenGone(3 * time.Second), want: OutcomeCreated, through: append(rests, viaReread)},
		{name: "rejected, and the token is withdrawn", setup: refusedThenGone(day), want: OutcomeFailed, reason: ReasonFlowRejected, through: rests},
		{name: "looked up first, and the tenant's secret appears", setup: func(s *sim) {
			s.msgs[0].d.Request.Data.IfExists = IfExistsReject
			goneFrom(s, secretAdobe, 0, 3*time.Second)
		}, want: OutcomeCreated, through: append(rests, viaFirst)},
		{name: "looked up first, and the tenant's secret stays missing", setup: func(s *sim) {
			s.msgs[0].d.Request.Data.IfExists = IfExistsReject
			goneFrom(s, secretAdobe, 0, day)
		}, want: OutcomeFailed, reason: ReasonTenantUnknown, through: rests},
		{name: "missing while a POST is open", setup: func(s *sim) {
			s.post = func(int) postAnswer {
				goneFrom(s, secretAdobe, 0, time.Minute)
				s.procs[0].cached.creds = 0 // forgotten with time
				return promise(true)
			}
		}, want: OutcomeCreated, through: []string{viaMissing, viaPromise}, never: []string{viaGrace}},
		{name: "missing until the retry", setup: func(s *sim) {
			retried(s, 1)
			goneFrom(s, secretToken, 0, day)
			s.retry = func(res Result, last int) int {
				if res.Outcome == OutcomeFailed && last < 1 {
					s.gone, s.believes = nil, nil
					return last + 1
				}
				return 0
			}
		}, want: OutcomeCreated, through: append(rests, viaRetry)},
	}
}

func ledgerScenarios() []scenario {
	behind := func(answer postAnswer) func(*sim) {
		return func(s *sim) {
			s.post = func(n int) postAnswer {
				if n > 0 {
					return postAnswer{made: true}
				}
				s.book = outage(s, 0, 5*time.Minute)
				return answer
			}
		}
	}
	return []scenario{
		{name: "no ledger for a minute", setup: func(s *sim) { s.book = outage(s, 0, time.Minute) },
			want: OutcomeCreated, through: []string{viaNoLedger, viaFirst}},
		{name: "the ledger goes behind a POST", setup: behind(postAnswer{made: true}), want: OutcomeCreated, through: []string{viaNoLedger}},
		{name: "the ledger goes behind a POST that made nothing", setup: behind(says(VerdictThrottled)),
			want: OutcomeCreated, through: []string{viaNoLedger}},
	}
}

func ifExistsScenarios() []scenario {
	asks := func(i IfExists, there func(*sim)) func(*sim) {
		return func(s *sim) {
			s.msgs[0].d.Request.Data.IfExists = i
			if there != nil {
				there(s)
			}
		}
	}
	same := func(s *sim) { existing(s, nil) }
	other := func(s *sim) { existing(s, func(f *Found) { f.ClusterID = "another" }) }
	return []scenario{
		{name: "adopt if it exists, nothing there", setup: asks(IfExistsAdopt, nil), want: OutcomeCreated, through: []string{viaFirst}},
		{name: "adopt if it exists, there", setup: asks(IfExistsAdopt, same), want: OutcomeCreated, through: []string{viaFirst, viaIfExists}},
		{name: "adopt if it exists, another there", setup: asks(IfExistsAdopt, other),
			want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaFirst, viaIfExists}},
		{name: "reject if it exists, nothing there", setup: asks(IfExistsReject, nil), want: OutcomeCreated, through: []string{viaFirst}},
		{name: "reject if it exists, there", setup: asks(IfExistsReject, same),
			want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaFirst, viaIfExists}},
		{name: "reject if it exists, and another comes after the first POST", setup: asks(IfExistsReject, func(s *sim) {
			s.post = func(n int) postAnswer {
				if n > 0 {
					return postAnswer{made: true}
				}
				other(s)
				return later(VerdictThrottled, 429, 20*time.Minute)
			}
		}), want: OutcomeCreated, through: []string{viaFirst, viaAlone, viaHandBack}},
		{name: "reject if it exists, rejected, and another there for the retry", setup: asks(IfExistsReject, func(s *sim) {
			retried(s, 1)
			s.post = func(n int) postAnswer {
				if n > 0 {
					return postAnswer{made: true}
				}
				other(s)
				return says(VerdictRejected)
			}
		}), want: OutcomeCreated, through: []string{viaFirst, viaRetry}},
		{name: "reject if it exists, and the answer is lost", setup: asks(IfExistsReject, posts(promise(true))),
			want: OutcomeCreated, through: []string{viaFirst, viaPromise}},
	}
}

// retried sends a retry after each of the first n failures.
func retried(s *sim, n int) {
	s.retry = func(res Result, last int) int {
		if res.Outcome == OutcomeFailed && last < n {
			return last + 1
		}
		return 0
	}
}

// hasty makes every request give up after d, and look for its POST a few times only.
func hasty(d time.Duration) func(*Config) {
	return func(c *Config) { c.RequestDeadline, c.RetryInitial = d, 30*time.Second }
}

func retryScenarios() []scenario {
	// A retry ignores the expiry that ended the first try.
	expires := func(s *sim) {
		retried(s, 1)
		s.msgs[0].d.Request.Expiry = s.now.Add(5 * time.Minute)
		s.tweak, s.list = hasty(24*time.Hour), outage(s, 0, 8*time.Minute)
	}
	return []scenario{
		{name: "rejected, then retried", setup: func(s *sim) { retried(s, 1); s.post = answers(says(VerdictRejected)) },
			want: OutcomeCreated, through: []string{viaRetry}},
		{name: "nobody knows, then the retry finds it", setup: func(s *sim) { expires(s); s.post = answers(promise(true)) },
			want: OutcomeCreated, through: []string{viaRetry, viaNoList, viaUnknown}},
		{name: "nobody knows, nor do two retries", setup: func(s *sim) {
			retried(s, 2)
			s.tweak, s.list = hasty(time.Minute), outage(s, 0, 24*time.Hour)
			s.post = func(int) postAnswer { return promise(true) }
		}, want: OutcomeFailed, reason: ReasonOutcomeUnknown, through: []string{viaRetry, viaNoList, viaUnknown}},
		{name: "nobody knows, and the retry proves it absent", setup: func(s *sim) { expires(s); s.post = answers(says(VerdictUnknown)) },
			want: OutcomeCreated, through: []string{viaRetry, viaNoList, viaUnknown, viaAbsent}},
	}
}
