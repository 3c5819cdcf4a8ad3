//go:build race

package provision

// pairStride thins the pairs of crash points out where the race detector makes each ten times as
// dear; without it all are played.
const pairStride = 12
