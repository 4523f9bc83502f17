// Package times is what the command datasets tells the bench.
package times

// Results are milliseconds, one for each volume or dataset made: volumes with few and with
// many others there, and datasets by zfs create alone, with few.
type Results struct{ Few, Many, Plain []float64 }
