// Package wire is what a test's process and the agent in its guest say to each
// other: one TCP connection for each command, encoded by encoding/gob. The host
// sends a Command and then its standard input; the agent sends the output and,
// last, the Exit. A closed connection ends the command.
package wire

// Port is where the agent listens in the guest.
const Port = 1023

// Where the guest finds things of the host.
const (
	// Share is the folder in the guest that it shares with the host.
	Share = "/host"
	// Agent is the agent's file, below Share.
	Agent = "agent"
)

// Variables that the guest's kernel gets on its command line and gives to the
// first process, as the kernel does with all that it does not know.
const (
	ShareVariable   = "VM_SHARE"   // the folder of the host that Share shows
	AddressVariable = "VM_ADDRESS" // the guest's address, as in 10.0.0.2/30
	GatewayVariable = "VM_GATEWAY" // the host's address
)

// Command is a program to run.
type Command struct {
	Args []string
	Env  []string // added to the agent's own
	Dir  string   // the folder to run in; "" is /
}

// The streams of a command.
const (
	Stdin = iota
	Stdout
	Stderr
)

// Frame is a piece of a stream or, as the agent's last word, how the command ended.
type Frame struct {
	Stream int
	Data   []byte // none ends the standard input
	Exit   *Exit
}

// Exit is how a command ended.
type Exit struct {
	Code   int    // -1 if it did not end by itself
	Signal string // what killed it, if something did
	Error  string // why it could not be started
}
