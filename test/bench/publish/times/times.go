// Package times is what the command publish tells the bench.
package times

// Times are milliseconds, one for each call.
type Times struct{ Publish, Withdraw []float64 }

// Results are those with few and with many exports.
type Results struct{ Few, Many Times }
