package flowtest

import (
	"maps"
	"slices"
)

// operations lists what Fault.Operation may be.
var operations = []Operation{
	OpCreate, OpList, OpGet, OpUpdate, OpDelete, OpTest, OpExplore, OpAction, OpSpecs, OpToken, OpOther, OpAny,
}

// bodyKinds lists what Fault.Body may be.
var bodyKinds = []BodyKind{
	BodyFlow, BodyGateway, BodyGatewayNumber, BodyLegacy, BodyProblem, BodyIMS, BodyHTML, BodyEmpty,
	BodyGarbage, BodyNormal, BodyNoID,
}

// effectStages lists the effects, and when each may strike.
var effectStages = map[Effect][]Stage{
	EffectLatency:        {"", StageBefore, StageAfter},
	EffectStatus:         {"", StageBefore, StageAfter},
	EffectReset:          {"", StageUnread, StageBefore, StageAfter},
	EffectHang:           {"", StageBefore, StageAfter},
	EffectClusterStopped: {"", StageBefore},
	EffectBadCredentials: {"", StageBefore},
	EffectExpiredToken:   {"", StageBefore},
	EffectTruncate:       {"", StageBefore},
	EffectRateLimit:      {"", StageBefore},
	EffectListLag:        {"", StageBefore},
	EffectInitializing:   {"", StageBefore},
	EffectStore:          {"", StageBefore},
	EffectState:          {"", StageBefore},
	EffectUniqueNames:    {"", StageBefore},
	EffectOmit:           {"", StageBefore},
	EffectUnordered:      {"", StageBefore},
	EffectRefuseQuery:    {"", StageBefore},
	EffectFoldNames:      {"", StageBefore},
}

// within reports whether all of some are known.
func within[T comparable](some, known []T) bool {
	return !slices.ContainsFunc(some, func(s T) bool { return !slices.Contains(known, s) })
}

func effectNames() []Effect { return slices.Sorted(maps.Keys(effectStages)) }

// statusCodes are the codes that a Fault without a Code gets for its Status, by shape.
var (
	flowCodes = map[int]string{
		400: "1100-400", 403: "2120-403", 404: "1439-404", 412: "1404-412", 500: "1102-500", 503: "1103-503", 504: "1104-504",
	}
	gatewayCodes = map[int]string{400: "400003", 401: "401013", 403: "403025", 429: "429050"}
)
