package provision

import "testing"

func TestTraceID(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01":               id,
		"cc-" + id + "-b7ad6b7169203331-01-what-may-come": id,
		"": "", "-": "", "00-short-b7ad6b7169203331-01": "", "00-" + id + "-b7ad6b7169203331": "",
		"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01":       "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":       "",
		"00-\xff\xfe7651916cd43dd8448eb211c80319cc-b7ad6b7169203331-01": "",
	} {
		if got := (Trace{Parent: parent}).ID(); got != want {
			t.Errorf("ID of %q is %q, want %q", parent, got, want)
		}
	}
}

// An exemplar that leads to a trace that nobody recorded leads nowhere.
func TestSampledTraceID(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for flags, want := range map[string]string{"01": id, "03": id, "ff": id, "00": "", "02": "", "": "", "zz": "", "001": id, "fff": ""} {
		if got := (Trace{Parent: "00-" + id + "-b7ad6b7169203331-" + flags}).SampledID(); got != want {
			t.Errorf("flags %q: %q, want %q", flags, got, want)
		}
	}
	if got := (Trace{Parent: "nonsense"}).SampledID(); got != "" {
		t.Errorf("of nonsense: %q", got)
	}
}
