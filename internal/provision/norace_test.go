//go:build !race

package provision

// pairsPerScenario bounds the time of the package's tests; -pairs 0 plays every pair.
const pairsPerScenario = 1000
