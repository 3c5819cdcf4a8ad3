package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// wanted says what a flag of a type wants, in words.
var wanted = map[string]string{ // :: type as pflag names it → words
	"int": "a whole number", "float64": "a number", "duration": "a duration, as 90s, 10m or 24h", "bool": "true or false",
}

// flagError says of a flag's value that can't be read what would be right, not what a parser says.
func flagError(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	want, known := wanted[invalid.GetFlag().Value.Type()]
	if !known {
		return err
	}
	return usagef("--%s is %.80q; want %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}
