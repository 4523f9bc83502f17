package app

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/metrics"
	"github.com/berth-storage/berth/internal/run"
)

// remoteTank is a pool of datasets on another host.
func remoteTank(t *testing.T) (*app, *remotePool) {
	t.Helper()
	a := &app{config: newConfig(t), log: newLogger(config.Log{}, io.Discard), metrics: metrics.New("dev")}
	return a, &remotePool{config: config.Pool{
		Name: "tank", ZFS: &config.ZFS{Dataset: "tank/k8s", SSH: &config.SSH{Host: "nas", User: "u", Password: "p", KnownHosts: "/nonexistent"}},
	}}
}

func TestAHostThatDoesNotAnswerIsAwayUntilItDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := remoteTank(t)
		a.health.remote("tank", nil)
		g := newGate(&hungHost{})
		lost := make(chan struct{})
		answers, done := make(chan error), make(chan error)
		go func() {
			done <- a.watchHost(t.Context(), p, lost, g, func(ctx context.Context) error {
				select {
				case err := <-answers:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
		away := func(want string) {
			t.Helper()
			synctest.Wait()
			if why := a.health.whyAway("tank"); !strings.Contains(why.Error(), want) {
				t.Errorf("away because of %v, want %q", why, want)
			}
			if _, err := g.Output(t.Context(), nil); !errors.Is(err, run.ErrNotStarted) {
				t.Errorf("a command got error %v", err)
			}
		}
		time.Sleep(probeHost + hostStalls)
		away("nas does not answer: context deadline exceeded")
		answers <- errors.New("connection refused")
		away("nas does not answer: connection refused")
		answers <- nil
		synctest.Wait()
		if g.open() || a.health.remotes["tank"] != nil {
			t.Errorf("a host that answers again is away: %v", a.health.remotes["tank"])
		}
		close(lost)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "the connection was lost, and the lock") {
			t.Errorf("when the lock was lost: got error %v", err)
		}
	})
}

func TestWatchingAHostEndsWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := remoteTank(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- a.watchHost(ctx, p, nil, newGate(&hungHost{}), func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		time.Sleep(probeHost + time.Second) // it is being asked
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v", err)
		}
		if why := a.health.remotes["tank"]; why != nil {
			t.Errorf("that was told as %v", why)
		}
	})
}

// What cannot be opened is told, and the end of the process does not wait for it.
func TestRemoteDatasetsThatCannotBeOpened(t *testing.T) {
	a, p := remoteTank(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.config.ZFS.SSH.Password, p.config.ZFS.SSH.PasswordFile = "", filepath.Join(t.TempDir(), "missing")
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.serveRemoteDatasets(ctx, p)
	}()
	for !strings.Contains(a.health.whyAway("tank").Error(), "a secret for nas") {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
}

func TestSecretsOfSSH(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{"passphrase": "one two\r\n", "password": "three"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := sshOptions(&config.SSH{
		Host: "[fd00::1]", Port: 22, User: "u", Key: "k", PassphraseFile: folder + "/passphrase", PasswordFile: folder + "/password", KnownHosts: "/h", BecomeRoot: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := run.SSHOptions{
		Host: "fd00::1", Port: 22, User: "u", Key: []byte("k"), Passphrase: "one two", Password: "three", KnownHosts: "/h", BecomeRoot: true,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(run.SSHOptions{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
