package main

import (
	"context"
	"errors"
	"io"
	"testing"
)

func TestPrepare(t *testing.T) {
	var made []string
	named := func(name string) makes {
		return func(context.Context, io.Writer) (string, error) {
			made = append(made, name)
			return name, nil
		}
	}
	if err := prepare(t.Context(), io.Discard, []makes{named("one"), named("two")}, nil); err != nil || len(made) != 2 || made[0] != "one" {
		t.Errorf("made %q, %v", made, err)
	}
}

func TestPrepareEndsWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	never := func(context.Context, io.Writer) (string, error) { return "", errors.New("the next one is made, too") }
	fails := func(context.Context, io.Writer) (string, error) { return "", broken }
	waits := func(ctx context.Context, _ io.Writer) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	if err := prepare(t.Context(), io.Discard, []makes{waits, never}, []makes{fails, never}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
