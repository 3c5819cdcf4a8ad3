package provision

import (
	"html"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"
)

// The habits of a Flow Service that stores otherwise than it was sent, and leaves out of its lists what it
// likes: the scenarios of the crash points over them.

// lost is the answer to a POST that made a connection, and says nothing of it.
var lost = postAnswer{made: true, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 504}}

// habitual loses the answer to the first POST, of a request that a service can store otherwise in every way.
func habitual(h habits) func(*sim) {
	return func(s *sim) {
		d := &s.msgs[0].d.Request.Data
		d.Name, d.Description = "Bestellungen fu\u0308r  M\u00fcller \u200bGmbH", "All  the Orders <b>of</b> 2026"
		d.ConnectionSpec.ID = "E9D7EC6B"
		s.habits = h
		s.post = answers(lost)
	}
}

// unsettledHabit is the same where nobody can tell in the end.
func unsettledHabit(h habits) func(*sim) {
	return func(s *sim) {
		habitual(h)(s)
		s.tweak = unhurried
	}
}

func plainName(f *Found) {
	f.Name = strings.ToLower(norm.NFC.String(strings.Join(strings.Fields(strings.ReplaceAll(f.Name, "\u200b", "")), " ")))
}

func lowerSpec(f *Found) { f.SpecID = strings.ToLower(f.SpecID) }

// cutBy cuts so many bytes off the end of the description.
func cutBy(n int) func(*Found) {
	return func(f *Found) { f.Description = f.Description[:max(0, len(f.Description)-n)] }
}

// described changes the description.
func described(change func(string) string) func(*Found) {
	return func(f *Found) { f.Description = change(f.Description) }
}

func bare(f *Found) { *f = Found{Connection: f.Connection, Undescribed: true} }

func undescribed(f *Found) { f.Description, f.Undescribed = "", true }

func both(changes ...func(*Found)) func(*Found) {
	return func(f *Found) {
		for _, c := range changes {
			c(f)
		}
	}
}

// keepingHabits leave the mark whole, somewhere.
func keepingHabits() map[string]habits {
	return map[string]habits{
		"spec ids in small letters":          {store: lowerSpec},
		"names in small letters and NFC":     {store: plainName},
		"names without regard to case":       {store: plainName, folds: true},
		"names and spec ids of its own":      {store: both(plainName, lowerSpec)},
		"descriptions trimmed and collapsed": {store: described(func(s string) string { return strings.Join(strings.Fields(s), " ") })},
		"descriptions in capitals":           {store: described(strings.ToUpper)},
		"descriptions without blanks":        {store: described(func(s string) string { return strings.ReplaceAll(s, " ", "") })},
		"descriptions escaped": {store: described(func(s string) string {
			return strings.NewReplacer("[", "&#91;", "]", "&#x5d;").Replace(html.EscapeString(html.EscapeString(s)))
		})},
		"descriptions cut behind the digits":    {store: both(plainName, cutBy(1))},
		"lists without descriptions":            {list: undescribed},
		"lists without descriptions, and names": {store: both(plainName, lowerSpec), list: undescribed},
		"lists with descriptions that are cut":  {list: cutBy(20)},
		"lists of ids":                          {list: bare},
		"lists without times":                   {store: both(plainName, lowerSpec), list: func(f *Found) { f.CreatedAt = time.Time{} }, still: true},
		"lists in no order":                     {store: plainName, still: true},
		"a clock that is minutes behind":        {store: both(plainName, func(f *Found) { f.CreatedAt = f.CreatedAt.Add(-4 * time.Minute) })},
		"a state that is no use yet":            {store: func(f *Found) { f.State = stateInitializing }},
		"drafts":                                {store: func(f *Found) { f.State = "draft" }},
	}
}

// cuttingHabits leave no whole mark anywhere.
func cuttingHabits() map[string]habits {
	return map[string]habits{
		"marks cut":                       {store: cutBy(9)},
		"marks cut, and another name":     {store: both(cutBy(9), func(f *Found) { f.Name = "connection 17" })},
		"descriptions cut before":         {store: both(lowerSpec, cutBy(40))},
		"descriptions cut with the names": {store: both(plainName, cutBy(60), func(f *Found) { f.Name = f.Name[:12] + "..." })},
		"no descriptions":                 {store: both(plainName, lowerSpec, undescribed)},
	}
}

func habitScenarios() (all []scenario) {
	keeping, cutting := keepingHabits(), cuttingHabits()
	for _, name := range keysOf(keeping) {
		all = append(all, scenario{name: "a service with " + name, setup: habitual(keeping[name]), want: OutcomeCreated, never: []string{viaAbsent}})
	}
	for _, name := range keysOf(cutting) {
		all = append(all, scenario{name: "a service with " + name, setup: unsettledHabit(cutting[name]), want: OutcomeFailed, reason: ReasonOutcomeUnknown,
			or: []Reason{ReasonFlowUnavailable, ReasonVaultUnavailable}, through: []string{viaUnknown, viaRead}, never: []string{viaAbsent}})
	}
	return append(all,
		scenario{name: "a service with lists of ids, 500 and not made", want: OutcomeCreated, through: []string{viaAbsent, viaRead}, setup: func(s *sim) {
			habitual(keepingHabits()["lists of ids"])(s)
			s.post = answers(says(VerdictUnknown))
			existing(s, func(f *Found) { f.Name = "another's" })
			existing(s, func(f *Found) { f.ID, f.Description = "theirs", secondRequest().Key.Mark() })
		}},
		scenario{name: "a service that fails at filters", want: OutcomeCreated, setup: func(s *sim) {
			habitual(habits{failsFilters: true})(s)
		}},
		scenario{name: "a service that fails at filters, 500 and not made", want: OutcomeCreated, through: []string{viaAbsent}, setup: func(s *sim) {
			habitual(habits{failsFilters: true})(s)
			s.post = answers(says(VerdictUnknown))
		}},
		scenario{name: "marks cut, and the ledger is lost", want: OutcomeFailed, reason: ReasonOutcomeUnknown, through: []string{viaFirst, viaUnknown}, setup: func(s *sim) {
			created := s.now.Add(time.Minute)
			s.tweak = func(c *Config) { unhurried(c); c.LedgerCreated = created }
			existing(s, func(f *Found) { f.ID, f.Description = "c0", testRequest().Key.Mark()[:20] })
		}, or: []Reason{ReasonFlowUnavailable, ReasonVaultUnavailable}},
		scenario{name: "names of its own, and the ledger is lost", want: OutcomeCreated, through: []string{viaFirst}, setup: func(s *sim) {
			created := s.now.Add(time.Minute)
			s.tweak = func(c *Config) { c.LedgerCreated = created }
			existing(s, func(f *Found) { f.ID, f.Name, f.SpecID, f.Description = "c0", "x", "X", testRequest().Key.Mark() })
		}},
	)
}

func keysOf[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// taken is the refusal of a POST because such a connection exists already.
func taken(made bool) postAnswer {
	return postAnswer{made: made, err: &CallError{Verdict: VerdictUnknown, Target: TargetFlow, Cause: CauseStatus, Status: 400, Exists: true}}
}

func takenScenarios() []scenario {
	return []scenario{
		{name: "refused as existing, for something repeated the POST", setup: posts(taken(true)), want: OutcomeCreated, through: []string{viaTaken}, never: []string{viaAbsent}},
		{name: "refused as existing once", setup: posts(taken(false)), want: OutcomeCreated, through: []string{viaTaken, viaAbsent}},
		{name: "refused as existing, and it is another's", setup: func(s *sim) {
			existing(s, func(f *Found) { f.CreatedAt = s.now.Add(-time.Hour) })
			s.post = func(int) postAnswer { return taken(false) }
		}, want: OutcomeFailed, reason: ReasonFlowRejected, or: []Reason{ReasonFlowUnavailable}, through: []string{viaTaken, viaAbsent}},
		{name: "refused as existing after a POST that nobody knew of", setup: func(s *sim) {
			s.post = answers(says(VerdictUnknown), taken(true))
		}, want: OutcomeCreated, through: []string{viaTaken, viaAbsent}},
	}
}

// stateScenarios are about what ifExists finds.
func stateScenarios() []scenario {
	adopts := func(there func(*sim)) func(*sim) {
		return func(s *sim) {
			s.msgs[0].d.Request.Data.IfExists = IfExistsAdopt
			there(s)
		}
	}
	in := func(state string) func(*sim) { return func(s *sim) { existing(s, func(f *Found) { f.State = state }) } }
	return []scenario{
		{name: "adopt if it exists, a draft there", setup: adopts(in("draft")), want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaIfExists}},
		{name: "adopt if it exists, disabled", setup: adopts(in("disabled")), want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaIfExists}},
		{name: "adopt if it exists, deleted", setup: adopts(in("deleted")), want: OutcomeCreated, through: []string{viaFirst}, never: []string{viaIfExists}},
		{name: "adopt if it exists, initializing for a minute", setup: adopts(func(s *sim) {
			began := s.now
			in(stateInitializing)(s)
			s.habits.list = func(f *Found) {
				if s.now.Sub(began) > time.Minute {
					f.State = stateEnabled
				}
			}
		}), want: OutcomeCreated, or: []Reason{ReasonNameExists}, through: []string{viaIfExists, viaHandBack}},
		{name: "adopt if it exists, initializing", setup: adopts(in(stateInitializing)), want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaIfExists, viaHandBack}},
		{name: "adopt if it exists, lists of ids", setup: adopts(func(s *sim) {
			in(stateEnabled)(s)
			s.habits = habits{list: bare}
			s.conns[0].Name = "Orders"
			s.habits.folds = true
		}), want: OutcomeCreated, through: []string{viaIfExists, viaRead}},
		{name: "adopt if it exists, a draft in a list without states", setup: adopts(func(s *sim) {
			in("draft")(s)
			s.habits = habits{list: func(f *Found) { f.State = "" }}
		}), want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaIfExists, viaRead}},
		{name: "reject if it exists, under a name of the service's own", setup: func(s *sim) {
			s.msgs[0].d.Request.Data.IfExists = IfExistsReject
			s.msgs[0].d.Request.Data.Name = "O\u0308rders  2026"
			existing(s, func(f *Found) { f.Name = "\u00f6rders 2026" })
		}, want: OutcomeFailed, reason: ReasonNameExists, through: []string{viaIfExists}},
	}
}

// randomHabits draws what the service of an interleaving makes of what it is sent.
func (s *sim) randomHabits() {
	keeping, cutting := keepingHabits(), cuttingHabits()
	switch names := keysOf(keeping); s.rng.IntN(8) {
	case 0, 1, 2:
		s.habits = keeping[names[s.rng.IntN(len(names))]]
	case 3:
		names = keysOf(cutting)
		s.habits, s.cutting = cutting[names[s.rng.IntN(len(names))]], true
	}
}
