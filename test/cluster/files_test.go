package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
)

func TestCertificatesAreTrusted(t *testing.T) {
	authority, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	both, err := authority.sign(pkix.Name{CommonName: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	config, err := authority.clientConfig(both)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: config.Certificates, ClientCAs: config.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()

	client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	answer, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()

	stranger, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if config, err = stranger.clientConfig(both); err != nil {
		t.Fatal(err)
	}
	client.Transport = &http.Transport{TLSClientConfig: config}
	if answer, err := client.Get(server.URL); err == nil {
		answer.Body.Close()
		t.Error("a client that trusts another authority trusts the server")
	}
}

func TestServiceAccountKeyStays(t *testing.T) {
	path := t.TempDir() + "/sa.key"
	var keys [2][]byte
	for i := range keys {
		if err := ensureServiceAccountKey(path); err != nil {
			t.Fatal(err)
		}
		var err error
		if keys[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(keys[0], keys[1]) {
		t.Error("the second start made a new key")
	}
}

func TestPortsAreKept(t *testing.T) {
	first, err := newPort()
	if err != nil {
		t.Fatal(err)
	}
	defer first.release()
	second, err := newPort()
	if err != nil {
		t.Fatal(err)
	}
	defer second.release()
	if first.number == 0 || first.number == second.number {
		t.Errorf("the ports are %d and %d", first.number, second.number)
	}
	if answer, err := http.Get("http" + first.url()[len("https"):]); err == nil {
		answer.Body.Close()
		t.Error("a port that is only kept answers")
	}
}

func TestShellQuote(t *testing.T) {
	for _, text := range []string{"", "plain", "a b", "it's", `$HOME "x" \`} {
		got, err := exec.Command("sh", "-c", "printf %s "+shellQuote(text)).Output()
		if err != nil || string(got) != text {
			t.Errorf("the shell reads %q as %q, %v", text, got, err)
		}
	}
}
