//go:build race

package provision

// pairsPerScenario is few where the race detector makes each ten times as dear.
const pairsPerScenario = 100
