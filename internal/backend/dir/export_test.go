package dir

// ParseRecord is for the fuzz test.
var ParseRecord = parseRecord
