package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args  string
		words []string
		err   error
	}{
		{"ping", []string{"ping"}, nil},
		{"-server host:1 put -data x /file", []string{"put", "/file"}, nil},
		{"mkdir /dir -mode 0700 -uid 5", []string{"mkdir", "/dir"}, nil},
		{"mv /a /b", []string{"mv", "/a", "/b"}, nil},
		{"-h", nil, flag.ErrHelp},
		{"", nil, errUsage},
		{"frobnicate", nil, errUsage},
		{"get", nil, errUsage},
		{"get /a /b", nil, errUsage},
		{"-nonsense get /a", nil, errUsage},
		{"-uid -1 get /a", nil, errUsage},
	} {
		t.Run(test.args, func(t *testing.T) {
			req, err := parse(strings.Fields(test.args), io.Discard)
			if !errors.Is(err, test.err) || err == nil && !slices.Equal(req.words, test.words) {
				t.Errorf("got %q, %v, want %q, %v", req.words, err, test.words, test.err)
			}
		})
	}
}

func TestParseMode(t *testing.T) {
	for _, test := range []struct {
		text string
		want uint32
		ok   bool
	}{
		{"", 0o644, true},
		{"0600", 0o600, true},
		{"4755", 0o4755, true},
		{"888", 0, false},
		{"10000", 0, false},
	} {
		got, err := parseMode(test.text, 0o644)
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: got %o, %v", test.text, got, err)
		}
	}
}
