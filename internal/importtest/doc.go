// Package importtest holds no code, only the tests that keep true what is written down about the whole
// tree: the map of packages, which says who may import whom and which third-party modules (see
// map_test.go), and the tests that the documents name.
package importtest
