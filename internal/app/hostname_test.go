package app

import "testing"

// hosts(5) of every system has localhost in it.
func TestFullName(t *testing.T) {
	if name, err := fullName("localhost"); name == "" || err != nil {
		t.Errorf("localhost is %q, error %v", name, err)
	}
	if name, err := fullName("no such host"); err == nil {
		t.Errorf("what cannot be a host is %q", name)
	}
	h, err := ThisHost()
	if h.Name == "" || err != nil {
		t.Errorf("this host is %q, error %v", h.Name, err)
	}
}
