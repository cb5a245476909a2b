"""The commands, one file a group: parse, call the library, print."""
