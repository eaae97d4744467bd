"""The command line: its programs are run, and what they print is read."""
