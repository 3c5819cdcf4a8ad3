package canary

import "testing"

// What rules most places out reads that many bytes of each block.
func TestNoBlockIsShorterThanItsHead(t *testing.T) {
	t.Parallel()
	for name, s := range Spellings {
		if s.Block < head {
			t.Errorf("%s: blocks of %d bytes, want %d or more", name, s.Block, head)
		}
	}
}
