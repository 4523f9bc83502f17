// Package volume is Berth's domain: what a volume is, what a backend that makes
// volumes has to promise, and the Manager, which is the only way in for a front
// end. It knows neither Kubernetes nor commands.
package volume
