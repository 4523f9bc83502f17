//go:build !race

package harness

const raceDetector = false // see race.go
