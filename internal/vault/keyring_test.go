package vault

import (
	"fmt"
	"slices"
	"testing"
)

func TestKeyringForgetsTheOldest(t *testing.T) {
	t.Parallel()
	var k keyring
	for i := range maxKnown + 2 {
		k.add(fmt.Sprint("secret-", i))
		k.add("")
		k.add(fmt.Sprint("secret-", i))
	}
	got := k.with("now")
	if len(got) != maxKnown+1 || got[0] != "now" || slices.Contains(got, "secret-1") || !slices.Contains(got, "secret-2") {
		t.Errorf("got %q", got)
	}
}
