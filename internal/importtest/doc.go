// Package importtest holds no code, only the test that keeps the map of packages true: which package
// may import which other ones, and which third-party modules. See map_test.go for the map itself.
package importtest
