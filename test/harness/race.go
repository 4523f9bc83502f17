//go:build race

package harness

// raceDetector says that the tests have it. Programs under test are then built with
// it too: what races there are between their parts comes to light in them only.
const raceDetector = true
