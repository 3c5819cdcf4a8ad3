//go:build !race

package provision

// pairStride 1 plays every pair of crash points.
const pairStride = 1
