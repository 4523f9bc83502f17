// Package adopt takes over the volumes that another program made, so that Berth can
// take its place. It reads what that program left on the disk and what the
// PersistentVolumes say, decides which volumes are certainly what they seem to be, and
// has a record written for each of them. From then on only the record counts.
//
// Nothing of the other program is trusted further than it can be checked: the text of a
// PersistentVolume is a key to look things up by, and configuration is read, never
// copied. What does not fit together is left alone and told of.
package adopt
