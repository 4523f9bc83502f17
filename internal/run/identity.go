package run

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// authMethods are the ways in which Berth says who it is. The key is read here, once: taking off
// its passphrase is made slow on purpose.
func authMethods(o SSHOptions) ([]ssh.AuthMethod, error) {
	var methods []ssh.AuthMethod
	key, name := o.Key, "the private key"
	if o.KeyFile != "" {
		var err error
		if key, err = os.ReadFile(o.KeyFile); err != nil {
			return nil, fmt.Errorf("the private key for %s: %w", o.Host, err)
		}
		name = o.KeyFile
	}
	if len(key) > 0 {
		signer, err := parseKey(key, o.Passphrase)
		if err != nil {
			return nil, fmt.Errorf("%s, for %s: %w", name, o.Host, err)
		}
		methods = append(methods, ssh.PublicKeys(signer))
	}
	if o.Password != "" {
		methods = append(methods, ssh.Password(o.Password), ssh.KeyboardInteractive(
			func(_, _ string, questions []string, echos []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range questions {
					if !echos[i] { // what is not to be seen is the password
						answers[i] = o.Password
					}
				}
				return answers, nil
			}))
	}
	if len(methods) == 0 {
		return nil, fmt.Errorf("there is neither a private key nor a password for %s@%s", o.User, o.Host)
	}
	return methods, nil
}

func parseKey(key []byte, passphrase string) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(key)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); !locked {
		return signer, err
	}
	if passphrase == "" {
		return nil, errors.New("it has a passphrase, and none is given")
	}
	return ssh.ParsePrivateKeyWithPassphrase(key, []byte(passphrase))
}

// hostKeys gives the kinds of keys that the file knows of the host at address, so that it
// shows one of these, and what checks the key that it shows. Certificates of hosts
// are not asked for.
func hostKeys(file, address string) (algorithms []string, check ssh.HostKeyCallback, err error) {
	known, err := knownhosts.New(file)
	if errors.Is(err, fs.ErrNotExist) {
		known, err = knownhosts.New() // the host's line is still to be told
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the keys of known hosts: %w", err)
	}
	check = func(host string, remote net.Addr, key ssh.PublicKey) error {
		return explain(known(host, remote, key), file, host, key)
	}
	wrong, _ := errors.AsType[*knownhosts.KeyError](known(address, &net.TCPAddr{}, noKey{}))
	for _, a := range []struct{ kind, algorithm string }{ // best first
		{ssh.KeyAlgoED25519, ssh.KeyAlgoED25519},
		{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA256},
		{ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA384},
		{ssh.KeyAlgoECDSA521, ssh.KeyAlgoECDSA521},
		{ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA512},
		{ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA256},
	} {
		isKnown := func(k knownhosts.KnownKey) bool { return k.Key.Type() == a.kind }
		if wrong == nil || len(wrong.Want) == 0 || slices.ContainsFunc(wrong.Want, isKnown) {
			algorithms = append(algorithms, a.algorithm)
		}
	}
	return algorithms, check, nil
}

// explain says what to do about a key that is not the one that is known.
func explain(err error, file, host string, key ssh.PublicKey) error {
	wrong, ok := errors.AsType[*knownhosts.KeyError](err)
	if !ok {
		return err
	}
	line := knownhosts.Line([]string{host}, key)
	if len(wrong.Want) == 0 {
		return fmt.Errorf("the key of this host is not in %s. Its fingerprint is %s: if `ssh-keygen -lf` says the same of a key in /etc/ssh on the host itself, add this line to the file:\n%s",
			file, ssh.FingerprintSHA256(key), line)
	}
	w := wrong.Want[0]
	return fmt.Errorf("this host shows another key (%s) than the one in %s, line %d: it is another host, or there is somebody in between, or it was set up anew. In the last case, and only then, replace that line by\n%s",
		ssh.FingerprintSHA256(key), w.Filename, w.Line, line)
}

// noKey is a key that no host has: asking for it tells which ones are known.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
